//! Attention: see `scalar::attend` for what it computes.

use std::ops::Range;

use half::f16;

use super::attention::{AttentionState, KEY_BLOCK, Span};
use super::elementwise::{exp, soft_capped};
use super::scalar::{self, SUMS};
use super::simd::{Kernel, Simd};

/// Queries that share the loads of a key: as many as leave their sums in registers.
const QUERIES: usize = 2;
const QUERIES_OF_WIDE_VECTORS: usize = 4;

/// Keys whose dot products run side by side, so that a chain of additions is not waited for.
const KEYS: usize = 4;

/// Vectors of 16 values that are accumulated side by side.
const VALUES: usize = 2;

/// What keys and values are made of.
pub(super) trait Element: Copy + Into<f32> {
    /// `LANES` of them, widened.
    ///
    /// # Safety
    /// There are so many behind the pointer, which needs no alignment.
    unsafe fn load<S: Simd>(s: S, from: *const Self) -> S::F;
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const f16) -> S::F {
        // SAFETY: the caller's.
        unsafe { s.load_f16(from) }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const f32) -> S::F {
        // SAFETY: the caller's.
        unsafe { s.load_f(from) }
    }
}

pub(super) struct Attend<'a, E> {
    pub state: &'a mut AttentionState,
    pub which: Range<usize>,
    pub queries: &'a [f32],
    pub span: &'a Span<'a, E>,
}

impl<E: Element> Kernel for Attend<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let d = self.state.head_dim;
        if !d.is_multiple_of(SUMS) {
            return scalar::attend(self.state, self.which, self.queries, self.span);
        }
        let n_keys = self.span.keys.len() / d;
        let mut start = 0;
        while start < n_keys {
            let end = self.span.block_end(start, n_keys);
            let mut h = self.which.start;
            if S::VECTORS == 1 {
                h = self.blocks::<S, QUERIES_OF_WIDE_VECTORS>(s, h, start..end);
            }
            h = self.blocks::<S, QUERIES>(s, h, start..end);
            self.blocks::<S, 1>(s, h, start..end);
            start = end;
        }
    }
}

impl<E: Element> Attend<'_, E> {
    /// Queries from `h` on, `N` at a time, with one block of keys; returns the first that is left.
    #[inline(always)]
    fn blocks<S: Simd, const N: usize>(&mut self, s: S, mut h: usize, keys: Range<usize>) -> usize {
        while h + N <= self.which.end {
            let keys = keys.clone();
            s.vectorize(Block::<E, N> { state: self.state, queries: self.queries, span: self.span, keys, h });
            h += N;
        }
        h
    }
}

/// Queries `h..h + N` and one block of keys.
struct Block<'a, E, const N: usize> {
    state: &'a mut AttentionState,
    queries: &'a [f32],
    span: &'a Span<'a, E>,
    keys: Range<usize>,
    h: usize,
}

impl<E: Element, const N: usize> Kernel for Block<'_, E, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.state.head_dim;
        let n = self.keys.len();
        assert!(n <= KEY_BLOCK && d.is_multiple_of(SUMS));
        let queries = &self.queries[self.h * d..][..N * d];
        let keys = &self.span.keys[self.keys.start * d..self.keys.end * d];
        let values = &self.span.values[self.keys.start * d..self.keys.end * d];

        let mut scores = [[f32::NEG_INFINITY; KEY_BLOCK]; N];
        let mut i = 0;
        while i < n {
            // The last ones may be computed twice: they are the same.
            let first = if n >= KEYS { i.min(n - KEYS) } else { i };
            if n >= KEYS {
                dots::<S, E, N, KEYS>(s, queries, &keys[first * d..], d, first, &mut scores);
                i = first + KEYS;
            } else {
                dots::<S, E, N, 1>(s, queries, &keys[first * d..], d, first, &mut scores);
                i = first + 1;
            }
        }

        let mut weights = [false; N];
        for (q, scores) in scores.iter_mut().enumerate() {
            finish_scores(s, &mut scores[..], n, self.span.scale, self.span.softcap);
            let h = self.h + q;
            let max = scores.iter().fold(self.state.max[h], |max, x| max.max(*x));
            if max == f32::NEG_INFINITY {
                continue;
            }
            weights[q] = true;
            let mut sums = [s.splat(0.0); 2];
            for v in 0..KEY_BLOCK / S::LANES {
                // SAFETY: 32 scores are so many vectors.
                unsafe {
                    let at = scores.as_mut_ptr().add(v * S::LANES);
                    let p = exp(s, s.sub(s.load_f(at), s.splat(max)));
                    s.store_f(at, p);
                    let sum = v % S::VECTORS;
                    sums[sum] = if v < S::VECTORS { p } else { s.add(sums[sum], p) };
                }
            }
            let correction = scalar::exp(self.state.max[h] - max);
            self.state.sum[h] = self.state.sum[h].mul_add(correction, s.fold_16(sums));
            self.state.max[h] = max;
            if correction == 1.0 {
                continue; // No new maximum, as for most blocks of a long text.
            }
            for acc in self.state.acc[h * d..][..d].chunks_exact_mut(S::LANES) {
                // SAFETY: a chunk is a vector.
                unsafe {
                    let corrected = s.mul(s.load_f(acc.as_ptr()), s.splat(correction));
                    s.store_f(acc.as_mut_ptr(), corrected);
                }
            }
        }

        let acc = &mut self.state.acc[self.h * d..][..N * d];
        let mut from = 0;
        while from + VALUES * SUMS <= d {
            accumulate::<S, E, N, VALUES>(s, acc, values, &scores, weights, d, from);
            from += VALUES * SUMS;
        }
        while from < d {
            accumulate::<S, E, N, 1>(s, acc, values, &scores, weights, d, from);
            from += SUMS;
        }
    }
}

