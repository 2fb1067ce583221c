//! Rotary positions, and attention with softcap and window.

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Mutex;

use super::layer_cache::{HeadCache, LayerCache, ring_ranges};
use super::{Compute, Cpu, candle_softcap, f32_values, rows_and_width};
use crate::kernels::{AttentionState, Span};

/// Sizes and constants of attention in one layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; query head `h` reads head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Values in a head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Cap on the scaled scores.
    pub softcap: f32,
    /// Keys a query sees, itself included; `None` sees all.
    pub window: Option<usize>,
}

/// Which rows of the batch are which positions of which sequence.
pub struct SequenceSpan<'a> {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub pos: usize,
    /// This layer's cache of the sequence; it holds the positions before `pos`.
    pub cache: &'a mut LayerCache,
}

/// Cosines and sines of the positions in a batch, shared by all layers.
///
/// Dimension `j` of a head pairs with `j + head_dim / 2`; the angle is `pos * base^(-2 j / head_dim)`, in F32
/// (RoFormer, in the half-split form).
pub struct Rope {
    half: usize,
    /// `[n_tokens, head_dim / 2]`
    cos: Vec<f32>,
    /// `[n_tokens, head_dim / 2]`
    sin: Vec<f32>,
}

impl Rope {
    /// Tables for the given positions, one for each row of the batch.
    pub fn new(positions: impl Iterator<Item = usize>, head_dim: usize, base: f32) -> Rope {
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half).map(|j| 1.0 / base.powf((2 * j) as f32 / head_dim as f32)).collect();
        let (cos, sin) = positions
            .flat_map(|pos| frequencies.iter().map(move |f| (pos as f32 * f).sin_cos()))
            .map(|(s, c)| (c, s))
            .unzip();
        Rope { half, cos, sin }
    }

    fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let range = row * self.half..(row + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Rotates queries and keys, adds keys and values to the caches, and attends.
///
/// `qkv`: `[n_tokens, (n_heads + 2 n_kv_heads) * head_dim]`, queries, keys, values side by side. Returns
/// `[n_tokens, n_heads * head_dim]`. Scores are scaled, capped (`softcap * tanh(s / softcap)`), masked, and go through a
/// softmax in F32; the mask is a range of positions.
pub fn attention(
    compute: &Compute,
    qkv: &Tensor,
    rope: &Rope,
    shape: &AttentionShape,
    spans: &mut [SequenceSpan<'_>],
) -> Result<Tensor> {
    match compute {
        Compute::Cpu(cpu) => qkv.apply_op1_no_bwd(&CpuAttention { cpu, rope, shape, spans: Mutex::new(spans) }),
        Compute::Candle(device) => {
            let parts: Result<Vec<Tensor>> =
                spans.iter_mut().map(|span| candle_attention(device, qkv, rope, shape, span)).collect();
            Tensor::cat(&parts?, 0)
        }
    }
}

struct CpuAttention<'a, 'b> {
    cpu: &'a Cpu,
    rope: &'a Rope,
    shape: &'a AttentionShape,
    /// A custom op is called with `&self`; the lock is never waited for.
    spans: Mutex<&'a mut [SequenceSpan<'b>]>,
}

impl CustomOp1 for CpuAttention<'_, '_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = f32_values(storage, layout)?;
        let (n_tokens, width) = rows_and_width(layout)?;
        let shape = self.shape;
        let (q_width, kv_width) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        if width != q_width + 2 * kv_width {
            candle_core::bail!("attention takes rows of {}, not {width}", q_width + 2 * kv_width);
        }
        let mut spans = self.spans.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let spans: &mut [SequenceSpan<'_>] = &mut spans;
        let mut out = vec![0.0; n_tokens * q_width];
        self.cpu.pool.install(|| -> Result<()> {
            for span in spans.iter_mut() {
                self.store(qkv, width, span)?;
            }
            // One task for each token and KV head; the heads that share it share the loads of its keys.
            let group_width = q_width / shape.n_kv_heads;
            let spans: Vec<(&Range<usize>, usize, &LayerCache)> =
                spans.iter().map(|s| (&s.rows, s.pos, &*s.cache)).collect();
            out.par_chunks_mut(group_width).enumerate().try_for_each(|(task, out)| {
                let (row, kv_head) = (task / shape.n_kv_heads, task % shape.n_kv_heads);
                let Some((rows, pos, cache)) = spans.iter().find(|(rows, ..)| rows.contains(&row)) else {
                    candle_core::bail!("row {row} of the batch belongs to no sequence");
                };
                let LayerCache::Cpu { heads, capacity } = cache else {
                    candle_core::bail!("a cache of candle's under our kernels")
                };
                let queries = &qkv[row * width + kv_head * group_width..][..group_width];
                self.attend(queries, row, pos + row - rows.start, &heads[kv_head], *capacity, out);
                Ok(())
            })
        })?;
        Ok((CpuStorage::F32(out), Shape::from((n_tokens, q_width))))
    }
}

