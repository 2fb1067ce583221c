// Rotary positions, the KV cache, and attention with softcap and window.
//
// A cache's row (a slot) is `[n_kv_heads][head_dim]` in the cache's type. Position p stands in slot p % capacity. Where
// the caches are and which positions the rows have is read from memory.

/// Queries are kept in threadgroup memory; a head has at most so many values (gpu/attention.rs checks).
#define MAX_HEAD_DIM 512
/// Keys that are weighed together, as on the CPU: blocks end at multiples of this many positions.
#define KEY_BLOCK 32u

/// How keys or values are kept: the codes of ops/gpu_cache.rs.
enum KvType { KV_F32 = 0, KV_F16 = 1, KV_BF16 = 2, KV_Q8_0 = 3 };
/// In Q8_0 a scale (f16) and 32 values.
#define Q8_VALUES 32u
#define Q8_BYTES 34u

inline uint kv_row_bytes(uint type, uint n) {
    switch (type) {
        case KV_F32: return 4 * n;
        case KV_Q8_0: return n / Q8_VALUES * Q8_BYTES;
        default: return 2 * n;
    }
}

inline float load_kv(uint type, device const u8 *row, uint i) {
    switch (type) {
        case KV_F32: return ((device const float *)row)[i];
        case KV_F16: return widen_f16(((device const u16 *)row)[i]);
        case KV_BF16: return widen_bf16(((device const u16 *)row)[i]);
        default: {
            device const u8 *block = row + i / Q8_VALUES * Q8_BYTES;
            return widen_f16(*(device const u16 *)block) * (float)(char)block[2 + i % Q8_VALUES];
        }
    }
}

/// Eight values from `i` on, which is a multiple of 8; zeros beyond the end.
inline void load_kv_8(uint type, device const u8 *row, uint i, uint n, thread float *out) {
    if (type == KV_Q8_0 || n % 8 != 0) {
        for (uint l = 0; l < 8; l++) out[l] = i + l < n ? load_kv(type, row, i + l) : 0.0f;
    } else if (type == KV_F32) {
        const float4 low = ((device const float4 *)row)[i / 4], high = ((device const float4 *)row)[i / 4 + 1];
        out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
        out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
    } else {
        const uint4 all = ((device const uint4 *)row)[i / 8];
        const uint words[4] = {all.x, all.y, all.z, all.w};
        for (uint w = 0; w < 4; w++) {
            const u16 low = (u16)words[w], high = (u16)(words[w] >> 16);
            out[2 * w] = type == KV_F16 ? widen_f16(low) : widen_bf16(low);
            out[2 * w + 1] = type == KV_F16 ? widen_f16(high) : widen_bf16(high);
        }
    }
}

/// One sequence of the step in one layer: its cache, the position of its first row, and its rows.
struct Span {
    device u8 *keys;
    device u8 *values;
    uint capacity, pos, first_row, n_rows;
};

struct RopeAndStoreArguments {
    device float *qkv;
    device const float *cosines;
    device const float *sines;
    uint head_dim;
    uint n_heads;
    uint n_kv_heads;
    uint key_type;
    uint value_type;
    device const Span *spans;
    device const uint *span_of_row;
};

