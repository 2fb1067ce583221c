//! Replies of both generating routes, whole or line by line.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use super::models;
use super::request::Asked;
use crate::chat::tools::{Call, Part, Reader, take_apart};
use crate::engine::{Done, EngineError, Event, StopReason, Timings, Token};
use crate::server::Ready;
use crate::server::error::{ApiError, Dialect};
use crate::server::generation::{Replies, draw_id};
use crate::server::overflow::LeftOut;
use crate::server::sse::{self, Framing, Narrator, line};
use crate::server::wire::{WireProbability, rfc3339, since_1970};
use crate::tokenizer::TokenId;

/// How a reply is told.
pub enum Form {
    /// As a `message`.
    Chat {
        /// Messages that were left out.
        n_dropped: usize,
        /// Functions may be called.
        has_tools: bool,
    },
    /// As a `response` to a turn, with the `context` for the next one, in which the model's turn ends so.
    Turn {
        /// Written after the reply.
        turn_end: Vec<TokenId>,
    },
    /// As a `response` to a text.
    Raw,
}

/// Submits a prompt and answers with what comes of it.
///
/// # Errors
/// What the engine refuses at once; without a stream also what fails later.
pub async fn answer(ready: Arc<Ready>, asked: &Asked, prompt: Vec<TokenId>, form: Form) -> Result<Response, ApiError> {
    let request = asked.request(prompt.len(), &ready)?;
    let prompts = [prompt];
    let replies = Replies::submit(&ready, &prompts, 1, &request)?;
    let [prompt] = prompts;
    let has_tools = matches!(form, Form::Chat { has_tools: true, .. });
    let teller = Teller { ready, form, prompt, n_top: asked.n_top };
    if asked.stream {
        return Ok(sse::respond(replies, Lines { teller, tokens: Vec::new(), calls: has_tools.then(Calls::default) }));
    }
    let reply = replies.collect().await?.pop().ok_or(EngineError::Stopped)?;
    let ids = reply.tokens.iter().map(|token| token.id).collect();
    let (text, calls) = if has_tools { take_apart(&reply.text) } else { (reply.text, Vec::new()) };
    let mut body = teller.end(text, ids, &reply.done);
    body.text.call(wire(&calls, 0));
    body.logprobs = teller.logprobs(&reply.tokens);
    Ok(Json(body).into_response())
}

/// The answer to a request for nothing, by which clients load a model.
pub fn loaded(ready: &Ready, form: Form) -> Response {
    let mut body = Body::new(ready, &form, String::new());
    body.done = true;
    body.done_reason = Some("load");
    Json(body).into_response()
}

/// An object of an answer: the whole, a line, or the last line.
#[derive(Serialize)]
struct Body {
    model: String,
    created_at: String,
    #[serde(flatten)]
    text: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<WireProbability>>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(flatten)]
    end: Option<End>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Text {
    Message {
        role: &'static str,
        content: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<WireCall>,
    },
    Response(String),
}

impl Text {
    fn call(&mut self, calls: Vec<WireCall>) {
        if let Text::Message { tool_calls, .. } = self {
            *tool_calls = calls;
        }
    }
}

#[derive(Serialize)]
struct WireCall {
    id: String,
    function: WireFunction,
}

#[derive(Serialize)]
struct WireFunction {
    /// Its place among the calls of the reply.
    index: usize,
    name: String,
    arguments: Map<String, Value>,
}

/// Calls of a reply after `n_before` others, without one that was cut off.
fn wire(calls: &[Call], n_before: usize) -> Vec<WireCall> {
    let whole = calls.iter().filter_map(|call| Some((call.name.clone(), call.object()?)));
    let wire = whole.enumerate().map(|(at, (name, arguments))| WireCall {
        id: format!("call_{}", draw_id()),
        function: WireFunction { index: n_before + at, name, arguments },
    });
    wire.collect()
}

/// Counts, and durations in nanoseconds.
#[derive(Serialize)]
struct End {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Vec<TokenId>>,
    total_duration: u128,
    /// What came before the prompt was read: the model is loaded, and a slot may have to be waited for.
    load_duration: u128,
    prompt_eval_count: usize,
    prompt_eval_duration: u128,
    eval_count: usize,
    eval_duration: u128,
    #[serde(flatten)]
    left_out: LeftOut,
}

impl Body {
    fn new(ready: &Ready, form: &Form, text: String) -> Body {
        let text = match form {
            Form::Chat { .. } => Text::Message { role: "assistant", content: text, tool_calls: Vec::new() },
            Form::Turn { .. } | Form::Raw => Text::Response(text),
        };
        Body {
            model: models::name(ready),
            created_at: rfc3339(since_1970()),
            text,
            logprobs: None,
            done: false,
            done_reason: None,
            end: None,
        }
    }
}

