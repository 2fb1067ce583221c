//! The definition of every kernel, in plain Rust. The other files compute the same bits with other instructions.
//!
//! Two things make "the same bits" possible whatever the width of the machine and the number of columns:
//! - integer sums are exact, and only they are cut differently on different machines;
//! - every float sum has a fixed number of running sums, 8 in a product with quantized weights (one for each block of a
//!   superblock) and 16 elsewhere (element `i` goes to sum `i % 16`), each a chain of fused multiply-adds in ascending
//!   order, folded in halves at the end ([`fold`]).

use std::ops::Range;

use half::{bf16, f16};

use super::attention::{AttentionState, KEY_BLOCK, Span};
use super::blocks::{BLOCK, Format, IQ4_TABLE, LANES, SUPERBLOCK, scales_and_mins_k4, scales_iq4_xs, scales_q3};
use super::interleaved::deinterleave;
use super::q8::{Q8Row, Q8RowMut, Q8Rows, SMALLEST_ABSMAX};
use super::{Table, TileMut, WeightRows};

pub(super) static TABLE: Table = Table {
    quantize_row,
    matmul_q8,
    matmul_interleaved,
    matmul_f32,
    rms_norm,
    gelu_tanh_mul,
    softcap,
    rope,
    add,
    add_scaled,
    scale,
    f32_to_f16,
    attend,
    attend_f32: attend,
    attend_finish,
};

/// Running sums of a float dot product.
pub(super) const SUMS: usize = 16;

/// Folds the running sums in halves: `sums[i] + sums[i + n / 2]`, and again until one is left. The last addition makes
/// a negative zero positive, so that it does not matter whether a row was padded with zeros.
pub(super) fn fold<const N: usize>(mut sums: [f32; N]) -> f32 {
    let mut n = N;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            sums[i] += sums[i + n];
        }
    }
    sums[0] + 0.0
}

// ---- quantized products ----

/// A superblock of any quantized format in the common form of [`super::blocks`].
#[derive(Clone, Debug)]
pub(super) struct Superblock {
    pub q: [u8; SUPERBLOCK],
    /// `[half][block]`; formats with one scale in a block use `scale[0]` only.
    pub scale: [[f32; LANES]; 2],
    /// `[half][block]`, likewise.
    pub min: [[f32; LANES]; 2],
}

impl Superblock {
    pub fn zero() -> Self {
        Superblock { q: [0; SUPERBLOCK], scale: [[0.0; LANES]; 2], min: [[0.0; LANES]; 2] }
    }
}

/// For each block of 32: `scale = absmax / 127`, `q = round(x * (127 / absmax))` with ties to even.
fn quantize_row(x: &[f32], mut row: Q8RowMut<'_>) {
    for (b, x) in x.chunks_exact(BLOCK).enumerate() {
        // As integers the magnitudes of floats have the same order, with infinity and NaN on top.
        let absmax = x.iter().map(|x| x.abs().to_bits()).max().map_or(0.0, f32::from_bits);
        if !(SMALLEST_ABSMAX..f32::INFINITY).contains(&absmax) {
            row.set_without_values(b, absmax);
            continue;
        }
        let inverse = 127.0 / absmax;
        let q: [i8; BLOCK] = std::array::from_fn(|i| (x[i] * inverse).round_ties_even() as i8);
        let sum = |q: &[i8]| q.iter().map(|&q| i32::from(q)).sum();
        row.set(b, &q, absmax / 127.0, sum(&q[..16]), sum(&q[16..]));
    }
    row.clear_padding();
}

/// `out[c][r] = dot(weights[r], acts[c])`: see [`dot_q8`].
fn matmul_q8(weights: &WeightRows<'_>, acts: &Q8Rows, out: &mut TileMut<'_>) {
    let superblocks = acts.padded_blocks() / LANES;
    let mut unpacked = vec![Superblock::zero(); superblocks];
    let columns: Vec<Q8Row> = (0..acts.n()).map(|c| acts.copy_of_row(c)).collect();
    for r in 0..weights.n {
        for (s, unpacked) in unpacked.iter_mut().enumerate() {
            unpack_superblock(weights.format, weights.row(r), s, unpacked);
        }
        for (c, acts) in columns.iter().enumerate() {
            out.row_mut(c)[r] = dot_q8(weights.format, &unpacked, acts);
        }
    }
}

