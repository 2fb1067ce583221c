//! Weights whose rows are interleaved by 16, and their products with a few columns.
//!
//! A *strip* is 16 rows, superblock by superblock. In a superblock numbers of 16 bits (scales and mins in f16) and
//! groups of 4 bytes (everything else) of the 16 rows alternate: what stands at offset `at` of a row's superblock stands
//! for row `r` of the strip at `16 * at + r * 2`, or `+ r * 4`. So nothing is added, nothing is lost, a strip is as long
//! as its rows were, and a vector that is loaded is one that `panel.rs` would have to transpose: a lane is a row. One
//! column meets a stream of weights without gaps, and several share what little unpacking is left.

use std::marker::PhantomData;

use super::blocks::{Format, LANES};
use super::panel;
use super::q8::{FEW, LANE_OF_BLOCK, Q8Rows, RowSuperblock};
use super::simd::{Kernel, Simd, prefetch_strip};
use super::unpack::{
    self, Bytes, Columns, Scales, Stream, Unpack, column_bytes, column_fifth_bits, column_nibbles, zero_shift,
};
use super::{TileMut, WeightRows};

/// Rows of a strip.
pub const STRIP_ROWS: usize = 16;

/// Values of a superblock.
const SUPERBLOCK: usize = 256;

/// Whether a matrix `[n_rows, n_cols]` can be interleaved: strips and superblocks are whole, and the format is one of
/// those that have kernels for it.
pub fn can_interleave(format: Format, n_rows: usize, n_cols: usize) -> bool {
    let has_kernels = matches!(format, Format::Q4_0 | Format::Q8_0 | Format::Q4_K | Format::Q5_K | Format::Q6_K);
    has_kernels && n_rows.is_multiple_of(STRIP_ROWS) && n_cols.is_multiple_of(SUPERBLOCK)
}

/// Where a block has f16 numbers.
const fn halves(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q6_K => &[208],
        _ => &[0],
    }
}

/// Where in a strip's superblock stands what stands at `at` in a row's, both divided by the rows: the order in which it is
/// read, for reading that jumps is slower. What lies together in 16 bytes stays so.
const fn place(format: Format, at: usize) -> usize {
    match (format, at) {
        // Scales, then of each half the high bits and the low ones.
        (Format::Q6_K, 192..208) => at - 192,
        (Format::Q6_K, 128..160) => at - 128 + 16,
        (Format::Q6_K, 0..64) => at + 48,
        (Format::Q6_K, 160..192) => at - 160 + 112,
        (Format::Q6_K, 64..128) => at - 64 + 144,
        _ => at,
    }
}

/// Offset and length of all that alternates in a superblock.
fn units(format: Format) -> Vec<(usize, usize)> {
    let mut units = Vec::new();
    for block in (0..format.superblock_bytes()).step_by(format.block_bytes()) {
        let mut at = 0;
        while at < format.block_bytes() {
            let len = if halves(format).contains(&at) { 2 } else { 4 };
            units.push((block + at, len));
            at += len;
        }
    }
    units
}

/// Interleaves strips of rows of `k` values, or with `BACK` gives the rows back.
fn copy<const BACK: bool>(format: Format, k: usize, from: &[u8], to: &mut [u8]) {
    let row_bytes = format.row_bytes(k).filter(|_| can_interleave(format, STRIP_ROWS, k));
    let row_bytes = row_bytes.unwrap_or_else(|| panic!("rows of {k} values of {format:?} are not interleaved"));
    let strip_bytes = STRIP_ROWS * row_bytes;
    assert!(from.len() == to.len() && from.len().is_multiple_of(strip_bytes), "these are not whole strips");
    let (bytes, units) = (format.superblock_bytes(), units(format));
    for (from, to) in from.chunks_exact(strip_bytes).zip(to.chunks_exact_mut(strip_bytes)) {
        for b in (0..row_bytes).step_by(bytes) {
            for &(at, len) in &units {
                for r in 0..STRIP_ROWS {
                    let in_rows = r * row_bytes + b + at;
                    let in_strip = STRIP_ROWS * (b + place(format, at)) + r * len;
                    let (source, target) = if BACK { (in_strip, in_rows) } else { (in_rows, in_strip) };
                    // Lengths that the compiler knows are a load and a store.
                    match len {
                        2 => to[target..target + 2].copy_from_slice(&from[source..source + 2]),
                        _ => to[target..target + 4].copy_from_slice(&from[source..source + 4]),
                    }
                }
            }
        }
    }
}

/// Interleaves rows of `k` values, 16 at a time.
///
/// # Panics
/// The format is not interleaved ([`can_interleave`]), or a length does not fit.
pub fn interleave(format: Format, k: usize, rows: &[u8], strips: &mut [u8]) {
    copy::<false>(format, k, rows, strips);
}

