// Rotary positions, the KV cache, and attention with softcap and window.
//
// A cache's row (a slot) is `[n_kv_heads][head_dim]` in the cache's type. Position p stands in slot p % capacity. Where
// the caches are and which positions the rows have is read from memory, so that a recorded step serves for others.
#include "common.cuh"

/// Queries are kept in shared memory; a head has at most so many values (gpu/attention.rs checks).
#define MAX_HEAD_DIM 512
/// Keys that are weighed together, as on the CPU: blocks end at multiples of this many positions.
#define KEY_BLOCK 32

/// How keys or values are kept: the codes of gpu_cache.rs.
enum KvType { KV_F32 = 0, KV_F16 = 1, KV_BF16 = 2, KV_Q8_0 = 3 };
/// In Q8_0 a scale (f16) and 32 values.
#define Q8_VALUES 32
#define Q8_BYTES 34

__device__ inline u64 kv_row_bytes(unsigned type, unsigned n) {
    switch (type) {
        case KV_F32: return 4ull * n;
        case KV_Q8_0: return (u64)(n / Q8_VALUES) * Q8_BYTES;
        default: return 2ull * n;
    }
}

__device__ inline float load_kv(unsigned type, const u8 *row, unsigned i) {
    switch (type) {
        case KV_F32: return ((const float *)row)[i];
        case KV_F16: return widen_f16(((const u16 *)row)[i]);
        case KV_BF16: return widen_bf16(((const u16 *)row)[i]);
        default: {
            const u8 *block = row + i / Q8_VALUES * Q8_BYTES;
            return widen_f16(*(const u16 *)block) * (float)(signed char)block[2 + i % Q8_VALUES];
        }
    }
}

/// One sequence of the step in one layer: its cache, the position of its first row, and its rows.
struct Span {
    u8 *keys, *values;
    unsigned capacity, pos, first_row, n_rows;
};

/// Eight values from `i` on, which is a multiple of 8; zeros beyond the end.
__device__ inline void load_kv_8(unsigned type, const u8 *row, unsigned i, unsigned n, float *out) {
    if (type == KV_Q8_0 || n % 8 != 0) {
        for (unsigned l = 0; l < 8; l++) out[l] = i + l < n ? load_kv(type, row, i + l) : 0.0f;
    } else if (type == KV_F32) {
        const float4 a = ((const float4 *)row)[i / 4], b = ((const float4 *)row)[i / 4 + 1];
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w, out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    } else {
        const int4 all = ((const int4 *)row)[i / 8];
        const unsigned words[4] = {(unsigned)all.x, (unsigned)all.y, (unsigned)all.z, (unsigned)all.w};
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const u16 low = (u16)words[w], high = (u16)(words[w] >> 16);
            out[2 * w] = type == KV_F16 ? widen_f16(low) : widen_bf16(low);
            out[2 * w + 1] = type == KV_F16 ? widen_f16(high) : widen_bf16(high);
        }
    }
}

/// Writes a head's values into a cache.
__device__ inline void store_kv(unsigned type, const float *values, unsigned n, u8 *row) {
    if (type != KV_Q8_0) {
        for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
            if (type == KV_F32) ((float *)row)[i] = values[i];
            else ((u16 *)row)[i] = type == KV_F16 ? narrow_f16(values[i]) : narrow_bf16(values[i]);
        }
        return;
    }
    // ggml's: the largest magnitude becomes 127, halves are rounded away from zero.
    for (unsigned b = threadIdx.x; b < n / Q8_VALUES; b += blockDim.x) {
        values += b * Q8_VALUES;
        float largest = 0.0f;
        for (unsigned l = 0; l < Q8_VALUES; l++) largest = fmaxf(largest, fabsf(values[l]));
        const float scale = largest / 127.0f;
        const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
        u8 *block = row + b * Q8_BYTES;
        *(u16 *)block = narrow_f16(scale);
        for (unsigned l = 0; l < Q8_VALUES; l++) block[2 + l] = (u8)(signed char)(int)roundf(values[l] * inverse);
        values -= b * Q8_VALUES;
    }
}

