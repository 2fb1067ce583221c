// The residual stream, norm and gated GELU: each row, or each value, by itself. What goes into a product is quantized here,
// where it is at hand: a pointer to blocks that is null leaves that out.

/// The sum of squares of a row, of the CPU's sixteen running sums; for the first lane of a SIMD group.
inline float sum_of_squares(device const float *row, uint width, uint lane) {
    float sum = 0.0f;
    for (uint i = lane % 16; i < width; i += 16) sum = fma(row[i], row[i], sum);
    return fold<16>(sum);
}

struct AddNormedArguments {
    device const float *x;
    device const float *branch;
    device const float *post;
    device const float *weight;
    float eps;
    uint width;
    device float *sum;
    device float *out;
    device char *q;
    device Sums *sums;
};

/// `sum = x + normed(branch) * post`, where there is a branch; then `out = normed(sum) * weight`, where there is a weight. A
/// threadgroup a row.
kernel void add_normed(constant AddNormedArguments &a [[buffer(0)]], PLACE) {
    threadgroup float inverse_rms;
    const ulong first = (ulong)group.x * a.width;
    device const float *row = a.x + first;
    if (a.branch) {
        device const float *branch = a.branch + first;
        if (index < 32) {
            const float squares = sum_of_squares(branch, a.width, index);
            if (index == 0) inverse_rms = 1.0f / precise::sqrt(squares / (float)a.width + a.eps);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const float inverse = inverse_rms;
        device float *sum = a.sum + first;
        for (uint i = index; i < a.width; i += size.x) sum[i] = row[i] + branch[i] * inverse * a.post[i];
        // Other threads read it next.
        threadgroup_barrier(mem_flags::mem_device);
        row = sum;
    }
    if (!a.weight) return;
    if (index < 32) {
        const float squares = sum_of_squares(row, a.width, index);
        if (index == 0) inverse_rms = 1.0f / precise::sqrt(squares / (float)a.width + a.eps);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float inverse = inverse_rms;
    for (uint i = index; i < a.width; i += size.x) {
        const float value = row[i] * inverse * a.weight[i];
        a.out[first + i] = value;
        if (a.q) quantize(value, (first + i) / 32, index % 32, a.q, a.sums);
    }
}

struct GegluArguments {
    device const float *gate_up;
    uint width;
    ulong n;
    device float *out;
    device char *q;
    device Sums *sums;
};

/// `gelu(gate) * up` where each row holds the gate and then the up half.
kernel void geglu(constant GegluArguments &a [[buffer(0)]], PLACE) {
    const ulong i = NUMBER;
    if (i >= a.n) return;
    device const float *gate = a.gate_up + i / a.width * 2 * a.width + i % a.width;
    const float value = gated(gate[0], gate[a.width]);
    a.out[i] = value;
    if (a.q) quantize(value, i / 32, index % 32, a.q, a.sums);
}

struct QuantizeArguments {
    device const float *x;
    ulong n;
    device char *q;
    device Sums *sums;
};

/// Blocks of 32 values, for rows that come from elsewhere.
kernel void quantize_q8(constant QuantizeArguments &a [[buffer(0)]], PLACE) {
    const ulong i = NUMBER;
    if (i < a.n) quantize(a.x[i], i / 32, index % 32, a.q, a.sums);
}

struct CopyArguments {
    device const uint4 *from;
    ulong n;
    device uint4 *to;
};

/// Reads and writes 16 bytes a thread: what the memory can do at most.
kernel void copy_16(constant CopyArguments &a [[buffer(0)]], PLACE) {
    const ulong i = NUMBER;
    if (i < a.n) a.to[i] = a.from[i];
}
