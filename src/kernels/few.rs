//! Products of quantized weights with a few columns: every row of weights is streamed once, 8 lanes looking at one row
//! or 16 at two, and each superblock meets all columns while it is in registers. More columns are `panel.rs`'s work.
//!
//! A superblock is unpacked into 8 vectors such that a lane has 4 bytes of always the same half of the same block:
//! vector `[x][parity]` holds bytes `4 x..` of the first halves of 4 blocks, then of their second halves. So the dot
//! product with a column, whose bytes are stored in this order, is 8 vector operations without any shuffle, and two
//! shuffles more bring the sums of halves of the 8 blocks side by side.

use std::marker::PhantomData;

use super::blocks::{Format, LANES};
use super::panel;
use super::q8::{FEW, Q8Rows, RowSuperblock};
use super::simd::{Kernel, Rows, Simd, prefetch_ahead, prefetch_far_ahead};
use super::unpack::{self, Bytes, Scales, Stream, Unpack, zero_shift};
use super::{TileMut, WeightRows};

/// `out[c][r] = dot(weights[r], acts[c])` as `scalar.rs` defines it.
pub(super) fn matmul_q8<S: Simd>(s: S, weights: &WeightRows<'_>, acts: &Q8Rows, out: &mut TileMut<'_>) {
    match weights.format {
        Format::F32 | Format::F16 | Format::BF16 => {}
        Format::Q4_0 => matmul::<S, unpack::Q4_0>(s, weights, acts, out),
        Format::Q4_1 => matmul::<S, unpack::Q4_1>(s, weights, acts, out),
        Format::Q5_0 => matmul::<S, unpack::Q5_0>(s, weights, acts, out),
        Format::Q5_1 => matmul::<S, unpack::Q5_1>(s, weights, acts, out),
        Format::Q8_0 => matmul::<S, unpack::Q8_0>(s, weights, acts, out),
        Format::Q2_K => matmul::<S, unpack::Q2_K>(s, weights, acts, out),
        Format::Q3_K => matmul::<S, unpack::Q3_K>(s, weights, acts, out),
        Format::Q4_K => matmul::<S, unpack::Q4_K>(s, weights, acts, out),
        Format::Q5_K => matmul::<S, unpack::Q5_K>(s, weights, acts, out),
        Format::Q6_K => matmul::<S, unpack::Q6_K>(s, weights, acts, out),
        Format::IQ4_NL => matmul::<S, unpack::IQ4_NL>(s, weights, acts, out),
        Format::IQ4_XS => matmul::<S, unpack::IQ4_XS>(s, weights, acts, out),
    }
}

fn matmul<S: Simd, U: Unpack>(s: S, weights: &WeightRows<'_>, acts: &Q8Rows, out: &mut TileMut<'_>) {
    let format = PhantomData::<U>;
    match acts.n() {
        0 => {}
        _ if weights.n == 0 => {}
        1 => s.vectorize(Few::<U, 1> { format, weights, acts, out }),
        2..=FEW => s.vectorize(Few::<U, FEW> { format, weights, acts, out }),
        _ => panel::matmul::<S, U, panel::Plain>(s, weights, acts, out),
    }
}

/// Tiles of rows up to so many bytes are as good as one stream, see [`prefetch_ahead`]: no row is much ahead of another.
const SMALL_TILE: usize = 3072;

/// Rows whose results are kept before they are written: 4 cache lines of a column.
const RESULTS: usize = 64;

/// With `COLUMNS` columns at most.
struct Few<'a, 'o, U, const COLUMNS: usize> {
    format: PhantomData<U>,
    weights: &'a WeightRows<'a>,
    acts: &'a Q8Rows,
    /// `[acts.n(), weights.n]`
    out: &'a mut TileMut<'o>,
}

impl<U: Unpack, const COLUMNS: usize> Kernel for Few<'_, '_, U, COLUMNS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        match S::ROW_VECTORS {
            // One column is read as often as the weights are: there is nothing to share.
            2 if COLUMNS > 1 => self.tiles::<S, 2>(s),
            _ => self.tiles::<S, 1>(s),
        }
    }
}

impl<U: Unpack, const COLUMNS: usize> Few<'_, '_, U, COLUMNS> {
    /// All rows, as many at a time as `VECTORS` vectors hold.
    #[inline(always)]
    fn tiles<S: Simd, const VECTORS: usize>(&mut self, s: S) {
        let n_columns = if COLUMNS == 1 { 1 } else { self.acts.n().min(COLUMNS) };
        let superblocks = self.acts.padded_blocks() / LANES;
        let mut columns: [&[RowSuperblock]; COLUMNS] = [&[]; COLUMNS];
        for c in 0..n_columns {
            columns[c] = &self.acts.row(c)[..superblocks];
        }
        // Results are far apart from column to column: they are written some cache lines at a time.
        let mut results = [[0.0; RESULTS]; COLUMNS];
        for start in (0..self.weights.n).step_by(RESULTS) {
            let n = RESULTS.min(self.weights.n - start);
            for r in (0..n).step_by(S::ROWS * VECTORS) {
                let sums = self.tile::<S, VECTORS>(s, &columns, n_columns, start + r);
                for c in 0..n_columns {
                    for v in 0..VECTORS {
                        let folded = s.fold_rows(s.alternate(sums[c][v]));
                        results[c][r + v * S::ROWS..][..S::ROWS].copy_from_slice(&folded[..S::ROWS]);
                    }
                }
            }
            for c in 0..n_columns {
                self.out.row_mut(c)[start..start + n].copy_from_slice(&results[c][..n]);
            }
        }
    }

