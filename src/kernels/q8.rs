//! Activations as 8-bit integers: the one input format of all products with quantized weights.

use super::blocks::{BLOCK, LANES};

/// Rows of activations, quantized in blocks of 32 values.
///
/// Value `i` of block `b` stands for `scale[b] * q[b][i]`, with `q` in -127..=127. Beside them lie the sums that formats
/// with zero points and mins need. Rows are padded with zero blocks to whole superblocks of 256 values.
///
/// A block with a NaN or an infinity has a NaN scale and zero `q`: everything computed from it is NaN. A block whose
/// values all are below [`SMALLEST_ABSMAX`] counts as zero.
#[derive(Clone, Debug, Default)]
pub struct Q8Rows {
    n: usize,
    k: usize,
    padded_blocks: usize,
    q: Vec<i8>,
    scale: Vec<f32>,
    minus_sum: Vec<i32>,
    minus_low: Vec<i32>,
    minus_high: Vec<i32>,
    minus_scaled: Vec<f32>,
}

/// Below this 127 / absmax would not be finite.
pub(super) const SMALLEST_ABSMAX: f32 = 1e-30;

impl Q8Rows {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for `n` rows of `k` values. The contents are unspecified until each row is filled by
    /// [`super::Kernels::quantize_row`]. Memory is kept when it shrinks.
    ///
    /// # Panics
    /// If `k` is 0 or not a multiple of 32.
    pub fn resize(&mut self, n: usize, k: usize) {
        assert!(k > 0 && k.is_multiple_of(BLOCK), "rows of {k} values are not whole blocks of 32");
        let padded_blocks = (k / BLOCK).next_multiple_of(LANES);
        let n_blocks = n.checked_mul(padded_blocks).expect("the size of the activations overflows");
        (self.n, self.k, self.padded_blocks) = (n, k, padded_blocks);
        self.q.resize(n_blocks * BLOCK, 0);
        self.scale.resize(n_blocks, 0.0);
        self.minus_sum.resize(n_blocks, 0);
        self.minus_low.resize(n_blocks, 0);
        self.minus_high.resize(n_blocks, 0);
        self.minus_scaled.resize(n_blocks, 0.0);
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Values in a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The rows, to be filled in any order and by any thread.
    pub fn rows_mut(&mut self) -> impl ExactSizeIterator<Item = Q8RowMut<'_>> + Send {
        let (k, blocks) = (self.k, self.padded_blocks.max(1));
        // Before the first `resize` all parts are empty and so is the iterator.
        self.q
            .chunks_exact_mut(blocks * BLOCK)
            .zip(self.scale.chunks_exact_mut(blocks))
            .zip(self.minus_sum.chunks_exact_mut(blocks))
            .zip(self.minus_low.chunks_exact_mut(blocks))
            .zip(self.minus_high.chunks_exact_mut(blocks))
            .zip(self.minus_scaled.chunks_exact_mut(blocks))
            .map(move |parts| {
                let (((((q, scale), minus_sum), minus_low), minus_high), minus_scaled) = parts;
                Q8RowMut { k, q, scale, minus_sum, minus_low, minus_high, minus_scaled }
            })
    }

    /// Row `c`.
    pub(super) fn row(&self, c: usize) -> Q8Row<'_> {
        let blocks = c * self.padded_blocks..(c + 1) * self.padded_blocks;
        Q8Row {
            q: &self.q[blocks.start * BLOCK..blocks.end * BLOCK],
            scale: &self.scale[blocks.clone()],
            minus_sum: &self.minus_sum[blocks.clone()],
            minus_low: &self.minus_low[blocks.clone()],
            minus_high: &self.minus_high[blocks.clone()],
            minus_scaled: &self.minus_scaled[blocks],
        }
    }

    /// Blocks in a row, padding included: a multiple of 8.
    pub(super) fn padded_blocks(&self) -> usize {
        self.padded_blocks
    }
}

/// One row to be filled by [`super::Kernels::quantize_row`].
#[derive(Debug)]
pub struct Q8RowMut<'a> {
    pub(super) k: usize,
    pub(super) q: &'a mut [i8],
    pub(super) scale: &'a mut [f32],
    pub(super) minus_sum: &'a mut [i32],
    pub(super) minus_low: &'a mut [i32],
    pub(super) minus_high: &'a mut [i32],
    pub(super) minus_scaled: &'a mut [f32],
}

impl Q8RowMut<'_> {
    /// Writes block `b`'s scale and sums, given the sums of the first and the last 16 of its integers.
    pub(super) fn set_scale_and_sums(&mut self, b: usize, scale: f32, low: i32, high: i32) {
        self.scale[b] = scale;
        self.minus_sum[b] = -(low + high);
        self.minus_low[b] = -low;
        self.minus_high[b] = -high;
        self.minus_scaled[b] = scale * -(low + high) as f32;
    }

    /// Zeroes the blocks beyond the row's values.
    pub(super) fn clear_padding(&mut self) {
        let blocks = self.k / BLOCK;
        self.q[blocks * BLOCK..].fill(0);
        self.scale[blocks..].fill(0.0);
        self.minus_sum[blocks..].fill(0);
        self.minus_low[blocks..].fill(0);
        self.minus_high[blocks..].fill(0);
        self.minus_scaled[blocks..].fill(0.0);
    }
}

/// One filled row; all parts include the padding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Q8Row<'a> {
    /// `[blocks * 32]`
    pub q: &'a [i8],
    /// `[blocks]`
    pub scale: &'a [f32],
    /// `[blocks]`: the negative sum of a block's `q`. Sums are kept negative so that zero points and mins are added.
    pub minus_sum: &'a [i32],
    /// `[blocks]`: the same of the first 16.
    pub minus_low: &'a [i32],
    /// `[blocks]`: the same of the last 16.
    pub minus_high: &'a [i32],
    /// `[blocks]`: `scale * minus_sum`.
    pub minus_scaled: &'a [f32],
}
