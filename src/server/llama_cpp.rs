//! llama.cpp's API: completion, tokens, templates, and what the server says about itself.

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};

use super::completion::{Teller, settings, wire_slot};
use super::constraint::constraint;
use super::conversation::Conversation;
use super::error::{ApiError, Dialect};
use super::fields::{Fields, missing, wrong};
use super::generation::{self, Replies, Telling, refuse_what_is_not_implemented, run_blocking, token_id};
use super::overflow;
use super::selection::Selection;
use super::slots::act;
use super::sse::{self, Narrator, frame};
use super::tools::Tools;
use super::vllm;
use super::wire::{PromptProgress, Watch, WirePiece, WireProbability, WireTimings};
use super::{AppState, Loaded};
use crate::chat::PageTemplates;
use crate::engine::{Event, MAX_N_PROBS, Request};
use crate::tokenizer::{Special, TokenId, Tokenizer};

/// The routes that need a key; `/health` needs none and is added by [`super::router`].
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/completion", post(completion))
        .route("/completions", post(completion))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/apply-template", post(apply_template))
        .route("/props", get(props))
        .route("/slots", get(slots))
        .route("/slots/{id}", post(act))
}

/// `GET /health`: whether requests are answered, which program and model would, and since when it runs (seconds since 1970):
/// a page that was open all the time learns so that the program was started anew.
pub async fn health(State(state): State<AppState>) -> Response {
    let version = &state.options().version;
    match state.ready() {
        Ok(ready) => Json(json!({
            "status": "ok",
            "product": "gemma2",
            "version": version,
            "model": ready.facts.id,
            "started": state.started_at(),
        }))
        .into_response(),
        Err(loading) => {
            let mut body = loading.body(Dialect::LlamaCpp);
            body["product"] = json!("gemma2");
            body["version"] = json!(version);
            let retry = [("retry-after", "1")];
            (StatusCode::SERVICE_UNAVAILABLE, retry, Json(body)).into_response()
        }
    }
}

async fn props(State(state): State<AppState>, Loaded(ready): Loaded) -> Json<Value> {
    let facts = &ready.facts;
    let options = ready.engine.options();
    let tokenizer = ready.engine.tokenizer();
    let version = &state.options().version;
    let page = PageTemplates::default();
    let mut defaults = Request::new(Vec::new());
    defaults.sampling = facts.sampling.clone();
    defaults.limit = facts.limit;
    Json(json!({
        "default_generation_settings": {
            "n_ctx": options.n_ctx,
            "params": settings(&defaults, Telling::default(), &ready),
        },
        "total_slots": options.n_parallel,
        "model_alias": facts.id,
        "model_path": facts.path,
        "chat_template": ready.template.source(),
        "build_info": format!("gemma2 {version}"),
        "modalities": { "vision": false, "audio": false, "video": false },
        "endpoint_slots": state.options().shows_slots,
        "endpoint_metrics": true,
        "endpoint_props": false,
        "is_sleeping": false,
        "bos_token": written(tokenizer, tokenizer.bos()),
        "eos_token": ready.end_tokens.iter().map(|id| written(tokenizer, *id)).find(|text| text == "<eos>"),
        "model_name": facts.name,
        "quantization": facts.quantization,
        "n_params": facts.n_params,
        "size_bytes": facts.size_bytes,
        "n_vocab": tokenizer.n_vocab(),
        "n_ctx": options.n_ctx,
        "n_ctx_train": facts.n_ctx_train,
        "is_demo": facts.is_demo,
        "version": version,
        "quit_token": state.quit().token(),
        "sandbox": state.sandbox(),
        "moved_from": state.options().moved_from,
        "page_templates": {
            "prompt": page.prompt,
            "history": page.history,
            "user_name": page.user_name,
            "char_name": page.char_name,
        },
    }))
}

fn written(tokenizer: &Tokenizer, id: TokenId) -> String {
    String::from_utf8_lossy(tokenizer.piece(id)).into_owned()
}

#[derive(serde::Deserialize)]
struct SlotsQuery {
    fail_on_no_slot: Option<String>,
}

async fn slots(
    State(state): State<AppState>,
    Loaded(ready): Loaded,
    Query(query): Query<SlotsQuery>,
) -> Result<Json<Value>, ApiError> {
    if !state.options().shows_slots {
        return Err(ApiError::not_supported("this server does not show its slots", "start it without `--no-slots`"));
    }
    let slots = ready.engine.slots();
    let must_be_free = query.fail_on_no_slot.is_some_and(|value| value == "1");
    if must_be_free && slots.iter().all(|slot| slot.busy) {
        return Err(ApiError::unavailable("no slot is free"));
    }
    let n_ctx = ready.engine.options().n_ctx;
    let list = slots.iter().enumerate().map(|(id, slot)| {
        json!({
            "id": id,
            "n_ctx": n_ctx,
            "speculative": ready.engine.options().n_lookup > 0,
            "is_processing": slot.busy,
            "n_prompt_tokens": slot.n_prompt,
            "n_prompt_tokens_cache": slot.n_reused,
            "n_cached": slot.n_cached,
            "next_token": [{
                "has_next_token": slot.busy && slot.n_remaining != Some(0),
                "n_remain": slot.n_remaining.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX)),
                "n_decoded": slot.n_decoded,
            }],
        })
    });
    Ok(Json(list.collect()))
}

