// Products with weights in BF16 on the matrix units that devices have from compute capability 8.0 on.
//
// The units take 16 values of two BF16 at a time and keep sums in F32, in an order of their own: so activations are rounded
// to BF16 here, and sums are not the CPU's to the bit. But an output is made by the same instructions in the same order
// whatever other rows and columns are made beside it, with one column or with many, so it depends on nothing else:
//
// - A row is read in units of 16 bytes, eight values in the order in which gpu/layout.rs has them, and four units are a
//   step. In a step, lane 4 g + t has unit t of row g, and the units are multiplied in two halves: first values 0 to 3 of
//   all four, then values 4 to 7. Which value the instruction takes for which place does not matter, as long as weights and
//   activations agree.
// - All steps are cut into SLICES runs. The sums of each run begin at zero; the sums of the runs are then added in order.
#include "weights.cuh"

#define SLICES 8
/// Values of a unit, and units of a step.
#define UNIT 8
#define STEP_UNITS 4

#ifndef EMULATED_GPU
/// `c += a b`, for 16 rows and 8 columns, over 16 values. Lane 4 g + t has the values 2 t, 2 t + 1 of the rows g and g + 8,
/// then those 8 further on; likewise of column g; and the sums of the rows g and g + 8 in the columns 2 t and 2 t + 1.
__device__ inline void multiply_bf16(float *c, int a0, int a1, int a2, int a3, int b0, int b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// Begins to copy 16 bytes to shared memory, or zeros where they are not there.
__device__ inline void copy_ahead(int4 *to, const int4 *from, bool is_there) {
    const unsigned at = (unsigned)__cvta_generic_to_shared(to), bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}

/// Ends a group of copies.
__device__ inline void end_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits for all groups of this thread but the last N.
template <int N>
__device__ inline void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif

/// A step for 16 rows and 8 columns: units of the rows g and g + 8, and of column g.
__device__ inline void multiply_step(float *c, const int4 &low, const int4 &high, const int4 &column) {
    multiply_bf16(c, low.x, high.x, low.y, high.y, column.x, column.y);
    multiply_bf16(c, low.z, high.z, low.w, high.w, column.z, column.w);
}

/// Steps of a row of `n_units`, and of a slice.
__device__ inline unsigned steps_of(unsigned n_units) {
    return (n_units + STEP_UNITS - 1) / STEP_UNITS;
}
__device__ inline unsigned steps_of_slice(unsigned n_units) {
    return (steps_of(n_units) + SLICES - 1) / SLICES;
}

__device__ inline unsigned units_of(unsigned k) {
    return (k + UNIT - 1) / UNIT;
}

/// Unit `unit` of a row of `k` activations, rounded, in the order of the weights: in each whole group of 16 units, those
/// whose number in the group of 128 is `lane`, `lane + 16`, …
__device__ inline int4 rounded_unit(const float *x, unsigned k, unsigned unit) {
    const unsigned group = unit / 16;
    const bool is_whole = group < k / (16 * UNIT);
    const unsigned first = is_whole ? group * (16 * UNIT) + unit % 16 : unit * UNIT, apart = is_whole ? 16 : 1;
    unsigned words[4];
#pragma unroll
    for (int w = 0; w < 4; w++) {
        const unsigned low = first + 2 * w * apart, high = low + apart;
        words[w] = low < k ? narrow_bf16(x[low]) : 0u;
        words[w] |= (high < k ? (unsigned)narrow_bf16(x[high]) : 0u) << 16;
    }
    return make_int4((int)words[0], (int)words[1], (int)words[2], (int)words[3]);
}

/// Rounds rows of `k` values to rows of whole units, zeros behind the last value; a thread a unit.
extern "C" __global__ void bf16_round(const float *x, unsigned k, u64 n, int4 *out) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const unsigned n_units = units_of(k);
    out[i] = rounded_unit(x + i / n_units * k, k, (unsigned)(i % n_units));
}

// ---- up to eight columns ----

#define FEW_THREADS (32 * SLICES)
#define FEW_COLUMNS 8
/// Steps that a lane asks for at once: what bounds this is how many bytes are on their way from memory.
#define FEW_DEPTH 4

/// The sums of this warp's slice for 16 rows, of which `low` and `high` are those of this lane, and of `x`, this lane's
/// column, if it has one.
__device__ inline void few_sums(const int4 *low, const int4 *high, unsigned k, const float *x, bool has_column, float *c) {
    const unsigned n_units = units_of(k), per_slice = steps_of_slice(n_units), t = threadIdx.x % 4;
    const unsigned slice = threadIdx.x / 32, end = min((slice + 1) * per_slice, steps_of(n_units));
    const int4 zero = make_int4(0, 0, 0, 0);
    for (int i = 0; i < 4; i++) c[i] = 0.0f;
    for (unsigned first = slice * per_slice; first < end; first += FEW_DEPTH) {
        int4 w[FEW_DEPTH][2];
#pragma unroll
        for (int d = 0; d < FEW_DEPTH; d++) {
            const unsigned unit = (first + d) * STEP_UNITS + t;
            const bool is_there = first + d < end && unit < n_units;
            w[d][0] = is_there ? low[unit] : zero;
            w[d][1] = is_there ? high[unit] : zero;
        }
#pragma unroll
        for (int d = 0; d < FEW_DEPTH; d++) {
            if (first + d >= end) break;
            const unsigned unit = (first + d) * STEP_UNITS + t;
            multiply_step(c, w[d][0], w[d][1], has_column && unit < n_units ? rounded_unit(x, k, unit) : zero);
        }
    }
}

