//! Gemma 2 as the paper states it.

use crate::error::Hint;
pub use crate::weights::Config;

/// One sequence's share of a batch: new tokens and the cache that holds all before them.
pub struct Chunk<'a, C> {
    /// Tokens at positions `cache.len()..cache.len() + tokens.len()`; never empty.
    pub tokens: &'a [u32],
    /// The sequence's cache; the new keys and values are added to it.
    pub cache: &'a mut C,
    /// Logits are wanted for this many of the last tokens (0 in the middle of a prompt, usually 1 at its end).
    pub n_logits: usize,
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
}

/// What the engine needs of a model; tests fake it.
pub trait LanguageModel: Send + 'static {
    /// Its cache.
    type Cache: Cache;
    /// Rows of logits.
    fn n_vocab(&self) -> usize;
    /// The context it was trained for.
    fn n_ctx_train(&self) -> usize;
    /// A cache for at most `n_ctx` tokens; memory is taken as it fills.
    fn new_cache(&self, n_ctx: usize) -> Self::Cache;
    /// One step for all sequences of the batch. Returns the wanted rows of logits, `[sum of n_logits, n_vocab]`, in
    /// the order of the chunks. A row never depends on what else is in the batch or on how a prompt was cut.
    ///
    /// # Errors
    /// A token outside the vocabulary, a chunk that does not fit its cache.
    fn forward(&self, batch: &mut [Chunk<'_, Self::Cache>]) -> Result<Vec<f32>, ModelError>;
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