impl End {
    fn new(context: Option<Vec<TokenId>>, left_out: LeftOut, timings: &Timings) -> End {
        End {
            context,
            total_duration: (timings.queued + timings.prefill + timings.decode).as_nanos(),
            load_duration: timings.queued.as_nanos(),
            prompt_eval_count: timings.prompt_tokens,
            prompt_eval_duration: timings.prefill.as_nanos(),
            eval_count: timings.decoded_tokens,
            eval_duration: timings.decode.as_nanos(),
            left_out,
        }
    }
}

/// What it takes to tell a reply.
struct Teller {
    ready: Arc<Ready>,
    form: Form,
    prompt: Vec<TokenId>,
    n_top: Option<usize>,
}

impl Teller {
    fn part(&self, text: String) -> Body {
        Body::new(&self.ready, &self.form, text)
    }

    /// The last object, with the `ids` of all of the reply.
    fn end(&self, text: String, ids: Vec<TokenId>, done: &Done) -> Body {
        let (context, n_dropped) = match &self.form {
            Form::Turn { turn_end } => (Some([&self.prompt[..], &ids, turn_end].concat()), 0),
            Form::Chat { n_dropped, .. } => (None, *n_dropped),
            Form::Raw => (None, 0),
        };
        let mut body = self.part(text);
        body.done = true;
        body.done_reason = Some(match done.reason {
            StopReason::EndOfTurn | StopReason::StopString(_) | StopReason::Shutdown => "stop",
            StopReason::TokenLimit | StopReason::ContextFull => "length",
        });
        body.end = Some(End::new(context, LeftOut::of(done, n_dropped), &done.timings));
        body
    }

    fn logprobs(&self, tokens: &[Token]) -> Option<Vec<WireProbability>> {
        let n_top = self.n_top?;
        let tokenizer = self.ready.engine.tokenizer();
        Some(tokens.iter().map(|token| WireProbability::new(token, n_top, tokenizer)).collect())
    }
}

/// A stream of lines.
struct Lines {
    teller: Teller,
    /// The reply so far.
    tokens: Vec<TokenId>,
    /// Where functions may be called.
    calls: Option<Calls>,
}

impl Lines {
    /// The text in a piece of the reply, and the calls that it makes whole.
    fn take(&mut self, text: String) -> (String, Vec<WireCall>) {
        match &mut self.calls {
            Some(calls) => {
                let parts = calls.reader.push(&text);
                calls.take(parts)
            }
            None => (text, Vec::new()),
        }
    }

    /// The same for what was held back.
    fn take_rest(&mut self) -> (String, Vec<WireCall>) {
        let Some(calls) = &mut self.calls else {
            return Default::default();
        };
        let parts = calls.reader.finish();
        let (text, mut told) = calls.take(parts);
        told.extend(calls.tell());
        (text, told)
    }

    fn line(&self, text: String, calls: Vec<WireCall>, logprobs: Option<Vec<WireProbability>>) -> Option<String> {
        if text.is_empty() && calls.is_empty() && logprobs.is_none() {
            return None;
        }
        let mut body = self.teller.part(text);
        body.text.call(calls);
        body.logprobs = logprobs;
        Some(line(&body))
    }
}

/// Calls in a reply, gathered until they are whole.
#[derive(Default)]
struct Calls {
    reader: Reader,
    begun: Option<Call>,
    n_told: usize,
}

impl Calls {
    fn take(&mut self, parts: Vec<Part>) -> (String, Vec<WireCall>) {
        let (mut text, mut told) = (String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Text(more) => text.push_str(&more),
                Part::Call(name) => {
                    told.extend(self.tell());
                    self.begun = Some(Call { name, arguments: String::new() });
                }
                Part::Arguments(more) => self.begun.iter_mut().for_each(|call| call.arguments.push_str(&more)),
            }
        }
        (text, told)
    }

    /// The call that has begun, which is whole now.
    fn tell(&mut self) -> Vec<WireCall> {
        let told = wire(self.begun.take().as_slice(), self.n_told);
        self.n_told += told.len();
        told
    }
}

impl Narrator for Lines {
    const DIALECT: Dialect = Dialect::Ollama;
    const FRAMING: Framing = Framing::Lines;

    fn start(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn event(&mut self, _: usize, event: Event) -> Vec<String> {
        match event {
            Event::Prefill { .. } | Event::Prompt(_) | Event::Failed(_) => Vec::new(),
            Event::Token(token) => {
                self.tokens.push(token.id);
                let logprobs = self.teller.logprobs(std::slice::from_ref(&token));
                let (text, calls) = self.take(token.text);
                self.line(text, calls, logprobs).into_iter().collect()
            }
            Event::Done(mut done) => {
                // The last line has no text.
                let (mut text, mut calls) = self.take(std::mem::take(&mut done.text));
                let (more, last) = self.take_rest();
                text.push_str(&more);
                calls.extend(last);
                let rest = self.line(text, calls, None);
                let end = self.teller.end(String::new(), std::mem::take(&mut self.tokens), &done);
                rest.into_iter().chain([line(&end)]).collect()
            }
        }
    }

    fn end(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn failed(&mut self, error: &ApiError) -> Vec<String> {
        vec![line(&error.body(Self::DIALECT))]
    }
}
