//! Every implementation against the scalar one, bit for bit; the scalar one against arithmetic in f64.

use super::scalar::{exp, tanh};
use super::*;

/// A small generator of reproducible test data (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn bits(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }

    /// Uniform in -1..1.
    fn unit(&mut self) -> f32 {
        self.bits() as f32 / (1u64 << 31) as f32 - 1.0
    }

    fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.unit() * scale).collect()
    }
}

/// Where the f16 numbers of a block lie.
fn f16_offsets(format: Format) -> &'static [usize] {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => &[],
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::IQ4_NL | Format::IQ4_XS => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
    }
}

/// Rows of random blocks whose scales are at most `scale`.
fn random_weights(random: &mut Random, format: Format, k: usize, n: usize, scale: f32) -> Vec<u8> {
    let bytes = format.row_bytes(k).unwrap() * n;
    match format {
        Format::F32 => (0..n * k).flat_map(|_| (random.unit() * scale).to_le_bytes()).collect(),
        Format::F16 => (0..n * k).flat_map(|_| f16::from_f32(random.unit() * scale).to_le_bytes()).collect(),
        Format::BF16 => (0..n * k).flat_map(|_| half::bf16::from_f32(random.unit() * scale).to_le_bytes()).collect(),
        _ => {
            let mut weights: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
            for block in weights.chunks_exact_mut(format.block_bytes()) {
                for &at in f16_offsets(format) {
                    let d = f16::from_f32(random.unit() * scale);
                    block[at..at + 2].copy_from_slice(&d.to_le_bytes());
                }
            }
            weights
        }
    }
}

fn quantized(kernels: &Kernels, x: &[f32], k: usize) -> Q8Rows {
    let mut acts = Q8Rows::new();
    acts.resize(x.len() / k, k);
    for (row, x) in acts.rows_mut().zip(x.chunks_exact(k)) {
        kernels.quantize_row(x, row);
    }
    acts
}

/// Equal bits, any NaN being as good as another.
#[track_caller]
fn assert_same(got: &[f32], expected: &[f32], what: &dyn std::fmt::Display) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
        assert!(same, "{what}: element {i} is {got:e}, not {expected:e}");
    }
}

fn scalar() -> &'static Kernels {
    Kernels::new(Isa::Scalar).unwrap()
}

fn quantized_formats() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|f| f.is_quantized())
}

/// Row lengths worth a test, of those that the format allows.
fn row_lengths(format: Format) -> impl Iterator<Item = usize> {
    [32, 64, 96, 256, 288, 512, 768, 2304].into_iter().filter(move |k| format.row_bytes(*k).is_some())
}

#[test]
fn rows_decode_to_the_bits_that_ggml_decodes_them_to() {
    // Made by scripts/dequantize-fixture.
    let mut fixture: &[u8] = include_bytes!("../../tests/fixtures/kernels/dequantize.bin");
    let mut take = |n: usize| fixture.split_off(..n).unwrap();
    for format in quantized_formats() {
        let row = take(format.row_bytes(512).unwrap());
        let expected: Vec<f32> =
            take(512 * 4).chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        let mut decoded = vec![0.0; 512];
        dequantize_row(format, row, &mut decoded);
        assert_same(&decoded, &expected, &format!("{format:?}"));
    }
    assert!(fixture.is_empty());
}

