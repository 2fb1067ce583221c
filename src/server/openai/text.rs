//! `POST /v1/completions`: text in, text out, no chat template.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::lists::{Lister, Lists};
use super::{Body, End, Envelope, Usage};
use crate::engine::{Event, Overflow, Request, Token};
use crate::server::completion::Teller;
use crate::server::constraint::constraint;
use crate::server::error::{ApiError, Dialect};
use crate::server::fields::Fields;
use crate::server::generation::{self, Replies, Telling, refuse_what_is_not_implemented};
use crate::server::overflow::{self, LeftOut};
use crate::server::sse::{self, Narrator, frame};
use crate::server::wire::{Watch, WireTimings};
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
    let n_top = fields.integer("logprobs", 0..=5)?.and_then(|n| usize::try_from(n).ok());
    let echo = fields.bool("echo", false)?;
    let tokenizer = ready.engine.tokenizer();
    let mut request = Request::new(Vec::new());
    request.sampling = generation::sampling(&fields, &ready.facts.sampling, 2.0, tokenizer)?;
    request.limit = generation::limit(&fields, &["max_tokens", "n_predict"], 0, ready.facts.limit)?;
    request.overflow = overflow::of_text(&fields, state.options().context_shift)?;
    request.stop = generation::stop_strings(&fields, "stop")?;
    request.ignore_eos = fields.bool("ignore_eos", false)?;
    request.cache_prompt = fields.bool("cache_prompt", true)?;
    request.n_probs = n_top.map_or(0, |n_top| n_top.max(1));
    request.constraint = constraint(&fields, &ready).await?;
    request.prompt_probs = echo && n_top.is_some();
    if let (true, Overflow::Shift { cut_prompt, .. }) = (request.prompt_probs, &mut request.overflow) {
        // What is echoed with its probabilities is what was read.
        *cut_prompt = false;
    }

    let prompts = generation::prompts(&fields, &ready).await?;
    let replies = Replies::submit(&ready, &prompts, n, &request).map_err(|error| error.about("prompt"))?;
    let teller = || Teller::new(prompts.clone(), n, request, telling, ready.clone());
    let verbose = Teller::of_verbose(&fields, state.options().verbose, teller)?;
    let n_added = generation::n_added(&fields, &prompts, tokenizer);
    let choices: Vec<Running> = prompts
        .iter()
        .zip(n_added)
        .flat_map(|(prompt, n_added)| std::iter::repeat_n((prompt, n_added), n))
        .map(|(prompt, n_added)| Running {
            n_prompt: prompt.len(),
            n_added,
            echoed: if echo { tokenizer.decode(&prompt[n_added..], true) } else { String::new() },
            n_top,
            lister: Lister::new(n_top.unwrap_or(0)),
            prompt: Vec::new(),
            watch: Watch::new(),
        })
        .collect();
    let envelope = Envelope::new("cmpl", "text_completion", &state, &ready);
    if telling.stream {
        let story = Pieces {
            envelope,
            ready,
            telling,
            n,
            states: choices,
            usage: telling.include_usage.then(Usage::default),
            timings: None,
            verbose,
        };
        return Ok(sse::respond(replies, story));
    }
    let is_single = replies.len() == 1;
    let mut usage = Usage::default();
    let mut timings = None;
    let mut left_out = LeftOut::default();
    let mut told = None;
    let mut bodies = Vec::with_capacity(replies.len());
    let replies = replies.collect().await?;
    for (index, (reply, mut state)) in replies.into_iter().zip(choices).enumerate() {
        usage.add(index, n, &reply.done.timings);
        timings = is_single.then(|| WireTimings::from(&reply.done.timings));
        left_out = left_out.and(LeftOut::of(&reply.done, 0));
        told = told.or_else(|| Some(verbose.as_ref()?.whole(index, &reply)));
        let end = End::of(&reply.done);
        bodies.push(Choice {
            index,
            logprobs: state.lists(&reply.prompt, &reply.tokens, &ready),
            text: state.echoed + &reply.text,
            end,
        });
    }
    let mut body = Body::new(&envelope, bodies);
    body.usage = Some(usage);
    body.timings = timings;
    body.left_out = left_out;
    body.verbose = told;
    Ok(Json(body).into_response())
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<Lists>,
    #[serde(flatten)]
    end: End,
}

/// A running choice.
struct Running {
    /// Tokens of the prompt, and those at its start that are not the client's.
    n_prompt: usize,
    n_added: usize,
    /// The rest of it, where it is wanted.
    echoed: String,
    /// Where probabilities are wanted.
    n_top: Option<usize>,
    lister: Lister,
    /// The prompt's tokens in a stream, until it is complete.
    prompt: Vec<Token>,
    watch: Watch,
}

