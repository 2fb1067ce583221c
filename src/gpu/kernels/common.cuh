// What all kernels share: numbers of 16 bits, and functions of one number.
//
// Every kernel but those in halves.cu computes the bits that the CPU's kernels do (src/kernels/scalar.rs is the definition):
// the same running sums in the same order, the same polynomials. So nothing here may be contracted or approximated: build with
// -fmad=false and without fast math. Where a multiplication and an addition are rounded once, it says fmaf.
#pragma once

#ifdef EMULATED_GPU
#include "cuda_on_host.h"
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned long long u64;

#define FULL_WARP 0xffffffffu

#ifndef EMULATED_GPU
__device__ inline float widen_f16(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline u16 narrow_f16(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ inline float widen_bf16(u16 bits) {
    return __uint_as_float((unsigned)bits << 16);
}

/// Ties to even; a NaN stays one.
__device__ inline u16 narrow_bf16(float value) {
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40u);
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// `sums[i] + sums[i + n / 2]`, and again until one is left, over neighbouring lanes; lane 0 of them has the result.
template <int N>
__device__ inline float fold(float sum) {
#pragma unroll
    for (int offset = N / 2; offset > 0; offset /= 2) sum += __shfl_down_sync(FULL_WARP, sum, offset, N);
    return sum + 0.0f;
}

/// `e^x` as in scalar.rs: a polynomial for `e^r`, the exponent's bits for `2^n`.
__device__ inline float exp_bits(float x) {
    if (x < -87.33f) return 0.0f;
    if (x > 88.3f) return __uint_as_float(0x7f800000u);
    const float rounder = 12582912.0f;
    const float shifted = fmaf(x, 1.44269504088896340736f, rounder);
    const float n = shifted - rounder;
    const float r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.6933594f, x));
    float p = 1.9875691e-4f;
    p = fmaf(p, r, 1.3981999e-3f);
    p = fmaf(p, r, 8.333452e-3f);
    p = fmaf(p, r, 4.1665796e-2f);
    p = fmaf(p, r, 1.6666666e-1f);
    p = fmaf(p, r, 0.5f);
    const unsigned bias = 127u - __float_as_uint(rounder);
    return fmaf(r * r, p, r + 1.0f) * __uint_as_float((__float_as_uint(shifted) + bias) << 23);
}

/// `tanh(x)` as in scalar.rs.
__device__ inline float tanh_bits(float x) {
    const float magnitude = fabsf(x);
    if (magnitude < 0.625f) {
        const float square = x * x;
        float p = -5.7049887e-3f;
        p = fmaf(p, square, 2.0639088e-2f);
        p = fmaf(p, square, -5.3739715e-2f);
        p = fmaf(p, square, 1.3331442e-1f);
        p = fmaf(p, square, -3.333328e-1f);
        return fmaf(p * square, x, x);
    }
    return copysignf(1.0f - 2.0f / (exp_bits(magnitude + magnitude) + 1.0f), x);
}

__device__ inline float soft_capped(float x, float cap) {
    return tanh_bits(x / cap) * cap;
}

/// `gelu(gate) * up`
__device__ inline float gated(float gate, float up) {
    const float cubic = fmaf(gate * gate, 0.044715f, 1.0f);
    return gate / (1.0f + exp_bits(gate * -1.5957692f * cubic)) * up;
}

/// An activation block's numbers beside its 32 bytes: scale, and `scale * -sum` of all, of the first and of the last 16.
typedef float4 Sums;

#define SMALLEST_ABSMAX 1e-30f

/// A warp quantizes block `block` of 32 values, one a lane: `scale = absmax / 127`, `q = round(x * (127 / absmax))`. As in
/// q8.rs, a block without a finite absmax has a NaN for its scale, and one below 1e-30 is zero.
__device__ inline void quantize(float value, u64 block, signed char *q, Sums *sums) {
    const unsigned lane = threadIdx.x % 32;
    unsigned largest = __float_as_uint(value) & 0x7fffffffu;
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        largest = max(largest, __shfl_xor_sync(FULL_WARP, largest, offset, 32));
    }
    const float absmax = __uint_as_float(largest);
    const bool has_values = largest < 0x7f800000u && absmax >= SMALLEST_ABSMAX;
    const int rounded = has_values ? (int)rintf(value * (127.0f / absmax)) : 0;
    q[32 * block + lane] = (signed char)rounded;
    int half_sum = rounded;
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) half_sum += __shfl_xor_sync(FULL_WARP, half_sum, offset, 32);
    const int other = __shfl_xor_sync(FULL_WARP, half_sum, 16, 32);
    const float nothing = absmax < SMALLEST_ABSMAX ? 0.0f : __uint_as_float(0x7fc00000u);
    const float scale = has_values ? absmax / 127.0f : nothing;
    if (lane == 0) {
        sums[block] = make_float4(scale, scale * (float)-(half_sum + other), scale * (float)-half_sum, scale * (float)-other);
    }
}
