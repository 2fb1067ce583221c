//! Rows of floats to rows of blocks; the inverse is [`crate::kernels::dequantize_row`], and the layouts are those of
//! `kernels/blocks.rs`.
//!
//! Every weight counts alike: the squared error of the stored row is what is kept small.

use half::{bf16, f16};

use super::search::{Grid, best_scale, best_scale_and_min, round_within, squared_error, sums};
use crate::kernels::Format;

const BLOCK: usize = 32;
const SUPERBLOCK: usize = 256;

/// Stores `x`, finite and at most 65504 in magnitude, as a row of `format`.
///
/// # Panics
/// If `out` is not a row of `x.len()` values of `format`, or for a format with a table (IQ4_NL, IQ4_XS).
pub(super) fn encode_row(format: Format, x: &[f32], out: &mut [u8]) {
    assert_eq!(format.row_bytes(x.len()), Some(out.len()), "the row has another length");
    match format {
        Format::F32 => floats(x, out, f32::to_le_bytes),
        Format::F16 => floats(x, out, |x| f16::from_f32(x).to_le_bytes()),
        Format::BF16 => floats(x, out, |x| bf16::from_f32(x).to_le_bytes()),
        Format::Q8_0 => blocks(format, x, out, q8_0),
        Format::Q4_0 | Format::Q5_0 => blocks(format, x, out, |x, out| symmetric_block(format, x, out)),
        Format::Q4_1 | Format::Q5_1 => blocks(format, x, out, |x, out| affine_block(format, x, out)),
        Format::Q2_K => blocks(format, x, out, q2_k),
        Format::Q3_K => blocks(format, x, out, q3_k),
        Format::Q4_K | Format::Q5_K => blocks(format, x, out, |x, out| q4_k_or_q5_k(format, x, out)),
        Format::Q6_K => blocks(format, x, out, q6_k),
        Format::IQ4_NL | Format::IQ4_XS => panic!("{format:?} is not written"),
    }
}

fn floats<const N: usize>(x: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (out, x) in out.chunks_exact_mut(N).zip(x) {
        out.copy_from_slice(&bytes(*x));
    }
}

fn blocks<const N: usize>(format: Format, x: &[f32], out: &mut [u8], encode: impl Fn(&[f32; N], &mut [u8])) {
    let (x, _) = x.as_chunks();
    for (x, out) in x.iter().zip(out.chunks_exact_mut(format.block_bytes())) {
        encode(x, out);
    }
}

// ---- blocks of 32 with factors of their own ----

fn q8_0(x: &[f32; BLOCK], out: &mut [u8]) {
    let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let scale = put_f16(out, 0, largest / 127.0);
    let inverse = inverse(scale);
    for (out, x) in out[2..].iter_mut().zip(x) {
        *out = round_within(x * inverse, -127.0, 127.0) as i8 as u8;
    }
}

/// Q4_0 and Q5_0.
fn symmetric_block(format: Format, x: &[f32; BLOCK], out: &mut [u8]) {
    let (zero, grid) = match format {
        Format::Q4_0 => (8.0, Grid { beyond: 12, within: 4, step: 0.25, n_refinements: 3 }),
        _ => (16.0, Grid { beyond: 12, within: 4, step: 0.25, n_refinements: 3 }),
    };
    let (low, high) = (-zero, zero - 1.0);
    let scale = put_f16(out, 0, best_scale(x, low, high, grid));
    let inverse = inverse(scale);
    let q: [u8; BLOCK] = x.map(|x| (round_within(x * inverse, low, high) + zero) as u8);
    put_small_block(format, &q, out, 2);
}

/// Q4_1 and Q5_1.
fn affine_block(format: Format, x: &[f32; BLOCK], out: &mut [u8]) {
    let high = if format == Format::Q4_1 { 15.0 } else { 31.0 };
    // These have a minimum of either sign, so that the least value may as well be taken for zero.
    let least = x.iter().fold(f32::MAX, |least, &x| if x < least { x } else { least });
    let grid = Grid { beyond: 4, within: 12, step: 0.25, n_refinements: 3 };
    let (scale, min) = best_scale_and_min(&x.map(|x| x - least.max(0.0)), high, grid);
    let scale = put_f16(out, 0, scale);
    let min = put_f16(out, 2, least.max(0.0) - min);
    let inverse = inverse(scale);
    let q: [u8; BLOCK] = x.map(|x| round_within((x - min) * inverse, 0.0, high) as u8);
    put_small_block(format, &q, out, 4);
}