impl Running {
    /// The tokens of the echoed prompt, whole or none of it, and the next ones of the reply.
    fn lists(&mut self, prompt: &[Token], reply: &[Token], ready: &Ready) -> Option<Lists> {
        self.n_top?;
        let mut lists = Lists::default();
        let tokenizer = ready.engine.tokenizer();
        if let Some(prompt) = prompt.get(self.n_added..).filter(|prompt| !prompt.is_empty()) {
            self.lister.prompt(&mut lists, prompt, tokenizer);
        }
        self.lister.reply(&mut lists, reply, tokenizer);
        Some(lists)
    }
}

/// A stream of text pieces.
struct Pieces {
    envelope: Envelope,
    ready: Arc<Ready>,
    telling: Telling,
    n: usize,
    states: Vec<Running>,
    usage: Option<Usage>,
    timings: Option<WireTimings>,
    verbose: Option<Teller>,
}

impl Pieces {
    fn choice(&self, index: usize, text: String) -> Body<'_, Choice> {
        let choice = Choice { index, text, logprobs: None, end: End::OPEN };
        Body::new(&self.envelope, vec![choice])
    }
}

impl Narrator for Pieces {
    const DIALECT: Dialect = Dialect::OpenAi;

    fn start(&mut self) -> Vec<String> {
        // With probabilities it comes when they are there.
        let echoes = self.states.iter().enumerate().filter(|(_, state)| state.n_top.is_none());
        echoes
            .filter(|(_, state)| !state.echoed.is_empty())
            .map(|(index, state)| frame(&self.choice(index, state.echoed.clone())))
            .collect()
    }

    fn event(&mut self, index: usize, event: Event) -> Vec<String> {
        match event {
            Event::Prefill { done, total, cached } => {
                let progress = self.states[index].watch.prefill(done, total, cached);
                if !self.telling.return_progress {
                    return Vec::new();
                }
                let told = progress.into_iter().map(|progress| {
                    let mut body = self.choice(index, String::new());
                    body.prompt_progress = Some(progress.prompt);
                    body.timings = self.telling.timings_per_token.then_some(progress.timings);
                    frame(&body)
                });
                told.collect()
            }
            Event::Prompt(tokens) => {
                let state = &mut self.states[index];
                state.prompt.extend(tokens);
                if state.prompt.len() < state.n_prompt {
                    return Vec::new();
                }
                let prompt = std::mem::take(&mut state.prompt);
                let logprobs = state.lists(&prompt, &[], &self.ready);
                let echoed = std::mem::take(&mut state.echoed);
                let mut body = self.choice(index, echoed);
                body.choices[0].logprobs = logprobs;
                vec![frame(&body)]
            }
            Event::Token(token) => {
                let state = &mut self.states[index];
                let timings = state.watch.token();
                let timings = self.telling.timings_per_token.then_some(timings);
                if token.text.is_empty() && state.n_top.is_none() && timings.is_none() {
                    return Vec::new();
                }
                let logprobs = state.lists(&[], std::slice::from_ref(&token), &self.ready);
                let mut body = self.choice(index, token.text);
                body.choices[0].logprobs = logprobs;
                body.timings = timings;
                vec![frame(&body)]
            }
            Event::Done(done) => {
                let timings = WireTimings::from(&done.timings);
                if let Some(usage) = &mut self.usage {
                    usage.add(index, self.n, &done.timings);
                }
                self.timings = (self.states.len() == 1).then_some(timings);
                let end = End::of(&done);
                let left_out = LeftOut::of(&done, 0);
                // Clients do not look for text beside a `finish_reason`.
                let told = self.verbose.as_ref().map(|teller| teller.end(index, &done));
                let rest = (!done.text.is_empty()).then(|| frame(&self.choice(index, done.text)));
                let mut body = self.choice(index, String::new());
                body.choices[0].end = end;
                body.left_out = left_out;
                body.timings = Some(timings);
                body.verbose = told;
                rest.into_iter().chain([frame(&body)]).collect()
            }
            Event::Failed(_) => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<String> {
        let mut frames = Vec::new();
        if let Some(usage) = self.usage {
            let mut body = Body::<Choice>::new(&self.envelope, Vec::new());
            body.usage = Some(usage);
            body.timings = self.timings;
            frames.push(frame(&body));
        }
        frames.push(sse::DONE.to_owned());
        frames
    }
}
