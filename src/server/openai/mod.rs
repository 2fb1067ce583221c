//! OpenAI's API: chat completions, text completions, responses, models.
//!
//! Every model name is answered by the one model that is loaded; a name is looked up at `/v1/models/{id}` only.

mod chat;
mod lists;
mod responses;
mod text;
mod tools;

use std::time::Duration;

use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};

use super::completion::Completion;
use super::conversation::Prompt;
use super::error::ApiError;
use super::generation::draw_id;
use super::overflow::LeftOut;
use super::wire::{PromptProgress, WireTimings, rfc3339, stop_reason, stopping_word, unix_time};
use super::{AppState, Loaded, Ready};
use crate::engine::{Done, StopReason, Timings};

/// The routes, and llama.cpp's names for them.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/chat/completions", post(chat::completions))
        .route("/v1/chat/completions/input_tokens", post(chat::input_tokens))
        .route("/chat/completions/input_tokens", post(chat::input_tokens))
        .route("/v1/completions", post(text::completions))
        .route("/v1/responses", post(responses::responses))
        .route("/responses", post(responses::responses))
        .route("/v1/responses/input_tokens", post(responses::input_tokens))
        .route("/responses/input_tokens", post(responses::input_tokens))
        .route("/v1/models", get(models))
        .route("/models", get(models))
        .route("/v1/models/{id}", get(model))
}

/// Fields that every object of a response has.
#[derive(Clone, Debug, Serialize)]
struct Envelope {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: String,
}

impl Envelope {
    fn new(prefix: &str, object: &'static str, state: &AppState, ready: &Ready) -> Envelope {
        Envelope {
            id: format!("{prefix}-{}", draw_id()),
            object,
            created: unix_time(),
            model: ready.facts.id.clone(),
            // A build, as llama.cpp writes it: clients of its server look for the `b`.
            system_fingerprint: format!("b{}-gemma2", state.options().version),
        }
    }
}

/// A whole response, or one chunk of it.
#[derive(Serialize)]
struct Body<'a, C> {
    #[serde(flatten)]
    envelope: &'a Envelope,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<WireTimings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_progress: Option<PromptProgress>,
    #[serde(flatten)]
    left_out: LeftOut,
    /// llama.cpp's account of the reply, for those who look closer.
    #[serde(rename = "__verbose", skip_serializing_if = "Option::is_none")]
    verbose: Option<Completion>,
}

impl<'a, C> Body<'a, C> {
    fn new(envelope: &'a Envelope, choices: Vec<C>) -> Body<'a, C> {
        Body {
            envelope,
            choices,
            usage: None,
            timings: None,
            prompt_progress: None,
            left_out: LeftOut::default(),
            verbose: None,
        }
    }
}

/// How a choice ended: OpenAI's `finish_reason`, and what it does not tell.
#[derive(Clone, Debug, Serialize)]
struct End {
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopping_word: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

impl End {
    /// Not yet.
    const OPEN: End = End { finish_reason: None, stop_reason: None, stopping_word: None, seed: None };

    fn of(done: &Done) -> End {
        let finish_reason = match done.reason {
            StopReason::EndOfTurn | StopReason::StopString(_) | StopReason::Shutdown => "stop",
            StopReason::TokenLimit | StopReason::ContextFull => "length",
        };
        End {
            finish_reason: Some(finish_reason),
            stop_reason: Some(stop_reason(&done.reason)),
            stopping_word: Some(stopping_word(&done.reason).to_owned()),
            seed: Some(done.seed),
        }
    }
}

/// OpenAI's `usage`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PromptTokensDetails {
    cached_tokens: usize,
}

impl Usage {
    /// Adds a reply; a prompt counts once however many replies (`n`) it got, and cached means cached before the call.
    fn add(&mut self, index: usize, n: usize, timings: &Timings) {
        if index.is_multiple_of(n) {
            self.prompt_tokens += timings.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += timings.cached_tokens;
        }
        self.completion_tokens += timings.decoded_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// OpenAI's answer about the length of a prompt.
#[derive(Serialize)]
struct TokenCount {
    object: &'static str,
    input_tokens: usize,
}

impl TokenCount {
    fn of(prompt: &Prompt) -> TokenCount {
        TokenCount { object: "response.input_tokens", input_tokens: prompt.tokens.len() }
    }
}

async fn models(Loaded(ready): Loaded) -> Json<Value> {
    let id = &ready.facts.id;
    Json(json!({
        "object": "list",
        "data": [describe(&ready)],
        "has_more": false,
        "first_id": id,
        "last_id": id,
    }))
}

async fn model(Loaded(ready): Loaded, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let facts = &ready.facts;
    if id == facts.id || facts.aliases.contains(&id) {
        Ok(Json(describe(&ready)))
    } else {
        Err(ApiError::model_not_found(&id))
    }
}

/// The model in OpenAI's fields and in Anthropic's, whose clients ask at the same path.
fn describe(ready: &Ready) -> Value {
    let facts = &ready.facts;
    json!({
        "id": facts.id,
        "object": "model",
        "type": "model",
        "display_name": facts.name,
        "created": ready.loaded_at,
        "created_at": rfc3339(Duration::from_secs(ready.loaded_at)),
        "owned_by": "gemma2",
        "aliases": facts.aliases,
        "tags": facts.tags,
        "meta": {
            "n_vocab": ready.engine.tokenizer().n_vocab(),
            "n_ctx": ready.engine.options().n_ctx,
            "n_ctx_train": facts.n_ctx_train,
            "n_embd": ready.engine.d_model(),
            "n_params": facts.n_params,
            "size": facts.size_bytes,
        },
    })
}
