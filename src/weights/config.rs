//! The numbers that make a Gemma 2 a 2B, a 9B or a 27B: all read from the file.

use std::ops::RangeInclusive;

use super::WeightsError;
use super::json::Json;
use crate::error::name_for_people;
use crate::gguf::{GgufError, Metadata};

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

/// Where hyperparameters are read from: `Ok(None)` is an absent key, an error one of the wrong type.
pub(super) trait Hyperparameters {
    fn file(&self) -> &str;
    fn usize(&self, key: &str) -> Result<Option<usize>, WeightsError>;
    fn f64(&self, key: &str) -> Result<Option<f64>, WeightsError>;
}

/// The keys of one file format.
struct Keys {
    n_layers: &'static str,
    d_model: &'static str,
    d_ff: &'static str,
    n_heads: &'static str,
    n_kv_heads: &'static str,
    head_dim: &'static str,
    n_ctx_train: &'static str,
    rms_eps: &'static str,
    rope_base: &'static str,
    attn_softcap: &'static str,
    final_softcap: &'static str,
    sliding_window: &'static str,
}

const HUGGING_FACE: Keys = Keys {
    n_layers: "num_hidden_layers",
    d_model: "hidden_size",
    d_ff: "intermediate_size",
    n_heads: "num_attention_heads",
    n_kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    n_ctx_train: "max_position_embeddings",
    rms_eps: "rms_norm_eps",
    rope_base: "rope_theta",
    attn_softcap: "attn_logit_softcapping",
    final_softcap: "final_logit_softcapping",
    sliding_window: "sliding_window",
};

const GGUF: Keys = Keys {
    n_layers: "gemma2.block_count",
    d_model: "gemma2.embedding_length",
    d_ff: "gemma2.feed_forward_length",
    n_heads: "gemma2.attention.head_count",
    n_kv_heads: "gemma2.attention.head_count_kv",
    head_dim: "gemma2.attention.key_length",
    n_ctx_train: "gemma2.context_length",
    rms_eps: "gemma2.attention.layer_norm_rms_epsilon",
    rope_base: "gemma2.rope.freq_base",
    attn_softcap: "gemma2.attn_logit_softcapping",
    final_softcap: "gemma2.final_logit_softcapping",
    sliding_window: "gemma2.attention.sliding_window",
};

const VALUE_LENGTH: &str = "gemma2.attention.value_length";

/// A value of [`Config::to_gguf`], in the type that llama.cpp expects of its key.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // The names are the types.
pub enum GgufNumber {
    U32(u32),
    F32(f32),
}

impl Config {
    /// Reads `config.json`. Whatever it asks for that this program does not compute is an error, never left out silently.
    pub(super) fn from_json(json: &Json) -> Result<Config, WeightsError> {
        let model_type = json.string("model_type")?;
        let architecture = model_type.ok_or_else(|| missing(json, "model_type"))?;
        check_architecture(json.file(), architecture)?;
        if let Some(activation) = json.string("hidden_activation")?
            && activation != "gelu_pytorch_tanh"
        {
            return Err(json.bad("hidden_activation", "only gelu_pytorch_tanh is supported"));
        }
        for (key, what) in [
            ("rope_scaling", "scaled RoPE is not supported"),
            ("quantization_config", "only plain safetensors are supported"),
        ] {
            if !matches!(json.get(key), None | Some(serde_json::Value::Null)) {
                return Err(json.bad(key, what));
            }
        }
        for key in ["attention_bias", "use_bidirectional_attention"] {
            if !matches!(json.get(key), None | Some(serde_json::Value::Null | serde_json::Value::Bool(false))) {
                return Err(json.bad(key, "a Gemma 2 has false"));
            }
        }
        // Newer versions of transformers put the base into an object of its own.
        let rope = json.object("rope_parameters")?;
        let mut rope_base = None;
        if let Some(rope) = &rope {
            if let Some(kind) = rope.string("rope_type")?
                && kind != "default"
            {
                return Err(json.bad("rope_parameters", "scaled RoPE is not supported"));
            }
            rope_base = rope.f64("rope_theta")?;
        }
        let n_vocab = required_usize(json, "vocab_size", 1..=MAX_VOCAB)?;
        let scalar = required_positive(json, "query_pre_attn_scalar")?;
        let mut config = Config::read(json, &HUGGING_FACE, n_vocab)?;
        if let Some(base) = rope_base {
            config.rope_base = positive(rope.as_ref().unwrap_or(json), "rope_theta", base)?;
        }
        config.query_scale = query_scale(f64::from(scalar));
        if let Some(types) = json.get("layer_types")
            && !types.is_null()
        {
            config.local_layers = local_layers(types, config.n_layers).ok_or_else(|| {
                let expected = "one of sliding_attention and full_attention for each layer";
                json.bad("layer_types", expected)
            })?;
        }
        Ok(config)
    }