/// `sums[0] + sums[1] + …` of the slices that a row of `k` values has.
__device__ inline float sum_of_slices(const float *sums, unsigned apart, unsigned k) {
    const unsigned n_steps = steps_of(units_of(k)), per_slice = steps_of_slice(units_of(k));
    float sum = 0.0f;
    for (unsigned slice = 0; slice < SLICES && slice * per_slice < n_steps; slice++) sum += sums[slice * apart];
    return sum;
}

/// `out[c][first_out + r] = dot(weights[r], acts[c])`: 16 rows (x) and FEW_COLUMNS columns (y) a thread block, a warp a slice.
extern "C" __global__ void __launch_bounds__(FEW_THREADS)
    bf16_few(const __grid_constant__ Parts parts, unsigned k, const float *x, unsigned n_columns, float cap, float *out,
             u64 out_stride) {
    // [slice][column][row]
    __shared__ float sums[SLICES][FEW_COLUMNS][16];
    unsigned block;
    const Part part = part_of(parts, 16, block);
    const unsigned lane = threadIdx.x % 32, group = lane / 4, t = lane % 4, slice = threadIdx.x / 32;
    const unsigned row = block * 16 + group, last = part.n_rows - 1, column = blockIdx.y * FEW_COLUMNS + group;
    const int4 *low = (const int4 *)(part.weights + (u64)min(row, last) * part.row_bytes);
    const int4 *high = (const int4 *)(part.weights + (u64)min(row + 8, last) * part.row_bytes);
    float c[4];
    few_sums(low, high, k, x + (u64)min(column, n_columns - 1) * k, column < n_columns, c);
    for (int i = 0; i < 4; i++) sums[slice][2 * t + i % 2][group + i / 2 * 8] = c[i];
    __syncthreads();
    if (threadIdx.x >= 16 * FEW_COLUMNS) return;
    const unsigned r = threadIdx.x % 16, n = threadIdx.x / 16, to = blockIdx.y * FEW_COLUMNS + n;
    if (block * 16 + r < part.n_rows && to < n_columns) {
        const float sum = sum_of_slices(&sums[0][n][r], FEW_COLUMNS * 16, k);
        out[to * out_stride + part.first_out + block * 16 + r] = cap > 0.0f ? soft_capped(sum, cap) : sum;
    }
}

/// `gelu(gate) * up` of one column: the first part is the gate, the second up, of the same size. 16 rows a thread block.
extern "C" __global__ void __launch_bounds__(FEW_THREADS)
    bf16_gated(const __grid_constant__ Parts parts, unsigned k, const float *x, float *out) {
    // [gate or up][slice][row]
    __shared__ float sums[2][SLICES][16];
    const unsigned lane = threadIdx.x % 32, group = lane / 4, t = lane % 4, slice = threadIdx.x / 32;
    const unsigned row = blockIdx.x * 16 + group, last = parts.part[0].n_rows - 1;
#pragma unroll
    for (int p = 0; p < 2; p++) {
        const Part &part = parts.part[p];
        const int4 *low = (const int4 *)(part.weights + (u64)min(row, last) * part.row_bytes);
        const int4 *high = (const int4 *)(part.weights + (u64)min(row + 8, last) * part.row_bytes);
        float c[4];
        few_sums(low, high, k, x, group == 0, c);
        if (t == 0) sums[p][slice][group] = c[0], sums[p][slice][group + 8] = c[2];
    }
    __syncthreads();
    const unsigned r = blockIdx.x * 16 + threadIdx.x;
    if (threadIdx.x >= 16 || r > last) return;
    const float gate = sum_of_slices(&sums[0][0][threadIdx.x], 16, k), up = sum_of_slices(&sums[1][0][threadIdx.x], 16, k);
    out[r] = gated(gate, up);
}

// ---- many columns ----

#define MANY_THREADS 256
#define MANY_ROWS 128
/// Steps on their way to shared memory or in it.
#define STAGES 3