/// A block for each head (x) of each row (y): queries and keys are rotated, the pair j, j + half by the row's angle; queries
/// go back where they were, keys and values into the cache.
extern "C" __global__ void rope_and_store(float *qkv, const float *cos, const float *sin, unsigned head_dim,
                                          unsigned n_heads, unsigned n_kv_heads, unsigned key_type,
                                          unsigned value_type, const Span *spans, const unsigned *span_of_row) {
    __shared__ float values[MAX_HEAD_DIM];
    const unsigned head = blockIdx.x, row = blockIdx.y, half = head_dim / 2;
    float *x = qkv + ((u64)row * gridDim.x + head) * head_dim;
    const bool is_query = head < n_heads, is_value = head >= n_heads + n_kv_heads;
    if (is_value) {
        for (unsigned d = threadIdx.x; d < head_dim; d += blockDim.x) values[d] = x[d];
    } else {
        for (unsigned j = threadIdx.x; j < half; j += blockDim.x) {
            const float low = x[j], high = x[j + half], c = cos[row * half + j], s = sin[row * half + j];
            float *to = is_query ? x : values;
            to[j] = fmaf(-high, s, low * c);
            to[j + half] = fmaf(low, s, high * c);
        }
    }
    if (is_query) return;
    __syncthreads();
    const Span span = spans[span_of_row[row]];
    const unsigned slot = (span.pos + row - span.first_row) % span.capacity;
    const unsigned kv_head = is_value ? head - n_heads - n_kv_heads : head - n_heads;
    const unsigned type = is_value ? value_type : key_type;
    u8 *cache = is_value ? span.values : span.keys;
    store_kv(type, values, head_dim, cache + ((u64)slot * n_kv_heads + kv_head) * kv_row_bytes(type, head_dim));
}

/// The positions that a row sees, from `start` to before `end`; `base` is where the block of the first begins.
struct Seen {
    unsigned start, end, base;
    __device__ Seen(const Span &span, unsigned row, unsigned window) {
        end = span.pos + row - span.first_row + 1;
        start = window > 0 && end > window ? end - window : 0;
        base = start / KEY_BLOCK * KEY_BLOCK;
    }
};

#define SCORE_THREADS 128
#define SCORE_KEYS (SCORE_THREADS / 2)

/// Scores of a row's head (x; rows from `first_row` on) and SCORE_KEYS keys (y), for all that the row sees: two lanes make
/// one, with eight of the CPU's sixteen running sums each. `scores` is `[row][head][stride]`, from the first block seen on.
extern "C" __global__ void attend_scores(const float *qkv, unsigned width, unsigned head_dim, unsigned n_heads,
                                         unsigned n_kv_heads, unsigned key_type, const Span *spans,
                                         const unsigned *span_of_row, unsigned first_row, unsigned window, float scale,
                                         float cap, u64 stride, float *scores) {
    __shared__ float query[MAX_HEAD_DIM + 8];
    const unsigned head = blockIdx.x % n_heads, row = first_row + blockIdx.x / n_heads;
    const Span span = spans[span_of_row[row]];
    const Seen seen(span, row, window);
    const unsigned first = seen.base + blockIdx.y * SCORE_KEYS;
    if (first >= seen.end) return;
    for (unsigned d = threadIdx.x; d < head_dim + 8; d += SCORE_THREADS) {
        query[d] = d < head_dim ? qkv[(u64)row * width + (u64)head * head_dim + d] : 0.0f;
    }
    __syncthreads();
    const unsigned key = first + threadIdx.x / 2, half = threadIdx.x % 2;
    // All lanes take part in the fold; those outside look at the last key again.
    const unsigned slot = (key >= seen.start && key < seen.end ? key : seen.end - 1) % span.capacity;
    const unsigned kv_head = head / (n_heads / n_kv_heads);
    const u8 *values = span.keys + ((u64)slot * n_kv_heads + kv_head) * kv_row_bytes(key_type, head_dim);
    float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 8
    for (unsigned d = 8 * half; d < head_dim; d += 16) {
        float k[8];
        load_kv_8(key_type, values, d, head_dim, k);
#pragma unroll
        for (int l = 0; l < 8; l++) sums[l] = fmaf(query[d + l], k[l], sums[l]);
    }
#pragma unroll
    for (int l = 0; l < 8; l++) sums[l] += __shfl_xor_sync(FULL_WARP, sums[l], 1, 32);
#pragma unroll
    for (int n = 4; n > 0; n /= 2) {
        for (int l = 0; l < n; l++) sums[l] += sums[l + n];
    }
    if (half == 0 && key >= seen.start && key < seen.end) {
        scores[(u64)blockIdx.x * stride + key - seen.base] = soft_capped((sums[0] + 0.0f) * scale, cap);
    }
}

