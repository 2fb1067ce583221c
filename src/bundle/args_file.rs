//! `.args`: the default arguments inside a bundle, one a line.

use crate::error::Hint;

/// The member's name.
pub const ARGS_MEMBER: &str = ".args";

/// The line that stands for the command line's own arguments.
const PLACEHOLDER: &str = "...";

/// Default arguments in order, and where those of the command line go among them.
///
/// One argument a line; blank lines and lines that start with `#` are skipped, spaces around an argument too. An
/// argument that starts with a quote reaches to the same quote, over several lines if need be: in single quotes
/// everything is literal, in double quotes and in bare lines a backslash escapes (`\n`, `\t`, `\r`, `\\`, `\"`, `\'`,
/// `\#`, `\ ` and `\.`; before any other character it is itself, as in `C:\models`). Quotes elsewhere are themselves, so
/// `Don't` needs none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArgsFile {
    /// Arguments before the command line's.
    pub before: Vec<String>,
    /// Arguments behind the command line's.
    pub after: Vec<String>,
}

/// A `.args` that cannot be read; lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// Not text.
    #[error("`.args` is not UTF-8")]
    NotUtf8,
    /// A quote without its end.
    #[error("line {0} of `.args` opens a quote that is never closed")]
    OpenQuote(usize),
    /// Something other than a line's end behind a closing quote.
    #[error("line {0} of `.args` goes on after its closing quote")]
    AfterQuote(usize),
    /// More than one placeholder.
    #[error("line {0} of `.args` is a second `...`")]
    SecondPlaceholder(usize),
}

impl Hint for ArgsError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            ArgsError::NotUtf8 => "write `.args` as UTF-8 text, one argument a line".into(),
            ArgsError::OpenQuote(_) | ArgsError::AfterQuote(_) => {
                "put one argument on a line; inside double quotes write `\\\"` for a quote".into()
            }
            ArgsError::SecondPlaceholder(_) => {
                "`...` stands for the command line's arguments and may appear once".into()
            }
        })
    }
}

impl ArgsFile {
    /// Reads the member's bytes.
    pub fn parse(bytes: &[u8]) -> Result<ArgsFile, ArgsError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ArgsError::NotUtf8)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut file = ArgsFile::default();
        let mut has_placeholder = false;
        let mut lines = Lines { rest: text, line: 0 };
        while let Some(line) = lines.next_line() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line == PLACEHOLDER {
                if has_placeholder {
                    return Err(ArgsError::SecondPlaceholder(lines.line));
                }
                has_placeholder = true;
                continue;
            }
            let argument = match line.chars().next() {
                Some(quote @ ('"' | '\'')) => lines.quoted(line, quote)?,
                _ => unescape(line),
            };
            let part = if has_placeholder { &mut file.after } else { &mut file.before };
            part.push(argument);
        }
        Ok(file)
    }

    /// The default arguments alone.
    pub fn defaults(&self) -> Vec<String> {
        self.before.iter().chain(&self.after).cloned().collect()
    }

    /// The default arguments with `argv` (without the program's name) in its place.
    pub fn place(&self, argv: &[String]) -> Vec<String> {
        let parts = [&self.before[..], argv, &self.after[..]];
        parts.concat()
    }

    /// Text that [`ArgsFile::parse`] reads as `arguments`, in which `...` is the placeholder.
    pub fn text(arguments: &[String]) -> String {
        arguments.iter().map(|argument| quote(argument) + "\n").collect()
    }
}

struct Lines<'a> {
    rest: &'a str,
    /// Number of the line that was read last.
    line: usize,
}

impl<'a> Lines<'a> {
    fn next_line(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        self.line += 1;
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        Some(line.strip_suffix('\r').unwrap_or(line))
    }

