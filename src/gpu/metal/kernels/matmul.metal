// Products with weights in their file's format, each read once for up to eight columns.
//
// Quantized weights meet activations of 8 bits, quantized in blocks of 32 values. Eight neighbouring lanes make one
// output: lane j has the blocks j, j + 8, … of the row and so the running sum j of the CPU's dot product. Rows lie as in
// the file, which the GPU can read where it is mapped; all blocks begin at even addresses.

#define MATMUL_THREADS 64
#define GATED_THREADS 256
/// Rows of gate and up that a threadgroup makes: a block of activations.
#define GATED_ROWS 32

/// A block of 32 weights: `scale[half] * q - min[half]`. Formats with one scale or min use the first.
struct Block {
    uint q[8]; // 32 signed bytes
    float scale[2];
    float min[2];
};

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

#define PARTS 3

/// Matrices of one format whose outputs stand side by side; those that are not there have no rows.
struct Part {
    device const u8 *weights;
    ulong row_bytes;
    uint n_rows, first_out;
};

/// Which part a threadgroup is of, where each makes `rows` rows of one; `block` becomes its number there.
inline uint part_of(constant Part *parts, uint rows, thread uint &block) {
    uint p = 0;
    while (p + 1 < PARTS) {
        const uint n_blocks = (parts[p].n_rows + rows - 1) / rows;
        if (block < n_blocks) break;
        block -= n_blocks;
        p++;
    }
    return p;
}

inline device const u8 *row_of(constant Part &part, uint row) {
    return part.weights + (ulong)min(row, part.n_rows - 1) * part.row_bytes;
}

/// Where column `c` of a threadgroup of N begins. Beyond the last the work is done for it again, and not stored.
template <int N>
inline ulong column_at(uint c, uint group, uint n_columns, uint column_size) {
    return (ulong)min(group * N + c, n_columns - 1) * column_size;
}

/// Stores the outputs of N columns, capped where there is a cap.
template <int N, int LANES>
inline void store_products(thread const float *total, constant Part &part, uint row, uint lane, uint group, float cap,
                           uint n_columns, device float *out, ulong out_stride) {
#pragma unroll
    for (uint c = 0; c < N; c++) {
        const float sum = fold<LANES>(total[c]);
        const uint to = group * N + c;
        if (lane == 0 && row < part.n_rows && to < n_columns) {
            out[to * out_stride + part.first_out + row] = cap > 0.0f ? soft_capped(sum, cap) : sum;
        }
    }
}

/// Adds a block's product with an activation block to a running sum. See dot_q8 in scalar.rs.
template <typename Format>
inline float add_product(thread const Block &w, uint4 low, uint4 high, Sums s, float sum) {
    const int first = dot4(w.q[0], low.x) + dot4(w.q[1], low.y) + dot4(w.q[2], low.z) + dot4(w.q[3], low.w);
    const int last = dot4(w.q[4], high.x) + dot4(w.q[5], high.y) + dot4(w.q[6], high.z) + dot4(w.q[7], high.w);
    const float t = Format::SCALES == 1 ? (float)(first + last) * w.scale[0]
                                        : fma((float)last, w.scale[1], (float)first * w.scale[0]);
    sum = fma(t, s.x, sum);
    if (Format::MINS == 1) sum = fma(w.min[0], s.y, sum);
    if (Format::MINS == 2) sum = fma(w.min[1], s.w, fma(w.min[0], s.z, sum));
    return sum;
}

/// Block `b` of a row.
template <typename Format>
inline void load_block(device const u8 *row, uint b, thread Block &out) {
    Format::load(row + (ulong)(b / Format::BLOCKS) * Format::BYTES, b % Format::BLOCKS, out);
}

struct MatmulQ8Arguments {
    Part parts[PARTS];
    uint n_blocks;
    device const uint4 *q;
    device const Sums *sums;
    uint n_columns;
    float cap;
    device float *out;
    ulong out_stride;
};

