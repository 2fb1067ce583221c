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
    sum_low: Vec<i32>,
    sum_high: Vec<i32>,
    scaled_sum: Vec<f32>,
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
        assert!(
            k > 0 && k.is_multiple_of(BLOCK),
            "rows of {k} values are not whole blocks of 32"
        );
        let padded_blocks = (k / BLOCK).next_multiple_of(LANES);
        let n_blocks = n
            .checked_mul(padded_blocks)
            .expect("the size of the activations overflows");
        (self.n, self.k, self.padded_blocks) = (n, k, padded_blocks);
        self.q.resize(n_blocks * BLOCK, 0);
        self.scale.resize(n_blocks, 0.0);
        self.sum_low.resize(n_blocks, 0);
        self.sum_high.resize(n_blocks, 0);
        self.scaled_sum.resize(n_blocks, 0.0);
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
            .zip(self.sum_low.chunks_exact_mut(blocks))
            .zip(self.sum_high.chunks_exact_mut(blocks))
            .zip(self.scaled_sum.chunks_exact_mut(blocks))
            .map(
                move |((((q, scale), sum_low), sum_high), scaled_sum)| Q8RowMut {
                    k,
                    q,
                    scale,
                    sum_low,
                    sum_high,
                    scaled_sum,
                },
            )
    }

    /// Row `c`.
    pub(super) fn row(&self, c: usize) -> Q8Row<'_> {
        let blocks = c * self.padded_blocks..(c + 1) * self.padded_blocks;
        Q8Row {
            q: &self.q[blocks.start * BLOCK..blocks.end * BLOCK],
            scale: &self.scale[blocks.clone()],
            sum_low: &self.sum_low[blocks.clone()],
            sum_high: &self.sum_high[blocks.clone()],
            scaled_sum: &self.scaled_sum[blocks],
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
    pub(super) sum_low: &'a mut [i32],
    pub(super) sum_high: &'a mut [i32],
    pub(super) scaled_sum: &'a mut [f32],
}

impl Q8RowMut<'_> {
    /// Writes block `b`'s scale and sums, given the sums of the first and the last 16 of its integers.
    pub(super) fn set_scale_and_sums(&mut self, b: usize, scale: f32, low: i32, high: i32) {
        self.scale[b] = scale;
        self.sum_low[b] = low;
        self.sum_high[b] = high;
        self.scaled_sum[b] = scale * (low + high) as f32;
    }

    /// Zeroes the blocks beyond the row's values.
    pub(super) fn clear_padding(&mut self) {
        let blocks = self.k / BLOCK;
        self.q[blocks * BLOCK..].fill(0);
        self.scale[blocks..].fill(0.0);
        self.sum_low[blocks..].fill(0);
        self.sum_high[blocks..].fill(0);
        self.scaled_sum[blocks..].fill(0.0);
    }
}

/// One filled row; all parts include the padding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Q8Row<'a> {
    /// `[blocks * 32]`
    pub q: &'a [i8],
    /// `[blocks]`
    pub scale: &'a [f32],
    /// `[blocks]`: the sum of the first 16 of a block's `q`.
    pub sum_low: &'a [i32],
    /// `[blocks]`: the sum of the last 16.
    pub sum_high: &'a [i32],
    /// `[blocks]`: `scale * (sum_low + sum_high)`.
    pub scaled_sum: &'a [f32],
}