/// A threadgroup for each head (x) of each row (y): queries and keys are rotated, the pair j, j + half by the row's angle;
/// queries go back where they were, keys and values into the cache.
kernel void rope_and_store(constant RopeAndStoreArguments &a [[buffer(0)]], PLACE) {
    threadgroup float values[MAX_HEAD_DIM];
    const uint head = group.x, row = group.y, half_dim = a.head_dim / 2, n_all = a.n_heads + 2 * a.n_kv_heads;
    device float *x = a.qkv + ((ulong)row * n_all + head) * a.head_dim;
    const bool is_query = head < a.n_heads, is_value = head >= a.n_heads + a.n_kv_heads;
    if (is_value) {
        for (uint d = index; d < a.head_dim; d += size.x) values[d] = x[d];
    } else {
        for (uint j = index; j < half_dim; j += size.x) {
            const float low = x[j], high = x[j + half_dim];
            const float c = a.cosines[row * half_dim + j], s = a.sines[row * half_dim + j];
            const float rotated_low = fma(-high, s, low * c), rotated_high = fma(low, s, high * c);
            if (is_query) {
                x[j] = rotated_low;
                x[j + half_dim] = rotated_high;
            } else {
                values[j] = rotated_low;
                values[j + half_dim] = rotated_high;
            }
        }
    }
    if (is_query) return;
    threadgroup_barrier(mem_flags::mem_threadgroup);

    device const Span &span = a.spans[a.span_of_row[row]];
    const uint slot = (span.pos + row - span.first_row) % span.capacity;
    const uint kv_head = is_value ? head - a.n_heads - a.n_kv_heads : head - a.n_heads;
    const uint type = is_value ? a.value_type : a.key_type;
    device u8 *cache = is_value ? span.values : span.keys;
    device u8 *to = cache + ((ulong)slot * a.n_kv_heads + kv_head) * kv_row_bytes(type, a.head_dim);
    if (type != KV_Q8_0) {
        for (uint i = index; i < a.head_dim; i += size.x) {
            if (type == KV_F32) ((device float *)to)[i] = values[i];
            else ((device u16 *)to)[i] = type == KV_F16 ? narrow_f16(values[i]) : narrow_bf16(values[i]);
        }
        return;
    }
    // ggml's: the largest magnitude becomes 127, halves are rounded away from zero.
    for (uint b = index; b < a.head_dim / Q8_VALUES; b += size.x) {
        const uint first = b * Q8_VALUES;
        float largest = 0.0f;
        for (uint l = 0; l < Q8_VALUES; l++) largest = fmax(largest, fabs(values[first + l]));
        const float scale = largest / 127.0f;
        const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
        device u8 *block = to + b * Q8_BYTES;
        *(device u16 *)block = narrow_f16(scale);
        for (uint l = 0; l < Q8_VALUES; l++) block[2 + l] = (u8)(char)(int)round(values[first + l] * inverse);
    }
}

/// The positions that a row sees, from `start` to before `end`; `base` is where the block of the first begins.
struct Seen {
    uint start, end, base;
};

inline Seen seen_by(device const Span &span, uint row, uint window) {
    Seen seen;
    seen.end = span.pos + row - span.first_row + 1;
    seen.start = window > 0 && seen.end > window ? seen.end - window : 0;
    seen.base = seen.start / KEY_BLOCK * KEY_BLOCK;
    return seen;
}

#define SCORE_THREADS 128u
#define SCORE_KEYS (SCORE_THREADS / 2)

struct AttendScoresArguments {
    device const float *qkv;
    uint width;
    uint head_dim;
    uint n_heads;
    uint n_kv_heads;
    uint key_type;
    device const Span *spans;
    device const uint *span_of_row;
    uint first_row;
    uint window;
    float scale;
    float cap;
    ulong stride;
    device float *scores;
};

