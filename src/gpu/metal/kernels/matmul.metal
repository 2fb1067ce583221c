// Products with weights in their file's format, each read once for up to eight columns.
//
// Quantized weights meet activations of 8 bits, quantized in blocks of 32 values. Eight neighbouring lanes make one
// output: lane j has the blocks j, j + 8, … of the row and so the running sum j of the CPU's dot product. Rows lie as in
// the file, which the GPU can read where it is mapped; all blocks begin at even addresses.

#define MATMUL_THREADS 128
#define SMALLEST_ABSMAX 1e-30f

/// A block of 32 weights: `scale[half] * q - min[half]`. Formats with one scale or min use the first.
struct Block {
    uint q[8]; // 32 signed bytes
    float scale[2];
    float min[2];
};

/// An activation block's numbers beside its 32 bytes: scale, and `scale * -sum` of all, of the first and of the last 16.
typedef float4 Sums;

struct QuantizeQ8Arguments {
    device const float *x;
    ulong n_blocks;
    device uint4 *q;
    device Sums *sums;
};

/// One thread a block of 32: `scale = absmax / 127`, `q = round(x * (127 / absmax))`. As q8.rs, a block without a finite
/// absmax has a NaN for its scale, and one below 1e-30 is zero.
kernel void quantize_q8(constant QuantizeQ8Arguments &a [[buffer(0)]], PLACE) {
    const ulong b = NUMBER;
    if (b >= a.n_blocks) return;
    device const float *values = a.x + b * 32;
    uint largest = 0;
    for (uint i = 0; i < 32; i++) largest = max(largest, as_type<uint>(values[i]) & 0x7fffffffu);
    const float absmax = as_type<float>(largest);
    const bool has_values = largest < 0x7f800000u && absmax >= SMALLEST_ABSMAX;
    const float inverse = 127.0f / absmax;
    uint words[8];
    int half_sums[2] = {0, 0};
    for (uint w = 0; w < 8; w++) {
        words[w] = 0;
        for (uint i = 0; i < 4 && has_values; i++) {
            const int value = (int)rint(values[4 * w + i] * inverse);
            half_sums[w / 4] += value;
            words[w] |= ((uint)value & 0xffu) << (8 * i);
        }
    }
    const float nothing = absmax < SMALLEST_ABSMAX ? 0.0f : as_type<float>(0x7fc00000u);
    const float scale = has_values ? absmax / 127.0f : nothing;
    a.q[2 * b] = uint4(words[0], words[1], words[2], words[3]);
    a.q[2 * b + 1] = uint4(words[4], words[5], words[6], words[7]);
    a.sums[b] = Sums(scale, scale * (float)-(half_sums[0] + half_sums[1]), scale * (float)-half_sums[0],
                   scale * (float)-half_sums[1]);
}

// ---- formats ----

inline uint u16_at(device const u8 *at) {
    return *(device const u16 *)at;
}

inline uint u32_at(device const u8 *at) {
    return u16_at(at) | u16_at(at + 2) << 16;
}

inline float f16_at(device const u8 *at) {
    return widen_f16(*(device const u16 *)at);
}

/// 16 bytes at a multiple of 4 or, with ALIGNMENT 2, at any even address.
template <int ALIGNMENT>
inline void copy_words(device const u8 *at, thread uint *words) {
    if (ALIGNMENT == 4) {
        const uint4 all = uint4(*(device const packed_uint4 *)at);
        words[0] = all.x, words[1] = all.y, words[2] = all.z, words[3] = all.w;
    } else {
        for (uint i = 0; i < 4; i++) words[i] = u32_at(at + 4 * i);
    }
}

template <int ALIGNMENT>
inline void copy_32(device const u8 *at, thread uint *words) {
    copy_words<ALIGNMENT>(at, words);
    copy_words<ALIGNMENT>(at + 16, words + 4);
}

/// Byte l of 16 holds value l in its low and value l + 16 in its high half.
template <int ALIGNMENT>
inline void unpack_nibbles(device const u8 *at, thread uint *q) {
    uint words[4];
    copy_words<ALIGNMENT>(at, words);
    for (uint i = 0; i < 4; i++) {
        q[i] = words[i] & 0x0f0f0f0fu;
        q[i + 4] = (words[i] >> 4) & 0x0f0f0f0fu;
    }
}

/// Subtracts the zero point from bytes below 128; none borrows from its neighbour.
inline void subtract(thread uint *q, uint zero_point) {
    for (uint i = 0; i < 8; i++) q[i] = ((q[i] | 0x80808080u) - zero_point * 0x01010101u) ^ 0x80808080u;
}

