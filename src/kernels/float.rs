//! Products with f32 activations, for weights of any format. Quantized weights are decoded first.
//!
//! A product has 16 running sums (see `scalar::dot_f32`). With a few columns, rows are streamed with 16 sums in lanes.
//! With many, rows become panels as in `panel.rs`, seen as columns: lanes are rows, and the 16 sums are passed through
//! one after the other.

use std::marker::PhantomData;
use std::ops::Range;

use super::blocks::Format;
use super::panel::{FoldPanel, with_scratch};
use super::scalar::{self, SUMS};
use super::simd::{Kernel, Simd, prefetch_far_ahead};
use super::{TileMut, WeightRows};

/// Up to so many columns the weights are not worth a panel.
const FEW: usize = 16;

/// Columns that a row meets side by side; the next ones find it in the cache.
const FEW_COLUMNS: usize = 4;

/// Rows streamed side by side, so that a chain of additions is not waited for.
const FEW_ROWS: usize = 4;

/// Vectors of rows in a panel.
const VECTORS: usize = 2;

/// Values of a row in a panel at a time; a multiple of every format's block.
const CHUNK: usize = 512;

/// Columns in a register tile.
const TILE: usize = 6;

/// `out[c][r] = dot(decoded weights[r], acts[c])`, as `scalar.rs` defines it.
pub(super) fn matmul_f32<S: Simd>(s: S, weights: &WeightRows<'_>, acts: &[f32], out: &mut TileMut<'_>) {
    let n_columns = acts.len() / weights.k;
    if n_columns == 0 || weights.n == 0 {
        return;
    }
    if !weights.k.is_multiple_of(SUMS) {
        return scalar::matmul_f32(weights, acts, out);
    }
    if n_columns > FEW {
        return many(s, weights, acts, out);
    }
    match weights.format {
        Format::F32 => few::<S, F32>(s, weights, acts, out),
        Format::F16 => few::<S, F16>(s, weights, acts, out),
        Format::BF16 => few::<S, BF16>(s, weights, acts, out),
        _ => few_decoded(s, weights, acts, out),
    }
}

/// A float format at compile time.
trait Load {
    const BYTES: usize;
    /// Loads `LANES` weights.
    unsafe fn load<S: Simd>(s: S, from: *const u8) -> S::F;
}

struct F32;
struct F16;
struct BF16;

impl Load for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load_f(from.cast()) }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(from.cast()) }
    }
}

impl Load for BF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { s.load_bf16(from.cast()) }
    }
}

// ---- few columns ----

fn few<S: Simd, L: Load>(s: S, weights: &WeightRows<'_>, acts: &[f32], out: &mut TileMut<'_>) {
    s.vectorize(Few::<L> { format: PhantomData, rows: weights.bytes, k: weights.k, acts, out, first_row: 0 });
}

/// Quantized weights, decoded some rows at a time.
fn few_decoded<S: Simd>(s: S, weights: &WeightRows<'_>, acts: &[f32], out: &mut TileMut<'_>) {
    let k = weights.k;
    with_scratch(FEW_ROWS * k, 0, |decoded, _| {
        for first_row in (0..weights.n).step_by(FEW_ROWS) {
            let n = FEW_ROWS.min(weights.n - first_row);
            for (i, decoded) in decoded.chunks_exact_mut(k).enumerate().take(n) {
                scalar::dequantize_row(weights.format, weights.row(first_row + i), decoded);
            }
            let decoded = &decoded[..n * k];
            // SAFETY: f32 are bytes, aligned to more than that.
            let rows = unsafe { std::slice::from_raw_parts(decoded.as_ptr().cast(), size_of_val(decoded)) };
            s.vectorize(Few::<F32> { format: PhantomData, rows, k, acts, out, first_row });
        }
    });
}

struct Few<'a, 'o, L> {
    format: PhantomData<L>,
    /// Rows of `k` weights.
    rows: &'a [u8],
    k: usize,
    /// `[columns, k]`
    acts: &'a [f32],
    /// `[columns, all rows]`; the first row's results go to column `first_row` of it.
    out: &'a mut TileMut<'o>,
    first_row: usize,
}

impl<L: Load> Kernel for Few<'_, '_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let n = self.rows.len() / (self.k * L::BYTES);
        let n_columns = self.acts.len() / self.k;
        for r in (0..n).step_by(FEW_ROWS) {
            for c in (0..n_columns).step_by(FEW_COLUMNS) {
                match n_columns - c {
                    1 => few_rows::<S, L, 1>(s, &mut self, r, n, c),
                    2 => few_rows::<S, L, 2>(s, &mut self, r, n, c),
                    3 => few_rows::<S, L, 3>(s, &mut self, r, n, c),
                    _ => few_rows::<S, L, FEW_COLUMNS>(s, &mut self, r, n, c),
                }
            }
        }
    }
}

