//! The numbers that make a Gemma 2 a 2B, a 9B or a 27B: all read from the file.

/// Hyperparameters. Each field's comment gives the Hugging Face key and the GGUF key (without `gemma2.`).
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `num_hidden_layers`, `block_count`
    pub n_layers: usize,
    /// `hidden_size`, `embedding_length`
    pub d_model: usize,
    /// `intermediate_size`, `feed_forward_length`
    pub d_ff: usize,
    /// `num_attention_heads`, `attention.head_count`
    pub n_heads: usize,
    /// `num_key_value_heads`, `attention.head_count_kv`
    pub n_kv_heads: usize,
    /// `head_dim`, `attention.key_length`; not `d_model / n_heads`
    pub head_dim: usize,
    /// `vocab_size`; in GGUF the number of rows of the embedding
    pub n_vocab: usize,
    /// `max_position_embeddings`, `context_length`
    pub n_ctx_train: usize,
    /// `rms_norm_eps`, `attention.layer_norm_rms_epsilon`
    pub rms_eps: f32,
    /// `rope_theta`, `rope.freq_base` (10000 if absent)
    pub rope_base: f32,
    /// `query_pre_attn_scalar ^ -0.5`; GGUF has no key and follows llama.cpp's rule
    pub query_scale: f32,
    /// `attn_logit_softcapping`, `attn_logit_softcapping` (50 if absent)
    pub attn_softcap: f32,
    /// `final_logit_softcapping`, `final_logit_softcapping` (30 if absent)
    pub final_softcap: f32,
    /// `sliding_window`, `attention.sliding_window` (4096 if absent): keys a local layer's query sees, itself included
    pub sliding_window: usize,
    /// `layer_types`: true where the layer sees only the window; layers 0, 2, 4, … if absent
    pub local_layers: Vec<bool>,
}
