//! `POST /api/generate`.

use std::sync::Arc;

use axum::response::Response;
use serde_json::Value;

use super::reply::{self, Form};
use super::request::{Asked, refuse_images};
use crate::chat::Message;
use crate::server::conversation::Conversation;
use crate::server::error::ApiError;
use crate::server::fields::{Fields, not_supported, wrong};
use crate::server::generation::{refuse_given, run_blocking, token_id};
use crate::server::{Loaded, Ready};
use crate::tokenizer::{Special, TokenId};

/// The handler.
pub async fn generate(Loaded(ready): Loaded, fields: Fields) -> Result<Response, ApiError> {
    let asked = Asked::read(&fields, None, &ready).await?;
    refuse_given(&fields, &["tools"])?;
    refuse_images(fields.get("images"))?;
    if fields.string("template")?.is_some_and(|template| !template.is_empty()) {
        return Err(not_supported("template", "this server: use `raw` for a prompt of your own form"));
    }
    let prompt = fields.string("prompt")?.unwrap_or_default().to_owned();
    let system = fields.string("system")?.unwrap_or_default().to_owned();
    let context = context(&fields, &ready)?;
    let is_raw = fields.bool("raw", false)?;
    if is_raw && !(system.is_empty() && context.is_empty()) {
        let name = if system.is_empty() { "context" } else { "system" };
        return Err(not_supported(name, "`raw` prompts"));
    }
    if prompt.is_empty() {
        return Ok(reply::loaded(&ready, Form::Raw));
    }
    if is_raw {
        let tokenizer = Arc::clone(ready.engine.tokenizer());
        let prompt = run_blocking(move || tokenizer.with_bos(tokenizer.encode(&prompt, Special::Parse))).await?;
        return reply::answer(ready, &asked, prompt, Form::Raw).await;
    }
    let turn = |role: &str, content| Message { role: role.into(), content };
    let mut messages = vec![turn("user", prompt)];
    if !system.is_empty() {
        messages.insert(0, turn("system", system));
    }
    let prompt = after(context, Conversation::of(messages).prompt(&ready).await?.tokens, &ready);
    let turn_end = ready.engine.tokenizer().encode(&ready.template.turn_end()?, Special::Parse);
    reply::answer(ready, &asked, prompt, Form::Turn { turn_end }).await
}

/// The tokens of an earlier answer's `context`.
fn context(fields: &Fields, ready: &Ready) -> Result<Vec<TokenId>, ApiError> {
    match fields.get("context") {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(|id| token_id("context", id, ready.engine.tokenizer())).collect(),
        Some(other) => Err(wrong("context", "a list of token ids", other)),
    }
}

/// `prompt` after `context`, with one `<bos>`.
fn after(mut context: Vec<TokenId>, prompt: Vec<TokenId>, ready: &Ready) -> Vec<TokenId> {
    let is_begun = !context.is_empty() && prompt.first() == Some(&ready.engine.tokenizer().bos());
    context.extend_from_slice(&prompt[usize::from(is_begun)..]);
    context
}
