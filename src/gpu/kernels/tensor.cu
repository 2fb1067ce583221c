// Products of quantized weights with many columns, on the matrix units that devices have from compute capability 8.0 on.
//
// The units add up products of bytes, which is exact in any order: a block of 32 at a time for 16 rows and 8 columns. Then
// the scales follow in floats, with the eight running sums that the CPU's dot product has (dot_q8 in scalar.rs).
#include "weights.cuh"

#define TENSOR_THREADS 256
/// Rows and columns of a thread block; a warp makes 16 of each.
#define TILE_ROWS 64
#define TILE_COLUMNS 32
/// Words between rows of a tile in shared memory: those of eight blocks, and 4 so that the eight rows that a warp reads at
/// once lie in different banks.
#define STRIDE 68
/// The bits of 1.5 * 2^23: a small whole number added to them is, as a float, that number and 1.5 * 2^23.
#define WHOLE 0x4b400000

#ifndef EMULATED_GPU
/// `c += a b`, for 16 rows and 8 columns, over 32 bytes. Lane 4 g + t has the bytes 4 t to 4 t + 3 of the rows g and g + 8,
/// then those 16 further on; likewise of column g; and the sums of the rows g and g + 8 in the columns 2 t and 2 t + 1.
__device__ inline void multiply_32(int *c, const int *a, const int *b) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// The same over 16 bytes.
__device__ inline void multiply_16(int *c, const int *a, const int *b) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}
#endif

/// Eight blocks of each row and each column of a tile.
struct Tile {
    int4 weights[TILE_ROWS * STRIDE / 4];
    int4 acts[TILE_COLUMNS * STRIDE / 4];
    float scale[2][8][TILE_ROWS], min[2][8][TILE_ROWS];
    Sums sums[8][TILE_COLUMNS];
};

__device__ inline float whole(int bits) {
    return __uint_as_float((unsigned)bits) - __uint_as_float(WHOLE);
}

