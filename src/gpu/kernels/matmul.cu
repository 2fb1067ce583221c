// Products with weights in their file's format, each read once for up to eight columns.
//
// Quantized weights meet activations of 8 bits, quantized in blocks of 32 values. Eight neighbouring lanes make one
// output: lane j has the blocks j, j + 8, … of the row and so the running sum j of the CPU's dot product.
//
// What bounds a product of one column is how many bytes are on their way from memory. So a lane asks for several blocks
// before it uses the first, and thread blocks are small, to be spread evenly.
#include "weights.cuh"

#define MATMUL_THREADS 64
#define GATED_THREADS 256
/// Rows of gate and up that a thread block makes: a block of activations.
#define GATED_ROWS 32
/// Blocks of weights that a lane asks for at once, where there is one column.
#define DEPTH 4

/// Where the columns of this thread block begin, `size` apart. Beyond the last the work is done for it again, and not stored.
template <int N>
__device__ inline void find_columns(unsigned n_columns, unsigned size, u64 *column) {
#pragma unroll
    for (int c = 0; c < N; c++) column[c] = (u64)min(blockIdx.y * N + c, n_columns - 1) * size;
}

/// Running sum `j` of M rows with N columns. See dot_q8 in scalar.rs.
template <typename Format, int M, int N>
__device__ inline void dot_q8(const u8 *const *rows, unsigned n_blocks, const int4 *q, const Sums *sums,
                              const u64 *column, unsigned j, float (&total)[M][N]) {
    constexpr int AHEAD = N == 1 ? DEPTH : 1;
    const u64 rests = (u64)(n_blocks / Format::BLOCKS) * Format::BODY;
#pragma unroll
    for (int m = 0; m < M; m++) {
        for (int c = 0; c < N; c++) total[m][c] = 0.0f;
    }
    for (unsigned first = j; first < n_blocks; first += 8 * AHEAD) {
        Block w[AHEAD][M];
#pragma unroll
        for (int d = 0; d < AHEAD; d++) {
            // Beyond the end any block will do: it is not used.
            const unsigned b = first + 8 * d < n_blocks ? first + 8 * d : j;
            const unsigned group = b / Format::BLOCKS;
#pragma unroll
            for (int m = 0; m < M; m++) {
                const u8 *rest = rows[m] + rests + (u64)group * Format::REST;
                Format::load(rows[m] + (u64)group * Format::BODY, rest, b % Format::BLOCKS, w[d][m]);
            }
        }
#pragma unroll
        for (int d = 0; d < AHEAD; d++) {
            const unsigned b = first + 8 * d;
            if (b >= n_blocks) break;
#pragma unroll
            for (int c = 0; c < N; c++) {
                const u64 at = column[c] + b;
                const int4 low = q[2 * at], high = q[2 * at + 1];
                const Sums s = sums[at];
#pragma unroll
                for (int m = 0; m < M; m++) {
                    const Block &v = w[d][m];
                    const int first_half = __dp4a(v.q[3], low.w, __dp4a(v.q[2], low.z, __dp4a(v.q[1], low.y, __dp4a(v.q[0], low.x, 0))));
                    const int last_half = __dp4a(v.q[7], high.w, __dp4a(v.q[6], high.z, __dp4a(v.q[5], high.y, __dp4a(v.q[4], high.x, 0))));
                    const float t = Format::SCALES == 1 ? (float)(first_half + last_half) * v.scale[0]
                                                        : fmaf((float)last_half, v.scale[1], (float)first_half * v.scale[0]);
                    float &sum = total[m][c];
                    sum = fmaf(t, s.x, sum);
                    if (Format::MINS == 1) sum = fmaf(v.min[0], s.y, sum);
                    if (Format::MINS == 2) sum = fmaf(v.min[1], s.w, fmaf(v.min[0], s.z, sum));
                }
            }
        }
    }
}

/// Stores the outputs of N columns, capped where there is a cap.
template <int N, int LANES>
__device__ inline void store_products(const float *total, const Part &part, unsigned row, unsigned lane, float cap,
                                      unsigned n_columns, float *out, u64 out_stride) {
#pragma unroll
    for (int c = 0; c < N; c++) {
        const float sum = fold<LANES>(total[c]);
        const unsigned to = blockIdx.y * N + c;
        if (lane == 0 && row < part.n_rows && to < n_columns) {
            out[to * out_stride + part.first_out + row] = cap > 0.0f ? soft_capped(sum, cap) : sum;
        }
    }
}

/// From gates and ups of GATED_ROWS rows to gated values, in a warp.
__device__ inline void store_gated(const float *gate, const float *up, float *out, signed char *q, Sums *sums) {
    if (threadIdx.x >= GATED_ROWS) return;
    const float value = gated(gate[threadIdx.x], up[threadIdx.x]);
    out[blockIdx.x * GATED_ROWS + threadIdx.x] = value;
    quantize(value, blockIdx.x, q, sums);
}

