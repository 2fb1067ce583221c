//! Stop strings: found across token borders, never shown.

use super::EngineError;

/// Most stop strings in one request.
pub const MAX_STOP_STRINGS: usize = 256;
/// Most bytes in one stop string.
pub const MAX_STOP_BYTES: usize = 65_536;

/// Refuses stop strings that cannot be meant.
///
/// # Errors
/// [`EngineError::BadSetting`] for an empty one, too many, or one that is too long.
pub fn check(stops: &[String]) -> Result<(), EngineError> {
    let bad = |text: String| Err(EngineError::BadSetting(text));
    if stops.len() > MAX_STOP_STRINGS {
        let n = stops.len();
        return bad(format!("`stop` has {n} strings and may have {MAX_STOP_STRINGS}"));
    }
    if stops.iter().any(String::is_empty) {
        return bad("`stop` contains an empty string".into());
    }
    match stops.iter().find(|s| s.len() > MAX_STOP_BYTES) {
        Some(long) => bad(format!("a string in `stop` has {} bytes and may have {MAX_STOP_BYTES}", long.len())),
        None => Ok(()),
    }
}

/// Looks for stop strings in a text that arrives in pieces.
///
/// The text ends before the stop string that is *completed* first; of several completed by the same byte, before the
/// longest. What is found therefore does not depend on how the text was cut into pieces. Text is held back exactly as
/// long as a stop string may be beginning in it. Takes time in proportion to the text times the number of stop
/// strings, whatever they are (Knuth, Morris and Pratt's automaton for each).
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    held: String,
}

/// What a piece of text brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Text that is certain now.
    pub text: String,
    /// The stop string that ended the text.
    pub stop: Option<String>,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// For each prefix length minus one: length of its longest proper prefix that is also its suffix.
    border: Vec<u32>,
    /// Bytes of the pattern that the text so far ends with.
    matched: usize,
}

impl StopMatcher {
    /// Looks for `stops`; empty ones are left out.
    pub fn new(stops: &[String]) -> StopMatcher {
        let patterns = stops.iter().filter(|s| !s.is_empty()).map(|s| Pattern::new(s)).collect();
        StopMatcher { patterns, held: String::new() }
    }