/// `out[c][first_out + r] = dot(weights[r], acts[c])`, N columns a threadgroup (y).
template <typename Format, int N>
inline void matmul_q8(constant MatmulQ8Arguments &a, uint3 group, uint index) {
    uint block = group.x;
    constant Part &part = a.parts[part_of(a.parts, MATMUL_THREADS / 8, block)];
    const uint row = block * (MATMUL_THREADS / 8) + index / 8, j = index % 8;
    device const u8 *weights = row_of(part, row);
    ulong column[N];
    float total[N];
#pragma unroll
    for (uint c = 0; c < N; c++) {
        column[c] = column_at<N>(c, group.y, a.n_columns, a.n_blocks);
        total[c] = 0.0f;
    }
    for (uint b = j; b < a.n_blocks; b += 8) {
        Block w;
        load_block<Format>(weights, b, w);
#pragma unroll
        for (uint c = 0; c < N; c++) {
            const ulong at = column[c] + b;
            total[c] = add_product<Format>(w, a.q[2 * at], a.q[2 * at + 1], a.sums[at], total[c]);
        }
    }
    store_products<N, 8>(total, part, row, j, group.y, a.cap, a.n_columns, a.out, a.out_stride);
}

struct GatedQ8Arguments {
    Part parts[PARTS];
    uint n_blocks;
    device const uint4 *q;
    device const Sums *sums;
    device float *out;
    device char *out_q;
    device Sums *out_sums;
};

#define MATMUL_Q8(name, Format, N)                                                                                    \
    [[kernel, max_total_threads_per_threadgroup(MATMUL_THREADS)]] void matmul_##name##_##N(                           \
        constant MatmulQ8Arguments &a [[buffer(0)]], PLACE) {                                                         \
        matmul_q8<Format, N>(a, group, index);                                                                        \
    }

/// And `gelu(gate) * up` of one column: the first part is the gate, the second up, of the same size, whole GATED_ROWS.
#define MATMULS_Q8(name, Format)                                                                                      \
    MATMUL_Q8(name, Format, 1)                                                                                        \
    MATMUL_Q8(name, Format, 8)                                                                                        \
    [[kernel, max_total_threads_per_threadgroup(GATED_THREADS)]] void gated_##name(                                   \
        constant GatedQ8Arguments &a [[buffer(0)]], PLACE) {                                                          \
        threadgroup float gates[GATED_ROWS], ups[GATED_ROWS];                                                         \
        const uint row = group.x * GATED_ROWS + index / 8, j = index % 8;                                             \
        device const u8 *gate = row_of(a.parts[0], row), *up = row_of(a.parts[1], row);                               \
        float gate_sum = 0.0f, up_sum = 0.0f;                                                                         \
        for (uint b = j; b < a.n_blocks; b += 8) {                                                                    \
            Block w;                                                                                                  \
            load_block<Format>(gate, b, w);                                                                           \
            gate_sum = add_product<Format>(w, a.q[2 * b], a.q[2 * b + 1], a.sums[b], gate_sum);                       \
            load_block<Format>(up, b, w);                                                                             \
            up_sum = add_product<Format>(w, a.q[2 * b], a.q[2 * b + 1], a.sums[b], up_sum);                           \
        }                                                                                                             \
        gate_sum = fold<8>(gate_sum);                                                                                 \
        up_sum = fold<8>(up_sum);                                                                                     \
        if (j == 0) gates[index / 8] = gate_sum, ups[index / 8] = up_sum;                                             \
        threadgroup_barrier(mem_flags::mem_threadgroup);                                                              \
        STORE_GATED                                                                                                   \
    }

/// From gates and ups of GATED_ROWS rows to gated values, in a SIMD group.
#define STORE_GATED                                                                                                   \
    if (index >= GATED_ROWS) return;                                                                                  \
    const float value = gated(gates[index], ups[index]);                                                              \
    a.out[group.x * GATED_ROWS + index] = value;                                                                      \
    quantize(value, group.x, index, a.out_q, a.out_sums);