/// Nibbles, and before them the fifth bits of a format that has them.
fn put_small_block(format: Format, q: &[u8; BLOCK], out: &mut [u8], mut at: usize) {
    if matches!(format, Format::Q5_0 | Format::Q5_1) {
        let bits = q.iter().enumerate().fold(0u32, |bits, (l, q)| bits | u32::from(q >> 4) << l);
        out[at..at + 4].copy_from_slice(&bits.to_le_bytes());
        at += 4;
    }
    for (l, out) in out[at..at + 16].iter_mut().enumerate() {
        *out = (q[l] & 15) | (q[l + 16] & 15) << 4;
    }
}

// ---- superblocks of 256 with small whole numbers for factors ----

/// A superblock of `scale * q`, a scale for every 16 values.
struct Symmetric {
    d: f32,
    /// Scales in units of `d`.
    scales: [i32; 16],
    /// Without its zero point.
    q: [i32; SUPERBLOCK],
}

/// A superblock of `scale * q - min`, both for every `SUPERBLOCK / scales.len()` values.
struct Affine<const PARTS: usize> {
    d: f32,
    dmin: f32,
    /// Scales in units of `d`.
    scales: [i32; PARTS],
    /// Minima in units of `dmin`.
    mins: [i32; PARTS],
    q: [u8; SUPERBLOCK],
}

/// `q` from `-zero` to `zero - 1`, scales from `-scale_zero` to `scale_zero - 1`.
#[inline(always)]
fn symmetric(x: &[f32; SUPERBLOCK], zero: f32, scale_zero: f32, grid: Grid) -> Symmetric {
    let (low, high) = (-zero, zero - 1.0);
    let parts: &[[f32; 16]; 16] = as_parts(x);
    let wanted: [f32; 16] = std::array::from_fn(|j| best_scale(&parts[j], low, high, grid));
    let extreme = wanted.iter().fold(0.0f32, |most, &s| if s.abs() > most.abs() { s } else { most });
    let mut d = through_f16(-extreme / scale_zero);
    let mut best: Option<(f32, f32, [f32; 16])> = None;
    for _ in 0..N_FITS {
        let unit = inverse(d);
        let (mut error, mut scales) = (0.0, [0.0; 16]);
        for j in 0..16 {
            let near = round_within(wanted[j] * unit, -scale_zero, scale_zero - 1.0);
            let candidates = [near, near - 1.0, near + 1.0].map(|s| s.clamp(-scale_zero, scale_zero - 1.0));
            let with_error = candidates.map(|s| (s, squared_error(&parts[j], d * s, 0.0, low, high)));
            let least = least_error(with_error);
            scales[j] = least.0;
            error += least.1;
        }
        if best.is_some_and(|best| best.1 <= error) {
            break;
        }
        best = Some((d, error, scales));
        // The best d for these scales and numbers: a regression through the origin.
        let (mut xa, mut aa) = (0.0, 0.0);
        for j in 0..16 {
            let inverse = inverse(d * scales[j]);
            let [xq, qq] = sums(&parts[j], |x| {
                let q = round_within(x * inverse, low, high);
                [x * q, q * q]
            });
            xa += xq * scales[j];
            aa += qq * scales[j] * scales[j];
        }
        d = if aa > 0.0 { through_f16(xa / aa) } else { d };
    }
    let (d, _, scales) = best.unwrap_or((0.0, 0.0, [0.0; 16]));
    let mut q = [0; SUPERBLOCK];
    for (j, q) in q.chunks_exact_mut(16).enumerate() {
        let inverse = inverse(d * scales[j]);
        for (q, x) in q.iter_mut().zip(&parts[j]) {
            *q = round_within(x * inverse, low, high) as i32;
        }
    }
    Symmetric { d, scales: scales.map(|s| s as i32), q }
}