    /// Reads GGUF metadata; `n_vocab` is the number of rows of the embedding.
    pub(super) fn from_gguf(header: &GgufHeader, n_vocab: usize) -> Result<Config, WeightsError> {
        let architecture = header.string("general.architecture")?;
        let architecture = architecture.ok_or_else(|| missing(header, "general.architecture"))?;
        check_architecture(header.file, architecture)?;
        let mut config = Config::read(header, &GGUF, n_vocab)?;
        for key in [VALUE_LENGTH, "gemma2.rope.dimension_count"] {
            if let Some(n) = header.usize(key)?
                && n != config.head_dim
            {
                let expected = format!("it must be the head's size, {}", config.head_dim);
                return Err(bad(header, key, n, expected));
            }
        }
        if let Some(kind) = header.string("gemma2.rope.scaling.type")?
            && kind != "none"
        {
            let value = name_for_people(kind.as_bytes());
            let expected = "scaled RoPE is not supported".into();
            return Err(bad(header, "gemma2.rope.scaling.type", value, expected));
        }
        let scalar = gguf_query_scalar(&config);
        if scalar == 0 {
            let expected = format!("there are {} heads", config.n_heads);
            return Err(bad(header, GGUF.d_model, config.d_model, expected));
        }
        config.query_scale = query_scale(scalar as f64);
        Ok(config)
    }

    /// The keys and values with which a GGUF file says the same.
    ///
    /// # Errors
    /// What GGUF has no key for, in words: `query_pre_attn_scalar` and `layer_types` that do not follow llama.cpp's rules.
    pub fn to_gguf(&self) -> Result<Vec<(&'static str, GgufNumber)>, String> {
        if self.query_scale != query_scale(gguf_query_scalar(self) as f64) {
            return Err(format!("a `query_pre_attn_scalar` of {}", self.query_scale.powi(-2)));
        }
        if !self.local_layers.iter().enumerate().all(|(i, is_local)| *is_local == i.is_multiple_of(2)) {
            return Err("`layer_types` that do not alternate".into());
        }
        let count = |n: usize| GgufNumber::U32(u32::try_from(n).unwrap_or(u32::MAX));
        Ok(vec![
            (GGUF.n_ctx_train, count(self.n_ctx_train)),
            (GGUF.d_model, count(self.d_model)),
            (GGUF.n_layers, count(self.n_layers)),
            (GGUF.d_ff, count(self.d_ff)),
            (GGUF.n_heads, count(self.n_heads)),
            (GGUF.n_kv_heads, count(self.n_kv_heads)),
            (GGUF.rms_eps, GgufNumber::F32(self.rms_eps)),
            (GGUF.head_dim, count(self.head_dim)),
            (VALUE_LENGTH, count(self.head_dim)),
            (GGUF.rope_base, GgufNumber::F32(self.rope_base)),
            (GGUF.attn_softcap, GgufNumber::F32(self.attn_softcap)),
            (GGUF.final_softcap, GgufNumber::F32(self.final_softcap)),
            (GGUF.sliding_window, count(self.sliding_window)),
        ])
    }

    /// What both formats have in common. Each number is bounded, so that no later product of sizes can overflow; the
    /// tensors' shapes then hold each size against the bytes that are really there.
    fn read(from: &dyn Hyperparameters, keys: &Keys, n_vocab: usize) -> Result<Config, WeightsError> {
        let n_layers = required_usize(from, keys.n_layers, 1..=1000)?;
        let d_model = required_usize(from, keys.d_model, 1..=1 << 20)?;
        let d_ff = required_usize(from, keys.d_ff, 1..=1 << 22)?;
        let n_heads = required_usize(from, keys.n_heads, 1..=1 << 12)?;
        let n_kv_heads = match from.usize(keys.n_kv_heads)? {
            Some(n) if n > 0 && n_heads.is_multiple_of(n) => n,
            Some(n) => {
                let expected = format!("the {n_heads} heads must be a multiple of it");
                return Err(bad(from, keys.n_kv_heads, n, expected));
            }
            None => n_heads,
        };
        let head_dim = match from.usize(keys.head_dim)? {
            Some(n) => n,
            None => d_model / n_heads,
        };
        if !(2..=1 << 14).contains(&head_dim) || !head_dim.is_multiple_of(2) {
            let expected = "an even number from 2 to 16384 is expected".into();
            return Err(bad(from, keys.head_dim, head_dim, expected));
        }
        let or = |key, default| match from.f64(key)? {
            Some(value) => positive(from, key, value),
            None => Ok(default),
        };
        let bounded = |key, default| match from.usize(key)? {
            Some(n) => in_range(from, key, n, 1..=1 << 30),
            None => Ok(default),
        };
        Ok(Config {
            n_layers,
            d_model,
            d_ff,
            n_heads,
            n_kv_heads,
            head_dim,
            n_vocab,
            n_ctx_train: bounded(keys.n_ctx_train, 8192)?,
            rms_eps: or(keys.rms_eps, 1e-6)?,
            rope_base: or(keys.rope_base, 10_000.0)?,
            query_scale: f32::NAN, // Set by the callers, each by its format's rule.
            attn_softcap: or(keys.attn_softcap, 50.0)?,
            final_softcap: or(keys.final_softcap, 30.0)?,
            sliding_window: bounded(keys.sliding_window, 4096)?,
            local_layers: (0..n_layers).map(|i| i.is_multiple_of(2)).collect(),
        })
    }
}

