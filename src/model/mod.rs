//! Gemma 2 as the paper states it: layers in `forward.rs`, memory in `kv_cache.rs`.

mod fingerprint;
mod forward;
mod kv_cache;

pub use kv_cache::KvCache;

use std::io::{self, Read, Write};
use std::sync::Arc;

use rayon::prelude::*;

use crate::error::Hint;
use crate::ops::{Linear, Norm, Placement, Weight};
pub use crate::weights::Config;
use crate::weights::{LayerTensors, Matrix, Tensors};

/// One sequence's share of a batch: new tokens and the cache that holds all before them.
pub struct Chunk<'a, C> {
    /// Tokens at positions `cache.len()..cache.len() + tokens.len()`; never empty.
    pub tokens: &'a [u32],
    /// The sequence's cache; the new keys and values are added to it.
    pub cache: &'a mut C,
    /// Logits are wanted for this many of the last tokens (0 in the middle of a prompt, usually 1 at its end).
    pub n_logits: usize,
    /// Where wanted, `[d_model]` sums: the hidden states of the tokens, after the last norm, are added one after the other,
    /// so that a text has the same sum however it is cut. Or `[n_tokens, d_model]`: each token's state has its own sum.
    pub hidden_sum: Option<&'a mut [f64]>,
}

/// What remembers one sequence.
pub trait Cache: Send {
    /// Tokens held.
    fn len(&self) -> usize;
    /// Whether it holds none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Forgets all tokens from position `n` on and returns how many tokens are still usable: `n`, or 0 where a local
    /// layer no longer has the window that position `n` needs.
    fn truncate(&mut self, n: usize) -> usize;
    /// Takes the first `n` tokens of another sequence in place of all of its own. False, and nothing is changed, where
    /// `from` has fewer or no longer has the window that position `n` needs.
    fn copy_prefix(&mut self, _from: &Self, _n: usize) -> bool {
        false
    }
    /// Writes what is held.
    ///
    /// # Errors
    /// The writer's; `Unsupported` where the model has no form for it.
    fn save(&self, _out: &mut dyn Write) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Fills an empty cache with `n` tokens, as [`Cache::save`] wrote them for this model. What is read is not to be
    /// trusted; after an error the cache is of no use.
    ///
    /// # Errors
    /// The reader's; `InvalidData` where the bytes make no sense, `Unsupported` as for `save`.
    fn restore(&mut self, _n: usize, _input: &mut dyn Read) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What the engine needs of a model; tests fake it.
pub trait LanguageModel: Send + 'static {
    /// Its cache.
    type Cache: Cache;
    /// Rows of logits.
    fn n_vocab(&self) -> usize;
    /// The context it was trained for.
    fn n_ctx_train(&self) -> usize;
    /// Width of the hidden states that [`Chunk::hidden_sum`] adds up; 0 where the model gives none.
    fn d_model(&self) -> usize {
        0
    }
    /// What tells it from other models, whose caches mean nothing to it.
    fn fingerprint(&self) -> [u8; 32] {
        [0; 32]
    }
    /// A cache for at most `n_ctx` tokens; memory is taken as it fills.
    fn new_cache(&self, n_ctx: usize) -> Self::Cache;
    /// One step for all sequences of the batch. Returns the wanted rows of logits, `[sum of n_logits, n_vocab]`, in
    /// the order of the chunks. A row never depends on what else is in the batch or on how a prompt was cut.
    ///
    /// # Errors
    /// A token outside the vocabulary, a chunk that does not fit its cache.
    fn forward(&self, batch: &mut [Chunk<'_, Self::Cache>]) -> Result<Vec<f32>, ModelError>;
    /// Runs `work`, which has this many parts and shares them out with rayon, on the threads that compute this model where
    /// it has such: they have nothing to do between two steps.
    fn share(&self, _n_parts: usize, work: &mut (dyn FnMut() + Send)) {
        work();
    }
}

/// The forward pass could not run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Candle's own error: a shape that does not fit.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// See the text.
    #[error("{0}")]
    Invalid(String),
}

impl Hint for ModelError {}

/// A Gemma 2 with its weights where they lie in the mapped file.
pub struct Model {
    config: Config,
    placement: Placement,
    max_chunk: usize,
    embedding: Linear, // [n_vocab, d_model]; also the output head
    layers: Vec<Layer>,
    output_norm: Norm, // [d_model]
}

/// One layer's weights. Norms are `[d_model]` and hold `1 + w`.
struct Layer {
    pre_attn_norm: Norm,
    wqkv: Linear, // [(n_heads + 2 n_kv_heads) * head_dim, d_model]
    wo: Linear,   // [d_model, n_heads * head_dim]
    post_attn_norm: Norm,
    pre_ffn_norm: Norm,
    w_gate_up: Linear, // [2 d_ff, d_model]
    w_down: Linear,    // [d_model, d_ff]
    post_ffn_norm: Norm,
}

impl Model {
    /// Takes the tensors as they are: where our CPU kernels compute, nothing is read or converted here. Parts of
    /// `placement` are the layers, and then the output norm with the output head.
    /// `max_chunk` is the most tokens of one sequence in a step; local layers keep room for it beside their window.
    ///
    /// # Errors
    /// Tensors whose bytes do not match their shapes.
    pub fn new(
        config: Config,
        tensors: Tensors,
        placement: impl Into<Placement>,
        max_chunk: usize,
    ) -> Result<Model, ModelError> {
        let placement = placement.into();
        let Tensors { embedding, layers, output_norm } = tensors;
        let layer = |(i, t): (usize, LayerTensors)| -> Result<Layer, ModelError> {
            let linear = |parts: Vec<Matrix>| Linear::new(placement.of(i), parts.into_iter().map(weight).collect());
            let norm = |factors: Vec<f32>| Norm::new(placement.of(i), factors);
            Ok(Layer {
                pre_attn_norm: norm(t.pre_attn_norm)?,
                wqkv: linear(vec![t.wq, t.wk, t.wv])?,
                wo: linear(vec![t.wo])?,
                post_attn_norm: norm(t.post_attn_norm)?,
                pre_ffn_norm: norm(t.pre_ffn_norm)?,
                w_gate_up: linear(vec![t.w_gate, t.w_up])?,
                w_down: linear(vec![t.w_down])?,
                post_ffn_norm: norm(t.post_ffn_norm)?,
            })
        };
        let layers = layers.into_iter().enumerate().map(layer).collect::<Result<Vec<Layer>, ModelError>>()?;
        let unfit = placement.front().kv_types().into_iter().find(|one| one.row_bytes(config.head_dim).is_none());
        if let Some(kv_type) = unfit {
            return Err(ModelError::Invalid(format!(
                "a cache of type {} does not hold heads of {} values",
                kv_type.name(),
                config.head_dim
            )));
        }
        if layers.len() != config.n_layers || config.local_layers.len() != config.n_layers {
            return Err(ModelError::Invalid(format!(
                "{} layers where the configuration says {}",
                layers.len(),
                config.n_layers
            )));
        }
        let head = placement.of(config.n_layers);
        let embedding = Linear::new(head, vec![weight(embedding)])?;
        let output_norm = Norm::new(head, output_norm)?;
        Ok(Model { config, placement, max_chunk: max_chunk.max(1), embedding, layers, output_norm })
    }

