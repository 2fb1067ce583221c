//! Perplexity of a text: how well a model, in a given format, predicts it.

use std::ops::ControlFlow;

use rayon::prelude::*;

use crate::model::{Cache, Chunk, LanguageModel, ModelError};

/// Perplexity so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Chunks read.
    pub n_chunks: usize,
    /// Tokens scored.
    pub n_scored: usize,
    /// `exp` of the mean negative log-likelihood of a token.
    pub perplexity: f64,
    /// Standard error of the perplexity, tokens taken as independent.
    pub standard_error: f64,
}

/// Running sums of the scored tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    n: usize,
    total: f64,
    squares: f64,
}

impl Sums {
    fn estimate(self, n_chunks: usize) -> Estimate {
        let n = self.n as f64;
        let mean = self.total / n;
        let variance = (self.squares / n - mean * mean).max(0.0) / (n - 1.0).max(1.0);
        let perplexity = mean.exp();
        Estimate { n_chunks, n_scored: self.n, perplexity, standard_error: variance.sqrt() * perplexity }
    }
}

/// The usual definition (llama.cpp's): the tokens, `<bos>` in front, are cut into chunks of `n_ctx`, of which a rest is
/// left out; each chunk is read alone, its first token replaced by `<bos>`, and the tokens of its second half are scored.
///
/// Reads `n_step` tokens at a time, which bounds the memory for logits. After each chunk `on_chunk` gets the figures so
/// far and the number of chunks; `Break` ends it early. `None` where the text is shorter than a chunk.
///
/// # Errors
/// What the model says.
pub fn perplexity<M: LanguageModel>(
    model: &M,
    tokens: &[u32],
    n_ctx: usize,
    n_step: usize,
    on_chunk: &mut dyn FnMut(Estimate, usize) -> ControlFlow<()>,
) -> Result<Option<Estimate>, ModelError> {
    let n_chunks = tokens.len() / n_ctx;
    let mut sums = Sums::default();
    let mut last = None;
    for (number, chunk) in tokens.chunks_exact(n_ctx).enumerate() {
        let mut chunk = chunk.to_vec();
        chunk[0] = tokens[0];
        read_chunk(model, &chunk, n_step, &mut sums)?;
        let estimate = sums.estimate(number + 1);
        last = Some(estimate);
        if on_chunk(estimate, n_chunks).is_break() {
            break;
        }
    }
    Ok(last)
}

/// Adds the scores of a chunk's second half: row `i` of the logits predicts token `i + 1`.
fn read_chunk<M: LanguageModel>(model: &M, chunk: &[u32], n_step: usize, sums: &mut Sums) -> Result<(), ModelError> {
    let n_vocab = model.n_vocab();
    let first_scored = chunk.len() / 2;
    // The last token predicts one that is not there.
    let read = &chunk[..chunk.len() - 1];
    let mut cache = model.new_cache(chunk.len());
    for tokens in read.chunks(n_step.max(1)) {
        let start = cache.len();
        let end = start + tokens.len();
        let n_logits = end.saturating_sub(first_scored.max(start));
        let logits = model.forward(&mut [Chunk { tokens, cache: &mut cache, n_logits, hidden_sum: None }])?;
        let next = &chunk[end - n_logits + 1..end + 1];
        let scores: Vec<f64> =
            logits.par_chunks_exact(n_vocab).zip(next).map(|(row, next)| surprise(row, *next)).collect();
        for score in scores {
            sums.n += 1;
            sums.total += score;
            sums.squares += score * score;
        }
    }
    Ok(())
}

/// The negative log-likelihood of a token.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|x| f64::from((x - max).exp())).sum();
    f64::from(max) + total.ln() - f64::from(logits[token as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows four tokens; gives token `t` after token `s` the logit `10 * ((s + t) % 4)`, and counts what it was given.
    struct Table;

    struct Count(usize);

    impl Cache for Count {
        fn len(&self) -> usize {
            self.0
        }
        fn truncate(&mut self, n: usize) -> usize {
            self.0 = self.0.min(n);
            self.0
        }
    }

    fn row(token: u32) -> [f32; 4] {
        std::array::from_fn(|t| ((token as usize + t) % 4) as f32)
    }

    impl LanguageModel for Table {
        type Cache = Count;
        fn n_vocab(&self) -> usize {
            4
        }
        fn n_ctx_train(&self) -> usize {
            64
        }
        fn new_cache(&self, _: usize) -> Count {
            Count(0)
        }
        fn forward(&self, batch: &mut [Chunk<'_, Count>]) -> Result<Vec<f32>, ModelError> {
            let mut logits = Vec::new();
            for chunk in batch {
                chunk.cache.0 += chunk.tokens.len();
                let wanted = &chunk.tokens[chunk.tokens.len() - chunk.n_logits..];
                logits.extend(wanted.iter().flat_map(|t| row(*t)));
            }
            Ok(logits)
        }
    }

    #[test]
    fn the_second_half_of_each_chunk_is_scored_whatever_the_steps() {
        let tokens = [0, 1, 2, 3, 1, 1, 0, 2, 3, 3, 2, 1, 0, 1, 2, 0, 1, 2];
        let n_ctx = 8;
        // By hand: chunks begin with token 0; positions 4 to 6 predict 5 to 7.
        let mut scores = Vec::new();
        for chunk in tokens.chunks_exact(n_ctx) {
            for i in 4..7 {
                let row = row(chunk[i]);
                let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                scores.push(sum.ln() - f64::from(row[chunk[i + 1] as usize]));
            }
        }
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        let variance = scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / scores.len() as f64;
        for n_step in [1, 3, 4, 5, 100] {
            let mut seen = Vec::new();
            let on_chunk = &mut |estimate: Estimate, total: usize| {
                seen.push((estimate.n_chunks, total));
                ControlFlow::Continue(())
            };
            let found = perplexity(&Table, &tokens, n_ctx, n_step, on_chunk).unwrap().unwrap();
            assert_eq!((found.n_chunks, found.n_scored, &seen[..]), (2, 6, &[(1, 2), (2, 2)][..]));
            assert!((found.perplexity - mean.exp()).abs() < 1e-6, "{found:?}");
            let standard_error = (variance / 5.0).sqrt() * mean.exp();
            assert!((found.standard_error - standard_error).abs() < 1e-6, "{found:?}");
        }
    }

    #[test]
    fn a_text_shorter_than_a_chunk_has_no_perplexity_and_a_break_ends_it() {
        let none = perplexity(&Table, &[0, 1, 2], 8, 4, &mut |_, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(none, None);
        let first = perplexity(&Table, &[1; 32], 8, 4, &mut |_, _| ControlFlow::Break(())).unwrap();
        assert_eq!(first.map(|e| e.n_chunks), Some(1));
    }
}
