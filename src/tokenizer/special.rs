//! Tokens that are cut out of a text before anything is merged: user-defined ones (newline runs, HTML tags) and
//! control tokens.

use super::TokenId;

/// Texts to be found, the leftmost first and of those the longest.
///
/// A sorted list narrowed byte by byte needs no more memory than the texts themselves, whatever a file contains; the
/// real vocabulary has some 250 entries.
#[derive(Default)]
pub(super) struct CutList {
    bytes: Vec<u8>,
    /// Sorted by text, no text twice, none empty.
    entries: Vec<Entry>,
    /// Entries that start with byte `b`: `entries[by_first_byte[b]..by_first_byte[b + 1]]`.
    by_first_byte: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    len: u32,
    id: TokenId,
    is_control: bool,
}

/// A token found in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub id: TokenId,
    pub n_bytes: usize,
}

impl CutList {
    /// `texts` must be shorter than 4 GiB together; the vocabulary checks that. Of equal texts the last one counts,
    /// but a control token stays one.
    pub fn new<'a>(texts: impl Iterator<Item = (&'a str, TokenId, bool)>) -> CutList {
        let mut bytes = Vec::new();
        let mut entries = Vec::new();
        for (text, id, is_control) in texts.filter(|(text, ..)| !text.is_empty()) {
            entries.push(Entry { start: bytes.len() as u32, len: text.len() as u32, id, is_control });
            bytes.extend_from_slice(text.as_bytes());
        }
        let text_of = |e: &Entry| &bytes[e.start as usize..(e.start + e.len) as usize];
        entries.sort_by(|a, b| {
            let key = |e: &Entry| (e.is_control, e.id);
            text_of(a).cmp(text_of(b)).then(key(b).cmp(&key(a)))
        });
        entries.dedup_by(|later, first| text_of(later) == text_of(first));
        let by_first_byte =
            (0..=256).map(|b| entries.partition_point(|e| usize::from(text_of(e)[0]) < b) as u32).collect();
        CutList { bytes, entries, by_first_byte }
    }

    /// The longest entry that `text` starts with; a control token only if it ends within the first `control_limit` bytes.
    pub fn longest_at(&self, text: &[u8], control_limit: usize) -> Option<Cut> {
        let first = usize::from(*text.first()?);
        let (from, to) = (*self.by_first_byte.get(first)? as usize, *self.by_first_byte.get(first + 1)? as usize);
        let mut candidates = &self.entries[from..to];
        let mut longest = None;
        // Every candidate agrees with the text in the first `depth` bytes, so one that is no longer than that comes first.
        for depth in 1.. {
            let Some(shortest) = candidates.first() else {
                break;
            };
            if shortest.len as usize == depth {
                if !shortest.is_control || depth <= control_limit {
                    longest = Some(Cut { id: shortest.id, n_bytes: depth });
                }
                candidates = &candidates[1..];
            }
            let Some(&next) = text.get(depth) else {
                break;
            };
            let byte = |e: &Entry| self.bytes[e.start as usize + depth];
            let from = candidates.partition_point(|e| byte(e) < next);
            candidates = &candidates[from..];
            let to = candidates.partition_point(|e| byte(e) == next);
            candidates = &candidates[..to];
        }
        longest
    }

    /// The control token with exactly this text.
    pub fn control_by_text(&self, text: &[u8]) -> Option<TokenId> {
        self.entries
            .iter()
            .find(|e| e.is_control && &self.bytes[e.start as usize..(e.start + e.len) as usize] == text)
            .map(|e| e.id)
    }
}