/// Bit l of `bits` is bit 4 of byte l.
inline void add_fifth_bits(uint bits, thread uint *q) {
    // Four bits, one to the bottom of each byte.
    for (uint i = 0; i < 8; i++) q[i] |= (((bits >> (4 * i)) & 0xfu) * 0x00204081u & 0x01010101u) << 4;
}

/// The 16 values that nibbles of IQ4 stand for, four to a word.
constant uint IQ4_VALUES[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};

inline void look_up(thread uint *q) {
    for (uint i = 0; i < 8; i++) {
        uint word = 0;
        for (uint byte = 0; byte < 4; byte++) {
            const uint n = q[i] >> (8 * byte) & 15u;
            word |= (IQ4_VALUES[n / 4] >> (8 * (n % 4)) & 0xffu) << (8 * byte);
        }
        q[i] = word;
    }
}

// Each format: the 32s (BLOCKS) and the bytes of its blocks, scales and mins of a 32, and how 32 number `j` is read.

struct Q4_0 {
    enum { BLOCKS = 1, BYTES = 18, SCALES = 1, MINS = 0 };
    static void load(device const u8 *block, uint, thread Block &out) {
        unpack_nibbles<2>(block + 2, out.q);
        subtract(out.q, 8);
        out.scale[0] = f16_at(block);
    }
};

struct Q4_1 {
    enum { BLOCKS = 1, BYTES = 20, SCALES = 1, MINS = 1 };
    static void load(device const u8 *block, uint, thread Block &out) {
        unpack_nibbles<4>(block + 4, out.q);
        out.scale[0] = f16_at(block);
        out.min[0] = -f16_at(block + 2);
    }
};

struct Q5_0 {
    enum { BLOCKS = 1, BYTES = 22, SCALES = 1, MINS = 0 };
    static void load(device const u8 *block, uint, thread Block &out) {
        unpack_nibbles<2>(block + 6, out.q);
        add_fifth_bits(u32_at(block + 2), out.q);
        subtract(out.q, 16);
        out.scale[0] = f16_at(block);
    }
};

struct Q5_1 {
    enum { BLOCKS = 1, BYTES = 24, SCALES = 1, MINS = 1 };
    static void load(device const u8 *block, uint, thread Block &out) {
        unpack_nibbles<4>(block + 8, out.q);
        add_fifth_bits(u32_at(block + 4), out.q);
        out.scale[0] = f16_at(block);
        out.min[0] = -f16_at(block + 2);
    }
};

struct Q8_0 {
    enum { BLOCKS = 1, BYTES = 34, SCALES = 1, MINS = 0 };
    static void load(device const u8 *block, uint, thread Block &out) {
        copy_32<2>(block + 2, out.q);
        out.scale[0] = f16_at(block);
    }
};

struct IQ4_NL {
    enum { BLOCKS = 1, BYTES = 18, SCALES = 1, MINS = 0 };
    static void load(device const u8 *block, uint, thread Block &out) {
        unpack_nibbles<2>(block + 2, out.q);
        look_up(out.q);
        out.scale[0] = f16_at(block);
    }
};

struct Q2_K {
    enum { BLOCKS = 8, BYTES = 84, SCALES = 2, MINS = 2 };
    static void load(device const u8 *block, uint j, thread Block &out) {
        copy_32<4>(block + 16 + j / 4 * 32, out.q);
        for (uint i = 0; i < 8; i++) out.q[i] = (out.q[i] >> (2 * (j % 4))) & 0x03030303u;
        const float d = f16_at(block + 80), dmin = f16_at(block + 82);
        for (uint half_block = 0; half_block < 2; half_block++) {
            const uint packed = block[2 * j + half_block];
            out.scale[half_block] = d * (float)(packed & 15u);
            out.min[half_block] = dmin * (float)(packed >> 4);
        }
    }
};

struct Q3_K {
    enum { BLOCKS = 8, BYTES = 110, SCALES = 2, MINS = 0 };
    static void load(device const u8 *block, uint j, thread Block &out) {
        uint high[8];
        copy_32<2>(block + 32 + j / 4 * 32, out.q);
        copy_32<2>(block, high);
        for (uint i = 0; i < 8; i++) {
            out.q[i] = ((out.q[i] >> (2 * (j % 4))) & 0x03030303u) | ((high[i] >> j) & 0x01010101u) << 2;
        }
        subtract(out.q, 4);
        const float d = f16_at(block + 108);
        for (uint half_block = 0; half_block < 2; half_block++) {
            const uint h = 2 * j + half_block;
            const uint low = (uint)block[96 + h % 8] >> (4 * (h / 8)) & 15u;
            const uint upper = (uint)block[104 + h % 4] >> (2 * (h / 4)) & 3u;
            out.scale[half_block] = d * (float)((int)(low | upper << 4) - 32);
        }
    }
};

