//! How each quantized format becomes bytes and scales, written once for both ways of looking at vectors.

use super::blocks::{Format, IQ4_TABLE, scales_and_mins_k4, scales_iq4_xs, scales_q3};
use super::simd::{Rows, Simd};

/// 32 bytes of a block: of each row of a vector seen as rows (`N` is 1), or 8 vectors seen as columns (`N` is 8).
pub(super) struct Bytes<S: Simd, const N: usize> {
    s: S,
    pub vectors: [S::I; N],
}

impl<S: Simd, const N: usize> Bytes<S, N> {
    #[inline(always)]
    pub fn new(s: S, vectors: [S::I; N]) -> Self {
        Bytes { s, vectors }
    }

    /// `(byte >> shift) & mask`, provided that the mask keeps nothing of the neighbor.
    #[inline(always)]
    pub fn bits(&self, shift: u32, mask: u8) -> Self {
        let mut vectors = self.vectors;
        for x in &mut vectors {
            let shifted = self.s.shift_right(*x, shift);
            *x = self.s.and(shifted, self.s.splat_u8(mask));
        }
        Bytes::new(self.s, vectors)
    }

    /// `self | (other << shift)`, provided that no bit leaves its byte.
    #[inline(always)]
    fn with_high(&self, other: Self, shift: u32) -> Self {
        let mut vectors = self.vectors;
        for (x, high) in vectors.iter_mut().zip(other.vectors) {
            *x = self.s.or(*x, self.s.shift_left(high, shift));
        }
        Bytes::new(self.s, vectors)
    }

    /// `self | (bit `from` of `other` and those above it, moved to bit `to`, & mask)`, provided that the mask keeps nothing
    /// of the neighbor. One mask for a whole move: fewer operations than `bits` and `with_high` take.
    #[inline(always)]
    fn with_moved(&self, other: &Self, from: u32, to: u32, mask: u8) -> Self {
        let mut vectors = self.vectors;
        for (x, high) in vectors.iter_mut().zip(other.vectors) {
            let moved = match from > to {
                true => self.s.shift_right(high, from - to),
                false => self.s.shift_left(high, to - from),
            };
            *x = self.s.or(*x, self.s.and(moved, self.s.splat_u8(mask)));
        }
        Bytes::new(self.s, vectors)
    }

    /// Signed bytes in the form that [`Simd::dot_wide`] wants.
    #[inline(always)]
    fn wide(&self) -> Self {
        let mut vectors = self.vectors;
        if !S::WIDE_IS_SIGNED {
            for x in &mut vectors {
                *x = self.s.xor(*x, self.s.splat_u8(0x80));
            }
        }
        Bytes::new(self.s, vectors)
    }

    /// The values of IQ4_NL in the form that [`Simd::dot_wide`] wants.
    #[inline(always)]
    fn iq4(&self) -> Self {
        let mut table = IQ4_TABLE;
        if S::WIDE_IS_SIGNED {
            table.iter_mut().for_each(|x| *x ^= 0x80);
        }
        let mut vectors = self.vectors;
        for x in &mut vectors {
            *x = self.s.lookup(&table, *x);
        }
        Bytes::new(self.s, vectors)
    }
}

/// Where the bytes of superblocks come from and the unpacked blocks go. Methods panic outside the superblock; offsets
/// are constants, so the checks vanish.
pub(super) trait Stream<S: Simd, const N: usize> {
    /// 32 bytes.
    fn bytes(&self, at: usize) -> Bytes<S, N>;
    /// The low halves of 16 bytes, then their high halves.
    fn nibbles(&self, at: usize) -> Bytes<S, N>;
    /// 32 bits as bytes of 0 or 16.
    fn fifth_bits(&self, at: usize) -> Bytes<S, N>;
    /// Takes block `j` of the superblock.
    fn put(&mut self, j: usize, block: Bytes<S, N>);
}

/// Superblocks of `LANES` rows, seen as columns. Methods panic outside the superblock.
pub(super) trait Columns<S: Simd> {
    /// 16 bytes of each row, 4 in a vector.
    fn columns(&self, at: usize) -> [S::I; 4];
    /// 32 bits of each row.
    fn bits(&self, at: usize) -> S::I;
}

/// [`Stream::bytes`] of columns.
#[inline(always)]
pub(super) fn column_bytes<S: Simd>(s: S, from: &impl Columns<S>, at: usize) -> Bytes<S, 8> {
    let [a, b, c, d] = from.columns(at);
    let [e, f, g, h] = from.columns(at + 16);
    Bytes::new(s, [a, b, c, d, e, f, g, h])
}