/// `out[c][first_out + r] = dot(weights[r], acts[c])`, N columns a thread block (y).
template <typename Format, int N>
__device__ inline void matmul_q8(const Parts &parts, unsigned n_blocks, const int4 *q, const Sums *sums,
                                 unsigned n_columns, float cap, float *out, u64 out_stride) {
    unsigned block;
    const Part part = part_of(parts, MATMUL_THREADS / 8, block);
    const unsigned row = block * (MATMUL_THREADS / 8) + threadIdx.x / 8, j = threadIdx.x % 8;
    const u8 *rows[1] = {part.weights + (u64)min(row, part.n_rows - 1) * part.row_bytes};
    u64 column[N];
    find_columns<N>(n_columns, n_blocks, column);
    float total[1][N];
    dot_q8<Format, 1, N>(rows, n_blocks, q, sums, column, j, total);
    store_products<N, 8>(total[0], part, row, j, cap, n_columns, out, out_stride);
}

/// `gelu(gate) * up` of one column: the first part is the gate, the second up, of the same size, whole GATED_ROWS.
template <typename Format>
__device__ inline void gated_q8(const Parts &parts, unsigned n_blocks, const int4 *q, const Sums *sums, float *out,
                                signed char *out_q, Sums *out_sums) {
    __shared__ float gate[GATED_ROWS], up[GATED_ROWS];
    const unsigned i = threadIdx.x / 8, j = threadIdx.x % 8;
    const u64 row = blockIdx.x * GATED_ROWS + i;
    const u8 *rows[2] = {parts.part[0].weights + row * parts.part[0].row_bytes,
                         parts.part[1].weights + row * parts.part[1].row_bytes};
    const u64 column[1] = {0};
    float total[2][1];
    dot_q8<Format, 2, 1>(rows, n_blocks, q, sums, column, j, total);
    const float sum_of_gate = fold<8>(total[0][0]), sum_of_up = fold<8>(total[1][0]);
    if (j == 0) gate[i] = sum_of_gate, up[i] = sum_of_up;
    __syncthreads();
    store_gated(gate, up, out, out_q, out_sums);
}

#define MATMUL_Q8(name, Format, N)                                                                                    \
    extern "C" __global__ void __launch_bounds__(MATMUL_THREADS)                                                      \
        matmul_##name##_##N(const __grid_constant__ Parts parts, unsigned n_blocks, const int4 *q, const Sums *sums,  \
                            unsigned n_columns, float cap, float *out, u64 out_stride) {                              \
        matmul_q8<Format, N>(parts, n_blocks, q, sums, n_columns, cap, out, out_stride);                              \
    }
#define MATMULS_Q8(name, Format)                                                                                      \
    MATMUL_Q8(name, Format, 1)                                                                                        \
    MATMUL_Q8(name, Format, 8)                                                                                        \
    extern "C" __global__ void __launch_bounds__(GATED_THREADS)                                                       \
        gated_##name(const __grid_constant__ Parts parts, unsigned n_blocks, const int4 *q, const Sums *sums,         \
                     float *out, signed char *out_q, Sums *out_sums) {                                                \
        gated_q8<Format>(parts, n_blocks, q, sums, out, out_q, out_sums);                                             \
    }

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

// ---- floats ----

// Each format: its bytes, how a value is read, and how 16 bytes are.

struct F32 {
    enum { BYTES = 4 };
    __device__ static float load(const u8 *row, unsigned i) { return ((const float *)row)[i]; }
    __device__ static void widen(const int4 &raw, float *out) {
        const unsigned words[4] = {(unsigned)raw.x, (unsigned)raw.y, (unsigned)raw.z, (unsigned)raw.w};
        for (int i = 0; i < 4; i++) out[i] = __uint_as_float(words[i]);
    }
};

template <float (*WIDEN)(u16)>
struct Halves {
    enum { BYTES = 2 };
    __device__ static float load(const u8 *row, unsigned i) { return WIDEN(((const u16 *)row)[i]); }
    __device__ static void widen(const int4 &raw, float *out) {
        const unsigned words[4] = {(unsigned)raw.x, (unsigned)raw.y, (unsigned)raw.z, (unsigned)raw.w};
        for (int i = 0; i < 4; i++) {
            out[2 * i] = WIDEN((u16)words[i]);
            out[2 * i + 1] = WIDEN((u16)(words[i] >> 16));
        }
    }
};
typedef Halves<widen_f16> F16;
typedef Halves<widen_bf16> BF16;

