//! The operations that an instruction set supplies; the algorithms over them are written once.
//!
//! A value of a type that implements [`Simd`] exists only where the processor has the instructions, so its methods are
//! safe (except where they take pointers). They are always inlined, and [`Simd::vectorize`] is the place into which: a
//! function compiled for the instruction set.
//!
//! Vectors have [`Simd::LANES`] lanes of 32 bits, 8 or 16, and are looked at in two ways:
//! - *rows*: 32 consecutive bytes, or 8 consecutive numbers, of one row of weights (8 lanes) or of two (16 lanes);
//! - *columns*: one number, or 4 consecutive bytes, of each of `LANES` rows.

use half::f16;

/// A function generic over the instruction set, its fields being the arguments.
pub(super) trait Kernel {
    type Output;
    /// Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Of each of up to two rows; with 8 lanes only the first counts.
pub(super) type Rows<T> = [T; 2];

/// See the module's text.
pub(super) trait Simd: Copy {
    /// 8 or 16.
    const LANES: usize;
    /// Rows of weights in a vector seen as rows.
    const ROWS: usize = Self::LANES / 8;
    /// Vectors that make 16 floats.
    const VECTORS: usize = 16 / Self::LANES;
    /// How [`Simd::dot_wide`] wants its weights: signed, or else unsigned with a zero point of 128.
    const WIDE_IS_SIGNED: bool;
    /// Whether integers of more than 7 bits, or products of several groups of four, need care: see [`Simd::step`].
    const PAIRS_SATURATE: bool;
    /// Columns in a register tile of a quantized product, beside two vectors of rows: 2 or 4.
    const TILE_COLUMNS: usize;
    /// Vectors of rows that share what is read of a few columns: 2 where registers hold two unpacked superblocks.
    const ROW_VECTORS: usize = 1;

    /// Integers of 32 or 8 bits.
    type I: Copy;
    /// Floats.
    type F: Copy;

    /// Runs a kernel compiled for this instruction set.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;

    // ---- memory; pointers need no alignment ----

    unsafe fn load_i(self, from: *const i32) -> Self::I;
    unsafe fn load_f(self, from: *const f32) -> Self::F;
    unsafe fn store_f(self, to: *mut f32, x: Self::F);
    /// `LANES` f16.
    unsafe fn load_f16(self, from: *const f16) -> Self::F;
    /// Rounds to nearest, ties to even.
    unsafe fn store_f16(self, to: *mut f16, x: Self::F);
    /// `LANES` bf16.
    unsafe fn load_bf16(self, from: *const u16) -> Self::F;
    /// The low byte of each lane.
    unsafe fn store_i8(self, to: *mut i8, x: Self::I);
    /// 32 bytes of each row.
    unsafe fn rows_32(self, rows: Rows<*const u8>) -> Self::I;
    /// 16 bytes of each row as 32: the low halves of all, then the high halves.
    unsafe fn rows_nibbles(self, rows: Rows<*const u8>) -> Self::I;
    /// 32 bits of each row as bytes 0 or 16.
    unsafe fn rows_fifth_bits(self, rows: Rows<*const u8>) -> Self::I;
    /// 16 bytes at `rows[r] + at` for `LANES` rows, as 4 columns of 4 bytes.
    unsafe fn columns_16(self, rows: &[*const u8; 16], at: usize) -> [Self::I; 4];
    /// 8 numbers, for each row the same.
    unsafe fn repeat_i(self, from: *const i32) -> Self::I;
    unsafe fn repeat_f(self, from: *const f32) -> Self::F;
    /// Asks for a cache line, by an address that need not exist. Does nothing where that is left to the processor.
    #[inline(always)]
    fn prefetch(self, _line: *const u8) {}
    /// The same into the second-level cache.
    #[inline(always)]
    fn prefetch_far(self, _line: *const u8) {}

    // ---- scales of quantized rows ----

    /// 8 signed bytes of each row, the lowest first.
    fn widen_i8(self, rows: Rows<u64>) -> Self::F;
    /// The even and the odd ones of 16 signed bytes of each row.
    fn widen_even_odd(self, rows: Rows<[u8; 16]>) -> (Self::F, Self::F);
    /// 8 f16 of each row.
    fn widen_f16(self, rows: Rows<[u16; 8]>) -> Self::F;
    /// One f16 of each row, in all its lanes.
    fn splat_f16(self, rows: Rows<u16>) -> Self::F;

    // ---- integers ----