/// The 8 scales and 8 mins, 6 bits each, of Q4_K and Q5_K.
inline void scale_and_min_k4(device const u8 *block, uint j, thread Block &out) {
    device const u8 *packed = block + 4;
    uint scale, min;
    if (j < 4) {
        scale = packed[j] & 63u;
        min = packed[j + 4] & 63u;
    } else {
        scale = (packed[j + 4] & 15u) | (uint)(packed[j - 4] >> 6) << 4;
        min = (uint)(packed[j + 4] >> 4) | (uint)(packed[j] >> 6) << 4;
    }
    out.scale[0] = f16_at(block) * (float)scale;
    out.min[0] = f16_at(block + 2) * (float)min;
}

struct Q4_K {
    enum { BLOCKS = 8, BYTES = 144, SCALES = 1, MINS = 1 };
    static void load(device const u8 *block, uint j, thread Block &out) {
        copy_32<4>(block + 16 + j / 2 * 32, out.q);
        for (uint i = 0; i < 8; i++) out.q[i] = (out.q[i] >> (4 * (j % 2))) & 0x0f0f0f0fu;
        scale_and_min_k4(block, j, out);
    }
};

struct Q5_K {
    enum { BLOCKS = 8, BYTES = 176, SCALES = 1, MINS = 1 };
    static void load(device const u8 *block, uint j, thread Block &out) {
        uint high[8];
        copy_32<4>(block + 48 + j / 2 * 32, out.q);
        copy_32<4>(block + 16, high);
        for (uint i = 0; i < 8; i++) {
            out.q[i] = ((out.q[i] >> (4 * (j % 2))) & 0x0f0f0f0fu) | ((high[i] >> j) & 0x01010101u) << 4;
        }
        scale_and_min_k4(block, j, out);
    }
};

struct Q6_K {
    enum { BLOCKS = 8, BYTES = 210, SCALES = 2, MINS = 0 };
    static void load(device const u8 *block, uint j, thread Block &out) {
        // 32s 0 and 1 of each four use the low, 2 and 3 the high halves of the same 64 bytes.
        uint high[8];
        copy_32<2>(block + j / 4 * 64 + j % 2 * 32, out.q);
        copy_32<2>(block + 128 + j / 4 * 32, high);
        for (uint i = 0; i < 8; i++) {
            out.q[i] = ((out.q[i] >> (4 * (j % 4 / 2))) & 0x0f0f0f0fu) | ((high[i] >> (2 * (j % 4))) & 0x03030303u) << 4;
        }
        subtract(out.q, 32);
        const float d = f16_at(block + 208);
        for (uint half_block = 0; half_block < 2; half_block++) {
            out.scale[half_block] = d * (float)(char)block[192 + 2 * j + half_block];
        }
    }
};

struct IQ4_XS {
    enum { BLOCKS = 8, BYTES = 136, SCALES = 1, MINS = 0 };
    static void load(device const u8 *block, uint j, thread Block &out) {
        unpack_nibbles<4>(block + 8 + 16 * j, out.q);
        look_up(out.q);
        const uint low = (uint)block[4 + j / 2] >> (4 * (j % 2)) & 15u;
        const uint upper = u16_at(block + 2) >> (2 * j) & 3u;
        out.scale[0] = f16_at(block) * (float)((int)(low | upper << 4) - 32);
    }
};

// ---- products ----

/// Four products of signed bytes. Each fits into 16 bits, which an Apple GPU multiplies faster than 32.
inline int dot4(uint a, uint b) {
    const short4 products = short4(as_type<char4>(a)) * short4(as_type<char4>(b));
    return (int)products.x + (int)products.y + (int)products.z + (int)products.w;
}

struct MatmulQ8Arguments {
    device const u8 *weights;
    ulong row_bytes;
    uint n_rows;
    uint n_blocks;
    device const uint4 *q;
    device const Sums *sums;
    uint n_columns;
    device float *out;
    ulong out_stride;
};