/// Running sum `lane` of sixteen: the values lane, lane + 16, … of M rows with those of N columns. In each group of 256
/// bytes, those of a lane lie together (gpu/layout.rs).
template <typename Format, int M, int N>
__device__ inline void dot_float(const u8 *const *rows, unsigned k, const float *x, const u64 *column, unsigned lane,
                                 float (&total)[M][N]) {
    constexpr int AHEAD = N == 1 ? DEPTH : 1, VALUES = 16 / Format::BYTES, GROUP = 16 * VALUES;
#pragma unroll
    for (int m = 0; m < M; m++) {
        for (int c = 0; c < N; c++) total[m][c] = 0.0f;
    }
    const unsigned n_groups = k / GROUP;
    for (unsigned first = 0; first < n_groups; first += AHEAD) {
        int4 raw[AHEAD][M];
#pragma unroll
        for (int d = 0; d < AHEAD; d++) {
            const unsigned group = min(first + d, n_groups - 1);
#pragma unroll
            for (int m = 0; m < M; m++) raw[d][m] = ((const int4 *)rows[m])[group * 16 + lane];
        }
#pragma unroll
        for (int d = 0; d < AHEAD; d++) {
            if (first + d >= n_groups) break;
            float w[M][VALUES];
#pragma unroll
            for (int m = 0; m < M; m++) Format::widen(raw[d][m], w[m]);
#pragma unroll
            for (int c = 0; c < N; c++) {
                const float *values = x + column[c] + (first + d) * GROUP + lane;
#pragma unroll
                for (int i = 0; i < VALUES; i++) {
                    const float value = values[16 * i];
                    for (int m = 0; m < M; m++) total[m][c] = fmaf(w[m][i], value, total[m][c]);
                }
            }
        }
    }
    for (unsigned i = n_groups * GROUP + lane; i < k; i += 16) {
        for (int c = 0; c < N; c++) {
            const float value = x[column[c] + i];
            for (int m = 0; m < M; m++) total[m][c] = fmaf(Format::load(rows[m], i), value, total[m][c]);
        }
    }
}

/// As matmul_q8, with activations as they are: sixteen lanes an output.
template <typename Format, int N>
__device__ inline void matmul_float(const Parts &parts, unsigned k, const float *x, unsigned n_columns, float cap,
                                    float *out, u64 out_stride) {
    unsigned block;
    const Part part = part_of(parts, MATMUL_THREADS / 16, block);
    const unsigned row = block * (MATMUL_THREADS / 16) + threadIdx.x / 16, lane = threadIdx.x % 16;
    const u8 *rows[1] = {part.weights + (u64)min(row, part.n_rows - 1) * part.row_bytes};
    u64 column[N];
    find_columns<N>(n_columns, k, column);
    float total[1][N];
    dot_float<Format, 1, N>(rows, k, x, column, lane, total);
    store_products<N, 16>(total[0], part, row, lane, cap, n_columns, out, out_stride);
}

/// As gated_q8; a thread block makes its rows in two goes.
template <typename Format>
__device__ inline void gated_float(const Parts &parts, unsigned k, const float *x, float *out, signed char *out_q,
                                   Sums *out_sums) {
    __shared__ float gate[GATED_ROWS], up[GATED_ROWS];
    const unsigned lane = threadIdx.x % 16;
    for (unsigned i = threadIdx.x / 16; i < GATED_ROWS; i += GATED_THREADS / 16) {
        const u64 row = blockIdx.x * GATED_ROWS + i;
        const u8 *rows[2] = {parts.part[0].weights + row * parts.part[0].row_bytes,
                             parts.part[1].weights + row * parts.part[1].row_bytes};
        const u64 column[1] = {0};
        float total[2][1];
        dot_float<Format, 2, 1>(rows, k, x, column, lane, total);
        const float sum_of_gate = fold<16>(total[0][0]), sum_of_up = fold<16>(total[1][0]);
        if (lane == 0) gate[i] = sum_of_gate, up[i] = sum_of_up;
    }
    __syncthreads();
    store_gated(gate, up, out, out_q, out_sums);
}

#define MATMUL_FLOAT(name, Format, N)                                                                                 \
    extern "C" __global__ void __launch_bounds__(MATMUL_THREADS)                                                      \
        matmul_##name##_##N(const __grid_constant__ Parts parts, unsigned k, const float *x, unsigned n_columns,      \
                            float cap, float *out, u64 out_stride) {                                                  \
        matmul_float<Format, N>(parts, k, x, n_columns, cap, out, out_stride);                                        \
    }
#define MATMULS_FLOAT(name, Format)                                                                                   \
    MATMUL_FLOAT(name, Format, 1)                                                                                     \
    MATMUL_FLOAT(name, Format, 8)                                                                                     \
    extern "C" __global__ void __launch_bounds__(GATED_THREADS)                                                       \
        gated_##name(const __grid_constant__ Parts parts, unsigned k, const float *x, float *out, signed char *out_q, \
                     Sums *out_sums) {                                                                                \
        gated_float<Format>(parts, k, x, out, out_q, out_sums);                                                       \
    }

MATMULS_FLOAT(f32, F32)
MATMULS_FLOAT(f16, F16)
MATMULS_FLOAT(bf16, BF16)
