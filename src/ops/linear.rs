//! Matrix products with weights where they lie in the mapped file.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Activations, Compute, Cpu, f32_values, rows_and_width, softcap};
use crate::gpu;
use crate::kernels::{
    Format, Kernels, Q8Rows, STRIP_ROWS, TileMut, can_interleave, deinterleave, dequantize_row, row_of_strip,
    split_columns,
};

/// A weight matrix `[n_rows, n_cols]` in its file's own format.
#[derive(Clone)]
pub struct Weight {
    /// Name for messages.
    pub name: String,
    /// Outputs.
    pub n_rows: usize,
    /// Inputs.
    pub n_cols: usize,
    /// How rows are stored.
    pub format: Format,
    /// Rows alternate by 16, see [`interleave`](crate::kernels::interleave); otherwise one lies behind the other.
    pub is_interleaved: bool,
    /// `n_rows` rows of `format.row_bytes(n_cols)` bytes.
    pub bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
}

/// `y = W x` for one matrix, or for several that share their input (their outputs stand side by side): the queries,
/// keys and values of a layer, or the gate and up halves of its feed-forward part.
pub struct Linear {
    parts: Vec<Weight>,
    n_rows: usize,
    n_cols: usize,
    /// Pieces of work: part, its rows, and where they stand in the output.
    pieces: Vec<Piece>,
    /// All parts widened to F32, `[n_rows, n_cols]`; only for [`Compute::Candle`].
    widened: Option<Tensor>,
    /// All parts on the device; only for [`Compute::Gpu`].
    on_gpu: Vec<gpu::Weights>,
}

struct Piece {
    part: usize,
    rows: Range<usize>,
}

/// Rows of a piece are a multiple of this where possible: a whole number of the widest panels, and of strips.
const ROW_GRANULE: usize = 64;

impl Linear {
    /// Checks the parts against each other and against their bytes.
    ///
    /// # Errors
    /// Parts with different inputs, or bytes that do not match the shape.
    pub fn new(compute: &Compute, parts: Vec<Weight>) -> Result<Linear> {
        let Some(n_cols) = parts.first().map(|p| p.n_cols) else { candle_core::bail!("a product of no matrices") };
        for part in &parts {
            let expected = part.format.row_bytes(part.n_cols).and_then(|b| b.checked_mul(part.n_rows));
            let found = part.bytes().len();
            let is_layout = !part.is_interleaved || can_interleave(part.format, part.n_rows, n_cols);
            if part.n_cols != n_cols || expected != Some(found) || !is_layout {
                candle_core::bail!(
                    "`{}` has {found} bytes, which is no {:?} matrix of {} x {n_cols}",
                    part.name,
                    part.format,
                    part.n_rows
                );
            }
        }
        let n_rows = parts.iter().map(|p| p.n_rows).sum();
        let mut linear = Linear { parts, n_rows, n_cols, pieces: Vec::new(), widened: None, on_gpu: Vec::new() };
        match compute {
            Compute::Cpu(cpu) => linear.pieces = pieces(&linear.parts, cpu.n_threads()),
            Compute::Gpu(device) => {
                let upload = |p: &Weight| match p.is_interleaved {
                    true => device.gpu.weights(p.format, p.n_rows, p.n_cols, &p.rows()),
                    false => device.gpu.weights_in_place(p.format, p.n_rows, p.n_cols, &p.bytes),
                };
                let uploaded: std::result::Result<_, _> = linear.parts.iter().map(upload).collect();
                linear.on_gpu = uploaded.map_err(Error::wrap)?;
            }
            Compute::Candle(device) => {
                let mut values = vec![0.0; n_rows * n_cols];
                for (row, out) in values.chunks_exact_mut(n_cols).enumerate() {
                    linear.dequantize_row(row, out);
                }
                linear.widened = Some(Tensor::from_vec(values, (n_rows, n_cols), device)?);
            }
        }
        Ok(linear)
    }

    /// Outputs of all parts together.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Inputs.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// The matrices, as given.
    pub fn parts(&self) -> &[Weight] {
        &self.parts
    }

    /// `x`: `[n_tokens, n_cols]`, used up, to `[n_tokens, n_rows]`.
    pub fn forward(&self, compute: &Compute, x: Activations) -> Result<Activations> {
        match compute {
            Compute::Cpu(cpu) => used_up(compute, x, &MatMul { linear: self, cpu }),
            Compute::Gpu(device) => {
                device.gpu.matmul(x.on_gpu()?, self.on_gpu()?, None).map(Activations::Gpu).map_err(Error::wrap)
            }
            Compute::Candle(_) => x.tensor()?.matmul(&self.candle_weight()?.t()?).map(Activations::Tensor),
        }
    }