/// As bf16_few, with MANY_ROWS rows (x) and COLUMNS columns (y) a thread block, of which each warp makes 16 ROW_TILES rows
/// and 8 COLUMN_TILES columns. `acts` are rounded. While a step is multiplied, the next two are copied to shared memory,
/// whose rows are as narrow as a step: so eight lanes that read a unit each read 128 bytes, all banks once.
template <int COLUMNS, int ROW_TILES, int COLUMN_TILES>
__device__ inline void bf16_many(const Parts &parts, unsigned n_units, const int4 *acts, unsigned n_columns, float cap,
                                 float *out, u64 out_stride) {
    constexpr unsigned ROW_WARPS = MANY_ROWS / (16 * ROW_TILES);
    static_assert(ROW_WARPS * COLUMNS / (8 * COLUMN_TILES) * 32 == MANY_THREADS, "a tile for each warp");
    __shared__ int4 tiles[STAGES][(MANY_ROWS + COLUMNS) * STEP_UNITS];
    unsigned block;
    const Part part = part_of(parts, MANY_ROWS, block);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
    const unsigned row = warp % ROW_WARPS * (16 * ROW_TILES), column = warp / ROW_WARPS * (8 * COLUMN_TILES);
    const unsigned n_steps = steps_of(n_units), per_slice = steps_of_slice(n_units);

    // What this thread copies of each step: unit threadIdx.x % 4 of some rows and columns. Beyond the last the last is taken
    // again, and not stored.
    constexpr unsigned PIECES = (MANY_ROWS + COLUMNS) * STEP_UNITS / MANY_THREADS;
    const int4 *from[PIECES];
#pragma unroll
    for (unsigned p = 0; p < PIECES; p++) {
        const unsigned i = (p * MANY_THREADS + threadIdx.x) / STEP_UNITS;
        const unsigned r = min(block * MANY_ROWS + i, part.n_rows - 1);
        const unsigned c = min(blockIdx.y * COLUMNS + i - MANY_ROWS, n_columns - 1);
        from[p] = i < MANY_ROWS ? (const int4 *)(part.weights + (u64)r * part.row_bytes) : acts + (u64)c * n_units;
    }
    auto load = [&](unsigned step) {
        const unsigned unit = step * STEP_UNITS + threadIdx.x % STEP_UNITS;
        int4 *to = tiles[step % STAGES] + threadIdx.x;
        const bool is_there = unit < n_units;
#pragma unroll
        for (unsigned p = 0; p < PIECES; p++) copy_ahead(to + p * MANY_THREADS, from[p] + (is_there ? unit : 0), is_there);
    };

    float total[ROW_TILES][COLUMN_TILES][4], sums[ROW_TILES][COLUMN_TILES][4];
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) total[m][n][i] = sums[m][n][i] = 0.0f;
        }
    }
#pragma unroll
    for (unsigned step = 0; step < STAGES - 1; step++) {
        if (step < n_steps) load(step);
        end_copies();
    }
    for (unsigned step = 0; step < n_steps; step++) {
        // This step's copies are there, everybody's; and nobody needs the step before any more, whose place is filled next.
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < n_steps) load(step + STAGES - 1);
        end_copies();
        const int4 *rows = tiles[step % STAGES] + (row + group) * STEP_UNITS + t;
        const int4 *columns = tiles[step % STAGES] + (MANY_ROWS + column + group) * STEP_UNITS + t;
        int4 b[COLUMN_TILES];
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; n++) b[n] = columns[n * 8 * STEP_UNITS];
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++) {
            const int4 low = rows[m * 16 * STEP_UNITS], high = rows[(m * 16 + 8) * STEP_UNITS];
#pragma unroll
            for (int n = 0; n < COLUMN_TILES; n++) multiply_step(sums[m][n], low, high, b[n]);
        }
        if ((step + 1) % per_slice != 0 && step + 1 != n_steps) continue;
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++) {
#pragma unroll
            for (int n = 0; n < COLUMN_TILES; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) total[m][n][i] += sums[m][n][i], sums[m][n][i] = 0.0f;
            }
        }
    }
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
#pragma unroll
        for (int n = 0; n < COLUMN_TILES; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const unsigned r = block * MANY_ROWS + row + m * 16 + group + i / 2 * 8;
                const unsigned c = blockIdx.y * COLUMNS + column + n * 8 + 2 * t + i % 2;
                if (r >= part.n_rows || c >= n_columns) continue;
                const float sum = total[m][n][i];
                out[c * out_stride + part.first_out + r] = cap > 0.0f ? soft_capped(sum, cap) : sum;
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(MANY_THREADS, 1)
    bf16_many_128(const __grid_constant__ Parts parts, unsigned n_units, const int4 *acts, unsigned n_columns, float cap,
                  float *out, u64 out_stride) {
    bf16_many<128, 4, 4>(parts, n_units, acts, n_columns, cap, out, out_stride);
}

/// The same where there would be too few thread blocks to keep the device busy.
extern "C" __global__ void __launch_bounds__(MANY_THREADS, 2)
    bf16_many_64(const __grid_constant__ Parts parts, unsigned n_units, const int4 *acts, unsigned n_columns, float cap,
                 float *out, u64 out_stride) {
    bf16_many<64, 2, 4>(parts, n_units, acts, n_columns, cap, out, out_stride);
}
