//! The stages that narrow a row of logits down to the tokens that may be drawn.
//!
//! With a quarter of a million tokens, nothing here reads or sorts more than it must: the row is read once (`row.rs`),
//! biases and penalties touch single entries of it, `TopK`, and `TopP` and `MinP` where they come first, list the few tokens
//! that may stay, and the stages that look at probabilities in order of size sort only as far as they read.
//!
//! Definitions are those of the usual tools: `RepeatPenalty` from CTRL (<https://arxiv.org/abs/1909.05858>) in the form
//! of transformers and llama.cpp, `PresenceFrequency` from OpenAI's API, `TopP` from
//! <https://arxiv.org/abs/1904.09751>, `Typical` from <https://arxiv.org/abs/2202.00666>, `MinP` from
//! <https://arxiv.org/abs/2407.01082>.

use std::cmp::Ordering;

use super::row::{Blocks, better, possible};
use crate::tokenizer::TokenId;

/// One step from logits to the tokens that may be drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Adds to the logits of single tokens; negative infinity bans.
    LogitBias(Vec<(TokenId, f32)>),
    /// Divides positive and multiplies negative logits of the tokens seen, once each.
    RepeatPenalty(f32),
    /// Subtracts `presence` once from the logits of tokens seen, and `frequency` for each time they were.
    PresenceFrequency {
        /// Once for a token that occurs.
        presence: f32,
        /// For each occurrence.
        frequency: f32,
    },
    /// Keeps the best this many; of equal logits the lower ids.
    TopK(usize),
    /// Keeps the tokens whose surprise is nearest the entropy, until their probabilities reach this sum.
    Typical(f32),
    /// Keeps the most probable tokens, until their probabilities reach this sum.
    TopP(f32),
    /// Keeps tokens at least this many times as probable as the best.
    MinP(f32),
    /// Divides the logits; greater than 0.
    Temperature(f32),
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: TokenId,
    /// Its logit after the stages so far.
    pub logit: f32,
    /// Its probability relative to the best candidate's, once [`Candidates::run`] has returned.
    pub weight: f32,
}

/// The tokens left, at first a whole row of logits, later a short list. Reused from token to token, so that a step
/// allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    blocks: Blocks,
    list: Vec<Candidate>,
    /// The list is in order, best first.
    sorted: bool,
    /// Tokens seen and how often, by id.
    seen: Vec<(TokenId, u32)>,
    /// Tokens that a stage which looks at probabilities leaves at least.
    min_keep: usize,
}

/// Why no token can be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoToken {
    /// A logit is NaN or infinitely large.
    NotFinite(TokenId),
    /// The model gave every token negative infinity.
    AllImpossible,
    /// Biases and bans left none.
    AllBanned,
}

impl Candidates {
    /// Stages that look at probabilities leave at least so many tokens, the best or most typical ones.
    pub fn keeping(min_keep: usize) -> Candidates {
        Candidates { min_keep, ..Candidates::default() }
    }

    /// Runs `chain` over a row of logits; the row is changed by biases and penalties. `seen` are the tokens that the
    /// penalties look at.
    ///
    /// # Errors
    /// A logit that is NaN or positive infinity; no token left.
    pub fn run(&mut self, chain: &[Stage], row: &mut [f32], seen: &[TokenId]) -> Result<&[Candidate], NoToken> {
        self.blocks.read(row)?;
        self.count(seen, chain);
        let mut rest = chain;
        while let Some((stage, after)) = rest.split_first() {
            if !self.edit_row(stage, row) {
                break;
            }
            rest = after;
        }
        match rest.split_first() {
            Some((Stage::TopK(k), after)) if (1..row.len()).contains(k) => {
                self.blocks.best_few(row, *k, &mut self.list);
                self.sorted = true;
                rest = after;
            }
            Some((Stage::TopP(p), after)) => {
                self.top_p_of_row(row, *p);
                rest = after;
            }
            Some((Stage::MinP(p), _)) if *p > 0.0 && self.min_keep == 0 => {
                // The stage itself cuts, by weights; those below this are below `p` whatever rounding does.
                self.blocks.at_least(row, self.blocks.best() + p.ln() - 0.01, &mut self.list);
                self.sorted = false;
            }
            _ => {
                self.list.clear();
                self.list.extend(possible(row));
                self.sorted = false;
            }
        }
        for stage in rest {
            self.narrow(stage);
        }
        self.weigh();
        if self.list.is_empty() {
            return Err(NoToken::AllBanned);
        }
        Ok(&self.list)
    }

