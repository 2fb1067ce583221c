//! AVX-512 (F, BW, DQ, VL, VNNI): 16 lanes.

use std::arch::x86_64::*;

use half::f16;

use super::simd::{Kernel, Rows, Simd, instructions, memory_instructions, table};

table!(TABLE, Avx512::new());

/// Whether the processor has what [`TABLE`] uses.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// The proof that the instructions exist.
#[derive(Clone, Copy)]
struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn new() -> Self {
        Avx512(())
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn run<K: Kernel>(s: Avx512, kernel: K) -> K::Output {
    kernel.run(s)
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const WIDE_IS_SIGNED: bool = false;
    const PAIRS_SATURATE: bool = false;
    const TILE_COLUMNS: usize = 4;
    const ROW_VECTORS: usize = 2;

    type I = __m512i;
    type F = __m512;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a value of this type exists only where the processor has the instructions.
        unsafe { run(self, kernel) }
    }

    #[inline(always)]
    fn start(self, acc: __m512i) -> __m512i {
        acc
    }

    #[inline(always)]
    fn finish(self, _: __m512i, partial: __m512i) -> __m512i {
        partial
    }

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }
    #[inline(always)]
    fn prefetch_far(self, line: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }

    memory_instructions! {
        fn load_i(self, from: *const i32) -> __m512i { _mm512_loadu_si512(from.cast()) }
        fn load_f(self, from: *const f32) -> __m512 { _mm512_loadu_ps(from) }
        fn store_f(self, to: *mut f32, x: __m512) { _mm512_storeu_ps(to, x) }
        fn load_f16(self, from: *const f16) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        fn store_f16(self, to: *mut f16, x: __m512) {
            _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x))
        }
        fn load_bf16(self, from: *const u16) -> __m512 {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
        fn store_i8(self, to: *mut i8, x: __m512i) { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(x)) }
        fn rows_32(self, rows: Rows<*const u8>) -> __m512i {
            let first = _mm512_castsi256_si512(_mm256_loadu_si256(rows[0].cast()));
            _mm512_inserti64x4::<1>(first, _mm256_loadu_si256(rows[1].cast()))
        }
        fn rows_nibbles(self, rows: Rows<*const u8>) -> __m512i {
            let first = _mm512_broadcast_i64x2(_mm_loadu_si128(rows[0].cast()));
            let both = _mm512_mask_broadcast_i64x2(first, 0xf0, _mm_loadu_si128(rows[1].cast()));
            let moved = _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
            _mm512_and_si512(moved, _mm512_set1_epi8(0x0f))
        }
        fn rows_fifth_bits(self, rows: Rows<*const u8>) -> __m512i {
            let first = u64::from(rows[0].cast::<u32>().read_unaligned());
            let second = u64::from(rows[1].cast::<u32>().read_unaligned());
            _mm512_maskz_set1_epi8(first | second << 32, 0x10)
        }
        fn columns_16(self, rows: &[*const u8; 16], at: usize) -> [__m512i; 4] {
            let mut x = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                let a = _mm512_castsi128_si512(_mm_loadu_si128(rows[i].add(at).cast()));
                let b = _mm512_inserti64x2::<1>(a, _mm_loadu_si128(rows[i + 4].add(at).cast()));
                let c = _mm512_inserti64x2::<2>(b, _mm_loadu_si128(rows[i + 8].add(at).cast()));
                x[i] = _mm512_inserti64x2::<3>(c, _mm_loadu_si128(rows[i + 12].add(at).cast()));
            }
            transpose_4(x)
        }
        fn repeat_i(self, from: *const i32) -> __m512i {
            _mm512_broadcast_i64x4(_mm256_loadu_si256(from.cast()))
        }
        fn repeat_f(self, from: *const f32) -> __m512 { _mm512_broadcast_f32x8(_mm256_loadu_ps(from)) }
    }

    instructions! {
        fn widen_i8(self, rows: Rows<u64>) -> __m512 {
            let bytes = _mm_set_epi64x(rows[1] as i64, rows[0] as i64);
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        }
        fn widen_even_odd(self, rows: Rows<[u8; 16]>) -> (__m512, __m512) {
            let bytes = _mm256_loadu2_m128i(rows[1].as_ptr().cast(), rows[0].as_ptr().cast());
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes));
            let odd = _mm256_srai_epi16::<8>(bytes);
            (
                _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(even)),
                _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(odd)),
            )
        }
        fn widen_f16(self, rows: Rows<[u16; 8]>) -> __m512 {
            _mm512_cvtph_ps(_mm256_loadu_si256(rows.as_ptr().cast()))
        }
        fn splat_f16(self, rows: Rows<u16>) -> __m512 {
            let both = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(rows[0]) | i32::from(rows[1]) << 16));
            let row = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            _mm512_permutexvar_ps(row, _mm512_castps128_ps512(both))
        }

        fn splat_i(self, x: i32) -> __m512i { _mm512_set1_epi32(x) }
        fn splat_u8(self, x: u8) -> __m512i { _mm512_set1_epi8(x as i8) }
        fn add_i(self, a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn max_i(self, a: __m512i, b: __m512i) -> __m512i { _mm512_max_epi32(a, b) }
        fn and(self, a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
        fn or(self, a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        fn xor(self, a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
        fn shift_left(self, a: __m512i, bits: u32) -> __m512i {
            _mm512_sllv_epi32(a, _mm512_set1_epi32(bits as i32))
        }
        fn shift_right(self, a: __m512i, bits: u32) -> __m512i {
            _mm512_srlv_epi32(a, _mm512_set1_epi32(bits as i32))
        }
        fn lookup(self, table: &[u8; 16], indices: __m512i) -> __m512i {
            let table = _mm512_broadcast_i64x2(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, indices)
        }
        fn total(self, a: __m512i) -> i32 { _mm512_reduce_add_epi32(a) }
        fn largest(self, a: __m512i) -> i32 { _mm512_reduce_max_epi32(a) }

        fn step(self, partial: __m512i, weights: __m512i, acts: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(partial, weights, acts)
        }
        fn dot_wide(self, acc: __m512i, weights: __m512i, acts: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(acc, weights, acts)
        }
        fn transpose_4(self, x: [__m512i; 4]) -> [__m512i; 4] { transpose_4(x) }
        fn join_halves(self, a: __m512i, b: __m512i) -> (__m512i, __m512i) {
            (
                _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), b),
                _mm512_permutex2var_epi64(a, _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15), b),
            )
        }
        fn add_halves(self, a: __m512i, b: __m512i) -> __m512i {
            // One shuffle instead of two: the halves that stand right are added to the others, swapped.
            let right = _mm512_mask_blend_epi64(0b1100_1100, a, b);
            let others = _mm512_mask_blend_epi64(0b1100_1100, b, a);
            _mm512_add_epi32(right, _mm512_permutex_epi64::<0b01_00_11_10>(others))
        }

        fn splat(self, x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn if_less(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes)
        }
        fn to_f(self, x: __m512i) -> __m512 { _mm512_cvtepi32_ps(x) }
        fn round(self, x: __m512) -> __m512i { _mm512_cvtps_epi32(x) }
        fn as_i(self, x: __m512) -> __m512i { _mm512_castps_si512(x) }
        fn as_f(self, x: __m512i) -> __m512 { _mm512_castsi512_ps(x) }
        fn even_odd(self, x: __m512) -> __m512 {
            let lanes = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
            _mm512_permutexvar_ps(lanes, x)
        }
        fn alternate(self, x: __m512) -> __m512 {
            let lanes = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
            _mm512_permutexvar_ps(lanes, x)
        }
        fn fold_rows(self, x: __m512) -> Rows<f32> {
            [fold(_mm512_castps512_ps256(x)), fold(_mm512_extractf32x8_ps::<1>(x))]
        }
        fn fold_16(self, x: [__m512; 2]) -> f32 {
            fold(_mm256_add_ps(_mm512_castps512_ps256(x[0]), _mm512_extractf32x8_ps::<1>(x[0])))
        }
        fn fold_16_of_4(self, x: [[__m512; 2]; 4]) -> [f32; 4] {
            // The same additions as four times `fold`, all four in one vector as soon as they fit.
            let [[a, _], [b, _], [c, _], [d, _]] = x;
            let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
            let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
            let x = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
            let x = _mm512_add_ps(x, _mm512_permute_ps::<0b01_00_11_10>(x));
            let x = _mm512_add_ps(x, _mm512_permute_ps::<0b10_11_00_01>(x));
            let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let x = _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, x));
            std::mem::transmute::<__m128, [f32; 4]>(_mm_add_ps(x, _mm_setzero_ps()))
        }
    }
}

/// Transposes the 4 x 4 lanes of each quarter.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_4(x: [__m512i; 4]) -> [__m512i; 4] {
    let a = _mm512_unpacklo_epi32(x[0], x[1]);
    let b = _mm512_unpackhi_epi32(x[0], x[1]);
    let c = _mm512_unpacklo_epi32(x[2], x[3]);
    let d = _mm512_unpackhi_epi32(x[2], x[3]);
    [_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)]
}

#[inline]
#[target_feature(enable = "avx")]
fn fold(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x))) + 0.0
}