/// Rows `r..r + 4` of the `n`, beyond the last it is repeated, and columns `first..first + COLUMNS`.
#[inline(always)]
fn few_rows<S: Simd, L: Load, const COLUMNS: usize>(s: S, few: &mut Few<'_, '_, L>, r: usize, n: usize, first: usize) {
    let k = few.k;
    let acts = &few.acts[first * k..(first + COLUMNS) * k];
    assert!(few.rows.len() == n * k * L::BYTES && k.is_multiple_of(SUMS));
    let rows: [usize; FEW_ROWS] = std::array::from_fn(|i| (r + i).min(n - 1));
    let mut sums = [[[s.splat(0.0); 2]; COLUMNS]; FEW_ROWS];
    for at in (0..k).step_by(SUMS) {
        if first == 0 && (at * L::BYTES).is_multiple_of(64) {
            for row in rows {
                let row = few.rows.as_ptr().wrapping_add((row * k + at) * L::BYTES);
                prefetch_far_ahead(s, row, 1, FEW_ROWS * k * L::BYTES);
            }
        }
        for v in 0..S::VECTORS {
            let at = at + v * S::LANES;
            let mut x = [s.splat(0.0); COLUMNS];
            for c in 0..COLUMNS {
                // SAFETY: within the activations, as asserted.
                x[c] = unsafe { s.load_f(acts.as_ptr().add(c * k + at)) };
            }
            for i in 0..FEW_ROWS {
                // SAFETY: within the rows, as asserted.
                let w = unsafe { L::load(s, few.rows.as_ptr().add((rows[i] * k + at) * L::BYTES)) };
                for c in 0..COLUMNS {
                    sums[i][c][v] = s.fma(w, x[c], sums[i][c][v]);
                }
            }
        }
    }
    for c in 0..COLUMNS {
        let out = &mut few.out.row_mut(first + c)[few.first_row + r..];
        for (out, sums) in out.iter_mut().zip(&sums[..FEW_ROWS.min(n - r)]) {
            *out = s.fold_16(sums[c]);
        }
    }
}

// ---- many columns ----

fn many<S: Simd>(s: S, weights: &WeightRows<'_>, acts: &[f32], out: &mut TileMut<'_>) {
    let k = weights.k;
    let n_columns = acts.len() / k;
    let panel_rows = VECTORS * S::LANES;
    let chunk = CHUNK.min(k);
    let sums_len = SUMS * n_columns * panel_rows;
    with_scratch(2 * panel_rows * chunk, sums_len, |panel, sums| {
        let (panel, decoded) = panel.split_at_mut(panel_rows * chunk);
        for first_row in (0..weights.n).step_by(panel_rows) {
            sums.fill(0.0);
            for start in (0..k).step_by(chunk) {
                let columns = start..k.min(start + chunk);
                for (i, decoded) in decoded.chunks_exact_mut(chunk).enumerate() {
                    // Rows beyond the last repeat it; their results are dropped.
                    let row = weights.row((first_row + i).min(weights.n - 1));
                    let format = weights.format;
                    let block = format.block_len();
                    let bytes =
                        columns.start / block * format.block_bytes()..columns.end / block * format.block_bytes();
                    s.vectorize(Decode { format, row: &row[bytes], out: &mut decoded[..columns.len()] });
                }
                s.vectorize(PackPanel { decoded, stride: chunk, len: columns.len(), panel });
                s.vectorize(Block { panel, acts, k, columns, sums });
            }
            s.vectorize(FoldPanel { sums, n_columns, first_row, out });
        }
    });
}

/// `out = decoded row`
struct Decode<'a> {
    format: Format,
    row: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.format {
            Format::F32 => decode::<S, F32>(s, self.row, self.out),
            Format::F16 => decode::<S, F16>(s, self.row, self.out),
            Format::BF16 => decode::<S, BF16>(s, self.row, self.out),
            format => scalar::dequantize_row(format, self.row, self.out),
        }
    }
}

#[inline(always)]
fn decode<S: Simd, L: Load>(s: S, row: &[u8], out: &mut [f32]) {
    let weights = row.chunks_exact(S::LANES * L::BYTES);
    for (weights, out) in weights.zip(out.chunks_exact_mut(S::LANES)) {
        // SAFETY: the chunks are vectors.
        unsafe { s.store_f(out.as_mut_ptr(), L::load(s, weights.as_ptr())) };
    }
}

