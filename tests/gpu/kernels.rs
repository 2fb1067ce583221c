//! Each kernel against the CPU's.

#[cfg(gpu = "metal")]
use std::sync::Arc;

#[cfg(gpu = "metal")]
use gemma2::gpu::SharedBytes;
use gemma2::gpu::{Cells, Gpu, LayerSpan, StepPlan, StepTables};
use gemma2::kernels::{AttentionShape, Format, Kernels, Q8Rows, TileMut, dequantize_row};
use half::bf16;

use super::{bits, devices, is_exact, random};

/// Values of several magnitudes; now and then a block of nothing.
fn activations(seed: u64, n_rows: usize, width: usize) -> Vec<f32> {
    let mut random = random(seed);
    let magnitudes = [1.0, 30.0, 1e-3, 0.0, 1e-33];
    let mut magnitude = 1.0;
    let value = |i: usize| {
        if i.is_multiple_of(32) {
            magnitude = magnitudes[random(magnitudes.len())];
        }
        (random(20_001) as f32 / 10_000.0 - 1.0) * magnitude
    };
    (0..n_rows * width).map(value).collect()
}

/// Rows of any bytes, but with scales that are neither infinite nor no numbers.
fn weights(seed: u64, format: Format, n_rows: usize, width: usize) -> Vec<u8> {
    let mut random = random(seed);
    let mut bytes: Vec<u8> =
        (0..n_rows * format.row_bytes(width).expect("whole blocks")).map(|_| random(256) as u8).collect();
    // Where a block's F16 numbers are.
    let scales: &[usize] = match format {
        Format::F32 => &[2],
        Format::F16 | Format::BF16 | Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::IQ4_NL | Format::IQ4_XS => {
            &[0]
        }
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
    };
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        // The exponent's highest bit off: nothing is 2 or more.
        scales.iter().for_each(|at| block[at + 1] &= 0xbf);
    }
    bytes
}

fn cpu_product(format: Format, weights: &[u8], x: &[f32], n_rows: usize, width: usize) -> Vec<f32> {
    let kernels = Kernels::get();
    let n_columns = x.len() / width;
    let mut out = vec![0.0; n_columns * n_rows];
    if !format.is_quantized() {
        kernels.matmul_f32(format, weights, width, 0..n_rows, x, &mut TileMut::whole(&mut out, n_rows));
        return out;
    }
    let mut acts = Q8Rows::new();
    acts.resize(n_columns, width);
    acts.rows_mut().zip(x.chunks(width)).for_each(|(row, x)| kernels.quantize_row(x, row));
    kernels.matmul_q8(format, weights, width, 0..n_rows, &acts, &mut TileMut::whole(&mut out, n_rows));
    out
}

fn gpu_product(gpu: &Gpu, format: Format, weights: &[u8], x: &[f32], n_rows: usize, width: usize) -> Vec<f32> {
    let weights = gpu.weights(format, n_rows, width, weights).expect("weights");
    let x = gpu.rows_of(x, width).expect("rows");
    gpu.matmul(&x, &[weights], None).expect("a product").to_vec().expect("values")
}

/// Whether a product is the CPU's to the bit or, where the device rounds activations to BF16, that of the rounded ones: to
/// 3e-5 of what the sum would be without its signs, since the device adds in F32 and in an order of its own.
fn is_right(gpu: &Gpu, format: Format, weights: &[u8], x: &[f32], width: usize, found: &[f32]) -> bool {
    let n_rows = found.len() * width / x.len();
    if is_exact(gpu, format) {
        return bits(found) == bits(&cpu_product(format, weights, x, n_rows, width));
    }
    let mut row = vec![0.0; width];
    (0..n_rows).all(|r| {
        dequantize_row(format, &weights[r * 2 * width..][..2 * width], &mut row);
        x.chunks(width).zip(found.chunks(n_rows)).all(|(x, found)| {
            let terms = || row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(bf16::from_f32(*x).to_f32()));
            let (sum, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            if sum.is_finite() { (f64::from(found[r]) - sum).abs() <= 3e-5 * size } else { !found[r].is_finite() }
        })
    })
}

