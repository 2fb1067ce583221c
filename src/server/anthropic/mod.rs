//! Anthropic's API: messages of text and calls of functions, and how many tokens they are.
//!
//! - Every model name is answered by the one model that is loaded, and `max_tokens` may be left out.
//! - Neighboring messages of the same role are one turn. A last message by the assistant is continued.
//! - `usage` counts the tokens of the prompt that were computed as `input_tokens` and those that the cache had as
//!   `cache_read_input_tokens`; prompts are cached without being asked to, so `cache_control` has nothing to decide.
//! - A `thinking` budget is a limit, and this model stays below any: it does not think. What other models thought in earlier
//!   messages is left out.
//! - A conversation that does not fit loses its oldest turns, unless `overflow` says otherwise; answers say `truncated`.
//! - Not there: tools of Anthropic's own (`web_search` …), pictures and documents. They are refused.

mod reply;
mod request;

use axum::response::Response;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::constraint;
use super::error::ApiError;
use super::fields::Fields;
use super::overflow;
use super::{AppState, Loaded};

/// The routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/v1/messages", post(messages)).route("/v1/messages/count_tokens", post(count_tokens))
}

/// `POST /v1/messages`: the next message of a conversation.
async fn messages(Loaded(ready): Loaded, fields: Fields) -> Result<Response, ApiError> {
    let mut request = request::request(&fields, &ready)?;
    let (overflow, may_drop) = overflow::of_chat(&fields)?;
    request.overflow = overflow;
    let stream = fields.bool("stream", false)?;
    let tools = request::tools(&fields)?;
    request.constraint = constraint::of_reply(request::form(&fields)?, tools.as_ref(), &ready).await?;
    let room = overflow::room(may_drop, request.limit, ready.engine.options().n_ctx);
    let prompt = request::conversation(&fields, tools.as_ref())?.fitting_prompt(&ready, room).await?;
    let answer = reply::answer(&ready, prompt, &request, tools.is_some(), stream).await;
    answer.map_err(|error| error.about("messages"))
}

/// `POST /v1/messages/count_tokens`: how long a prompt is.
async fn count_tokens(Loaded(ready): Loaded, fields: Fields) -> Result<Json<Value>, ApiError> {
    request::refuse(&fields)?;
    let tools = request::tools(&fields)?;
    let prompt = request::conversation(&fields, tools.as_ref())?.prompt(&ready).await?;
    Ok(Json(json!({ "input_tokens": prompt.tokens.len() })))
}
