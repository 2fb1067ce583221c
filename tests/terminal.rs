//! What a person at a terminal sees: the program under a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};

use crate::cli::answer;
use crate::util::Folder;

/// Nothing takes as long; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(120);
pub const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_J: &str = "\n";
const CTRL_R: &str = "\x12";
const UP: &str = "\x1b[A";

/// The program in a terminal of 24 lines. What is typed while it does not read lines is not edited: each test waits for
/// the end of what it has begun.
pub struct Session {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// All that was written.
    raw: Vec<u8>,
    /// Bytes of [`Session::text`] that a wait has gone past.
    seen: usize,
}

impl Session {
    fn start(folder: &Folder, args: &[&str], variables: &[(&str, &str)]) -> Session {
        Session::of(folder, Path::new(env!("CARGO_BIN_EXE_gemma2")), args, variables)
    }

    fn of(folder: &Folder, program: &Path, args: &[&str], variables: &[(&str, &str)]) -> Session {
        Session::sized(folder, program, 80, args, variables)
    }

    /// So many columns wide.
    pub fn sized(folder: &Folder, program: &Path, columns: u16, args: &[&str], variables: &[(&str, &str)]) -> Session {
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a pseudo-terminal");
        let slave = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        // Ctrl-C needs a controlling terminal, which a new session takes.
        let mut command = folder.command(Path::new("setsid"));
        command.args(["--ctty", "--wait"]).arg(program).args(args);
        for name in ["DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "WSL_DISTRO_NAME", "NO_COLOR"] {
            command.env_remove(name);
        }
        command.env("TERM", "xterm-256color").envs(variables.iter().copied());
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("setsid of util-linux");
        drop(command);
        drop(pty.slave);
        let keyboard = File::from(pty.master);
        let mut display = keyboard.try_clone().expect("a descriptor");
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of a pseudo-terminal is an error on Linux.
            while let Ok(n @ 1..) = display.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Session { child, keyboard, screen, raw: Vec::new(), seen: 0 }
    }

    /// Types at the prompt.
    fn at_prompt(&mut self, keys: &str) {
        self.wait_for(">>> ");
        self.keys(keys);
    }

