//! How fast products are here: `cargo test --release --lib kernels::speed -- --ignored --nocapture`. Asserts nothing.

use std::time::{Duration, Instant};

use super::*;

/// The median time of a call, called for a tenth of a second.
fn median(mut f: impl FnMut()) -> Duration {
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || start.elapsed() < Duration::from_millis(100) {
        let start = Instant::now();
        f();
        times.push(start.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

/// One thread, rows of 2304 values as in Gemma 2 2B: 256 of them, which the second-level cache holds, and more than any
/// cache does.
#[test]
#[ignore = "a measurement, not a test"]
fn products_by_format_instruction_set_and_columns() {
    let k = 2304;
    println!("median of one thread; GOP/s count multiplications and additions, GB/s the bytes of weights");
    for (format, n_rows) in Format::ALL.into_iter().flat_map(|format| [(format, 256), (format, 49152)]) {
        // Bytes of no special meaning, but such that no scale and no weight is a subnormal number.
        let row_bytes = format.row_bytes(k).unwrap_or(0);
        let weights: Vec<u8> = (0..row_bytes * n_rows).map(|i| (i * 73 / 7) as u8 & 0x1b | 0x20).collect();
        for kernels in Kernels::available().filter(|kernels| kernels.isa() != Isa::Scalar) {
            let strips = can_interleave(format, n_rows, k).then(|| {
                let mut strips = vec![0; weights.len()];
                interleave(format, k, &weights, &mut strips);
                strips
            });
            let layouts = [Some((&weights, false)), strips.as_ref().map(|strips| (strips, true))];
            for (weights, is_interleaved) in layouts.into_iter().flatten() {
                let layout = if is_interleaved { "strips" } else { "rows" };
                print!("{format:>7?} {n_rows:>6} {layout:>6} {:>12}", kernels.isa());
                for n_columns in [1, 4, 8, 16, 64] {
                    let x: Vec<f32> = (0..n_columns * k).map(|i| (i as f32).sin()).collect();
                    let mut acts = Q8Rows::new();
                    acts.resize(n_columns, k);
                    acts.rows_mut().zip(x.chunks_exact(k)).for_each(|(row, x)| kernels.quantize_row(x, row));
                    let mut out = vec![0.0; n_columns * n_rows];
                    let time = median(|| {
                        let (rows, mut out) = (0..n_rows, TileMut::whole(&mut out, n_rows));
                        match (is_interleaved, format.is_quantized()) {
                            (true, _) => kernels.matmul_interleaved(format, weights, k, rows, &acts, &mut out),
                            (_, true) => kernels.matmul_q8(format, weights, k, rows, &acts, &mut out),
                            _ => kernels.matmul_f32(format, weights, k, rows, &x, &mut out),
                        }
                    });
                    let operations = 2.0 * (n_columns * n_rows * k) as f64;
                    let seconds = time.as_secs_f64();
                    print!(
                        " | {n_columns}: {:.0} GOP/s, {:.1} GB/s",
                        operations / seconds / 1e9,
                        weights.len() as f64 / seconds / 1e9
                    );
                }
                println!();
            }
        }
    }
}