/// More rows than any vocabulary has.
pub(super) const MAX_VOCAB: usize = 1 << 26;

/// GGUF metadata with the name of their file.
pub(super) struct GgufHeader<'a> {
    pub file: &'a str,
    pub metadata: Metadata<'a>,
}

impl<'a> GgufHeader<'a> {
    pub fn string(&self, key: &str) -> Result<Option<&'a str>, WeightsError> {
        self.metadata.string(key).map_err(|error| self.named(error))
    }

    fn named(&self, source: GgufError) -> WeightsError {
        WeightsError::Gguf { file: self.file.to_owned(), source }
    }
}

impl Hyperparameters for GgufHeader<'_> {
    fn file(&self) -> &str {
        self.file
    }

    fn usize(&self, key: &str) -> Result<Option<usize>, WeightsError> {
        let value = self.metadata.u64(key).map_err(|error| self.named(error))?;
        Ok(value.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    fn f64(&self, key: &str) -> Result<Option<f64>, WeightsError> {
        let value = self.metadata.f32(key).map_err(|error| self.named(error))?;
        Ok(value.map(f64::from))
    }
}

fn check_architecture(file: &str, architecture: &str) -> Result<(), WeightsError> {
    if architecture == "gemma2" {
        return Ok(());
    }
    Err(WeightsError::Architecture { file: file.to_owned(), architecture: name_for_people(architecture.as_bytes()) })
}

/// There is no key for the scale. llama.cpp's rule: the 27B, known by its 46 layers, scales by the width of a head as it
/// would be if heads divided the model's width; all others by the real one.
fn gguf_query_scalar(config: &Config) -> usize {
    if config.n_layers == 46 { config.d_model / config.n_heads } else { config.head_dim }
}

fn query_scale(scalar: f64) -> f32 {
    (1.0 / scalar.sqrt()) as f32
}

fn local_layers(types: &serde_json::Value, n_layers: usize) -> Option<Vec<bool>> {
    let types = types.as_array().filter(|types| types.len() == n_layers)?;
    let is_local = |kind: &serde_json::Value| match kind.as_str()? {
        "sliding_attention" => Some(true),
        "full_attention" => Some(false),
        _ => None,
    };
    types.iter().map(is_local).collect()
}

fn required_usize(from: &dyn Hyperparameters, key: &str, range: RangeInclusive<usize>) -> Result<usize, WeightsError> {
    let n = from.usize(key)?.ok_or_else(|| missing(from, key))?;
    in_range(from, key, n, range)
}

fn in_range(
    from: &dyn Hyperparameters,
    key: &str,
    n: usize,
    range: RangeInclusive<usize>,
) -> Result<usize, WeightsError> {
    if range.contains(&n) {
        return Ok(n);
    }
    let expected = format!("{} to {} is expected", range.start(), range.end());
    Err(bad(from, key, n, expected))
}

fn required_positive(from: &dyn Hyperparameters, key: &str) -> Result<f32, WeightsError> {
    let value = from.f64(key)?.ok_or_else(|| missing(from, key))?;
    positive(from, key, value)
}

fn positive(from: &dyn Hyperparameters, key: &str, value: f64) -> Result<f32, WeightsError> {
    let narrowed = value as f32;
    if narrowed.is_finite() && narrowed > 0.0 {
        return Ok(narrowed);
    }
    Err(bad(from, key, value, "a number above 0 is expected".into()))
}

fn missing(from: &dyn Hyperparameters, key: &str) -> WeightsError {
    WeightsError::MissingKey { file: from.file().to_owned(), key: key.to_owned() }
}

fn bad(from: &dyn Hyperparameters, key: &str, value: impl std::fmt::Display, expected: String) -> WeightsError {
    WeightsError::BadValue { file: from.file().to_owned(), key: key.to_owned(), value: value.to_string(), expected }
}