    /// The best token of a row after the edits of `chain`, without a list: what temperature 0 draws. Of equal logits
    /// the lowest id.
    ///
    /// # Errors
    /// As [`Candidates::run`].
    pub fn best(&mut self, chain: &[Stage], row: &mut [f32], seen: &[TokenId]) -> Result<TokenId, NoToken> {
        self.blocks.read(row)?;
        self.count(seen, chain);
        for stage in chain {
            self.edit_row(stage, row);
        }
        let may_be = self.blocks.best() > f32::NEG_INFINITY;
        self.blocks.best_token(row).filter(|_| may_be).ok_or(NoToken::AllBanned)
    }

    /// The list that [`Candidates::run`] left.
    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// Sum of the weights of the list that [`Candidates::run`] left.
    pub fn total(&self) -> f64 {
        self.list.iter().map(|c| f64::from(c.weight)).sum()
    }

    /// The candidate at which the running sum of weights passes `target`, which is below [`Candidates::total`].
    pub fn at(&self, target: f64) -> Option<TokenId> {
        let mut sum = 0.0;
        for candidate in &self.list {
            sum += f64::from(candidate.weight);
            if target < sum {
                return Some(candidate.id);
            }
        }
        // Only rounding leads here; the best candidate always has a weight of 1.
        self.list.iter().rfind(|c| c.weight > 0.0).map(|c| c.id)
    }

    fn count(&mut self, seen: &[TokenId], chain: &[Stage]) {
        self.seen.clear();
        let wanted =
            chain.iter().any(|stage| matches!(stage, Stage::RepeatPenalty(_) | Stage::PresenceFrequency { .. }));
        if !wanted {
            return;
        }
        self.seen.extend(seen.iter().map(|&id| (id, 1)));
        self.seen.sort_unstable();
        self.seen.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0 };
            same
        });
    }

    /// Applies a stage that changes single logits; false if it is none of these.
    fn edit_row(&mut self, stage: &Stage, row: &mut [f32]) -> bool {
        match stage {
            Stage::LogitBias(biases) => {
                for &(id, bias) in biases {
                    if let Some(logit) = row.get_mut(id as usize) {
                        *logit = (*logit + bias).min(f32::MAX);
                    }
                }
                self.blocks.update(row, biases.iter().map(|bias| bias.0));
            }
            Stage::RepeatPenalty(_) | Stage::PresenceFrequency { .. } => {
                for &(id, count) in &self.seen {
                    if let Some(logit) = row.get_mut(id as usize) {
                        *logit = penalized(stage, *logit, count);
                    }
                }
                self.blocks.update(row, self.seen.iter().map(|seen| seen.0));
            }
            _ => return false,
        }
        true
    }

    fn narrow(&mut self, stage: &Stage) {
        match stage {
            Stage::LogitBias(biases) => {
                for candidate in &mut self.list {
                    for &(id, bias) in biases {
                        if id == candidate.id {
                            candidate.logit = (candidate.logit + bias).min(f32::MAX);
                        }
                    }
                }
                self.list.retain(|c| c.logit > f32::NEG_INFINITY);
                self.sorted = false;
            }
            Stage::RepeatPenalty(_) | Stage::PresenceFrequency { .. } => {
                for candidate in &mut self.list {
                    if let Ok(at) = self.seen.binary_search_by_key(&candidate.id, |s| s.0) {
                        candidate.logit = penalized(stage, candidate.logit, self.seen[at].1);
                    }
                }
                self.sorted = false;
            }
            Stage::TopK(k) if (1..self.list.len()).contains(k) => self.top_k(*k),
            Stage::TopK(_) => {}
            Stage::Typical(p) => self.typical(*p),
            Stage::TopP(p) => {
                let target = f64::from(*p) * self.weigh();
                if !self.sorted {
                    let n = sort_until(&mut self.list, better, target, self.min_keep);
                    self.list.truncate(n);
                    self.sorted = true;
                } else {
                    self.list.truncate(reaches(&self.list, target, self.min_keep).unwrap_or(usize::MAX));
                }
            }
            Stage::MinP(p) => {
                self.weigh();
                let n_kept = self.list.iter().filter(|c| c.weight >= *p).count();
                match self.min_keep.min(self.list.len()) {
                    least if n_kept < least => self.top_k(least),
                    _ => self.list.retain(|c| c.weight >= *p),
                }
            }
            Stage::Temperature(t) => {
                // Relative to the best logit: a tiny temperature then gives -infinity, never NaN.
                let max = self.max_logit();
                for candidate in &mut self.list {
                    candidate.logit = (candidate.logit - max) / t;
                }
            }
        }
    }

    /// `TopP` of a whole row: lists no more than it reads.
    fn top_p_of_row(&mut self, row: &[f32], p: f32) {
        let max = self.blocks.best();
        let weights = row.iter().map(|logit| f64::from((logit - max).exp()));
        let target = f64::from(p) * weights.sum::<f64>();
        let mut n_listed = self.min_keep.max(256);
        loop {
            self.blocks.best_few(row, n_listed, &mut self.list);
            self.sorted = true;
            self.weigh();
            match reaches(&self.list, target, self.min_keep) {
                Some(n) => return self.list.truncate(n),
                None if n_listed >= row.len() => return,
                None => n_listed = n_listed.saturating_mul(8),
            }
        }
    }

    fn top_k(&mut self, k: usize) {
        if !self.sorted {
            self.list.select_nth_unstable_by(k - 1, better);
            self.list.truncate(k);
            self.list.sort_unstable_by(better);
            self.sorted = true;
        }
        self.list.truncate(k);
    }

    fn typical(&mut self, p: f32) {
        let total = self.weigh();
        let ln_total = total.ln();
        let max = f64::from(self.max_logit());
        // ln p = logit - max - ln(total); a weight of 0 adds nothing to the entropy.
        let ln_p = move |c: &Candidate| f64::from(c.logit) - max - ln_total;
        let entropy: f64 =
            self.list.iter().filter(|c| c.weight > 0.0).map(|c| -f64::from(c.weight) / total * ln_p(c)).sum();
        let distance = move |c: &Candidate| (-ln_p(c) - entropy).abs();
        let nearer = move |a: &Candidate, b: &Candidate| distance(a).total_cmp(&distance(b)).then_with(|| better(a, b));
        let n = sort_until(&mut self.list, nearer, f64::from(p) * total, self.min_keep);
        // Equal logits are equally typical: the reference keeps or drops them together.
        if let Some(last) = n.checked_sub(1).and_then(|at| self.list.get(at)) {
            let limit = distance(last);
            self.list.retain(|c| distance(c) <= limit);
            // Selection leaves the rest in an order of its own, which must not decide what is drawn.
            self.list[n..].sort_unstable_by(better);
        }
        self.sorted = false;
    }

    /// Sets all weights, `exp(logit - best logit)`, and returns their sum.
    fn weigh(&mut self) -> f64 {
        let max = self.max_logit();
        let mut total = 0.0;
        for candidate in &mut self.list {
            candidate.weight = (candidate.logit - max).exp();
            total += f64::from(candidate.weight);
        }
        total
    }

    fn max_logit(&self) -> f32 {
        if self.sorted {
            return self.list.first().map_or(0.0, |c| c.logit);
        }
        self.list.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.logit))
    }
}

