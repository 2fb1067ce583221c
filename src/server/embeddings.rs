//! Texts to vectors: OpenAI's `POST /v1/embeddings` and llama.cpp's `POST /embedding`; Ollama's are in `ollama`.
//!
//! A vector is the mean of the final hidden states of a text's tokens (`<bos>` included), or with `--pooling` the first or
//! the last of them, scaled to length 1. Without pooling a text has a vector for each token, as they are, and only
//! llama.cpp's route can say so. The texts of one call run side by side in the engine's slots, beside whatever else runs
//! there. A text may come in parts, as `{"content": [{"type": "text", "text": …}]}`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use serde_json::Value;

use super::error::ApiError;
use super::fields::{Fields, missing, wrong};
use super::generation::read_prompts;
use super::wire::base64;
use super::{AppState, Loaded, Ready};
use crate::engine::{EngineError, Event, Pooling, StopReason};
use crate::tokenizer::TokenId;

/// Most texts in one call, as OpenAI has it.
const MAX_INPUTS: usize = 2048;

/// The routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/v1/embeddings", post(openai))
        .route("/embedding", post(llama_cpp))
        .route("/embeddings", post(llama_cpp))
}

/// `POST /v1/embeddings`
async fn openai(State(state): State<AppState>, Loaded(ready): Loaded, fields: Fields) -> Result<Json<Body>, ApiError> {
    fields.string("model")?;
    let as_base64 = match fields.string("encoding_format")? {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("`encoding_format` must be `float` or `base64`, not `{other}`");
            return Err(ApiError::invalid(Some("encoding_format".to_owned()), message));
        }
    };
    let dimensions = dimensions(&fields, &ready)?;
    let vectors = embed(&state, &ready, &fields, &["input"], false).await?;
    let n_tokens = vectors.iter().map(|one| one.n_tokens).sum();
    let data = vectors.into_iter().enumerate().map(|(index, one)| {
        let values = one.shortened(dimensions);
        let embedding = match as_base64 {
            true => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Vector::Base64(base64(&bytes))
            }
            false => Vector::Numbers(values),
        };
        Item { object: "embedding", index, embedding }
    });
    let usage = Usage { prompt_tokens: n_tokens, total_tokens: n_tokens };
    Ok(Json(Body { object: "list", data: data.collect(), model: ready.facts.id.clone(), usage }))
}