    /// `gelu_tanh(gate) * up` where the parts are the gate and the up matrix: `[n_tokens, n_cols]` to
    /// `[n_tokens, n_rows / 2]`.
    ///
    /// # Errors
    /// As of [`Linear::forward`].
    pub fn gated(&self, compute: &Compute, x: Activations) -> Result<Activations> {
        match compute {
            Compute::Gpu(device) => {
                device.gpu.gated(x.on_gpu()?, self.on_gpu()?).map(Activations::Gpu).map_err(Error::wrap)
            }
            Compute::Cpu(cpu) => used_up(compute, x, &Gated { linear: self, cpu }),
            Compute::Candle(_) => {
                let both = self.forward(compute, x)?;
                let [gate, up] = both.tensor()?.chunk(2, candle_core::D::Minus1)?.try_into().map_err(odd_halves)?;
                (gate.gelu()? * up).map(Activations::Tensor)
            }
        }
    }

    /// `cap * tanh(y / cap)` of each output.
    ///
    /// # Errors
    /// As of [`Linear::forward`].
    pub fn capped(&self, compute: &Compute, x: Activations, cap: f32) -> Result<Activations> {
        match compute {
            Compute::Gpu(device) => {
                device.gpu.matmul(x.on_gpu()?, self.on_gpu()?, Some(cap)).map(Activations::Gpu).map_err(Error::wrap)
            }
            _ => softcap(compute, self.forward(compute, x)?, cap),
        }
    }

    fn on_gpu(&self) -> Result<&[gpu::Weights]> {
        if self.on_gpu.is_empty() {
            candle_core::bail!("`{}` was not loaded for the GPU", self.parts[0].name)
        }
        Ok(&self.on_gpu)
    }

    /// Row `row` (counted over all parts), widened exactly.
    pub(super) fn dequantize_row(&self, mut row: usize, out: &mut [f32]) {
        for part in &self.parts {
            if row < part.n_rows {
                dequantize_row(part.format, &part.row(row), out);
                return;
            }
            row -= part.n_rows;
        }
    }

    /// The first value that is no number or infinite: the matrix's name and the row in it.
    pub fn first_not_finite(&self) -> Option<(&str, usize)> {
        let mut values = vec![0.0; self.n_cols];
        self.parts.iter().find_map(|part| {
            let mut bad = |&row: &usize| {
                dequantize_row(part.format, &part.row(row), &mut values);
                values.iter().any(|v| !v.is_finite())
            };
            (0..part.n_rows).find(|row| bad(row)).map(|row| (part.name.as_str(), row))
        })
    }

    pub(super) fn candle_weight(&self) -> Result<&Tensor> {
        match &self.widened {
            Some(weight) => Ok(weight),
            None => candle_core::bail!("`{}` was loaded for our kernels, not for candle", self.parts[0].name),
        }
    }
}

impl Weight {
    fn bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// The bytes of one row.
    pub fn row(&self, row: usize) -> Cow<'_, [u8]> {
        let stride = self.bytes().len() / self.n_rows;
        if !self.is_interleaved {
            return self.bytes()[row * stride..(row + 1) * stride].into();
        }
        let mut bytes = vec![0; stride];
        let strip = &self.bytes()[row / STRIP_ROWS * STRIP_ROWS * stride..][..STRIP_ROWS * stride];
        row_of_strip(self.format, row % STRIP_ROWS, strip, &mut bytes);
        bytes.into()
    }

    /// All rows, one behind the other.
    fn rows(&self) -> Cow<'_, [u8]> {
        if !self.is_interleaved {
            return self.bytes().into();
        }
        let mut rows = vec![0; self.bytes().len()];
        deinterleave(self.format, self.n_cols, self.bytes(), &mut rows);
        rows.into()
    }
}

/// Cuts all parts into about eight pieces a thread: even shares, and work to steal for a thread that finishes early.
fn pieces(parts: &[Weight], n_threads: usize) -> Vec<Piece> {
    let total: usize = parts.iter().map(|p| p.n_rows).sum();
    let rows = if n_threads == 1 { total } else { total / (n_threads * 8) };
    let rows = (rows / ROW_GRANULE * ROW_GRANULE).max(ROW_GRANULE);
    let cut = |(part, weight): (usize, &Weight)| {
        let n_rows = weight.n_rows;
        (0..n_rows).step_by(rows).map(move |start| Piece { part, rows: start..(start + rows).min(n_rows) })
    };
    parts.iter().enumerate().flat_map(cut).collect()
}

/// A product's input, ready for every format.
struct Inputs<'a> {
    kernels: &'static Kernels,
    /// `[n_tokens, n_cols]`
    x: &'a [f32],
    n_tokens: usize,
    n_cols: usize,
    /// Quantised once and shared by all rows; formats of floats take them as they are.
    quantized: Option<Q8Rows>,
}

impl<'a> Inputs<'a> {
    fn new(linear: &Linear, cpu: &Cpu, storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let x = f32_values(storage, layout)?;
        let (n_tokens, n_cols) = rows_and_width(layout)?;
        if n_cols != linear.n_cols {
            candle_core::bail!("`{}` takes rows of {}, not {n_cols}", linear.parts[0].name, linear.n_cols);
        }
        let kernels = cpu.kernels;
        let is_quantized = linear.parts.iter().any(|p| p.format.is_quantized());
        let quantized = is_quantized.then(|| {
            let mut acts = cpu.buffers.take_quantized();
            cpu.run(|| quantize(kernels, x, n_tokens, n_cols, &mut acts));
            acts
        });
        Ok(Inputs { kernels, x, n_tokens, n_cols, quantized })
    }