/// [`Stream::nibbles`] of columns.
#[inline(always)]
pub(super) fn column_nibbles<S: Simd>(s: S, from: &impl Columns<S>, at: usize) -> Bytes<S, 8> {
    let columns = from.columns(at);
    let mask = s.splat_u8(0x0f);
    let mut vectors = [mask; 8];
    for (i, x) in columns.into_iter().enumerate() {
        vectors[i] = s.and(x, mask);
        vectors[i + 4] = s.and(s.shift_right(x, 4), mask);
    }
    Bytes::new(s, vectors)
}

/// [`Stream::fifth_bits`] of columns.
#[inline(always)]
pub(super) fn column_fifth_bits<S: Simd>(s: S, from: &impl Columns<S>, at: usize) -> Bytes<S, 8> {
    let bits = from.bits(at);
    let mut vectors = [bits; 8];
    for (i, x) in vectors.iter_mut().enumerate() {
        // Bits 0 to 3 go to bit 4 of bytes 0 to 3.
        let four = s.shift_right(bits, 4 * i as u32);
        let mut spread = s.and(s.shift_left(four, 4), s.splat_i(0x10));
        for bit in 1..4u32 {
            let byte = s.shift_left(four, 4 + 7 * bit);
            spread = s.or(spread, s.and(byte, s.splat_i(0x10 << (8 * bit))));
        }
        *x = spread;
    }
    Bytes::new(s, vectors)
}

/// The scales and mins of the 8 blocks of each row's superblock, `[half]`.
#[derive(Clone, Copy)]
pub(super) struct Scales<F> {
    pub scale: [F; 2],
    pub min: [F; 2],
}

/// A quantized format at compile time.
pub(super) trait Unpack {
    const FORMAT: Format;
    /// The largest `q`; 255 calls for [`Simd::dot_wide`].
    const MAX_Q: u8;
    /// Where a superblock has 4 x 32 bytes whose low halves are the even and whose high halves are the odd blocks, if
    /// that is all there is to unpack.
    const PAIRS_AT: Option<usize> = None;
    /// Unpacks a superblock.
    fn unpack<S: Simd, const N: usize>(stream: &mut impl Stream<S, N>);
    /// The scales of superblocks of [`Format::superblock_bytes`].
    fn scales<S: Simd>(s: S, rows: Rows<&[u8]>) -> Scales<S::F>;

    // Derived from the format's coding.
    const SCALES: usize = coding(Self::FORMAT).0;
    const MINS: usize = coding(Self::FORMAT).1;
    const ZERO_POINT: i32 = coding(Self::FORMAT).2;
    const IS_WIDE: bool = Self::MAX_Q == 255;
}

const fn coding(format: Format) -> (usize, usize, i32) {
    match format.coding() {
        Some(coding) => (coding.scales, coding.mins, coding.zero_point),
        None => (0, 0, 0),
    }
}

/// What must be added to the integer sum of a block is `minus_sum << shift`; `None` if nothing.
#[inline(always)]
pub(super) fn zero_shift<S: Simd, U: Unpack>() -> Option<u32> {
    if U::ZERO_POINT == 0 || (U::IS_WIDE && S::WIDE_IS_SIGNED) {
        return None;
    }
    Some(U::ZERO_POINT.trailing_zeros())
}

/// The 8 blocks of 32 that have an f16 scale each, and an f16 min if `min` says where.
#[inline(always)]
fn small_scales<S: Simd>(s: S, rows: Rows<&[u8]>, block_bytes: usize, min: Option<usize>) -> Scales<S::F> {
    let scale = every_f16(s, rows, block_bytes, 0);
    let min = match min {
        Some(at) => s.sub(s.splat(0.0), every_f16(s, rows, block_bytes, at)),
        None => s.splat(0.0),
    };
    Scales { scale: [scale; 2], min: [min; 2] }
}

/// The f16 at offset `at` of each of 8 blocks.
#[inline(always)]
fn every_f16<S: Simd>(s: S, rows: Rows<&[u8]>, block_bytes: usize, at: usize) -> S::F {
    let mut halves = [[0u16; 8]; 2];
    for r in 0..S::ROWS {
        for j in 0..8 {
            halves[r][j] = u16_at(rows[r], j * block_bytes + at);
        }
    }
    s.widen_f16(halves)
}

#[inline(always)]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn array_at<const L: usize>(bytes: &[u8], at: usize) -> [u8; L] {
    let mut array = [0; L];
    array.copy_from_slice(&bytes[at..at + L]);
    array
}