/// Scores of a row's head (x; rows from `first_row` on) and SCORE_KEYS keys (y), for all that the row sees: two lanes make
/// one, with eight of the CPU's sixteen running sums each. `scores` is `[row][head][stride]`, from the first block seen on.
kernel void attend_scores(constant AttendScoresArguments &a [[buffer(0)]], PLACE) {
    threadgroup float query[MAX_HEAD_DIM + 8];
    const uint head = group.x % a.n_heads, row = a.first_row + group.x / a.n_heads;
    device const Span &span = a.spans[a.span_of_row[row]];
    const Seen seen = seen_by(span, row, a.window);
    const uint first = seen.base + group.y * SCORE_KEYS;
    if (first >= seen.end) return;
    for (uint d = index; d < a.head_dim + 8; d += SCORE_THREADS) {
        query[d] = d < a.head_dim ? a.qkv[(ulong)row * a.width + head * a.head_dim + d] : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const uint key = first + index / 2, odd = index % 2;
    // All lanes take part in the fold; those outside look at the last key again.
    const uint slot = (key >= seen.start && key < seen.end ? key : seen.end - 1) % span.capacity;
    const uint kv_head = head / (a.n_heads / a.n_kv_heads);
    device const u8 *values = span.keys + ((ulong)slot * a.n_kv_heads + kv_head) * kv_row_bytes(a.key_type, a.head_dim);
    float sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (uint d = 8 * odd; d < a.head_dim; d += 16) {
        float k[8];
        load_kv_8(a.key_type, values, d, a.head_dim, k);
        for (uint l = 0; l < 8; l++) sums[l] = fma(query[d + l], k[l], sums[l]);
    }
    for (uint l = 0; l < 8; l++) sums[l] += simd_shuffle_xor(sums[l], (u16)1);
    for (uint n = 4; n > 0; n /= 2) {
        for (uint l = 0; l < n; l++) sums[l] += sums[l + n];
    }
    if (odd == 0 && key >= seen.start && key < seen.end) {
        a.scores[(ulong)group.x * a.stride + key - seen.base] = soft_capped((sums[0] + 0.0f) * a.scale, a.cap);
    }
}

#define VALUE_THREADS 64u
/// Blocks of keys that are weighed before their values are added up.
#define TILE_BLOCKS 32u

inline float simd_largest(float value) {
    for (u16 offset = 16; offset > 0; offset /= 2) value = fmax(value, simd_shuffle_xor(value, offset));
    return value;
}

struct AttendValuesArguments {
    device const float *scores;
    ulong stride;
    uint head_dim;
    uint n_heads;
    uint n_kv_heads;
    uint value_type;
    device const Span *spans;
    device const uint *span_of_row;
    uint first_row;
    uint window;
    device float *out;
    device char *q;
    device Sums *sums;
};

/// Softmax and values of a row's head (x), VALUE_THREADS dimensions a threadgroup (y), a thread each. The CPU's running
/// softmax block by block of keys; maxima do not depend on an order, so SIMD groups weigh the blocks of a tile side by side.
kernel void attend_values(constant AttendValuesArguments &a [[buffer(0)]], PLACE) {
    threadgroup float weights[TILE_BLOCKS][KEY_BLOCK];
    threadgroup float largest[TILE_BLOCKS], corrections[TILE_BLOCKS], block_sums[TILE_BLOCKS];
    const uint head = group.x % a.n_heads, row = a.first_row + group.x / a.n_heads;
    const uint d = group.y * VALUE_THREADS + index, lane = index % 32, simd = index / 32;
    device const Span &span = a.spans[a.span_of_row[row]];
    const Seen seen = seen_by(span, row, a.window);
    const float nothing = -as_type<float>(0x7f800000u);
    const uint value_bytes = kv_row_bytes(a.value_type, a.head_dim), slot_bytes = a.n_kv_heads * value_bytes;
    device const u8 *head_values = span.values + head / (a.n_heads / a.n_kv_heads) * value_bytes;
    device const float *scores = a.scores + (ulong)group.x * a.stride;

    float max_before = nothing, total = 0.0f, acc = 0.0f;
    for (uint tile = seen.base; tile < seen.end; tile += TILE_BLOCKS * KEY_BLOCK) {
        const uint n_blocks = min((seen.end - tile + KEY_BLOCK - 1) / KEY_BLOCK, TILE_BLOCKS);
        for (uint b = simd; b < TILE_BLOCKS; b += VALUE_THREADS / 32) {
            // A block begins with the first key that is seen of it.
            const uint key = max(tile + b * KEY_BLOCK, seen.start) + lane;
            const bool is_seen = key < min(tile + (b + 1) * KEY_BLOCK, seen.end);
            const float score = is_seen ? scores[key - seen.base] : nothing;
            weights[b][lane] = score;
            const float block_max = simd_largest(score);
            if (lane == 0) largest[b] = block_max;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint b = simd; b < n_blocks; b += VALUE_THREADS / 32) {
            const float before = fmax(max_before, simd_largest(lane < b ? largest[lane] : nothing));
            const float max_here = fmax(before, largest[b]);
            const float weight = exp_bits(weights[b][lane] - max_here);
            const float sum = fold<16>(weight + simd_shuffle_down(weight, (u16)16));
            weights[b][lane] = weight;
            if (lane == 0) {
                // Without any finite score yet, the block weighs nothing, which a negative factor says.
                corrections[b] = max_here == nothing ? -1.0f : exp_bits(before - max_here);
                block_sums[b] = sum;
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint b = 0; b < n_blocks; b++) {
            const float correction = corrections[b];
            if (correction < 0.0f) continue;
            total = fma(total, correction, block_sums[b]);
            acc *= correction;
            if (d >= a.head_dim) continue;
            const uint first = max(tile + b * KEY_BLOCK, seen.start);
            const uint n_keys = min(tile + (b + 1) * KEY_BLOCK, seen.end) - first;
            // A ring wraps between blocks.
            device const u8 *value = head_values + (ulong)(first % span.capacity) * slot_bytes;
            for (uint i = 0; i < n_keys; i++) {
                acc = fma(weights[b][i], load_kv(a.value_type, value + i * slot_bytes, d), acc);
            }
        }
        max_before = fmax(max_before, simd_largest(lane < n_blocks ? largest[lane] : nothing));
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (d >= a.head_dim) return;
    const ulong at = ((ulong)row * a.n_heads + head) * a.head_dim + d;
    const float value = acc * (1.0f / total);
    a.out[at] = value;
    if (a.q) quantize(value, at / 32, lane, a.q, a.sums);
}
