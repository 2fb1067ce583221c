//! AArch64: pairs of 4 lanes. With dotprod, dot products of bytes are one instruction.
//!
//! Conversions of f16 and `sdot` are written in assembly: their intrinsics are not stable in the oldest compiler that
//! this package supports.

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use super::simd::{Kernel, Rows, Simd, instructions, memory_instructions, table};

table!(TABLE, Neon::<false>::new());
table!(DOTPROD_TABLE, Neon::<true>::new());

/// Whether the processor has what [`TABLE`] uses.
pub(super) fn is_available() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

/// Whether the processor has what [`DOTPROD_TABLE`] uses.
pub(super) fn dotprod_is_available() -> bool {
    is_available() && std::arch::is_aarch64_feature_detected!("dotprod")
}

/// The proof that the instructions exist.
#[derive(Clone, Copy)]
struct Neon<const DOTPROD: bool>(());

impl<const DOTPROD: bool> Neon<DOTPROD> {
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn new() -> Self {
        Neon(())
    }
}

#[target_feature(enable = "neon")]
fn run<K: Kernel>(s: Neon<false>, kernel: K) -> K::Output {
    kernel.run(s)
}

#[target_feature(enable = "neon,dotprod")]
fn run_dotprod<K: Kernel>(s: Neon<true>, kernel: K) -> K::Output {
    kernel.run(s)
}

type I = [int32x4_t; 2];
type F = [float32x4_t; 2];

/// The same for both halves.
macro_rules! both {
    ($half:ident => $value:expr) => {
        [
            {
                let $half = 0;
                $value
            },
            {
                let $half = 1;
                $value
            },
        ]
    };
}

impl<const DOTPROD: bool> Simd for Neon<DOTPROD> {
    const LANES: usize = 8;
    const WIDE_IS_SIGNED: bool = true;
    const PAIRS_SATURATE: bool = false;
    const TILE_COLUMNS: usize = 2;