/// The dot products of `N` queries with `K` keys, to `scores[query][first..first + K]`.
#[inline(always)]
fn dots<S: Simd, E: Element, const N: usize, const K: usize>(
    s: S,
    queries: &[f32],
    keys: &[E],
    d: usize,
    first: usize,
    scores: &mut [[f32; KEY_BLOCK]; N],
) {
    assert!(queries.len() >= N * d && keys.len() >= K * d && d.is_multiple_of(SUMS));
    let mut sums = [[[s.splat(0.0); 2]; K]; N];
    for at in (0..d).step_by(SUMS) {
        for v in 0..S::VECTORS {
            let at = at + v * S::LANES;
            let mut x = [s.splat(0.0); N];
            for q in 0..N {
                // SAFETY: within the queries, as asserted.
                x[q] = unsafe { s.load_f(queries.as_ptr().add(q * d + at)) };
            }
            for k in 0..K {
                // SAFETY: within the keys, as asserted.
                let key = unsafe { E::load(s, keys.as_ptr().add(k * d + at)) };
                for q in 0..N {
                    sums[q][k][v] = s.fma(x[q], key, sums[q][k][v]);
                }
            }
        }
    }
    for q in 0..N {
        let (fours, rest) = sums[q].as_chunks::<4>();
        let (to_fours, to_rest) = scores[q][first..first + K].as_chunks_mut::<4>();
        for (to, sums) in to_fours.iter_mut().zip(fours) {
            *to = s.fold_16_of_4(*sums);
        }
        for (to, sums) in to_rest.iter_mut().zip(rest) {
            *to = s.fold_16(*sums);
        }
    }
}

/// Scales and caps the first `n` scores; the rest stay minus infinity.
#[inline(always)]
fn finish_scores<S: Simd>(s: S, scores: &mut [f32], n: usize, scale: f32, softcap: Option<f32>) {
    for scores in scores.chunks_exact_mut(S::LANES) {
        // SAFETY: a chunk is a vector.
        unsafe {
            let mut x = s.mul(s.load_f(scores.as_ptr()), s.splat(scale));
            if let Some(cap) = softcap {
                x = soft_capped(s, x, s.splat(cap));
            }
            s.store_f(scores.as_mut_ptr(), x);
        }
    }
    scores[n..].fill(f32::NEG_INFINITY);
}

/// `acc[q][from..from + V * 16] += scores[q][i] * values[i]` for all keys, where query q has weights.
#[inline(always)]
fn accumulate<S: Simd, E: Element, const N: usize, const V: usize>(
    s: S,
    acc: &mut [f32],
    values: &[E],
    scores: &[[f32; KEY_BLOCK]; N],
    weights: [bool; N],
    d: usize,
    from: usize,
) {
    assert!(acc.len() >= N * d && from + V * SUMS <= d);
    let mut sums = [[[s.splat(0.0); 2]; V]; N];
    for q in 0..N {
        for x in 0..V * S::VECTORS {
            // SAFETY: within the accumulators, as asserted.
            let sum = unsafe { s.load_f(acc.as_ptr().add(q * d + from + x * S::LANES)) };
            sums[q][x / S::VECTORS][x % S::VECTORS] = sum;
        }
    }
    for (i, values) in values.chunks_exact(d).enumerate().take(KEY_BLOCK) {
        for x in 0..V * S::VECTORS {
            // SAFETY: within the chunk, as asserted.
            let value = unsafe { E::load(s, values.as_ptr().add(from + x * S::LANES)) };
            for q in 0..N {
                let sum = &mut sums[q][x / S::VECTORS][x % S::VECTORS];
                *sum = s.fma(s.splat(scores[q][i]), value, *sum);
            }
        }
    }
    for q in 0..N {
        for x in 0..V * S::VECTORS {
            if weights[q] {
                let sum = sums[q][x / S::VECTORS][x % S::VECTORS];
                // SAFETY: within the accumulators, as asserted.
                unsafe { s.store_f(acc.as_mut_ptr().add(q * d + from + x * S::LANES), sum) };
            }
        }
    }
}
