//! Operations that work on each row (each token) by itself: norm, sum, softcap.

use candle_core::{CpuStorage, CustomOp1, Error, InplaceOp1, InplaceOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Activations, Compute, Cpu, candle_softcap, f32_values, f32_values_mut, rows_and_width};
use crate::gpu;

/// The factors of a norm, `[d]`, where they are needed.
pub struct Norm {
    factors: Vec<f32>,
    place: NormPlace,
}

enum NormPlace {
    /// The factors themselves.
    Host,
    Gpu(gpu::Buffer),
    Candle(Tensor),
}

impl Norm {
    /// Factors that already are `1 + w`.
    ///
    /// # Errors
    /// Not enough memory on the device.
    pub fn new(compute: &Compute, factors: Vec<f32>) -> Result<Norm> {
        let place = match compute {
            Compute::Cpu(_) => NormPlace::Host,
            Compute::Gpu(device) => {
                let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
                NormPlace::Gpu(device.gpu.buffer_of(&bytes).map_err(Error::wrap)?)
            }
            Compute::Candle(device) => NormPlace::Candle(Tensor::from_slice(&factors, factors.len(), device)?),
        };
        Ok(Norm { factors, place })
    }

    pub(super) fn on_gpu(&self) -> Result<&gpu::Buffer> {
        match &self.place {
            NormPlace::Gpu(factors) => Ok(factors),
            NormPlace::Host | NormPlace::Candle(_) => candle_core::bail!("a norm that was loaded for another place"),
        }
    }

    /// The factors.
    pub fn factors(&self) -> &[f32] {
        &self.factors
    }
}

/// `x * rsqrt(mean(x²) + eps) * factors` for each row.
///
/// `x`: `[n_tokens, d]`. Source: RMSNorm as in the Gemma 2 report, all in F32.
pub fn rms_norm(compute: &Compute, x: &Activations, norm: &Norm, eps: f32) -> Result<Activations> {
    match (compute, &norm.place) {
        (Compute::Cpu(cpu), _) => {
            let (x, weight) = (x.tensor()?, norm.factors());
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
            x.apply_op1_no_bwd(&op).map(Activations::Tensor)
        }
        (Compute::Gpu(device), NormPlace::Gpu(factors)) => {
            device.gpu.rms_norm(x.on_gpu()?, factors, eps).map(Activations::Gpu).map_err(Error::wrap)
        }
        (Compute::Candle(_), NormPlace::Candle(factors)) => {
            let x = x.tensor()?;
            let mean = x.sqr()?.mean_keepdim(candle_core::D::Minus1)?;
            let scale = (mean + f64::from(eps))?.sqrt()?.recip()?;
            x.broadcast_mul(&scale)?.broadcast_mul(factors).map(Activations::Tensor)
        }
        _ => candle_core::bail!("a norm that was loaded for another place"),
    }
}

/// `x + y`, value by value. On the CPU in place: both must be nobody else's.
///
/// # Errors
/// Other shapes, other places.
pub fn add(compute: &Compute, x: Activations, y: Activations) -> Result<Activations> {
    match compute {
        Compute::Cpu(cpu) => {
            x.tensor()?.inplace_op2(y.tensor()?, &Add { cpu })?;
            compute.reuse(y)?;
            Ok(x)
        }
        Compute::Gpu(_) => candle_core::bail!("a GPU adds where it norms"),
        Compute::Candle(_) => (x.tensor()? + y.tensor()?).map(Activations::Tensor),
    }
}

struct Add<'a> {
    cpu: &'a Cpu,
}

impl InplaceOp2 for Add<'_> {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, to: &Layout, y: &CpuStorage, from: &Layout) -> Result<()> {
        let (x, y) = (f32_values_mut(x, to)?, f32_values(y, from)?);
        if to.dims() != from.dims() {
            candle_core::bail!("{:?} and {:?} cannot be added", to.dims(), from.dims());
        }
        // One token's are not worth a thread's while.
        const PART: usize = 8192;
        if x.len() <= PART {
            self.cpu.kernels.add(x, y);
        } else {
            let add = || x.par_chunks_mut(PART).zip(y.par_chunks(PART)).for_each(|(x, y)| self.cpu.kernels.add(x, y));
            self.cpu.run(add);
        }
        Ok(())
    }
}

/// `cap * tanh(x / cap)` of every value. The logits of a batch are megabytes, so on the CPU they are capped in place: `x`
/// must be nobody else's.
pub fn softcap(compute: &Compute, x: Activations, cap: f32) -> Result<Activations> {
    match compute {
        Compute::Cpu(cpu) => {
            x.tensor()?.inplace_op1(&Softcap { cpu, cap })?;
            Ok(x)
        }
        Compute::Gpu(_) => candle_core::bail!("a GPU caps products where it makes them"),
        Compute::Candle(_) => candle_softcap(x.tensor()?, cap).map(Activations::Tensor),
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
        let values = f32_values_mut(storage, layout)?;
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
        let mut out = self.cpu.buffers.take(rows * self.width);
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
