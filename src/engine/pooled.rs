//! What becomes of the hidden states of a text that is to be embedded.

use std::ops::Range;

/// How the hidden states of a text's tokens, after the last norm, become its embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the first token.
    First,
    /// That of the last token.
    Last,
    /// All of them.
    None,
}

/// The states so far.
pub(super) struct Pooled {
    pooling: Pooling,
    d_model: usize,
    /// `[d_model]`, the sum; where single ones count, `[n_tokens, d_model]`, of which there are none at first: who waits
    /// for a slot takes no memory.
    states: Vec<f64>,
}

impl Pooled {
    pub(super) fn new(pooling: Pooling, d_model: usize) -> Pooled {
        Pooled { pooling, d_model, states: Vec::new() }
    }

    /// Where a step adds the states of these tokens.
    pub(super) fn part(&mut self, tokens: Range<usize>) -> &mut [f64] {
        let sums = if self.pooling == Pooling::Mean { 0..1 } else { tokens };
        self.states.resize(self.states.len().max(sums.end * self.d_model), 0.0);
        &mut self.states[sums.start * self.d_model..sums.end * self.d_model]
    }

    /// The embedding of a text of `n_tokens`: a vector, and without pooling a vector for each token.
    pub(super) fn finish(&self, n_tokens: usize) -> Vec<f32> {
        let row = |at: usize| self.states.get(at * self.d_model..(at + 1) * self.d_model).unwrap_or_default();
        let as_f32 = |values: &[f64], divisor: f64| values.iter().map(|value| (value / divisor) as f32).collect();
        match self.pooling {
            Pooling::Mean => as_f32(row(0), n_tokens as f64),
            Pooling::First => as_f32(row(0), 1.0),
            Pooling::Last => as_f32(row(n_tokens.saturating_sub(1)), 1.0),
            Pooling::None => as_f32(&self.states, 1.0),
        }
    }
}