/// The same of strips: they become rows again.
fn matmul_interleaved(weights: &WeightRows<'_>, acts: &Q8Rows, out: &mut TileMut<'_>) {
    let mut rows = vec![0; weights.bytes.len()];
    deinterleave(weights.format, weights.k, weights.bytes, &mut rows);
    matmul_q8(&WeightRows { bytes: &rows, ..*weights }, acts, out);
}

/// The dot product of a quantized row with quantized activations. With `b` running over the blocks of the row,
///
/// ```text
/// isum[h] = sum over half h of (q_w - Z) * q_a                          exact, in i32
/// t       = isum[0] * scale[0]                                          one scale in a block
/// t       = fma(isum[1], scale[1], isum[0] * scale[0])                  two
/// sum[b % 8] = fma(t, scale_a, sum[b % 8])
/// sum[b % 8] = fma(min[0], scale_a * -sum_a, sum[b % 8])                formats with one min in a block
/// sum[b % 8] = fma(min[h], scale_a * -sum_a[h], sum[b % 8]), h = 0, 1   two
/// dot = fold(sum)
/// ```
///
/// The integer sums are below 16 * 255 * 127 * 2 < 2^20 in magnitude, so f32 holds them exactly.
fn dot_q8(format: Format, weights: &[Superblock], acts: &Q8Row) -> f32 {
    let Some(coding) = format.coding() else {
        return f32::NAN;
    };
    let mut sums = [0.0f32; LANES];
    for (s, w) in weights.iter().enumerate() {
        for (j, total) in sums.iter_mut().enumerate() {
            let b = s * LANES + j;
            let isum = |half: std::ops::Range<usize>| -> f32 {
                let q_w = &w.q[j * BLOCK..][half.clone()];
                let q_a = &acts.q[b * BLOCK..][half];
                let products = q_w.iter().zip(q_a).map(|(&w, &a)| (i32::from(w) - coding.zero_point) * i32::from(a));
                products.sum::<i32>() as f32
            };
            let t = if coding.scales == 1 {
                isum(0..32) * w.scale[0][j]
            } else {
                isum(16..32).mul_add(w.scale[1][j], isum(0..16) * w.scale[0][j])
            };
            *total = t.mul_add(acts.scale[b], *total);
            match coding.mins {
                0 => {}
                1 => *total = w.min[0][j].mul_add(acts.minus_scaled[b], *total),
                _ => {
                    let low = acts.scale[b] * acts.minus_low[b] as f32;
                    let high = acts.scale[b] * acts.minus_high[b] as f32;
                    *total = w.min[0][j].mul_add(low, *total);
                    *total = w.min[1][j].mul_add(high, *total);
                }
            }
        }
    }
    fold(sums)
}

/// Unpacks superblock `s` of a row. Blocks that the row does not have become zero.
pub(super) fn unpack_superblock(format: Format, row: &[u8], s: usize, out: &mut Superblock) {
    let bytes = format.superblock_bytes();
    let start = s * bytes;
    let block = &row[start..row.len().min(start + bytes)];
    match format {
        Format::Q2_K => unpack_q2_k(block, out),
        Format::Q3_K => unpack_q3_k(block, out),
        Format::Q4_K | Format::Q5_K => unpack_q4_k_or_q5_k(block, format == Format::Q5_K, out),
        Format::Q6_K => unpack_q6_k(block, out),
        Format::IQ4_XS => unpack_iq4_xs(block, out),
        _ => {
            *out = Superblock::zero();
            let blocks = block.chunks_exact(format.block_bytes());
            for (j, block) in blocks.enumerate() {
                let q = &mut out.q[j * BLOCK..][..BLOCK];
                (out.scale[0][j], out.min[0][j]) = unpack_small_block(format, block, q);
            }
        }
    }
}

/// A block of 32 with its own f16 scale; returns scale and min.
fn unpack_small_block(format: Format, block: &[u8], q: &mut [u8]) -> (f32, f32) {
    let scale = f16_at(block, 0);
    let mut min = 0.0;
    match format {
        Format::Q4_0 => unpack_nibbles(&block[2..], q),
        Format::Q4_1 => {
            min = -f16_at(block, 2);
            unpack_nibbles(&block[4..], q);
        }
        Format::Q5_0 => {
            unpack_nibbles(&block[6..], q);
            add_fifth_bits(&block[2..6], q);
        }
        Format::Q5_1 => {
            min = -f16_at(block, 2);
            unpack_nibbles(&block[8..], q);
            add_fifth_bits(&block[4..8], q);
        }
        Format::IQ4_NL => {
            unpack_nibbles(&block[2..], q);
            q.iter_mut().for_each(|q| *q = IQ4_TABLE[*q as usize]);
        }
        // Q8_0
        _ => {
            for (q, byte) in q.iter_mut().zip(&block[2..]) {
                *q = byte ^ 0x80;
            }
        }
    }
    (scale, min)
}