#[test]
fn products_of_every_format_are_the_cpu_s() {
    for gpu in devices() {
        for (seed, format) in Format::ALL.into_iter().enumerate() {
            // Not whole blocks of threads, superblocks or groups of columns.
            let widths = if format.block_len() == 256 { [256, 768] } else { [32, 9 * 32] };
            for (n_rows, width) in [(1, widths[0]), (37, widths[1])] {
                let weights = weights(seed as u64, format, n_rows, width);
                for n_columns in [1, 3, 8, 39] {
                    let x = activations(seed as u64 + 50, n_columns, width);
                    let found = gpu_product(&gpu, format, &weights, &x, n_rows, width);
                    assert!(found.iter().filter(|v| v.is_finite()).count() > found.len() / 2);
                    let is_right = is_right(&gpu, format, &weights, &x, width, &found);
                    assert!(is_right, "{format:?} {n_rows} x {width}, {n_columns} columns");
                }
            }
        }
    }
}

#[test]
fn a_product_in_bf16_has_the_same_bits_whatever_is_beside_it() {
    for gpu in devices() {
        // Rows that are no whole units or steps, with runs that are shorter or missing; rows and columns that are no whole
        // tiles, and enough of both for the large tiles.
        for (n_rows, width, n_columns) in [(1, 1, 9), (37, 20, 70), (300, 300, 66), (16_390, 24, 130)] {
            let weights = weights(9, Format::BF16, n_rows, width);
            let x = activations(21, n_columns, width);
            let all = gpu_product(&gpu, Format::BF16, &weights, &x, n_rows, width);
            // A sample where there are many, since looking takes time.
            let columns = [0, 5, n_columns - 1];
            for c in columns {
                let (x, all) = (&x[c * width..][..width], &all[c * n_rows..][..n_rows]);
                let alone = gpu_product(&gpu, Format::BF16, &weights, x, n_rows, width);
                assert!(bits(&alone) == bits(all), "{n_rows} x {width}, column {c} of {n_columns}");
                assert!(is_right(&gpu, Format::BF16, &weights, x, width, all), "{n_rows} x {width}, column {c}");
            }
            let few = gpu_product(&gpu, Format::BF16, &weights, &x[width..][..7 * width], n_rows, width);
            assert!(bits(&few) == bits(&all[n_rows..8 * n_rows]), "{n_rows} x {width}, some columns");
        }
    }
}

#[test]
fn what_is_no_number_comes_out_as_none() {
    for gpu in devices() {
        for format in [Format::Q4_K, Format::Q8_0, Format::BF16] {
            let weights = weights(7, format, 20, 256);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = activations(8, 2, 256);
                x[256 + 70] = bad;
                let found = gpu_product(&gpu, format, &weights, &x, 20, 256);
                assert!(is_right(&gpu, format, &weights, &x, 256, &found), "{format:?} {bad}");
                assert!(found[..20].iter().all(|v| v.is_finite()) && !found[20..].iter().any(|v| v.is_finite()));
            }
        }
    }
}

#[test]
fn a_product_of_several_matrices_puts_their_outputs_side_by_side() {
    for gpu in devices() {
        let parts = [(Format::Q6_K, 24), (Format::F16, 5), (Format::Q4_0, 33)];
        let x = activations(3, 9, 512);
        let matrices = parts.map(|(format, n_rows)| weights(9, format, n_rows, 512));
        let on_gpu: Vec<_> = parts
            .iter()
            .zip(&matrices)
            .map(|((format, n_rows), bytes)| gpu.weights(*format, *n_rows, 512, bytes).expect("weights"))
            .collect();
        let found = gpu.matmul(&gpu.rows_of(&x, 512).expect("rows"), &on_gpu, None).expect("a product");
        assert_eq!((found.n_rows(), found.width()), (9, 62));
        let found = found.to_vec().expect("values");
        let mut first = 0;
        for ((format, n_rows), bytes) in parts.iter().zip(&matrices) {
            let expected = cpu_product(*format, bytes, &x, *n_rows, 512);
            for (row, expected) in found.chunks(62).zip(expected.chunks(*n_rows)) {
                assert!(bits(&row[first..first + n_rows]) == bits(expected), "{format:?}");
            }
            first += n_rows;
        }
    }
}

