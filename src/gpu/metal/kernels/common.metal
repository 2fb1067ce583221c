// What all kernels share: numbers of 16 bits, and functions of one number. The other files follow this one in one text,
// which the system compiles when a GPU is first asked for.
//
// As kernels/*.cu, every kernel computes the bits that the CPU's kernels do (src/kernels/scalar.rs is the definition): the
// same running sums in the same order, the same polynomials. So nothing here may be contracted or approximated: fast math
// is off, and where a multiplication and an addition are rounded once, it says fma.
#include <metal_stdlib>
using namespace metal;

#pragma METAL fp contract(off)
// What older compilers know.
#pragma clang fp contract(off)

typedef uchar u8;
typedef ushort u16;

/// What each kernel has after its arguments, which are one structure with addresses and numbers as src/gpu has them: its threadgroup's place and size, and the thread's number in it. Grids have
/// two dimensions, threadgroups one.
#define PLACE                                                                                                         \
    uint3 group [[threadgroup_position_in_grid]], uint3 size [[threads_per_threadgroup]],                             \
        uint index [[thread_index_in_threadgroup]]

/// The thread's number among all, of kernels with one thread a value. A grid has less than 2^31 threadgroups.
#define NUMBER ((ulong)group.x * size.x + index)

inline float widen_f16(u16 bits) {
    return float(as_type<half>(bits));
}

inline u16 narrow_f16(float value) {
    return as_type<u16>(half(value));
}

inline float widen_bf16(u16 bits) {
    return as_type<float>((uint)bits << 16);
}

/// Ties to even; a NaN stays one.
inline u16 narrow_bf16(float value) {
    const uint bits = as_type<uint>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// `sums[i] + sums[i + n / 2]`, and again until one is left, over N neighbouring lanes of which the first is a multiple of
/// N; that one has the result. What the others fold is nothing.
template <int N>
inline float fold(float sum) {
#pragma unroll
    for (u16 offset = N / 2; offset > 0; offset /= 2) sum += simd_shuffle_down(sum, offset);
    return sum + 0.0f;
}

/// `e^x` as in scalar.rs: a polynomial for `e^r`, the exponent's bits for `2^n`.
inline float exp_bits(float x) {
    if (x < -87.33f) return 0.0f;
    if (x > 88.3f) return as_type<float>(0x7f800000u);
    const float rounder = 12582912.0f;
    const float shifted = fma(x, 1.44269504088896340736f, rounder);
    const float n = shifted - rounder;
    const float r = fma(n, 2.1219444e-4f, fma(n, -0.6933594f, x));
    float p = 1.9875691e-4f;
    p = fma(p, r, 1.3981999e-3f);
    p = fma(p, r, 8.333452e-3f);
    p = fma(p, r, 4.1665796e-2f);
    p = fma(p, r, 1.6666666e-1f);
    p = fma(p, r, 0.5f);
    const uint bias = 127u - as_type<uint>(rounder);
    return fma(r * r, p, r + 1.0f) * as_type<float>((as_type<uint>(shifted) + bias) << 23);
}

/// `tanh(x)` as in scalar.rs.
inline float tanh_bits(float x) {
    const float magnitude = fabs(x);
    if (magnitude < 0.625f) {
        const float square = x * x;
        float p = -5.7049887e-3f;
        p = fma(p, square, 2.0639088e-2f);
        p = fma(p, square, -5.3739715e-2f);
        p = fma(p, square, 1.3331442e-1f);
        p = fma(p, square, -3.333328e-1f);
        return fma(p * square, x, x);
    }
    return copysign(1.0f - 2.0f / (exp_bits(magnitude + magnitude) + 1.0f), x);
}

inline float soft_capped(float x, float cap) {
    return tanh_bits(x / cap) * cap;
}

/// `gelu(gate) * up`
inline float gated(float gate, float up) {
    const float cubic = fma(gate * gate, 0.044715f, 1.0f);
    return gate / (1.0f + exp_bits(gate * -1.5957692f * cubic)) * up;
}

/// An activation block's numbers beside its 32 bytes: scale, and `scale * -sum` of all, of the first and of the last 16.
typedef float4 Sums;

#define SMALLEST_ABSMAX 1e-30f

/// The 32 lanes of a SIMD group quantize block `block`, a value each: `scale = absmax / 127`,
/// `q = round(x * (127 / absmax))`. As in q8.rs, a block without a finite absmax has a NaN for its scale, and one below
/// 1e-30 is zero.
inline void quantize(float value, ulong block, uint lane, device char *q, device Sums *sums) {
    uint largest = as_type<uint>(value) & 0x7fffffffu;
    for (u16 offset = 16; offset > 0; offset /= 2) largest = max(largest, simd_shuffle_xor(largest, offset));
    const float absmax = as_type<float>(largest);
    const bool has_values = largest < 0x7f800000u && absmax >= SMALLEST_ABSMAX;
    const int rounded = has_values ? (int)rint(value * (127.0f / absmax)) : 0;
    q[32 * block + lane] = (char)rounded;
    int half_sum = rounded;
    for (u16 offset = 8; offset > 0; offset /= 2) half_sum += simd_shuffle_xor(half_sum, offset);
    const int other = simd_shuffle_xor(half_sum, (u16)16);
    const float nothing = absmax < SMALLEST_ABSMAX ? 0.0f : as_type<float>(0x7fc00000u);
    const float scale = has_values ? absmax / 127.0f : nothing;
    if (lane == 0) {
        sums[block] = Sums(scale, scale * (float)-(half_sum + other), scale * (float)-half_sum, scale * (float)-other);
    }
}