#define VALUE_THREADS 64
/// Blocks of keys that are weighed before their values are added up.
#define TILE_BLOCKS 32

__device__ inline float warp_max(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(FULL_WARP, value, offset, 32));
    return value;
}

/// Softmax and values of a row's head (x), VALUE_THREADS dimensions a block (y), a thread each. The CPU's running softmax
/// block by block of keys; maxima do not depend on an order, so warps weigh the blocks of a tile side by side.
extern "C" __global__ void attend_values(const float *scores, u64 stride, unsigned head_dim, unsigned n_heads,
                                         unsigned n_kv_heads, unsigned value_type, const Span *spans,
                                         const unsigned *span_of_row, unsigned first_row, unsigned window, float *out,
                                         signed char *q, Sums *sums) {
    __shared__ float weights[TILE_BLOCKS][KEY_BLOCK];
    __shared__ float largest[TILE_BLOCKS], corrections[TILE_BLOCKS], block_sums[TILE_BLOCKS];
    const unsigned head = blockIdx.x % n_heads, row = first_row + blockIdx.x / n_heads;
    const unsigned d = blockIdx.y * VALUE_THREADS + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Span span = spans[span_of_row[row]];
    const Seen seen(span, row, window);
    const float nothing = -__uint_as_float(0x7f800000u);
    const u64 value_bytes = kv_row_bytes(value_type, head_dim), slot_bytes = n_kv_heads * value_bytes;
    const u8 *head_values = span.values + head / (n_heads / n_kv_heads) * value_bytes;
    scores += (u64)blockIdx.x * stride;

    float max_before = nothing, total = 0.0f, acc = 0.0f;
    for (unsigned tile = seen.base; tile < seen.end; tile += TILE_BLOCKS * KEY_BLOCK) {
        const unsigned n_blocks = min((seen.end - tile + KEY_BLOCK - 1) / KEY_BLOCK, (unsigned)TILE_BLOCKS);
        for (unsigned b = warp; b < TILE_BLOCKS; b += VALUE_THREADS / 32) {
            // A block begins with the first key that is seen of it.
            const unsigned key = max(tile + b * KEY_BLOCK, seen.start) + lane;
            const bool is_seen = key < min(tile + (b + 1) * KEY_BLOCK, seen.end);
            const float score = is_seen ? scores[key - seen.base] : nothing;
            weights[b][lane] = score;
            const float block_max = warp_max(score);
            if (lane == 0) largest[b] = block_max;
        }
        __syncthreads();
        for (unsigned b = warp; b < n_blocks; b += VALUE_THREADS / 32) {
            const float before = fmaxf(max_before, warp_max(lane < b ? largest[lane] : nothing));
            const float max_here = fmaxf(before, largest[b]);
            const float weight = exp_bits(weights[b][lane] - max_here);
            const float sum = fold<16>(weight + __shfl_down_sync(FULL_WARP, weight, 16, 32));
            weights[b][lane] = weight;
            if (lane == 0) {
                // Without any finite score yet, the block weighs nothing, which a negative factor says.
                corrections[b] = max_here == nothing ? -1.0f : exp_bits(before - max_here);
                block_sums[b] = sum;
            }
        }
        __syncthreads();
        for (unsigned b = 0; b < n_blocks; b++) {
            const float correction = corrections[b];
            if (correction < 0.0f) continue;
            total = fmaf(total, correction, block_sums[b]);
            acc *= correction;
            if (d >= head_dim) continue;
            const unsigned first = max(tile + b * KEY_BLOCK, seen.start);
            const unsigned n_keys = min(tile + (b + 1) * KEY_BLOCK, seen.end) - first;
            // A ring wraps between blocks.
            const u8 *value = head_values + (first % span.capacity) * slot_bytes;
            if (n_keys == KEY_BLOCK) {
                float values[KEY_BLOCK];
#pragma unroll
                for (int i = 0; i < KEY_BLOCK; i++) values[i] = load_kv(value_type, value + i * slot_bytes, d);
#pragma unroll
                for (int i = 0; i < KEY_BLOCK; i++) acc = fmaf(weights[b][i], values[i], acc);
            } else {
                for (unsigned i = 0; i < n_keys; i++) {
                    acc = fmaf(weights[b][i], load_kv(value_type, value + i * slot_bytes, d), acc);
                }
            }
        }
        max_before = fmaxf(max_before, warp_max(lane < n_blocks ? largest[lane] : nothing));
        __syncthreads();
    }
    if (d >= head_dim) return;
    const u64 at = ((u64)row * n_heads + head) * head_dim + d;
    out[at] = acc * (1.0f / total);
    if (q) quantize(out[at], at / 32, q, sums);
}