fn unpack_nibbles(bytes: &[u8], q: &mut [u8]) {
    for (l, byte) in bytes[..16].iter().enumerate() {
        q[l] = byte & 0x0f;
        q[l + 16] = byte >> 4;
    }
}

fn add_fifth_bits(bytes: &[u8], q: &mut [u8]) {
    for (l, q) in q.iter_mut().enumerate() {
        *q |= (bytes[l / 8] >> (l % 8) & 1) << 4;
    }
}

fn unpack_q2_k(block: &[u8], out: &mut Superblock) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for j in 0..LANES {
        for half in 0..2 {
            let packed = block[2 * j + half];
            out.scale[half][j] = d * f32::from(packed & 0x0f);
            out.min[half][j] = dmin * f32::from(packed >> 4);
        }
        for l in 0..BLOCK {
            out.q[j * BLOCK + l] = block[16 + j / 4 * BLOCK + l] >> (2 * (j % 4)) & 3;
        }
    }
}

fn unpack_q3_k(block: &[u8], out: &mut Superblock) {
    let d = f16_at(block, 108);
    let scales = scales_q3(&array_at(block, 96));
    for j in 0..LANES {
        for half in 0..2 {
            out.scale[half][j] = d * f32::from(scales[2 * j + half]);
        }
        for l in 0..BLOCK {
            let low = block[32 + j / 4 * BLOCK + l] >> (2 * (j % 4)) & 3;
            let high = block[l] >> j & 1;
            out.q[j * BLOCK + l] = low | high << 2;
        }
    }
}

fn unpack_q4_k_or_q5_k(block: &[u8], q5: bool, out: &mut Superblock) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, mins) = scales_and_mins_k4(&array_at(block, 4));
    let nibbles = if q5 { &block[48..] } else { &block[16..] };
    for j in 0..LANES {
        out.scale[0][j] = d * f32::from(scales.to_le_bytes()[j]);
        out.min[0][j] = dmin * f32::from(mins.to_le_bytes()[j]);
        for l in 0..BLOCK {
            let low = nibbles[j / 2 * BLOCK + l] >> (4 * (j % 2)) & 0x0f;
            let high = if q5 { block[16 + l] >> j & 1 } else { 0 };
            out.q[j * BLOCK + l] = low | high << 4;
        }
    }
}

fn unpack_q6_k(block: &[u8], out: &mut Superblock) {
    let d = f16_at(block, 208);
    for j in 0..LANES {
        for half in 0..2 {
            out.scale[half][j] = d * f32::from(block[192 + 2 * j + half] as i8);
        }
        // Blocks 0 and 1 of each four use the low, 2 and 3 the high halves of the same 64 bytes.
        let low_bits = &block[j / 4 * 64 + j % 2 * BLOCK..];
        let high_bits = &block[128 + j / 4 * BLOCK..];
        for l in 0..BLOCK {
            let low = low_bits[l] >> (4 * (j % 4 / 2)) & 0x0f;
            let high = high_bits[l] >> (2 * (j % 4)) & 3;
            out.q[j * BLOCK + l] = low | high << 4;
        }
    }
}