#[cfg(gpu = "metal")]
#[test]
fn weights_are_read_where_they_lie_and_stay_until_they_have_been_read() {
    /// Where words of four bytes cannot be read.
    struct Odd(Vec<u8>);
    impl AsRef<[u8]> for Odd {
        fn as_ref(&self) -> &[u8] {
            &self.0[1..]
        }
    }
    for gpu in devices() {
        let matrix = weights(6, Format::Q6_K, 37, 768);
        let x = activations(4, 3, 768);
        let expected = bits(&cpu_product(Format::Q6_K, &matrix, &x, 37, 768));
        let rows = gpu.rows_of(&x, 768).expect("rows");
        let even: SharedBytes = Arc::new(matrix.clone());
        let odd: SharedBytes = Arc::new(Odd([&[0], &matrix[..]].concat()));
        for (bytes, n_owners) in [(even, 2), (odd, 1)] {
            let weights = [gpu.weights_in_place(Format::Q6_K, 37, 768, &bytes).expect("weights")];
            let found = gpu.matmul(&rows, &weights, None).expect("a product");
            drop(weights);
            assert_eq!(Arc::strong_count(&bytes), n_owners, "before they are read");
            assert!(bits(&found.to_vec().expect("values")) == expected);
            assert_eq!(Arc::strong_count(&bytes), 1);
        }
    }
}

#[test]
fn rows_and_values_by_themselves_have_the_cpu_s_bits() {
    let kernels = Kernels::get();
    for gpu in devices() {
        for width in [1, 15, 64, 288, 1000] {
            let mut x = activations(width as u64, 3, width);
            // Far out, where exponentials end.
            let extremes = [-1e4, 1e4, -88.0, 88.0, 1e-20, -0.0, f32::INFINITY, f32::NAN];
            x.iter_mut().take(extremes.len()).zip(extremes).for_each(|(x, extreme)| *x = extreme);
            let y = activations(5, 3, width);
            let rows = |values: &[f32], width| gpu.rows_of(values, width).expect("rows");
            let check = |name: &str, found: gemma2::gpu::Rows, expected: &[f32]| {
                assert!(bits(&found.to_vec().expect("values")) == bits(expected), "{name} of {width}");
            };

            let both: Vec<f32> = x.chunks(width).zip(y.chunks(width)).flat_map(|(g, u)| [g, u].concat()).collect();
            let mut gated = vec![0.0; x.len()];
            kernels.gelu_tanh_mul(&x, &y, &mut gated);
            check("geglu", gpu.geglu(&rows(&both, 2 * width)).expect("geglu"), &gated);

            let (factors, second) = (activations(77, 1, width), activations(78, 1, width));
            let bytes_of = |values: &[f32]| values.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<u8>>();
            let mut normed = vec![0.0; x.len()];
            for (row, out) in x.chunks(width).zip(normed.chunks_mut(width)) {
                kernels.rms_norm(row, &factors, 1e-6, out);
            }
            let factors = gpu.buffer_of(&bytes_of(&factors)).expect("factors");
            check("norm", gpu.rms_norm(&rows(&x, width), &factors, 1e-6).expect("norm"), &normed);

            let sum: Vec<f32> = y.iter().zip(&normed).map(|(y, x)| y + x).collect();
            let mut normed_sum = vec![0.0; x.len()];
            for (row, out) in sum.chunks(width).zip(normed_sum.chunks_mut(width)) {
                kernels.rms_norm(row, &second, 1e-6, out);
            }
            let branch = rows(&x, width);
            let next = gpu.buffer_of(&bytes_of(&second)).expect("factors");
            let add = |next| gpu.add_normed(&rows(&y, width), (&branch, &factors), next, 1e-6).expect("a sum");
            let (found_sum, found) = add(Some(&next));
            check("sum", found_sum, &sum);
            check("norm of a sum", found.expect("a norm"), &normed_sum);
            let (found_sum, nothing) = add(None);
            check("sum alone", found_sum, &sum);
            assert!(nothing.is_none());
        }
    }
}

