//! How an error reaches a person: what went wrong, then what to do.

use std::fmt::Write as _;

/// An error that knows the next step.
///
/// Every error type of a module implements this; [`render`] joins both halves for a terminal and the server does the
/// same for JSON. `Display` says WHAT (with the file, key, tensor or flag by name, values in backticks, no full stop);
/// `hint` says WHAT TO DO.
pub trait Hint: std::error::Error {
    /// The command or action that helps, if there is one.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// `error: WHAT` and, on a second line, `hint: WHAT TO DO`. Ends without a newline.
pub fn render(error: &dyn Hint) -> String {
    let mut out = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !out.contains(&cause_text) {
            let _ = write!(out, ": {cause_text}");
        }
        source = cause.source();
    }
    if let Some(hint) = error.hint() {
        let _ = write!(out, "\nhint: {hint}");
    }
    // Names out of files and file names are in it.
    without_controls(&out)
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

/// A size in bytes for a person: `812 bytes`, `4.1 kB`, `1.60 GB` (powers of ten, as download pages and file managers say it).
pub fn bytes_for_people(n_bytes: u64) -> String {
    let n = n_bytes as f64;
    match n_bytes {
        0..1_000 => format!("{n_bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", n / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n / 1e6),
        _ => format!("{:.2} GB", n / 1e9),
    }
}

/// Two sizes that are compared: exact where rounding would make different sizes look equal.
pub fn two_sizes_for_people(a: u64, b: u64) -> (String, String) {
    let (rounded_a, rounded_b) = (bytes_for_people(a), bytes_for_people(b));
    if a != b && rounded_a == rounded_b {
        return (format!("{a} bytes"), format!("{b} bytes"));
    }
    (rounded_a, rounded_b)
}

/// A name out of a file, made fit for a terminal: control characters escaped, cut after 100 characters.
pub fn name_for_people(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(&name[..name.len().min(400)]);
    let mut out = String::new();
    for (n_chars, c) in text.chars().enumerate() {
        if n_chars == 100 {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(without_controls("a\tb\n\u{1b}[2J\r\u{9b}"), "a\tb\n\\u{1b}[2J\\u{d}\\u{9b}");
    }

    #[test]
    fn an_error_about_a_hostile_name_does_not_move_the_cursor() {
        #[derive(Debug, thiserror::Error)]
        #[error("member `{0}` is compressed")]
        struct Compressed(&'static str);
        impl Hint for Compressed {
            fn hint(&self) -> Option<String> {
                Some(format!("unpack `{}`", self.0))
            }
        }
        let text = render(&Compressed("\u{1b}[2Jm.gguf"));
        assert_eq!(text, "error: member `\\u{1b}[2Jm.gguf` is compressed\nhint: unpack `\\u{1b}[2Jm.gguf`");
    }
}
