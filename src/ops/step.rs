//! What all layers of a step share.

use std::sync::{Arc, OnceLock};

use candle_core::{Error, Result};

use super::attention::check_room;
use super::{Compute, LayerCache, SequenceSpan};
use crate::gpu::{Gpu, StepPlan, StepTables};
use crate::kernels::AttentionShape;

/// Cosines and sines of the positions in a batch and, for the layers on a GPU, where the keys and values of its sequences
/// are.
///
/// Dimension `j` of a head pairs with `j + head_dim / 2`; the angle is `pos * base^(-2 j / head_dim)`, in F32
/// (RoFormer, in the half-split form).
pub struct Step {
    pub(super) half: usize,
    /// `[n_tokens, head_dim / 2]`
    pub(super) cos: Vec<f32>,
    /// `[n_tokens, head_dim / 2]`
    pub(super) sin: Vec<f32>,
    /// The first layer on the GPU, and what those from there on need.
    plan: Option<(usize, StepPlan)>,
    /// The same on it, from the first layer there on.
    tables: OnceLock<Arc<StepTables>>,
}

impl Step {
    /// Tables for the given positions, one for each row of the batch.
    pub fn new(positions: impl Iterator<Item = usize>, head_dim: usize, base: f32) -> Step {
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half).map(|j| 1.0 / base.powf((2 * j) as f32 / head_dim as f32)).collect();
        let (cos, sin) = positions
            .flat_map(|pos| frequencies.iter().map(move |f| (pos as f32 * f).sin_cos()))
            .map(|(s, c)| (c, s))
            .unzip();
        Step { half, cos, sin, plan: None, tables: OnceLock::new() }
    }

    /// Makes room in a layer's caches, where the GPU's kernels find them; layers are added in order. Elsewhere there is
    /// nothing to do.
    ///
    /// # Errors
    /// Caches that are too small; not enough memory on the device.
    pub fn add_layer(
        &mut self,
        compute: &Compute,
        layer: usize,
        shape: &AttentionShape,
        spans: &mut [SequenceSpan<'_>],
    ) -> Result<()> {
        let Compute::Gpu(device) = compute else { return Ok(()) };
        let mut on_gpu = Vec::with_capacity(spans.len());
        for SequenceSpan { rows, pos, cache } in spans {
            let LayerCache::Gpu(cache) = &mut **cache else {
                candle_core::bail!("a cache of another place under the GPU's kernels")
            };
            check_room(rows.len(), *pos, shape.window, cache.capacity())?;
            on_gpu.push(cache.span(&device.gpu, rows.clone(), *pos, shape.head_dim)?);
        }
        let new = || (layer, StepPlan::new(self.half, &self.cos, &self.sin));
        self.plan.get_or_insert_with(new).1.add_layer(&on_gpu).map_err(Error::wrap)
    }

    /// Cosines and sines of a row.
    pub(super) fn angles(&self, row: usize) -> (&[f32], &[f32]) {
        let range = row * self.half..(row + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// The tables on the GPU, and which of their layers `layer` is.
    pub(super) fn on_gpu(&self, gpu: &Gpu, layer: usize) -> Result<(Arc<StepTables>, usize)> {
        match &self.plan {
            Some((first, _)) if *first <= layer => Ok((self.tables(gpu)?, layer - first)),
            _ => candle_core::bail!("layer {layer} was not made ready for the GPU"),
        }
    }

    /// The tables on the GPU, uploaded the first time.
    pub(super) fn tables(&self, gpu: &Gpu) -> Result<Arc<StepTables>> {
        if let Some(tables) = self.tables.get() {
            return Ok(tables.clone());
        }
        let Some((_, plan)) = &self.plan else { candle_core::bail!("no layer was made ready for the GPU") };
        let new = Arc::new(StepTables::new(gpu, plan).map_err(Error::wrap)?);
        Ok(self.tables.get_or_init(|| new).clone())
    }

    pub(super) fn plan(&self) -> Option<&StepPlan> {
        self.plan.as_ref().map(|(_, plan)| plan)
    }
}
