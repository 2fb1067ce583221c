//! What a person sees who starts the server: the banner on a terminal, the browser, Ctrl-C.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use crate::terminal::{CTRL_C, Session};
use crate::util::{Folder, signal, spawn};

/// A desktop on which this shell script is what opens URLs.
fn desktop(folder: &Folder, opener: &str) -> Vec<(&'static str, String)> {
    use std::os::unix::fs::PermissionsExt;
    let bin = folder.path("bin");
    std::fs::create_dir(&bin).expect("a folder");
    let program = folder.write("bin/xdg-open", format!("#!/bin/sh\n{opener}\n"));
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its rights");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    vec![("CI", String::new()), ("DISPLAY", ":0".into()), ("PATH", path)]
}

fn start(folder: &Folder, columns: u16, args: &[&str], variables: &[(&str, String)]) -> Session {
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let args = [&["--port", "0"], args].concat();
    Session::sized(folder, Path::new(env!("CARGO_BIN_EXE_gemma2")), columns, &args, &variables)
}

/// Stops it; the lines that were on the screen.
#[track_caller]
fn stopped(mut server: Session) -> Vec<String> {
    server.wait_for("stop     press Ctrl-C here");
    server.keys(CTRL_C);
    server.wait_for("stopping; Ctrl-C again quits at once\nstopped\n");
    server.ends(0).lines()
}

fn url_in(lines: &[String]) -> String {
    let line = lines.iter().find_map(|line| line.strip_prefix("chat     ")).expect("the URL");
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn the_banner_tells_what_runs_where_and_opens_it() {
    let folder = Folder::new();
    let desktop = desktop(&folder, "echo \"$1\" >> opened");
    let lines = stopped(start(&folder, 80, &[], &desktop));
    let url = url_in(&lines);
    let labels = ["gemma2 ", "model    ", "context  ", "device   CPU, ", "chat     http://127.0.0.1:", "stop     "];
    let found: Vec<usize> = labels
        .iter()
        .map(|label| {
            lines.iter().position(|line| line.starts_with(label)).unwrap_or_else(|| panic!("{label}: {lines:?}"))
        })
        .collect();
    assert!(found.is_sorted(), "{lines:?}");
    assert!(lines.contains(&format!("chat     {url}     (opened in your browser)")), "{lines:?}");
    assert!(lines.iter().any(|line| line.ends_with(" (built in)")), "{lines:?}");
    assert!(lines.contains(&"context  512 of 2048 tokens     -c 0 uses all 2048".to_owned()), "{lines:?}");
    assert!(lines[0].starts_with("DEMO MODEL: tiny; it only shows that everything works."), "{lines:?}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
    assert_eq!(std::fs::read_to_string(folder.path("opened")).expect("the URL"), format!("{url}\n"), "once");
}

#[test]
fn on_a_narrow_terminal_lines_break_between_words() {
    let folder = Folder::new();
    let lines = stopped(start(&folder, 40, &["--no-mmap"], &[]));
    assert!(lines.iter().all(|line| line.chars().count() <= 40), "{lines:?}");
    let model = lines.iter().position(|line| line.starts_with("model    ")).expect("the model");
    assert!(lines[model + 1].starts_with("         "), "{lines:?}");
}

#[test]
fn a_browser_that_does_not_come_is_one_line() {
    let folder = Folder::new();
    let desktop = desktop(&folder, "exit 3");
    let lines = stopped(start(&folder, 80, &[], &desktop));
    let url = url_in(&lines);
    assert!(
        lines.contains(&format!("chat     {url}")) && lines.contains(&format!("Open {url} in a browser.")),
        "{lines:?}"
    );
    let lines = stopped(start(&folder, 80, &["--nobrowser"], &desktop));
    assert!(!lines.iter().any(|line| line.contains("browser")), "{lines:?}");
}

#[test]
fn without_a_display_the_way_from_another_computer_is_told() {
    let folder = Folder::new();
    for place in
        [&[("CI", String::new())][..], &[("CI", String::new()), ("SSH_CONNECTION", "192.0.2.7 1 192.0.2.8 22".into())]]
    {
        let lines = stopped(start(&folder, 80, &[], place));
        let url = url_in(&lines);
        let port = url.trim_end_matches('/').rsplit(':').next().expect("a port");
        let tunnel = format!("From another computer: ssh -L {port}:127.0.0.1:{port} USER@HOST");
        assert!(lines.contains(&tunnel) && lines.contains(&format!("Open {url} in a browser.")), "{lines:?}");
    }
    let lines = stopped(start(&folder, 80, &[], &[]));
    assert!(!lines.iter().any(|line| line.contains("another computer")), "nobody reads this in CI: {lines:?}");
}

#[test]
fn loading_is_a_bar_on_a_terminal_and_lines_elsewhere() {
    let folder = Folder::new();
    let lines_of = |variables: &[(&str, String)]| {
        let mut server = start(&folder, 80, &["--no-mmap"], variables);
        server.wait_for("stop     press Ctrl-C here");
        server.keys(CTRL_C);
        server.ends(0)
    };
    let drawn = lines_of(&[]);
    assert!(drawn.text().contains("loading  ") && drawn.text().contains(" MB   "), "{}", drawn.text());
    assert!(!drawn.lines().iter().any(|line| line.contains("loading")), "it is erased: {:?}", drawn.lines());
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let lines = lines_of(&[(variable.0, variable.1.into())]).lines();
        let told: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("loading ")).collect();
        assert_eq!(told, ["25 %", "50 %", "75 %", "100 %"], "{variable:?}");
    }
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_replies() {
    let folder = Folder::new();
    let mut server = start(&folder, 80, &["-c", "0"], &[]);
    server.wait_for("stop     press Ctrl-C here");
    let url = url_in(&server.lines());
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut reply = TcpStream::connect(address).expect("a connection");
    let body = r#"{"prompt": "x", "stream": true, "n_predict": 100000, "ignore_eos": true}"#;
    write!(reply, "POST /completion HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .expect("a request");
    reply.read_exact(&mut [0; 64]).expect("the beginning of a reply");
    server.keys(CTRL_C);
    server.wait_for("stopping; Ctrl-C again quits at once");
    server.keys(CTRL_C);
    server.ends(130);
}

#[test]
fn a_server_for_the_network_warns_and_tells_its_address() {
    let folder = Folder::new();
    let mut child = spawn(folder.program().args(["--server", "--port", "0", "--host", "0.0.0.0"]));
    let mut url = [0; 8];
    child.stdout.as_mut().expect("stdout").read_exact(&mut url).expect("the URL");
    signal(&child, "TERM");
    let run = crate::util::finish(child).expect(0);
    assert!(
        run.stderr.contains("over the network can use this program; `--api-key` protects the API"),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("ssh -L"), "{}", run.stderr);
}
