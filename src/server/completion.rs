//! A reply with all that llama.cpp tells of it: the answer of `POST /completion`, and `__verbose` in OpenAI's answers.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::Ready;
use super::error::{ApiError, tidy};
use super::fields::Fields;
use super::generation::{RANDOM_SEED, Reply, Telling, sampler_name};
use super::overflow::is_truncated;
use super::wire::{WireProbability, WireTimings, stop_reason, stopping_word};
use crate::engine::{Done, Limit, Overflow, Request, Sampling, StopReason, Token};
use crate::tokenizer::TokenId;

/// A finished reply, or the last frame of one.
#[derive(Serialize)]
pub struct Completion {
    index: usize,
    /// Its text; in a stream what was held back.
    pub content: String,
    /// Where they are asked for.
    pub tokens: Vec<TokenId>,
    id_slot: i64,
    stop: bool,
    model: String,
    tokens_predicted: usize,
    tokens_evaluated: usize,
    tokens_cached: usize,
    generation_settings: Value,
    prompt: String,
    /// Anywhere in the text.
    pub has_new_line: bool,
    truncated: bool,
    stop_type: &'static str,
    stop_reason: &'static str,
    stopping_word: String,
    timings: WireTimings,
    /// Of the tokens, where they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_probabilities: Option<Vec<WireProbability>>,
}

/// What it takes to tell the end of a reply.
pub struct Teller {
    prompts: Vec<Vec<TokenId>>,
    /// Replies to each prompt.
    n: usize,
    /// What was asked for, but for the prompt.
    pub request: Request,
    telling: Telling,
    ready: Arc<Ready>,
}

impl Teller {
    /// Of the replies to one call.
    pub fn new(prompts: Vec<Vec<TokenId>>, n: usize, request: Request, telling: Telling, ready: Arc<Ready>) -> Teller {
        Teller { prompts, n, request, telling, ready }
    }

    /// The same where the request says `verbose`, or the server by default: for the `__verbose` of an answer in another form.
    ///
    /// # Errors
    /// 400 for anything but a yes or no.
    pub fn of_verbose(
        fields: &Fields,
        default: bool,
        teller: impl FnOnce() -> Teller,
    ) -> Result<Option<Teller>, ApiError> {
        Ok(fields.bool("verbose", default)?.then(teller))
    }

    /// Tokens with their probabilities.
    pub fn probabilities(&self, tokens: &[Token]) -> Vec<WireProbability> {
        let tokenizer = self.ready.engine.tokenizer();
        let wire = |token| {
            let wire = WireProbability::new(token, self.request.n_probs, tokenizer);
            if self.request.probs_after_sampling { wire.of_the_draw() } else { wire }
        };
        tokens.iter().map(wire).collect()
    }

    /// The end of reply `index`.
    pub fn end(&self, index: usize, done: &Done) -> Completion {
        let mut request = self.request.clone();
        request.sampling.seed = Some(done.seed);
        let tokenizer = self.ready.engine.tokenizer();
        Completion {
            index,
            content: String::new(),
            tokens: Vec::new(),
            id_slot: wire_slot(done.slot),
            stop: true,
            model: self.ready.facts.id.clone(),
            tokens_predicted: done.timings.decoded_tokens,
            tokens_evaluated: done.timings.prompt_tokens,
            tokens_cached: done.timings.cached_tokens,
            generation_settings: settings(&request, self.telling, &self.ready),
            prompt: tokenizer.decode(&self.prompts[index / self.n], true),
            has_new_line: false,
            truncated: is_truncated(done),
            stop_type: match done.reason {
                StopReason::EndOfTurn => "eos",
                StopReason::StopString(_) => "word",
                StopReason::TokenLimit | StopReason::ContextFull => "limit",
                StopReason::Shutdown => "none",
            },
            stop_reason: stop_reason(&done.reason),
            stopping_word: stopping_word(&done.reason).to_owned(),
            timings: WireTimings::from(&done.timings),
            completion_probabilities: None,
        }
    }

    /// Reply `index`, without its tokens.
    pub fn whole(&self, index: usize, reply: &Reply) -> Completion {
        let mut body = self.end(index, &reply.done);
        body.has_new_line = reply.text.contains('\n');
        body.content.clone_from(&reply.text);
        body
    }
}

/// -1 where it is not known yet.
pub fn wire_slot(slot: Option<usize>) -> i64 {
    slot.and_then(|slot| i64::try_from(slot).ok()).unwrap_or(-1)
}

/// The settings of a request in llama.cpp's words. Samplers that are not there are told as switched off.
pub fn settings(request: &Request, telling: Telling, ready: &Ready) -> Value {
    let s: &Sampling = &request.sampling;
    let n_predict = match request.limit {
        Limit::EndOfTurn => -1,
        Limit::Tokens(n) => i64::try_from(n).unwrap_or(i64::MAX),
    };
    let n_keep = match request.overflow {
        Overflow::Stop => Some(0),
        Overflow::Shift { n_keep, .. } => n_keep.and_then(|n| i64::try_from(n).ok()),
    };
    json!({
        "n_predict": n_predict,
        "max_tokens": n_predict,
        "n_keep": n_keep.unwrap_or(-1),
        "n_discard": 0,
        "seed": s.seed.unwrap_or(RANDOM_SEED as u64),
        "temperature": tidy(s.temperature),
        "dynatemp_range": 0.0,
        "dynatemp_exponent": 1.0,
        "top_k": s.top_k,
        "top_p": tidy(s.top_p),
        "min_p": tidy(s.min_p),
        "top_n_sigma": -1.0,
        "xtc_probability": 0.0,
        "typical_p": tidy(s.typical_p),
        "repeat_penalty": tidy(s.repeat_penalty),
        "repeat_last_n": s.repeat_last_n,
        "presence_penalty": tidy(s.presence_penalty),
        "frequency_penalty": tidy(s.frequency_penalty),
        "dry_multiplier": 0.0,
        "mirostat": 0,
        "adaptive_target": -1.0,
        "adaptive_decay": 0.0,
        "logit_bias": biases(request, ready),
        "samplers": s.steps.iter().map(|step| sampler_name(*step)).collect::<Vec<_>>(),
        "min_keep": s.min_keep,
        "stop": request.stop,
        "ignore_eos": request.ignore_eos,
        "n_probs": request.n_probs,
        "post_sampling_probs": request.probs_after_sampling,
        "cache_prompt": request.cache_prompt,
        "stream": telling.stream,
        "timings_per_token": telling.timings_per_token,
        "lora": [],
    })
}

/// What is added to the scores of tokens, null for tokens that never come: with `ignore_eos` those are the end tokens.
fn biases(request: &Request, ready: &Ready) -> Vec<Value> {
    let bias = |token: TokenId, bias: f32| json!({ "token": token, "bias": bias.is_finite().then(|| tidy(bias)) });
    let given = request.sampling.logit_bias.iter().map(|(token, value)| bias(*token, *value));
    let ends = if request.ignore_eos { ready.end_tokens.as_slice() } else { &[] };
    given.chain(ends.iter().map(|token| bias(*token, f32::NEG_INFINITY))).collect()
}