/// Turns `len` values of each row into a panel `[16][len / 16][VECTORS][LANES]`: value `i` goes to `[i % 16][i / 16]`.
struct PackPanel<'a> {
    /// `[rows, stride]`
    decoded: &'a [f32],
    stride: usize,
    len: usize,
    panel: &'a mut [f32],
}

impl Kernel for PackPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let steps = self.len / SUMS;
        let vector = S::LANES;
        assert!(self.panel.len() >= self.len * VECTORS * vector && self.len.is_multiple_of(SUMS));
        for v in 0..VECTORS {
            let mut rows = [std::ptr::null(); 16];
            for l in 0..vector {
                let row = &self.decoded[(v * vector + l) * self.stride..][..self.len];
                rows[l] = row.as_ptr().cast();
            }
            for four in 0..self.len / 4 {
                // SAFETY: 4 of `len` f32 of each row.
                let columns = unsafe { s.columns_16(&rows, four * 16) };
                for (i, column) in columns.into_iter().enumerate() {
                    let (sum, step) = ((4 * four + i) % SUMS, (4 * four + i) / SUMS);
                    let at = ((sum * steps + step) * VECTORS + v) * vector;
                    // SAFETY: within the panel, as asserted.
                    unsafe { s.store_f(self.panel.as_mut_ptr().add(at), s.as_f(column)) };
                }
            }
        }
    }
}

/// Adds the products of a panel with all columns' activations `columns` to the running sums.
struct Block<'a> {
    panel: &'a [f32],
    /// `[n_columns, k]`
    acts: &'a [f32],
    k: usize,
    columns: Range<usize>,
    /// `[16][n_columns][VECTORS][LANES]`
    sums: &'a mut [f32],
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let n_columns = self.acts.len() / self.k;
        assert!(self.panel.len() >= self.columns.len() * VECTORS * S::LANES);
        assert!(self.sums.len() == SUMS * n_columns * VECTORS * S::LANES);
        assert!(self.columns.end <= self.k && self.columns.len().is_multiple_of(SUMS));
        let mut c = 0;
        while c + TILE <= n_columns {
            tile::<S, TILE>(s, &mut self, n_columns, c);
            c += TILE;
        }
        match n_columns - c {
            0 => {}
            1 => tile::<S, 1>(s, &mut self, n_columns, c),
            2 => tile::<S, 2>(s, &mut self, n_columns, c),
            3 => tile::<S, 3>(s, &mut self, n_columns, c),
            4 => tile::<S, 4>(s, &mut self, n_columns, c),
            _ => tile::<S, 5>(s, &mut self, n_columns, c),
        }
    }
}

/// Columns `first..first + COLUMNS` of a [`Block`], whose lengths have been asserted.
#[inline(always)]
fn tile<S: Simd, const COLUMNS: usize>(s: S, block: &mut Block<'_>, n_columns: usize, first: usize) {
    let vector = S::LANES;
    let steps = block.columns.len() / SUMS;
    for i in 0..SUMS {
        // SAFETY: of all sums these are some.
        let sums_at = unsafe {
            let at = (i * n_columns + first) * VECTORS * vector;
            block.sums.as_mut_ptr().add(at)
        };
        let mut sums = [[s.splat(0.0); VECTORS]; COLUMNS];
        for c in 0..COLUMNS {
            for v in 0..VECTORS {
                // SAFETY: as above.
                sums[c][v] = unsafe { s.load_f(sums_at.add((c * VECTORS + v) * vector)) };
            }
        }
        for step in 0..steps {
            let mut w = [s.splat(0.0); VECTORS];
            for v in 0..VECTORS {
                let at = ((i * steps + step) * VECTORS + v) * vector;
                // SAFETY: within the panel.
                w[v] = unsafe { s.load_f(block.panel.as_ptr().add(at)) };
            }
            for c in 0..COLUMNS {
                let at = (first + c) * block.k + block.columns.start + step * SUMS + i;
                // SAFETY: within column `first + c` of the activations.
                let x = s.splat(unsafe { *block.acts.as_ptr().add(at) });
                for v in 0..VECTORS {
                    sums[c][v] = s.fma(w[v], x, sums[c][v]);
                }
            }
        }
        for c in 0..COLUMNS {
            for v in 0..VECTORS {
                // SAFETY: as above.
                unsafe { s.store_f(sums_at.add((c * VECTORS + v) * vector), sums[c][v]) };
            }
        }
    }
}
