//! Colors for Markdown while it streams in. Only escape sequences are added: without them the text is what came.

/// Bold. Sequences are SGR (ECMA-48, 8.3.117).
const BOLD: &str = "1";
const ITALIC: &str = "3";
const DIM: &str = "2";
/// Cyan: code.
const CODE: &str = "36";
/// Blue: the marks of headings and lists.
const MARK: &str = "34";

/// The state between two pieces of text.
///
/// What cannot be told yet (is `*` half of `**`?) is held back until the next character, at most one line's indent and
/// marker long; [`Markdown::finish`] gives it out.
#[derive(Default)]
pub struct Markdown {
    /// Held back.
    pending: String,
    /// Inside a fenced block: the fence that ends it.
    fence: Option<Fence>,
    /// What is open in this line.
    open: Open,
    /// The line's marker has been seen.
    is_inside_line: bool,
    /// The character before `pending`.
    before: Option<char>,
}

/// Equal characters in a row, in bytes.
enum Run {
    /// It opens or closes something.
    Mark(usize),
    Text(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Fence {
    character: char,
    length: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Open {
    heading: bool,
    /// A line that opens or closes a fenced block.
    fence_line: bool,
    /// Backticks that close the code.
    code: usize,
    bold: bool,
    italic: bool,
}

impl Markdown {
    /// The text with colors, as far as it is certain.
    pub fn push(&mut self, text: &str) -> String {
        let mut out = String::new();
        for c in text.chars() {
            self.pending.push(c);
            self.take(&mut out, false);
        }
        out
    }

    /// What was held back, and the end of all colors.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.take(&mut out, true);
        if !self.style().is_empty() {
            out += "\x1b[0m";
        }
        *self = Markdown::default();
        out
    }

    /// Writes as much of `pending` as is certain; all of it at the end.
    fn take(&mut self, out: &mut String, is_end: bool) {
        while let Some(first) = self.pending.chars().next() {
            if !self.is_inside_line && first != '\n' {
                match self.line_start(is_end) {
                    None => return,
                    Some(n_bytes) => {
                        self.is_inside_line = true;
                        self.write_marker(out, n_bytes);
                        continue;
                    }
                }
            }
            let n_bytes = match first {
                '\n' => {
                    self.end_line(out);
                    continue;
                }
                _ if self.fence.is_some() || self.open.fence_line => first.len_utf8(),
                '`' | '*' | '_' => match self.run(first, is_end) {
                    None => return,
                    Some(Run::Mark(n_bytes)) => {
                        self.write_mark(out, first, n_bytes);
                        continue;
                    }
                    Some(Run::Text(n_bytes)) => n_bytes,
                },
                '\\' if self.open.code == 0 => match self.pending.chars().nth(1) {
                    None if !is_end => return,
                    Some(next) if next.is_ascii_punctuation() => 2,
                    _ => 1,
                },
                _ => first.len_utf8(),
            };
            self.write(out, n_bytes);
        }
    }

    /// Bytes of the indent and marker at the start of a line; `None` while that is not certain.
    fn line_start(&mut self, is_end: bool) -> Option<usize> {
        let text = self.pending.as_str();
        let indent = text.len() - text.trim_start_matches([' ', '\t']).len();
        let rest = &text[indent..];
        let Some(first) = rest.chars().next() else {
            return is_end.then_some(0);
        };
        // A fence is certain when its run of characters has ended.
        let run = rest.len() - rest.trim_start_matches(first).len();
        let is_run_over = is_end || run < rest.len();
        if first == '`' || first == '~' {
            match self.fence {
                None if !is_run_over => return None,
                None if run >= 3 => {
                    self.fence = Some(Fence { character: first, length: run });
                    self.open.fence_line = true;
                }
                Some(fence) if first == fence.character => {
                    if !is_run_over {
                        return None;
                    }
                    let after = rest[run..].trim_start_matches([' ', '\t']);
                    if after.is_empty() && !is_end {
                        return None;
                    }
                    if run >= fence.length && (after.is_empty() || after.starts_with('\n')) {
                        (self.fence, self.open.fence_line) = (None, true);
                    }
                }
                None | Some(_) => {}
            }
            return Some(0);
        }
        if self.fence.is_some() {
            return Some(0);
        }
        let after = |n: usize| rest[n..].chars().next();
        match first {
            '#' => match after(run) {
                None if !is_end => None,
                Some(' ' | '\n') | None if run <= 6 => {
                    self.open.heading = true;
                    Some(0)
                }
                _ => Some(0),
            },
            '-' | '+' | '*' | '>' => match after(1) {
                None if !is_end => None,
                Some(' ') => Some(indent + 1),
                _ => Some(0),
            },
            '0'..='9' => {
                let n_digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                match (after(n_digits), rest[n_digits..].chars().nth(1)) {
                    _ if n_digits > 9 => Some(0),
                    (None, _) | (Some('.' | ')'), None) if !is_end => None,
                    (Some('.' | ')'), Some(' ')) => Some(indent + n_digits + 1),
                    _ => Some(0),
                }
            }
            _ => Some(0),
        }
    }

    /// The run of backticks, stars or underscores that `pending` begins with; `None` while it is not over.
    fn run(&self, character: char, is_end: bool) -> Option<Run> {
        let length = self.pending.len() - self.pending.trim_start_matches(character).len();
        let next = self.pending[length..].chars().next();
        if next.is_none() && !is_end {
            return None;
        }
        if character == '`' {
            let is_mark = self.open.code == 0 || self.open.code == length;
            return Some(if is_mark { Run::Mark(length) } else { Run::Text(length) });
        }
        if self.open.code > 0 || length > 3 {
            return Some(Run::Text(length));
        }
        let (space_before, space_after) = (is_space(self.before), is_space(next));
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        // Underscores inside a word are part of it.
        let inside_word = character == '_' && is_word(self.before) && is_word(next);
        let is_open = match length {
            1 => self.open.italic,
            2 => self.open.bold,
            _ => self.open.bold && self.open.italic,
        };
        let is_glued = character == '_' && is_word(self.before);
        let counts = if is_open { !space_before } else { !space_after && !is_glued };
        Some(if counts && !inside_word { Run::Mark(length) } else { Run::Text(length) })
    }

    /// The end of a line is the end of all that is open in it.
    fn end_line(&mut self, out: &mut String) {
        if !self.style().is_empty() {
            out.push_str("\x1b[0m");
        }
        self.pending.remove(0);
        out.push('\n');
        self.open = Open::default();
        self.is_inside_line = false;
        self.before = Some('\n');
        self.start_style(out);
    }

    /// A list's or quote's marker in its color, or the color of the line that begins.
    fn write_marker(&mut self, out: &mut String, n_bytes: usize) {
        if n_bytes == 0 {
            self.start_style(out);
            return;
        }
        let indent = self.pending.len() - self.pending.trim_start_matches([' ', '\t']).len();
        let marker: String = self.pending.drain(..n_bytes).collect();
        self.before = marker.chars().next_back();
        out.push_str(&marker[..indent]);
        out.push_str(&format!("\x1b[{BOLD};{MARK}m{}\x1b[0m", &marker[indent..]));
    }

    /// A mark, in the color of what it opens or closes.
    fn write_mark(&mut self, out: &mut String, character: char, length: usize) {
        let before = self.style();
        let open = &mut self.open;
        let is_open = match (character, length) {
            ('`', _) => {
                open.code = if open.code > 0 { 0 } else { length };
                open.code > 0
            }
            (_, 1) => {
                open.italic = !open.italic;
                open.italic
            }
            (_, 2) => {
                open.bold = !open.bold;
                open.bold
            }
            _ => {
                let is_open = !(open.bold && open.italic);
                (open.bold, open.italic) = (is_open, is_open);
                is_open
            }
        };
        let changes = self.style() != before;
        if is_open && changes {
            out.push_str("\x1b[0m");
            self.start_style(out);
        }
        self.write(out, length);
        if !is_open && changes {
            out.push_str("\x1b[0m");
            self.start_style(out);
        }
    }

    fn write(&mut self, out: &mut String, n_bytes: usize) {
        let text: String = self.pending.drain(..n_bytes).collect();
        self.before = text.chars().next_back();
        out.push_str(&text);
    }

    fn start_style(&self, out: &mut String) {
        let style = self.style();
        if !style.is_empty() {
            out.push_str(&format!("\x1b[{}m", style.join(";")));
        }
    }

    /// SGR parameters of what is open.
    fn style(&self) -> Vec<&'static str> {
        if self.open.fence_line {
            return vec![DIM];
        }
        if self.fence.is_some() {
            // Before the line has begun it may still turn out to be the end of the block.
            return if self.is_inside_line { vec![CODE] } else { Vec::new() };
        }
        let mut style = Vec::new();
        if self.open.heading {
            style.extend([BOLD, MARK]);
        }
        if self.open.bold && !self.open.heading {
            style.push(BOLD);
        }
        if self.open.italic {
            style.push(ITALIC);
        }
        if self.open.code > 0 {
            style.push(CODE);
        }
        style
    }
}

fn is_space(c: Option<char>) -> bool {
    c.is_none_or(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn colored(text: &str) -> String {
        let mut markdown = Markdown::default();
        let mut out = markdown.push(text);
        out += &markdown.finish();
        out
    }

    /// The text without escape sequences, and its stretches of style in short: `B` bold, `I` italic, `C` code, `M` mark,
    /// `D` dim.
    fn parts(colored: &str) -> String {
        let names = |sgr: &str| -> String {
            let name = |code: &str| match code {
                BOLD => "B",
                ITALIC => "I",
                CODE => "C",
                MARK => "M",
                DIM => "D",
                _ => "",
            };
            sgr.split(';').map(name).collect()
        };
        let mut out = String::new();
        for (index, part) in colored.split("\x1b[").enumerate() {
            match part.split_once('m').filter(|_| index > 0) {
                Some((sgr, text)) => out += &format!("[{}]{text}", names(sgr)),
                None => out += part,
            }
        }
        out
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(parts(&colored(text)), expected, "{text:?}");
    }

    #[test]
    fn emphasis_and_code_are_colored_with_their_marks() {
        check("a **b** c", "a [][B]**b**[] c");
        check("a *b* _c_.", "a [][I]*b*[] [][I]_c_[].");
        check("***x***", "[][BI]***x***[]");
        check("**a *b* c**", "[][B]**a [][BI]*b*[][B] c**[]");
        check("use `a*b*c` now", "use [][C]`a*b*c`[] now");
        check("``a`b``", "[][C]``a`b``[]");
    }

    #[test]
    fn what_is_no_mark_stays_plain() {
        for text in ["2 * 3 * 4", "snake_case_name", "a\\*b\\*", "#hashtag", "1.5 is a number", "-5", "~/bin", "****"] {
            check(text, text);
        }
    }

    #[test]
    fn headings_lists_and_quotes_are_colored() {
        check("# A\nb", "[BM]# A[]\nb");
        check("- a\n  * b\n12. c\n> d", "[BM]-[] a\n  [BM]*[] b\n[BM]12.[] c\n[BM]>[] d");
        check("- **a**: b", "[BM]-[] [][B]**a**[]: b");
        check("####### x", "####### x");
    }

    #[test]
    fn blocks_of_code_keep_their_lines_as_they_are() {
        check("```rust\nlet a = **b;\n\n  x\n```\nc", "[D]```rust[]\n[C]let a = **b;[]\n\n[C]  x[]\n[D]```[]\nc");
        check("~~~\n```\n~~~~", "[D]~~~[]\n[C]```[]\n[D]~~~~[]");
        check("```\nno end", "[D]```[]\n[C]no end[]");
        check("```\n# a\n```", "[D]```[]\n[C]# a[]\n[D]```[]");
    }

    #[test]
    fn what_is_left_open_ends_with_its_line() {
        check("**a\nb", "[][B]**a[]\nb");
        check("`a", "[][C]`a[]");
        check("a *", "a *");
    }

    #[test]
    fn little_is_held_back() {
        let mut markdown = Markdown::default();
        assert_eq!(markdown.push("Hello wor"), "Hello wor");
        assert_eq!(markdown.push("ld *"), "ld ");
        assert_eq!(parts(&markdown.push("x")), "[][I]*x");
    }

    proptest! {
        #[test]
        fn the_text_is_never_altered_however_it_is_cut(text in "[-*_`~#> 0-9a.\\\\\n\tä]{0,60}", at in 0usize..60) {
            let strip = |text: &str| -> String {
                text.split("\x1b[").enumerate().map(|(i, part)| {
                    if i == 0 { part } else { part.split_once('m').map_or(part, |(_, rest)| rest) }
                }).collect()
            };
            let cut = text.char_indices().map(|(i, _)| i).nth(at).unwrap_or(text.len());
            let mut markdown = Markdown::default();
            let out = markdown.push(&text[..cut]) + &markdown.push(&text[cut..]) + &markdown.finish();
            prop_assert_eq!(strip(&out), text.clone());
            prop_assert_eq!(&out, &colored(&text));
            // Nothing stays colored behind the end.
            let last = out.rfind("\x1b[").map(|at| &out[at..]);
            prop_assert!(last.is_none_or(|last| last.starts_with("\x1b[0m")), "{:?}", out);
        }
    }
}
