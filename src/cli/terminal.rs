//! stdout for results, stderr for everything else; neither ever makes the program panic.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

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
    /// The terminal understands escape sequences: `TERM` is not `dumb`. Without `TERM`, a Windows console that does.
    pub is_smart: bool,
    /// Colors are welcome: the terminal is smart and `NO_COLOR` is not set.
    pub has_color: bool,
    /// Only ASCII in what this program itself says.
    pub is_ascii: bool,
    /// Only errors on stderr.
    pub is_quiet: bool,
    /// Details on stderr.
    pub is_verbose: bool,
    /// More of them.
    pub is_very_verbose: bool,
}

impl Terminal {
    /// What the streams are.
    pub fn detect() -> Terminal {
        let stderr_is_terminal = io::stderr().is_terminal();
        // Windows' consoles take escape sequences once a program has asked for it, and only old ones refuse. Elsewhere there
        // is nothing to ask, and no answer.
        let is_console = anstyle_query::windows::enable_ansi_colors();
        let is_smart = understands(std::env::var_os("TERM").as_deref(), is_console);
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
            is_very_verbose: false,
        }
    }

    /// A line on stderr, unless `-q`; on a terminal it breaks between words. A closed stderr is no reason to stop.
    pub fn note(&self, line: impl AsRef<str>) {
        if !self.is_quiet {
            self.say(line.as_ref());
        }
    }

    /// The same, with `-v`.
    pub fn detail(&self, line: impl AsRef<str>) {
        if self.is_verbose {
            self.say(line.as_ref());
        }
    }

    /// The same, with `-vv`.
    pub fn trace(&self, line: impl AsRef<str>) {
        if self.is_very_verbose {
            self.say(line.as_ref());
        }
    }

    /// What was asked for, also with `-q`, in lines that fit the terminal.
    pub fn explain(&self, text: &str) {
        self.say(text);
    }

    fn say(&self, line: &str) {
        match self.stderr_is_terminal {
            true => self.tell(wrapped(line, width())),
            false => self.tell(line),
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
            let text = self.plain(text);
            let text = cut(&text, width().saturating_sub(1));
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

/// Whether escape sequences are understood. What sets `TERM` is no console of Windows, or does more than one.
fn understands(term: Option<&OsStr>, console_does: Option<bool>) -> bool {
    match term {
        Some(term) => term != "dumb",
        None => console_does.unwrap_or(true),
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

/// As much of the text as takes this many columns.
pub fn cut(text: &str, n_columns: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, c)| {
        used += c.width().unwrap_or(0);
        used > n_columns
    });
    end.map_or(text, |(end, _)| &text[..end])
}

/// The text with lines of at most this many columns, broken at spaces; longer words stay whole. What follows a label, such
/// as `model    `, stays behind it.
fn wrapped(text: &str, n_columns: usize) -> String {
    let mut out = String::new();
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let rest = line.find("  ").map_or("", |label| line[label..].trim_start());
        let label = line[..line.len() - rest.len()].width();
        let indent = if rest.is_empty() || label > n_columns / 2 { 0 } else { label };
        let (mut at, mut n_spaces) = (0, 0);
        for (number, word) in line.split(' ').enumerate() {
            n_spaces += usize::from(number > 0);
            if word.is_empty() {
                continue;
            }
            if at > indent && at + n_spaces + word.width() > n_columns {
                out.push('\n');
                (at, n_spaces) = (0, indent);
            }
            out.push_str(&" ".repeat(n_spaces));
            out.push_str(word);
            at += n_spaces + word.width();
            n_spaces = 0;
        }
    }
    out
}

/// Columns of the terminal that stderr is; 80 where that cannot be told.
fn width() -> usize {
    terminal_size::terminal_size_of(io::stderr()).map_or(80, |(width, _)| usize::from(width.0))
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
    fn escape_sequences_are_for_terminals_that_understand_them() {
        let check = |term: Option<&str>, console_does| understands(term.map(OsStr::new), console_does);
        assert!(check(Some("xterm"), None) && check(None, None));
        assert!(!check(Some("dumb"), None) && !check(Some("dumb"), Some(true)));
        assert!(check(None, Some(true)) && !check(None, Some(false)), "a console of Windows");
        assert!(check(Some("xterm"), Some(false)), "such as Git's, which is a pipe to Windows");
    }

    #[test]
    fn lines_break_between_words_and_what_follows_a_label_stays_behind_it() {
        assert_eq!(wrapped("one two three", 7), "one two\nthree");
        assert_eq!(wrapped("one two\nthree", 80), "one two\nthree");
        assert_eq!(wrapped("model    Gemma 2 2B it", 18), "model    Gemma 2\n         2B it");
        assert_eq!(wrapped("context  512     -c 0 uses all", 18), "context  512\n         -c 0 uses\n         all");
        assert_eq!(wrapped("http://127.0.0.1:8080/ is long", 10), "http://127.0.0.1:8080/\nis long");
        assert_eq!(wrapped("模型 模型", 5), "模型\n模型");
        assert_eq!(wrapped("", 5), "");
    }

    #[test]
    fn texts_are_cut_by_the_columns_they_take() {
        assert_eq!((cut("abc", 2), cut("abc", 3), cut("模型", 3), cut("", 0)), ("ab", "abc", "模", ""));
    }
}
