// Norm, gated GELU, softcap, addition: each row, or each value, by itself.
#include "common.cuh"

/// `out = x / sqrt(mean(x^2) + eps) * weight`; a block a row. Sixteen lanes make the running sums of the CPU's dot product.
extern "C" __global__ void rms_norm(const float *x, const float *weight, float eps, unsigned width, float *out) {
    __shared__ float shared_inverse;
    const float *row = x + (u64)blockIdx.x * width;
    if (threadIdx.x < 32) {
        float sum = 0.0f;
        for (unsigned i = threadIdx.x % 16; i < width; i += 16) sum = fmaf(row[i], row[i], sum);
        sum = fold<16>(sum);
        if (threadIdx.x == 0) shared_inverse = 1.0f / sqrtf(sum / (float)width + eps);
    }
    __syncthreads();
    const float inverse = shared_inverse;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        out[(u64)blockIdx.x * width + i] = row[i] * inverse * weight[i];
    }
}

/// `gelu(gate) * up` where each row holds the gate and then the up half.
extern "C" __global__ void geglu(const float *gate_up, unsigned width, u64 n, float *out) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float *gate = gate_up + i / width * 2 * width + i % width;
    const float x = gate[0], up = gate[width];
    const float cubic = fmaf(x * x, 0.044715f, 1.0f);
    out[i] = x / (1.0f + exp_bits(x * -1.5957692f * cubic)) * up;
}

/// `out = cap * tanh(x / cap)`
extern "C" __global__ void softcap(const float *x, float cap, u64 n, float *out) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = soft_capped(x[i], cap);
}

/// `out = x + y`
extern "C" __global__ void add(const float *x, const float *y, u64 n, float *out) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i] + y[i];
}

/// Reads and writes 16 bytes a thread: what the memory can do at most.
extern "C" __global__ void copy_16(const int4 *from, u64 n, int4 *to) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = from[i];
}