    pub fn keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("to type");
    }

    /// Waits until this is on the screen, after all that was waited for before.
    #[track_caller]
    pub fn wait_for(&mut self, wanted: &str) {
        let start = Instant::now();
        loop {
            let text = self.text();
            if let Some(at) = text[self.seen..].find(wanted) {
                self.seen += at + wanted.len();
                return;
            }
            let Ok(bytes) = self.screen.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) else {
                panic!("{wanted:?} does not come after: {:?}", &text[self.seen..]);
            };
            self.raw.extend(bytes);
        }
    }

    /// What was written, without escape sequences and carriage returns.
    pub fn text(&self) -> String {
        let raw = String::from_utf8_lossy(&self.raw);
        let mut out = String::new();
        let mut rest = raw.as_ref();
        while let Some(at) = rest.find('\x1b') {
            out += &rest[..at];
            rest = &rest[at + 1..];
            let is_end = |c: char| match raw.as_bytes().get(raw.len() - rest.len()) {
                Some(b']') => c == '\x07',
                _ => c.is_ascii_alphabetic(),
            };
            rest = rest.find(is_end).map_or("", |end| &rest[end + 1..]);
        }
        (out + rest).replace('\r', "")
    }

    /// The lines as they are when all has been written: what was erased is gone.
    pub fn lines(&self) -> Vec<String> {
        let raw = String::from_utf8_lossy(&self.raw);
        let shown = raw.split('\n').map(|line| line.rsplit("\r\x1b[K").next().unwrap_or_default());
        shown.map(|line| line.trim_end_matches('\r').to_owned()).collect()
    }

    fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    /// Waits for the end, with this status; all that was on the screen.
    #[track_caller]
    pub fn ends(mut self, status: i32) -> Session {
        while let Ok(bytes) = self.screen.recv_timeout(PATIENCE) {
            self.raw.extend(bytes);
        }
        let ended = self.child.wait().expect("its end");
        assert_eq!(ended.code(), Some(status), "{}", self.text());
        self
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SHORT: [&str; 7] = ["-q", "--chat", "--temp", "0", "-n", "8", "--stats"];

#[test]
fn a_chat_in_a_terminal_answers_and_ends_with_ctrl_d() {
    let folder = Folder::new();
    let expected = answer(&folder, &["-p", "Hi"]);
    let mut chat = Session::start(&folder, &SHORT, &[]);
    chat.at_prompt("Hi\r");
    chat.wait_for(expected.trim_end());
    chat.wait_for("decode 8 tok");
    chat.at_prompt(CTRL_D);
    chat.ends(0);
}

#[test]
fn ctrl_c_clears_a_line_stops_a_reply_and_never_leaves() {
    let folder = Folder::new();
    let start = answer(&folder, &["-p", "Hi", "--ignore-eos"]);
    let mut chat = Session::start(&folder, &["--chat", "--temp", "0", "-c", "0", "--ignore-eos"], &[]);
    chat.at_prompt(CTRL_C);
    chat.wait_for("Ctrl-D or /exit leaves");
    chat.at_prompt("/no such");
    chat.wait_for("/no such");
    chat.keys(CTRL_C);
    chat.at_prompt("Hi\r");
    chat.wait_for(start.trim_end());
    chat.keys(CTRL_C);
    chat.wait_for("stopped; /continue goes on");
    chat.at_prompt("/save chat.json\r");
    chat.wait_for("saved in");
    chat.at_prompt("/exit\r");
    let text = chat.ends(0).text();
    assert!(!text.contains("is no command"), "the cleared line was not sent: {text}");
    assert_eq!(text.matches("Ctrl-D or /exit leaves").count(), 1, "{text}");
    let saved = std::fs::read_to_string(folder.path("chat.json")).expect("the file");
    assert!(saved.contains("\"status\": \"stopped\""), "the partial reply is kept: {saved}");
}

#[test]
fn a_message_may_have_several_lines() {
    let folder = Folder::new();
    let mut chat = Session::start(&folder, &["-q", "--chat", "-n", "1", "-c", "0", "--stats"], &[]);
    let messages = [
        (format!("one{CTRL_J}two\r"), "one\ntwo"),
        ("one\\\rthree\r".into(), "one\nthree"),
        ("\"\"\"\rone\r/four\r\"\"\"\r".into(), "one\n/four"),
        ("\x1b[200~one\\\rfive\x1b[201~\r".into(), "one\\\nfive"),
    ];
    for (keys, expected) in messages {
        chat.at_prompt(&keys);
        chat.wait_for("decode 1 tok");
        chat.at_prompt("/prompt\r");
        chat.wait_for(&format!("<start_of_turn>user\n{expected}<end_of_turn>"));
        chat.wait_for("tokens)");
    }
    chat.at_prompt(CTRL_D);
    chat.ends(0);
}

#[test]
fn tab_completes_commands_and_a_mistyped_one_is_answered() {
    let folder = Folder::new();
    let mut chat = Session::start(&folder, &SHORT, &[]);
    chat.at_prompt("/und\t\r");
    chat.wait_for("nothing to take back");
    chat.at_prompt("/regne\r");
    chat.wait_for("did you mean /regen?");
    chat.at_prompt("/help sav\t\r");
    chat.wait_for("write the chat into a file");
    chat.at_prompt("/exit\r");
    chat.ends(0);
}

#[test]
fn what_was_typed_is_remembered_in_a_private_file_unless_it_must_not() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let history = folder.path("state/gemma2/chat-history");
    let mut chat = Session::start(&folder, &[&SHORT[..], &["--no-history"]].concat(), &[]);
    chat.at_prompt("/tokens secret\r");
    chat.wait_for("tokens\n");
    chat.at_prompt(CTRL_D);
    chat.ends(0);
    assert!(!history.exists());
    let mut chat = Session::start(&folder, &SHORT, &[]);
    chat.at_prompt("/tokens first\r");
    chat.wait_for("tokens\n");
    chat.at_prompt("/context\r");
    chat.wait_for("of 512 tokens");
    chat.at_prompt(CTRL_D);
    chat.ends(0);
    let mode = std::fs::metadata(&history).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut chat = Session::start(&folder, &SHORT, &[]);
    chat.at_prompt(&format!("{UP}\r"));
    chat.wait_for("of 512 tokens");
    chat.at_prompt(&format!("{CTRL_R}fir"));
    chat.wait_for("/tokens first");
    chat.keys("\r");
    chat.wait_for("tokens\n");
    chat.at_prompt(CTRL_D);
    chat.ends(0);
}

/// A reply of these characters only.
fn forced(folder: &Folder, piece: &str) -> String {
    let listed = folder.run(&["tokenize", "--no-bos", piece]).expect(0).stdout;
    let id = listed.split_whitespace().next().expect("a token");
    format!("{id}+1000")
}

#[test]
fn markdown_is_colored_unless_colors_are_not_wanted() {
    let folder = Folder::new();
    let bias = forced(&folder, "#");
    let args = ["-q", "--chat", "--temp", "0", "-n", "3", "--stats", "--logit-bias", &bias];
    let screen = |more: &[&str], variables: &[(&str, &str)]| {
        let mut chat = Session::start(&folder, &[&args[..], more].concat(), variables);
        chat.at_prompt("Hi\r");
        chat.wait_for("###");
        chat.wait_for("decode 3 tok");
        chat.at_prompt(CTRL_D);
        chat.ends(0).raw()
    };
    assert!(screen(&[], &[]).contains("\x1b[1;34m###\x1b[0m"));
    for raw in [screen(&["--no-markdown"], &[]), screen(&[], &[("NO_COLOR", "1")])] {
        assert!(!raw.contains("\x1b[1;34m"), "{raw:?}");
    }
    let dumb = screen(&["--ascii"], &[("TERM", "dumb")]);
    assert!(!dumb.contains('\x1b') && dumb.is_ascii(), "{dumb:?}");
}

