//! What attention carries from one span of keys to the next.

use half::f16;

use super::scalar::{SUMS, fold};

/// Keys that are weighed together. Blocks end at multiples of this many *absolute positions*, so that the bits of a
/// result do not depend on how a cache is laid out.
pub const KEY_BLOCK: usize = 32;

/// The running softmax of several queries that attend to the same keys.
#[derive(Clone, Debug, Default)]
pub struct AttentionState {
    pub(super) head_dim: usize,
    /// `[n_queries]`: the largest score so far.
    pub(super) max: Vec<f32>,
    /// `[n_queries]`: the sum of `exp(score - max)`.
    pub(super) sum: Vec<f32>,
    /// `[n_queries, head_dim]`: the sum of `exp(score - max) * value`.
    pub(super) acc: Vec<f32>,
}

impl AttentionState {
    /// For no queries; [`AttentionState::reset`] makes it useful.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts again, for `n_queries` queries of `head_dim` values. Memory is kept.
    pub fn reset(&mut self, n_queries: usize, head_dim: usize) {
        self.head_dim = head_dim;
        self.max.clear();
        self.max.resize(n_queries, f32::NEG_INFINITY);
        self.sum.clear();
        self.sum.resize(n_queries, 0.0);
        self.acc.clear();
        self.acc.resize(n_queries * head_dim, 0.0);
    }

    /// Queries it was reset for.
    pub fn n_queries(&self) -> usize {
        self.max.len()
    }

    /// Turns a block's scores into weights, moves `max` and `sum` of query `h` on, and returns the factor for what was
    /// accumulated before. `None` if nothing has a finite score yet: then the block weighs nothing.
    pub(super) fn weigh(&mut self, h: usize, scores: &mut [f32; KEY_BLOCK], exp: impl Fn(f32) -> f32) -> Option<f32> {
        let max = scores.iter().fold(self.max[h], |max, s| max.max(*s));
        if max == f32::NEG_INFINITY {
            return None;
        }
        scores.iter_mut().for_each(|s| *s = exp(*s - max));
        let correction = exp(self.max[h] - max);
        let pairs: [f32; SUMS] = std::array::from_fn(|i| scores[i] + scores[i + SUMS]);
        self.sum[h] = self.sum[h].mul_add(correction, fold(pairs));
        self.max[h] = max;
        Some(correction)
    }
}

/// Sizes and constants of attention in one layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; query head `h` reads head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Cap on the scaled scores.
    pub softcap: f32,
    /// Keys a query sees, itself included; `None` sees all.
    pub window: Option<usize>,
}

/// Consecutive keys and values of one KV head, and how scores are made.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a, E = f16> {
    /// `[n_keys, head_dim]`, f16 or f32
    pub keys: &'a [E],
    /// `[n_keys, head_dim]`
    pub values: &'a [E],
    /// The absolute position of the first key. A range of positions that is handed over in several spans is cut at
    /// multiples of [`KEY_BLOCK`] only.
    pub first_position: usize,
    /// Scores are `dot(query, key) * scale`,
    pub scale: f32,
    /// and then `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

impl<E> Span<'_, E> {
    /// The end of the block that begins with key `start` of the span.
    pub(super) fn block_end(&self, start: usize, n_keys: usize) -> usize {
        let position = self.first_position + start;
        n_keys.min(start + KEY_BLOCK - position % KEY_BLOCK)
    }
}