/// The inverse of [`interleave`].
///
/// # Panics
/// As there.
pub fn deinterleave(format: Format, k: usize, strips: &[u8], rows: &mut [u8]) {
    copy::<true>(format, k, strips, rows);
}

/// Row `r` of a strip.
///
/// # Panics
/// As [`interleave`]; or there is no such row.
pub fn row_of_strip(format: Format, r: usize, strip: &[u8], row: &mut [u8]) {
    assert!(r < STRIP_ROWS && strip.len() == STRIP_ROWS * row.len(), "this is not a row of a strip");
    let units = units(format);
    for b in (0..row.len()).step_by(format.superblock_bytes()) {
        for &(at, len) in &units {
            row[b + at..b + at + len].copy_from_slice(&strip[STRIP_ROWS * (b + place(format, at)) + r * len..][..len]);
        }
    }
}

/// `out[c][r] = dot(weights[r], acts[c])` as `scalar.rs` defines it, `weights` being strips.
pub(super) fn matmul_q8<S: Simd>(s: S, weights: &WeightRows<'_>, acts: &Q8Rows, out: &mut TileMut<'_>) {
    match weights.format {
        Format::Q4_0 => matmul::<S, unpack::Q4_0>(s, weights, acts, out),
        Format::Q8_0 => matmul::<S, unpack::Q8_0>(s, weights, acts, out),
        Format::Q4_K => matmul::<S, unpack::Q4_K>(s, weights, acts, out),
        Format::Q5_K => matmul::<S, unpack::Q5_K>(s, weights, acts, out),
        Format::Q6_K => matmul::<S, unpack::Q6_K>(s, weights, acts, out),
        // `can_interleave` is asked before.
        _ => {}
    }
}

fn matmul<S: Simd, U: ColumnScales>(s: S, weights: &WeightRows<'_>, acts: &Q8Rows, out: &mut TileMut<'_>) {
    let format = PhantomData::<U>;
    match acts.n() {
        0 => {}
        _ if weights.n == 0 => {}
        1 => s.vectorize(Few::<U, 1> { format, weights, acts, out }),
        2..=FEW => s.vectorize(Few::<U, FEW> { format, weights, acts, out }),
        _ => panel::matmul::<S, U, panel::Strips>(s, weights, acts, out),
    }
}

/// `LANES` rows of a superblock of a strip, seen as columns.
pub(super) struct StripColumns<'a, S, U> {
    s: S,
    format: PhantomData<U>,
    /// All 16 rows.
    superblock: &'a [u8],
    /// The first of the rows.
    lane: usize,
}

impl<'a, S: Simd, U: Unpack> StripColumns<'a, S, U> {
    /// Superblock `b` of the rows from `r` on, which is a multiple of `LANES`.
    #[inline(always)]
    pub fn new(s: S, weights: &WeightRows<'a>, r: usize, b: usize) -> Self {
        let bytes = U::FORMAT.superblock_bytes();
        let strip = &weights.bytes[r / STRIP_ROWS * STRIP_ROWS * weights.row_bytes..];
        let superblock = &strip[b * STRIP_ROWS * bytes..][..STRIP_ROWS * bytes];
        StripColumns { s, format: PhantomData, superblock, lane: r % STRIP_ROWS }
    }

    /// 4 bytes of each row.
    #[inline(always)]
    fn dword(&self, at: usize) -> S::I {
        let place = &self.superblock[STRIP_ROWS * place(U::FORMAT, at)..][..STRIP_ROWS * 4];
        // SAFETY: `LANES` of the 16 rows' 4 bytes, `lane` being a multiple of `LANES`.
        unsafe { self.s.load_i(place.as_ptr().add(4 * self.lane).cast()) }
    }

    /// The f16 of each row.
    #[inline(always)]
    fn f16(&self, at: usize) -> S::F {
        let place = &self.superblock[STRIP_ROWS * place(U::FORMAT, at)..][..STRIP_ROWS * 2];
        // SAFETY: `LANES` of the 16 rows' 2 bytes, `lane` being a multiple of `LANES`.
        unsafe { self.s.load_f16(place.as_ptr().add(2 * self.lane).cast()) }
    }

    /// Whether these are the strip's first rows.
    #[inline(always)]
    pub fn is_first(&self) -> bool {
        self.lane == 0
    }

    /// Where the superblock of all 16 rows begins.
    #[inline(always)]
    pub fn first_byte(&self) -> *const u8 {
        self.superblock.as_ptr()
    }
}

impl<S: Simd, U: Unpack> Columns<S> for StripColumns<'_, S, U> {
    #[inline(always)]
    fn columns(&self, at: usize) -> [S::I; 4] {
        [self.dword(at), self.dword(at + 4), self.dword(at + 8), self.dword(at + 12)]
    }

    #[inline(always)]
    fn bits(&self, at: usize) -> S::I {
        self.dword(at)
    }
}