// ---- many rows of one sequence ----
//
// What a row gets is the same to the bit as above: its scores have the same running sums, its blocks of keys the same
// order. But rows share what is read of keys and values.

#define SPAN_ROWS 32
#define SPAN_THREADS 256
/// Values of a head that are in shared memory at a time.
#define CHUNK 64
/// Floats of a row's half of a chunk, and of the halves of SPAN_ROWS rows: such that what a warp reads at once, four rows
/// one after the other and both halves, lies in different banks.
#define PITCH (CHUNK / 2 + 4)
#define PLANE (SPAN_ROWS * PITCH + 16)

/// Puts eight values of a row, from value `d` of the chunk on, where its half is: `d` is a multiple of 8, and halves take
/// turns.
__device__ inline void put_8(float4 *tile, unsigned row, unsigned d, const float *values) {
    float4 *to = tile + (d / 8 % 2 * PLANE + row * PITCH + d / 16 * 8) / 4;
    to[0] = make_float4(values[0], values[1], values[2], values[3]);
    to[1] = make_float4(values[4], values[5], values[6], values[7]);
}

__device__ inline void get_8(const float4 *tile, unsigned half, unsigned row, unsigned group, float *values) {
    const float4 *from = tile + (half * PLANE + row * PITCH + group * 8) / 4;
    const float4 a = from[0], b = from[1];
    values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
    values[4] = b.x, values[5] = b.y, values[6] = b.z, values[7] = b.w;
}

