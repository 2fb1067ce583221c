//! A message as an answer, whole or as a stream of named events.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::chat::tools::{Call, Part, Reader, take_apart};
use crate::engine::{Done, EngineError, Event, Request, StopReason};
use crate::server::Ready;
use crate::server::conversation::Prompt;
use crate::server::error::{ApiError, Dialect};
use crate::server::generation::{Replies, draw_id};
use crate::server::overflow::LeftOut;
use crate::server::sse::{self, Narrator, named};

/// Submits a prompt and answers with what comes of it, which may be calls where it `has_tools`.
///
/// # Errors
/// What the engine refuses at once; without a stream also what fails later.
pub async fn answer(
    ready: &Ready,
    prompt: Prompt,
    request: &Request,
    has_tools: bool,
    stream: bool,
) -> Result<Response, ApiError> {
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
        let reader = has_tools.then(Reader::default);
        return Ok(sse::respond(
            replies,
            Events { message, n_dropped, is_begun: false, reader, blocks: Blocks::default() },
        ));
    }
    let reply = replies.collect().await?.pop().ok_or(EngineError::Stopped)?;
    let (text, calls) = if has_tools { take_apart(&reply.text) } else { (reply.text, Vec::new()) };
    let mut message = message.ended(&reply.done, n_dropped, !calls.is_empty());
    let text = (calls.is_empty() || !text.is_empty()).then_some(Block::Text { text });
    message.content = text.into_iter().chain(calls.iter().filter_map(Block::of)).collect();
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
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text { text: String },
    ToolUse { id: String, name: String, input: Map<String, Value> },
}

impl Block {
    /// None for a call that was cut off.
    fn of(call: &Call) -> Option<Block> {
        call.object().map(|input| Block::call(&call.name, input))
    }

    fn call(name: &str, input: Map<String, Value>) -> Block {
        Block::ToolUse { id: format!("toolu_{}", draw_id()), name: name.to_owned(), input }
    }
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
    fn ended(mut self, done: &Done, n_dropped: usize, has_calls: bool) -> Message {
        self.left_out = LeftOut::of(done, n_dropped);
        let timings = &done.timings;
        self.usage = Usage::new(timings.prompt_tokens, timings.cached_tokens, timings.decoded_tokens);
        (self.stop_reason, self.stop_sequence) = match &done.reason {
            StopReason::EndOfTurn if has_calls => (Some("tool_use"), None),
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
    /// Where functions may be called.
    reader: Option<Reader>,
    blocks: Blocks,
}

impl Events {
    /// The first events, where they have not been told.
    fn begin(&mut self) -> Vec<String> {
        if std::mem::replace(&mut self.is_begun, true) {
            return Vec::new();
        }
        let mut events = vec![event("message_start", json!({ "message": self.message }))];
        if self.reader.is_none() {
            self.blocks.open(&mut events, Kind::Text, Block::Text { text: String::new() });
        }
        events.push(event("ping", json!({})));
        events
    }

    /// What a piece of the reply turned out to be.
    fn parts(&mut self, text: String) -> Vec<Part> {
        match &mut self.reader {
            Some(reader) => reader.push(&text),
            None => vec![Part::Text(text)],
        }
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
                let parts = self.parts(token.text);
                self.blocks.add(&mut events, parts);
                events
            }
            Event::Done(mut done) => {
                let mut events = self.begin();
                let mut parts = self.parts(std::mem::take(&mut done.text));
                parts.extend(self.reader.iter_mut().flat_map(Reader::finish));
                self.blocks.add(&mut events, parts);
                self.blocks.close(&mut events);
                let message = self.message.clone().ended(&done, self.n_dropped, self.blocks.has_calls);
                let stop = json!({ "stop_reason": message.stop_reason, "stop_sequence": message.stop_sequence });
                let mut end = json!(message.left_out);
                end["delta"] = stop;
                end["usage"] = json!(message.usage);
                events.push(self::event("message_delta", end));
                events
            }
            Event::Prompt(_) | Event::Failed(_) => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<String> {
        vec![event("message_stop", json!({}))]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<String> {
        vec![named("error", &error.body(Self::DIALECT))]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Call,
}

/// The content of a streamed message, one block after the other.
#[derive(Default)]
struct Blocks {
    /// Blocks that have been opened.
    n: usize,
    /// The last of them, while it is open.
    open: Option<Kind>,
    has_calls: bool,
}

impl Blocks {
    fn add(&mut self, events: &mut Vec<String>, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Text(text) if text.is_empty() => {}
                Part::Text(text) => {
                    if self.open != Some(Kind::Text) {
                        self.open(events, Kind::Text, Block::Text { text: String::new() });
                    }
                    self.delta(events, json!({ "type": "text_delta", "text": text }));
                }
                Part::Call(name) => {
                    self.has_calls = true;
                    self.open(events, Kind::Call, Block::call(&name, Map::new()));
                }
                Part::Arguments(more) => {
                    self.delta(events, json!({ "type": "input_json_delta", "partial_json": more }))
                }
            }
        }
    }

    fn open(&mut self, events: &mut Vec<String>, kind: Kind, block: Block) {
        self.close(events);
        events.push(event("content_block_start", json!({ "index": self.n, "content_block": block })));
        self.n += 1;
        self.open = Some(kind);
    }

    fn delta(&self, events: &mut Vec<String>, delta: Value) {
        let index = self.n.saturating_sub(1);
        events.push(event("content_block_delta", json!({ "index": index, "delta": delta })));
    }

    fn close(&mut self, events: &mut Vec<String>) {
        if self.open.take().is_some() {
            events.push(event("content_block_stop", json!({ "index": self.n - 1 })));
        }
    }
}

/// An event, whose type stands in its data too.
fn event(name: &str, mut body: Value) -> String {
    body["type"] = json!(name);
    named(name, &body)
}