/// One f16 of each row in all its lanes.
#[inline(always)]
fn splat_f16_at<S: Simd>(s: S, rows: Rows<&[u8]>, at: usize) -> S::F {
    s.splat_f16([u16_at(rows[0], at), u16_at(rows[1], at)])
}

/// Formats with blocks of 32: name, largest q, offset of the min, and how block `j` at offset `at` unpacks.
macro_rules! small_formats {
    ($($name:ident, $max_q:literal, $min:expr, |$stream:ident, $at:ident| $block:expr;)*) => {$(
        pub(in super::super) struct $name;
        impl Unpack for $name {
            const FORMAT: Format = Format::$name;
            const MAX_Q: u8 = $max_q;
            #[inline(always)]
            fn unpack<S: Simd, const N: usize>($stream: &mut impl Stream<S, N>) {
                for j in 0..8 {
                    let $at = j * Self::FORMAT.block_bytes();
                    let block = $block;
                    $stream.put(j, block);
                }
            }
            #[inline(always)]
            fn scales<S: Simd>(s: S, rows: Rows<&[u8]>) -> Scales<S::F> {
                small_scales(s, rows, Self::FORMAT.block_bytes(), $min)
            }
        }
    )*};
}

#[allow(non_camel_case_types)] // The names are ggml's.
mod formats {
    use super::*;

    small_formats! {
        Q4_0, 15, None, |stream, at| stream.nibbles(at + 2);
        Q4_1, 15, Some(2), |stream, at| stream.nibbles(at + 4);
        Q5_0, 31, None, |stream, at| stream.nibbles(at + 6).with_high(stream.fifth_bits(at + 2), 0);
        Q5_1, 31, Some(2), |stream, at| stream.nibbles(at + 8).with_high(stream.fifth_bits(at + 4), 0);
        Q8_0, 255, None, |stream, at| stream.bytes(at + 2).wide();
        IQ4_NL, 255, None, |stream, at| stream.nibbles(at + 2).iq4();
    }

    pub(in super::super) struct Q2_K;

    impl Unpack for Q2_K {
        const FORMAT: Format = Format::Q2_K;
        const MAX_Q: u8 = 3;

        #[inline(always)]
        fn unpack<S: Simd, const N: usize>(stream: &mut impl Stream<S, N>) {
            for four in 0..2 {
                let low = stream.bytes(16 + 32 * four);
                for j in 0..4 {
                    stream.put(4 * four + j, low.bits(2 * j as u32, 3));
                }
            }
        }

        #[inline(always)]
        fn scales<S: Simd>(s: S, rows: Rows<&[u8]>) -> Scales<S::F> {
            let packed = rows.map(|row| u128::from_le_bytes(array_at(row, 0)));
            let nibbles = 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
            let scale = s.widen_even_odd(packed.map(|x| (x & nibbles).to_le_bytes()));
            let min = s.widen_even_odd(packed.map(|x| (x >> 4 & nibbles).to_le_bytes()));
            let (d, dmin) = (splat_f16_at(s, rows, 80), splat_f16_at(s, rows, 82));
            Scales { scale: [s.mul(d, scale.0), s.mul(d, scale.1)], min: [s.mul(dmin, min.0), s.mul(dmin, min.1)] }
        }
    }

    pub(in super::super) struct Q3_K;

    impl Unpack for Q3_K {
        const FORMAT: Format = Format::Q3_K;
        const MAX_Q: u8 = 7;

        #[inline(always)]
        fn unpack<S: Simd, const N: usize>(stream: &mut impl Stream<S, N>) {
            for four in 0..2 {
                let low = stream.bytes(32 + 32 * four);
                for j in 0..4 {
                    let block = low.bits(2 * j as u32, 3);
                    let block = block.with_moved(&stream.bytes(0), (4 * four + j) as u32, 2, 0x04);
                    stream.put(4 * four + j, block);
                }
            }
        }

        #[inline(always)]
        fn scales<S: Simd>(s: S, rows: Rows<&[u8]>) -> Scales<S::F> {
            // In this form the compiler makes vector code of it; with `rows.map` it does not.
            let part = |row: &[u8]| scales_q3(&array_at(row, 96)).map(|x| x as u8);
            let (low, high) = s.widen_even_odd([part(rows[0]), part(rows[1])]);
            let d = splat_f16_at(s, rows, 108);
            Scales { scale: [s.mul(d, low), s.mul(d, high)], min: [s.splat(0.0); 2] }
        }
    }

