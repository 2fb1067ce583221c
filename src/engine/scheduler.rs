//! Who gets into which slot, and what the next step computes. Pure decisions: no model, no clock, no thread.

use crate::tokenizer::TokenId;

/// What a slot needs of the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// No request runs in it.
    Nothing,
    /// One token: the one made last, or the last of a prompt.
    Decode,
    /// This many tokens of its prompt, above 1.
    Prefill(usize),
}

/// A common prefix of this many tokens is worth a slot even if most of the prompt is new. Fewer are read in a step of
/// the shortest kind.
pub(super) const WORTH_KEEPING: usize = 16;

/// Tokens that a long prompt gets beside short ones that are even shorter: a step of so few takes little longer.
const LEAST_BESIDE: usize = 16;

/// Shares out steps.
#[derive(Clone, Debug)]
pub(super) struct Scheduler {
    /// Most tokens in one step.
    n_ubatch: usize,
    /// The slot whose prompt comes first in the next step.
    turn: usize,
}

impl Scheduler {
    pub(super) fn new(n_ubatch: usize) -> Scheduler {
        Scheduler { n_ubatch: n_ubatch.max(1), turn: 0 }
    }

    /// Tokens of each slot in the next step: one for each that decodes, and for prompts what remains of `n_ubatch`, but
    /// only a quarter of it while others decode: they wait for the whole step, and a prompt loses little by smaller
    /// chunks.
    ///
    /// Prompts that can be finished at once come first, the shortest before all, in up to half of what remains: whoever
    /// asks something short waits for the chunk under way and for a step of about their own length. Beside them the prompt
    /// whose turn it is gets no more than they do, so that it neither holds them up nor starves. Where none can be
    /// finished, it gets all of what remains if it can use it, since long chunks are the fast ones. At least one prompt
    /// token is read in a step, however many slots decode, so that no request waits for others to end.
    pub(super) fn share(&mut self, needs: &[Need]) -> Vec<usize> {
        let mut shares: Vec<usize> = needs.iter().map(|need| usize::from(*need == Need::Decode)).collect();
        let n_decoding: usize = shares.iter().sum();
        let most = if n_decoding > 0 { self.n_ubatch / 4 } else { self.n_ubatch };
        let mut left = most.min(self.n_ubatch.saturating_sub(n_decoding)).max(1);
        let in_turn = (0..needs.len()).map(|step| (self.turn + step) % needs.len());
        let mut prompts: Vec<(usize, usize)> = in_turn
            .filter_map(|at| match needs[at] {
                Need::Prefill(n) => Some((at, n)),
                Need::Nothing | Need::Decode => None,
            })
            .collect();

        let mut short = prompts.clone();
        short.sort_by_key(|(_, n)| *n);
        let mut n_short = 0;
        for (at, n) in short.into_iter().filter(|_| prompts.len() > 1) {
            if n_short + n <= left / 2 {
                shares[at] = n;
                n_short += n;
            }
        }
        prompts.retain(|(at, _)| shares[*at] == 0);
        left -= n_short;
        if n_short > 0 {
            left = left.min(n_short.max(LEAST_BESIDE));
            prompts.truncate(1);
        }
        if let Some((first, _)) = prompts.first() {
            self.turn = (first + 1) % needs.len();
        }
        for (at, n) in prompts {
            shares[at] = n.min(left);
            left -= shares[at];
        }
        shares
    }
}

/// A slot as [`choose_slot`] sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreeSlot<'a> {
    /// Its index.
    pub(super) index: usize,
    /// The tokens in its cache.
    pub(super) tokens: &'a [TokenId],
    /// When it was last used; higher is later.
    pub(super) last_used: u64,
}

/// The free slot for a prompt: the one whose cache shares the longest prefix with it, else the one whose cache will be
/// missed least (an empty one, then the one unused for longest).
///
/// A short common prefix does not count while another slot is free: every prompt shares `<bos>` and the first turn
/// marker with every other, and to begin there would destroy another conversation's cache and save next to nothing.
pub(super) fn choose_slot<'a>(
    prompt: &[TokenId],
    reuse: bool,
    free: impl Iterator<Item = FreeSlot<'a>>,
) -> Option<usize> {
    free.max_by_key(|slot| {
        let common = common_prefix(prompt, slot.tokens);
        let most = common >= prompt.len().div_ceil(2);
        let much = common >= WORTH_KEEPING && common >= prompt.len() / 10;
        let counts = reuse && (most || much);
        (
            if counts { common } else { 0 },
            slot.tokens.is_empty(),
            std::cmp::Reverse(slot.last_used),
            std::cmp::Reverse(slot.index),
        )
    })
    .map(|slot| slot.index)
}

