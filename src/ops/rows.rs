//! Operations that work on each row (each token) by itself: norm, gated GELU, softcap.

use candle_core::{CpuStorage, CustomOp1, InplaceOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Compute, Cpu, candle_softcap, f32_values, rows_and_width};

/// `x * rsqrt(mean(x²) + eps) * weight` for each row; `weight` already holds `1 + w`.
///
/// `x`: `[n_tokens, d]`, `weight`: `[d]`. Source: RMSNorm as in the Gemma 2 report, all in F32.
pub fn rms_norm(compute: &Compute, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    match compute {
        Compute::Cpu(cpu) => {
            let (storage, layout) = weight.storage_and_layout();
            let candle_core::Storage::Cpu(storage) = &*storage else {
                candle_core::bail!("the norm is not on the CPU")
            };
            let weight = f32_values(storage, layout)?;
            let width = x.dim(candle_core::D::Minus1)?;
            if weight.len() != width {
                candle_core::bail!("a norm of {} weights over rows of {width}", weight.len());
            }
            let op = RowOp {
                cpu,
                name: "rms-norm",
                width,
                f: |row: &[f32], out: &mut [f32]| cpu.kernels.rms_norm(row, weight, eps, out),
            };
            x.apply_op1_no_bwd(&op)
        }
        Compute::Candle(_) => {
            let mean = x.sqr()?.mean_keepdim(candle_core::D::Minus1)?;
            let scale = (mean + f64::from(eps))?.sqrt()?.recip()?;
            x.broadcast_mul(&scale)?.broadcast_mul(weight)
        }
    }
}

/// `gelu_tanh(gate) * up` where each row holds the gate and then the up half: `[n_tokens, 2 d_ff]` to `[n_tokens, d_ff]`.
pub fn geglu(compute: &Compute, gate_up: &Tensor) -> Result<Tensor> {
    let width = gate_up.dim(candle_core::D::Minus1)? / 2;
    match compute {
        Compute::Cpu(cpu) => {
            let f = |row: &[f32], out: &mut [f32]| {
                let (gate, up) = row.split_at(width);
                cpu.kernels.gelu_tanh_mul(gate, up, out);
            };
            gate_up.apply_op1_no_bwd(&RowOp { cpu, name: "geglu", width, f })
        }
        Compute::Candle(_) => {
            let gate = gate_up.narrow(candle_core::D::Minus1, 0, width)?;
            let up = gate_up.narrow(candle_core::D::Minus1, width, width)?;
            gate.gelu()? * up
        }
    }
}

/// `cap * tanh(x / cap)` of every value. The logits of a batch are megabytes, so on the CPU they are capped in place: `x`
/// must be nobody else's.
pub fn softcap(compute: &Compute, x: Tensor, cap: f32) -> Result<Tensor> {
    match compute {
        Compute::Cpu(cpu) => {
            x.inplace_op1(&Softcap { cpu, cap })?;
            Ok(x)
        }
        Compute::Candle(_) => candle_softcap(&x, cap),
    }
}

struct Softcap<'a> {
    cpu: &'a Cpu,
    cap: f32,
}

impl InplaceOp1 for Softcap<'_> {
    fn name(&self) -> &'static str {
        "softcap"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("a contiguous tensor of F32 was expected, not {layout:?}")
        };
        let values = &mut values[start..end];
        self.cpu.run(|| {
            values.par_chunks_mut(8192).for_each(|values| self.cpu.kernels.softcap(values, self.cap));
        });
        Ok(())
    }
}

/// A kernel over each row by itself; rows are shared among the threads.
struct RowOp<'a, F> {
    cpu: &'a Cpu,
    name: &'static str,
    /// Values in a row of the result.
    width: usize,
    f: F,
}

impl<F: Fn(&[f32], &mut [f32]) + Sync> CustomOp1 for RowOp<'_, F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32_values(storage, layout)?;
        let (rows, width) = rows_and_width(layout)?;
        let mut out = vec![0.0; rows * self.width];
        if rows == 1 {
            (self.f)(x, &mut out);
        } else if width > 0 && self.width > 0 {
            let run =
                || out.par_chunks_mut(self.width).zip(x.par_chunks(width)).for_each(|(out, row)| (self.f)(row, out));
            self.cpu.run(run);
        }
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.width;
        }
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }
}