    /// The sums of the rows from `r` on.
    #[inline(always)]
    fn tile<S: Simd, const VECTORS: usize>(
        &self,
        s: S,
        columns: &[&[RowSuperblock]; COLUMNS],
        n_columns: usize,
        r: usize,
    ) -> [[S::F; VECTORS]; COLUMNS] {
        let (weights, n) = (self.weights, self.weights.n);
        let bytes = U::FORMAT.superblock_bytes();
        // Where rows are lacking, the last one is done again.
        let mut rows = [[weights.row(r); 2]; VECTORS];
        for (v, rows) in rows.iter_mut().enumerate() {
            for (i, row) in rows.iter_mut().enumerate().take(S::ROWS) {
                *row = weights.row((r + v * S::ROWS + i).min(n - 1));
            }
        }
        let mut sums = [[s.splat(0.0); VECTORS]; COLUMNS];
        let full = weights.row_bytes / bytes;
        let tile_bytes = S::ROWS * VECTORS * weights.row_bytes;
        for b in 0..full {
            if COLUMNS == 1 && tile_bytes <= SMALL_TILE {
                // The rows lie one behind the other: together they are one stream.
                let stream = bytes * S::ROWS * VECTORS;
                prefetch_ahead(s, rows[0][0].as_ptr().wrapping_add(b * stream), stream);
            } else {
                for row in rows.iter().flat_map(|rows| &rows[..S::ROWS]) {
                    prefetch_far_ahead(s, row.as_ptr().wrapping_add(b * bytes), bytes, tile_bytes);
                }
            }
            let mut superblocks = [Superblock::zero(s); VECTORS];
            for (superblock, rows) in superblocks.iter_mut().zip(&rows) {
                let blocks = [&rows[0][b * bytes..][..bytes], &rows[1][b * bytes..][..bytes]];
                *superblock = Superblock::new::<U>(s, blocks);
            }
            for c in 0..n_columns {
                add_products::<S, U, VECTORS>(s, &superblocks, &columns[c][b], &mut sums[c]);
            }
        }
        if full * bytes < weights.row_bytes {
            // What the row lacks of a superblock has zero scales.
            let mut superblocks = [Superblock::zero(s); VECTORS];
            for (superblock, rows) in superblocks.iter_mut().zip(&rows) {
                let mut padded = [[0u8; panel::MAX_SUPERBLOCK_BYTES]; 2];
                for (padded, row) in padded.iter_mut().zip(rows) {
                    let rest = &row[full * bytes..];
                    padded[..rest.len()].copy_from_slice(rest);
                }
                *superblock = Superblock::new::<U>(s, [&padded[0][..bytes], &padded[1][..bytes]]);
            }
            for c in 0..n_columns {
                add_products::<S, U, VECTORS>(s, &superblocks, &columns[c][full], &mut sums[c]);
            }
        }
        sums
    }
}

/// An unpacked superblock of each row.
#[derive(Clone, Copy)]
struct Superblock<S: Simd> {
    /// `[x][parity]`, as in [`RowSuperblock`].
    q: [[S::I; 2]; 4],
    /// In the order of blocks of [`RowSuperblock`].
    scales: Scales<S::F>,
}

impl<S: Simd> Superblock<S> {
    #[inline(always)]
    fn zero(s: S) -> Self {
        let scales = Scales { scale: [s.splat(0.0); 2], min: [s.splat(0.0); 2] };
        Superblock { q: [[s.splat_i(0); 2]; 4], scales }
    }

    #[inline(always)]
    fn new<U: Unpack>(s: S, blocks: Rows<&[u8]>) -> Self {
        let mut scales = U::scales(s, blocks);
        for half in 0..2 {
            scales.scale[half] = s.even_odd(scales.scale[half]);
            scales.min[half] = s.even_odd(scales.min[half]);
        }
        let mut stream = RowStream { s, blocks, unpacked: [s.splat_i(0); LANES] };
        let mut q = [[s.splat_i(0); 2]; 4];
        if let Some(at) = U::PAIRS_AT {
            // Transposed first: half the shuffles.
            let mut packed = [s.splat_i(0); 4];
            for m in 0..4 {
                packed[m] = stream.bytes(at + 32 * m).vectors[0];
            }
            for (q, packed) in q.iter_mut().zip(s.transpose_4(packed)) {
                let packed = Bytes::new(s, [packed]);
                *q = [packed.bits(0, 0x0f).vectors[0], packed.bits(4, 0x0f).vectors[0]];
            }
        } else {
            U::unpack(&mut stream);
            for parity in 0..2 {
                let blocks = [0, 2, 4, 6].map(|j| stream.unpacked[j + parity]);
                for (q, x) in q.iter_mut().zip(s.transpose_4(blocks)) {
                    q[parity] = x;
                }
            }
        }
        Superblock { q, scales }
    }
}

