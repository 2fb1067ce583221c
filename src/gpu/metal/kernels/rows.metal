// Norm, gated GELU, softcap, addition: each row, or each value, by itself.

/// `out = x / sqrt(mean(x^2) + eps) * weight`; a threadgroup a row. Sixteen lanes make the running sums of the CPU's dot
/// product.
kernel void rms_norm(device const float *x [[buffer(0)]], device const float *weight [[buffer(1)]],
                     constant float &eps [[buffer(2)]], constant uint &width [[buffer(3)]],
                     device float *out [[buffer(4)]], PLACE) {
    threadgroup float shared_inverse;
    device const float *row = x + (ulong)group.x * width;
    if (index < 32) {
        float sum = 0.0f;
        for (uint i = index % 16; i < width; i += 16) sum = fma(row[i], row[i], sum);
        sum = fold<16>(sum);
        if (index == 0) shared_inverse = 1.0f / precise::sqrt(sum / (float)width + eps);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float inverse = shared_inverse;
    for (uint i = index; i < width; i += size.x) out[(ulong)group.x * width + i] = row[i] * inverse * weight[i];
}

/// `gelu(gate) * up` where each row holds the gate and then the up half.
kernel void geglu(device const float *gate_up [[buffer(0)]], constant uint &width [[buffer(1)]],
                  constant ulong &n [[buffer(2)]], device float *out [[buffer(3)]], PLACE) {
    const ulong i = NUMBER;
    if (i >= n) return;
    device const float *gate = gate_up + i / width * 2 * width + i % width;
    const float x = gate[0], up = gate[width];
    const float cubic = fma(x * x, 0.044715f, 1.0f);
    out[i] = x / (1.0f + exp_bits(x * -1.5957692f * cubic)) * up;
}

/// `out = cap * tanh(x / cap)`
kernel void softcap(device const float *x [[buffer(0)]], constant float &cap [[buffer(1)]],
                    constant ulong &n [[buffer(2)]], device float *out [[buffer(3)]], PLACE) {
    const ulong i = NUMBER;
    if (i < n) out[i] = soft_capped(x[i], cap);
}

/// `out = x + y`
kernel void add(device const float *x [[buffer(0)]], device const float *y [[buffer(1)]],
                constant ulong &n [[buffer(2)]], device float *out [[buffer(3)]], PLACE) {
    const ulong i = NUMBER;
    if (i < n) out[i] = x[i] + y[i];
}

/// Reads and writes 16 bytes a thread: what the memory can do at most.
kernel void copy_16(device const uint4 *from [[buffer(0)]], constant ulong &n [[buffer(1)]],
                    device uint4 *to [[buffer(2)]], PLACE) {
    const ulong i = NUMBER;
    if (i < n) to[i] = from[i];
}
