//! Attention with softcap and window.

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Mutex;

use super::kv_rows::KvRows;
use super::layer_cache::{HeadCache, LayerCache, ring_ranges};
use super::{Activations, Compute, Cpu, Step, candle_softcap, f32_values, rows_and_width};
use crate::kernels::{AttentionShape, AttentionState, KEY_BLOCK, Span, TileMut, split_columns};

/// Which rows of the batch are which positions of which sequence.
pub struct SequenceSpan<'a> {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub pos: usize,
    /// This layer's cache of the sequence; it holds the positions before `pos`.
    pub cache: &'a mut LayerCache,
}

/// Rotates queries and keys, adds keys and values to the caches, and attends.
///
/// `qkv`: `[n_tokens, (n_heads + 2 n_kv_heads) * head_dim]`, queries, keys, values side by side; used up. Returns
/// `[n_tokens, n_heads * head_dim]`; `layer` is the model's. Scores are scaled, capped (`softcap * tanh(s / softcap)`), masked, and go through a
/// softmax in F32; the mask is a range of positions.
pub fn attention(
    compute: &Compute,
    qkv: Activations,
    step: &Step,
    layer: usize,
    shape: &AttentionShape,
    spans: &mut [SequenceSpan<'_>],
) -> Result<Activations> {
    match compute {
        Compute::Cpu(cpu) => {
            let op = CpuAttention { cpu, step, shape, spans: Mutex::new(spans) };
            let out = qkv.tensor()?.apply_op1_no_bwd(&op)?;
            compute.reuse(qkv)?;
            Ok(Activations::Tensor(out))
        }
        Compute::Gpu(device) => {
            let (tables, layer) = step.on_gpu(&device.gpu, layer)?;
            device.gpu.attention(qkv.on_gpu()?, shape, &tables, layer).map(Activations::Gpu).map_err(Error::wrap)
        }
        Compute::Candle(device) => {
            let qkv = qkv.tensor()?;
            let parts: Result<Vec<Tensor>> =
                spans.iter_mut().map(|span| candle_attention(device, qkv, step, shape, span)).collect();
            Tensor::cat(&parts?, 0).map(Activations::Tensor)
        }
    }
}

/// The first query must still find the oldest key of its window after the last key of `n` is written.
pub(super) fn check_room(n: usize, pos: usize, window: Option<usize>, capacity: usize) -> Result<()> {
    if n + window.map_or(pos, |w| pos.min(w - 1)) > capacity {
        candle_core::bail!("{n} tokens at once do not fit a cache of {capacity}");
    }
    Ok(())
}

struct CpuAttention<'a, 'b> {
    cpu: &'a Cpu,
    step: &'a Step,
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
        let mut out = self.cpu.buffers.take(n_tokens * q_width);
        self.cpu.run(|| -> Result<()> {
            for span in spans.iter_mut() {
                self.store(qkv, width, span)?;
            }
            // One task for each tile of tokens and KV head; the query heads that share it share the loads of its keys.
            let group_width = q_width / shape.n_kv_heads;
            let mut left = &mut out[..];
            let mut tasks = Vec::new();
            for span in spans.iter() {
                let LayerCache::Cpu { heads, capacity } = &*span.cache else {
                    candle_core::bail!("a cache of candle's under our kernels")
                };
                for start in span.rows.clone().step_by(TILE_TOKENS) {
                    let rows = start..span.rows.end.min(start + TILE_TOKENS);
                    if rows.start * q_width != n_tokens * q_width - left.len() || rows.end > n_tokens {
                        candle_core::bail!("the sequences of a batch do not follow each other");
                    }
                    let (tile, rest) = std::mem::take(&mut left).split_at_mut(rows.len() * q_width);
                    left = rest;
                    let pos = span.pos + start - span.rows.start;
                    let widths = std::iter::repeat_n(group_width, shape.n_kv_heads);
                    let bands = split_columns(tile, q_width, widths).into_iter().zip(heads).enumerate();
                    tasks.extend(bands.map(|(kv_head, (out, cache))| QueryTile {
                        first_query: rows.start * width + kv_head * group_width,
                        first_row: rows.start,
                        pos,
                        cache,
                        capacity: *capacity,
                        out,
                    }));
                }
            }
            tasks.into_par_iter().with_max_len(1).for_each(|tile| self.attend(qkv, width, tile));
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), Shape::from((n_tokens, q_width))))
    }
}

/// Tokens whose queries look at keys together. More would share more loads, but keys and values come from the
/// second-level cache already, and the last blocks, which each token looks at alone, would weigh more.
const TILE_TOKENS: usize = 8;

/// Neighbouring tokens of a sequence, and the query heads that share one KV head.
struct QueryTile<'a> {
    /// Where the first token's queries begin in `qkv`.
    first_query: usize,
    /// Row of the batch of the first token.
    first_row: usize,
    /// Its position.
    pos: usize,
    cache: &'a HeadCache,
    capacity: usize,
    /// `[n_tokens, group * head_dim]`
    out: TileMut<'a>,
}

