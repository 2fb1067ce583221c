//! The stages that narrow a row of logits down to the tokens that may be drawn.
//!
//! With a quarter of a million tokens, nothing here sorts more than it must: biases and penalties touch single entries
//! of the row, `TopK` takes the few best in one scan, and the stages that look at probabilities in order of size sort
//! only as far as they read.
//!
//! Definitions are those of the usual tools: `RepeatPenalty` from CTRL (<https://arxiv.org/abs/1909.05858>) in the form
//! of transformers and llama.cpp, `PresenceFrequency` from OpenAI's API, `TopP` from
//! <https://arxiv.org/abs/1904.09751>, `Typical` from <https://arxiv.org/abs/2202.00666>, `MinP` from
//! <https://arxiv.org/abs/2407.01082>.

use std::cmp::Ordering;

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
        check_row(row)?;
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
                best_of_row(row, *k, &mut self.list);
                self.sorted = true;
                rest = after;
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
        let best = check_row(row)?;
        self.count(seen, chain);
        let mut edited = false;
        for stage in chain {
            edited |= self.edit_row(stage, row);
        }
        let best = if edited { max_of(row) } else { best };
        if best == f32::NEG_INFINITY {
            return Err(NoToken::AllBanned);
        }
        let at = row.iter().position(|logit| *logit == best);
        at.map(|id| id as TokenId).ok_or(NoToken::AllBanned)
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
    fn edit_row(&self, stage: &Stage, row: &mut [f32]) -> bool {
        match stage {
            Stage::LogitBias(biases) => {
                for &(id, bias) in biases {
                    if let Some(logit) = row.get_mut(id as usize) {
                        *logit = (*logit + bias).min(f32::MAX);
                    }
                }
            }
            Stage::RepeatPenalty(_) | Stage::PresenceFrequency { .. } => {
                for &(id, count) in &self.seen {
                    if let Some(logit) = row.get_mut(id as usize) {
                        *logit = penalized(stage, *logit, count);
                    }
                }
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
                    let mut sum = 0.0;
                    let cut = self.list.iter().position(|c| {
                        sum += f64::from(c.weight);
                        sum >= target
                    });
                    self.list.truncate(cut.map_or(usize::MAX, |at| (at + 1).max(self.min_keep)));
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
    list.clear();
    if k == 0 || k >= row.len() {
        list.extend(possible(row));
        list.sort_unstable_by(better);
        return;
    }
    // Plainly: collect what beats the k-th best so far, and thin out whenever the list has grown to four times k.
    let room = k.saturating_mul(4).max(256);
    let mut floor = f32::NEG_INFINITY;
    for (nth, chunk) in row.chunks(LANES).enumerate() {
        // A later token with the floor's own logit loses to the k that are there.
        if chunk.iter().fold(0, |any, logit| any | u32::from(*logit > floor)) == 0 {
            continue;
        }
        let better_ones = chunk.iter().enumerate().filter(|(_, logit)| **logit > floor);
        let first = nth * LANES;
        list.extend(better_ones.map(|(at, &logit)| Candidate { id: (first + at) as TokenId, logit, weight: 0.0 }));
        if list.len() >= room {
            list.select_nth_unstable_by(k - 1, better);
            list.truncate(k);
            floor = list[k - 1].logit;
        }
    }
    if list.len() > k {
        list.select_nth_unstable_by(k - 1, better);
        list.truncate(k);
    }
    list.sort_unstable_by(better);
}

fn possible(row: &[f32]) -> impl Iterator<Item = Candidate> {
    row.iter().enumerate().filter(|(_, logit)| **logit > f32::NEG_INFINITY).map(|(id, &logit)| Candidate {
        id: id as TokenId,
        logit,
        weight: 0.0,
    })
}

/// The best logit of a row.
///
/// # Errors
/// A logit that is NaN or positive infinity; none that is finite.
fn check_row(row: &[f32]) -> Result<f32, NoToken> {
    let bad = |x: f32| x.is_nan() | (x == f32::INFINITY);
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut any_bad = [0u32; LANES];
    for chunk in chunks {
        for (any_bad, x) in any_bad.iter_mut().zip(chunk) {
            *any_bad |= u32::from(bad(*x));
        }
    }
    if any_bad.iter().any(|&b| b != 0) || rest.iter().any(|x| bad(*x)) {
        let at = row.iter().position(|x| bad(*x)).unwrap_or(0);
        return Err(NoToken::NotFinite(at as TokenId));
    }
    let best = max_of(row);
    if best > f32::NEG_INFINITY { Ok(best) } else { Err(NoToken::AllImpossible) }
}

/// Rows are read this many logits at a time, in loops that the compiler turns into vector instructions: a scan of a
/// quarter of a million logits otherwise shows in the time of a token.
const LANES: usize = 64;

/// The largest number of `row`, negative infinity if there is none; NaN is passed over.
fn max_of(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut max = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (max, x) in max.iter_mut().zip(chunk) {
            *max = larger(*max, *x);
        }
    }
    max.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
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

/// Best first; a total order as long as no logit is NaN.
fn better(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
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