#[test]
fn quantized_products_are_close_to_the_decoded_weights_in_f64() {
    let mut random = Random::new(1);
    for format in quantized_formats() {
        for k in row_lengths(format) {
            let weights = random_weights(&mut random, format, k, 3, 0.01);
            let x = random.floats(2 * k, 3.0);
            let acts = quantized(scalar(), &x, k);
            let mut out = vec![0.0; 2 * 3];
            scalar().matmul_q8(format, &weights, k, 0..3, &acts, &mut TileMut::whole(&mut out, 3));
            let mut decoded = vec![0.0; k];
            for (r, row) in weights.chunks_exact(weights.len() / 3).enumerate() {
                dequantize_row(format, row, &mut decoded);
                for c in 0..2 {
                    let acts = acts.copy_of_row(c);
                    let (mut dot, mut magnitude) = (0.0f64, 0.0f64);
                    for (i, w) in decoded.iter().enumerate() {
                        let a = f64::from(acts.scale[i / 32]) * f64::from(acts.q[i]);
                        let error = f64::from(x[c * k + i]) - a;
                        assert!(error.abs() <= f64::from(acts.scale[i / 32]) * 0.501);
                        dot += f64::from(*w) * a;
                        magnitude += (f64::from(*w) * a).abs();
                    }
                    let error = (f64::from(out[c * 3 + r]) - dot).abs();
                    assert!(error <= 2e-6 * magnitude, "{format:?}, k {k}: off by {error:e} of {magnitude:e}");
                }
            }
        }
    }
}

#[test]
fn float_products_are_close_to_f64() {
    let mut random = Random::new(2);
    for format in Format::ALL {
        for k in row_lengths(format) {
            let weights = random_weights(&mut random, format, k, 3, 0.01);
            let x = random.floats(2 * k, 3.0);
            let mut out = vec![0.0; 6];
            scalar().matmul_f32(format, &weights, k, 0..3, &x, &mut TileMut::whole(&mut out, 3));
            let mut decoded = vec![0.0; k];
            for (r, row) in weights.chunks_exact(weights.len() / 3).enumerate() {
                dequantize_row(format, row, &mut decoded);
                for c in 0..2 {
                    let products = decoded.iter().zip(&x[c * k..]);
                    let products = products.map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let magnitude: f64 = products.clone().map(f64::abs).sum();
                    let error = (f64::from(out[c * 3 + r]) - products.sum::<f64>()).abs();
                    assert!(error <= 1e-6 * magnitude, "{format:?}, k {k}");
                }
            }
        }
    }
}

/// Largest error of `f` on `range` in units of the last place of the result.
fn worst_ulp(range: std::ops::Range<f32>, f: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
    let step = (range.end - range.start) / 400_000.0;
    (0..400_000)
        .map(|i| {
            let x = range.start + i as f32 * step;
            let expected = exact(f64::from(x));
            let ulp = f64::from((expected as f32).abs().next_up() - (expected as f32).abs());
            (f64::from(f(x)) - expected).abs() / ulp
        })
        .fold(0.0, f64::max)
}

#[test]
fn exp_and_tanh_are_accurate_to_the_last_places() {
    let exp_error = worst_ulp(-87.3..88.2, exp, f64::exp);
    assert!(exp_error < 1.5, "{exp_error}");
    let tanh_error = worst_ulp(-10.0..10.0, tanh, f64::tanh);
    assert!(tanh_error < 2.5, "{tanh_error}");
}

#[test]
fn exp_and_tanh_are_defined_at_the_ends() {
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(exp(0.0), 1.0);
    assert!(exp(f32::NAN).is_nan());
    assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
    assert_eq!(tanh(f32::INFINITY), 1.0);
    assert_eq!(tanh(-0.0), 0.0);
    assert!(tanh(f32::NAN).is_nan());
}

#[test]
fn gelu_is_accurate_also_where_it_is_nearly_zero() {
    let gelu = |x: f64| {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        x / (1.0 + (-2.0 * u).exp())
    };
    for i in -4000..4000 {
        let x = i as f32 / 500.0;
        let mut out = [0.0];
        scalar().gelu_tanh_mul(&[x], &[1.0], &mut out);
        let expected = gelu(f64::from(x));
        // The roundings of exp's argument are multiplied by its size, up to 48 here.
        let tolerance = 1e-5 * expected.abs() + 1e-30;
        assert!((f64::from(out[0]) - expected).abs() <= tolerance, "gelu({x})");
    }
}

