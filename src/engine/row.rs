//! A row of logits of a whole vocabulary, read as seldom as can be.
//!
//! A quarter of a million logits are a megabyte: every pass over them shows in the time of a token. So a row is read once,
//! for the largest logit of each block ([`Blocks`]); the best token and the best few are then found in the few blocks that
//! can have them. The loops are written such that the compiler makes vector instructions of them.

use std::cmp::Ordering;

use super::chain::{Candidate, NoToken};
use crate::tokenizer::TokenId;

/// Logits in a block.
const BLOCK: usize = 128;
/// Numbers that a loop treats side by side.
const LANES: usize = 16;

/// The largest logit of each block of a row. Reused from row to row, so that a step allocates nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    maxima: Vec<f32>,
    /// Of [`Blocks::best_few`].
    scratch: Vec<f32>,
}

impl Blocks {
    /// Reads a row.
    ///
    /// # Errors
    /// A logit that is NaN or positive infinity; none that is finite.
    pub(super) fn read(&mut self, row: &[f32]) -> Result<(), NoToken> {
        if has_bad(row) {
            let at = row.iter().position(|x| is_bad(*x)).unwrap_or(0);
            return Err(NoToken::NotFinite(at as TokenId));
        }
        self.read_again(row);
        if self.best() > f32::NEG_INFINITY { Ok(()) } else { Err(NoToken::AllImpossible) }
    }

    /// Notes that the logits of these tokens have changed.
    pub(super) fn update(&mut self, row: &[f32], changed: impl ExactSizeIterator<Item = TokenId>) {
        if changed.len() >= self.maxima.len() {
            return self.read_again(row);
        }
        for id in changed {
            let at = id as usize / BLOCK;
            if let Some(max) = self.maxima.get_mut(at) {
                *max = max_of(&row[at * BLOCK..row.len().min((at + 1) * BLOCK)]);
            }
        }
    }

    /// The largest logit of the row that was read; negative infinity where all of them are.
    pub(super) fn best(&self) -> f32 {
        max_of(&self.maxima)
    }

    /// The lowest token with the largest logit.
    pub(super) fn best_token(&self, row: &[f32]) -> Option<TokenId> {
        let best = self.best();
        let start = self.maxima.iter().position(|max| *max == best)? * BLOCK;
        row[start..].iter().position(|logit| *logit == best).map(|at| (start + at) as TokenId)
    }

    /// The best `k` tokens of the row that was read, best first, of equal logits the lower ids first; negative infinity is
    /// left out. 0 is all of them.
    pub(super) fn best_few(&mut self, row: &[f32], k: usize, list: &mut Vec<Candidate>) {
        list.clear();
        if k == 0 || k >= self.maxima.len() {
            list.extend(possible(row));
        } else {
            // The k best blocks have a logit each that is no less than this.
            self.scratch.clone_from(&self.maxima);
            let (_, &mut floor, _) = self.scratch.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
            self.at_least(row, floor, list);
        }
        if k > 0 && list.len() > k {
            list.select_nth_unstable_by(k - 1, better);
            list.truncate(k);
        }
        list.sort_unstable_by(better);
    }

    /// The tokens of the row that was read whose logits are `floor` or more, by id; negative infinity is left out.
    pub(super) fn at_least(&self, row: &[f32], floor: f32, list: &mut Vec<Candidate>) {
        list.clear();
        for (nth, logits) in row.chunks(BLOCK).enumerate() {
            if self.maxima[nth] >= floor {
                let first = nth * BLOCK;
                let kept =
                    logits.iter().enumerate().filter(|(_, logit)| **logit >= floor && **logit > f32::NEG_INFINITY);
                list.extend(kept.map(|(at, &logit)| Candidate { id: (first + at) as TokenId, logit, weight: 0.0 }));
            }
        }
    }

    fn read_again(&mut self, row: &[f32]) {
        self.maxima.clear();
        self.maxima.extend(row.chunks(BLOCK).map(max_of));
    }
}