fn unpack_iq4_xs(block: &[u8], out: &mut Superblock) {
    let d = f16_at(block, 0);
    let scales = scales_iq4_xs(u16::from_le_bytes(array_at(block, 2)), &array_at(block, 4)).to_le_bytes();
    for j in 0..LANES {
        out.scale[0][j] = d * f32::from(scales[j] as i8);
        let q = &mut out.q[j * BLOCK..][..BLOCK];
        unpack_nibbles(&block[8 + 16 * j..], q);
        q.iter_mut().for_each(|q| *q = IQ4_TABLE[*q as usize]);
    }
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes(array_at(bytes, at)).to_f32()
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

// ---- decoding and float products ----

/// Decodes a row exactly as ggml does: `d * sc * q - dmin * m` in this order, without fusing.
pub(super) fn dequantize_row(format: Format, row: &[u8], out: &mut [f32]) {
    match format {
        Format::F32 => {
            for (out, bytes) in out.iter_mut().zip(row.chunks_exact(4)) {
                *out = f32::from_le_bytes(array_at(bytes, 0));
            }
        }
        Format::F16 => {
            for (out, bytes) in out.iter_mut().zip(row.chunks_exact(2)) {
                *out = f16_at(bytes, 0);
            }
        }
        Format::BF16 => {
            for (out, bytes) in out.iter_mut().zip(row.chunks_exact(2)) {
                *out = bf16::from_le_bytes(array_at(bytes, 0)).to_f32();
            }
        }
        _ => {
            let Some(coding) = format.coding() else {
                return;
            };
            let mut unpacked = Superblock::zero();
            for (s, out) in out.chunks_mut(SUPERBLOCK).enumerate() {
                unpack_superblock(format, row, s, &mut unpacked);
                for (i, out) in out.iter_mut().enumerate() {
                    let (j, half) = (i / BLOCK, i % BLOCK / 16);
                    let q = (i32::from(unpacked.q[i]) - coding.zero_point) as f32;
                    let scaled = unpacked.scale[half.min(coding.scales - 1)][j] * q;
                    *out = match coding.mins {
                        0 => scaled,
                        mins => scaled - unpacked.min[half.min(mins - 1)][j],
                    };
                }
            }
        }
    }
}

/// `out[c][r] = dot(decoded weights[r], acts[c])`, see [`dot_f32`]. `acts` is `[n_cols, k]`.
pub(super) fn matmul_f32(weights: &WeightRows<'_>, acts: &[f32], out: &mut TileMut<'_>) {
    let k = weights.k;
    let mut decoded = vec![0.0; k];
    for r in 0..weights.n {
        dequantize_row(weights.format, weights.row(r), &mut decoded);
        for (c, acts) in acts.chunks_exact(k).enumerate() {
            out.row_mut(c)[r] = dot_f32(&decoded, acts);
        }
    }
}

/// `sum[i % 16] = fma(x[i], y[i], sum[i % 16])` for ascending `i`; the result is `fold(sum)`.
pub(super) fn dot_f32(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0f32; SUMS];
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        sums[i % SUMS] = x.mul_add(*y, sums[i % SUMS]);
    }
    fold(sums)
}

// ---- element by element ----

/// `out = x * (1 / sqrt(mean(x^2) + eps)) * weight`
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let inverse = inverse_rms(dot_f32(x, x), x.len(), eps);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * inverse * weight;
    }
}

pub(super) fn inverse_rms(sum_of_squares: f32, n: usize, eps: f32) -> f32 {
    1.0 / (sum_of_squares / n as f32 + eps).sqrt()
}

/// `out = gelu(gate) * up`. With the tanh approximation, `gelu(x) = x * (1 + tanh(u)) / 2` where
/// `u = sqrt(2 / pi) * (x + 0.044715 x^3)`, which is `x / (1 + exp(-2u))`: exact also where `1 + tanh` would cancel.
pub(super) fn gelu_tanh_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &x), up) in out.iter_mut().zip(gate).zip(up) {
        let cubic = (x * x).mul_add(GELU_CUBIC, 1.0);
        *out = x / (1.0 + exp(x * GELU_LINEAR * cubic)) * up;
    }
}

/// `-2 sqrt(2 / pi)`
pub(super) const GELU_LINEAR: f32 = -1.595_769_2;
pub(super) const GELU_CUBIC: f32 = 0.044_715;

/// `x = cap * tanh(x / cap)`
pub(super) fn softcap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = soft_capped(*x, cap);
    }
}

pub(super) fn soft_capped(x: f32, cap: f32) -> f32 {
    tanh(x / cap) * cap
}

/// Turns pair `j`, `j + d / 2` of one head's values by the angle whose cosine and sine are given for each `j`.
pub(super) fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = x.split_at_mut(cos.len());
    for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = (-y).mul_add(*sin, x * cos);
        *b = x.mul_add(*sin, y * cos);
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `x = fma(y, factor, x)`
pub(super) fn add_scaled(x: &mut [f32], y: &[f32], factor: f32) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x = y.mul_add(factor, *x));
}

fn scale(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|x| *x *= factor);
}

pub(super) fn f32_to_f16(x: &[f32], out: &mut [f16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = f16::from_f32(*x);
    }
}

// ---- attention ----

