// Products with weights in their file's format, each read once for up to eight columns.
//
// Quantized weights meet activations of 8 bits, quantized in blocks of 32 values. Eight neighbouring lanes make one
// output: lane j has the blocks j, j + 8, … of the row and so the running sum j of the CPU's dot product. A row is stored
// as gpu/layout.rs says: the bodies of all its blocks, aligned to 16 bytes, then what else the blocks have.
#include "common.cuh"

#define MATMUL_THREADS 128
#define SMALLEST_ABSMAX 1e-30f

/// A block of 32 weights: `scale[half] * q - min[half]`. Formats with one scale or min use the first.
struct Block {
    int q[8]; // 32 signed bytes
    float scale[2];
    float min[2];
};

/// An activation block's numbers beside its 32 bytes: scale, and `scale * -sum` of all, of the first and of the last 16.
typedef float4 Sums;

/// One thread a block of 32: `scale = absmax / 127`, `q = round(x * (127 / absmax))`. As q8.rs, a block without a finite
/// absmax has a NaN for its scale, and one below 1e-30 is zero.
extern "C" __global__ void quantize_q8(const float *x, u64 n_blocks, int4 *q, Sums *sums) {
    const u64 b = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (b >= n_blocks) return;
    const float *values = x + b * 32;
    unsigned largest = 0;
    for (int i = 0; i < 32; i++) {
        const unsigned magnitude = __float_as_uint(values[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    const float absmax = __uint_as_float(largest);
    const bool has_values = largest < 0x7f800000u && absmax >= SMALLEST_ABSMAX;
    const float inverse = 127.0f / absmax;
    int words[8], half_sums[2] = {0, 0};
    for (int w = 0; w < 8; w++) {
        words[w] = 0;
        for (int i = 0; i < 4 && has_values; i++) {
            const int value = (int)rintf(values[4 * w + i] * inverse);
            half_sums[w / 4] += value;
            words[w] |= (value & 0xff) << (8 * i);
        }
    }
    const float nothing = absmax < SMALLEST_ABSMAX ? 0.0f : __uint_as_float(0x7fc00000u);
    const float scale = has_values ? absmax / 127.0f : nothing;
    q[2 * b] = make_int4(words[0], words[1], words[2], words[3]);
    q[2 * b + 1] = make_int4(words[4], words[5], words[6], words[7]);
    sums[b] = make_float4(scale, scale * (float)-(half_sums[0] + half_sums[1]), scale * (float)-half_sums[0],
                          scale * (float)-half_sums[1]);
}

// ---- formats ----

__device__ inline float f16_at(const u8 *at) {
    return widen_f16(*(const u16 *)at);
}

__device__ inline void copy_words(const u8 *at, int *words) {
    const int4 a = *(const int4 *)at;
    words[0] = a.x, words[1] = a.y, words[2] = a.z, words[3] = a.w;
}

/// Byte l of 16 holds value l in its low and value l + 16 in its high half.
__device__ inline void unpack_nibbles(const u8 *at, int *q) {
    int words[4];
    copy_words(at, words);
    for (int i = 0; i < 4; i++) {
        q[i] = words[i] & 0x0f0f0f0f;
        q[i + 4] = (words[i] >> 4) & 0x0f0f0f0f;
    }
}

/// Subtracts the zero point from bytes below 128; none borrows from its neighbour.
__device__ inline void subtract(int *q, unsigned zero_point) {
    for (int i = 0; i < 8; i++) {
        q[i] = (int)((((unsigned)q[i] | 0x80808080u) - zero_point * 0x01010101u) ^ 0x80808080u);
    }
}

/// Bit l of `bits` is bit 4 of byte l.
__device__ inline void add_fifth_bits(unsigned bits, int *q) {
    for (int i = 0; i < 8; i++) {
        // Four bits, one to the bottom of each byte.
        q[i] |= (int)((((bits >> (4 * i)) & 0xfu) * 0x00204081u & 0x01010101u) << 4);
    }
}

__device__ inline unsigned u32_at(const u8 *at) {
    return (unsigned)((const u16 *)at)[0] | (unsigned)((const u16 *)at)[1] << 16;
}

/// The 16 values that nibbles of IQ4 stand for, four to a word.
__device__ inline void look_up(int *q) {
    const unsigned table[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
    for (int i = 0; i < 8; i++) {
        unsigned word = 0;
        for (int byte = 0; byte < 4; byte++) {
            const unsigned n = (unsigned)q[i] >> (8 * byte) & 15u;
            word |= (table[n / 4] >> (8 * (n % 4)) & 0xffu) << (8 * byte);
        }
        q[i] = (int)word;
    }
}

// Each format: bytes of its bodies (BODY, of BLOCKS blocks) and of the rest, scales and mins in a block, and how block `j`
// of a body is read.

struct Q4_0 {
    enum { BLOCKS = 1, BODY = 16, REST = 2, SCALES = 1, MINS = 0 };
    __device__ static void load(const u8 *body, const u8 *rest, unsigned, Block &out) {
        unpack_nibbles(body, out.q);
        subtract(out.q, 8);
        out.scale[0] = f16_at(rest);
    }
};

struct Q4_1 {
    enum { BLOCKS = 1, BODY = 16, REST = 4, SCALES = 1, MINS = 1 };
    __device__ static void load(const u8 *body, const u8 *rest, unsigned, Block &out) {
        unpack_nibbles(body, out.q);
        out.scale[0] = f16_at(rest);
        out.min[0] = -f16_at(rest + 2);
    }
};

struct Q5_0 {
    enum { BLOCKS = 1, BODY = 16, REST = 6, SCALES = 1, MINS = 0 };
    __device__ static void load(const u8 *body, const u8 *rest, unsigned, Block &out) {
        unpack_nibbles(body, out.q);
        add_fifth_bits(u32_at(rest + 2), out.q);
        subtract(out.q, 16);
        out.scale[0] = f16_at(rest);
    }
};

struct Q5_1 {
    enum { BLOCKS = 1, BODY = 16, REST = 8, SCALES = 1, MINS = 1 };
    __device__ static void load(const u8 *body, const u8 *rest, unsigned, Block &out) {
        unpack_nibbles(body, out.q);
        add_fifth_bits(u32_at(rest + 4), out.q);
        out.scale[0] = f16_at(rest);
        out.min[0] = -f16_at(rest + 2);
    }
};

struct Q8_0 {
    enum { BLOCKS = 1, BODY = 32, REST = 2, SCALES = 1, MINS = 0 };
    __device__ static void load(const u8 *body, const u8 *rest, unsigned, Block &out) {
        copy_words(body, out.q);
        copy_words(body + 16, out.q + 4);
        out.scale[0] = f16_at(rest);
    }
};

struct IQ4_NL {
    enum { BLOCKS = 1, BODY = 16, REST = 2, SCALES = 1, MINS = 0 };
    __device__ static void load(const u8 *body, const u8 *rest, unsigned, Block &out) {
        unpack_nibbles(body, out.q);
        look_up(out.q);
        out.scale[0] = f16_at(rest);
    }
};

struct Q2_K {
    enum { BLOCKS = 8, BODY = 80, REST = 4, SCALES = 2, MINS = 2 };
    __device__ static void load(const u8 *body, const u8 *rest, unsigned j, Block &out) {
        const u8 *values = body + 16 + j / 4 * 32;
        copy_words(values, out.q);
        copy_words(values + 16, out.q + 4);
        for (int i = 0; i < 8; i++) out.q[i] = (out.q[i] >> (2 * (j % 4))) & 0x03030303;
        const float d = f16_at(rest), dmin = f16_at(rest + 2);
        for (int half = 0; half < 2; half++) {
            const unsigned packed = body[2 * j + half];
            out.scale[half] = d * (float)(packed & 15u);
            out.min[half] = dmin * (float)(packed >> 4);
        }
    }
};

struct Q3_K {
    enum { BLOCKS = 8, BODY = 96, REST = 14, SCALES = 2, MINS = 0 };
    __device__ static void load(const u8 *body, const u8 *rest, unsigned j, Block &out) {
        const u8 *values = body + 32 + j / 4 * 32;
        int high[8];
        copy_words(values, out.q);
        copy_words(values + 16, out.q + 4);
        copy_words(body, high);
        copy_words(body + 16, high + 4);
        for (int i = 0; i < 8; i++) {
            out.q[i] = ((out.q[i] >> (2 * (j % 4))) & 0x03030303) | ((high[i] >> j) & 0x01010101) << 2;
        }
        subtract(out.q, 4);
        const float d = f16_at(rest + 12);
        for (unsigned half = 0; half < 2; half++) {
            const unsigned h = 2 * j + half;
            const unsigned low = (unsigned)rest[h % 8] >> (4 * (h / 8)) & 15u;
            const unsigned upper = (unsigned)rest[8 + h % 4] >> (2 * (h / 4)) & 3u;
            out.scale[half] = d * (float)((int)(low | upper << 4) - 32);
        }
    }
};

/// The 8 scales and 8 mins, 6 bits each, of Q4_K and Q5_K.
__device__ inline void scale_and_min_k4(const u8 *body, unsigned j, Block &out) {
    const u8 *packed = body + 4;
    unsigned scale, min;
    if (j < 4) {
        scale = packed[j] & 63u;
        min = packed[j + 4] & 63u;
    } else {
        scale = (packed[j + 4] & 15u) | (unsigned)(packed[j - 4] >> 6) << 4;
        min = (unsigned)(packed[j + 4] >> 4) | (unsigned)(packed[j] >> 6) << 4;
    }
    out.scale[0] = f16_at(body) * (float)scale;
    out.min[0] = f16_at(body + 2) * (float)min;
}

struct Q4_K {
    enum { BLOCKS = 8, BODY = 144, REST = 0, SCALES = 1, MINS = 1 };
    __device__ static void load(const u8 *body, const u8 *, unsigned j, Block &out) {
        const u8 *nibbles = body + 16 + j / 2 * 32;
        copy_words(nibbles, out.q);
        copy_words(nibbles + 16, out.q + 4);
        for (int i = 0; i < 8; i++) out.q[i] = (out.q[i] >> (4 * (j % 2))) & 0x0f0f0f0f;
        scale_and_min_k4(body, j, out);
    }
};

struct Q5_K {
    enum { BLOCKS = 8, BODY = 176, REST = 0, SCALES = 1, MINS = 1 };
    __device__ static void load(const u8 *body, const u8 *, unsigned j, Block &out) {
        const u8 *nibbles = body + 48 + j / 2 * 32;
        int high[8];
        copy_words(nibbles, out.q);
        copy_words(nibbles + 16, out.q + 4);
        copy_words(body + 16, high);
        copy_words(body + 32, high + 4);
        for (int i = 0; i < 8; i++) {
            out.q[i] = ((out.q[i] >> (4 * (j % 2))) & 0x0f0f0f0f) | ((high[i] >> j) & 0x01010101) << 4;
        }
        scale_and_min_k4(body, j, out);
    }
};

struct Q6_K {
    enum { BLOCKS = 8, BODY = 208, REST = 2, SCALES = 2, MINS = 0 };
    __device__ static void load(const u8 *body, const u8 *rest, unsigned j, Block &out) {
        // Blocks 0 and 1 of each four use the low, 2 and 3 the high halves of the same 64 bytes.
        const u8 *low = body + j / 4 * 64 + j % 2 * 32;
        const u8 *upper = body + 128 + j / 4 * 32;
        int high[8];
        copy_words(low, out.q);
        copy_words(low + 16, out.q + 4);
        copy_words(upper, high);
        copy_words(upper + 16, high + 4);
        for (int i = 0; i < 8; i++) {
            out.q[i] = ((out.q[i] >> (4 * (j % 4 / 2))) & 0x0f0f0f0f) | ((high[i] >> (2 * (j % 4))) & 0x03030303) << 4;
        }
        subtract(out.q, 32);
        const float d = f16_at(rest);
        for (int half = 0; half < 2; half++) out.scale[half] = d * (float)(signed char)body[192 + 2 * j + half];
    }
};

struct IQ4_XS {
    enum { BLOCKS = 8, BODY = 128, REST = 8, SCALES = 1, MINS = 0 };
    __device__ static void load(const u8 *body, const u8 *rest, unsigned j, Block &out) {
        unpack_nibbles(body + 16 * j, out.q);
        look_up(out.q);
        const unsigned low = (unsigned)rest[4 + j / 2] >> (4 * (j % 2)) & 15u;
        const unsigned upper = (unsigned)*(const u16 *)(rest + 2) >> (2 * j) & 3u;
        out.scale[0] = f16_at(rest) * (float)((int)(low | upper << 4) - 32);
    }
};

// ---- products ----

/// `out[c][out_at + r] = dot(weights[r], acts[c])`, 16 rows a block (x), N columns (y). See dot_q8 in scalar.rs.
template <typename Format, int N>
__device__ inline void matmul_q8(const u8 *weights, u64 row_bytes, unsigned n_rows, unsigned n_blocks, const int4 *q,
                                 const Sums *sums, unsigned n_columns, float *out, u64 out_stride) {
    const unsigned row = blockIdx.x * (MATMUL_THREADS / 8) + threadIdx.x / 8, j = threadIdx.x % 8;
    const u8 *bodies = weights + (u64)min(row, n_rows - 1) * row_bytes;
    const u8 *rests = bodies + (u64)(n_blocks / Format::BLOCKS) * Format::BODY;
    u64 column[N];
    float total[N];
#pragma unroll
    for (int c = 0; c < N; c++) {
        // Beyond the last column the work is done for it again, and not stored.
        column[c] = (u64)min(blockIdx.y * N + c, n_columns - 1) * n_blocks;
        total[c] = 0.0f;
    }
#pragma unroll 2
    for (unsigned b = j; b < n_blocks; b += 8) {
        const unsigned group = b / Format::BLOCKS;
        Block w;
        Format::load(bodies + (u64)group * Format::BODY, rests + (u64)group * Format::REST, b % Format::BLOCKS, w);
#pragma unroll
        for (int c = 0; c < N; c++) {
            const u64 at = column[c] + b;
            const int4 low = q[2 * at], high = q[2 * at + 1];
            const Sums s = sums[at];
            const int first = __dp4a(w.q[3], low.w, __dp4a(w.q[2], low.z, __dp4a(w.q[1], low.y, __dp4a(w.q[0], low.x, 0))));
            const int last = __dp4a(w.q[7], high.w, __dp4a(w.q[6], high.z, __dp4a(w.q[5], high.y, __dp4a(w.q[4], high.x, 0))));
            const float t = Format::SCALES == 1 ? (float)(first + last) * w.scale[0]
                                                : fmaf((float)last, w.scale[1], (float)first * w.scale[0]);
            total[c] = fmaf(t, s.x, total[c]);
            if (Format::MINS == 1) total[c] = fmaf(w.min[0], s.y, total[c]);
            if (Format::MINS == 2) total[c] = fmaf(w.min[1], s.w, fmaf(w.min[0], s.z, total[c]));
        }
    }
#pragma unroll
    for (int c = 0; c < N; c++) {
        const float sum = fold<8>(total[c]);
        const unsigned to = blockIdx.y * N + c;
        if (j == 0 && row < n_rows && to < n_columns) out[to * out_stride + row] = sum;
    }
}

#define MATMUL_Q8(name, Format, N)                                                                                    \
    extern "C" __global__ void name(const u8 *weights, u64 row_bytes, unsigned n_rows, unsigned n_blocks,            \
                                    const int4 *q, const Sums *sums, unsigned n_columns, float *out, u64 out_stride) { \
        matmul_q8<Format, N>(weights, row_bytes, n_rows, n_blocks, q, sums, n_columns, out, out_stride);              \
    }
#define MATMUL_Q8_BOTH(name, Format) MATMUL_Q8(name##_1, Format, 1) MATMUL_Q8(name##_8, Format, 8)

MATMUL_Q8_BOTH(matmul_q4_0, Q4_0)
MATMUL_Q8_BOTH(matmul_q4_1, Q4_1)
MATMUL_Q8_BOTH(matmul_q5_0, Q5_0)
MATMUL_Q8_BOTH(matmul_q5_1, Q5_1)
MATMUL_Q8_BOTH(matmul_q8_0, Q8_0)
MATMUL_Q8_BOTH(matmul_iq4_nl, IQ4_NL)
MATMUL_Q8_BOTH(matmul_q2_k, Q2_K)
MATMUL_Q8_BOTH(matmul_q3_k, Q3_K)
MATMUL_Q8_BOTH(matmul_q4_k, Q4_K)
MATMUL_Q8_BOTH(matmul_q5_k, Q5_K)
MATMUL_Q8_BOTH(matmul_q6_k, Q6_K)
MATMUL_Q8_BOTH(matmul_iq4_xs, IQ4_XS)

struct F32 {
    __device__ static float load(const u8 *row, unsigned i) { return ((const float *)row)[i]; }
};
struct F16 {
    __device__ static float load(const u8 *row, unsigned i) { return widen_f16(((const u16 *)row)[i]); }
};
struct BF16 {
    __device__ static float load(const u8 *row, unsigned i) { return widen_bf16(((const u16 *)row)[i]); }
};

/// The same with weights of floats and activations as they are: sixteen lanes an output, 8 rows a block.
template <typename Format, int N>
__device__ inline void matmul_float(const u8 *weights, u64 row_bytes, unsigned n_rows, unsigned k, const float *x,
                                    unsigned n_columns, float *out, u64 out_stride) {
    const unsigned row = blockIdx.x * (MATMUL_THREADS / 16) + threadIdx.x / 16, lane = threadIdx.x % 16;
    const u8 *values = weights + (u64)min(row, n_rows - 1) * row_bytes;
    u64 column[N];
    float total[N];
#pragma unroll
    for (int c = 0; c < N; c++) {
        column[c] = (u64)min(blockIdx.y * N + c, n_columns - 1) * k;
        total[c] = 0.0f;
    }
#pragma unroll 8
    for (unsigned i = lane; i < k; i += 16) {
        const float w = Format::load(values, i);
#pragma unroll
        for (int c = 0; c < N; c++) total[c] = fmaf(w, x[column[c] + i], total[c]);
    }
#pragma unroll
    for (int c = 0; c < N; c++) {
        const float sum = fold<16>(total[c]);
        const unsigned to = blockIdx.y * N + c;
        if (lane == 0 && row < n_rows && to < n_columns) out[to * out_stride + row] = sum;
    }
}

#define MATMUL_FLOAT(name, Format, N)                                                                                 \
    extern "C" __global__ void name(const u8 *weights, u64 row_bytes, unsigned n_rows, unsigned k, const float *x,   \
                                    unsigned n_columns, float *out, u64 out_stride) {                                 \
        matmul_float<Format, N>(weights, row_bytes, n_rows, k, x, n_columns, out, out_stride);                        \
    }
#define MATMUL_FLOAT_BOTH(name, Format) MATMUL_FLOAT(name##_1, Format, 1) MATMUL_FLOAT(name##_8, Format, 8)

MATMUL_FLOAT_BOTH(matmul_f32, F32)
MATMUL_FLOAT_BOTH(matmul_f16, F16)
MATMUL_FLOAT_BOTH(matmul_bf16, BF16)