    /// Takes the next piece. After a stop was found nothing more comes out.
    pub fn push(&mut self, piece: &str) -> Matched {
        let found = piece.bytes().enumerate().find_map(|(at, byte)| {
            // Of the patterns that this byte completes the longest began earliest.
            let mut found: Option<&Pattern> = None;
            for pattern in &mut self.patterns {
                if pattern.push(byte) && found.is_none_or(|f| f.text.len() < pattern.text.len()) {
                    found = Some(pattern);
                }
            }
            found.map(|pattern| (at + 1, pattern.text.clone()))
        });
        if let Some((end, stop)) = found {
            let mut text = std::mem::take(&mut self.held);
            text.push_str(&piece[..end]);
            text.truncate(text.len() - stop.len());
            return Matched { text, stop: Some(stop) };
        }
        self.held.push_str(piece);
        let begun = self.patterns.iter().map(|p| p.matched).max().unwrap_or(0);
        // What is begun starts with a stop string's first byte, so this is the border of a character.
        let rest = self.held.split_off(self.held.len() - begun);
        Matched { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// The text held back, once it is certain that nothing follows.
    pub fn finish(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        std::mem::take(&mut self.held)
    }
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let bytes = text.as_bytes();
        let mut border = vec![0u32; bytes.len()];
        let mut matched = 0usize;
        for at in 1..bytes.len() {
            while matched > 0 && bytes[at] != bytes[matched] {
                matched = border[matched - 1] as usize;
            }
            if bytes[at] == bytes[matched] {
                matched += 1;
            }
            border[at] = matched as u32;
        }
        Pattern { text: text.to_owned(), border, matched: 0 }
    }

    /// Takes a byte; true if it completes the pattern.
    fn push(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        if self.matched == bytes.len() {
            self.matched = self.border[self.matched - 1] as usize;
        }
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.border[self.matched - 1] as usize;
        }
        if bytes[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes the pieces; `|` stands for their borders. Returns what came out at each and at the end, joined the same.
    fn run(stops: &[&str], pieces: &str) -> (String, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut matcher = StopMatcher::new(&stops);
        let mut out = Vec::new();
        for piece in pieces.split('|') {
            let matched = matcher.push(piece);
            out.push(matched.text);
            if matched.stop.is_some() {
                return (out.join("|"), matched.stop);
            }
        }
        out.push(matcher.finish());
        (out.join("|"), None)
    }

    fn check(stops: &[&str], pieces: &str, out: &str, stop: Option<&str>) {
        let got = run(stops, pieces);
        assert_eq!((got.0.as_str(), got.1.as_deref()), (out, stop), "{pieces}");
    }

    #[test]
    fn text_is_held_back_only_while_a_stop_string_may_be_beginning() {
        check(&[], "a|b", "a|b|", None);
        check(&[""], "a|b", "a|b|", None);
        check(&["END"], "abE|xE|N|D", "ab|Ex||", Some("END"));
        check(&["END"], "aEN|D and more", "a|", Some("END"));
        check(&["END"], "one END two", "one ", Some("END"));
        check(&["END"], "aE|N", "a||EN", None);
        check(&["aab"], "a|a|a|b", "||a|", Some("aab"));
        check(&["abab!"], "ababab|ab!x", "ab|ab", Some("abab!"));
        check(&["\n\n"], "a\n|b\n|\nc", "a|\nb|", Some("\n\n"));
        check(&["é"], "cafe|é!", "cafe|", Some("é"));
        check(&["日本"], "一日|日|本", "一|日|", Some("日本"));
    }

    #[test]
    fn of_several_stop_strings_the_one_completed_first_wins_then_the_longest() {
        check(&["two", "one"], "zero one two", "zero ", Some("one"));
        check(&["bc", "abcd"], "xab|cd", "x|a", Some("bc"));
        check(&["bc", "abcd"], "xabcd", "xa", Some("bc"));
        check(&["bc", "abc"], "xabcd", "x", Some("abc"));
        check(&["abc", "bc"], "xa|b|c", "x||", Some("abc"));
        check(&["ab", "abc"], "abc", "", Some("ab"));
    }

    #[test]
    fn the_result_does_not_depend_on_where_the_text_is_cut() {
        let mut rng = crate::engine::rng::Rng::new(7);
        let mut random = |n: usize| (rng.next_u64() % n as u64) as usize;
        let mut found = 0;
        for _ in 0..3000 {
            let alphabet = ['a', 'b', 'é'];
            let mut word = |n: usize| -> String { (0..n).map(|_| alphabet[random(3)]).collect() };
            let text = word(14);
            let stops = [word(2), word(3), word(4)];
            // The plain definition: the first end, then the earliest begin.
            let want = (0..=text.len())
                .filter(|&end| text.is_char_boundary(end))
                .find_map(|end| {
                    let fits = stops.iter().filter(|s| text[..end].ends_with(s.as_str()));
                    fits.max_by_key(|s| s.len()).map(|s| (text[..end - s.len()].to_owned(), Some(s.clone())))
                })
                .unwrap_or((text.clone(), None));
            found += usize::from(want.1.is_some());
            let mut pieces = String::new();
            for c in text.chars() {
                pieces.push(c);
                if random(2) == 0 {
                    pieces.push('|');
                }
            }
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let got = run(&stops, &pieces);
            assert_eq!((got.0.replace('|', ""), got.1), want, "{stops:?} {pieces}");
        }
        assert!(found > 500, "{found}");
    }

    #[test]
    fn hostile_stop_strings_take_no_more_time_than_others() {
        let stop = "a".repeat(MAX_STOP_BYTES - 1) + "b";
        let mut matcher = StopMatcher::new(&[stop]);
        let mut out = 0;
        for _ in 0..200_000 {
            out += matcher.push("a").text.len();
        }
        assert_eq!(out, 200_000 - (MAX_STOP_BYTES - 1));
        assert_eq!(out + matcher.finish().len(), 200_000);
    }
}