    fn splat_i(self, x: i32) -> Self::I;
    fn splat_u8(self, x: u8) -> Self::I;
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// Shifts of 32-bit lanes.
    fn shift_left(self, a: Self::I, bits: u32) -> Self::I;
    fn shift_right(self, a: Self::I, bits: u32) -> Self::I;
    /// For each byte of `indices`, below 16, the byte of the table.
    fn lookup(self, table: &[u8; 16], indices: Self::I) -> Self::I;
    /// The sum, the largest of all lanes.
    fn total(self, a: Self::I) -> i32;
    fn largest(self, a: Self::I) -> i32;

    // ---- dot products of bytes ----
    // `dot` adds to each lane 4 products of unsigned weights with signed activations in -127..=127; exact. It is
    // cut in three for machines that first add pairs of products in 16 bits: there `step` may run as often between
    // `start` and `finish` as `group` says.

    /// How often `step` may run for unsigned weights of at most `max_q`.
    fn group(max_q: u8) -> usize {
        if !Self::PAIRS_SATURATE {
            return usize::MAX;
        }
        32767 / (2 * 127 * max_q as usize)
    }
    fn start(self, acc: Self::I) -> Self::I;
    /// Weights of at most 7 bits.
    fn step(self, partial: Self::I, weights: Self::I, acts: Self::I) -> Self::I;
    fn finish(self, acc: Self::I, partial: Self::I) -> Self::I;
    /// Weights of 8 bits, see [`Simd::WIDE_IS_SIGNED`].
    fn dot_wide(self, acc: Self::I, weights: Self::I, acts: Self::I) -> Self::I;
    /// For vectors seen as rows: transposes each 4 x 4 lanes, those of each vector's first 4 lanes and those of the
    /// last 4.
    fn transpose_4(self, x: [Self::I; 4]) -> [Self::I; 4];
    /// For vectors seen as rows: the first 4 lanes of `a` and of `b`, and the last 4.
    fn join_halves(self, a: Self::I, b: Self::I) -> (Self::I, Self::I);
    /// The sum of what [`Simd::join_halves`] returns.
    #[inline(always)]
    fn add_halves(self, a: Self::I, b: Self::I) -> Self::I {
        let (first, last) = self.join_halves(a, b);
        self.add_i(first, last)
    }

    // ---- floats ----

