//! The names that tensors have in each file format.

/// A file format's naming, and its convention for norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// As llama.cpp's converter names them; norms are stored as factors, 1 + w.
    Gguf,
    /// As transformers names them; norms are stored as w.
    HuggingFace,
}

/// The tensors that each layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    PreAttnNorm,
    Wq,
    Wk,
    Wv,
    Wo,
    PostAttnNorm,
    PreFfnNorm,
    WGate,
    WUp,
    WDown,
    PostFfnNorm,
}

/// Part, its name in GGUF behind `blk.N.`, its name in safetensors behind `model.layers.N.`.
const LAYER: [(Part, &str, &str); 11] = [
    (Part::PreAttnNorm, "attn_norm.weight", "input_layernorm.weight"),
    (Part::Wq, "attn_q.weight", "self_attn.q_proj.weight"),
    (Part::Wk, "attn_k.weight", "self_attn.k_proj.weight"),
    (Part::Wv, "attn_v.weight", "self_attn.v_proj.weight"),
    (Part::Wo, "attn_output.weight", "self_attn.o_proj.weight"),
    (Part::PostAttnNorm, "post_attention_norm.weight", "post_attention_layernorm.weight"),
    (Part::PreFfnNorm, "ffn_norm.weight", "pre_feedforward_layernorm.weight"),
    (Part::WGate, "ffn_gate.weight", "mlp.gate_proj.weight"),
    (Part::WUp, "ffn_up.weight", "mlp.up_proj.weight"),
    (Part::WDown, "ffn_down.weight", "mlp.down_proj.weight"),
    (Part::PostFfnNorm, "post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
];

impl Scheme {
    /// The embedding.
    pub fn embedding(self) -> &'static str {
        match self {
            Scheme::Gguf => "token_embd.weight",
            Scheme::HuggingFace => "model.embed_tokens.weight",
        }
    }

    /// The norm behind the last layer.
    pub fn output_norm(self) -> &'static str {
        match self {
            Scheme::Gguf => "output_norm.weight",
            Scheme::HuggingFace => "model.norm.weight",
        }
    }

    /// The output matrix: a Gemma 2 has none, but some tools write a copy of the embedding under this name.
    pub fn output_matrix(self) -> &'static str {
        match self {
            Scheme::Gguf => "output.weight",
            Scheme::HuggingFace => "lm_head.weight",
        }
    }

    /// A tensor of a layer.
    pub fn layer(self, layer: usize, part: Part) -> String {
        let (_, gguf, hugging_face) = LAYER[part as usize];
        match self {
            Scheme::Gguf => format!("blk.{layer}.{gguf}"),
            Scheme::HuggingFace => format!("model.layers.{layer}.{hugging_face}"),
        }
    }

    /// What to add to a stored norm to get the factor.
    pub fn norm_offset(self) -> f32 {
        match self {
            Scheme::Gguf => 0.0,
            Scheme::HuggingFace => 1.0,
        }
    }

    /// Whether a tensor of this name may be left out: it holds RoPE's frequencies, which follow from the configuration.
    pub fn is_derived(self, name: &str) -> bool {
        match self {
            Scheme::Gguf => name == "rope_freqs.weight",
            Scheme::HuggingFace => name.ends_with(".rotary_emb.inv_freq"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_names_is_in_the_order_of_the_parts() {
        for (index, row) in LAYER.iter().enumerate() {
            assert_eq!(row.0 as usize, index);
        }
    }
}