MATMULS_Q8(q4_0, Q4_0)
MATMULS_Q8(q4_1, Q4_1)
MATMULS_Q8(q5_0, Q5_0)
MATMULS_Q8(q5_1, Q5_1)
MATMULS_Q8(q8_0, Q8_0)
MATMULS_Q8(iq4_nl, IQ4_NL)
MATMULS_Q8(q2_k, Q2_K)
MATMULS_Q8(q3_k, Q3_K)
MATMULS_Q8(q4_k, Q4_K)
MATMULS_Q8(q5_k, Q5_K)
MATMULS_Q8(q6_k, Q6_K)
MATMULS_Q8(iq4_xs, IQ4_XS)

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
    Part parts[PARTS];
    uint k;
    device const float *x;
    uint n_columns;
    float cap;
    device float *out;
    ulong out_stride;
};

/// As matmul_q8, with weights of floats and activations as they are: sixteen lanes an output.
template <typename Format, int N>
inline void matmul_float(constant MatmulFloatArguments &a, uint3 group, uint index) {
    uint block = group.x;
    constant Part &part = a.parts[part_of(a.parts, MATMUL_THREADS / 16, block)];
    const uint row = block * (MATMUL_THREADS / 16) + index / 16, lane = index % 16;
    device const u8 *weights = row_of(part, row);
    ulong column[N];
    float total[N];
#pragma unroll
    for (uint c = 0; c < N; c++) {
        column[c] = column_at<N>(c, group.y, a.n_columns, a.k);
        total[c] = 0.0f;
    }
#pragma unroll 8
    for (uint i = lane; i < a.k; i += 16) {
        const float w = Format::load(weights, i);
#pragma unroll
        for (uint c = 0; c < N; c++) total[c] = fma(w, a.x[column[c] + i], total[c]);
    }
    store_products<N, 16>(total, part, row, lane, group.y, a.cap, a.n_columns, a.out, a.out_stride);
}

struct GatedFloatArguments {
    Part parts[PARTS];
    uint k;
    device const float *x;
    device float *out;
    device char *out_q;
    device Sums *out_sums;
};

#define MATMUL_FLOAT(name, Format, N)                                                                                 \
    [[kernel, max_total_threads_per_threadgroup(MATMUL_THREADS)]] void matmul_##name##_##N(                           \
        constant MatmulFloatArguments &a [[buffer(0)]], PLACE) {                                                      \
        matmul_float<Format, N>(a, group, index);                                                                     \
    }

/// And gated ones as above; a threadgroup makes its rows in two goes.
#define MATMULS_FLOAT(name, Format)                                                                                   \
    MATMUL_FLOAT(name, Format, 1)                                                                                     \
    MATMUL_FLOAT(name, Format, 8)                                                                                     \
    [[kernel, max_total_threads_per_threadgroup(GATED_THREADS)]] void gated_##name(                                   \
        constant GatedFloatArguments &a [[buffer(0)]], PLACE) {                                                       \
        threadgroup float gates[GATED_ROWS], ups[GATED_ROWS];                                                         \
        const uint lane = index % 16;                                                                                 \
        for (uint r = index / 16; r < GATED_ROWS; r += GATED_THREADS / 16) {                                          \
            const uint row = group.x * GATED_ROWS + r;                                                                \
            device const u8 *gate = row_of(a.parts[0], row), *up = row_of(a.parts[1], row);                           \
            float gate_sum = 0.0f, up_sum = 0.0f;                                                                     \
            for (uint i = lane; i < a.k; i += 16) {                                                                   \
                gate_sum = fma(Format::load(gate, i), a.x[i], gate_sum);                                              \
                up_sum = fma(Format::load(up, i), a.x[i], up_sum);                                                    \
            }                                                                                                         \
            gate_sum = fold<16>(gate_sum);                                                                            \
            up_sum = fold<16>(up_sum);                                                                                \
            if (lane == 0) gates[r] = gate_sum, ups[r] = up_sum;                                                      \
        }                                                                                                             \
        threadgroup_barrier(mem_flags::mem_threadgroup);                                                              \
        STORE_GATED                                                                                                   \
    }

MATMULS_FLOAT(f32, F32)
MATMULS_FLOAT(f16, F16)
MATMULS_FLOAT(bf16, BF16)
