//! From the bytes of tokens to text that can be shown.

/// Decodes token by token and gives out whole UTF-8 characters only.
///
/// Nothing is lost: all that [`push`](StreamDecoder::push) and [`finish`](StreamDecoder::finish) return, joined, is the
/// lossy decoding of all the bytes, with one U+FFFD for each broken sequence.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// The start of a character that may still be completed: at most three bytes between calls.
    pub(super) pending: Vec<u8>,
}

impl StreamDecoder {
    /// The text that `piece` completes; may be empty while a character is unfinished. Bytes that cannot become a
    /// character any more are given up at once.
    pub fn push(&mut self, piece: &[u8]) -> String {
        self.pending.extend_from_slice(piece);
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, broken) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            match error.error_len() {
                Some(n_hopeless) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &broken[n_hopeless..];
                }
                None => {
                    rest = broken;
                    break;
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// What is left at the end: U+FFFD for a broken character, else nothing.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}