#[test]
fn what_is_made_together_has_the_bits_of_what_is_made_one_after_the_other() {
    let kernels = Kernels::get();
    for gpu in devices() {
        for (seed, format) in Format::ALL.into_iter().enumerate() {
            // Whole blocks of gated rows, and not.
            for (n_rows, n_columns) in [(64, 1), (37, 1), (64, 3)] {
                let x = activations(seed as u64 + 90, n_columns, 512);
                let parts = [5, 6].map(|seed| weights(seed, format, n_rows, 512));
                let [gate, up] = parts.each_ref().map(|bytes| match is_exact(&gpu, format) {
                    true => cpu_product(format, bytes, &x, n_rows, 512),
                    false => gpu_product(&gpu, format, bytes, &x, n_rows, 512),
                });
                let mut gated = vec![0.0; gate.len()];
                kernels.gelu_tanh_mul(&gate, &up, &mut gated);
                let on_gpu: Vec<_> =
                    parts.iter().map(|bytes| gpu.weights(format, n_rows, 512, bytes).expect("weights")).collect();
                let rows = gpu.rows_of(&x, 512).expect("rows");
                let found = gpu.gated(&rows, &on_gpu).expect("gated").to_vec().expect("values");
                assert!(bits(&found) == bits(&gated), "{format:?} {n_rows} gated, {n_columns} columns");

                let mut capped = gate.clone();
                kernels.softcap(&mut capped, 30.0);
                let found = gpu.matmul(&rows, &on_gpu[..1], Some(30.0)).expect("capped").to_vec().expect("values");
                assert!(bits(&found) == bits(&capped), "{format:?} {n_rows} capped, {n_columns} columns");
            }
        }
    }
}

#[test]
fn what_a_kernel_leaves_for_a_product_is_what_the_product_would_make() {
    for gpu in devices() {
        let x = activations(12, 3, 128);
        let factors = gpu.buffer_of(&[1.0_f32.to_le_bytes(); 128].concat()).expect("factors");
        let weights = weights(13, Format::Q8_0, 40, 128);
        let normed = gpu.rms_norm(&gpu.rows_of(&x, 128).expect("rows"), &factors, 1e-6).expect("a norm");
        let values = normed.to_vec().expect("values");
        let expected = cpu_product(Format::Q8_0, &weights, &values, 40, 128);
        let on_gpu = [gpu.weights(Format::Q8_0, 40, 128, &weights).expect("weights")];
        let found = gpu.matmul(&normed, &on_gpu, None).expect("a product").to_vec().expect("values");
        assert!(bits(&found) == bits(&expected));
        // Of some of the rows, too.
        let last = normed.narrow(1..3).expect("rows");
        let found = gpu.matmul(&last, &on_gpu, None).expect("a product").to_vec().expect("values");
        assert!(bits(&found) == bits(&expected[40..]));
    }
}

#[test]
fn what_does_not_fit_is_refused_before_a_kernel_starts() {
    for gpu in devices() {
        let x = gpu.rows_of(&[1.0; 64], 32).expect("rows");
        let other = gpu.rows_of(&[1.0; 32], 32).expect("rows");
        let factors = gpu.buffer_of(&[0; 128]).expect("factors");
        assert!(gpu.add_normed(&x, (&other, &factors), None, 1e-6).is_err());
        assert!(gpu.rms_norm(&x, &gpu.buffer_of(&[0; 64]).expect("a buffer"), 1e-6).is_err());
        assert!(gpu.weights(Format::Q4_0, 2, 32, &[0; 18]).is_err(), "half the bytes");
        assert!(gpu.weights(Format::Q4_K, 2, 32, &[0; 36]).is_err(), "no whole block");
        let weights = gpu.weights(Format::Q4_0, 2, 64, &[0; 72]).expect("weights");
        assert!(gpu.matmul(&x, &[weights], None).is_err(), "rows of 32 for columns of 64");
        assert!(x.narrow(1..3).is_err());
        let buffer = gpu.buffer(10).expect("a buffer");
        assert!(buffer.write(4, &[0; 7]).is_err() && buffer.read(11, &mut []).is_err());
        assert!(buffer.copy_from(0, &buffer, 3..11).is_err());
    }
}