/// `q` from 0 to `high`, scales and minima from 0 to `factor_high`.
#[inline(always)]
fn affine<const PARTS: usize, const N: usize>(
    x: &[f32; SUPERBLOCK],
    high: f32,
    factor_high: f32,
    grid: Grid,
) -> Affine<PARTS> {
    let parts: &[[f32; N]; PARTS] = as_parts(x);
    let wanted: [(f32, f32); PARTS] = std::array::from_fn(|j| best_scale_and_min(&parts[j], high, grid));
    let most = |of: fn(&(f32, f32)) -> f32| wanted.iter().map(of).fold(0.0f32, f32::max);
    let mut d = through_f16(most(|w| w.0) / factor_high);
    let mut dmin = through_f16(most(|w| w.1) / factor_high);
    let mut best: Option<([f32; 2], f32, [[f32; 2]; PARTS])> = None;
    for _ in 0..N_FITS {
        let (unit, min_unit) = (inverse(d), inverse(dmin));
        let (mut error, mut factors) = (0.0, [[0.0; 2]; PARTS]);
        for j in 0..PARTS {
            let near = round_within(wanted[j].0 * unit, 0.0, factor_high);
            let near_min = round_within(wanted[j].1 * min_unit, 0.0, factor_high);
            let with_error = |s: f32, m: f32| {
                let (s, m) = (s.clamp(0.0, factor_high), m.clamp(0.0, factor_high));
                ([s, m], squared_error(&parts[j], d * s, dmin * m, 0.0, high))
            };
            // First the scale, then the minimum beside it.
            let least = least_error([0.0, -1.0, 1.0].map(|step| with_error(near + step, near_min)));
            let [scale, _] = least.0;
            let beside = [-1.0, 1.0].map(|step| with_error(scale, near_min + step));
            let least = least_error([least, beside[0], beside[1]]);
            factors[j] = least.0;
            error += least.1;
        }
        if best.is_some_and(|best| best.1 <= error) {
            break;
        }
        best = Some(([d, dmin], error, factors));
        (d, dmin) = refit(parts, d, dmin, &factors, high);
    }
    let ([d, dmin], _, factors) = best.unwrap_or(([0.0; 2], 0.0, [[0.0; 2]; PARTS]));
    let mut q = [0; SUPERBLOCK];
    for (j, q) in q.chunks_exact_mut(N).enumerate() {
        let ([scale, min], part) = (factors[j], &parts[j]);
        let inverse = inverse(d * scale);
        for (q, x) in q.iter_mut().zip(part) {
            *q = round_within((x + dmin * min) * inverse, 0.0, high) as u8;
        }
    }
    Affine { d, dmin, scales: factors.map(|f| f[0] as i32), mins: factors.map(|f| f[1] as i32), q }
}

/// The best `d` and `dmin` for the numbers that follow from the present ones: the regression of `x` on `scale * q` and
/// `-min`.
#[inline(always)]
fn refit<const PARTS: usize, const N: usize>(
    parts: &[[f32; N]; PARTS],
    d: f32,
    dmin: f32,
    factors: &[[f32; 2]; PARTS],
    high: f32,
) -> (f32, f32) {
    let (mut aa, mut ab, mut bb, mut xa, mut xb) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (part, [scale, min]) in parts.iter().zip(factors) {
        let inverse = inverse(d * scale);
        let [sum_x, q, qq, xq] = sums(part, |x| {
            let q = round_within((x + dmin * min) * inverse, 0.0, high);
            [x, q, q * q, x * q]
        });
        aa += scale * scale * qq;
        ab -= scale * min * q;
        bb += min * min * N as f32;
        xa += scale * xq;
        xb -= min * sum_x;
    }
    let determinant = aa * bb - ab * ab;
    if determinant > 0.0 {
        let (new_d, new_dmin) = ((xa * bb - xb * ab) / determinant, (xb * aa - xa * ab) / determinant);
        if new_d > 0.0 && new_dmin >= 0.0 {
            return (through_f16(new_d), through_f16(new_dmin));
        }
    } else if aa > 0.0 {
        return (through_f16(xa / aa), dmin);
    }
    (d, dmin)
}

/// How often the factors of a superblock are chosen, each time with a better `d`.
const N_FITS: usize = 2;

fn q6_k(x: &[f32; SUPERBLOCK], out: &mut [u8]) {
    let grid = Grid { beyond: 4, within: 2, step: 0.5, n_refinements: 2 };
    let block = symmetric(x, 32.0, 128.0, grid);
    out[..192].fill(0);
    for (i, q) in block.q.iter().enumerate() {
        let (q, j, l) = ((q + 32) as u8, i / BLOCK, i % BLOCK);
        out[j / 4 * 64 + j % 2 * BLOCK + l] |= (q & 15) << (4 * (j % 4 / 2));
        out[128 + j / 4 * BLOCK + l] |= (q >> 4) << (2 * (j % 4));
    }
    for (out, scale) in out[192..208].iter_mut().zip(block.scales) {
        *out = scale as i8 as u8;
    }
    put_f16(out, 208, block.d);
}

