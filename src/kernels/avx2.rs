//! AVX2 with FMA and F16C: 8 lanes. With VNNI, dot products of bytes are one instruction.

use std::arch::x86_64::*;

use half::f16;

use super::simd::{Kernel, Rows, Simd, instructions, memory_instructions, table};

table!(TABLE, Avx2::<false>::new());
table!(VNNI_TABLE, Avx2::<true>::new());

/// Whether the processor has what [`TABLE`] uses.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Whether the processor has what [`VNNI_TABLE`] uses.
pub(super) fn vnni_is_available() -> bool {
    is_available() && is_x86_feature_detected!("avxvnni")
}

/// The proof that the instructions exist.
#[derive(Clone, Copy)]
struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn new() -> Self {
        Avx2(())
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run<K: Kernel>(s: Avx2<false>, kernel: K) -> K::Output {
    kernel.run(s)
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn run_vnni<K: Kernel>(s: Avx2<true>, kernel: K) -> K::Output {
    kernel.run(s)
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    const WIDE_IS_SIGNED: bool = !VNNI;
    const PAIRS_SATURATE: bool = !VNNI;
    const TILE_COLUMNS: usize = 2;

    type I = __m256i;
    type F = __m256;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: a value of this type exists only where the processor has the instructions.
        unsafe { if VNNI { run_vnni(Avx2(()), kernel) } else { run(Avx2(()), kernel) } }
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
        fn load_i(self, from: *const i32) -> __m256i { _mm256_loadu_si256(from.cast()) }
        fn load_f(self, from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
        fn store_f(self, to: *mut f32, x: __m256) { _mm256_storeu_ps(to, x) }
        fn load_f16(self, from: *const f16) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        fn store_f16(self, to: *mut f16, x: __m256) {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x))
        }
        fn load_bf16(self, from: *const u16) -> __m256 {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
        fn store_i8(self, to: *mut i8, x: __m256i) {
            let words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            _mm_storel_epi64(to.cast(), _mm_packs_epi16(words, words))
        }
        fn rows_32(self, rows: Rows<*const u8>) -> __m256i { _mm256_loadu_si256(rows[0].cast()) }
        fn rows_nibbles(self, rows: Rows<*const u8>) -> __m256i {
            let packed = _mm256_broadcastsi128_si256(_mm_loadu_si128(rows[0].cast()));
            let moved = _mm256_srlv_epi64(packed, _mm256_setr_epi64x(0, 0, 4, 4));
            _mm256_and_si256(moved, _mm256_set1_epi8(0x0f))
        }
        fn rows_fifth_bits(self, rows: Rows<*const u8>) -> __m256i {
            let bits = _mm256_set1_epi32(rows[0].cast::<i32>().read_unaligned());
            // Byte l gets the byte that has bit l, and keeps bit l % 8 of it.
            let bytes = _mm256_shuffle_epi8(bits, _mm256_setr_epi64x(
                0,
                0x0101_0101_0101_0101,
                0x0202_0202_0202_0202,
                0x0303_0303_0303_0303,
            ));
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
            _mm256_and_si256(set, _mm256_set1_epi8(0x10))
        }
        fn columns_16(self, rows: &[*const u8; 16], at: usize) -> [__m256i; 4] {
            let mut x = [_mm256_setzero_si256(); 4];
            for i in 0..4 {
                let low = _mm_loadu_si128(rows[i].add(at).cast());
                let high = _mm_loadu_si128(rows[i + 4].add(at).cast());
                x[i] = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
            }
            transpose_4(x)
        }
        fn repeat_i(self, from: *const i32) -> __m256i { _mm256_loadu_si256(from.cast()) }
        fn repeat_f(self, from: *const f32) -> __m256 { _mm256_loadu_ps(from) }
    }

    instructions! {
        fn widen_i8(self, rows: Rows<u64>) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(rows[0] as i64)))
        }
        fn widen_even_odd(self, rows: Rows<[u8; 16]>) -> (__m256, __m256) {
            let bytes = _mm_loadu_si128(rows[0].as_ptr().cast());
            let even = _mm_srai_epi16::<8>(_mm_slli_epi16::<8>(bytes));
            let odd = _mm_srai_epi16::<8>(bytes);
            (
                _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(even)),
                _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(odd)),
            )
        }
        fn widen_f16(self, rows: Rows<[u16; 8]>) -> __m256 {
            _mm256_cvtph_ps(_mm_loadu_si128(rows[0].as_ptr().cast()))
        }
        fn splat_f16(self, rows: Rows<u16>) -> __m256 {
            _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(rows[0]))))
        }

        fn splat_i(self, x: i32) -> __m256i { _mm256_set1_epi32(x) }
        fn splat_u8(self, x: u8) -> __m256i { _mm256_set1_epi8(x as i8) }
        fn add_i(self, a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        fn max_i(self, a: __m256i, b: __m256i) -> __m256i { _mm256_max_epi32(a, b) }
        fn and(self, a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
        fn or(self, a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
        fn xor(self, a: __m256i, b: __m256i) -> __m256i { _mm256_xor_si256(a, b) }
        fn shift_left(self, a: __m256i, bits: u32) -> __m256i {
            _mm256_sllv_epi32(a, _mm256_set1_epi32(bits as i32))
        }
        fn shift_right(self, a: __m256i, bits: u32) -> __m256i {
            _mm256_srlv_epi32(a, _mm256_set1_epi32(bits as i32))
        }
        fn lookup(self, table: &[u8; 16], indices: __m256i) -> __m256i {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, indices)
        }
        fn total(self, a: __m256i) -> i32 {
            let a = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_add_epi32(a, _mm_shuffle_epi32::<0b1110>(a));
            _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32::<1>(a)))
        }
        fn largest(self, a: __m256i) -> i32 {
            let a = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let a = _mm_max_epi32(a, _mm_shuffle_epi32::<0b1110>(a));
            _mm_cvtsi128_si32(_mm_max_epi32(a, _mm_shuffle_epi32::<1>(a)))
        }

        fn start(self, acc: __m256i) -> __m256i {
            if VNNI { acc } else { _mm256_setzero_si256() }
        }
        fn step(self, partial: __m256i, weights: __m256i, acts: __m256i) -> __m256i {
            if VNNI {
                _mm256_dpbusd_avx_epi32(partial, weights, acts)
            } else {
                _mm256_add_epi16(partial, _mm256_maddubs_epi16(weights, acts))
            }
        }
        fn finish(self, acc: __m256i, partial: __m256i) -> __m256i {
            if VNNI {
                partial
            } else {
                _mm256_add_epi32(acc, _mm256_madd_epi16(partial, _mm256_set1_epi16(1)))
            }
        }
        fn dot_wide(self, acc: __m256i, weights: __m256i, acts: __m256i) -> __m256i {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(acc, weights, acts);
            }
            // |w| <= 128 and |a| <= 127: pairs stay below 2^15.
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(acts, weights));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
        fn transpose_4(self, x: [__m256i; 4]) -> [__m256i; 4] { transpose_4(x) }
        fn join_halves(self, a: __m256i, b: __m256i) -> (__m256i, __m256i) {
            (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
        }

        fn splat(self, x: f32) -> __m256 { _mm256_set1_ps(x) }
        fn add(self, a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(self, a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(self, a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(self, a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn if_less(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
            _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
        }
        fn to_f(self, x: __m256i) -> __m256 { _mm256_cvtepi32_ps(x) }
        fn round(self, x: __m256) -> __m256i { _mm256_cvtps_epi32(x) }
        fn as_i(self, x: __m256) -> __m256i { _mm256_castps_si256(x) }
        fn as_f(self, x: __m256i) -> __m256 { _mm256_castsi256_ps(x) }
        fn even_odd(self, x: __m256) -> __m256 {
            _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7))
        }
        fn alternate(self, x: __m256) -> __m256 {
            _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        }
        fn fold_rows(self, x: __m256) -> Rows<f32> { [fold(x), 0.0] }
        fn fold_16(self, x: [__m256; 2]) -> f32 { fold(_mm256_add_ps(x[0], x[1])) }
    }
}

/// Transposes the 4 x 4 lanes of each half.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_4(x: [__m256i; 4]) -> [__m256i; 4] {
    let a = _mm256_unpacklo_epi32(x[0], x[1]);
    let b = _mm256_unpackhi_epi32(x[0], x[1]);
    let c = _mm256_unpacklo_epi32(x[2], x[3]);
    let d = _mm256_unpackhi_epi32(x[2], x[3]);
    [_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c), _mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn fold(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x))) + 0.0
}