#[test]
fn rows_of_a_sequence_see_together_what_they_see_one_by_one() {
    let shapes =
        [(24, None, 1), (256, Some(20), 1), (320, Some(7), 0), (64, None, 3), (96, Some(45), 3), (160, Some(33), 2)];
    for gpu in devices() {
        for (head_dim, window, code) in shapes {
            let (n_heads, n_kv_heads, n_rows, capacity) = (4, 2, 75, 96);
            let width = (n_heads + 2 * n_kv_heads) * head_dim;
            let shape = AttentionShape { n_heads, n_kv_heads, head_dim, scale: 0.2, softcap: 20.0, window };
            let head_bytes = [4 * head_dim, 2 * head_dim, 2 * head_dim, head_dim / 32 * 34][code];
            let slot_bytes = n_kv_heads * head_bytes;
            let qkv = activations(31, n_rows, width);
            // Rows in steps of these lengths, and in each step another sequence beside them, with few rows or with many.
            let run = |steps: &[usize], n_others: usize| -> Vec<u32> {
                let cache = || gpu.buffer(capacity * slot_bytes).expect("a cache");
                let caches = [cache(), cache(), cache(), cache()];
                let cells = |i: usize| Cells { buffer: &caches[i], code: code as u32, slot_bytes };
                let (mut found, mut pos) = (Vec::new(), 0);
                for &n in steps {
                    let angles = |f: fn(f32) -> f32| -> Vec<f32> {
                        let angle = |p: usize| (0..head_dim / 2).map(move |j| f(p as f32 / (j + 1) as f32));
                        (0..n_others).chain(pos..pos + n).flat_map(angle).collect()
                    };
                    let mut plan = StepPlan::new(head_dim / 2, &angles(f32::cos), &angles(f32::sin));
                    let span = |rows, pos, i| LayerSpan { rows, pos, capacity, keys: cells(i), values: cells(i + 1) };
                    let all = [span(0..n_others, 0, 2), span(n_others..n_others + n, pos, 0)];
                    plan.add_layer(&all[usize::from(n_others == 0)..]).expect("a plan");
                    let values = [&qkv[..n_others * width], &qkv[pos * width..(pos + n) * width]].concat();
                    let rows = gpu.rows_of(&values, width).expect("rows");
                    let tables = StepTables::new(&gpu, &plan).expect("tables");
                    let out = gpu.attention(&rows, &shape, &tables, 0).expect("attention");
                    let out = out.to_vec().expect("values");
                    found.extend(bits(&out[n_others * n_heads * head_dim..]));
                    pos += n;
                }
                found
            };
            let one_by_one = run(&[1; 75], 0);
            assert!(one_by_one.iter().any(|bits| *bits != 0));
            for (steps, n_others) in [(&[75][..], 0), (&[10, 65], 2), (&[33, 7, 35], 9)] {
                assert!(run(steps, n_others) == one_by_one, "{shape:?}, {steps:?} beside {n_others}");
            }
        }
    }
}

#[test]
fn a_copy_copies_everything() {
    for gpu in devices() {
        let bytes: Vec<u8> = (0..16 * 999).map(|i| (i % 253) as u8).collect();
        let (from, to) = (gpu.buffer_of(&bytes).expect("from"), gpu.buffer(bytes.len()).expect("to"));
        gpu.copy(&from, &to).expect("a copy");
        gpu.synchronize().expect("an end");
        let mut found = vec![0; bytes.len()];
        to.read(0, &mut found).expect("bytes");
        assert!(found == bytes);
    }
}