/// Unpacks the blocks `first` to `first + 7` of the tile's rows and columns. Blocks that a row does not have are zero.
template <typename Format>
__device__ inline void load_tile(Tile &tile, const Part &part, unsigned first_row, unsigned n_blocks, const int4 *q,
                                 const Sums *sums, unsigned n_columns, unsigned first) {
    const int4 zero = make_int4(0, 0, 0, 0);
    const unsigned j = threadIdx.x % 8, b = first + j;
    const bool is_there = b < n_blocks;
    for (unsigned r = threadIdx.x / 8; r < TILE_ROWS; r += TENSOR_THREADS / 8) {
        // Beyond the last row or column the last is taken again, and not stored.
        const u8 *row = part.weights + (u64)min(first_row + r, part.n_rows - 1) * part.row_bytes;
        const u8 *rests = row + (u64)(n_blocks / Format::BLOCKS) * Format::BODY;
        Block w = {};
        if (is_there) {
            const unsigned group = b / Format::BLOCKS;
            Format::load(row + (u64)group * Format::BODY, rests + (u64)group * Format::REST, b % Format::BLOCKS, w);
        }
        int4 *to = tile.weights + r * STRIDE / 4 + 2 * j;
        to[0] = make_int4(w.q[0], w.q[1], w.q[2], w.q[3]);
        to[1] = make_int4(w.q[4], w.q[5], w.q[6], w.q[7]);
        for (int h = 0; h < Format::SCALES; h++) tile.scale[h][j][r] = w.scale[h];
        for (int h = 0; h < Format::MINS; h++) tile.min[h][j][r] = w.min[h];
    }
    const unsigned c = threadIdx.x / 8;
    const u64 at = (u64)min(blockIdx.y * TILE_COLUMNS + c, n_columns - 1) * n_blocks + b;
    int4 *to = tile.acts + c * STRIDE / 4 + 2 * j;
    to[0] = is_there ? q[2 * at] : zero;
    to[1] = is_there ? q[2 * at + 1] : zero;
    tile.sums[j][c] = is_there ? sums[at] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

/// As matmul_q8 in matmul.cu, with TILE_ROWS rows (x) and TILE_COLUMNS columns (y) a thread block.
template <typename Format>
__device__ inline void tensor_q8(const Parts &parts, unsigned n_blocks, const int4 *q, const Sums *sums,
                                 unsigned n_columns, float cap, float *out, u64 out_stride) {
    __shared__ Tile tile;
    unsigned block;
    const Part part = part_of(parts, TILE_ROWS, block);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
    const unsigned row = warp % 4 * 16 + group, column = warp / 4 * 16;
    const int *weights = (const int *)tile.weights + row * STRIDE;
    const int *acts = (const int *)tile.acts + (column + group) * STRIDE;
    // [8 columns][row and column of four][running sum]
    float total[2][4][8];
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 8; j++) total[n][i][j] = 0.0f;
        }
    }
    for (unsigned first = 0; first < n_blocks; first += 8) {
        load_tile<Format>(tile, part, block * TILE_ROWS, n_blocks, q, sums, n_columns, first);
        __syncthreads();
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const int *w = weights + 8 * j + t;
            // The halves of a block one after the other, each of both rows.
            const int a[4] = {w[0], w[8 * STRIDE], w[4], w[8 * STRIDE + 4]};
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int *x = acts + 8 * n * STRIDE + 8 * j + t;
                const int b[2] = {x[0], x[4]};
                int all[4] = {WHOLE, WHOLE, WHOLE, WHOLE}, last[4] = {WHOLE, WHOLE, WHOLE, WHOLE};
                if (Format::SCALES == 1) {
                    multiply_32(all, a, b);
                } else {
                    multiply_16(all, a, b);
                    multiply_16(last, a + 2, b + 1);
                }
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const unsigned r = row + i / 2 * 8;
                    const Sums s = tile.sums[j][column + 8 * n + 2 * t + i % 2];
                    const float product = whole(all[i]) * tile.scale[0][j][r];
                    const float both =
                        Format::SCALES == 1 ? product : fmaf(whole(last[i]), tile.scale[1][j][r], product);
                    float &sum = total[n][i][j];
                    sum = fmaf(both, s.x, sum);
                    if (Format::MINS == 1) sum = fmaf(tile.min[0][j][r], s.y, sum);
                    if (Format::MINS == 2) sum = fmaf(tile.min[1][j][r], s.w, fmaf(tile.min[0][j][r], s.z, sum));
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float *s = total[n][i];
            const float even = (s[0] + s[4]) + (s[2] + s[6]), odd = (s[1] + s[5]) + (s[3] + s[7]);
            const float sum = even + odd + 0.0f;
            const unsigned r = block * TILE_ROWS + row + i / 2 * 8;
            const unsigned c = blockIdx.y * TILE_COLUMNS + column + 8 * n + 2 * t + i % 2;
            if (r < part.n_rows && c < n_columns) {
                out[c * out_stride + part.first_out + r] = cap > 0.0f ? soft_capped(sum, cap) : sum;
            }
        }
    }
}

#define TENSOR_Q8(name, Format)                                                                                       \
    extern "C" __global__ void __launch_bounds__(TENSOR_THREADS, 2)                                                   \
        tensor_##name(const __grid_constant__ Parts parts, unsigned n_blocks, const int4 *q, const Sums *sums,        \
                      unsigned n_columns, float cap, float *out, u64 out_stride) {                                    \
        tensor_q8<Format>(parts, n_blocks, q, sums, n_columns, cap, out, out_stride);                                 \
    }

TENSOR_Q8(q4_0, Q4_0)
TENSOR_Q8(q4_1, Q4_1)
TENSOR_Q8(q5_0, Q5_0)
TENSOR_Q8(q5_1, Q5_1)
TENSOR_Q8(q8_0, Q8_0)
TENSOR_Q8(iq4_nl, IQ4_NL)
TENSOR_Q8(q2_k, Q2_K)
TENSOR_Q8(q3_k, Q3_K)
TENSOR_Q8(q4_k, Q4_K)
TENSOR_Q8(q5_k, Q5_K)
TENSOR_Q8(q6_k, Q6_K)
TENSOR_Q8(iq4_xs, IQ4_XS)