/// Online softmax over one span of keys and values, block by block of at most 32 absolute positions. For each query
///
/// ```text
/// s[i] = cap(dot(q, k[i]) * scale)                 for the block's keys; the dot as in dot_f32, widened
/// m'   = max(m, max s),  c = exp(m - m')
/// p[i] = exp(s[i] - m'), 0 beyond the block's end
/// l    = fma(l, c, fold over 16 of p[i] + p[i + 16])
/// acc  = acc * c, then acc = fma(p[i], v[i], acc) for ascending i
/// ```
pub(super) fn attend<E: Copy + Into<f32>>(
    state: &mut AttentionState,
    which: Range<usize>,
    queries: &[f32],
    span: &Span<'_, E>,
) {
    let d = state.head_dim;
    let n_keys = span.keys.len() / d;
    let mut decoded = vec![0.0; d];
    let mut start = 0;
    while start < n_keys {
        let end = span.block_end(start, n_keys);
        for h in which.clone() {
            let query = &queries[h * d..][..d];
            let mut scores = [f32::NEG_INFINITY; KEY_BLOCK];
            for (score, i) in scores.iter_mut().zip(start..end) {
                widen(&span.keys[i * d..][..d], &mut decoded);
                *score = dot_f32(query, &decoded) * span.scale;
                if let Some(cap) = span.softcap {
                    *score = soft_capped(*score, cap);
                }
            }
            let Some(correction) = state.weigh(h, &mut scores, exp) else {
                continue;
            };
            let acc = &mut state.acc[h * d..][..d];
            acc.iter_mut().for_each(|acc| *acc *= correction);
            for (p, i) in scores.iter().zip(start..end) {
                widen(&span.values[i * d..][..d], &mut decoded);
                for (acc, v) in acc.iter_mut().zip(&decoded) {
                    *acc = p.mul_add(*v, *acc);
                }
            }
        }
        start = end;
    }
}

/// `out = acc * (1 / l)`
pub(super) fn attend_finish(state: &AttentionState, out: &mut [f32]) {
    for (h, out) in out.chunks_exact_mut(state.head_dim).enumerate() {
        let inverse = 1.0 / state.sum[h];
        let acc = &state.acc[h * state.head_dim..];
        for (out, acc) in out.iter_mut().zip(acc) {
            *out = acc * inverse;
        }
    }
}

fn widen<E: Copy + Into<f32>>(x: &[E], out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = (*x).into());
}

// ---- functions of one number ----

/// `e^x` within 1.5 ulp. Below -87.3, where the result would not be a normal number, 0; above 88.3, infinity.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; a polynomial gives `e^r` (coefficients of Cephes' `expf`) and the exponent
/// bits give `2^n`. Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
pub(super) fn exp(x: f32) -> f32 {
    if x < EXP_MIN {
        return 0.0;
    }
    if x > EXP_MAX {
        return f32::INFINITY;
    }
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut p = EXP_POLYNOMIAL[0];
    for coefficient in &EXP_POLYNOMIAL[1..] {
        p = p.mul_add(r, *coefficient);
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(EXP_BIAS) << 23);
    (r * r).mul_add(p, r + 1.0) * power
}

pub(super) const EXP_MIN: f32 = -87.33;
pub(super) const EXP_MAX: f32 = 88.3;
pub(super) const ROUNDER: f32 = 12_582_912.0;
pub(super) const EXP_BIAS: u32 = 127u32.wrapping_sub(ROUNDER.to_bits());
pub(super) const LN_2_HIGH: f32 = 0.693_359_4;
pub(super) const LN_2_LOW: f32 = -2.121_944_4e-4;
pub(super) const EXP_POLYNOMIAL: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5];

/// `tanh(x)` within about 2 ulp: `x + x^3 p(x^2)` below 0.625 (coefficients of Cephes' `tanhf`), else
/// `1 - 2 / (exp(2|x|) + 1)` with the sign of `x`.
pub(super) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    if magnitude < TANH_SMALL {
        let square = x * x;
        let mut p = TANH_POLYNOMIAL[0];
        for coefficient in &TANH_POLYNOMIAL[1..] {
            p = p.mul_add(square, *coefficient);
        }
        return (p * square).mul_add(x, x);
    }
    (1.0 - 2.0 / (exp(magnitude + magnitude) + 1.0)).copysign(x)
}

pub(super) const TANH_SMALL: f32 = 0.625;
pub(super) const TANH_POLYNOMIAL: [f32; 5] =
    [-5.704_988_7e-3, 2.063_908_8e-2, -5.373_971_5e-2, 1.333_144_2e-1, -3.333_328e-1];