#[test]
fn attention_equals_a_plain_softmax() {
    let mut random = Random::new(5);
    let f16s = |x: Vec<f32>| -> Vec<f16> { x.into_iter().map(f16::from_f32).collect() };
    for (n_keys, d, softcap) in [(1, 16, None), (33, 64, Some(50.0)), (100, 256, Some(5.0))] {
        let queries = random.floats(2 * d, 2.0);
        let keys = f16s(random.floats(n_keys * d, 2.0));
        let values = f16s(random.floats(n_keys * d, 2.0));
        let mut state = AttentionState::new();
        state.reset(2, d);
        let span = Span { keys: &keys, values: &values, first_position: 7, scale: 0.25, softcap };
        scalar().attend(&mut state, 0..2, &queries, &span);
        let mut out = vec![0.0; 2 * d];
        scalar().attend_finish(&state, &mut out);
        for h in 0..2 {
            let scores: Vec<f64> = (0..n_keys)
                .map(|i| {
                    let dot: f64 = (0..d).map(|j| f64::from(queries[h * d + j]) * keys[i * d + j].to_f64()).sum();
                    match softcap {
                        Some(cap) => f64::from(cap) * (dot * 0.25 / f64::from(cap)).tanh(),
                        None => dot * 0.25,
                    }
                })
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            for j in 0..d {
                let expected: f64 =
                    weights.iter().enumerate().map(|(i, w)| w * values[i * d + j].to_f64()).sum::<f64>() / total;
                let error = (f64::from(out[h * d + j]) - expected).abs();
                assert!(error < 2e-5, "{n_keys} keys: off by {error:e}");
            }
        }
    }
}

/// What `kernels` makes of a product; quantized activations if the format is quantized and `f32_acts` is not set.
fn products(
    kernels: &Kernels,
    format: Format,
    weights: &[u8],
    rows: Range<usize>,
    x: &[f32],
    k: usize,
    f32_acts: bool,
) -> Vec<f32> {
    // A band of a wider result, whose other columns stay as they are.
    let mut result = vec![f32::NAN; x.len() / k * (rows.len() + 2)];
    let widths = [1, rows.len(), 1];
    let mut bands = split_columns(&mut result, rows.len() + 2, widths.into_iter());
    let out = &mut bands[1];
    if format.is_quantized() && !f32_acts {
        let acts = quantized(kernels, x, k);
        kernels.matmul_q8(format, weights, k, rows, &acts, out);
    } else {
        kernels.matmul_f32(format, weights, k, rows, x, out);
    }
    for band in [0, 2] {
        assert!((0..x.len() / k).all(|c| bands[band].row_mut(c)[0].is_nan()), "{format:?} wrote beside its band");
    }
    (0..x.len() / k).flat_map(|c| bands[1].row_mut(c).to_vec()).collect()
}

/// All kernels but the scalar ones.
fn simd() -> impl Iterator<Item = &'static Kernels> {
    Kernels::available().filter(|kernels| kernels.isa() != Isa::Scalar)
}