/// The scales of a format whose rows can be interleaved.
pub(super) trait ColumnScales: Unpack + Sized {
    /// A superblock's bytes are read from the first to the last. The processor sees that by itself, and for one column,
    /// which meets weights as fast as memory has them, being asked as well slows it down.
    const IS_READ_IN_ORDER: bool = true;
    /// Those of block `j`, a lane being a row.
    fn column_scales<S: Simd>(strip: &StripColumns<'_, S, Self>, j: usize) -> Scales<S::F>;
}

impl ColumnScales for unpack::Q4_0 {
    #[inline(always)]
    fn column_scales<S: Simd>(strip: &StripColumns<'_, S, Self>, j: usize) -> Scales<S::F> {
        let scale = strip.f16(j * Self::FORMAT.block_bytes());
        Scales { scale: [scale; 2], min: [scale; 2] }
    }
}

impl ColumnScales for unpack::Q8_0 {
    #[inline(always)]
    fn column_scales<S: Simd>(strip: &StripColumns<'_, S, Self>, j: usize) -> Scales<S::F> {
        let scale = strip.f16(j * Self::FORMAT.block_bytes());
        Scales { scale: [scale; 2], min: [scale; 2] }
    }
}

impl ColumnScales for unpack::Q4_K {
    #[inline(always)]
    fn column_scales<S: Simd>(strip: &StripColumns<'_, S, Self>, j: usize) -> Scales<S::F> {
        scales_k4(strip, j)
    }
}

impl ColumnScales for unpack::Q5_K {
    const IS_READ_IN_ORDER: bool = false;

    #[inline(always)]
    fn column_scales<S: Simd>(strip: &StripColumns<'_, S, Self>, j: usize) -> Scales<S::F> {
        scales_k4(strip, j)
    }
}

/// As [`scales_and_mins_k4`](super::blocks::scales_and_mins_k4) finds them in 12 bytes, here 3 dwords of each row.
#[inline(always)]
fn scales_k4<S: Simd, U: Unpack>(strip: &StripColumns<'_, S, U>, j: usize) -> Scales<S::F> {
    let s = strip.s;
    let [scales, mins, lows] = [strip.dword(4), strip.dword(8), strip.dword(12)];
    let shift = 8 * (j % 4) as u32;
    let bits = |x, shift, mask| s.and(s.shift_right(x, shift), s.splat_i(mask));
    let (scale, min) = if j < 4 {
        (bits(scales, shift, 63), bits(mins, shift, 63))
    } else {
        (
            s.or(bits(lows, shift, 15), bits(scales, shift + 2, 0x30)),
            s.or(bits(lows, shift + 4, 15), bits(mins, shift + 2, 0x30)),
        )
    };
    let scale = s.mul(strip.f16(0), s.to_f(scale));
    let min = s.mul(strip.f16(2), s.to_f(min));
    Scales { scale: [scale; 2], min: [min; 2] }
}

impl ColumnScales for unpack::Q6_K {
    const IS_READ_IN_ORDER: bool = false;

    #[inline(always)]
    fn column_scales<S: Simd>(strip: &StripColumns<'_, S, Self>, j: usize) -> Scales<S::F> {
        let s = strip.s;
        let four = strip.dword(192 + j / 2 * 4);
        // A signed byte on top of a lane is the byte times 2^24, which is taken back exactly.
        let d = s.mul(strip.f16(208), s.splat(2.0f32.powi(-24)));
        let mut scale = [d; 2];
        for half in 0..2 {
            let top = s.shift_left(four, 24 - 8 * (j % 2 * 2 + half) as u32);
            scale[half] = s.mul(d, s.to_f(s.and(top, s.splat_i(0xff << 24))));
        }
        Scales { scale, min: [d; 2] }
    }
}

/// With `COLUMNS` columns at most.
struct Few<'a, 'o, U, const COLUMNS: usize> {
    format: PhantomData<U>,
    weights: &'a WeightRows<'a>,
    acts: &'a Q8Rows,
    /// `[acts.n(), weights.n]`
    out: &'a mut TileMut<'o>,
}

impl<U: ColumnScales, const COLUMNS: usize> Kernel for Few<'_, '_, U, COLUMNS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n_columns = if COLUMNS == 1 { 1 } else { self.acts.n().min(COLUMNS) };
        let bytes = U::FORMAT.superblock_bytes();
        let superblocks = self.weights.row_bytes / bytes;
        let mut columns: [&[RowSuperblock]; COLUMNS] = [&[]; COLUMNS];
        for c in 0..n_columns {
            columns[c] = &self.acts.row(c)[..superblocks];
        }
        for r in (0..self.weights.n).step_by(S::LANES) {
            let mut sums = [[s.splat(0.0); LANES]; COLUMNS];
            for b in 0..superblocks {
                let strip = StripColumns::<S, U>::new(s, self.weights, r, b);
                let mut acts = [&columns[0][b]; COLUMNS];
                for c in 1..n_columns {
                    acts[c] = &columns[c][b];
                }
                let mut scales = [Scales { scale: [s.splat(0.0); 2], min: [s.splat(0.0); 2] }; LANES];
                for j in 0..LANES {
                    scales[j] = U::column_scales(&strip, j);
                }
                let format = PhantomData::<U>;
                let acts = &acts[..n_columns];
                U::unpack(&mut Products { format, strip, scales, acts, sums: &mut sums });
            }
            for c in 0..n_columns {
                // As `scalar::fold`.
                for half in [4, 2, 1] {
                    for j in 0..half {
                        sums[c][j] = s.add(sums[c][j], sums[c][j + half]);
                    }
                }
                let to = &mut self.out.row_mut(c)[r..r + S::LANES];
                // SAFETY: the slice is a vector.
                unsafe { s.store_f(to.as_mut_ptr(), s.add(sums[c][0], s.splat(0.0))) };
            }
        }
    }
}

