//! Byte-pair encoding: cut out, split, merge by rank.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::vocab::Vocab;
use super::{Special, TokenId};

/// SentencePiece's mark for a space, U+2581. Inside, pieces and texts have plain spaces.
pub(super) const SPACE_MARK: &str = "\u{2581}";

/// Token ids of the joined `parts`.
pub(super) fn encode(vocab: &Vocab, parts: &[(&str, Special)]) -> Vec<TokenId> {
    let joined;
    let text = match parts {
        [(text, _)] => *text,
        _ => {
            joined = parts.iter().map(|(text, _)| *text).collect::<String>();
            joined.as_str()
        }
    };
    let mut ids = Vec::with_capacity(text.len() / 3);
    let mut merger = Merger::new(vocab);
    let mut parts = parts.iter();
    // The part that `pos` is in: where it ends, and up to where a control token may reach.
    let (mut part_end, mut control_end) = (0, 0);
    let mut run_start = 0;
    let mut pos = 0;
    while pos < text.len() {
        while pos >= part_end {
            let Some((part, special)) = parts.next() else {
                break;
            };
            part_end += part.len();
            control_end = match special {
                Special::Parse => part_end,
                Special::Literal => 0,
            };
        }
        let control_limit = control_end.saturating_sub(pos);
        match vocab.cuts().longest_at(&text.as_bytes()[pos..], control_limit) {
            Some(cut) => {
                merger.run(&text[run_start..pos], &mut ids);
                ids.push(cut.id);
                pos += cut.n_bytes;
                run_start = pos;
            }
            // An entry starts with the first byte of a character, so it is enough to try at every byte.
            None => pos += 1,
        }
    }
    merger.run(&text[run_start..], &mut ids);
    ids
}

/// Merges runs of plain text; its buffers are used again and again.
struct Merger<'v> {
    vocab: &'v Vocab,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

/// A stretch of the text that is, or may become, one token. Empty once it has been merged into its left neighbor.
struct Symbol {
    start: u32,
    end: u32,
    /// Indices of the neighbors that are not empty; `NO_SYMBOL` at the borders.
    prev: u32,
    next: u32,
    id: Option<TokenId>,
}

const NO_SYMBOL: u32 = u32::MAX;

/// Two neighbors that may be merged: the lowest rank first, then the leftmost.
///
/// Small, and ordered by its first field nearly always: a long word keeps a million of these in a heap.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// The rank in the upper half, the index of the left symbol in the lower half.
    order: u64,
    /// Where the merged symbol would end; tells whether the candidate is still what it was when it was found.
    end: u32,
    id: TokenId,
}

/// Words are cut into stretches of this size at most, so that positions fit 32 bits. No prompt is near it.
const MAX_WORD_BYTES: usize = 1 << 30;

impl<'v> Merger<'v> {
    fn new(vocab: &'v Vocab) -> Merger<'v> {
        Merger { vocab, symbols: Vec::new(), queue: BinaryHeap::new() }
    }

    /// Appends the tokens of a text without any cut-out token in it.
    fn run(&mut self, text: &str, ids: &mut Vec<TokenId>) {
        if text.is_empty() {
            return;
        }
        let normalized;
        let mut text = text;
        if self.vocab.add_space_prefix() || text.contains(SPACE_MARK) {
            let prefix = if self.vocab.add_space_prefix() { " " } else { "" };
            normalized = format!("{prefix}{}", text.replace(SPACE_MARK, " "));
            text = &normalized;
        }
        // No piece has these two bytes side by side, so no merge reaches across: a text falls apart into words.
        // This changes nothing but the time, which depends on the length of the word then.
        let bytes = text.as_bytes();
        let mut after_unknown = false;
        let mut word_start = 0;
        for pos in 1..=bytes.len() {
            let is_border = pos == bytes.len()
                || text.is_char_boundary(pos)
                    && (!self.vocab.may_join(bytes[pos - 1], bytes[pos]) || pos - word_start >= MAX_WORD_BYTES);
            if is_border {
                self.merge(&text[word_start..pos]);
                self.emit(&bytes[word_start..pos], &mut after_unknown, ids);
                word_start = pos;
            }
        }
    }

    /// Leaves the tokens of `word` in `symbols`. O(n log n): every merge removes a symbol and finds two candidates.
    fn merge(&mut self, word: &str) {
        self.symbols.clear();
        self.queue.clear();
        for (start, character) in word.char_indices() {
            let end = start + character.len_utf8();
            let index = self.symbols.len() as u32;
            self.symbols.push(Symbol {
                start: start as u32,
                end: end as u32,
                prev: index.wrapping_sub(1), // `NO_SYMBOL` for the first one
                next: if end < word.len() { index + 1 } else { NO_SYMBOL },
                id: self.vocab.by_piece(&word.as_bytes()[start..end]),
            });
        }
        for left in 0..self.symbols.len() as u32 {
            self.consider(word.as_bytes(), left);
        }
        while let Some(Reverse(candidate)) = self.queue.pop() {
            let left_index = candidate.order as u32;
            let left = &self.symbols[left_index as usize];
            let right_index = left.next;
            let is_alive = left.end > left.start && right_index != NO_SYMBOL;
            if !is_alive || self.symbols[right_index as usize].end != candidate.end {
                continue;
            }
            let right = &mut self.symbols[right_index as usize];
            right.end = right.start;
            let next_index = right.next;
            let left = &mut self.symbols[left_index as usize];
            left.end = candidate.end;
            left.id = Some(candidate.id);
            left.next = next_index;
            let prev_index = left.prev;
            if next_index != NO_SYMBOL {
                self.symbols[next_index as usize].prev = left_index;
                self.consider(word.as_bytes(), left_index);
            }
            if prev_index != NO_SYMBOL {
                self.consider(word.as_bytes(), prev_index);
            }
        }
    }

    /// Queues the merge of a symbol with the one after it, if there is such a piece.
    fn consider(&mut self, word: &[u8], left_index: u32) {
        let left = &self.symbols[left_index as usize];
        if left.next == NO_SYMBOL {
            return;
        }
        let end = self.symbols[left.next as usize].end;
        let joined = &word[left.start as usize..end as usize];
        if let Some((rank, id)) = self.vocab.merge(joined, (left.end - left.start) as usize) {
            let order = u64::from(rank) << 32 | u64::from(left_index);
            self.queue.push(Reverse(Candidate { order, end, id }));
        }
    }

    /// Appends the ids of the symbols; characters without a piece become bytes, or the unknown token.
    fn emit(&self, word: &[u8], after_unknown: &mut bool, ids: &mut Vec<TokenId>) {
        for symbol in self.symbols.iter().filter(|s| s.end > s.start) {
            let bytes = &word[symbol.start as usize..symbol.end as usize];
            if let Some(id) = symbol.id {
                ids.push(id);
            } else if !self.vocab.push_bytes(bytes, ids) {
                let fuse = *after_unknown && self.vocab.fuse_unknown();
                ids.extend(self.vocab.unknown().filter(|_| !fuse));
                *after_unknown = true;
                continue;
            }
            *after_unknown = false;
        }
    }
}
