//! `POST /v1/responses`, for text.
//!
//! - Nothing is stored: `store` and `background` may be false only, and there is no `previous_response_id` and no
//!   `conversation`; a client sends all of the `input` each time.
//! - `reasoning` has nothing to decide: this model does not reason.
//! - `truncation` is `auto` (the oldest turns are left out where the input does not fit) or `disabled` (then that is an
//!   error); where it is left out, `overflow` decides as it does for chats. Answers say `truncated`.
//! - Streams tell `timings` and `prompt_progress` as the other APIs do, where they are asked for.

mod request;
mod stream;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::engine::{Done, EngineError, Request, StopReason};
use crate::server::error::{ApiError, tidy};
use crate::server::fields::Fields;
use crate::server::generation::{Replies, Telling, draw_id};
use crate::server::overflow::{self, LeftOut};
use crate::server::sse;
use crate::server::wire::{WireTimings, unix_time};
use crate::server::{Loaded, Ready};

/// The handler.
pub async fn responses(Loaded(ready): Loaded, fields: Fields) -> Result<Response, ApiError> {
    let mut request = request::request(&fields, &ready).await?;
    let (overflow, may_drop) = request::overflow(&fields)?;
    request.overflow = overflow;
    let telling = Telling::read(&fields)?;
    let room = overflow::room(may_drop, request.limit, ready.engine.options().n_ctx);
    let prompt = request::conversation(&fields)?.fitting_prompt(&ready, room).await?;
    let n_dropped = prompt.n_dropped;
    let replies = Replies::submit(&ready, &[prompt.tokens], 1, &request).map_err(|error| error.about("input"))?;
    let object = Object::new(&fields, &request, &ready, may_drop, n_dropped);
    if telling.stream {
        return Ok(sse::respond(replies, stream::Events::new(object, telling)));
    }
    let reply = replies.collect().await?.pop().ok_or(EngineError::Stopped)?;
    let mut body = object.ended(&reply.text, &reply.done);
    body["timings"] = json!(WireTimings::from(&reply.done.timings));
    Ok(Json(body).into_response())
}

/// A response object. It repeats what was asked for.
struct Object {
    /// What does not change.
    body: Value,
    /// The id of the one item of the output.
    item_id: String,
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
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": { "effort": null, "summary": null },
            "store": false,
            "temperature": tidy(request.sampling.temperature),
            "text": { "format": { "type": "text" } },
            "tool_choice": "auto",
            "tools": [],
            "top_p": tidy(request.sampling.top_p),
            "truncation": if may_drop { "auto" } else { "disabled" },
            "usage": null,
            "user": echoed("user", Value::Null),
        });
        Object { body, item_id: format!("msg_{}", draw_id()), n_dropped }
    }

    /// The message that is the output.
    fn item(&self, status: &str, content: &[Value]) -> Value {
        json!({ "id": self.item_id, "type": "message", "status": status, "role": "assistant", "content": content })
    }

    /// The response when its reply has ended.
    fn ended(&self, text: &str, done: &Done) -> Value {
        let mut body = self.body.clone();
        if let (Value::Object(body), Value::Object(left_out)) = (&mut body, json!(LeftOut::of(done, self.n_dropped))) {
            body.extend(left_out);
        }
        let status = status(done);
        body["status"] = json!(status);
        if status == "incomplete" {
            body["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        body["output"] = json!([self.item(status, &[part(text)])]);
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
        StopReason::EndOfTurn | StopReason::StopString(_) | StopReason::Shutdown => "completed",
        StopReason::TokenLimit | StopReason::ContextFull => "incomplete",
    }
}

/// The one part of the message.
fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}