    /// The argument that `line` starts with a quote, reading on over line ends.
    fn quoted(&mut self, line: &'a str, quote: char) -> Result<String, ArgsError> {
        let opening_line = self.line;
        let mut inner = String::new();
        let mut part = &line[quote.len_utf8()..];
        loop {
            match closing_quote(part, quote) {
                Some(end) => {
                    inner.push_str(&part[..end]);
                    if !part[end + quote.len_utf8()..].trim().is_empty() {
                        return Err(ArgsError::AfterQuote(self.line));
                    }
                    break;
                }
                None => {
                    inner.push_str(part);
                    inner.push('\n');
                    part = self.next_line().ok_or(ArgsError::OpenQuote(opening_line))?;
                }
            }
        }
        Ok(match quote {
            '"' => unescape(&inner),
            _ => inner,
        })
    }
}

/// Where the quote in `text` is that no backslash escapes; in single quotes nothing is escaped.
fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        if is_escaped {
            is_escaped = false;
        } else if c == '\\' && quote == '"' {
            is_escaped = true;
        } else if c == quote {
            return Some(at);
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some(c @ ('\\' | '"' | '\'' | '#' | ' ' | '.')) => out.push(c),
            Some(c) => out.extend(['\\', c]),
            None => out.push('\\'),
        }
    }
    out
}

fn quote(argument: &str) -> String {
    let is_plain = !argument.is_empty()
        && argument.trim() == argument
        && !argument.starts_with(['"', '\'', '#', '\u{feff}'])
        && !argument.contains(['\\', '\n', '\r']);
    if is_plain {
        return argument.to_owned();
    }
    let mut out = String::from('"');
    for c in argument.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, before: &[&str], after: &[&str]) {
        let file = ArgsFile::parse(text.as_bytes()).unwrap();
        assert_eq!(file.before, before, "{text:?}");
        assert_eq!(file.after, after, "{text:?}");
    }

    #[test]
    fn one_argument_a_line_with_comments_and_blank_lines() {
        check("-m\r\nmodel.gguf\r\n\r\n# a comment\n  -c  \n0", &["-m", "model.gguf", "-c", "0"], &[]);
        check("-p\nDon't say \"no\" # or do\n", &["-p", "Don't say \"no\" # or do"], &[]);
        check("", &[], &[]);
    }

    #[test]
    fn quotes_keep_spaces_and_line_ends() {
        check("'  a\\n'\n\"b\\n\\\"c\\\"\"\n", &["  a\\n", "b\n\"c\""], &[]);
        check("\"two\nlines\"\n'and\n\nthree'", &["two\nlines", "and\n\nthree"], &[]);
        check("''\n\"...\"\n\\#x\nC:\\models\\a", &["", "...", "#x", "C:\\models\\a"], &[]);
    }

    #[test]
    fn the_placeholder_divides_the_arguments() {
        check("-c\n0\n...\n--temp\n0\n", &["-c", "0"], &["--temp", "0"]);
        let file = ArgsFile::parse(b"-p\n...\n-n\n8").unwrap();
        assert_eq!(file.place(&["hello".into()]), ["-p", "hello", "-n", "8"]);
        assert_eq!(file.defaults(), ["-p", "-n", "8"]);
    }

    #[test]
    fn mistakes_name_their_line() {
        let error = |text: &[u8]| ArgsFile::parse(text).unwrap_err();
        assert_eq!(error(b"-p\n\"open\nstill"), ArgsError::OpenQuote(2));
        assert_eq!(error(b"\n'a' b"), ArgsError::AfterQuote(2));
        assert_eq!(error(b"...\n...\n"), ArgsError::SecondPlaceholder(2));
        assert_eq!(error(b"\xff"), ArgsError::NotUtf8);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(arguments in prop::collection::vec(".*", 0..6)) {
            prop_assume!(arguments.iter().all(|a| a != PLACEHOLDER));
            let text = ArgsFile::text(&arguments);
            let file = ArgsFile::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(file.before, arguments);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ArgsFile::parse(&bytes);
        }

        #[test]
        fn no_text_of_quotes_and_escapes_panics(text in "[\"'\\\\ a.#\n\r]{0,40}") {
            let _ = ArgsFile::parse(text.as_bytes());
        }
    }
}