fn q3_k(x: &[f32; SUPERBLOCK], out: &mut [u8]) {
    let grid = Grid { beyond: 4, within: 2, step: 0.5, n_refinements: 2 };
    let block = symmetric(x, 4.0, 32.0, grid);
    out.fill(0);
    for (i, q) in block.q.iter().enumerate() {
        let (q, j, l) = ((q + 4) as u8, i / BLOCK, i % BLOCK);
        out[l] |= (q >> 2) << j;
        out[32 + j / 4 * BLOCK + l] |= (q & 3) << (2 * (j % 4));
    }
    for (h, scale) in block.scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        out[96 + h % 8] |= (scale & 15) << (4 * (h / 8));
        out[104 + h % 4] |= (scale >> 4) << (2 * (h / 4));
    }
    put_f16(out, 108, block.d);
}

fn q2_k(x: &[f32; SUPERBLOCK], out: &mut [u8]) {
    let grid = Grid { beyond: 4, within: 6, step: 0.125, n_refinements: 4 };
    let block: Affine<16> = affine::<16, 16>(x, 3.0, 15.0, grid);
    out.fill(0);
    for (out, (scale, min)) in out.iter_mut().zip(block.scales.iter().zip(block.mins)) {
        *out = *scale as u8 | (min as u8) << 4;
    }
    for (i, q) in block.q.iter().enumerate() {
        let (j, l) = (i / BLOCK, i % BLOCK);
        out[16 + j / 4 * BLOCK + l] |= q << (2 * (j % 4));
    }
    put_f16(out, 80, block.d);
    put_f16(out, 82, block.dmin);
}

fn q4_k_or_q5_k(format: Format, x: &[f32; SUPERBLOCK], out: &mut [u8]) {
    let is_q5 = format == Format::Q5_K;
    let grid = Grid { beyond: 4, within: 12, step: 0.25, n_refinements: 3 };
    let block: Affine<8> = affine::<8, 32>(x, if is_q5 { 31.0 } else { 15.0 }, 63.0, grid);
    out.fill(0);
    put_f16(out, 0, block.d);
    put_f16(out, 2, block.dmin);
    for j in 0..8 {
        let (scale, min) = (block.scales[j] as u8, block.mins[j] as u8);
        if j < 4 {
            out[4 + j] |= scale;
            out[8 + j] |= min;
        } else {
            out[8 + j] |= (scale & 15) | (min & 15) << 4;
            out[j] |= (scale >> 4) << 6;
            out[4 + j] |= (min >> 4) << 6;
        }
    }
    let nibbles = if is_q5 { 48 } else { 16 };
    for (i, q) in block.q.iter().enumerate() {
        let (j, l) = (i / BLOCK, i % BLOCK);
        out[nibbles + j / 2 * BLOCK + l] |= (q & 15) << (4 * (j % 2));
        if is_q5 {
            out[16 + l] |= (q >> 4) << j;
        }
    }
}

fn as_parts<const N: usize, const PARTS: usize>(x: &[f32; SUPERBLOCK]) -> &[[f32; N]; PARTS] {
    let (parts, rest) = x.as_chunks();
    debug_assert!(rest.is_empty());
    parts.try_into().expect("the parts make a superblock")
}

/// The first of those with the least error.
fn least_error<T: Copy, const N: usize>(candidates: [(T, f32); N]) -> (T, f32) {
    candidates.into_iter().reduce(|a, b| if b.1 < a.1 { b } else { a }).expect("some candidates")
}

/// 0 for 0: what has no scale becomes zero.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// What an f16 holds of a unit of scales: never 0, unless all scales are.
fn through_f16(x: f32) -> f32 {
    let rounded = f16::from_f32(x);
    if rounded.to_f32() == 0.0 && x != 0.0 {
        return f16::from_bits(1).to_f32().copysign(x);
    }
    rounded.to_f32()
}

