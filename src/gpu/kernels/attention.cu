// Rotary positions, the KV cache, and attention with softcap and window.
//
// A cache's row (a slot) is `[n_kv_heads][head_dim]` in the cache's type. Position p stands in slot p % capacity.
#include "common.cuh"

/// Queries are kept in shared memory; a head has at most so many values (gpu/mod.rs checks).
#define MAX_HEAD_DIM 512
/// Keys that are weighed together, as on the CPU: blocks end at multiples of this many positions.
#define KEY_BLOCK 32
#define ATTENTION_THREADS 128

/// How keys or values are kept: the codes of gpu/mod.rs.
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

/// Rotates all query and key heads of `[n_tokens][n_heads]` in place: the pair j, j + half by the token's angle.
extern "C" __global__ void rope(float *qkv, const float *cos, const float *sin, unsigned width, unsigned n_heads,
                                unsigned half, u64 n) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const unsigned j = i % half, head = i / half % n_heads;
    const u64 token = i / half / n_heads;
    float *low = qkv + token * width + (u64)head * 2 * half + j;
    const float x = low[0], y = low[half], c = cos[token * half + j], s = sin[token * half + j];
    low[0] = fmaf(-y, s, x * c);
    low[half] = fmaf(x, s, y * c);
}

/// Writes the keys, or the values, of neighbouring tokens into the cache, 32 values a thread. `x` is the first token's.
extern "C" __global__ void store_kv(const float *x, unsigned width, unsigned head_dim, unsigned n_kv_heads, unsigned type,
                                    u64 pos, u64 capacity, u64 n, u8 *cache) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const unsigned pieces = (head_dim + 31) / 32;
    const unsigned piece = i % pieces, head = i / pieces % n_kv_heads;
    const u64 token = i / pieces / n_kv_heads;
    const u64 head_bytes = kv_row_bytes(type, head_dim);
    const u64 slot = (pos + token) % capacity;
    const float *values = x + token * width + (u64)head * head_dim + piece * 32;
    u8 *row = cache + (slot * n_kv_heads + head) * head_bytes;
    const unsigned start = piece * 32, len = min(32u, head_dim - start);
    if (type != KV_Q8_0) {
        for (unsigned l = 0; l < len; l++) {
            if (type == KV_F32) ((float *)row)[start + l] = values[l];
            else ((u16 *)row)[start + l] = type == KV_F16 ? narrow_f16(values[l]) : narrow_bf16(values[l]);
        }
        return;
    }
    // ggml's: the largest magnitude becomes 127, halves are rounded away from zero.
    float largest = 0.0f;
    for (unsigned l = 0; l < 32; l++) largest = fmaxf(largest, fabsf(values[l]));
    const float scale = largest / 127.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    u8 *block = row + piece * Q8_BYTES;
    *(u16 *)block = narrow_f16(scale);
    for (unsigned l = 0; l < 32; l++) block[2 + l] = (u8)(signed char)(int)roundf(values[l] * inverse);
}

/// Attention of neighbouring tokens of one sequence; a block for each query head (x) and token (y), which looks at the
/// keys of its window block by block, with a running softmax. Sixteen lanes make a score; then each thread adds up some
/// dimensions of the values. `qkv` and `out` are the first token's rows, `pos` its position; a window of 0 is none.
extern "C" __global__ void attend(const float *qkv, unsigned width, unsigned head_dim, unsigned n_heads,
                                  unsigned n_kv_heads, const u8 *keys, unsigned key_type, const u8 *values,
                                  unsigned value_type, u64 capacity, u64 pos, u64 window, float scale, float cap,
                                  float *out) {
    __shared__ float query[MAX_HEAD_DIM];
    __shared__ float acc[MAX_HEAD_DIM];
    __shared__ float weights[KEY_BLOCK];
    __shared__ float shared_max, shared_sum, shared_correction;
    __shared__ bool is_weighed;
    const unsigned head = blockIdx.x, token = blockIdx.y, thread = threadIdx.x, lane = thread % 16;
    const unsigned kv_head = head / (n_heads / n_kv_heads);
    const u64 key_bytes = kv_row_bytes(key_type, head_dim), value_bytes = kv_row_bytes(value_type, head_dim);
    for (unsigned d = thread; d < head_dim; d += ATTENTION_THREADS) {
        query[d] = qkv[(u64)token * width + (u64)head * head_dim + d];
        acc[d] = 0.0f;
    }
    if (thread == 0) {
        shared_max = -__uint_as_float(0x7f800000u);
        shared_sum = 0.0f;
    }
    __syncthreads();

    const u64 end = pos + token + 1;
    u64 stop;
    for (u64 start = window > 0 && end > window ? end - window : 0; start < end; start = stop) {
        stop = min(end, (start / KEY_BLOCK + 1) * KEY_BLOCK);
        const unsigned n_keys = stop - start;
        for (unsigned i = thread / 16; i < KEY_BLOCK; i += ATTENTION_THREADS / 16) {
            // All lanes take part in the fold; those beyond the last key look at it again.
            const u64 slot = (start + min(i, n_keys - 1)) % capacity;
            const u8 *key = keys + (slot * n_kv_heads + kv_head) * key_bytes;
            float sum = 0.0f;
            for (unsigned d = lane; d < head_dim; d += 16) sum = fmaf(query[d], load_kv(key_type, key, d), sum);
            const float score = soft_capped(fold<16>(sum) * scale, cap);
            if (lane == 0) weights[i] = i < n_keys ? score : -__uint_as_float(0x7f800000u);
        }
        __syncthreads();
        if (thread < 32) {
            const float score = weights[thread], before = shared_max;
            float largest = score;
            for (int offset = 16; offset > 0; offset /= 2) {
                largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, offset, 32));
            }
            largest = fmaxf(before, largest);
            const float weight = exp_bits(score - largest);
            const float correction = exp_bits(before - largest);
            const float sum = fold<16>(weight + __shfl_down_sync(FULL_WARP, weight, 16, 32));
            weights[thread] = weight;
            if (thread == 0) {
                // Without any finite score yet, the block weighs nothing.
                is_weighed = largest != -__uint_as_float(0x7f800000u);
                if (is_weighed) {
                    shared_sum = fmaf(shared_sum, correction, sum);
                    shared_max = largest;
                    shared_correction = correction;
                }
            }
        }
        __syncthreads();
        if (is_weighed) {
            for (unsigned d = thread; d < head_dim; d += ATTENTION_THREADS) {
                float a = acc[d] * shared_correction;
                for (unsigned i = 0; i < n_keys; i++) {
                    const u64 slot = (start + i) % capacity;
                    const u8 *value = values + (slot * n_kv_heads + kv_head) * value_bytes;
                    a = fmaf(weights[i], load_kv(value_type, value, d), a);
                }
                acc[d] = a;
            }
        }
        __syncthreads();
    }
    const float inverse = 1.0f / shared_sum;
    for (unsigned d = thread; d < head_dim; d += ATTENTION_THREADS) {
        out[((u64)token * n_heads + head) * head_dim + d] = acc[d] * inverse;
    }
}
