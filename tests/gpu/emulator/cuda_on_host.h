// As much of CUDA C as src/gpu/kernels uses, for a C++ compiler: each thread of a block is a fiber, and a block's fibers
// take turns on one thread of the host, so that barriers and warp shuffles mean what they mean on a GPU.
#pragma once

#include <cmath>
#include <cstring>

#define __global__
#define __device__
#define __shared__ static thread_local
#define __launch_bounds__(n)

struct dim3 {
    unsigned x, y, z;
};
struct int4 {
    int x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {
/// Lanes of a warp.
constexpr unsigned WARP = 32;
/// The running thread's place; the fiber's own.
struct Place {
    dim3 thread, block, block_size, grid;
};
const Place &place();
/// Waits for all threads of the block.
void block_barrier();
/// Waits for all lanes of the warp, and returns what they brought; it stays until the next but one such call.
const unsigned *exchange(unsigned value);
} // namespace emulator

#define threadIdx (emulator::place().thread)
#define blockIdx (emulator::place().block)
#define blockDim (emulator::place().block_size)
#define gridDim (emulator::place().grid)

inline void __syncthreads() { emulator::block_barrier(); }

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

/// Lane `i` gets the value of lane `i + delta`, where that is in its own group of `width` lanes.
inline float __shfl_down_sync(unsigned, float value, unsigned delta, unsigned width) {
    const unsigned *values = emulator::exchange(__float_as_uint(value));
    const unsigned lane = threadIdx.x % emulator::WARP;
    return __uint_as_float(values[lane % width + delta < width ? lane + delta : lane]);
}
inline float __shfl_xor_sync(unsigned, float value, unsigned mask, unsigned) {
    const unsigned *values = emulator::exchange(__float_as_uint(value));
    return __uint_as_float(values[threadIdx.x % emulator::WARP ^ mask]);
}

/// Four products of signed bytes, added to `c`.
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += (int)(signed char)(a >> i) * (int)(signed char)(b >> i);
    return c;
}

template <typename A, typename B>
inline auto min(A a, B b) -> decltype(a + b) {
    return a < b ? a : b;
}

inline float widen_f16(unsigned short bits) {
    _Float16 value;
    std::memcpy(&value, &bits, 2);
    return (float)value;
}
inline unsigned short narrow_f16(float value) {
    const _Float16 half = (_Float16)value;
    unsigned short bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}