/// `out[c][out_at + r] = dot(weights[r], acts[c])`, 16 rows a threadgroup (x), N columns (y). See dot_q8 in scalar.rs.
template <typename Format, int N>
inline void matmul_q8(constant MatmulQ8Arguments &a, uint3 group, uint index) {
    const uint row = group.x * (MATMUL_THREADS / 8) + index / 8, j = index % 8;
    device const u8 *blocks = a.weights + (ulong)min(row, a.n_rows - 1) * a.row_bytes;
    ulong column[N];
    float total[N];
#pragma unroll
    for (uint c = 0; c < N; c++) {
        // Beyond the last column the work is done for it again, and not stored.
        column[c] = (ulong)min(group.y * N + c, a.n_columns - 1) * a.n_blocks;
        total[c] = 0.0f;
    }
    for (uint b = j; b < a.n_blocks; b += 8) {
        Block w;
        Format::load(blocks + (ulong)(b / Format::BLOCKS) * Format::BYTES, b % Format::BLOCKS, w);
#pragma unroll
        for (uint c = 0; c < N; c++) {
            const ulong at = column[c] + b;
            const uint4 low = a.q[2 * at], high = a.q[2 * at + 1];
            const Sums s = a.sums[at];
            const int first = dot4(w.q[0], low.x) + dot4(w.q[1], low.y) + dot4(w.q[2], low.z) + dot4(w.q[3], low.w);
            const int last = dot4(w.q[4], high.x) + dot4(w.q[5], high.y) + dot4(w.q[6], high.z) + dot4(w.q[7], high.w);
            const float t = Format::SCALES == 1 ? (float)(first + last) * w.scale[0]
                                                : fma((float)last, w.scale[1], (float)first * w.scale[0]);
            total[c] = fma(t, s.x, total[c]);
            if (Format::MINS == 1) total[c] = fma(w.min[0], s.y, total[c]);
            if (Format::MINS == 2) total[c] = fma(w.min[1], s.w, fma(w.min[0], s.z, total[c]));
        }
    }
#pragma unroll
    for (uint c = 0; c < N; c++) {
        const float sum = fold<8>(total[c]);
        const uint to = group.y * N + c;
        if (j == 0 && row < a.n_rows && to < a.n_columns) a.out[to * a.out_stride + row] = sum;
    }
}

#define MATMUL_Q8(name, Format, N)                                                                                    \
    [[kernel, max_total_threads_per_threadgroup(MATMUL_THREADS)]] void name(                                          \
        constant MatmulQ8Arguments &a [[buffer(0)]], PLACE) {                                                         \
        matmul_q8<Format, N>(a, group, index);                                                                        \
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
    static float load(device const u8 *row, uint i) { return ((device const float *)row)[i]; }
};
struct F16 {
    static float load(device const u8 *row, uint i) { return widen_f16(((device const u16 *)row)[i]); }
};
struct BF16 {
    static float load(device const u8 *row, uint i) { return widen_bf16(((device const u16 *)row)[i]); }
};

struct MatmulFloatArguments {
    device const u8 *weights;
    ulong row_bytes;
    uint n_rows;
    uint k;
    device const float *x;
    uint n_columns;
    device float *out;
    ulong out_stride;
};

/// The same with weights of floats and activations as they are: sixteen lanes an output, 8 rows a threadgroup.
template <typename Format, int N>
inline void matmul_float(constant MatmulFloatArguments &a, uint3 group, uint index) {
    const uint row = group.x * (MATMUL_THREADS / 16) + index / 16, lane = index % 16;
    device const u8 *values = a.weights + (ulong)min(row, a.n_rows - 1) * a.row_bytes;
    ulong column[N];
    float total[N];
#pragma unroll
    for (uint c = 0; c < N; c++) {
        column[c] = (ulong)min(group.y * N + c, a.n_columns - 1) * a.k;
        total[c] = 0.0f;
    }
    for (uint i = lane; i < a.k; i += 16) {
        const float w = Format::load(values, i);
#pragma unroll
        for (uint c = 0; c < N; c++) total[c] = fma(w, a.x[column[c] + i], total[c]);
    }
#pragma unroll
    for (uint c = 0; c < N; c++) {
        const float sum = fold<16>(total[c]);
        const uint to = group.y * N + c;
        if (lane == 0 && row < a.n_rows && to < a.n_columns) a.out[to * a.out_stride + row] = sum;
    }
}

#define MATMUL_FLOAT(name, Format, N)                                                                                 \
    [[kernel, max_total_threads_per_threadgroup(MATMUL_THREADS)]] void name(                                          \
        constant MatmulFloatArguments &a [[buffer(0)]], PLACE) {                                                      \
        matmul_float<Format, N>(a, group, index);                                                                     \
    }
#define MATMUL_FLOAT_BOTH(name, Format) MATMUL_FLOAT(name##_1, Format, 1) MATMUL_FLOAT(name##_8, Format, 8)

MATMUL_FLOAT_BOTH(matmul_f32, F32)
MATMUL_FLOAT_BOTH(matmul_f16, F16)
MATMUL_FLOAT_BOTH(matmul_bf16, BF16)