    type I = I;
    type F = F;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a value of this type exists only where the processor has the instructions.
        unsafe { if DOTPROD { run_dotprod(Neon(()), kernel) } else { run(Neon(()), kernel) } }
    }

    #[inline(always)]
    fn start(self, acc: I) -> I {
        acc
    }

    #[inline(always)]
    fn finish(self, _: I, partial: I) -> I {
        partial
    }

    #[inline(always)]
    fn step(self, partial: I, weights: I, acts: I) -> I {
        self.dot_wide(partial, weights, acts)
    }

    #[inline(always)]
    fn join_halves(self, a: I, b: I) -> (I, I) {
        ([a[0], b[0]], [a[1], b[1]])
    }

    memory_instructions! {
        fn load_i(self, from: *const i32) -> I { both!(h => vld1q_s32(from.add(4 * h))) }
        fn load_f(self, from: *const f32) -> F { both!(h => vld1q_f32(from.add(4 * h))) }
        fn store_f(self, to: *mut f32, x: F) {
            vst1q_f32(to, x[0]);
            vst1q_f32(to.add(4), x[1]);
        }
        fn load_f16(self, from: *const f16) -> F { both!(h => widen_f16(vld1_u16(from.add(4 * h).cast()))) }
        fn store_f16(self, to: *mut f16, x: F) {
            vst1_u16(to.cast(), narrow_f16(x[0]));
            vst1_u16(to.add(4).cast(), narrow_f16(x[1]));
        }
        fn load_bf16(self, from: *const u16) -> F {
            both!(h => vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.add(4 * h)))))
        }
        fn store_i8(self, to: *mut i8, x: I) {
            vst1_s8(to, vmovn_s16(vcombine_s16(vmovn_s32(x[0]), vmovn_s32(x[1]))));
        }
        fn rows_32(self, rows: Rows<*const u8>) -> I { both!(h => vreinterpretq_s32_u8(vld1q_u8(rows[0].add(16 * h)))) }
        fn rows_nibbles(self, rows: Rows<*const u8>) -> I {
            let packed = vld1q_u8(rows[0]);
            [
                vreinterpretq_s32_u8(vandq_u8(packed, vdupq_n_u8(0x0f))),
                vreinterpretq_s32_u8(vshrq_n_u8::<4>(packed)),
            ]
        }
        fn rows_fifth_bits(self, rows: Rows<*const u8>) -> I {
            let bits = vreinterpretq_u8_u32(vdupq_n_u32(rows[0].cast::<u32>().read_unaligned()));
            let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            // Byte l gets the byte that has bit l, and keeps bit l % 8 of it.
            both!(h => {
                let low = vdup_n_u8(2 * h);
                let bytes = vqtbl1q_u8(bits, vcombine_u8(low, vdup_n_u8(2 * h + 1)));
                vreinterpretq_s32_u8(vandq_u8(vtstq_u8(bytes, bit), vdupq_n_u8(0x10)))
            })
        }
        fn columns_16(self, rows: &[*const u8; 16], at: usize) -> [I; 4] {
            let mut x = [[vdupq_n_s32(0); 2]; 4];
            for i in 0..4 {
                x[i] = both!(h => vreinterpretq_s32_u8(vld1q_u8(rows[4 * h + i].add(at))));
            }
            self.transpose_4(x)
        }
        fn repeat_i(self, from: *const i32) -> I { self.load_i(from) }
        fn repeat_f(self, from: *const f32) -> F { self.load_f(from) }
    }

    instructions! {
        fn widen_i8(self, rows: Rows<u64>) -> F { widen_i8(vcreate_s8(rows[0])) }
        fn widen_even_odd(self, rows: Rows<[u8; 16]>) -> (F, F) {
            let bytes = vreinterpretq_s8_u8(vld1q_u8(rows[0].as_ptr()));
            let (low, high) = (vget_low_s8(bytes), vget_high_s8(bytes));
            (widen_i8(vuzp1_s8(low, high)), widen_i8(vuzp2_s8(low, high)))
        }
        fn widen_f16(self, rows: Rows<[u16; 8]>) -> F { both!(h => widen_f16(vld1_u16(rows[0].as_ptr().add(4 * h)))) }
        fn splat_f16(self, rows: Rows<u16>) -> F { [widen_f16(vdup_n_u16(rows[0])); 2] }

        fn splat_i(self, x: i32) -> I { [vdupq_n_s32(x); 2] }
        fn splat_u8(self, x: u8) -> I { [vreinterpretq_s32_u8(vdupq_n_u8(x)); 2] }
        fn add_i(self, a: I, b: I) -> I { both!(h => vaddq_s32(a[h], b[h])) }
        fn max_i(self, a: I, b: I) -> I { both!(h => vmaxq_s32(a[h], b[h])) }
        fn and(self, a: I, b: I) -> I { both!(h => vandq_s32(a[h], b[h])) }
        fn or(self, a: I, b: I) -> I { both!(h => vorrq_s32(a[h], b[h])) }
        fn xor(self, a: I, b: I) -> I { both!(h => veorq_s32(a[h], b[h])) }
        fn shift_left(self, a: I, bits: u32) -> I { both!(h => vshlq_s32(a[h], vdupq_n_s32(bits as i32))) }
        fn shift_right(self, a: I, bits: u32) -> I {
            let right = vdupq_n_s32(-(bits as i32));
            both!(h => vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a[h]), right)))
        }
        fn lookup(self, table: &[u8; 16], indices: I) -> I {
            let table = vld1q_u8(table.as_ptr());
            both!(h => vreinterpretq_s32_u8(vqtbl1q_u8(table, vreinterpretq_u8_s32(indices[h]))))
        }
        fn total(self, a: I) -> i32 { vaddvq_s32(vaddq_s32(a[0], a[1])) }
        fn largest(self, a: I) -> i32 { vmaxvq_s32(vmaxq_s32(a[0], a[1])) }

        fn dot_wide(self, acc: I, weights: I, acts: I) -> I {
            both!(h => {
                let (w, a) = (vreinterpretq_s8_s32(weights[h]), vreinterpretq_s8_s32(acts[h]));
                if DOTPROD { sdot(acc[h], w, a) } else { multiply_and_add(acc[h], w, a) }
            })
        }
        fn transpose_4(self, x: [I; 4]) -> [I; 4] {
            let halves = both!(h => transpose_4([x[0][h], x[1][h], x[2][h], x[3][h]]));
            [
                [halves[0][0], halves[1][0]],
                [halves[0][1], halves[1][1]],
                [halves[0][2], halves[1][2]],
                [halves[0][3], halves[1][3]],
            ]
        }

        fn splat(self, x: f32) -> F { [vdupq_n_f32(x); 2] }
        fn add(self, a: F, b: F) -> F { both!(h => vaddq_f32(a[h], b[h])) }
        fn sub(self, a: F, b: F) -> F { both!(h => vsubq_f32(a[h], b[h])) }
        fn mul(self, a: F, b: F) -> F { both!(h => vmulq_f32(a[h], b[h])) }
        fn div(self, a: F, b: F) -> F { both!(h => vdivq_f32(a[h], b[h])) }
        fn fma(self, a: F, b: F, c: F) -> F { both!(h => vfmaq_f32(c[h], a[h], b[h])) }
        fn if_less(self, a: F, b: F, yes: F, no: F) -> F {
            both!(h => vbslq_f32(vcltq_f32(a[h], b[h]), yes[h], no[h]))
        }
        fn to_f(self, x: I) -> F { both!(h => vcvtq_f32_s32(x[h])) }
        fn round(self, x: F) -> I { both!(h => vcvtnq_s32_f32(x[h])) }
        fn as_i(self, x: F) -> I { both!(h => vreinterpretq_s32_f32(x[h])) }
        fn as_f(self, x: I) -> F { both!(h => vreinterpretq_f32_s32(x[h])) }
        fn even_odd(self, x: F) -> F { [vuzp1q_f32(x[0], x[1]), vuzp2q_f32(x[0], x[1])] }
        fn alternate(self, x: F) -> F { [vzip1q_f32(x[0], x[1]), vzip2q_f32(x[0], x[1])] }
        fn fold_rows(self, x: F) -> Rows<f32> { [fold(x), 0.0] }
        fn fold_16(self, x: [F; 2]) -> f32 { fold(both!(h => vaddq_f32(x[0][h], x[1][h]))) }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn fold(x: F) -> f32 {
    let x = vaddq_f32(x[0], x[1]);
    let x = vadd_f32(vget_low_f32(x), vget_high_f32(x));
    vget_lane_f32::<0>(x) + vget_lane_f32::<1>(x) + 0.0
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_i8(x: int8x8_t) -> F {
    let x = vmovl_s8(x);
    [vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), vcvtq_f32_s32(vmovl_high_s16(x))]
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_f16(x: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: a conversion between registers.
    unsafe { asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) x, options(pure, nomem, nostack)) };
    wide
}

