//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use super::tools::{CallReader, Piece, WireCall};
use super::{Body, End, Envelope, TokenCount, Usage};
use crate::chat::tools::take_apart;
use crate::engine::{Done, Event, Request, StopReason, Token};
use crate::server::completion::Teller;
use crate::server::constraint;
use crate::server::conversation::Conversation;
use crate::server::error::{ApiError, Dialect};
use crate::server::fields::Fields;
use crate::server::generation::{self, Replies, Telling, refuse_what_is_not_implemented};
use crate::server::overflow::{self, LeftOut};
use crate::server::sse::{self, Narrator, frame};
use crate::server::tools::Tools;
use crate::server::wire::{Watch, WireProbability, WireTimings};
use crate::server::{AppState, Loaded, Ready};

/// The handler.
pub async fn completions(
    State(state): State<AppState>,
    Loaded(ready): Loaded,
    fields: Fields,
) -> Result<Response, ApiError> {
    refuse_what_is_not_implemented(&fields)?;
    fields.string("model")?;
    let telling = Telling::read(&fields)?;
    let n = generation::n_replies(&fields, &["n"])?;
    let n_top = generation::n_top(&fields)?;
    let (conversation, tools) = conversation(&fields)?;
    let (overflow, may_drop) = overflow::of_chat(&fields)?;
    let mut request = Request::new(Vec::new());
    let tokenizer = ready.engine.tokenizer();
    request.sampling = generation::sampling(&fields, &ready.facts.sampling, 2.0, tokenizer)?;
    request.limit =
        generation::limit(&fields, &["max_completion_tokens", "max_tokens", "n_predict"], 1, ready.facts.limit)?;
    request.overflow = overflow;
    request.stop = generation::stop_strings(&fields, "stop")?;
    request.ignore_eos = fields.bool("ignore_eos", false)?;
    request.cache_prompt = fields.bool("cache_prompt", true)?;
    request.n_probs = n_top.map_or(0, |n_top| n_top.max(1));
    request.constraint = constraint::of_reply(constraint::wanted(&fields)?, tools.as_ref(), &ready).await?;

    let room = overflow::room(may_drop, request.limit, ready.engine.options().n_ctx);
    let prompt = conversation.fitting_prompt(&ready, room).await?;
    let n_dropped = prompt.n_dropped;
    let prompts = vec![prompt.tokens];
    let replies = Replies::submit(&ready, &prompts, n, &request).map_err(|error| error.about("messages"))?;
    let verbose = Teller::of_verbose(&fields, state.options().verbose, || {
        Teller::new(prompts, n, request, telling, ready.clone())
    })?;
    if telling.stream {
        let envelope = Envelope::new("chatcmpl", "chat.completion.chunk", &state, &ready);
        let story = Chunks {
            envelope,
            ready,
            telling,
            n_top,
            n_dropped,
            left_out: LeftOut::default(),
            watches: vec![Watch::new(); n],
            calls: tools.is_some().then(|| vec![CallReader::default(); n]),
            usage: telling.include_usage.then(Usage::default),
            timings: None,
            verbose,
        };
        return Ok(sse::respond(replies, story));
    }
    let envelope = Envelope::new("chatcmpl", "chat.completion", &state, &ready);
    let mut usage = Usage::default();
    let mut timings = None;
    let mut left_out = LeftOut::default();
    let mut told = None;
    let mut choices = Vec::with_capacity(n);
    for (index, reply) in replies.collect().await?.into_iter().enumerate() {
        usage.add(index, n, &reply.done.timings);
        timings = (n == 1).then(|| WireTimings::from(&reply.done.timings));
        left_out = left_out.and(LeftOut::of(&reply.done, n_dropped));
        told = told.or_else(|| Some(verbose.as_ref()?.whole(index, &reply)));
        let message = match tools.is_some() {
            true => Message::with_calls(&reply.text),
            false => Message { role: "assistant", content: Some(reply.text), tool_calls: None },
        };
        choices.push(Choice {
            index,
            logprobs: n_top.map(|n_top| Logprobs::of(&reply.tokens, n_top, &ready)),
            end: end(&reply.done, message.tool_calls.is_some()),
            message,
        });
    }
    let mut body = Body::new(&envelope, choices);
    body.usage = Some(usage);
    body.timings = timings;
    body.left_out = left_out;
    body.verbose = told;
    Ok(Json(body).into_response())
}

/// How long the prompt of a conversation would be.
pub async fn input_tokens(Loaded(ready): Loaded, fields: Fields) -> Result<Json<TokenCount>, ApiError> {
    refuse_what_is_not_implemented(&fields)?;
    let (conversation, _) = conversation(&fields)?;
    let prompt = conversation.prompt(&ready).await?;
    Ok(Json(TokenCount::of(&prompt)))
}

/// The conversation, told of the functions that may be called.
fn conversation(fields: &Fields) -> Result<(Conversation, Option<Tools>), ApiError> {
    let mut conversation = Conversation::read(fields)?;
    let tools = Tools::of_chat(fields)?;
    if let Some(tools) = &tools {
        conversation.instruct(tools.instructions());
    }
    Ok((conversation, tools))
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<Logprobs>,
    #[serde(flatten)]
    end: End,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<WireCall>>,
}

impl Message {
    fn with_calls(reply: &str) -> Message {
        let (text, calls) = take_apart(reply);
        let has_calls = !calls.is_empty();
        Message {
            role: "assistant",
            content: (!has_calls || !text.is_empty()).then_some(text),
            tool_calls: has_calls.then(|| calls.into_iter().map(WireCall::of).collect()),
        }
    }
}

