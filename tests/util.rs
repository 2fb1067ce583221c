//! Runs the program in a folder of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The demo model, as a file of its own.
pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo-model/gemma2-demo-q8_0.gguf")
}

/// A fresh folder; it goes when this is dropped.
pub struct Folder {
    directory: tempfile::TempDir,
}

/// What a run left.
#[derive(Debug)]
pub struct Run {
    /// Exit status; `None` where a signal ended it.
    pub status: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Folder {
    pub fn new() -> Folder {
        Folder { directory: tempfile::tempdir().expect("a folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), content).expect("a file");
        self.path(name)
    }

    /// The program, run in this folder, with nothing of the tester's own settings.
    pub fn program(&self) -> Command {
        self.command(Path::new(env!("CARGO_BIN_EXE_gemma2")))
    }

    /// The same for another program file.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.directory.path()).env_remove("GEMMA2_MODEL").env("CI", "true").stdin(Stdio::null());
        command.env("XDG_STATE_HOME", self.path("state")).env("HOME", self.directory.path());
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, args: &[&str]) -> Run {
        run(self.program().args(args))
    }

    /// Runs the program with this on stdin.
    pub fn run_with_stdin(&self, args: &[&str], stdin: &[u8]) -> Run {
        let mut child = spawn(self.program().args(args).stdin(Stdio::piped()));
        // A program that does not read closes the pipe; that is for the test to judge.
        let _ = child.stdin.take().expect("stdin").write_all(stdin);
        finish(child)
    }

    /// The program's file, under another name in this folder.
    pub fn install(&self, name: &str) -> PathBuf {
        let (from, to) = (env!("CARGO_BIN_EXE_gemma2"), self.path(name));
        if std::fs::hard_link(from, &to).is_err() {
            std::fs::copy(from, &to).expect("a copy of the program");
        }
        to
    }
}

impl Run {
    /// The run, if it ended with this status; otherwise all it said.
    #[track_caller]
    pub fn expect(self, status: i32) -> Run {
        assert_eq!(self.status, Some(status), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Asserts that stderr is an error and a hint with these words in them.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Run {
        assert!(self.stderr.contains("error: ") && self.stderr.contains("\nhint: "), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
        self
    }
}

pub fn run(command: &mut Command) -> Run {
    finish(spawn(command))
}

/// Starts with both outputs piped.
pub fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

pub fn finish(child: Child) -> Run {
    let output = child.wait_with_output().expect("the program ends");
    from_output(&output)
}

fn from_output(output: &Output) -> Run {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    Run { status: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Sends a signal by name, as in `INT`.
#[cfg(unix)]
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.expect("kill").success());
}
