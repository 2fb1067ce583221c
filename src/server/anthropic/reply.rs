//! A message as an answer, whole or as a stream of named events.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::engine::{Done, EngineError, Event, Request, StopReason};
use crate::server::Ready;
use crate::server::conversation::Prompt;
use crate::server::error::{ApiError, Dialect};
use crate::server::generation::{Replies, draw_id};
use crate::server::overflow::LeftOut;
use crate::server::sse::{self, Narrator, named};

/// Submits a prompt and answers with what comes of it.
///
/// # Errors
/// What the engine refuses at once; without a stream also what fails later.
pub async fn answer(ready: &Ready, prompt: Prompt, request: &Request, stream: bool) -> Result<Response, ApiError> {
    let (n_prompt, n_dropped) = (prompt.tokens.len(), prompt.n_dropped);
    let replies = Replies::submit(ready, &[prompt.tokens], 1, request)?;
    let message = Message {
        id: format!("msg_{}", draw_id()),
        r#type: "message",
        role: "assistant",
        model: ready.facts.id.clone(),
        content: Vec::new(),
        stop_reason: None,
        stop_sequence: None,
        usage: Usage::new(n_prompt, 0, 0),
        left_out: LeftOut::default(),
    };
    if stream {
        return Ok(sse::respond(replies, Events { message, n_dropped, is_begun: false }));
    }
    let reply = replies.collect().await?.pop().ok_or(EngineError::Stopped)?;
    let mut message = message.ended(&reply.done, n_dropped);
    message.content = vec![Block { r#type: "text", text: reply.text }];
    Ok(Json(message).into_response())
}

#[derive(Clone, Serialize)]
struct Message {
    id: String,
    r#type: &'static str,
    role: &'static str,
    model: String,
    content: Vec<Block>,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
    usage: Usage,
    #[serde(flatten)]
    left_out: LeftOut,
}

#[derive(Clone, Serialize)]
struct Block {
    r#type: &'static str,
    text: String,
}

#[derive(Clone, Copy, Serialize)]
struct Usage {
    /// Of the prompt, without those from the cache.
    input_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
    output_tokens: usize,
}

impl Usage {
    fn new(n_prompt: usize, n_cached: usize, n_decoded: usize) -> Usage {
        Usage {
            input_tokens: n_prompt.saturating_sub(n_cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: n_cached,
            output_tokens: n_decoded,
        }
    }
}

impl Message {
    fn ended(mut self, done: &Done, n_dropped: usize) -> Message {
        self.left_out = LeftOut::of(done, n_dropped);
        let timings = &done.timings;
        self.usage = Usage::new(timings.prompt_tokens, timings.cached_tokens, timings.decoded_tokens);
        (self.stop_reason, self.stop_sequence) = match &done.reason {
            StopReason::EndOfTurn | StopReason::Shutdown => (Some("end_turn"), None),
            StopReason::StopString(word) => (Some("stop_sequence"), Some(word.clone())),
            StopReason::TokenLimit => (Some("max_tokens"), None),
            StopReason::ContextFull => (Some("model_context_window_exceeded"), None),
        };
        self
    }
}

/// A stream of events. It begins when it is known how much of the prompt was cached.
struct Events {
    message: Message,
    n_dropped: usize,
    is_begun: bool,
}

impl Events {
    /// The first events, where they have not been told.
    fn begin(&mut self) -> Vec<String> {
        if std::mem::replace(&mut self.is_begun, true) {
            return Vec::new();
        }
        vec![
            event("message_start", json!({ "message": self.message })),
            event(
                "content_block_start",
                json!({ "index": 0, "content_block": Block { r#type: "text", text: String::new() } }),
            ),
            event("ping", json!({})),
        ]
    }
}

impl Narrator for Events {
    const DIALECT: Dialect = Dialect::Anthropic;

    fn start(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn event(&mut self, _: usize, event: Event) -> Vec<String> {
        match event {
            Event::Prefill { total, cached, .. } => {
                self.message.usage = Usage::new(total, cached, 0);
                self.begin()
            }
            Event::Token(token) => {
                let mut events = self.begin();
                events.extend(delta(token.text));
                events
            }
            Event::Done(mut done) => {
                let mut events = self.begin();
                events.extend(delta(std::mem::take(&mut done.text)));
                let message = self.message.clone().ended(&done, self.n_dropped);
                let stop = json!({ "stop_reason": message.stop_reason, "stop_sequence": message.stop_sequence });
                let mut end = json!(message.left_out);
                end["delta"] = stop;
                end["usage"] = json!(message.usage);
                events.push(self::event("content_block_stop", json!({ "index": 0 })));
                events.push(self::event("message_delta", end));
                events
            }
            Event::Failed(_) => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<String> {
        vec![event("message_stop", json!({}))]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<String> {
        vec![named("error", &error.body(Self::DIALECT))]
    }
}

/// More text; nothing where there is none.
fn delta(text: String) -> Option<String> {
    let delta = json!({ "index": 0, "delta": { "type": "text_delta", "text": text } });
    (!text.is_empty()).then(|| event("content_block_delta", delta))
}

/// An event, whose type stands in its data too.
fn event(name: &str, mut body: Value) -> String {
    body["type"] = json!(name);
    named(name, &body)
}
