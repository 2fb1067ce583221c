// As much of CUDA C as src/gpu/kernels uses, for a C++ compiler.
#pragma once

#include "fibers.h"

#include <cmath>
#include <cstring>

#define __global__
#define __device__
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __grid_constant__

struct int4 {
    int x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

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

inline void __syncwarp() { emulator::exchange(0); }

/// All lanes get the value of the lane that they name, of which the last five bits count.
inline float __shfl_sync(unsigned, float value, unsigned lane, unsigned) {
    return __uint_as_float(emulator::exchange(__float_as_uint(value))[lane % emulator::WARP]);
}

/// Lane `i` gets the value of lane `i + delta`, where that is in its own group of `width` lanes.
inline float __shfl_down_sync(unsigned, float value, unsigned delta, unsigned width) {
    const unsigned *values = emulator::exchange(__float_as_uint(value));
    const unsigned lane = threadIdx.x % emulator::WARP;
    return __uint_as_float(values[lane % width + delta < width ? lane + delta : lane]);
}
template <typename T>
inline T __shfl_xor_sync(unsigned, T value, unsigned mask, unsigned) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    bits = emulator::exchange(bits)[threadIdx.x % emulator::WARP ^ mask];
    std::memcpy(&value, &bits, 4);
    return value;
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
template <typename A, typename B>
inline auto max(A a, B b) -> decltype(a + b) {
    return a > b ? a : b;
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

/// The matrix units, for a warp: see kernels/tensor.cu. `HALVES` is 1 for 16 bytes and 2 for 32.
template <int HALVES>
inline void multiply(int *c, const int *a, const int *b) {
    const unsigned group = threadIdx.x % emulator::WARP / 4, t = threadIdx.x % 4;
    // [row or column of two][half][word]
    int rows[2][HALVES][4], columns[2][HALVES][4];
    for (int half = 0; half < HALVES; half++) {
        for (int i = 0; i < 2; i++) {
            const unsigned *words = emulator::exchange((unsigned)a[2 * half + i]);
            for (int word = 0; word < 4; word++) rows[i][half][word] = (int)words[4 * group + word];
        }
        const unsigned *words = emulator::exchange((unsigned)b[half]);
        for (int i = 0; i < 2; i++) {
            for (int word = 0; word < 4; word++) columns[i][half][word] = (int)words[4 * (2 * t + i) + word];
        }
    }
    for (int i = 0; i < 4; i++) {
        for (int half = 0; half < HALVES; half++) {
            for (int word = 0; word < 4; word++) {
                c[i] = __dp4a(rows[i / 2][half][word], columns[i % 2][half][word], c[i]);
            }
        }
    }
}
/// The same for BF16, see kernels/halves.cu. A device adds in an order of its own; here it is as if a step were added at once.
inline void multiply_bf16(float *c, int a0, int a1, int a2, int a3, int b0, int b1) {
    const unsigned group = threadIdx.x % emulator::WARP / 4, t = threadIdx.x % 4;
    const int a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    // [row or column of two][value]
    float rows[2][16], columns[2][16];
    const auto put = [](unsigned word, float *to) { to[0] = __uint_as_float(word << 16), to[1] = __uint_as_float(word & 0xffff0000u); };
    for (int i = 0; i < 4; i++) {
        const unsigned *words = emulator::exchange((unsigned)a[i]);
        for (int w = 0; w < 4; w++) put(words[4 * group + w], rows[i % 2] + i / 2 * 8 + 2 * w);
    }
    for (int half = 0; half < 2; half++) {
        const unsigned *words = emulator::exchange((unsigned)b[half]);
        for (int n = 0; n < 2; n++) {
            for (int w = 0; w < 4; w++) put(words[4 * (2 * t + n) + w], columns[n] + half * 8 + 2 * w);
        }
    }
    for (int i = 0; i < 4; i++) {
        double sum = c[i];
        for (int k = 0; k < 16; k++) sum += (double)rows[i / 2][k] * columns[i % 2][k];
        c[i] = (float)sum;
    }
}

/// Copies that were begun, by thread and group; the last group has not ended. They are done only when they are waited for.
struct Ahead {
    int4 *to;
    const int4 *from;
    bool is_there;
};
inline std::vector<std::vector<Ahead>> &ahead() {
    static thread_local std::vector<std::vector<Ahead>> groups[emulator::MAX_THREADS];
    auto &mine = groups[threadIdx.x];
    if (mine.empty()) mine.emplace_back();
    return mine;
}
inline void copy_ahead(int4 *to, const int4 *from, bool is_there) { ahead().back().push_back({to, from, is_there}); }
inline void end_copies() { ahead().emplace_back(); }
template <int N>
inline void wait_for_copies() {
    auto &groups = ahead();
    while (groups.size() > N + 1) {
        for (const Ahead &copy : groups.front()) *copy.to = copy.is_there ? *copy.from : make_int4(0, 0, 0, 0);
        groups.erase(groups.begin());
    }
}

inline void multiply_16(int *c, const int *a, const int *b) { multiply<1>(c, a, b); }
inline void multiply_32(int *c, const int *a, const int *b) { multiply<2>(c, a, b); }