    /// `[n_tokens, width]`, of which each piece of columns is filled by itself.
    fn fill(
        self,
        cpu: &Cpu,
        width: usize,
        pieces: &[Piece],
        fill: impl Fn(&Self, &Piece, TileMut<'_>) + Sync,
    ) -> (CpuStorage, Shape) {
        let mut out = cpu.buffers.take(self.n_tokens * width);
        let tiles = split_columns(&mut out, width, pieces.iter().map(|piece| piece.rows.len()));
        cpu.run(|| {
            let tiles = tiles.into_par_iter().zip(pieces).with_max_len(1);
            tiles.for_each(|(tile, piece)| fill(&self, piece, tile));
        });
        let shape = Shape::from((self.n_tokens, width));
        if let Some(acts) = self.quantized {
            cpu.buffers.give_quantized(acts);
        }
        (CpuStorage::F32(out), shape)
    }

    /// The products with these rows of a matrix.
    fn multiply(&self, weight: &Weight, rows: Range<usize>, tile: &mut TileMut<'_>) {
        let (format, bytes, n_cols) = (weight.format, weight.bytes(), self.n_cols);
        match &self.quantized {
            Some(acts) if weight.is_interleaved => {
                self.kernels.matmul_interleaved(format, bytes, n_cols, rows, acts, tile);
            }
            Some(acts) if format.is_quantized() => self.kernels.matmul_q8(format, bytes, n_cols, rows, acts, tile),
            _ => self.kernels.matmul_f32(format, bytes, n_cols, rows, self.x, tile),
        }
    }
}

/// The result of `op`, after which `x` is not needed any more.
fn used_up(compute: &Compute, x: Activations, op: &impl CustomOp1) -> Result<Activations> {
    let out = x.tensor()?.apply_op1_no_bwd(op)?;
    compute.reuse(x)?;
    Ok(Activations::Tensor(out))
}

struct MatMul<'a> {
    linear: &'a Linear,
    cpu: &'a Cpu,
}

impl CustomOp1 for MatMul<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Linear { parts, n_rows, pieces, .. } = self.linear;
        let inputs = Inputs::new(self.linear, self.cpu, storage, layout)?;
        Ok(inputs.fill(self.cpu, *n_rows, pieces, |inputs, piece, mut tile| {
            inputs.multiply(&parts[piece.part], piece.rows.clone(), &mut tile);
        }))
    }
}

/// The products with a gate and an up matrix, and what becomes of both: as the products are made, for those of many tokens
/// are too large for a cache.
struct Gated<'a> {
    linear: &'a Linear,
    cpu: &'a Cpu,
}

impl CustomOp1 for Gated<'_> {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        thread_local! {
            static BOTH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        let [gate, up] = &self.linear.parts[..] else { return Err(odd_halves(())) };
        if up.n_rows != gate.n_rows {
            return Err(odd_halves(()));
        }
        let inputs = Inputs::new(self.linear, self.cpu, storage, layout)?;
        let pieces = pieces(std::slice::from_ref(gate), self.cpu.n_threads());
        // Few tokens leave room for a long stream of weights, which is read faster.
        let at_once = if inputs.n_tokens > 8 { ROW_GRANULE } else { usize::MAX };
        let fill = |inputs: &Inputs<'_>, piece: &Range<usize>, mut tile: TileMut<'_>, both: &mut Vec<f32>| {
            for start in piece.clone().step_by(at_once) {
                let rows = start..piece.end.min(start.saturating_add(at_once));
                let n = inputs.n_tokens * rows.len();
                both.resize(both.len().max(2 * n), 0.0);
                let (gates, ups) = both[..2 * n].split_at_mut(n);
                inputs.multiply(gate, rows.clone(), &mut TileMut::whole(gates, rows.len()));
                inputs.multiply(up, rows.clone(), &mut TileMut::whole(ups, rows.len()));
                for (token, (gate, up)) in gates.chunks(rows.len()).zip(ups.chunks(rows.len())).enumerate() {
                    let out = &mut tile.row_mut(token)[start - piece.start..][..rows.len()];
                    inputs.kernels.gelu_tanh_mul(gate, up, out);
                }
            }
        };
        Ok(inputs.fill(self.cpu, gate.n_rows, &pieces, |inputs, piece, tile| {
            BOTH.with_borrow_mut(|both| fill(inputs, &piece.rows, tile, both));
        }))
    }
}

fn odd_halves<T>(_: T) -> Error {
    Error::Msg("a gate and an up matrix of the same shape were expected".into())
}

fn quantize(kernels: &Kernels, x: &[f32], n_tokens: usize, n_cols: usize, acts: &mut Q8Rows) {
    acts.resize(n_tokens, n_cols);
    let rows: Vec<_> = acts.rows_mut().collect();
    if n_tokens == 1 {
        rows.into_iter().for_each(|row| kernels.quantize_row(x, row));
    } else {
        rows.into_par_iter().zip(x.par_chunks(n_cols)).for_each(|(row, x)| kernels.quantize_row(x, row));
    }
}
