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
    /// The terminal understands escape sequences: `TERM` is not `dumb`.
    pub is_smart: bool,
    /// Colors are welcome: the terminal is smart and `NO_COLOR` is not set.
    pub has_color: bool,
    /// Only ASCII in what this program itself says.
    pub is_ascii: bool,
    /// Only errors on stderr.
    pub is_quiet: bool,
    /// Details on stderr.
    pub is_verbose: bool,
}

impl Terminal {
    /// What the streams are.
    pub fn detect() -> Terminal {
        let stderr_is_terminal = io::stderr().is_terminal();
        let is_smart = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Terminal {
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal,
            stdin_is_terminal: io::stdin().is_terminal(),
            has_cursor: stderr_is_terminal && is_smart,
            is_smart,
            // https://no-color.org: set and not empty.
            has_color: is_smart && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            is_ascii: false,
            is_quiet: false,
            is_verbose: false,
        }
    }

    /// A line on stderr, unless `-q`. A closed stderr is no reason to stop.
    pub fn note(&self, line: impl AsRef<str>) {
        if !self.is_quiet {
            self.tell(line);
        }
    }

    /// A line on stderr, with `-v`.
    pub fn detail(&self, line: impl AsRef<str>) {
        if self.is_verbose {
            self.tell(line);
        }
    }

    /// A line on stderr, also with `-q`: what was asked for.
    pub fn tell(&self, line: impl AsRef<str>) {
        error_line(&self.plain(line.as_ref()));
    }

    /// Overwrites the last such line on stderr; empty text erases it. Nothing without a cursor.
    pub fn status(&self, text: &str) {
        if self.has_cursor && !self.is_quiet {
            // A line that wraps could not be overwritten.
            let n_columns = width().saturating_sub(1);
            let text: String = self.plain(text).chars().take(n_columns).collect();
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{text}");
            let _ = stderr.flush();
        }
    }

    /// Whether lines can be edited: a person types on a terminal that can be drawn on.
    pub fn can_edit(&self) -> bool {
        self.stdin_is_terminal && self.is_smart
    }

    /// `██████░░░░  60 %`, and what `--ascii` makes of it.
    pub fn bar(&self, done: u64, total: u64) -> String {
        const N_CELLS: u64 = 20;
        let total = total.max(1);
        let share = |of: u64| (u128::from(done.min(total)) * u128::from(of) / u128::from(total)) as usize;
        let n_full = share(N_CELLS);
        format!("{}{} {:3} %", "█".repeat(n_full), "░".repeat(N_CELLS as usize - n_full), share(100))
    }

    /// The text, with `--ascii` without the characters beyond ASCII that this program uses itself.
    fn plain(&self, text: &str) -> String {
        if !self.is_ascii {
            return text.to_owned();
        }
        let replaced = text.chars().map(|c| match c {
            '█' => "#".into(),
            '░' => ".".into(),
            '·' => "|".into(),
            '×' => "x".into(),
            '…' => "...".into(),
            c => c.to_string(),
        });
        replaced.collect()
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

/// Columns of the terminal that stderr is; 80 where that cannot be told.
fn width() -> usize {
    terminal_size::terminal_size_of(io::stderr()).map_or(80, |(width, _)| usize::from(width.0))
}

/// The text with control characters made visible, but for tabs and line ends: what a model writes must not move the
/// cursor or change the terminal.
pub fn without_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// A prompt on stderr, without a line's end.
pub fn prompt(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "{text}");
    let _ = stderr.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_and_have_an_ascii_form() {
        let terminal = Terminal { is_ascii: false, ..Terminal::detect() };
        assert_eq!(terminal.bar(1, 2), format!("{}{}  50 %", "█".repeat(10), "░".repeat(10)));
        assert_eq!(terminal.bar(9, 2), format!("{} 100 %", "█".repeat(20)));
        assert_eq!(terminal.bar(0, 0), format!("{}   0 %", "░".repeat(20)));
        let ascii = Terminal { is_ascii: true, ..terminal };
        assert_eq!(ascii.plain("█░ a · b × c … ä"), "#. a | b x c ... ä");
    }

    #[test]
    fn control_characters_of_a_model_are_shown_and_not_obeyed() {
        assert_eq!(without_controls("a\tb\n\u{1b}[2J\r\u{9b}"), "a\tb\n\\u{1b}[2J\\u{d}\\u{9b}");
    }
}
