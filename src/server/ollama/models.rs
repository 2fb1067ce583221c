//! `GET /api/tags`, `/api/ps`, `/api/version` and `POST /api/show`: the one model, as Ollama's clients ask for it.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use std::time::Duration;

use crate::server::error::{ApiError, tidy};
use crate::server::fields::Fields;
use crate::server::wire::rfc3339;
use crate::server::{AppState, Loaded, Ready};

/// The version of Ollama whose API this is; clients compare it with what they need.
const API_VERSION: &str = "0.12.0";

/// When the model is unloaded: not while the program runs.
const NEVER: &str = "9999-12-31T23:59:59Z";

/// The model's name in this API: `gemma-2-2b-it-Q6_K:latest`.
pub fn name(ready: &Ready) -> String {
    let id = &ready.facts.id;
    if id.contains(':') { id.clone() } else { format!("{id}:latest") }
}

/// `GET /api/tags`: the models there are.
pub async fn tags(Loaded(ready): Loaded) -> Json<Value> {
    let mut model = describe(&ready);
    model["modified_at"] = json!(since_when(&ready));
    Json(json!({ "models": [model] }))
}

/// `GET /api/ps`: the models that are loaded.
pub async fn ps(Loaded(ready): Loaded) -> Json<Value> {
    let mut model = describe(&ready);
    model["expires_at"] = json!(NEVER);
    model["size_vram"] = json!(0);
    model["context_length"] = json!(ready.engine.options().n_ctx);
    Json(json!({ "models": [model] }))
}

/// `GET /api/version`.
pub async fn version(State(state): State<AppState>) -> Json<Value> {
    Json(json!({ "version": API_VERSION, "gemma2": state.options().version }))
}

/// `POST /api/show`: all about a model.
pub async fn show(Loaded(ready): Loaded, fields: Fields) -> Result<Json<Value>, ApiError> {
    for name in ["model", "name"] {
        fields.string(name)?;
    }
    let facts = &ready.facts;
    Ok(Json(json!({
        "modelfile": format!("FROM {}\n", name(&ready)),
        "parameters": parameters(&ready),
        "template": ready.template.source(),
        "details": details(&ready),
        "model_info": {
            "general.architecture": "gemma2",
            "general.name": facts.name,
            "general.parameter_count": facts.n_params,
            "gemma2.context_length": facts.n_ctx_train,
            "gemma2.vocab_size": ready.engine.tokenizer().n_vocab(),
        },
        "capabilities": ["completion", "tools", "embedding"],
        "modified_at": since_when(&ready),
    })))
}

fn describe(ready: &Ready) -> Value {
    json!({
        "name": name(ready),
        "model": name(ready),
        "size": ready.facts.size_bytes,
        "digest": digest(ready),
        "details": details(ready),
    })
}

fn details(ready: &Ready) -> Value {
    let facts = &ready.facts;
    let is_gguf = facts.path.to_ascii_lowercase().ends_with(".gguf");
    json!({
        "parent_model": "",
        "format": if is_gguf { "gguf" } else { "safetensors" },
        "family": "gemma2",
        "families": ["gemma2"],
        "parameter_size": count(facts.n_params),
        "quantization_level": facts.quantization,
    })
}

/// Tells models apart. Of what is known about the model: to hash gigabytes of weights for a list takes too long.
fn digest(ready: &Ready) -> String {
    let facts = &ready.facts;
    let text = format!("{}\n{}\n{}\n{}", facts.id, facts.quantization, facts.n_params, facts.size_bytes);
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn since_when(ready: &Ready) -> String {
    rfc3339(Duration::from_secs(ready.loaded_at))
}

/// `2.6B`, as Ollama writes it.
fn count(n_params: u64) -> String {
    let n = n_params as f64;
    match n_params {
        1_000_000_000.. => format!("{:.1}B", n / 1e9),
        1_000_000.. => format!("{:.2}M", n / 1e6),
        1_000.. => format!("{:.2}K", n / 1e3),
        _ => n_params.to_string(),
    }
}

/// The defaults, in the lines of a Modelfile.
fn parameters(ready: &Ready) -> String {
    let s = &ready.facts.sampling;
    let lines = [
        ("num_ctx", json!(ready.engine.options().n_ctx)),
        ("temperature", json!(tidy(s.temperature))),
        ("top_k", json!(s.top_k)),
        ("top_p", json!(tidy(s.top_p))),
        ("min_p", json!(tidy(s.min_p))),
        ("repeat_penalty", json!(tidy(s.repeat_penalty))),
    ];
    lines.map(|(name, value)| format!("{name:<30} {value}")).join("\n")
}