/// Tokens that both begin with.
pub(super) fn common_prefix(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_every_decoding_slot_and_fills_up_with_prompt() {
        use Need::{Decode, Nothing, Prefill};
        let mut scheduler = Scheduler::new(32);
        let needs = [Decode, Prefill(100), Nothing, Decode, Prefill(30)];
        assert_eq!(scheduler.share(&needs), [1, 8, 0, 1, 0]);
        assert_eq!(scheduler.share(&needs), [1, 0, 0, 1, 8], "the other first");
        assert_eq!(scheduler.share(&needs), [1, 8, 0, 1, 0]);
        assert_eq!(scheduler.share(&[Nothing, Prefill(100)]), [0, 32]);
        assert_eq!(scheduler.share(&[Prefill(20), Prefill(100)]), [20, 12], "what the first cannot use");
        assert_eq!(scheduler.share(&[Nothing, Nothing]), [0, 0]);
        assert_eq!(scheduler.share(&[]), [0; 0]);
    }

    #[test]
    fn short_prompts_come_first_and_a_long_one_gets_as_much_beside_them() {
        use Need::{Decode, Prefill};
        let mut scheduler = Scheduler::new(512);
        for _ in 0..3 {
            assert_eq!(scheduler.share(&[Prefill(8000), Prefill(30)]), [30, 30]);
            assert_eq!(scheduler.share(&[Prefill(8000), Prefill(3)]), [16, 3]);
            assert_eq!(scheduler.share(&[Prefill(8000), Prefill(300), Prefill(90), Prefill(40)])[2..], [90, 40]);
            assert_eq!(scheduler.share(&[Decode, Prefill(8000), Prefill(60)]), [1, 60, 60]);
        }
        assert_eq!(scheduler.share(&[Prefill(200), Prefill(100), Prefill(156)]), [200, 100, 156], "all of them fit");
    }

    #[test]
    fn a_long_prompt_goes_on_however_many_short_ones_come() {
        let mut scheduler = Scheduler::new(64);
        let mut left = 1000;
        let mut n_steps = 0;
        while left > 1 {
            // Three new short ones in every step.
            let needs = [Need::Prefill(9), Need::Prefill(left), Need::Prefill(11), Need::Prefill(12)];
            let shares = scheduler.share(&needs);
            assert_eq!((shares[0], shares[2], shares[3]), (9, 11, 12));
            left -= shares[1];
            n_steps += 1;
        }
        assert_eq!(n_steps, 32, "half of each step");
    }

    #[test]
    fn no_prompt_starves_however_many_slots_decode_or_read() {
        use Need::{Decode, Prefill};
        let mut scheduler = Scheduler::new(2);
        let mut needs = vec![Decode; 6];
        needs.extend([Prefill(5), Prefill(5)]);
        let mut got = [0; 2];
        for _ in 0..10 {
            let shares = scheduler.share(&needs);
            assert!(shares[..6].iter().all(|&n| n == 1));
            got[0] += shares[6];
            got[1] += shares[7];
        }
        assert_eq!(got, [5, 5]);
    }

    #[test]
    fn a_prompt_goes_where_most_of_it_is_cached_and_otherwise_where_least_is_lost() {
        let caches: [&[TokenId]; 4] = [&[2, 5, 6, 7, 8], &[2, 5, 6, 9], &[2, 4], &[]];
        let choose = |prompt: &[TokenId], reuse: bool, free: &[usize]| {
            let slots =
                free.iter().map(|&index| FreeSlot { index, tokens: caches[index], last_used: [30, 20, 10, 0][index] });
            choose_slot(prompt, reuse, slots)
        };
        assert_eq!(choose(&[2, 5, 6, 9, 1], true, &[0, 1, 2, 3]), Some(1));
        assert_eq!(choose(&[2, 5, 6, 7, 1], true, &[0, 1, 2, 3]), Some(0));
        assert_eq!(choose(&[2, 5, 6, 7, 1], true, &[1, 2, 3]), Some(1));
        assert_eq!(choose(&[2, 5, 6, 7, 1], false, &[0, 1, 2, 3]), Some(3));
        assert_eq!(choose(&[3, 3], true, &[0, 1, 2]), Some(2), "longest unused");
        assert_eq!(choose(&[2, 5, 3, 3, 3], true, &[0, 1, 2, 3]), Some(3));
        assert_eq!(choose(&[2, 5, 3, 3, 3], true, &[]), None);
    }

    #[test]
    fn a_long_common_prefix_counts_though_most_of_the_prompt_is_new() {
        let choose = |n_common: usize, n_new: usize| {
            let prompt = [vec![1; n_common], vec![2; n_new]].concat();
            let cached = [vec![1; n_common], vec![3; 100]].concat();
            let free = [&cached[..], &[]].into_iter().enumerate();
            let free = free.map(|(index, tokens)| FreeSlot { index, tokens, last_used: 0 });
            choose_slot(&prompt, true, free)
        };
        assert_eq!(choose(16, 100), Some(0));
        assert_eq!(choose(15, 100), Some(1));
        assert_eq!(choose(16, 1000), Some(1));
        assert_eq!(choose(5, 5), Some(0));
    }
}