    pub(in super::super) struct Q4_K;

    impl Unpack for Q4_K {
        const FORMAT: Format = Format::Q4_K;
        const MAX_Q: u8 = 15;
        const PAIRS_AT: Option<usize> = Some(16);

        #[inline(always)]
        fn unpack<S: Simd, const N: usize>(stream: &mut impl Stream<S, N>) {
            for pair in 0..4 {
                let packed = stream.bytes(16 + 32 * pair);
                stream.put(2 * pair, packed.bits(0, 0x0f));
                stream.put(2 * pair + 1, packed.bits(4, 0x0f));
            }
        }

        #[inline(always)]
        fn scales<S: Simd>(s: S, rows: Rows<&[u8]>) -> Scales<S::F> {
            scales_k4(s, rows)
        }
    }

    pub(in super::super) struct Q5_K;

    impl Unpack for Q5_K {
        const FORMAT: Format = Format::Q5_K;
        const MAX_Q: u8 = 31;

        #[inline(always)]
        fn unpack<S: Simd, const N: usize>(stream: &mut impl Stream<S, N>) {
            for pair in 0..4 {
                let packed = stream.bytes(48 + 32 * pair);
                for part in 0..2 {
                    let block = packed.bits(4 * part as u32, 0x0f);
                    let block = block.with_moved(&stream.bytes(16), (2 * pair + part) as u32, 4, 0x10);
                    stream.put(2 * pair + part, block);
                }
            }
        }

        #[inline(always)]
        fn scales<S: Simd>(s: S, rows: Rows<&[u8]>) -> Scales<S::F> {
            scales_k4(s, rows)
        }
    }

    #[inline(always)]
    fn scales_k4<S: Simd>(s: S, rows: Rows<&[u8]>) -> Scales<S::F> {
        let (scale_0, min_0) = scales_and_mins_k4(&array_at(rows[0], 4));
        let (scale_1, min_1) = scales_and_mins_k4(&array_at(rows[1], 4));
        let (d, dmin) = (splat_f16_at(s, rows, 0), splat_f16_at(s, rows, 2));
        let scale = s.mul(d, s.widen_i8([scale_0, scale_1]));
        let min = s.mul(dmin, s.widen_i8([min_0, min_1]));
        Scales { scale: [scale; 2], min: [min; 2] }
    }

    pub(in super::super) struct Q6_K;

    impl Unpack for Q6_K {
        const FORMAT: Format = Format::Q6_K;
        const MAX_Q: u8 = 63;

        #[inline(always)]
        fn unpack<S: Simd, const N: usize>(stream: &mut impl Stream<S, N>) {
            for four in 0..2 {
                let high = stream.bytes(128 + 32 * four);
                for side in 0..2 {
                    let low = stream.bytes(64 * four + 32 * side);
                    let from = 2 * side as u32;
                    let block = low.bits(0, 0x0f).with_moved(&high, from, 4, 0x30);
                    stream.put(4 * four + side, block);
                    let block = low.bits(4, 0x0f).with_moved(&high, from + 4, 4, 0x30);
                    stream.put(4 * four + 2 + side, block);
                }
            }
        }

        #[inline(always)]
        fn scales<S: Simd>(s: S, rows: Rows<&[u8]>) -> Scales<S::F> {
            let (low, high) = s.widen_even_odd([array_at(rows[0], 192), array_at(rows[1], 192)]);
            let d = splat_f16_at(s, rows, 208);
            Scales { scale: [s.mul(d, low), s.mul(d, high)], min: [s.splat(0.0); 2] }
        }
    }

    pub(in super::super) struct IQ4_XS;

    impl Unpack for IQ4_XS {
        const FORMAT: Format = Format::IQ4_XS;
        const MAX_Q: u8 = 255;

        #[inline(always)]
        fn unpack<S: Simd, const N: usize>(stream: &mut impl Stream<S, N>) {
            for j in 0..8 {
                let block = stream.nibbles(8 + 16 * j).iq4();
                stream.put(j, block);
            }
        }

        #[inline(always)]
        fn scales<S: Simd>(s: S, rows: Rows<&[u8]>) -> Scales<S::F> {
            let scales = s.widen_i8(rows.map(|row| scales_iq4_xs(u16_at(row, 2), &array_at(row, 4))));
            Scales { scale: [s.mul(splat_f16_at(s, rows, 0), scales); 2], min: [s.splat(0.0); 2] }
        }
    }
}

pub(super) use formats::*;
