// Rotary positions, the KV cache, and attention with softcap and window.
//
// A cache's row (a slot) is `[n_kv_heads][head_dim]` in the cache's type. Position p stands in slot p % capacity. Positions
// and capacities are handed over as 64 bits, and are far below 2^32: a context has thousands of them.

/// Queries are kept in threadgroup memory; a head has at most so many values (gpu/launch.rs checks).
#define MAX_HEAD_DIM 512
/// Keys that are weighed together, as on the CPU: blocks end at multiples of this many positions.
#define KEY_BLOCK 32u
#define ATTENTION_THREADS 128u

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

struct RopeArguments {
    device float *qkv;
    device const float *cosines;
    device const float *sines;
    uint width;
    uint n_heads;
    uint half_dim;
    ulong n;
};

/// Rotates all query and key heads of `[n_tokens][n_heads]` in place: the pair j, j + half by the token's angle.
kernel void rope(constant RopeArguments &a [[buffer(0)]], PLACE) {
    const ulong i = NUMBER;
    if (i >= a.n) return;
    const uint j = i % a.half_dim, head = i / a.half_dim % a.n_heads;
    const ulong token = i / a.half_dim / a.n_heads;
    device float *low = a.qkv + token * a.width + (ulong)head * 2 * a.half_dim + j;
    const float x = low[0], y = low[a.half_dim];
    const float c = a.cosines[token * a.half_dim + j], s = a.sines[token * a.half_dim + j];
    low[0] = fma(-y, s, x * c);
    low[a.half_dim] = fma(x, s, y * c);
}

struct StoreKvArguments {
    device const float *x;
    uint width;
    uint head_dim;
    uint n_kv_heads;
    uint type;
    ulong pos;
    ulong capacity;
    ulong n;
    device u8 *cache;
};

/// Writes the keys, or the values, of neighbouring tokens into the cache, 32 values a thread. `x` is the first token's.
kernel void store_kv(constant StoreKvArguments &a [[buffer(0)]], PLACE) {
    const ulong i = NUMBER;
    if (i >= a.n) return;
    const uint pieces = (a.head_dim + 31) / 32;
    const uint piece = i % pieces, head = i / pieces % a.n_kv_heads;
    const ulong token = i / pieces / a.n_kv_heads;
    const ulong slot = (a.pos + token) % a.capacity;
    device const float *values = a.x + token * a.width + (ulong)head * a.head_dim + piece * 32;
    device u8 *row = a.cache + (slot * a.n_kv_heads + head) * kv_row_bytes(a.type, a.head_dim);
    const uint start = piece * 32, len = min(32u, a.head_dim - start);
    if (a.type != KV_Q8_0) {
        for (uint l = 0; l < len; l++) {
            if (a.type == KV_F32) ((device float *)row)[start + l] = values[l];
            else ((device u16 *)row)[start + l] = a.type == KV_F16 ? narrow_f16(values[l]) : narrow_bf16(values[l]);
        }
        return;
    }
    // ggml's: the largest magnitude becomes 127, halves are rounded away from zero.
    float largest = 0.0f;
    for (uint l = 0; l < 32; l++) largest = fmax(largest, fabs(values[l]));
    const float scale = largest / 127.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    device u8 *block = row + piece * Q8_BYTES;
    *(device u16 *)block = narrow_f16(scale);
    for (uint l = 0; l < 32; l++) block[2 + l] = (u8)(char)(int)round(values[l] * inverse);
}

struct AttendArguments {
    device const float *qkv;
    uint width;
    uint head_dim;
    uint n_heads;
    uint n_kv_heads;
    device const u8 *keys;
    uint key_type;
    device const u8 *values;
    uint value_type;
    ulong capacity_64;
    ulong pos;
    ulong window_64;
    float scale;
    float cap;
    device float *out;
};

/// Attention of neighbouring tokens of one sequence; a threadgroup for each query head (x) and token (y), which looks at
/// the keys of its window block by block, with a running softmax. Sixteen lanes make a score; then each thread adds up some
/// dimensions of the values. `qkv` and `out` are the first token's rows, `pos` its position; a window of 0 is none.
kernel void attend(constant AttendArguments &a [[buffer(0)]], PLACE) {
    threadgroup float query[MAX_HEAD_DIM];
    threadgroup float acc[MAX_HEAD_DIM];
    threadgroup float weights[KEY_BLOCK];
    threadgroup float shared_max, shared_sum, shared_correction;
    threadgroup bool is_weighed;
    const uint head = group.x, token = group.y, lane = index % 16;
    const uint kv_head = head / (a.n_heads / a.n_kv_heads);
    const uint key_bytes = kv_row_bytes(a.key_type, a.head_dim), value_bytes = kv_row_bytes(a.value_type, a.head_dim);
    const float no_score = -as_type<float>(0x7f800000u);
    for (uint d = index; d < a.head_dim; d += ATTENTION_THREADS) {
        query[d] = a.qkv[(ulong)token * a.width + head * a.head_dim + d];
        acc[d] = 0.0f;
    }
    if (index == 0) {
        shared_max = no_score;
        shared_sum = 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const uint capacity = (uint)a.capacity_64, window = (uint)a.window_64, end = (uint)a.pos + token + 1;
    uint stop;
    for (uint start = window > 0 && end > window ? end - window : 0; start < end; start = stop) {
        stop = min(end, (start / KEY_BLOCK + 1) * KEY_BLOCK);
        const uint n_keys = stop - start, first_slot = start % capacity;
        for (uint i = index / 16; i < KEY_BLOCK; i += ATTENTION_THREADS / 16) {
            // All lanes take part in the fold; those beyond the last key look at it again.
            uint slot = first_slot + min(i, n_keys - 1);
            if (slot >= capacity) slot -= capacity;
            device const u8 *key = a.keys + ((ulong)slot * a.n_kv_heads + kv_head) * key_bytes;
            float sum = 0.0f;
            for (uint d = lane; d < a.head_dim; d += 16) sum = fma(query[d], load_kv(a.key_type, key, d), sum);
            const float score = soft_capped(fold<16>(sum) * a.scale, a.cap);
            if (lane == 0) weights[i] = i < n_keys ? score : no_score;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (index < 32) {
            const float score = weights[index], before = shared_max;
            float largest = score;
            for (u16 offset = 16; offset > 0; offset /= 2) largest = fmax(largest, simd_shuffle_xor(largest, offset));
            largest = fmax(before, largest);
            const float weight = exp_bits(score - largest);
            const float correction = exp_bits(before - largest);
            const float sum = fold<16>(weight + simd_shuffle_down(weight, (u16)16));
            weights[index] = weight;
            if (index == 0) {
                // Without any finite score yet, the block weighs nothing.
                is_weighed = largest != no_score;
                if (is_weighed) {
                    shared_sum = fma(shared_sum, correction, sum);
                    shared_max = largest;
                    shared_correction = correction;
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (is_weighed) {
            for (uint d = index; d < a.head_dim; d += ATTENTION_THREADS) {
                float sum = acc[d] * shared_correction;
                uint slot = first_slot;
                for (uint i = 0; i < n_keys; i++) {
                    device const u8 *value = a.values + ((ulong)slot * a.n_kv_heads + kv_head) * value_bytes;
                    sum = fma(weights[i], load_kv(a.value_type, value, d), sum);
                    if (++slot == capacity) slot = 0;
                }
                acc[d] = sum;
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    const float inverse = 1.0f / shared_sum;
    for (uint d = index; d < a.head_dim; d += ATTENTION_THREADS) {
        a.out[((ulong)token * a.n_heads + head) * a.head_dim + d] = acc[d] * inverse;
    }
}
