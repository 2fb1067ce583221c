// Norm, gated GELU, softcap, addition: each row, or each value, by itself.

struct RmsNormArguments {
    device const float *x;
    device const float *weight;
    float eps;
    uint width;
    device float *out;
};

/// `out = x / sqrt(mean(x^2) + eps) * weight`; a threadgroup a row. Sixteen lanes make the running sums of the CPU's dot
/// product.
kernel void rms_norm(constant RmsNormArguments &a [[buffer(0)]], PLACE) {
    threadgroup float shared_inverse;
    device const float *row = a.x + (ulong)group.x * a.width;
    if (index < 32) {
        float sum = 0.0f;
        for (uint i = index % 16; i < a.width; i += 16) sum = fma(row[i], row[i], sum);
        sum = fold<16>(sum);
        if (index == 0) shared_inverse = 1.0f / precise::sqrt(sum / (float)a.width + a.eps);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float inverse = shared_inverse;
    for (uint i = index; i < a.width; i += size.x) a.out[(ulong)group.x * a.width + i] = row[i] * inverse * a.weight[i];
}

struct GegluArguments {
    device const float *gate_up;
    uint width;
    ulong n;
    device float *out;
};

/// `gelu(gate) * up` where each row holds the gate and then the up half.
kernel void geglu(constant GegluArguments &a [[buffer(0)]], PLACE) {
    const ulong i = NUMBER;
    if (i >= a.n) return;
    device const float *gate = a.gate_up + i / a.width * 2 * a.width + i % a.width;
    const float x = gate[0], up = gate[a.width];
    const float cubic = fma(x * x, 0.044715f, 1.0f);
    a.out[i] = x / (1.0f + exp_bits(x * -1.5957692f * cubic)) * up;
}

struct SoftcapArguments {
    device const float *x;
    float cap;
    ulong n;
    device float *out;
};

/// `out = cap * tanh(x / cap)`
kernel void softcap(constant SoftcapArguments &a [[buffer(0)]], PLACE) {
    const ulong i = NUMBER;
    if (i < a.n) a.out[i] = soft_capped(a.x[i], a.cap);
}

struct AddArguments {
    device const float *x;
    device const float *y;
    ulong n;
    device float *out;
};

/// `out = x + y`
kernel void add(constant AddArguments &a [[buffer(0)]], PLACE) {
    const ulong i = NUMBER;
    if (i < a.n) a.out[i] = a.x[i] + a.y[i];
}

struct Copy16Arguments {
    device const uint4 *from;
    ulong n;
    device uint4 *to;
};

/// Reads and writes 16 bytes a thread: what the memory can do at most.
kernel void copy_16(constant Copy16Arguments &a [[buffer(0)]], PLACE) {
    const ulong i = NUMBER;
    if (i < a.n) a.to[i] = a.from[i];
}