/// OpenAI's answer.
#[derive(Serialize)]
struct Body {
    object: &'static str,
    data: Vec<Item>,
    model: String,
    usage: Usage,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// llama.cpp's answer is a list of these.
#[derive(Serialize)]
struct LlamaItem {
    index: usize,
    embedding: Vec<Vec<f32>>,
    tokens_evaluated: usize,
}

/// `POST /embedding`: a list, and in it for each text the list of its vectors: of one, or of one for each token.
async fn llama_cpp(State(state): State<AppState>, Loaded(ready): Loaded, fields: Fields) -> Result<Response, ApiError> {
    let norm = fields.integer("embd_normalize", -1..=i64::from(i32::MAX))?.unwrap_or(2);
    let names = ["content", "input"];
    if state.options().pooling != Pooling::None {
        let vectors = pooled(&state, &ready, &fields, &names, false).await?;
        let item = |(index, Embedded { mut values, n_tokens })| {
            scale(&mut values, norm);
            LlamaItem { index, embedding: vec![values], tokens_evaluated: n_tokens }
        };
        return Ok(Json(vectors.into_iter().enumerate().map(item).collect::<Vec<_>>()).into_response());
    }
    // The states of a long text are a hundred megabytes; few such answers are made at a time.
    let _permit = state.large_answers().acquire().await;
    let n_ctx = ready.engine.options().n_ctx;
    let texts = texts(&ready, &fields, &names, false).await?;
    let n_tokens: usize = texts.iter().map(Vec::len).sum();
    if n_tokens > n_ctx {
        let message = format!("without pooling the texts of a call may have {n_ctx} tokens together, not {n_tokens}");
        return Err(ApiError::invalid(Some(names[0].to_owned()), message));
    }
    let vectors = run(&ready, texts, Pooling::None).await?;
    let item = |(index, Embedded { values, n_tokens })| {
        let rows = values.chunks(ready.engine.d_model().max(1)).map(<[f32]>::to_vec);
        LlamaItem { index, embedding: rows.collect(), tokens_evaluated: n_tokens }
    };
    Ok(Json(vectors.into_iter().enumerate().map(item).collect::<Vec<_>>()).into_response())
}

/// Scales a vector such that it has length 1 by llama.cpp's number of a norm: 2 is Euclid's, 1 the sum of absolute values,
/// others are the exponent; 0 makes the largest absolute value 32760, and below 0 nothing is done.
fn scale(values: &mut [f32], norm: i64) {
    let sizes = values.iter().map(|value| f64::from(value.abs()));
    let length = match norm {
        ..0 => return,
        0 => sizes.fold(0.0, f64::max) / 32_760.0,
        2 => sizes.map(|size| size * size).sum::<f64>().sqrt(),
        p => sizes.map(|size| size.powf(p as f64)).sum::<f64>().powf(1.0 / p as f64),
    };
    if length > 0.0 {
        values.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
}

/// The vector of one text.
pub struct Embedded {
    values: Vec<f32>,
    /// Tokens of the text.
    pub n_tokens: usize,
}

impl Embedded {
    /// The vector, or its first `dimensions` values made as long again.
    pub fn shortened(self, dimensions: Option<usize>) -> Vec<f32> {
        match dimensions {
            Some(n) => shortened(self.values, n),
            None => self.values,
        }
    }
}

/// How many values of each vector are asked for.
///
/// # Errors
/// 400 where there are not that many.
pub fn dimensions(fields: &Fields, ready: &Ready) -> Result<Option<usize>, ApiError> {
    let d_model = i64::try_from(ready.engine.d_model()).unwrap_or(i64::MAX);
    Ok(fields.integer("dimensions", 1..=d_model)?.and_then(|n| usize::try_from(n).ok()))
}

/// Embeds the texts under the first of `names`. With `cuts` a text that is too long loses its end.
///
/// # Errors
/// 400 for a text that is empty or too long, before any of them is computed; whatever the engine says.
pub async fn embed(
    state: &AppState,
    ready: &Arc<Ready>,
    fields: &Fields,
    names: &[&'static str],
    cuts: bool,
) -> Result<Vec<Embedded>, ApiError> {
    let mut vectors = pooled(state, ready, fields, names, cuts).await?;
    vectors.iter_mut().for_each(|one| scale(&mut one.values, 2));
    Ok(vectors)
}

/// The same, as long as they come.
async fn pooled(
    state: &AppState,
    ready: &Arc<Ready>,
    fields: &Fields,
    names: &[&'static str],
    cuts: bool,
) -> Result<Vec<Embedded>, ApiError> {
    let pooling = state.options().pooling;
    if pooling == Pooling::None {
        let message = "this server does not pool (`--pooling none`), and this route tells one vector for each text";
        return Err(ApiError::invalid(None, message).with_hint(Some("use `POST /embedding`".into())));
    }
    run(ready, texts(ready, fields, names, cuts).await?, pooling).await
}

/// The tokens of each text.
async fn texts(
    ready: &Arc<Ready>,
    fields: &Fields,
    names: &[&'static str],
    cuts: bool,
) -> Result<Vec<Vec<TokenId>>, ApiError> {
    let (name, value) = fields.get_any(names).ok_or_else(|| missing(names[0]))?;
    let value = match value {
        Value::Array(list) => list.iter().map(|one| joined(name, one)).collect::<Result<Value, _>>()?,
        one => joined(name, one)?,
    };
    let mut texts = read_prompts(name, value, MAX_INPUTS, ready).await?;
    let n_ctx = ready.engine.options().n_ctx;
    if cuts {
        texts.iter_mut().for_each(|tokens| tokens.truncate(n_ctx));
    }
    for tokens in &texts {
        let refused = match tokens.len() {
            0 => EngineError::EmptyPrompt,
            prompt if prompt > n_ctx => EngineError::PromptTooLong { prompt, n_ctx },
            _ => continue,
        };
        return Err(ApiError::from(refused).about(name));
    }
    Ok(texts)
}

/// Computes them. No more at once than there are slots: what waits in the engine's queue takes the place of others.
async fn run(ready: &Arc<Ready>, texts: Vec<Vec<TokenId>>, pooling: Pooling) -> Result<Vec<Embedded>, ApiError> {
    let n_slots = ready.engine.options().n_parallel;
    stream::iter(texts).map(|tokens| embed_one(ready, tokens, pooling)).buffered(n_slots).try_collect().await
}

/// The text of an object whose `content` is a list of parts; anything else as it is.
fn joined(name: &str, value: &Value) -> Result<Value, ApiError> {
    let Some(content) = value.get("content") else {
        return Ok(value.clone());
    };
    let field = format!("{name}.content");
    let parts = content.as_array().ok_or_else(|| wrong(&field, "a list of text parts", content))?;
    let text = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        _ => Err(wrong(&field, "a list of text parts", part)),
    };
    parts.iter().map(text).collect::<Result<String, _>>().map(Value::from)
}

async fn embed_one(ready: &Arc<Ready>, tokens: Vec<TokenId>, pooling: Pooling) -> Result<Embedded, ApiError> {
    let events = ready.engine.embed(tokens, pooling)?;
    loop {
        match events.recv().await {
            Ok(Event::Done(done)) if done.reason == StopReason::Shutdown => {
                return Err(ApiError::unavailable("the server is shutting down"));
            }
            Ok(Event::Done(done)) => {
                return Ok(Embedded { values: done.embedding, n_tokens: done.timings.prompt_tokens });
            }
            Ok(Event::Failed(error)) => return Err(error.into()),
            Ok(Event::Prefill { .. } | Event::Prompt(_) | Event::Token(_)) => {}
            Err(_) => return Err(EngineError::Stopped.into()),
        }
    }
}

/// The first `n` values, scaled to length 1 again.
fn shortened(mut values: Vec<f32>, n: usize) -> Vec<f32> {
    values.truncate(n);
    scale(&mut values, 2);
    values
}