async fn tokenize(Loaded(ready): Loaded, fields: Fields) -> Result<Response, ApiError> {
    // Fields of the form that is not asked for must still be of their types.
    for name in ["add_special", "parse_special", "with_pieces", "add_special_tokens", "return_token_strs"] {
        fields.bool(name, false)?;
    }
    if fields.string("content")?.is_none()
        && let Some(answer) = vllm::tokenize(&fields, &ready).await?
    {
        return Ok(answer);
    }
    fields.string("prompt")?;
    if fields.get("messages").is_some() {
        Conversation::read(&fields)?;
    }
    let content = fields.required_string("content")?.to_owned();
    let add_special = fields.bool("add_special", false)?;
    let special = match fields.bool("parse_special", true)? {
        true => Special::Parse,
        false => Special::Literal,
    };
    let with_pieces = fields.bool("with_pieces", false)?;
    run_blocking(move || {
        let tokenizer = ready.engine.tokenizer();
        let mut ids = tokenizer.encode(&content, special);
        if add_special {
            ids = tokenizer.with_bos(ids);
        }
        Tokens::new(ids, with_pieces, tokenizer).into_response()
    })
    .await
}

#[derive(Serialize)]
#[serde(untagged)]
enum Tokens {
    Ids { tokens: Vec<TokenId> },
    Pieces { tokens: Vec<WirePiece> },
}

impl Tokens {
    fn new(ids: Vec<TokenId>, with_pieces: bool, tokenizer: &Tokenizer) -> Tokens {
        if !with_pieces {
            return Tokens::Ids { tokens: ids };
        }
        let pieces = ids.into_iter().map(|id| WirePiece::new(id, tokenizer));
        Tokens::Pieces { tokens: pieces.collect() }
    }
}

