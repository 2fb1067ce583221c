// The residual stream, norm and gated GELU: each row, or each value, by itself. What goes into a product is quantized here,
// where it is at hand: a pointer to blocks that is null leaves that out.
#include "common.cuh"

/// Values of a row, which is kept in shared memory (gpu/launch.rs checks).
#define MAX_ROW 8192

/// `1 / sqrt(mean(x^2) + eps)`, for all threads. Sixteen lanes make the running sums of the CPU's dot product.
__device__ inline float inverse_rms(const float *row, unsigned width, float eps, float *shared) {
    if (threadIdx.x < 32) {
        float sum = 0.0f;
#pragma unroll 16
        for (unsigned i = threadIdx.x % 16; i < width; i += 16) sum = fmaf(row[i], row[i], sum);
        sum = fold<16>(sum);
        if (threadIdx.x == 0) *shared = 1.0f / sqrtf(sum / (float)width + eps);
    }
    __syncthreads();
    return *shared;
}

/// `sum = x + normed(branch) * post`, where there is a branch; then `out = normed(sum) * weight`, where there is a weight. A
/// block a row.
extern "C" __global__ void add_normed(const float *x, const float *branch, const float *post, const float *weight,
                                      float eps, unsigned width, float *sum, float *out, signed char *q, Sums *sums) {
    __shared__ float values[MAX_ROW];
    __shared__ float shared_inverse;
    const u64 first = (u64)blockIdx.x * width;
    const float *from = branch ? branch : x;
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) values[i] = from[first + i];
    __syncthreads();
    if (branch) {
        const float inverse = inverse_rms(values, width, eps, &shared_inverse);
        for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
            values[i] = x[first + i] + values[i] * inverse * post[i];
            sum[first + i] = values[i];
        }
        __syncthreads();
    }
    if (!weight) return;
    const float inverse = inverse_rms(values, width, eps, &shared_inverse);
    for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
        const float value = values[i] * inverse * weight[i];
        out[first + i] = value;
        if (q) quantize(value, (first + i) / 32, q, sums);
    }
}

/// `gelu(gate) * up` where each row holds the gate and then the up half.
extern "C" __global__ void geglu(const float *gate_up, unsigned width, u64 n, float *out, signed char *q, Sums *sums) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float *gate = gate_up + i / width * 2 * width + i % width;
    out[i] = gated(gate[0], gate[width]);
    if (q) quantize(out[i], i / 32, q, sums);
}

/// Blocks of 32 values, for rows that come from elsewhere.
extern "C" __global__ void quantize_q8(const float *x, u64 n, signed char *q, Sums *sums) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) quantize(x[i], i / 32, q, sums);
}

/// Reads and writes 16 bytes a thread: what the memory can do at most.
extern "C" __global__ void copy_16(const int4 *from, u64 n, int4 *to) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = from[i];
}