/// All tokens but those of negative infinity, by id.
pub(super) fn possible(row: &[f32]) -> impl Iterator<Item = Candidate> {
    row.iter().enumerate().filter(|(_, logit)| **logit > f32::NEG_INFINITY).map(|(id, &logit)| Candidate {
        id: id as TokenId,
        logit,
        weight: 0.0,
    })
}

/// Best first; a total order as long as no logit is NaN.
pub(super) fn better(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

/// The sum of `exp(logit - max)` over a row, as log-probabilities need it: to some 1e-6 of itself, and the same on every
/// machine.
pub(super) fn exp_sum(row: &[f32], max: f32) -> f64 {
    let mut total = 0.0;
    for part in row.chunks(LANES * 64) {
        let mut sums = [0.0f32; LANES];
        let (chunks, rest) = part.as_chunks::<LANES>();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += exp(*x - max);
            }
        }
        total += sums.iter().map(|sum| f64::from(*sum)).sum::<f64>();
        total += rest.iter().map(|x| f64::from(exp(*x - max))).sum::<f64>();
    }
    total
}

/// `exp(x)` for `x` of at most 0, within 2e-7 of itself; 0 where that is below the normal numbers.
///
/// `2^n * exp(r)`, where `n` is the integer nearest to `x / ln 2` and `r` what remains: Cody and Waite, "Software Manual for
/// the Elementary Functions", 1980. The sum with a number whose last bit is worth 1 rounds to `n` and leaves it in the low
/// bits; exp(r) is its Taylor series.
fn exp(x: f32) -> f32 {
    const TO_INTEGER: f32 = 12_582_912.0; // 1.5 * 2^23
    const LN_2_HIGH: f32 = 0.693_359_4; // 355 / 512, so that its products with n are exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let is_tiny = x < -87.0;
    let x = if is_tiny { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + TO_INTEGER;
    let n = shifted - TO_INTEGER;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let series = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r / 720.0)))));
    let power = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    if is_tiny { 0.0 } else { series * power }
}

/// What a model must not give.
fn is_bad(x: f32) -> bool {
    x.is_nan() || x == f32::INFINITY
}

fn has_bad(row: &[f32]) -> bool {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut any = [0u32; LANES];
    for chunk in chunks {
        for (any, x) in any.iter_mut().zip(chunk) {
            *any |= u32::from(x.is_nan() | (*x == f32::INFINITY));
        }
    }
    any.iter().any(|&any| any != 0) || rest.iter().any(|x| is_bad(*x))
}

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
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for at in 0..width {
            max[at] = larger(max[at], max[at + width]);
        }
    }
    rest.iter().copied().fold(max[0], larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_by_blocks_is_what_is_found_one_by_one() {
        for n in [1, 15, 127, 128, 129, 1000] {
            let mut rng = super::super::rng::Rng::new(n as u64);
            let mut row: Vec<f32> = (0..n).map(|_| (rng.next_f64() * 20.0).round() as f32 - 15.0).collect();
            let mut blocks = Blocks::default();
            blocks.read(&row).expect("finite");
            for changed in [vec![], vec![0], vec![n - 1, n / 2], (0..n).collect()] {
                changed.iter().for_each(|&at| row[at] = -row[at] * 0.5);
                blocks.update(&row, changed.iter().map(|&at| at as TokenId));
                let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(blocks.best(), best);
                assert_eq!(blocks.best_token(&row), row.iter().position(|x| *x == best).map(|at| at as TokenId));
                let mut list = Vec::new();
                blocks.at_least(&row, 1.0, &mut list);
                assert!(list.iter().map(|c| c.id as usize).eq((0..n).filter(|&at| row[at] >= 1.0)));
            }
        }
    }

    #[test]
    fn the_fast_exponential_is_the_exact_one() {
        for i in 0..100_000 {
            let x = -(i as f32) / 1000.0;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got - want).abs() <= 3e-7 * want || (x < -87.0 && got == 0.0), "{x}: {got} {want}");
        }
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY)), (1.0, 0.0));
        let row: Vec<f32> = (0..5000).map(|i| -(i as f32) / 100.0).collect();
        let want: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        assert!((exp_sum(&row, 0.0) / want - 1.0).abs() < 1e-6);
    }
}