/// As attend_scores, for the `n_rows` rows from `first_row` on, all of span `which`: SPAN_ROWS rows of a head (x) and a block
/// of keys (y) a thread block. Two lanes, with half of the running sums each, make the scores of 2 rows and 4 keys.
extern "C" __global__ void __launch_bounds__(SPAN_THREADS)
    attend_scores_tile(const float *qkv, unsigned width, unsigned head_dim, unsigned n_heads, unsigned n_kv_heads,
                       unsigned key_type, const Span *spans, unsigned which, unsigned first_row, unsigned n_rows,
                       unsigned window, float scale, float cap, u64 stride, float *scores) {
    __shared__ float4 queries[2 * PLANE / 4], keys[2 * PLANE / 4];
    const unsigned head = blockIdx.x % n_heads, tile = blockIdx.x / n_heads * SPAN_ROWS;
    const unsigned last = min(tile + SPAN_ROWS, n_rows) - 1;
    const Span span = spans[which];
    const unsigned end = Seen(span, first_row + last, window).end;
    const unsigned first = Seen(span, first_row + tile, window).base + blockIdx.y * KEY_BLOCK;
    if (first >= end) return;

    const unsigned kv_head = head / (n_heads / n_kv_heads);
    // What this thread brings to shared memory: eight values of a row and of a key.
    const unsigned mine = threadIdx.x / 8, at = threadIdx.x % 8 * 8;
    const float *query = qkv + (u64)(first_row + min(tile + mine, last)) * width + (u64)head * head_dim;
    const u64 slot = min(first + mine, end - 1) % span.capacity;
    const u8 *key = span.keys + (slot * n_kv_heads + kv_head) * kv_row_bytes(key_type, head_dim);

    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, half = lane % 2;
    const unsigned k = lane / 2 % 4 + warp % 2 * 4, q = lane / 8 + warp / 2 * 4;
    // [row of two][key of four][running sum]
    float sums[2][4][8];
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int l = 0; l < 8; l++) sums[i][j][l] = 0.0f;
        }
    }
    for (unsigned chunk = 0; chunk < head_dim; chunk += CHUNK) {
        float values[8];
#pragma unroll
        for (int l = 0; l < 8; l++) values[l] = chunk + at + l < head_dim ? query[chunk + at + l] : 0.0f;
        put_8(queries, mine, at, values);
#pragma unroll
        for (int l = 0; l < 8; l++) values[l] = 0.0f;
        if (chunk + at < head_dim) load_kv_8(key_type, key, chunk + at, head_dim, values);
        put_8(keys, mine, at, values);
        __syncthreads();
#pragma unroll
        for (unsigned group = 0; group < CHUNK / 16; group++) {
            float a[2][8];
#pragma unroll
            for (int i = 0; i < 2; i++) get_8(queries, half, q + 16 * i, group, a[i]);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float b[8];
                get_8(keys, half, k + 8 * j, group, b);
#pragma unroll
                for (int i = 0; i < 2; i++) {
#pragma unroll
                    for (int l = 0; l < 8; l++) sums[i][j][l] = fmaf(a[i][l], b[l], sums[i][j][l]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const unsigned row = tile + q + 16 * i;
        const Seen seen(span, first_row + min(row, last), window);
        float *out = scores + ((u64)row * n_heads + head) * stride;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float *s = sums[i][j];
#pragma unroll
            for (int l = 0; l < 8; l++) s[l] += __shfl_xor_sync(FULL_WARP, s[l], 1, 32);
#pragma unroll
            for (int n = 4; n > 0; n /= 2) {
                for (int l = 0; l < n; l++) s[l] += s[l + n];
            }
            const unsigned position = first + k + 8 * j;
            // Each half stores those of one of the rows.
            if ((int)half == i && row <= last && position >= seen.start && position < seen.end) {
                out[position - seen.base] = soft_capped((s[0] + 0.0f) * scale, cap);
            }
        }
    }
}

#define SPAN_WARPS (SPAN_THREADS / 32)
#define WARP_ROWS (SPAN_ROWS / SPAN_WARPS)
/// Values of a head that a thread block makes: eight a lane.
#define SPAN_VALUES 256

/// As attend_values, for rows as in attend_scores_tile: SPAN_ROWS rows of a head (x) and SPAN_VALUES of its values (y) a thread
/// block. A warp has WARP_ROWS rows, and waits for no other.
extern "C" __global__ void __launch_bounds__(SPAN_THREADS)
    attend_values_tile(const float *scores, u64 stride, unsigned head_dim, unsigned n_heads, unsigned n_kv_heads,
                       unsigned value_type, const Span *spans, unsigned which, unsigned first_row, unsigned n_rows,
                       unsigned window, float *out, signed char *q, Sums *sums) {
    // By warp and key of a block: the weights for the warp's rows; those that do not see the key have a negative one.
    __shared__ float4 weights[SPAN_WARPS][KEY_BLOCK];
    __shared__ float results[SPAN_WARPS][SPAN_VALUES];
    static_assert(WARP_ROWS == 4, "a float4 has a weight of each row");
    const unsigned head = blockIdx.x % n_heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned tile = blockIdx.x / n_heads * SPAN_ROWS + warp * WARP_ROWS;
    if (tile >= n_rows) return;
    const unsigned last = min(tile + WARP_ROWS, n_rows) - 1;
    const unsigned d = blockIdx.y * SPAN_VALUES + lane * 8;
    const Span span = spans[which];
    const unsigned start = Seen(span, first_row + tile, window).start, end = Seen(span, first_row + last, window).end;
    const float nothing = -__uint_as_float(0x7f800000u);
    const u64 value_bytes = kv_row_bytes(value_type, head_dim), slot_bytes = n_kv_heads * value_bytes;
    const u8 *head_values = span.values + head / (n_heads / n_kv_heads) * value_bytes;

    float max_before[WARP_ROWS], total[WARP_ROWS], acc[WARP_ROWS][8];
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        max_before[r] = nothing, total[r] = 0.0f;
#pragma unroll
        for (int l = 0; l < 8; l++) acc[r][l] = 0.0f;
    }
    for (unsigned block = start / KEY_BLOCK * KEY_BLOCK; block < end; block += KEY_BLOCK) {
        float mine[WARP_ROWS];
#pragma unroll
        for (int r = 0; r < WARP_ROWS; r++) {
            const Seen seen(span, first_row + min(tile + r, last), window);
            // A block begins with the first key that is seen of it.
            const unsigned first = max(block, seen.start), before_end = min(block + KEY_BLOCK, seen.end);
            const bool is_seen = first + lane < before_end && tile + r <= last;
            const float *row_scores = scores + ((u64)min(tile + r, last) * n_heads + head) * stride;
            const float score = is_seen ? row_scores[first + lane - seen.base] : nothing;
            const float max_here = fmaxf(max_before[r], warp_max(score));
            const float weight = exp_bits(score - max_here);
            const float sum = fold<16>(weight + __shfl_down_sync(FULL_WARP, weight, 16, 32));
            const float block_sum = __shfl_sync(FULL_WARP, sum, 0, 32);
            // Without any finite score yet, the block weighs nothing.
            const bool has_weight = max_here != nothing && first < before_end;
            const float correction = exp_bits(max_before[r] - max_here);
            if (has_weight) {
                total[r] = fmaf(total[r], correction, block_sum);
#pragma unroll
                for (int l = 0; l < 8; l++) acc[r][l] *= correction;
            }
            max_before[r] = max_here;
            // From the first key seen to the first of the block.
            const unsigned key = block + lane;
            const float moved = __shfl_sync(FULL_WARP, weight, key - first, 32);
            mine[r] = has_weight && key >= first && key < before_end ? moved : -1.0f;
        }
        weights[warp][lane] = make_float4(mine[0], mine[1], mine[2], mine[3]);
        __syncwarp();
        if (d < head_dim) {
            // A ring wraps between blocks.
            const u8 *value = head_values + (block % span.capacity) * slot_bytes;
            const unsigned n_keys = min(end - block, (unsigned)KEY_BLOCK);
#pragma unroll 4
            for (unsigned i = max(start, block) - block; i < n_keys; i++) {
                float v[8];
                load_kv_8(value_type, value + i * slot_bytes, d, head_dim, v);
                const float4 w = weights[warp][i];
                const float of_row[WARP_ROWS] = {w.x, w.y, w.z, w.w};
#pragma unroll
                for (int r = 0; r < WARP_ROWS; r++) {
                    if (of_row[r] < 0.0f) continue;
#pragma unroll
                    for (int l = 0; l < 8; l++) acc[r][l] = fmaf(of_row[r], v[l], acc[r][l]);
                }
            }
        }
        __syncwarp();
    }
#pragma unroll
    for (int r = 0; r < WARP_ROWS; r++) {
        if (tile + r > last) break;
        const float factor = 1.0f / total[r];
#pragma unroll
        for (int l = 0; l < 8; l++) results[warp][lane * 8 + l] = acc[r][l] * factor;
        __syncwarp();
        const u64 row_at = ((u64)(first_row + tile + r) * n_heads + head) * head_dim + blockIdx.y * SPAN_VALUES;
        const unsigned n_values = min(head_dim - blockIdx.y * SPAN_VALUES, (unsigned)SPAN_VALUES);
        for (unsigned first = 0; first < n_values; first += 32) {
            if (first + lane >= n_values) break;
            const float value = results[warp][first + lane];
            out[row_at + first + lane] = value;
            // Then heads are whole blocks, and no lane has left.
            if (q) quantize(value, (row_at + first) / 32, q, sums);
        }
        __syncwarp();
    }
}