#[test]
fn products_have_the_same_bits_on_every_instruction_set() {
    let mut random = Random::new(3);
    for format in Format::ALL {
        for (i, k) in row_lengths(format).enumerate() {
            let n_rows = [1, 2, 7, 16, 33, 40][(i + format.block_bytes()) % 6];
            // An odd offset: nothing may rely on alignment.
            let mut weights = vec![0];
            weights.extend(random_weights(&mut random, format, k, n_rows, 0.01));
            let weights = &weights[1..];
            for n_cols in [1, 2, 3, 7, 8, 9, 16, 17, 18, 19, 20, 33] {
                let x = random.floats(n_cols * k, 3.0);
                for f32_acts in [false, true] {
                    let expected = products(scalar(), format, weights, 0..n_rows, &x, k, f32_acts);
                    for kernels in simd() {
                        let got = products(kernels, format, weights, 0..n_rows, &x, k, f32_acts);
                        let what = format!("{kernels:?}, {format:?}, k {k}, {n_rows} x {n_cols}");
                        assert_same(&got, &expected, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn interleaved_rows_give_the_bits_that_rows_give_on_every_instruction_set() {
    let mut random = Random::new(12);
    for format in quantized_formats().filter(|format| can_interleave(*format, STRIP_ROWS, 256)) {
        for (k, n_rows) in [(256, 16), (512, 48), (768, 32), (2560, 80)] {
            let weights = random_weights(&mut random, format, k, n_rows, 0.01);
            // An odd offset: nothing may rely on alignment.
            let mut strips = vec![0; 1 + weights.len()];
            interleave(format, k, &weights, &mut strips[1..]);
            let strips = &strips[1..];
            for n_cols in [1, 2, 3, 7, 8, 9, 16, 17, 33] {
                let x = random.floats(n_cols * k, 3.0);
                for rows in [0..n_rows, 0..16, n_rows - 16..n_rows] {
                    let expected = products(scalar(), format, &weights, rows.clone(), &x, k, false);
                    for kernels in Kernels::available() {
                        let acts = quantized(kernels, &x, k);
                        let mut got = vec![f32::NAN; n_cols * rows.len()];
                        let mut out = TileMut::whole(&mut got, rows.len());
                        kernels.matmul_interleaved(format, strips, k, rows.clone(), &acts, &mut out);
                        assert_same(&got, &expected, &format!("{kernels:?}, {format:?}, k {k}, {rows:?} x {n_cols}"));
                    }
                }
            }
        }
    }
}

#[test]
fn rows_come_back_from_strips() {
    let mut random = Random::new(13);
    for format in quantized_formats().filter(|format| can_interleave(*format, STRIP_ROWS, 256)) {
        let (k, n_rows) = (768, 32);
        let rows: Vec<u8> = (0..n_rows * format.row_bytes(k).unwrap()).map(|_| random.bits() as u8).collect();
        let (mut strips, mut back) = (vec![0; rows.len()], vec![0; rows.len()]);
        interleave(format, k, &rows, &mut strips);
        assert_ne!(strips, rows, "{format:?}");
        deinterleave(format, k, &strips, &mut back);
        assert_eq!(back, rows, "{format:?}");
        let row_bytes = rows.len() / n_rows;
        for r in 0..n_rows {
            let strip = &strips[r / STRIP_ROWS * STRIP_ROWS * row_bytes..][..STRIP_ROWS * row_bytes];
            let mut row = vec![0; row_bytes];
            row_of_strip(format, r % STRIP_ROWS, strip, &mut row);
            assert_eq!(row, rows[r * row_bytes..][..row_bytes], "{format:?}, row {r}");
        }
    }
}

#[test]
fn extreme_integers_and_scales_have_the_same_bits_on_every_instruction_set() {
    let mut random = Random::new(4);
    for format in quantized_formats() {
        let (k, n_rows) = (512, 5);
        for fill in [0x00, 0xff, 0x80, 0x7f, 0x55] {
            for scale in [1.0, 65504.0, 6e-8, f32::INFINITY, f32::NAN, 0.0] {
                let mut weights = vec![fill; format.row_bytes(k).unwrap() * n_rows];
                for block in weights.chunks_exact_mut(format.block_bytes()) {
                    for &at in f16_offsets(format) {
                        block[at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                    }
                }
                for n_cols in [1, 2, 17] {
                    // All activations at +-127; huge, tiny and zero blocks among them.
                    let x: Vec<f32> = (0..n_cols * k)
                        .map(|i| {
                            let size = [1.0, 1e30, 1e-29, 1e-31, 0.0][i / 32 % 5];
                            let sign = [1.0, -1.0][(random.bits() & fill as u32 & 1) as usize];
                            size * sign
                        })
                        .collect();
                    let expected = products(scalar(), format, &weights, 0..n_rows, &x, k, false);
                    for kernels in simd() {
                        let got = products(kernels, format, &weights, 0..n_rows, &x, k, false);
                        let what = format!("{kernels:?}, {format:?}, {fill:#x}, scale {scale}");
                        assert_same(&got, &expected, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn activations_that_are_not_finite_make_their_column_not_a_number() {
    let mut random = Random::new(8);
    for kernels in Kernels::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let k = 256;
            let weights = random_weights(&mut random, Format::Q8_0, k, 3, 0.01);
            let mut x = random.floats(4 * k, 3.0);
            x[2 * k + 77] = bad;
            let out = products(kernels, Format::Q8_0, &weights, 0..3, &x, k, false);
            for (i, out) in out.iter().enumerate() {
                assert_eq!(out.is_nan(), i / 3 == 2, "{kernels:?}, {bad}");
            }
        }
    }
}

#[test]
fn quantized_activations_have_the_same_bits_on_every_instruction_set() {
    let mut random = Random::new(9);
    for k in [32, 288, 2304] {
        let mut x = random.floats(k, 5.0);
        x[0] = 5.0;
        let expected = quantized(scalar(), &x, k);
        for kernels in simd() {
            let got = quantized(kernels, &x, k);
            assert_eq!(got.copy_of_row(0), expected.copy_of_row(0), "{kernels:?}");
        }
    }
}

/// Runs `f` with every table and compares what it returns with the scalar one's.
fn check_same(what: &str, f: impl Fn(&Kernels) -> Vec<f32>) {
    let expected = f(scalar());
    for kernels in simd() {
        assert_same(&f(kernels), &expected, &format!("{kernels:?}, {what}"));
    }
}

#[test]
fn elementwise_kernels_have_the_same_bits_on_every_instruction_set() {
    let mut random = Random::new(10);
    for n in [1, 7, 8, 16, 31, 64, 100, 256, 2304] {
        for scale in [0.5, 20.0, 1e4] {
            let mut x = random.floats(n, scale);
            x[n / 2] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0][random.below(5)];
            let y = random.floats(n, 2.0);
            let what = format!("{n} values within {scale}");
            check_same(&what, |kernels| {
                let mut out = vec![0.0; n];
                kernels.rms_norm(&x, &y, 1e-6, &mut out);
                out
            });
            check_same(&what, |kernels| {
                let mut out = vec![0.0; n];
                kernels.gelu_tanh_mul(&x, &y, &mut out);
                out
            });
            check_same(&what, |kernels| {
                let mut out = x.clone();
                kernels.softcap(&mut out, 30.0);
                out
            });
            check_same(&what, |kernels| {
                let mut out = [x.clone(), y.clone()].concat();
                kernels.rope(&mut out, &y, &x);
                out
            });
            check_same(&what, |kernels| {
                let mut out = x.clone();
                kernels.add(&mut out, &y);
                kernels.add_scaled(&mut out, &y, 0.3);
                kernels.scale(&mut out, 1.7);
                out
            });
            check_same(&what, |kernels| {
                let mut out = vec![f16::ZERO; n];
                kernels.f32_to_f16(&x, &mut out);
                out.into_iter().map(f16::to_f32).collect()
            });
        }
    }
}

#[test]
fn argmax_is_the_first_of_the_largest() {
    let argmax = |x: &[f32]| scalar().argmax(x);
    assert_eq!(argmax(&[1.0, 3.0, 2.0, 3.0]), 1);
    assert_eq!(argmax(&[f32::NAN, -1.0]), 1);
    assert_eq!(argmax(&[]), 0);
}

#[test]
fn attention_has_the_same_bits_however_queries_and_keys_come() {
    let mut random = Random::new(11);
    for (d, n_queries, n_keys, softcap) in [
        (16, 1, 1, None),
        (32, 2, 3, Some(50.0)),
        (64, 5, 33, None),
        (128, 4, 70, Some(50.0)),
        (80, 11, 65, Some(50.0)),
        (256, 3, 200, Some(50.0)),
        (24, 3, 40, None),
    ] {
        let f16s = |x: Vec<f32>| -> Vec<f16> { x.into_iter().map(f16::from_f32).collect() };
        let queries = random.floats(n_queries * d, 3.0);
        let keys = f16s(random.floats(n_keys * d, 3.0));
        let values = f16s(random.floats(n_keys * d, 3.0));
        let first_position = random.below(100);
        let run = |kernels: &Kernels, queries: &[f32], cuts: &[usize]| {
            let mut state = AttentionState::new();
            state.reset(queries.len() / d, d);
            let mut start = 0;
            for &end in cuts.iter().chain([&n_keys]) {
                let span = Span {
                    keys: &keys[start * d..end * d],
                    values: &values[start * d..end * d],
                    first_position: first_position + start,
                    scale: 0.1,
                    softcap,
                };
                let n_queries = state.n_queries();
                // Some before the others: each has a state of its own.
                let split = n_queries / 3;
                kernels.attend(&mut state, split..n_queries, queries, &span);
                kernels.attend(&mut state, 0..split, queries, &span);
                start = end;
            }
            let mut out = vec![0.0; queries.len()];
            kernels.attend_finish(&state, &mut out);
            out
        };
        let expected = run(scalar(), &queries, &[]);
        let to_next_block = KEY_BLOCK - first_position % KEY_BLOCK;
        let cuts: Vec<usize> = (to_next_block..n_keys).step_by(KEY_BLOCK).collect();
        for kernels in Kernels::available() {
            let what = format!("{kernels:?}, {n_queries} queries of {d}, {n_keys} keys");
            assert_same(&run(kernels, &queries, &[]), &expected, &what);
            assert_same(&run(kernels, &queries, &cuts), &expected, &what);
            for (query, expected) in queries.chunks_exact(d).zip(expected.chunks_exact(d)) {
                assert_same(&run(kernels, query, &[]), expected, &what);
            }
            let widen = |x: &[f16]| -> Vec<f32> { x.iter().map(|x| x.to_f32()).collect() };
            let (keys, values) = (widen(&keys), widen(&values));
            let mut state = AttentionState::new();
            state.reset(n_queries, d);
            let span = Span { keys: &keys, values: &values, first_position, scale: 0.1, softcap };
            kernels.attend_f32(&mut state, 0..n_queries, &queries, &span);
            let mut out = vec![0.0; queries.len()];
            kernels.attend_finish(&state, &mut out);
            assert_same(&out, &expected, &format!("{what} in F32"));
        }
    }
}

#[test]
fn instruction_sets_are_found_by_the_name_they_show() {
    for isa in Isa::ALL {
        assert_eq!(Isa::parse(&isa.to_string().to_uppercase()), Some(isa));
    }
    assert_eq!(Isa::parse("sse9"), None);
    assert_eq!(Kernels::get().isa(), Kernels::available().last().unwrap().isa());
}

#[test]
fn products_depend_neither_on_the_other_columns_nor_on_the_cut_of_the_rows() {
    let mut random = Random::new(6);
    for format in Format::ALL {
        let (k, n_rows, n_cols) = (256, 37, 21);
        let weights = random_weights(&mut random, format, k, n_rows, 0.01);
        let x = random.floats(n_cols * k, 3.0);
        for kernels in Kernels::available() {
            let products = |x: &[f32], rows| products(kernels, format, &weights, rows, x, k, false);
            let all = products(&x, 0..n_rows);
            for _ in 0..5 {
                let (a, b) = (random.below(n_rows + 1), random.below(n_rows + 1));
                let rows = a.min(b)..a.max(b);
                for (x, all) in x.chunks_exact(k).zip(all.chunks_exact(n_rows)) {
                    let one = products(x, rows.clone());
                    let what = format!("{kernels:?}, {format:?}, rows {rows:?}");
                    assert_same(&one, &all[rows.clone()], &what);
                }
            }
        }
    }
}
