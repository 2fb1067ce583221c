//! Products of quantized weights with a few columns: every row of weights is streamed once, 8 lanes looking at one row
//! or 16 at two, and each superblock meets all columns while it is in registers. More columns are `panel.rs`'s work.

use super::WeightRows;
use super::blocks::{BLOCK, Format, LANES, SUPERBLOCK};
use super::panel;
use super::q8::{FEW, Q8Row, Q8Rows};
use super::simd::{Kernel, Rows, Simd};
use super::unpack::{self, Bytes, Stream, Unpack, dot, zero_shift};

/// `out[c][r] = dot(weights[r], acts[c])` as `scalar.rs` defines it.
pub(super) fn matmul_q8<S: Simd>(s: S, weights: &WeightRows<'_>, acts: &Q8Rows, out: &mut [f32]) {
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

fn matmul<S: Simd, U: Unpack>(s: S, weights: &WeightRows<'_>, acts: &Q8Rows, out: &mut [f32]) {
    if weights.n == 0 || acts.n() == 0 {
        return;
    }
    let format = std::marker::PhantomData::<U>;
    match acts.n() {
        1 => s.vectorize(Few::<U, 1> { format, weights, acts, out }),
        FEW => s.vectorize(Few::<U, FEW> { format, weights, acts, out }),
        _ => panel::matmul::<S, U>(s, weights, acts, out),
    }
}

struct Few<'a, U, const COLUMNS: usize> {
    format: std::marker::PhantomData<U>,
    weights: &'a WeightRows<'a>,
    acts: &'a Q8Rows,
    /// `[COLUMNS, weights.n]`
    out: &'a mut [f32],
}

impl<U: Unpack, const COLUMNS: usize> Kernel for Few<'_, U, COLUMNS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (weights, n) = (self.weights, self.weights.n);
        let bytes = U::FORMAT.superblock_bytes();
        let columns: [&Q8Row; COLUMNS] = std::array::from_fn(|c| self.acts.row(c));
        for r in (0..n).step_by(S::ROWS) {
            // With an odd number of rows the last one is done twice.
            let rows = [weights.row(r), weights.row((r + S::ROWS - 1).min(n - 1))];
            let mut sums = [s.splat(0.0); COLUMNS];
            let full = weights.row_bytes / bytes;
            for b in 0..full {
                let blocks = rows.map(|row| &row[b * bytes..][..bytes]);
                add_superblock::<S, U, COLUMNS>(s, blocks, &columns, b, &mut sums);
            }
            if full * bytes < weights.row_bytes {
                // What the row lacks of a superblock has zero scales.
                let mut padded = [[0u8; panel::MAX_SUPERBLOCK_BYTES]; 2];
                for (padded, row) in padded.iter_mut().zip(rows) {
                    let rest = &row[full * bytes..];
                    padded[..rest.len()].copy_from_slice(rest);
                }
                let blocks = [&padded[0][..bytes], &padded[1][..bytes]];
                add_superblock::<S, U, COLUMNS>(s, blocks, &columns, full, &mut sums);
            }
            for (c, sums) in sums.into_iter().enumerate() {
                let folded = s.fold_rows(sums);
                let out = &mut self.out[c * n + r..(c + 1) * n];
                for (out, folded) in out.iter_mut().zip(folded).take(S::ROWS) {
                    *out = folded;
                }
            }
        }
    }
}

/// Adds the products of superblock `b` to the running sums of each column.
#[inline(always)]
fn add_superblock<S: Simd, U: Unpack, const COLUMNS: usize>(
    s: S,
    blocks: Rows<&[u8]>,
    columns: &[&Q8Row; COLUMNS],
    b: usize,
    sums: &mut [S::F; COLUMNS],
) {
    let scales = U::scales(s, blocks);
    let mut stream = RowStream { s, blocks, unpacked: [s.splat_i(0); LANES] };
    U::unpack(&mut stream);
    for c in 0..COLUMNS {
        let acts = columns[c];
        let q = &acts.q[b * SUPERBLOCK..][..SUPERBLOCK];
        let scale = &acts.scale[b * LANES..][..LANES];
        let minus_sum = &acts.minus_sum[b * LANES..][..LANES];
        let minus_low = &acts.minus_low[b * LANES..][..LANES];
        let minus_high = &acts.minus_high[b * LANES..][..LANES];
        let minus_scaled = &acts.minus_scaled[b * LANES..][..LANES];
        let mut products = [s.splat_i(0); LANES];
        for j in 0..LANES {
            // SAFETY: block j of 32 lies in the 256 of `q`.
            let q = unsafe { s.repeat_i(q.as_ptr().add(j * BLOCK).cast()) };
            products[j] = dot::<S, U>(s, products[j], stream.unpacked[j], q);
        }
        let (mut low, mut high) = s.sum_halves(products);
        let total;
        if U::SCALES == 1 {
            let mut both = s.add_i(low, high);
            if let Some(shift) = zero_shift::<S, U>() {
                // SAFETY: 8 numbers, as sliced above.
                let minus = unsafe { s.repeat_i(minus_sum.as_ptr()) };
                both = s.add_i(both, s.shift_left(minus, shift));
            }
            total = s.mul(s.to_f(both), scales.scale[0]);
        } else {
            if let Some(shift) = zero_shift::<S, U>() {
                // SAFETY: 8 numbers each, as sliced above.
                let minus = unsafe { [s.repeat_i(minus_low.as_ptr()), s.repeat_i(minus_high.as_ptr())] };
                low = s.add_i(low, s.shift_left(minus[0], shift));
                high = s.add_i(high, s.shift_left(minus[1], shift));
            }
            let low = s.mul(s.to_f(low), scales.scale[0]);
            total = s.fma(s.to_f(high), scales.scale[1], low);
        }
        // SAFETY: 8 numbers, as sliced above.
        let act_scale = unsafe { s.repeat_f(scale.as_ptr()) };
        sums[c] = s.fma(total, act_scale, sums[c]);
        if U::MINS == 1 {
            // SAFETY: 8 numbers, as sliced above.
            let minus = unsafe { s.repeat_f(minus_scaled.as_ptr()) };
            sums[c] = s.fma(scales.min[0], minus, sums[c]);
        } else if U::MINS == 2 {
            for (min, minus) in scales.min.into_iter().zip([minus_low, minus_high]) {
                // SAFETY: 8 numbers, as sliced above.
                let minus = s.to_f(unsafe { s.repeat_i(minus.as_ptr()) });
                sums[c] = s.fma(min, s.mul(act_scale, minus), sums[c]);
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