impl IntoResponse for Tokens {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

async fn detokenize(Loaded(ready): Loaded, fields: Fields) -> Result<Json<Value>, ApiError> {
    let tokenizer = ready.engine.tokenizer();
    let ids = match fields.get("tokens") {
        None => return Err(missing("tokens")),
        Some(Value::Array(list)) => {
            list.iter().map(|id| token_id("tokens", id, tokenizer)).collect::<Result<Vec<_>, _>>()?
        }
        Some(other) => return Err(wrong("tokens", "a list of token ids", other)),
    };
    let text = tokenizer.decode(&ids, true);
    // The second name is vLLM's.
    Ok(Json(json!({ "content": text, "prompt": text })))
}

/// The prompt of a conversation, as text and counted; not checked against the context, so that a page can say by how much
/// it is too long.
#[derive(Serialize)]
struct AppliedTemplate {
    prompt: String,
    n_tokens: usize,
    n_ctx: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<WirePiece>>,
}

async fn apply_template(Loaded(ready): Loaded, fields: Fields) -> Result<Json<AppliedTemplate>, ApiError> {
    let with_pieces = fields.bool("with_pieces", false)?;
    let mut conversation = Conversation::read(&fields)?;
    if let Some(tools) = Tools::of_chat(&fields)? {
        conversation.instruct(tools.instructions());
    }
    // Who looks at a prompt wants to know whether its reply can have the form that is asked for.
    constraint(&fields, &ready).await?;
    let prompt = conversation.prompt(&ready).await?;
    let tokenizer = ready.engine.tokenizer();
    let pieces = |ids: &[TokenId]| ids.iter().map(|id| WirePiece::new(*id, tokenizer)).collect();
    Ok(Json(AppliedTemplate {
        n_tokens: prompt.tokens.len(),
        n_ctx: ready.engine.options().n_ctx,
        tokens: with_pieces.then(|| pieces(&prompt.tokens)),
        prompt: prompt.text,
    }))
}

async fn completion(
    State(state): State<AppState>,
    Loaded(ready): Loaded,
    fields: Fields,
) -> Result<Response, ApiError> {
    refuse_what_is_not_implemented(&fields)?;
    let telling = Telling::read(&fields)?;
    let n = generation::n_replies(&fields, &["n_cmpl", "n"])?;
    let (n_probs, _) = fields.get_any(&["n_probs", "logprobs"]).unwrap_or(("n_probs", &Value::Null));
    let n_probs = fields.integer(n_probs, 0..=MAX_N_PROBS as i64)?;
    let n_probs = n_probs.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let tokenizer = ready.engine.tokenizer();
    let mut request = Request::new(Vec::new());
    request.sampling = generation::sampling(&fields, &ready.facts.sampling, 100.0, tokenizer)?;
    request.limit = generation::limit(&fields, &["n_predict", "max_tokens"], 0, ready.facts.limit)?;
    request.overflow = overflow::of_text(&fields, state.options().context_shift)?;
    request.stop = generation::stop_strings(&fields, "stop")?;
    request.ignore_eos = fields.bool("ignore_eos", false)?;
    request.cache_prompt = fields.bool("cache_prompt", true)?;
    let n_slots = i64::try_from(ready.engine.options().n_parallel).unwrap_or(i64::MAX);
    request.slot = fields.integer("id_slot", -1..=n_slots - 1)?.and_then(|id| usize::try_from(id).ok());
    request.n_probs = n_probs;
    request.probs_after_sampling = fields.bool("post_sampling_probs", false)?;
    let longest = fields.integer("t_max_predict_ms", i64::MIN..=i64::MAX)?.and_then(|ms| u64::try_from(ms).ok());
    request.time_limit = longest.filter(|ms| *ms > 0).map(Duration::from_millis);
    let selection = Selection::read(&fields)?;
    let return_tokens = fields.bool("return_tokens", false)?;
    request.constraint = constraint(&fields, &ready).await?;

    let prompts = generation::prompts(&fields, &ready).await?;
    let replies = Replies::submit(&ready, &prompts, n, &request).map_err(|error| error.about("prompt"))?;
    let teller = Teller::new(prompts, n, request, telling, ready);
    if telling.stream {
        let states = vec![Running { watch: Watch::new(), has_new_line: false }; replies.len()];
        let story = Parts { states, teller, selection, telling };
        return Ok(sse::respond(replies, story));
    }
    let replies = replies.collect().await?;
    let mut bodies: Vec<Value> = replies
        .into_iter()
        .enumerate()
        .map(|(index, reply)| {
            let probabilities = (n_probs > 0).then(|| teller.probabilities(&reply.tokens));
            let tokens = reply.tokens.iter().map(|token| token.id);
            let tokens = if return_tokens { tokens.collect() } else { Vec::new() };
            let mut body = teller.whole(index, &reply);
            body.tokens = tokens;
            body.completion_probabilities = probabilities;
            selection.of(&body)
        })
        .collect();
    Ok(match bodies.len() {
        1 => Json(bodies.remove(0)).into_response(),
        _ => Json(bodies).into_response(),
    })
}

/// A frame in the middle of a stream.
#[derive(Serialize)]
struct Part {
    index: usize,
    content: String,
    tokens: Vec<TokenId>,
    stop: bool,
    id_slot: i64,
    tokens_predicted: usize,
    tokens_evaluated: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_probabilities: Option<Vec<WireProbability>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_progress: Option<PromptProgress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<WireTimings>,
}

/// A stream of parts; it ends with a whole [`Completion`](super::completion::Completion), not with `[DONE]`.
struct Parts {
    teller: Teller,
    /// What of the end is told.
    selection: Selection,
    telling: Telling,
    states: Vec<Running>,
}

/// A running reply.
#[derive(Clone)]
struct Running {
    watch: Watch,
    /// In the text so far.
    has_new_line: bool,
}

impl Parts {
    fn part(&self, index: usize) -> Part {
        let watch = &self.states[index].watch;
        Part {
            index,
            content: String::new(),
            tokens: Vec::new(),
            stop: false,
            id_slot: wire_slot(self.teller.request.slot),
            tokens_predicted: watch.n_decoded(),
            tokens_evaluated: watch.n_prompt(),
            completion_probabilities: None,
            prompt_progress: None,
            timings: None,
        }
    }
}

impl Narrator for Parts {
    const DIALECT: Dialect = Dialect::LlamaCpp;

    fn start(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn event(&mut self, index: usize, event: Event) -> Vec<String> {
        match event {
            Event::Prefill { done, total, cached } => {
                let progress = self.states[index].watch.prefill(done, total, cached);
                if !self.telling.return_progress {
                    return Vec::new();
                }
                let told = progress.into_iter().map(|progress| {
                    let mut part = self.part(index);
                    part.prompt_progress = Some(progress.prompt);
                    part.timings = self.telling.timings_per_token.then_some(progress.timings);
                    frame(&part)
                });
                told.collect()
            }
            Event::Token(token) => {
                let timings = self.states[index].watch.token();
                self.states[index].has_new_line |= token.text.contains('\n');
                let has_probabilities = self.teller.request.n_probs > 0;
                let mut part = self.part(index);
                part.timings = self.telling.timings_per_token.then_some(timings);
                part.completion_probabilities =
                    has_probabilities.then(|| self.teller.probabilities(std::slice::from_ref(&token)));
                part.tokens = vec![token.id];
                part.content = token.text;
                vec![frame(&part)]
            }
            Event::Done(done) => {
                let mut body = self.teller.end(index, &done);
                body.has_new_line = self.states[index].has_new_line || done.text.contains('\n');
                body.content = done.text;
                vec![frame(&self.selection.of(&body))]
            }
            Event::Prompt(_) | Event::Failed(_) => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<String> {
        Vec::new()
    }
}