/// Blocks of a superblock as they are unpacked: each meets all columns at once.
struct Products<'a, S: Simd, U, const COLUMNS: usize> {
    format: PhantomData<U>,
    strip: StripColumns<'a, S, U>,
    /// Of each block.
    scales: [Scales<S::F>; LANES],
    /// Of each column.
    acts: &'a [&'a RowSuperblock],
    /// `[column][block]`
    sums: &'a mut [[S::F; LANES]; COLUMNS],
}

impl<S: Simd, U: ColumnScales, const COLUMNS: usize> Stream<S, 8> for Products<'_, S, U, COLUMNS> {
    #[inline(always)]
    fn bytes(&self, at: usize) -> Bytes<S, 8> {
        column_bytes(self.strip.s, &self.strip, at)
    }

    #[inline(always)]
    fn nibbles(&self, at: usize) -> Bytes<S, 8> {
        column_nibbles(self.strip.s, &self.strip, at)
    }

    #[inline(always)]
    fn fifth_bits(&self, at: usize) -> Bytes<S, 8> {
        column_fifth_bits(self.strip.s, &self.strip, at)
    }

    #[inline(always)]
    fn put(&mut self, j: usize, block: Bytes<S, 8>) {
        let s = self.strip.s;
        if self.strip.is_first() && (COLUMNS > 1 || !U::IS_READ_IN_ORDER) {
            // An eighth of a superblock with each block: all of them at once would wait for each other.
            let len = STRIP_ROWS * U::FORMAT.superblock_bytes() / LANES;
            let ahead = if U::IS_READ_IN_ORDER { 8192 } else { 16384 };
            prefetch_strip(s, self.strip.first_byte().wrapping_add(j * len), len, ahead);
        }
        let Scales { scale, min } = self.scales[j];
        let (lane, m, parity) = (LANE_OF_BLOCK[j], j / 2, j % 2);
        let steps = 8 / U::SCALES;
        let group = S::group(U::MAX_Q).clamp(1, steps);
        for c in 0..self.acts.len().min(COLUMNS) {
            let acts = self.acts[c];
            let mut total = s.splat(0.0);
            for half in 0..U::SCALES {
                let mut dot = s.splat_i(0);
                if let Some(shift) = zero_shift::<S, U>() {
                    let minus = match (U::SCALES, half) {
                        (1, _) => &acts.minus_sum,
                        (_, 0) => &acts.minus_low,
                        _ => &acts.minus_high,
                    };
                    dot = s.shift_left(s.splat_i(minus[lane]), shift);
                }
                for from in (0..steps).step_by(group) {
                    let mut partial = s.start(dot);
                    for four in from..steps.min(from + group) {
                        let four = half * steps + four;
                        let a = acts.q[four % 4][parity][four / 4][m].map(|q| q as u8);
                        let a = s.splat_i(i32::from_ne_bytes(a));
                        if U::IS_WIDE {
                            dot = s.dot_wide(dot, block.vectors[four], a);
                        } else {
                            partial = s.step(partial, block.vectors[four], a);
                        }
                    }
                    if !U::IS_WIDE {
                        dot = s.finish(dot, partial);
                    }
                }
                total = match half {
                    0 => s.mul(s.to_f(dot), scale[0]),
                    _ => s.fma(s.to_f(dot), scale[1], total),
                };
            }
            let mut sum = s.fma(total, s.splat(acts.scale[lane]), self.sums[c][j]);
            if U::MINS == 1 {
                sum = s.fma(min[0], s.splat(acts.minus_scaled[lane]), sum);
            }
            self.sums[c][j] = sum;
        }
    }
}
