//! Prompt lookup: guesses the next tokens of a reply from what the sequence already holds.
//!
//! A summary, an edit or a piece of code repeats much of its prompt. Where the last tokens have occurred before, what
//! followed them then is a *draft* of what follows now (Saxena, "Prompt Lookup Decoding", 2023). One step computes the
//! logits behind every token of the draft; the sampler goes through them in order and stops where it draws another
//! token than the draft has. Since a row of logits never depends on what else is in a step, and since rejected tokens
//! leave no trace in cache or sampler, the reply is the same, token for token, with and without drafts.

use std::collections::HashMap;

use crate::tokenizer::TokenId;

/// Tokens that must have occurred before. Fewer match by chance, more miss the beginning of a repetition.
const N_GRAM: usize = 3;

/// Tokens of the first draft: a step of four costs little more than one of a single token.
const FIRST_DRAFT: usize = 3;

/// Steps without a draft after the first one of which nothing was right; doubled each time, up to [`MOST_PAUSE`].
const FIRST_PAUSE: u32 = 2;
const MOST_PAUSE: u32 = 32;

/// What one sequence has said, by its last words.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Most tokens of a draft.
    most: usize,
    /// Tokens of the next draft: grows while drafts come true.
    n_draft: usize,
    /// Where the tokens begin that followed an n-gram the last time.
    followers: HashMap<[TokenId; N_GRAM], usize>,
    /// The n-grams that end before this position are in `followers`.
    n_read: usize,
    /// Steps still to wait, and how long the next wait is.
    pause: u32,
    next_pause: u32,
}

impl Lookup {
    /// Drafts of at most `most` tokens; 0 is none.
    pub(super) fn new(most: usize) -> Lookup {
        Lookup {
            most,
            n_draft: FIRST_DRAFT.min(most),
            followers: HashMap::new(),
            n_read: 0,
            pause: 0,
            next_pause: FIRST_PAUSE,
        }
    }

    /// At most `room` tokens that may follow `tokens`; empty where nothing is known or drafts have not paid lately.
    /// `tokens` are those of the last call and more behind them, unless [`Lookup::forget`] came between.
    pub(super) fn draft(&mut self, tokens: &[TokenId], room: usize) -> Vec<TokenId> {
        let n = self.n_draft.min(self.most).min(room);
        if n == 0 {
            return Vec::new();
        }
        if self.pause > 0 {
            self.pause -= 1;
            return Vec::new();
        }
        // The last n-gram has no follower yet.
        for end in self.n_read.max(N_GRAM)..tokens.len() {
            if let Ok(gram) = <[TokenId; N_GRAM]>::try_from(&tokens[end - N_GRAM..end]) {
                self.followers.insert(gram, end);
            }
        }
        self.n_read = tokens.len();
        let gram = tokens.last_chunk::<N_GRAM>();
        let Some(&at) = gram.and_then(|gram| self.followers.get(gram)) else { return Vec::new() };
        // Where the repetition reaches the end of the tokens it goes on with itself.
        let mut draft = Vec::with_capacity(n);
        draft.extend_from_slice(&tokens[at..tokens.len().min(at + n)]);
        let period = tokens.len() - at;
        while draft.len() < n {
            draft.push(draft[draft.len() - period]);
        }
        draft
    }

    /// Of a draft of `n_draft` tokens the first `n_accepted` came true.
    pub(super) fn learn(&mut self, n_draft: usize, n_accepted: usize) {
        if n_accepted > 0 {
            self.next_pause = FIRST_PAUSE;
        } else {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(MOST_PAUSE);
        }
        self.n_draft = if n_accepted == n_draft { n_draft * 2 } else { n_accepted + 1 }.clamp(1, self.most.max(1));
    }

    /// The tokens will be others from the start.
    pub(super) fn forget(&mut self) {
        self.followers.clear();
        self.n_read = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_last_tokens_before_is_the_draft() {
        let mut lookup = Lookup::new(8);
        let text = [1, 2, 3, 4, 5, 6, 9, 1, 2, 3];
        assert!(lookup.draft(&text[..9], 8).is_empty(), "these three are new");
        assert_eq!(lookup.draft(&text, 8), [4, 5, 6]);
        assert_eq!(lookup.draft(&text, 2), [4, 5]);
        assert!(lookup.draft(&text, 0).is_empty());
        let longer = [&text[..], &[7, 1, 2, 3]].concat();
        assert_eq!(lookup.draft(&longer, 8), [7, 1, 2], "the latest occurrence");
        lookup.forget();
        assert!(lookup.draft(&[1, 2, 3], 8).is_empty());
        assert!(lookup.draft(&[], 8).is_empty());
    }

    #[test]
    fn a_repetition_goes_on_beyond_the_end() {
        let draft = |tokens: &[TokenId]| {
            let mut lookup = Lookup::new(8);
            lookup.learn(4, 4);
            lookup.draft(tokens, 8)
        };
        assert_eq!(draft(&[5, 5, 5, 5]), [5; 8]);
        assert_eq!(draft(&[9, 1, 2, 3, 4, 1, 2, 3]), [4, 1, 2, 3, 4, 1, 2, 3]);
    }

    #[test]
    fn drafts_grow_while_they_come_true_and_pause_while_they_do_not() {
        let text: Vec<TokenId> = (0..40).chain(0..3).collect();
        let mut lookup = Lookup::new(16);
        for (n, n_next) in [(3, 6), (6, 12), (12, 16)] {
            assert_eq!(lookup.draft(&text, 99).len(), n);
            lookup.learn(n, n);
            assert_eq!(lookup.draft(&text, 99).len(), n_next);
        }
        lookup.learn(16, 3);
        assert_eq!(lookup.draft(&text, 99).len(), 4);
        for pause in [2, 4, 8] {
            lookup.learn(4, 0);
            assert!((0..pause).all(|_| lookup.draft(&text, 99).is_empty()));
            assert_eq!(lookup.draft(&text, 99).len(), 1);
        }
        lookup.learn(1, 1);
        lookup.learn(2, 0);
        assert!((0..2).all(|_| lookup.draft(&text, 99).is_empty()));
        assert_eq!(lookup.draft(&text, 99).len(), 1);
    }

    #[test]
    fn without_any_wanted_nothing_is_kept() {
        let mut lookup = Lookup::new(0);
        assert!(lookup.draft(&[1, 1, 1, 1, 1], 8).is_empty());
        assert!(lookup.followers.is_empty());
    }
}
