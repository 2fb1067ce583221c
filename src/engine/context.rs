//! What of a sequence stays where it outgrows the context.
//!
//! A shift drops tokens behind the first `n_keep`, and what is left is read again behind those: the reply goes on
//! exactly as if the shorter text had been the prompt. How much is dropped is llama.cpp's choice: half of what may be.

use std::ops::Range;

use super::Overflow;
use crate::tokenizer::TokenId;

/// Tokens that are never kept at the start, so that a shift makes room, as in llama.cpp.
const LEAST_MOVING: usize = 4;

/// How one sequence is held inside the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Context {
    /// Tokens at the start that stay; `None` where nothing is ever dropped.
    n_keep: Option<usize>,
    /// Most tokens of prompt and reply together where nothing else limits a reply that shifts.
    n_most: usize,
    /// Tokens dropped so far.
    n_dropped: usize,
}

impl Context {
    /// Settles what stays, and cuts a prompt that is too long and may be cut. `has_bos`: its first token stays besides
    /// those of `n_keep`.
    pub(super) fn new(
        overflow: Overflow,
        prompt: &mut Vec<TokenId>,
        has_bos: bool,
        n_ctx: usize,
        n_most: usize,
    ) -> Context {
        let mut context = Context { n_keep: None, n_most, n_dropped: 0 };
        let Overflow::Shift { n_keep, cut_prompt } = overflow else {
            return context;
        };
        let n_keep = n_keep.map_or(prompt.len(), |n| n.saturating_add(usize::from(has_bos)).min(prompt.len()));
        let n_keep = n_keep.min(n_ctx.saturating_sub(LEAST_MOVING));
        if prompt.len() < n_ctx {
            context.n_keep = Some(n_keep);
        } else if cut_prompt && let Some(range) = middle(prompt.len(), n_keep, n_ctx) {
            context.n_keep = Some(n_keep);
            context.n_dropped = range.len();
            prompt.drain(range);
        }
        context
    }

    /// Tokens dropped so far.
    pub(super) fn n_dropped(&self) -> usize {
        self.n_dropped
    }

    /// Whether there is room for another token behind `n_tokens`, or room can be made.
    pub(super) fn has_room(&self, n_tokens: usize, n_ctx: usize) -> bool {
        n_tokens < n_ctx || self.n_keep.is_some_and(|n_keep| n_tokens.saturating_sub(n_keep) / 2 > 0)
    }

    /// Whether a reply without a limit has gone on for long enough: where the context shifts, nothing else would end
    /// one that has no end token.
    pub(super) fn is_endless(&self, n_prompt: usize, n_decoded: usize) -> bool {
        self.n_keep.is_some() && n_prompt + n_decoded >= self.n_most
    }

    /// Makes room in a full context. Returns how many tokens at the start are as before; `None` where nothing is to be
    /// done.
    pub(super) fn shift(&mut self, tokens: &mut Vec<TokenId>, n_ctx: usize) -> Option<usize> {
        let n_keep = self.n_keep.filter(|_| tokens.len() >= n_ctx)?;
        let n_discard = (tokens.len() - n_keep) / 2;
        tokens.drain(n_keep..n_keep + n_discard);
        self.n_dropped += n_discard;
        Some(n_keep)
    }
}

/// The tokens to drop of a prompt that is too long. They are whole blocks of half of what moves, so that a prompt that
/// grows a little keeps its beginning, and with it the cache.
fn middle(n_prompt: usize, n_keep: usize, n_ctx: usize) -> Option<Range<usize>> {
    let block = (n_ctx - n_keep) / 2;
    let n_blocks = (n_prompt - n_keep).checked_sub(block)?.checked_div(block)?;
    Some(n_keep..n_keep + n_blocks * block)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIFT: Overflow = Overflow::Shift { n_keep: Some(3), cut_prompt: true };

    #[test]
    fn a_prompt_that_is_too_long_keeps_its_beginning_and_its_end() {
        for n_ctx in 2..40 {
            for n_prompt in 1..200 {
                for n_keep in [None, Some(0), Some(3), Some(30), Some(usize::MAX)] {
                    let whole: Vec<TokenId> = (0..n_prompt).collect();
                    let mut prompt = whole.clone();
                    let overflow = Overflow::Shift { n_keep, cut_prompt: true };
                    let context = Context::new(overflow, &mut prompt, true, n_ctx, 1000);
                    assert!(prompt.len() < n_ctx && !prompt.is_empty(), "{n_ctx} {n_prompt} {n_keep:?}");
                    assert_eq!(context.n_dropped(), whole.len() - prompt.len());
                    if context.n_dropped() > 0 {
                        let kept = context.n_keep.unwrap();
                        assert_eq!(prompt[..kept], whole[..kept]);
                        assert!(prompt.len() > kept && whole.ends_with(&prompt[kept..]));
                    }
                }
            }
        }
    }

    #[test]
    fn a_prompt_that_grows_a_little_loses_the_same_part() {
        let cut = |n: TokenId| {
            let mut prompt: Vec<TokenId> = (0..n).collect();
            Context::new(SHIFT, &mut prompt, true, 24, 1000);
            prompt
        };
        assert!(cut(31).starts_with(&cut(30)));
    }

    #[test]
    fn a_shift_drops_half_of_what_may_go_and_bos_stays() {
        let mut tokens: Vec<TokenId> = (0..10).collect();
        let mut context = Context::new(SHIFT, &mut tokens, true, 12, 100);
        assert_eq!(context.shift(&mut tokens, 12), None, "there is room");
        tokens.extend([10, 11]);
        assert_eq!(context.shift(&mut tokens, 12), Some(4));
        assert_eq!(tokens, [0, 1, 2, 3, 8, 9, 10, 11]);
        assert_eq!(context.n_dropped(), 4);
    }

    #[test]
    fn without_a_wish_nothing_is_dropped() {
        for overflow in [Overflow::Stop, Overflow::Shift { n_keep: None, cut_prompt: false }] {
            let mut prompt = vec![7; 50];
            let mut context = Context::new(overflow, &mut prompt, true, 20, 100);
            assert_eq!((prompt.len(), context.n_dropped()), (50, 0));
            assert_eq!(context.shift(&mut prompt, 20), None);
            assert!(!context.has_room(20, 20) && !context.is_endless(100, 100));
        }
    }
}