#[inline]
#[target_feature(enable = "neon")]
fn narrow_f16(x: float32x4_t) -> uint16x4_t {
    let narrow;
    // SAFETY: a conversion between registers, rounding as the control register says: to nearest.
    unsafe { asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) narrow, in(vreg) x, options(pure, nomem, nostack)) };
    narrow
}

/// Adds 4 products to each lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut acc: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction works on registers only, and this function has the feature.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inlateout(vreg) acc, in(vreg) w, in(vreg) a, options(pure, nomem, nostack)
        );
    }
    acc
}

/// The same without the instruction. Pairs of products stay below 2 * 128 * 127 < 2^15.
#[inline]
#[target_feature(enable = "neon")]
fn multiply_and_add(acc: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(w), vget_low_s8(a));
    vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, a)))
}

#[inline]
#[target_feature(enable = "neon")]
fn transpose_4(x: [int32x4_t; 4]) -> [int32x4_t; 4] {
    let pair = |a, b| (vreinterpretq_s64_s32(vtrn1q_s32(a, b)), vreinterpretq_s64_s32(vtrn2q_s32(a, b)));
    let (a, b) = pair(x[0], x[1]);
    let (c, d) = pair(x[2], x[3]);
    [
        vreinterpretq_s32_s64(vtrn1q_s64(a, c)),
        vreinterpretq_s32_s64(vtrn1q_s64(b, d)),
        vreinterpretq_s32_s64(vtrn2q_s64(a, c)),
        vreinterpretq_s32_s64(vtrn2q_s64(b, d)),
    ]
}
