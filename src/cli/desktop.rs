//! Started by a double-click there may be no terminal: then an error is shown as a page. Or, on Windows, one that closes with
//! the program: then it stays until somebody has read it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use super::browser;
use super::console;
use super::error::CliError;
use super::terminal::{Terminal, prompt};
use crate::error::render;

/// Tells the error on stderr, and where nobody can read that, in a browser. `has_arguments` is about the command line: a
/// double-click gives none.
pub fn report(error: &CliError, has_arguments: bool) {
    let text = render(error);
    let terminal = Terminal::detect();
    terminal.explain(&text);
    if closes_at_once(&terminal, console::n_programs()) {
        prompt("\nPress Enter to close ");
        let _ = std::io::stdin().read_line(&mut String::new());
    } else if needs_page(&terminal, has_arguments, |name| std::env::var_os(name))
        && let Some(path) = write_page(&text)
    {
        browser::open(&format!("file://{}", path.display()));
    }
}

/// The console was opened for this program alone, and somebody sees it.
fn closes_at_once(terminal: &Terminal, n_programs: Option<u32>) -> bool {
    n_programs == Some(1) && terminal.stdin_is_terminal && terminal.stderr_is_terminal
}

/// No stream is a terminal, nothing was typed, and there is a display.
fn needs_page(terminal: &Terminal, has_arguments: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let has_terminal = terminal.stdin_is_terminal || terminal.stdout_is_terminal || terminal.stderr_is_terminal;
    !has_terminal && !has_arguments && browser::can_open(variable).is_ok()
}

fn write_page(text: &str) -> Option<PathBuf> {
    let path = std::env::temp_dir().join(format!("gemma2-error-{}.html", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&path).and_then(|mut file| file.write_all(page(text).as_bytes())).ok()?;
    Some(path)
}

/// A page without scripts and without anything to load.
fn page(text: &str) -> String {
    let mut lines = String::new();
    for line in text.lines() {
        let escaped = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(lines, "<p>{escaped}</p>");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>gemma2 did not start</title>\n\
         <style>body {{ max-width: 40rem; margin: 3rem auto; padding: 0 1rem; font: 1rem/1.6 system-ui, sans-serif }}</style>\n\
         </head>\n<body>\n<h1>gemma2 did not start</h1>\n{lines}</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(unix, not(target_os = "macos")))]
    fn a_page_is_for_those_who_see_no_terminal() {
        let none = Terminal {
            stdin_is_terminal: false,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
            ..Terminal::detect()
        };
        let check = |terminal: Terminal, has_arguments, display: Option<&str>| {
            needs_page(&terminal, has_arguments, |name| display.filter(|_| name == "DISPLAY").map(Into::into))
        };
        assert!(check(none, false, Some(":0")));
        assert!(!check(none, true, Some(":0")), "a script reads stderr");
        assert!(!check(none, false, None), "nothing to show it on");
        assert!(!check(Terminal { stderr_is_terminal: true, ..none }, false, Some(":0")));
    }

    #[test]
    fn a_console_that_closes_with_the_program_waits_for_its_reader() {
        let seen = Terminal { stdin_is_terminal: true, stderr_is_terminal: true, ..Terminal::detect() };
        assert!(closes_at_once(&seen, Some(1)), "a double-click");
        assert!(!closes_at_once(&seen, Some(2)), "a shell has the same console");
        assert!(!closes_at_once(&seen, None), "another system");
        assert!(!closes_at_once(&Terminal { stdin_is_terminal: false, ..seen }, Some(1)), "nobody could press a key");
        assert!(!closes_at_once(&Terminal { stderr_is_terminal: false, ..seen }, Some(1)), "nobody sees it");
    }

    #[test]
    fn the_page_shows_the_error_as_text() {
        let page = page("error: `<b>&` is bad\nhint: try");
        assert!(page.contains("<p>error: `&lt;b&gt;&amp;` is bad</p>\n<p>hint: try</p>"), "{page}");
        assert!(!page.contains("<script"));
    }
}
