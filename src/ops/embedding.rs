//! Rows of the embedding matrix.

use candle_core::{Error, Result, Tensor};
use rayon::prelude::*;

use super::{Activations, Compute, Linear};

/// The embeddings of `tokens`, each multiplied by `scale`: `[n_tokens, d_model]`.
///
/// # Errors
/// A token outside the vocabulary.
pub fn embed(compute: &Compute, embedding: &Linear, tokens: &[u32], scale: f32) -> Result<Activations> {
    let (n_vocab, width) = (embedding.n_rows(), embedding.n_cols());
    if let Some(&token) = tokens.iter().find(|&&t| t as usize >= n_vocab) {
        candle_core::bail!("token {token} is not in the vocabulary of {n_vocab}");
    }
    match compute {
        Compute::Cpu(cpu) => {
            let mut out = vec![0.0; tokens.len() * width];
            let fill = |(row, &token): (&mut [f32], &u32)| {
                embedding.dequantize_row(token as usize, row);
                cpu.kernels.scale(row, scale);
            };
            // A single row is not worth the way to another thread.
            match tokens {
                [token] => fill((&mut out, token)),
                _ => cpu.run(|| out.par_chunks_mut(width).zip(tokens).for_each(fill)),
            }
            Tensor::from_vec(out, (tokens.len(), width), compute.device()).map(Activations::Tensor)
        }
        // A few rows of a matrix that the host has anyway.
        Compute::Gpu(device) => {
            let mut out = vec![0.0; tokens.len() * width];
            for (row, &token) in out.chunks_exact_mut(width).zip(tokens) {
                embedding.dequantize_row(token as usize, row);
                row.iter_mut().for_each(|value| *value *= scale);
            }
            device.gpu.rows_of(&out, width).map(Activations::Gpu).map_err(Error::wrap)
        }
        Compute::Candle(device) => {
            let ids = Tensor::from_slice(tokens, tokens.len(), device)?;
            (embedding.candle_weight()?.index_select(&ids, 0)? * f64::from(scale)).map(Activations::Tensor)
        }
    }
}