impl CpuAttention<'_, '_> {
    /// Writes the span's keys (rotated) and values into its cache.
    fn store(&self, qkv: &[f32], width: usize, span: &mut SequenceSpan<'_>) -> Result<()> {
        let AttentionShape { n_heads, n_kv_heads, head_dim, window, .. } = *self.shape;
        let (rows, pos) = (span.rows.clone(), span.pos);
        let LayerCache::Cpu { heads, capacity } = &mut *span.cache else {
            candle_core::bail!("a cache of candle's under our kernels")
        };
        // The first query must still find the oldest key of its window after the last key is written.
        let needed = rows.len() + window.map_or(pos, |w| pos.min(w - 1));
        if needed > *capacity {
            candle_core::bail!("{} tokens at once do not fit a cache of {capacity}", rows.len());
        }
        heads.par_iter_mut().enumerate().for_each(|(head, cache)| {
            let mut rotated = vec![0.0; head_dim];
            for (i, row) in rows.clone().enumerate() {
                let row_values = &qkv[row * width..(row + 1) * width];
                let key = &row_values[(n_heads + head) * head_dim..][..head_dim];
                let value = &row_values[(n_heads + n_kv_heads + head) * head_dim..][..head_dim];
                let (cos, sin) = self.rope.row(row);
                rotated.copy_from_slice(key);
                self.cpu.kernels.rope(&mut rotated, cos, sin);
                let (key_slot, value_slot) = cache.slot(pos + i, *capacity, head_dim);
                self.cpu.kernels.f32_to_f16(&rotated, key_slot);
                self.cpu.kernels.f32_to_f16(value, value_slot);
            }
        });
        Ok(())
    }

    /// Attention of the query heads that share one KV head, at position `pos`; `queries` and `out`: `[group, head_dim]`.
    fn attend(&self, queries: &[f32], row: usize, pos: usize, cache: &HeadCache, capacity: usize, out: &mut [f32]) {
        let AttentionShape { head_dim, scale, softcap, window, .. } = *self.shape;
        let kernels = self.cpu.kernels;
        let (cos, sin) = self.rope.row(row);
        let mut rotated = queries.to_vec();
        rotated.chunks_exact_mut(head_dim).for_each(|head| kernels.rope(head, cos, sin));
        let first = window.map_or(0, |w| (pos + 1).saturating_sub(w));
        let mut state = AttentionState::new();
        state.reset(queries.len() / head_dim, head_dim);
        let mut first_position = first;
        for range in ring_ranges(first..pos + 1, capacity) {
            let n_keys = range.len();
            let (keys, values) = cache.rows(range, head_dim);
            kernels.attend(&mut state, &rotated, &Span { keys, values, first_position, scale, softcap: Some(softcap) });
            first_position += n_keys;
        }
        kernels.attend_finish(&state, out);
    }
}

/// The same in candle's operations, for one sequence.
fn candle_attention(
    device: &Device,
    qkv: &Tensor,
    rope: &Rope,
    shape: &AttentionShape,
    span: &mut SequenceSpan<'_>,
) -> Result<Tensor> {
    let AttentionShape { n_heads, n_kv_heads, head_dim, scale, softcap, window } = *shape;
    let (start, n) = (span.rows.start, span.rows.len());
    let qkv = qkv.narrow(0, start, n)?;
    let heads = |first: usize, count: usize| -> Result<Tensor> {
        qkv.narrow(1, first * head_dim, count * head_dim)?.reshape((n, count, head_dim))?.transpose(0, 1)?.contiguous()
    };
    let table = |values: &[f32]| {
        Tensor::from_slice(&values[start * rope.half..(start + n) * rope.half], (1, n, rope.half), device)
    };
    let (cos, sin) = (table(&rope.cos)?, table(&rope.sin)?);
    let rotate = |x: Tensor| -> Result<Tensor> {
        let (a, b) = (x.narrow(D::Minus1, 0, rope.half)?, x.narrow(D::Minus1, rope.half, rope.half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], D::Minus1)
    };
    let q = rotate(heads(0, n_heads)?)?;
    let mut k = rotate(heads(n_heads, n_kv_heads)?)?;
    let mut v = heads(n_heads + n_kv_heads, n_kv_heads)?;
    let LayerCache::Candle(cache) = &mut *span.cache else { candle_core::bail!("a cache of our kernels under candle") };
    if let Some((old_k, old_v)) = cache.take() {
        // After a truncation the cache may hold more than the positions before this span.
        k = Tensor::cat(&[old_k.narrow(1, 0, span.pos)?, k], 1)?;
        v = Tensor::cat(&[old_v.narrow(1, 0, span.pos)?, v], 1)?;
    }
    *cache = Some((k.clone(), v.clone()));

    let n_keys = span.pos + n;
    let mask = (0..n).flat_map(|i| {
        let pos = span.pos + i;
        let first = window.map_or(0, |w| (pos + 1).saturating_sub(w));
        (0..n_keys).map(move |key| if (first..=pos).contains(&key) { 0.0 } else { f32::NEG_INFINITY })
    });
    let mask = Tensor::from_vec(mask.collect::<Vec<f32>>(), (1, n, n_keys), device)?;
    let group = n_heads / n_kv_heads;
    let repeat = |x: &Tensor| -> Result<Tensor> {
        x.unsqueeze(1)?.expand((n_kv_heads, group, n_keys, head_dim))?.reshape((n_heads, n_keys, head_dim))
    };
    let scores = (q.matmul(&repeat(&k)?.transpose(1, 2)?.contiguous()?)? * f64::from(scale))?;
    let scores = candle_softcap(&scores, softcap)?.broadcast_add(&mask)?;
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&repeat(&v)?.contiguous()?)?.transpose(0, 1)?.reshape((n, n_heads * head_dim))?.to_dtype(DType::F32)
}