#[test]
fn a_reply_is_copied_through_the_terminal() {
    let folder = Folder::new();
    let bias = forced(&folder, "#");
    let mut chat = Session::start(&folder, &[&SHORT[..], &["-n", "3", "--logit-bias", &bias]].concat(), &[]);
    chat.at_prompt("/copy\r");
    chat.wait_for("there is no reply yet");
    chat.at_prompt("Hi\r");
    chat.wait_for("decode 3 tok");
    chat.at_prompt("/copy\r");
    chat.wait_for("handed to the terminal");
    chat.at_prompt(CTRL_D);
    let raw = chat.ends(0).raw();
    assert!(raw.contains("\x1b]52;c;IyMj\x07"), "{raw:?}");
}

#[test]
fn a_full_context_offers_three_ways_out() {
    let folder = Folder::new();
    let long = "word ".repeat(50);
    let mut chat = Session::start(&folder, &["-q", "--chat", "--temp", "0", "-c", "128", "-n", "4", "--stats"], &[]);
    chat.at_prompt(&format!("first {long}\r"));
    chat.wait_for("decode");
    // Not now: the message is taken back.
    chat.at_prompt(&format!("second {long}\r"));
    chat.wait_for("the context is full");
    chat.wait_for("`gemma2 --chat -c 0`");
    chat.wait_for("1, 2 or 3: ");
    chat.keys("3\r");
    chat.at_prompt("/prompt\r");
    chat.wait_for("user\nfirst word");
    chat.wait_for("tokens)");
    // Without the oldest turn.
    chat.at_prompt(&format!("third {long}\r"));
    chat.wait_for("1, 2 or 3: ");
    chat.keys("1\r");
    chat.wait_for("decode");
    chat.at_prompt("/prompt\r");
    chat.wait_for("<bos><start_of_turn>user\nthird word");
    chat.wait_for("tokens)");
    // A new chat with the last answer.
    chat.at_prompt(&format!("fourth {long}\r"));
    chat.wait_for("1, 2 or 3: ");
    chat.keys("2\r");
    chat.wait_for("decode");
    chat.at_prompt("/prompt\r");
    chat.wait_for("<bos><start_of_turn>user\n> ");
    chat.wait_for("\n\nfourth word");
    chat.wait_for("tokens)");
    chat.at_prompt("/exit\r");
    chat.ends(0);
}

#[test]
fn the_last_message_can_be_edited() {
    let folder = Folder::new();
    let mut chat = Session::start(&folder, &SHORT, &[]);
    chat.at_prompt("Hi\r");
    chat.wait_for("decode 8 tok");
    chat.at_prompt("/edit\r");
    chat.wait_for(">>> Hi");
    chat.keys(" there\r");
    chat.wait_for("decode 8 tok");
    chat.at_prompt("/prompt\r");
    chat.wait_for("user\nHi there<end_of_turn>");
    chat.at_prompt(CTRL_D);
    chat.ends(0);
}

#[test]
fn several_models_beside_the_program_are_offered() {
    let folder = Folder::new();
    let program = folder.install("gemma2-here");
    for name in ["a.gguf", "b.gguf"] {
        std::fs::copy(crate::util::demo_model(), folder.path(name)).expect("a copy");
    }
    let mut chat = Session::of(&folder, &program, &["--chat", "-v"], &[]);
    chat.wait_for("  1  a.gguf");
    chat.wait_for("  2  b.gguf");
    chat.wait_for("Which model, 1 to 2? ");
    chat.keys("7\n");
    chat.wait_for("Type the number");
    chat.wait_for("Which model, 1 to 2? ");
    chat.keys("2\n");
    chat.wait_for("b.gguf");
    chat.at_prompt(CTRL_D);
    chat.ends(0);
}

#[test]
fn on_a_narrow_terminal_help_breaks_between_words() {
    let folder = Folder::new();
    let mut chat = Session::sized(&folder, Path::new(env!("CARGO_BIN_EXE_gemma2")), 44, &SHORT, &[]);
    chat.at_prompt("/help\r");
    chat.wait_for("find what was typed\nbefore.");
    chat.at_prompt(CTRL_D);
    let lines = chat.ends(0).lines();
    let at = lines.iter().position(|line| line.starts_with("/file PATH ")).expect("a command");
    assert!(lines[at + 1].starts_with("                    "), "it stays beside the command: {lines:?}");
    assert!(lines[at..at + 8].iter().all(|line| line.chars().count() <= 44), "{lines:?}");
}

#[test]
fn wide_characters_are_typed_edited_and_sent() {
    let folder = Folder::new();
    let mut chat = Session::sized(&folder, Path::new(env!("CARGO_BIN_EXE_gemma2")), 20, &SHORT, &[]);
    let long = "模型".repeat(20);
    // To the start of the line and back, across the lines that it takes; and one character is taken away.
    chat.at_prompt(&format!("{long}🎉\x01!\x05?\x7f\r"));
    chat.wait_for("decode");
    chat.at_prompt("/prompt\r");
    chat.wait_for(&format!("user\n!{long}🎉<end_of_turn>"));
    chat.wait_for("tokens)");
    chat.at_prompt(CTRL_D);
    chat.ends(0);
}