/// The best `k` tokens of a row, best first, of equal logits the lower ids first; negative infinity is left out. 0 is
/// all of them. NaN must not occur.
pub fn best_of_row(row: &[f32], k: usize, list: &mut Vec<Candidate>) {
    let mut blocks = Blocks::default();
    blocks.update(row, 0..row.len() as TokenId);
    blocks.best_few(row, k, list);
}

fn penalized(stage: &Stage, logit: f32, count: u32) -> f32 {
    let logit = match *stage {
        Stage::RepeatPenalty(penalty) if logit > 0.0 => logit / penalty,
        Stage::RepeatPenalty(penalty) => logit * penalty,
        Stage::PresenceFrequency { presence, frequency } => logit - presence - frequency * count as f32,
        _ => logit,
    };
    // A penalty below 1 is a reward, which may overflow.
    logit.min(f32::MAX)
}

/// How many of a sorted list it takes for their weights to sum to `target`, and at least `least`; `None` where all of them
/// do not.
fn reaches(list: &[Candidate], target: f64, least: usize) -> Option<usize> {
    let mut sum = 0.0;
    let last = list.iter().position(|c| {
        sum += f64::from(c.weight);
        sum >= target
    });
    last.map(|at| (at + 1).max(least))
}

/// Brings the first candidates in the order of `before` to the front, as many as it takes for their weights to sum to
/// `target` (at least one, and at least `least`), and returns how many. Sorts piece by piece, since a few usually do.
fn sort_until(
    list: &mut [Candidate],
    before: impl Fn(&Candidate, &Candidate) -> Ordering,
    target: f64,
    least: usize,
) -> usize {
    let (mut start, mut piece, mut sum) = (0, 256, 0.0);
    while start < list.len() {
        let rest = &mut list[start..];
        let n = piece.min(rest.len());
        if n < rest.len() {
            rest.select_nth_unstable_by(n - 1, &before);
        }
        rest[..n].sort_unstable_by(&before);
        for (at, candidate) in rest[..n].iter().enumerate() {
            sum += f64::from(candidate.weight);
            if sum >= target && start + at + 1 >= least {
                return start + at + 1;
            }
        }
        start += n;
        piece *= 8;
    }
    list.len()
}
