//! stdout for results, stderr for everything else; neither ever makes the program panic.

use std::io::{self, IsTerminal, Write};

use super::error::CliError;

/// Who is listening on each stream, and how much they want to hear.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// A person reads stdout.
    pub stdout_is_terminal: bool,
    /// A person reads stderr.
    pub stderr_is_terminal: bool,
    /// A person types on stdin.
    pub stdin_is_terminal: bool,
    /// Lines on stderr may be overwritten: a terminal that is not `dumb`.
    pub has_cursor: bool,
    /// Only errors on stderr.
    pub is_quiet: bool,
    /// Details on stderr.
    pub is_verbose: bool,
}

impl Terminal {
    /// What the streams are.
    pub fn detect() -> Terminal {
        let stderr_is_terminal = io::stderr().is_terminal();
        Terminal {
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal,
            stdin_is_terminal: io::stdin().is_terminal(),
            has_cursor: stderr_is_terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
            is_quiet: false,
            is_verbose: false,
        }
    }

    /// A line on stderr, unless `-q`. A closed stderr is no reason to stop.
    pub fn note(&self, line: impl AsRef<str>) {
        if !self.is_quiet {
            error_line(line.as_ref());
        }
    }

    /// A line on stderr, with `-v`.
    pub fn detail(&self, line: impl AsRef<str>) {
        if self.is_verbose {
            error_line(line.as_ref());
        }
    }

    /// Overwrites the last such line on stderr; empty text erases it. Nothing without a cursor.
    pub fn status(&self, text: &str) {
        if self.has_cursor && !self.is_quiet {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{text}");
            let _ = stderr.flush();
        }
    }
}

/// A line on stderr, come what may.
pub fn error_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes to stdout and flushes.
///
/// # Errors
/// [`CliError::Output`], also when the reader has closed the pipe.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CliError::Output)
}

/// A prompt on stderr, without a line's end.
pub fn prompt(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{text}");
    let _ = stderr.flush();
}