    /// Its hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn check(&self, batch: &[Chunk<'_, KvCache>]) -> Result<(), ModelError> {
        for chunk in batch {
            let (len, n, n_ctx) = (chunk.cache.len(), chunk.tokens.len(), chunk.cache.n_ctx());
            let refuse = |text: String| Err(ModelError::Invalid(text));
            if n == 0 || chunk.n_logits > n {
                return refuse(format!("{} rows of logits for {n} tokens", chunk.n_logits));
            }
            let d_model = self.config.d_model;
            if chunk.hidden_sum.as_ref().is_some_and(|sum| ![d_model, n * d_model].contains(&sum.len())) {
                return refuse(format!("a sum of hidden states has {d_model} values"));
            }
            if n > self.max_chunk {
                return refuse(format!("{n} tokens in one chunk, of which {} are the most", self.max_chunk));
            }
            if len + n > n_ctx {
                return refuse(format!("{len} and {n} tokens do not fit a context of {n_ctx}"));
            }
        }
        Ok(())
    }

    /// Where logits are not numbers, some weight is not: find it and name it. Reads every weight, once, before failing.
    fn blame_nan(&self) -> ModelError {
        let linears = self.layers.iter().flat_map(|l| [&l.wqkv, &l.wo, &l.w_gate_up, &l.w_down]);
        let culprit = std::iter::once(&self.embedding).chain(linears).find_map(Linear::first_not_finite);
        ModelError::Invalid(match culprit {
            Some((name, row)) => {
                format!("tensor `{name}` holds a value that is no number, in row {row}: the file is damaged")
            }
            None => "the result is no number although all weights are finite".into(),
        })
    }
}

fn weight(matrix: Matrix) -> Weight {
    let Matrix { name, n_rows, n_cols, format, is_interleaved, bytes } = matrix;
    Weight { name, n_rows, n_cols, format, is_interleaved, bytes: Arc::new(bytes) }
}

impl LanguageModel for Model {
    type Cache = KvCache;

    fn n_vocab(&self) -> usize {
        self.config.n_vocab
    }

    fn n_ctx_train(&self) -> usize {
        self.config.n_ctx_train
    }

    fn d_model(&self) -> usize {
        self.config.d_model
    }

    fn fingerprint(&self) -> [u8; 32] {
        fingerprint::fingerprint(self)
    }

    fn new_cache(&self, n_ctx: usize) -> KvCache {
        KvCache::new(&self.placement, &self.config, n_ctx, self.max_chunk)
    }

    fn forward(&self, batch: &mut [Chunk<'_, KvCache>]) -> Result<Vec<f32>, ModelError> {
        self.check(batch)?;
        let n_tokens = batch.iter().map(|chunk| chunk.tokens.len()).sum();
        let (logits, has_nan) = self.placement.of(0).install(n_tokens, || {
            let mut logits = Vec::new();
            if let Some(rows) = self.step(batch)? {
                logits = rows.to_vec()?;
                self.head().reuse(rows)?;
            }
            // Without a way out of the loop, which then is one over vectors.
            let count = |values: &[f32]| values.iter().map(|v| u32::from(v.is_nan())).sum::<u32>();
            let has_nan = match rayon::current_thread_index() {
                Some(_) => logits.par_chunks(1 << 16).any(|values| count(values) > 0),
                // Waking threads would take longer.
                None => logits.chunks(1 << 16).any(|values| count(values) > 0),
            };
            Ok::<_, ModelError>((logits, has_nan))
        })?;
        let mut sums = batch.iter().filter_map(|chunk| chunk.hidden_sum.as_deref());
        if has_nan || sums.any(|sum| sum.iter().any(|v| v.is_nan())) {
            return Err(self.blame_nan());
        }
        Ok(logits)
    }

    fn share(&self, n_parts: usize, work: &mut (dyn FnMut() + Send)) {
        self.placement.front().install(n_parts, work);
    }
}
