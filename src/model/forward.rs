//! The forward pass.

use super::{Cache, Chunk, KvCache, Model, ModelError};
use crate::ops::{self, Activations, AttentionShape, Compute, Rope, SequenceSpan, add, geglu, rms_norm, softcap};

impl Model {
    /// One step for all sequences of the batch, as Gemma 2's report states it: pre-norm and post-norm around attention
    /// and around the feed-forward part, local and global layers in turn, capped scores and capped logits.
    ///
    /// Returns `[sum of n_logits, n_vocab]`, or nothing where no logits are wanted.
    pub(super) fn step(&self, batch: &mut [Chunk<'_, KvCache>]) -> Result<Option<Activations>, ModelError> {
        let (place, config) = (&self.placement, &self.config);
        let tokens: Vec<u32> = batch.iter().flat_map(|chunk| chunk.tokens).copied().collect();
        let positions = batch.iter().flat_map(|chunk| (0..chunk.tokens.len()).map(|i| chunk.cache.len() + i));
        let rope = Rope::new(positions, config.head_dim, config.rope_base);

        let mut x = ops::embed(place.front(), &self.embedding, &tokens, (config.d_model as f32).sqrt())?; // [n_tokens, d_model]
        for (i, layer) in self.layers.iter().enumerate() {
            let c = place.of(i);
            x = x.on(c)?;
            let h = rms_norm(c, &x, &layer.pre_attn_norm, config.rms_eps)?;
            let qkv = layer.wqkv.forward(c, &h)?; // [n_tokens, (n_heads + 2 n_kv_heads) * head_dim]
            let a = ops::attention(c, qkv, &rope, &self.attention_shape(i), &mut spans(batch, i))?;
            let a = layer.wo.forward(c, &a)?; // [n_tokens, d_model]
            x = add(c, x, &rms_norm(c, &a, &layer.post_attn_norm, config.rms_eps)?)?;

            let h = rms_norm(c, &x, &layer.pre_ffn_norm, config.rms_eps)?;
            let h = geglu(c, &layer.w_gate_up.forward(c, &h)?)?; // [n_tokens, d_ff]
            let f = layer.w_down.forward(c, &h)?; // [n_tokens, d_model]
            x = add(c, x, &rms_norm(c, &f, &layer.post_ffn_norm, config.rms_eps)?)?;
        }
        for chunk in batch.iter_mut() {
            chunk.cache.advance(chunk.tokens.len());
        }

        let c = place.of(config.n_layers);
        let x = x.on(c)?;
        self.sum_hidden(c, &x, batch)?;
        let Some(x) = wanted_rows(&x, batch)? else { return Ok(None) }; // [sum of n_logits, d_model]
        let x = rms_norm(c, &x, &self.output_norm, config.rms_eps)?;
        Ok(Some(softcap(c, self.embedding.forward(c, &x)?, config.final_softcap)?))
    }

    /// Adds the hidden states of the chunks that want them to their sums.
    fn sum_hidden(&self, c: &Compute, x: &Activations, batch: &mut [Chunk<'_, KvCache>]) -> Result<(), ModelError> {
        let mut start = 0;
        for chunk in batch {
            let n_tokens = chunk.tokens.len();
            if let Some(sum) = &mut chunk.hidden_sum {
                let rows = x.rows(start..start + n_tokens)?;
                let rows = rms_norm(c, &rows, &self.output_norm, self.config.rms_eps)?;
                for row in rows.to_vec()?.chunks_exact(self.config.d_model) {
                    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
                }
            }
            start += n_tokens;
        }
        Ok(())
    }

    fn attention_shape(&self, layer: usize) -> AttentionShape {
        let config = &self.config;
        AttentionShape {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            scale: config.query_scale,
            softcap: config.attn_softcap,
            window: config.local_layers[layer].then_some(config.sliding_window),
        }
    }
}

/// Each chunk's rows in the batch, with its cache of one layer.
fn spans<'a>(batch: &'a mut [Chunk<'_, KvCache>], layer: usize) -> Vec<SequenceSpan<'a>> {
    let mut row = 0;
    let span = |chunk: &'a mut Chunk<'_, KvCache>| {
        let rows = row..row + chunk.tokens.len();
        row = rows.end;
        let pos = chunk.cache.len();
        SequenceSpan { rows, pos, cache: &mut chunk.cache.layers[layer] }
    };
    batch.iter_mut().map(span).collect()
}

/// The last `n_logits` rows of each chunk.
fn wanted_rows(x: &Activations, batch: &[Chunk<'_, KvCache>]) -> Result<Option<Activations>, ModelError> {
    let mut end = 0;
    let mut parts = Vec::new();
    for chunk in batch {
        end += chunk.tokens.len();
        if chunk.n_logits > 0 {
            parts.push(x.rows(end - chunk.n_logits..end)?);
        }
    }
    Ok(Activations::concat(&parts)?)
}
