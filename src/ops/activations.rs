//! Activations, where they were computed.

use std::ops::Range;

use candle_core::{Error, Result, Storage, Tensor};
use rayon::prelude::*;

use super::{Compute, f32_values};
use crate::gpu;

/// Rows of activations, one for each token: `[n_rows, width]` in F32.
#[derive(Clone)]
pub enum Activations {
    /// On the host, or wherever candle computes.
    Tensor(Tensor),
    /// On a GPU of ours.
    Gpu(gpu::Rows),
}

impl Activations {
    /// The same rows where `compute` can take them: themselves, or a copy.
    ///
    /// # Errors
    /// Not enough memory there.
    pub fn on(self, compute: &Compute) -> Result<Activations> {
        match (compute, self) {
            (Compute::Gpu(device), Activations::Tensor(tensor)) => {
                let (_, width) = tensor.dims2()?;
                let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
                device.gpu.rows_of(&values, width).map(Activations::Gpu).map_err(Error::wrap)
            }
            (Compute::Cpu(_) | Compute::Candle(_), Activations::Gpu(rows)) => {
                let (n_rows, width) = (rows.n_rows(), rows.width());
                let values = rows.to_vec().map_err(Error::wrap)?;
                Tensor::from_vec(values, (n_rows, width), compute.device()).map(Activations::Tensor)
            }
            (_, here) => Ok(here),
        }
    }

    /// Some of the rows.
    ///
    /// # Errors
    /// Rows that are not there.
    pub fn rows(&self, range: Range<usize>) -> Result<Activations> {
        match self {
            Activations::Tensor(x) => x.narrow(0, range.start, range.len()).map(Activations::Tensor),
            Activations::Gpu(x) => x.narrow(range).map(Activations::Gpu).map_err(Error::wrap),
        }
    }

    /// All rows of `parts`, one after the other; nothing for no parts.
    ///
    /// # Errors
    /// Parts of several widths or places.
    pub fn concat(parts: &[Activations]) -> Result<Option<Activations>> {
        let (mut tensors, mut rows) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Activations::Tensor(x) => tensors.push(x),
                Activations::Gpu(x) => rows.push(x.clone()),
            }
        }
        match (tensors.is_empty(), rows.is_empty()) {
            (true, true) => Ok(None),
            (false, true) => Ok(Some(Activations::Tensor(Tensor::cat(&tensors, 0)?))),
            (true, false) => gpu::Rows::concat(&rows).map(|x| Some(Activations::Gpu(x))).map_err(Error::wrap),
            (false, false) => candle_core::bail!("activations of two places"),
        }
    }

    /// All values, row by row, on the host. The logits of a batch are megabytes: all threads copy.
    ///
    /// # Errors
    /// The device's.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match self {
            Activations::Tensor(x) => {
                let (storage, layout) = x.storage_and_layout();
                let Storage::Cpu(storage) = &*storage else { return x.flatten_all()?.to_vec1() };
                let mut values = Vec::new();
                let copies = f32_values(storage, layout)?.par_iter().with_min_len(1 << 16).copied();
                copies.collect_into_vec(&mut values);
                Ok(values)
            }
            Activations::Gpu(x) => x.to_vec().map_err(Error::wrap),
        }
    }

    /// For operations that are not on our GPU.
    pub(super) fn tensor(&self) -> Result<&Tensor> {
        match self {
            Activations::Tensor(x) => Ok(x),
            Activations::Gpu(_) => candle_core::bail!("activations on a GPU under an operation that is not"),
        }
    }

    /// For operations that are.
    pub(super) fn on_gpu(&self) -> Result<&gpu::Rows> {
        match self {
            Activations::Gpu(x) => Ok(x),
            Activations::Tensor(_) => candle_core::bail!("activations on the host under an operation of the GPU"),
        }
    }
}
