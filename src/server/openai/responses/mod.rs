//! `POST /v1/responses`, for text and calls of functions.
//!
//! - Nothing is stored: `store` and `background` may be false only, and there is no `previous_response_id` and no
//!   `conversation`; a client sends all of the `input` each time.
//! - `reasoning` has nothing to decide: this model does not reason.
//! - `truncation` is `auto` (the oldest turns are left out where the input does not fit) or `disabled` (then that is an
//!   error); where it is left out, `overflow` decides as it does for chats. Answers say `truncated`.
//! - Streams tell `timings` and `prompt_progress` as the other APIs do, where they are asked for.

mod item;
mod request;
mod stream;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use item::Item;

use super::TokenCount;
use crate::engine::{Done, EngineError, Request, StopReason};
use crate::server::constraint;
use crate::server::error::{ApiError, tidy};
use crate::server::fields::Fields;
use crate::server::generation::{Replies, Telling, draw_id, refuse_what_is_not_implemented};
use crate::server::overflow::{self, LeftOut};
use crate::server::sse;
use crate::server::wire::{WireTimings, unix_time};
use crate::server::{Loaded, Ready};

/// The status of what came to its end.
const COMPLETED: &str = "completed";

/// The handler.
pub async fn responses(Loaded(ready): Loaded, fields: Fields) -> Result<Response, ApiError> {
    let mut request = request::request(&fields, &ready)?;
    let (overflow, may_drop) = request::overflow(&fields)?;
    request.overflow = overflow;
    let telling = Telling::read(&fields)?;
    let tools = request::tools(&fields)?;
    request.constraint = constraint::of_reply(request::form(&fields)?, tools.as_ref(), &ready).await?;
    let room = overflow::room(may_drop, request.limit, ready.engine.options().n_ctx);
    let prompt = request::conversation(&fields, tools.as_ref())?.fitting_prompt(&ready, room).await?;
    let n_dropped = prompt.n_dropped;
    let replies = Replies::submit(&ready, &[prompt.tokens], 1, &request).map_err(|error| error.about("input"))?;
    let object = Object::new(&fields, &request, &ready, may_drop, n_dropped);
    if telling.stream {
        return Ok(sse::respond(replies, stream::Events::new(object, telling, tools.is_some())));
    }
    let reply = replies.collect().await?.pop().ok_or(EngineError::Stopped)?;
    let mut body = object.ended(&Item::all(reply.text, tools.is_some()), &reply.done);
    body["timings"] = json!(WireTimings::from(&reply.done.timings));
    Ok(Json(body).into_response())
}

/// How long the prompt of a response would be.
pub async fn input_tokens(Loaded(ready): Loaded, fields: Fields) -> Result<Json<TokenCount>, ApiError> {
    refuse_what_is_not_implemented(&fields)?;
    let tools = request::tools(&fields)?;
    let prompt = request::conversation(&fields, tools.as_ref())?.prompt(&ready).await?;
    Ok(Json(TokenCount::of(&prompt)))
}

/// A response object. It repeats what was asked for.
struct Object {
    /// What does not change.
    body: Value,
    /// Items of the input that were left out.
    n_dropped: usize,
}

impl Object {
    fn new(fields: &Fields, request: &Request, ready: &Ready, may_drop: bool, n_dropped: usize) -> Object {
        let echoed = |name: &str, otherwise: Value| fields.get(name).cloned().unwrap_or(otherwise);
        let body = json!({
            "id": format!("resp_{}", draw_id()),
            "object": "response",
            "created_at": unix_time(),
            "status": "in_progress",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": echoed("instructions", Value::Null),
            "max_output_tokens": echoed("max_output_tokens", Value::Null),
            "metadata": echoed("metadata", json!({})),
            "model": ready.facts.id,
            "output": [],
            "parallel_tool_calls": echoed("parallel_tool_calls", json!(true)),
            "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null },
            "store": false,
            "temperature": tidy(request.sampling.temperature),
            "text": { "format": { "type": "text" } },
            "tool_choice": echoed("tool_choice", json!("auto")),
            "tools": echoed("tools", json!([])),
            "top_p": tidy(request.sampling.top_p),
            "truncation": if may_drop { "auto" } else { "disabled" },
            "usage": null,
            "user": echoed("user", Value::Null),
        });
        Object { body, n_dropped }
    }

    /// The response when its reply has ended.
    fn ended(&self, items: &[Item], done: &Done) -> Value {
        let mut body = self.body.clone();
        if let (Value::Object(body), Value::Object(left_out)) = (&mut body, json!(LeftOut::of(done, self.n_dropped))) {
            body.extend(left_out);
        }
        let status = status(done);
        body["status"] = json!(status);
        if status == "incomplete" {
            body["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        let last = items.len().saturating_sub(1);
        let output = items.iter().enumerate().map(|(at, item)| item.ended(if at == last { status } else { COMPLETED }));
        body["output"] = output.collect();
        let timings = &done.timings;
        body["usage"] = json!({
            "input_tokens": timings.prompt_tokens,
            "input_tokens_details": { "cached_tokens": timings.cached_tokens },
            "output_tokens": timings.decoded_tokens,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": timings.prompt_tokens + timings.decoded_tokens,
        });
        body
    }
}

/// Whether a reply came to its end.
fn status(done: &Done) -> &'static str {
    match done.reason {
        StopReason::EndOfTurn | StopReason::StopString(_) | StopReason::Shutdown => COMPLETED,
        StopReason::TokenLimit | StopReason::ContextFull => "incomplete",
    }
}
