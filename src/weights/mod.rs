//! One tensor source over GGUF and safetensors: names, shapes and the norm convention settled.
//!
//! [`Files`] finds the files of a model, [`Source`] reads their headers into a [`Config`], a [`Vocabulary`] and, on demand,
//! [`Tensors`]. Nothing behind this module knows which of the two formats a model came in. Matrices stay where they are
//! mapped; only norm vectors are converted. Everything a header claims is checked here, so that what comes later can trust
//! sizes: each number of [`Config`] is bounded, and each tensor has the shape that follows from it.

mod config;
mod error;
mod files;
mod json;
mod label;
mod names;
mod placement;
mod source;
mod table;
mod tensors;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use config::{Config, GgufNumber};
pub use error::WeightsError;
pub use files::{Files, HuggingFaceFiles, NamedBytes};
pub use placement::{PlaceError, Placed, Placement};
pub use source::Source;
pub use vocabulary::{JsonVocabulary, SpmVocabulary, TokenType, Vocabulary};

use crate::bundle::Bytes;
use crate::kernels::Format;
use names::{Part, Scheme};

/// A weight matrix where it lies in the mapped file: `[n_rows, n_cols]`, rows contiguous.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// The tensor's name in its file, for messages.
    pub name: String,
    /// Outputs.
    pub n_rows: usize,
    /// Inputs.
    pub n_cols: usize,
    /// How each row is stored.
    pub format: Format,
    /// Rows alternate by 16, see [`interleave`](crate::kernels::interleave); otherwise one lies behind the other.
    pub is_interleaved: bool,
    /// `n_rows * format.row_bytes(n_cols)` bytes.
    pub bytes: Bytes,
}

/// Everything a Gemma 2 model computes with, in this project's names.
pub struct Tensors {
    /// `[n_vocab, d_model]`; also the output head.
    pub embedding: Matrix,
    /// One for each layer.
    pub layers: Vec<LayerTensors>,
    /// `[d_model]`; norm vectors are factors (1 + w) whatever the file stores.
    pub output_norm: Vec<f32>,
}

/// The tensors of one layer.
pub struct LayerTensors {
    /// `[d_model]`, before attention.
    pub pre_attn_norm: Vec<f32>,
    /// `[n_heads * head_dim, d_model]`
    pub wq: Matrix,
    /// `[n_kv_heads * head_dim, d_model]`
    pub wk: Matrix,
    /// `[n_kv_heads * head_dim, d_model]`
    pub wv: Matrix,
    /// `[d_model, n_heads * head_dim]`
    pub wo: Matrix,
    /// `[d_model]`, on the attention branch before the add.
    pub post_attn_norm: Vec<f32>,
    /// `[d_model]`, before the feed-forward part.
    pub pre_ffn_norm: Vec<f32>,
    /// `[d_ff, d_model]`
    pub w_gate: Matrix,
    /// `[d_ff, d_model]`
    pub w_up: Matrix,
    /// `[d_model, d_ff]`
    pub w_down: Matrix,
    /// `[d_model]`, on the feed-forward branch before the add.
    pub post_ffn_norm: Vec<f32>,
}

/// Any tensor.
#[derive(Clone, Copy, Debug)]
pub enum Tensor<'a> {
    /// Factors, `[d_model]`.
    Norm(&'a [f32]),
    /// A weight matrix.
    Matrix(&'a Matrix),
}

impl Tensors {
    /// All tensors in reading order, with the names that they have in GGUF files.
    pub fn by_gguf_name(&self) -> Vec<(String, Tensor<'_>)> {
        let scheme = Scheme::Gguf;
        let mut all = vec![(scheme.embedding().to_owned(), Tensor::Matrix(&self.embedding))];
        for (number, layer) in self.layers.iter().enumerate() {
            let parts = [
                (Part::PreAttnNorm, Tensor::Norm(&layer.pre_attn_norm)),
                (Part::Wq, Tensor::Matrix(&layer.wq)),
                (Part::Wk, Tensor::Matrix(&layer.wk)),
                (Part::Wv, Tensor::Matrix(&layer.wv)),
                (Part::Wo, Tensor::Matrix(&layer.wo)),
                (Part::PostAttnNorm, Tensor::Norm(&layer.post_attn_norm)),
                (Part::PreFfnNorm, Tensor::Norm(&layer.pre_ffn_norm)),
                (Part::WGate, Tensor::Matrix(&layer.w_gate)),
                (Part::WUp, Tensor::Matrix(&layer.w_up)),
                (Part::WDown, Tensor::Matrix(&layer.w_down)),
                (Part::PostFfnNorm, Tensor::Norm(&layer.post_ffn_norm)),
            ];
            all.extend(parts.map(|(part, tensor)| (scheme.layer(number, part), tensor)));
        }
        all.push((scheme.output_norm().to_owned(), Tensor::Norm(&self.output_norm)));
        all
    }
}