impl CpuAttention<'_, '_> {
    /// Writes the span's keys (rotated) and values into its cache.
    fn store(&self, qkv: &[f32], width: usize, span: &mut SequenceSpan<'_>) -> Result<()> {
        let AttentionShape { n_heads, n_kv_heads, head_dim, window, .. } = *self.shape;
        let (rows, pos) = (span.rows.clone(), span.pos);
        let LayerCache::Cpu { heads, capacity } = &mut *span.cache else {
            candle_core::bail!("a cache of candle's under our kernels")
        };
        check_room(rows.len(), pos, window, *capacity)?;
        heads.par_iter_mut().enumerate().for_each(|(head, cache)| {
            let mut rotated = vec![0.0; head_dim];
            for (i, row) in rows.clone().enumerate() {
                let row_values = &qkv[row * width..(row + 1) * width];
                let key = &row_values[(n_heads + head) * head_dim..][..head_dim];
                let value = &row_values[(n_heads + n_kv_heads + head) * head_dim..][..head_dim];
                let (cos, sin) = self.step.angles(row);
                rotated.copy_from_slice(key);
                self.cpu.kernels.rope(&mut rotated, cos, sin);
                let slot = cache.slot(pos + i, *capacity, head_dim);
                cache.keys.store(slot, &rotated, self.cpu.kernels);
                cache.values.store(slot, value, self.cpu.kernels);
            }
        });
        Ok(())
    }

    /// Attention of a tile's queries. All of them together look at the blocks of keys that each of them sees whole, so
    /// that these are loaded once; at the borders of what they see, each token's queries go alone. Either way a query
    /// meets the same blocks in the same order: its bits do not depend on the tile.
    fn attend(&self, qkv: &[f32], width: usize, mut tile: QueryTile<'_>) {
        let AttentionShape { head_dim, window, .. } = *self.shape;
        let kernels = self.cpu.kernels;
        let (n_tokens, group_width) = (tile.out.n_rows(), tile.out.width());
        let group = group_width / head_dim;
        let mut queries = Vec::with_capacity(n_tokens * group_width);
        for token in 0..n_tokens {
            queries.extend_from_slice(&qkv[tile.first_query + token * width..][..group_width]);
            let (cos, sin) = self.step.angles(tile.first_row + token);
            let heads = queries[token * group_width..].chunks_exact_mut(head_dim);
            heads.for_each(|head| kernels.rope(head, cos, sin));
        }
        let mut state = AttentionState::new();
        state.reset(n_tokens * group, head_dim);

        let first_seen = |token: usize| window.map_or(0, |w| (tile.pos + token + 1).saturating_sub(w));
        let start = first_seen(n_tokens - 1).next_multiple_of(KEY_BLOCK);
        let end = ((tile.pos + 1) / KEY_BLOCK * KEY_BLOCK).max(start);
        for token in 0..n_tokens {
            let seen_end = tile.pos + token + 1;
            let which = token * group..(token + 1) * group;
            self.attend_to(&mut state, which, &queries, first_seen(token)..start.min(seen_end), &tile);
        }
        self.attend_to(&mut state, 0..n_tokens * group, &queries, start..end, &tile);
        for token in 0..n_tokens {
            let seen_end = tile.pos + token + 1;
            let which = token * group..(token + 1) * group;
            self.attend_to(&mut state, which, &queries, end.min(seen_end)..seen_end, &tile);
        }

        kernels.attend_finish(&state, &mut queries);
        for (token, values) in queries.chunks_exact(group_width).enumerate() {
            tile.out.row_mut(token).copy_from_slice(values);
        }
    }

    /// Lets `which` of the queries look at the keys of a range of positions.
    fn attend_to(
        &self,
        state: &mut AttentionState,
        which: Range<usize>,
        queries: &[f32],
        positions: Range<usize>,
        tile: &QueryTile<'_>,
    ) {
        let AttentionShape { head_dim, scale, softcap, .. } = *self.shape;
        let softcap = Some(softcap);
        let mut first_position = positions.start;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for range in ring_ranges(positions, tile.capacity) {
            if let (KvRows::F16(keys), KvRows::F16(values)) = (&tile.cache.keys, &tile.cache.values) {
                let range_values = range.start * head_dim..range.end * head_dim;
                let (keys, values) = (&keys[range_values.clone()], &values[range_values]);
                let span = Span { keys, values, first_position, scale, softcap };
                self.cpu.kernels.attend(state, which.clone(), queries, &span);
                first_position += range.len();
                continue;
            }
            // Other types are decoded a block at a time, once for all queries of the tile.
            let mut start = range.start;
            while start < range.end {
                let end = range.end.min(start + KEY_BLOCK - first_position % KEY_BLOCK);
                tile.cache.keys.decode(start..end, head_dim, &mut keys);
                tile.cache.values.decode(start..end, head_dim, &mut values);
                let span = Span { keys: &keys, values: &values, first_position, scale, softcap };
                self.cpu.kernels.attend_f32(state, which.clone(), queries, &span);
                first_position += end - start;
                start = end;
            }
        }
    }
}

/// The same in candle's operations, for one sequence.
fn candle_attention(
    device: &Device,
    qkv: &Tensor,
    step: &Step,
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
        Tensor::from_slice(&values[start * step.half..(start + n) * step.half], (1, n, step.half), device)
    };
    let (cos, sin) = (table(&step.cos)?, table(&step.sin)?);
    let rotate = |x: Tensor| -> Result<Tensor> {
        let (a, b) = (x.narrow(D::Minus1, 0, step.half)?, x.narrow(D::Minus1, step.half, step.half)?);
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