    fn splat(self, x: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a < b ? yes : no`
    fn if_less(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// From integers, rounded to nearest.
    fn to_f(self, x: Self::I) -> Self::F;
    /// To integers, rounded to nearest, ties to even.
    fn round(self, x: Self::F) -> Self::I;
    /// The bits of floats as integers, and back.
    fn as_i(self, x: Self::F) -> Self::I;
    fn as_f(self, x: Self::I) -> Self::F;
    /// For vectors seen as rows: the lanes 0, 2, 4, 6, 1, 3, 5, 7.
    fn even_odd(self, x: Self::F) -> Self::F;
    /// The inverse of [`Simd::even_odd`].
    fn alternate(self, x: Self::F) -> Self::F;
    /// For each row the fold of its 8 numbers.
    fn fold_rows(self, x: Self::F) -> Rows<f32>;
    /// The fold of 16 numbers: of `VECTORS` vectors, the rest being ignored.
    fn fold_16(self, x: [Self::F; 2]) -> f32;
    /// [`Simd::fold_16`] of each of four.
    #[inline(always)]
    fn fold_16_of_4(self, x: [[Self::F; 2]; 4]) -> [f32; 4] {
        [self.fold_16(x[0]), self.fold_16(x[1]), self.fold_16(x[2]), self.fold_16(x[3])]
    }
}

/// How far ahead of their use rows that are streamed once are asked for. The processor's own prefetching ends at every
/// 4 KiB page; without ours a row waits for memory at the start of each (measured: a third of a Q4_K product's time).
const PREFETCH_BYTES: usize = 4096;

/// Asks for the lines of `len` bytes, [`PREFETCH_BYTES`] behind `at`.
#[inline(always)]
pub(super) fn prefetch_ahead<S: Simd>(s: S, at: *const u8, len: usize) {
    for line in (0..len).step_by(64) {
        s.prefetch(at.wrapping_add(PREFETCH_BYTES + line));
    }
}

/// How far ahead at least rows that are streamed side by side are asked for: two tiles of the smaller formats. One
/// tile only was slower.
const PREFETCH_FAR_BYTES: usize = 6144;

/// The same into the second-level cache, for rows that are streamed side by side, `tile` bytes of them at a time: asks
/// for what stands at the same place of a later tile, so that each row comes equally early. The first-level cache is
/// left to the activations.
#[inline(always)]
pub(super) fn prefetch_far_ahead<S: Simd>(s: S, at: *const u8, len: usize, tile: usize) {
    let ahead = PREFETCH_FAR_BYTES.next_multiple_of(tile);
    for line in (0..len).step_by(64) {
        s.prefetch_far(at.wrapping_add(ahead + line));
    }
}

/// The same for a stream that several columns meet: asks for the `len` bytes that stand `ahead` behind `at` early enough to
/// leave the first-level cache to the activations.
#[inline(always)]
pub(super) fn prefetch_strip<S: Simd>(s: S, at: *const u8, len: usize, ahead: usize) {
    for line in (0..len).step_by(64) {
        s.prefetch_far(at.wrapping_add(ahead + line));
    }
}

/// Methods whose bodies are instructions.
macro_rules! instructions {
    ($(fn $name:ident($this:ident $(, $arg:ident: $type:ty)*) -> $result:ty { $($body:tt)* })*) => {$(
        #[inline(always)]
        fn $name($this $(, $arg: $type)*) -> $result {
            // SAFETY: a value of this type exists only where the processor has the instructions.
            unsafe { $($body)* }
        }
    )*};
}

/// Likewise, reading or writing memory.
macro_rules! memory_instructions {
    ($(fn $name:ident($this:ident $(, $arg:ident: $type:ty)*) $(-> $result:ty)? { $($body:tt)* })*) => {$(
        #[inline(always)]
        unsafe fn $name($this $(, $arg: $type)*) $(-> $result)? {
            // SAFETY: a value of this type exists only where the processor has the instructions; the caller knows
            // that the bytes are there.
            unsafe { $($body)* }
        }
    )*};
}

/// The table of an instruction set, given an expression that makes its token.
macro_rules! table {
    ($name:ident, $token:expr) => {
        pub(super) static $name: super::Table = {
            use super::simd::Simd as _;
            use super::{attend, elementwise, few, float, interleaved};
            super::Table {
                quantize_row: |x, row| {
                    // SAFETY: `Kernels::new` hands the table out only where the instructions are.
                    unsafe { $token }.vectorize(elementwise::QuantizeRow { x, row })
                },
                matmul_q8: |weights, acts, out| {
                    // SAFETY: as above.
                    few::matmul_q8(unsafe { $token }, weights, acts, out)
                },
                matmul_interleaved: |weights, acts, out| {
                    // SAFETY: as above.
                    interleaved::matmul_q8(unsafe { $token }, weights, acts, out)
                },
                matmul_f32: |weights, acts, out| {
                    // SAFETY: as above.
                    float::matmul_f32(unsafe { $token }, weights, acts, out)
                },
                rms_norm: |x, weight, eps, out| {
                    let kernel = elementwise::RmsNorm { x, weight, eps, out };
                    // SAFETY: as above.
                    unsafe { $token }.vectorize(kernel)
                },
                gelu_tanh_mul: |gate, up, out| {
                    // SAFETY: as above.
                    unsafe { $token }.vectorize(elementwise::GeluTanhMul { gate, up, out })
                },
                softcap: |x, cap| {
                    // SAFETY: as above.
                    unsafe { $token }.vectorize(elementwise::Softcap { x, cap })
                },
                rope: |x, cos, sin| {
                    // SAFETY: as above.
                    unsafe { $token }.vectorize(elementwise::Rope { x, cos, sin })
                },
                add: |x, y| {
                    // SAFETY: as above.
                    unsafe { $token }.vectorize(elementwise::Add { x, y })
                },
                add_scaled: |x, y, factor| {
                    // SAFETY: as above.
                    unsafe { $token }.vectorize(elementwise::AddScaled { x, y, factor })
                },
                scale: |x, factor| {
                    // SAFETY: as above.
                    unsafe { $token }.vectorize(elementwise::Scale { x, factor })
                },
                f32_to_f16: |x, out| {
                    // SAFETY: as above.
                    unsafe { $token }.vectorize(elementwise::F32ToF16 { x, out })
                },
                attend: |state, which, queries, span| {
                    let kernel = attend::Attend { state, which, queries, span };
                    // SAFETY: as above.
                    unsafe { $token }.vectorize(kernel)
                },
                attend_f32: |state, which, queries, span| {
                    let kernel = attend::Attend { state, which, queries, span };
                    // SAFETY: as above.
                    unsafe { $token }.vectorize(kernel)
                },
                attend_finish: super::scalar::attend_finish,
            }
        };
    };
}

pub(super) use {instructions, memory_instructions, table};
