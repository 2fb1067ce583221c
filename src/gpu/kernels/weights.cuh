// Weights as they lie on the device: matrices side by side, and the blocks of each quantized format. A row is stored as
// gpu/layout.rs says: the bodies of all its blocks, aligned to 16 bytes, then what else the blocks have.
#pragma once
#include "common.cuh"

#define PARTS 3

/// Matrices of one format whose outputs stand side by side; those that are not there have no rows.
struct Part {
    const u8 *weights;
    u64 row_bytes;
    unsigned n_rows, first_out;
};
struct Parts {
    Part part[PARTS];
};

/// The part of this thread block, where each makes `rows` rows of one, and which block of the part it is.
__device__ inline Part part_of(const Parts &parts, unsigned rows, unsigned &block) {
    Part found = parts.part[0];
    block = blockIdx.x;
#pragma unroll
    for (int p = 1; p < PARTS; p++) {
        const unsigned n_blocks = (found.n_rows + rows - 1) / rows;
        if (block < n_blocks) break;
        block -= n_blocks;
        found = parts.part[p];
    }
    return found;
}

/// A block of 32 weights: `scale[half] * q - min[half]`. Formats with one scale or min use the first.
struct Block {
    int q[8]; // 32 signed bytes
    float scale[2];
    float min[2];
};

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

/// The 8 scales and 8 mins, 6 bits each, of Q4_K and Q5_K, beside their own scales: 16 bytes, in one load.
__device__ inline void scale_and_min_k4(const u8 *body, unsigned j, Block &out) {
    int words[4];
    copy_words(body, words);
    const unsigned shift = 8 * (j % 4);
    const unsigned low = (unsigned)words[1] >> shift, high = (unsigned)words[2] >> shift;
    const unsigned rest = (unsigned)words[3] >> shift;
    const unsigned scale = j < 4 ? low & 63u : (rest & 15u) | (low >> 6 & 3u) << 4;
    const unsigned min = j < 4 ? high & 63u : (rest >> 4 & 15u) | (high >> 6 & 3u) << 4;
    out.scale[0] = widen_f16((u16)words[0]) * (float)scale;
    out.min[0] = widen_f16((u16)((unsigned)words[0] >> 16)) * (float)min;
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