/// How a choice ended, which a reply that calls functions does in a way of its own.
fn end(done: &Done, has_calls: bool) -> End {
    let mut end = End::of(done);
    if has_calls && done.reason == StopReason::EndOfTurn {
        end.finish_reason = Some("tool_calls");
    }
    end
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs>,
    #[serde(flatten)]
    end: End,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Null where there is none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<WireCall>,
}

impl Delta {
    fn text(text: String) -> Delta {
        Delta { content: Some(Value::String(text)), ..Delta::default() }
    }

    /// All pieces in one: text and calls never come together.
    fn of(pieces: Vec<Piece>) -> Delta {
        let mut delta = Delta::default();
        let mut said = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => said.push_str(&text),
                Piece::Call(call) => delta.tool_calls.push(call),
            }
        }
        delta.content = (!said.is_empty()).then_some(Value::String(said));
        delta
    }

    fn is_empty(&self) -> bool {
        let is_silent = self.content.as_ref().is_none_or(|text| text.as_str().is_none_or(str::is_empty));
        is_silent && self.tool_calls.is_empty()
    }
}

#[derive(Serialize)]
struct Logprobs {
    content: Vec<WireProbability>,
}

impl Logprobs {
    fn of(tokens: &[Token], n_top: usize, ready: &Ready) -> Logprobs {
        let tokenizer = ready.engine.tokenizer();
        let content = tokens.iter().map(|token| WireProbability::new(token, n_top, tokenizer)).collect();
        Logprobs { content }
    }
}

/// A stream of chunks.
struct Chunks {
    envelope: Envelope,
    ready: Arc<Ready>,
    telling: Telling,
    n_top: Option<usize>,
    /// Messages that were left out.
    n_dropped: usize,
    left_out: LeftOut,
    watches: Vec<Watch>,
    /// Of each reply, where functions may be called.
    calls: Option<Vec<CallReader>>,
    usage: Option<Usage>,
    timings: Option<WireTimings>,
    verbose: Option<Teller>,
}

impl Chunks {
    fn choice(&self, index: usize, delta: Delta) -> Body<'_, ChunkChoice> {
        let choice = ChunkChoice { index, delta, logprobs: None, end: End::OPEN };
        Body::new(&self.envelope, vec![choice])
    }

    fn delta(&mut self, index: usize, text: String) -> Delta {
        match &mut self.calls {
            Some(calls) => Delta::of(calls[index].push(&text)),
            None => Delta::text(text),
        }
    }
}

impl Narrator for Chunks {
    const DIALECT: Dialect = Dialect::OpenAi;

    fn start(&mut self) -> Vec<String> {
        let delta = || Delta { role: Some("assistant"), content: Some(Value::Null), ..Delta::default() };
        (0..self.watches.len()).map(|index| frame(&self.choice(index, delta()))).collect()
    }

    fn event(&mut self, index: usize, event: Event) -> Vec<String> {
        match event {
            Event::Prefill { done, total, cached } => {
                let progress = self.watches[index].prefill(done, total, cached);
                if !self.telling.return_progress {
                    return Vec::new();
                }
                let told = progress.into_iter().map(|progress| {
                    let mut body = self.choice(index, Delta::default());
                    body.prompt_progress = Some(progress.prompt);
                    body.timings = self.telling.timings_per_token.then_some(progress.timings);
                    frame(&body)
                });
                told.collect()
            }
            Event::Token(token) => {
                let timings = self.watches[index].token();
                let timings = self.telling.timings_per_token.then_some(timings);
                let delta = self.delta(index, token.text.clone());
                if delta.is_empty() && self.n_top.is_none() && timings.is_none() {
                    return Vec::new();
                }
                let logprobs = self.n_top.map(|n_top| Logprobs::of(std::slice::from_ref(&token), n_top, &self.ready));
                let mut body = self.choice(index, delta);
                body.choices[0].logprobs = logprobs;
                body.timings = timings;
                vec![frame(&body)]
            }
            Event::Done(done) => {
                let n = self.watches.len();
                let timings = WireTimings::from(&done.timings);
                if let Some(usage) = &mut self.usage {
                    usage.add(index, n, &done.timings);
                }
                self.timings = (n == 1).then_some(timings);
                let left_out = LeftOut::of(&done, self.n_dropped);
                self.left_out = self.left_out.and(left_out);
                let (rest, has_calls) = match &mut self.calls {
                    Some(calls) => {
                        let reader = &mut calls[index];
                        let mut pieces = reader.push(&done.text);
                        pieces.extend(reader.finish());
                        (Delta::of(pieces), reader.has_calls())
                    }
                    None => (Delta::text(done.text.clone()), false),
                };
                let end = end(&done, has_calls);
                // Clients do not look for text beside a `finish_reason`.
                let rest = (!rest.is_empty()).then(|| frame(&self.choice(index, rest)));
                let mut body = self.choice(index, Delta::default());
                body.choices[0].end = end;
                body.timings = Some(timings);
                body.left_out = left_out;
                body.verbose = self.verbose.as_ref().map(|teller| teller.end(index, &done));
                rest.into_iter().chain([frame(&body)]).collect()
            }
            Event::Prompt(_) | Event::Failed(_) => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<String> {
        let mut frames = Vec::new();
        if let Some(usage) = self.usage {
            let mut body = Body::<ChunkChoice>::new(&self.envelope, Vec::new());
            body.usage = Some(usage);
            body.timings = self.timings;
            body.left_out = self.left_out;
            frames.push(frame(&body));
        }
        frames.push(sse::DONE.to_owned());
        frames
    }
}
