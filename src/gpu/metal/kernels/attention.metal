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

/// Rotates all query and key heads of `[n_tokens][n_heads]` in place: the pair j, j + half by the token's angle.
kernel void rope(device float *qkv [[buffer(0)]], device const float *cosines [[buffer(1)]],
                 device const float *sines [[buffer(2)]], constant uint &width [[buffer(3)]],
                 constant uint &n_heads [[buffer(4)]], constant uint &half_dim [[buffer(5)]],
                 constant ulong &n [[buffer(6)]], PLACE) {
    const ulong i = NUMBER;
    if (i >= n) return;
    const uint j = i % half_dim, head = i / half_dim % n_heads;
    const ulong token = i / half_dim / n_heads;
    device float *low = qkv + token * width + (ulong)head * 2 * half_dim + j;
    const float x = low[0], y = low[half_dim], c = cosines[token * half_dim + j], s = sines[token * half_dim + j];
    low[0] = fma(-y, s, x * c);
    low[half_dim] = fma(x, s, y * c);
}

/// Writes the keys, or the values, of neighbouring tokens into the cache, 32 values a thread. `x` is the first token's.
kernel void store_kv(device const float *x [[buffer(0)]], constant uint &width [[buffer(1)]],
                     constant uint &head_dim [[buffer(2)]], constant uint &n_kv_heads [[buffer(3)]],
                     constant uint &type [[buffer(4)]], constant ulong &pos [[buffer(5)]],
                     constant ulong &capacity [[buffer(6)]], constant ulong &n [[buffer(7)]],
                     device u8 *cache [[buffer(8)]], PLACE) {
    const ulong i = NUMBER;
    if (i >= n) return;
    const uint pieces = (head_dim + 31) / 32;
    const uint piece = i % pieces, head = i / pieces % n_kv_heads;
    const ulong token = i / pieces / n_kv_heads;
    const ulong slot = (pos + token) % capacity;
    device const float *values = x + token * width + (ulong)head * head_dim + piece * 32;
    device u8 *row = cache + (slot * n_kv_heads + head) * kv_row_bytes(type, head_dim);
    const uint start = piece * 32, len = min(32u, head_dim - start);
    if (type != KV_Q8_0) {
        for (uint l = 0; l < len; l++) {
            if (type == KV_F32) ((device float *)row)[start + l] = values[l];
            else ((device u16 *)row)[start + l] = type == KV_F16 ? narrow_f16(values[l]) : narrow_bf16(values[l]);
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

/// Attention of neighbouring tokens of one sequence; a threadgroup for each query head (x) and token (y), which looks at
/// the keys of its window block by block, with a running softmax. Sixteen lanes make a score; then each thread adds up some
/// dimensions of the values. `qkv` and `out` are the first token's rows, `pos` its position; a window of 0 is none.
kernel void attend(device const float *qkv [[buffer(0)]], constant uint &width [[buffer(1)]],
                   constant uint &head_dim [[buffer(2)]], constant uint &n_heads [[buffer(3)]],
                   constant uint &n_kv_heads [[buffer(4)]], device const u8 *keys [[buffer(5)]],
                   constant uint &key_type [[buffer(6)]], device const u8 *values [[buffer(7)]],
                   constant uint &value_type [[buffer(8)]], constant ulong &capacity_64 [[buffer(9)]],
                   constant ulong &pos [[buffer(10)]], constant ulong &window_64 [[buffer(11)]],
                   constant float &scale [[buffer(12)]], constant float &cap [[buffer(13)]],
                   device float *out [[buffer(14)]], PLACE) {
    threadgroup float query[MAX_HEAD_DIM];
    threadgroup float acc[MAX_HEAD_DIM];
    threadgroup float weights[KEY_BLOCK];
    threadgroup float shared_max, shared_sum, shared_correction;
    threadgroup bool is_weighed;
    const uint head = group.x, token = group.y, lane = index % 16;
    const uint kv_head = head / (n_heads / n_kv_heads);
    const uint key_bytes = kv_row_bytes(key_type, head_dim), value_bytes = kv_row_bytes(value_type, head_dim);
    const float no_score = -as_type<float>(0x7f800000u);
    for (uint d = index; d < head_dim; d += ATTENTION_THREADS) {
        query[d] = qkv[(ulong)token * width + head * head_dim + d];
        acc[d] = 0.0f;
    }
    if (index == 0) {
        shared_max = no_score;
        shared_sum = 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);

    const uint capacity = (uint)capacity_64, window = (uint)window_64, end = (uint)pos + token + 1;
    uint stop;
    for (uint start = window > 0 && end > window ? end - window : 0; start < end; start = stop) {
        stop = min(end, (start / KEY_BLOCK + 1) * KEY_BLOCK);
        const uint n_keys = stop - start, first_slot = start % capacity;
        for (uint i = index / 16; i < KEY_BLOCK; i += ATTENTION_THREADS / 16) {
            // All lanes take part in the fold; those beyond the last key look at it again.
            uint slot = first_slot + min(i, n_keys - 1);
            if (slot >= capacity) slot -= capacity;
            device const u8 *key = keys + ((ulong)slot * n_kv_heads + kv_head) * key_bytes;
            float sum = 0.0f;
            for (uint d = lane; d < head_dim; d += 16) sum = fma(query[d], load_kv(key_type, key, d), sum);
            const float score = soft_capped(fold<16>(sum) * scale, cap);
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
            for (uint d = index; d < head_dim; d += ATTENTION_THREADS) {
                float a = acc[d] * shared_correction;
                uint slot = first_slot;
                for (uint i = 0; i < n_keys; i++) {
                    device const u8 *value = values + ((ulong)slot * n_kv_heads + kv_head) * value_bytes;
                    a = fma(weights[i], load_kv(value_type, value, d), a);
                    if (++slot == capacity) slot = 0;
                }
                acc[d] = a;
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    const float inverse = 1.0f / shared_sum;
    for (uint d = index; d < head_dim; d += ATTENTION_THREADS) {
        out[((ulong)token * n_heads + head) * head_dim + d] = acc[d] * inverse;
    }
}