/// Stores an f16, and gives what was stored.
fn put_f16(out: &mut [u8], at: usize, x: f32) -> f32 {
    let x = f16::from_f32(x);
    out[at..at + 2].copy_from_slice(&x.to_le_bytes());
    x.to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::dequantize_row;

    const FORMATS: [Format; 10] = [
        Format::Q8_0,
        Format::Q6_K,
        Format::Q5_K,
        Format::Q5_1,
        Format::Q5_0,
        Format::Q4_K,
        Format::Q4_1,
        Format::Q4_0,
        Format::Q3_K,
        Format::Q2_K,
    ];

    /// Roughly Gaussian; with `tails`, one value in 64 is ten times as large.
    fn data(n: usize, tails: bool) -> Vec<f32> {
        let mut state = 0x1234_5678_9abc_def1_u64;
        let mut uniform = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u32 << 24) as f32
        };
        (0..n)
            .map(|_| {
                let gaussian = (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
                gaussian * if tails && uniform() < 1.0 / 64.0 { 0.2 } else { 0.02 }
            })
            .collect()
    }

    fn decoded(format: Format, x: &[f32]) -> Vec<f32> {
        let mut row = vec![0xaa; format.row_bytes(x.len()).unwrap()];
        encode_row(format, x, &mut row);
        let mut out = vec![f32::NAN; x.len()];
        dequantize_row(format, &row, &mut out);
        out
    }

    fn relative_rms(x: &[f32], y: &[f32]) -> f64 {
        let square = |f: &dyn Fn(usize) -> f32| (0..x.len()).map(|i| f64::from(f(i)).powi(2)).sum::<f64>();
        (square(&|i| x[i] - y[i]) / square(&|i| x[i])).sqrt()
    }

    #[test]
    fn errors_are_those_of_a_good_search() {
        // Relative rms of Gaussian data and of data with tails: as measured. `scripts/bench/quantize_error.py` holds
        // such figures against llama.cpp's.
        let expected: [(f64, f64); 10] = [
            (0.0053, 0.0098),
            (0.0166, 0.0273),
            (0.0341, 0.0458),
            (0.0328, 0.0442),
            (0.0390, 0.0738),
            (0.0691, 0.0932),
            (0.0684, 0.0917),
            (0.0785, 0.1459),
            (0.1412, 0.1854),
            (0.2625, 0.2651),
        ];
        for (format, expected) in FORMATS.into_iter().zip(expected) {
            for (tails, most) in [(false, expected.0), (true, expected.1)] {
                let x = data(256 * 64, tails);
                let error = relative_rms(&x, &decoded(format, &x));
                assert!(error <= most, "{format:?}, tails {tails}: {error}");
            }
        }
    }

    #[test]
    fn zeros_constants_and_extremes_survive() {
        for format in FORMATS {
            assert!(decoded(format, &[0.0; 512]).iter().all(|x| *x == 0.0), "{format:?}");
            for constant in [-3.0f32, 1e-4, 65504.0, -65504.0] {
                let y = decoded(format, &[constant; 256]);
                // 1e-4 is near the end of what f16 units can express.
                assert!(relative_rms(&[constant; 256], &y) < 0.04, "{format:?} {constant}: {}", y[0]);
            }
            // Too small for an f16 scale: zero at worst.
            let tiny = data(256, false).iter().map(|x| x * 1e-8).collect::<Vec<f32>>();
            assert!(decoded(format, &tiny).iter().all(|y| y.abs() < 1e-6), "{format:?}");
            let mut one = [0.0; 256];
            one[77] = -1.5;
            assert!((decoded(format, &one)[77] + 1.5).abs() < 0.03, "{format:?}");
        }
    }

    #[test]
    fn floats_are_rounded_to_the_nearest() {
        let x = data(64, true);
        assert_eq!(decoded(Format::F32, &x), x);
        assert!(decoded(Format::F16, &x).iter().zip(&x).all(|(y, x)| *y == f16::from_f32(*x).to_f32()));
        assert!(decoded(Format::BF16, &x).iter().zip(&x).all(|(y, x)| *y == bf16::from_f32(*x).to_f32()));
    }

    #[test]
    fn what_was_decoded_is_stored_again_without_loss_where_factors_are_free() {
        for format in [Format::Q8_0, Format::Q4_0, Format::Q5_0] {
            let once = decoded(format, &data(1024, true));
            let error = relative_rms(&once, &decoded(format, &once));
            assert!(error < 1e-3, "{format:?} {error}");
        }
    }
}