/// Adds the products of superblocks of several vectors of rows with one of a column to the column's running sums, which
/// are in the order of blocks of [`RowSuperblock`].
#[inline(always)]
fn add_products<S: Simd, U: Unpack, const VECTORS: usize>(
    s: S,
    superblocks: &[Superblock<S>; VECTORS],
    acts: &RowSuperblock,
    sums: &mut [S::F; VECTORS],
) {
    let group = S::group(U::MAX_Q).clamp(1, 4);
    let mut dots = [[s.splat_i(0); 2]; VECTORS];
    for parity in 0..2 {
        for from in (0..4).step_by(group) {
            let mut partial = [s.splat_i(0); VECTORS];
            for v in 0..VECTORS {
                partial[v] = s.start(dots[v][parity]);
            }
            for x in from..4.min(from + group) {
                // SAFETY: 32 bytes.
                let q = unsafe { s.repeat_i(acts.q[x][parity].as_ptr().cast()) };
                for v in 0..VECTORS {
                    let weights = superblocks[v].q[x][parity];
                    if U::IS_WIDE {
                        dots[v][parity] = s.dot_wide(dots[v][parity], weights, q);
                    } else {
                        partial[v] = s.step(partial[v], weights, q);
                    }
                }
            }
            if !U::IS_WIDE {
                for v in 0..VECTORS {
                    dots[v][parity] = s.finish(dots[v][parity], partial[v]);
                }
            }
        }
    }
    // SAFETY: each has 8 numbers.
    let (act_scale, minus, minus_low, minus_high) = unsafe {
        (
            s.repeat_f(acts.scale.as_ptr()),
            s.repeat_i(acts.minus_sum.as_ptr()),
            s.repeat_i(acts.minus_low.as_ptr()),
            s.repeat_i(acts.minus_high.as_ptr()),
        )
    };
    for v in 0..VECTORS {
        let scales = &superblocks[v].scales;
        let total;
        if U::SCALES == 1 {
            let mut both = s.add_halves(dots[v][0], dots[v][1]);
            if let Some(shift) = zero_shift::<S, U>() {
                both = s.add_i(both, s.shift_left(minus, shift));
            }
            total = s.mul(s.to_f(both), scales.scale[0]);
        } else {
            let (mut low, mut high) = s.join_halves(dots[v][0], dots[v][1]);
            if let Some(shift) = zero_shift::<S, U>() {
                low = s.add_i(low, s.shift_left(minus_low, shift));
                high = s.add_i(high, s.shift_left(minus_high, shift));
            }
            let low = s.mul(s.to_f(low), scales.scale[0]);
            total = s.fma(s.to_f(high), scales.scale[1], low);
        }
        sums[v] = s.fma(total, act_scale, sums[v]);
        if U::MINS == 1 {
            // SAFETY: 8 numbers.
            let minus = unsafe { s.repeat_f(acts.minus_scaled.as_ptr()) };
            sums[v] = s.fma(scales.min[0], minus, sums[v]);
        } else if U::MINS == 2 {
            for (min, minus) in scales.min.into_iter().zip([minus_low, minus_high]) {
                sums[v] = s.fma(min, s.mul(act_scale, s.to_f(minus)), sums[v]);
            }
        }
    }
}

/// Superblocks seen as rows.
struct RowStream<'a, S: Simd> {
    s: S,
    blocks: Rows<&'a [u8]>,
    unpacked: [S::I; LANES],
}

impl<S: Simd> RowStream<'_, S> {
    /// Pointers to `len` bytes of each row.
    #[inline(always)]
    fn at(&self, at: usize, len: usize) -> Rows<*const u8> {
        [self.blocks[0][at..at + len].as_ptr(), self.blocks[1][at..at + len].as_ptr()]
    }
}

impl<S: Simd> Stream<S, 1> for RowStream<'_, S> {
    #[inline(always)]
    fn bytes(&self, at: usize) -> Bytes<S, 1> {
        // SAFETY: `at` checked the length.
        Bytes::new(self.s, [unsafe { self.s.rows_32(self.at(at, 32)) }])
    }

    #[inline(always)]
    fn nibbles(&self, at: usize) -> Bytes<S, 1> {
        // SAFETY: `at` checked the length.
        Bytes::new(self.s, [unsafe { self.s.rows_nibbles(self.at(at, 16)) }])
    }

    #[inline(always)]
    fn fifth_bits(&self, at: usize) -> Bytes<S, 1> {
        // SAFETY: `at` checked the length.
        Bytes::new(self.s, [unsafe { self.s.rows_fifth_bits(self.at(at, 4)) }])
    }

    #[inline(always)]
    fn put(&mut self, j: usize, block: Bytes<S, 1>) {
        self.unpacked[j] = block.vectors[0];
    }
}
