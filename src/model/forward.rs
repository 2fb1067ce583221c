//! The forward pass.

use super::{Cache, Chunk, KvCache, Model, ModelError};
use crate::ops::{self, Activations, AttentionShape, Compute, Residual, SequenceSpan, Step, rms_norm};

impl Model {
    /// One step for all sequences of the batch.
    ///
    /// Returns `[sum of n_logits, n_vocab]`, or nothing where no logits are wanted.
    pub(super) fn step(&self, batch: &mut [Chunk<'_, KvCache>]) -> Result<Option<Activations>, ModelError> {
        let (place, config) = (&self.placement, &self.config);
        let tokens: Vec<u32> = batch.iter().flat_map(|chunk| chunk.tokens).copied().collect();
        let positions = batch.iter().flat_map(|chunk| (0..chunk.tokens.len()).map(|i| chunk.cache.len() + i));
        let mut step = Step::new(positions, config.head_dim, config.rope_base);
        for i in 0..config.n_layers {
            step.add_layer(place.of(i), i, &self.attention_shape(i), &mut spans(batch, i))?;
        }

        let x = ops::embed(place.front(), &self.embedding, &tokens, (config.d_model as f32).sqrt())?; // [n_tokens, d_model]
        let is_decode = batch.iter().all(|c| c.tokens.len() == 1 && c.n_logits == 1 && c.hidden_sum.is_none());
        let logits = if is_decode {
            let logits = place.of(0).replayed(x, &step, |x, step| self.logits(&self.layers(x, step, batch)?))?;
            Some(logits)
        } else {
            let x = self.layers(x, &step, batch)?;
            self.sum_hidden(&x, batch)?;
            wanted_rows(&x, batch)?.map(|x| self.logits(&x)).transpose()?
        };
        for chunk in batch.iter_mut() {
            chunk.cache.advance(chunk.tokens.len());
        }
        Ok(logits)
    }

    /// All layers, as Gemma 2's report states them: pre-norm and post-norm around attention and around the feed-forward
    /// part, local and global layers in turn, capped scores. `x`: `[n_tokens, d_model]`, to the same where the output head
    /// is.
    fn layers(
        &self,
        x: Activations,
        step: &Step,
        batch: &mut [Chunk<'_, KvCache>],
    ) -> candle_core::Result<Activations> {
        let mut x = Residual::new(x, self.config.rms_eps);
        for (i, layer) in self.layers.iter().enumerate() {
            let c = self.placement.of(i);
            x = x.on(c)?;
            let h = x.normed(c, &layer.pre_attn_norm)?;
            let qkv = layer.wqkv.forward(c, h)?; // [n_tokens, (n_heads + 2 n_kv_heads) * head_dim]
            let a = ops::attention(c, qkv, step, i, &self.attention_shape(i), &mut spans(batch, i))?;
            x.add_normed(c, layer.wo.forward(c, a)?, &layer.post_attn_norm)?;

            let h = x.normed(c, &layer.pre_ffn_norm)?;
            let h = layer.w_gate_up.gated(c, h)?; // [n_tokens, d_ff]
            x.add_normed(c, layer.w_down.forward(c, h)?, &layer.post_ffn_norm)?;
        }
        x.on(self.head())?.into_inner()
    }

    /// The capped logits of hidden states: `[n_tokens, d_model]` to `[n_tokens, n_vocab]`.
    fn logits(&self, x: &Activations) -> candle_core::Result<Activations> {
        let c = self.head();
        let x = rms_norm(c, x, &self.output_norm, self.config.rms_eps)?;
        self.embedding.capped(c, x, self.config.final_softcap)
    }

    /// Where the output head is computed.
    pub(super) fn head(&self) -> &Compute {
        self.placement.of(self.config.n_layers)
    }

    /// Adds the hidden states of the chunks that want them to their sums.
    fn sum_hidden(&self, x: &Activations, batch: &mut [Chunk<'_, KvCache>]) -> Result<(), ModelError> {
        let c = self.head();
        let mut start = 0;
        for chunk in batch {
            let n_tokens = chunk.tokens.len();
            if let Some(sum) = &mut chunk.hidden_sum {
                let rows = x.rows(start..start + n_tokens)?;
                let rows = rms_norm(c, &rows, &self.output_norm, self.config.rms_eps)?;
                let n_sums = sum.len() / self.config.d_model;
                for (at, row) in rows.to_vec()?.chunks_exact(self.config.d_model).enumerate() {
                    let sum = &mut sum[at % n_sums * self.config.d_model..];
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
