//! What all generating routes share: sampling fields, what is refused, prompts, and the replies of the engine.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{SelectAll, StreamExt, select_all};
use futures_util::{Stream, future, stream};
use serde_json::Value;

use super::Ready;
use super::error::ApiError;
use super::fields::{Fields, not_supported, whole, wrong};
use crate::engine::{Done, EngineError, Event, Limit, Request, Sampling, Step, StopReason, Token};
use crate::tokenizer::{Special, TokenId, Tokenizer};

/// Most replies that one call may ask for.
pub const MAX_REPLIES: usize = 16;

/// Most stop strings, and bytes in one.
// Role-playing front ends send dozens, one for each name.
const MAX_STOP_STRINGS: usize = 256;
const MAX_STOP_BYTES: usize = 1024;

/// llama.cpp's way to say "draw one".
pub const RANDOM_SEED: i64 = 0xffff_ffff;

/// The neutral value of a field that this program does not implement.
type IsNeutral = fn(&Value) -> bool;

/// Fields that would change the result: other values than the neutral ones are refused rather than ignored.
const NOT_IMPLEMENTED: &[(&str, IsNeutral)] = &[
    ("functions", is_empty),
    ("function_call", |value| matches!(value.as_str(), Some("none" | "auto"))),
    ("modalities", |value| value.as_array().is_some_and(|list| list.iter().all(|one| one == "text"))),
    ("audio", is_empty),
    ("web_search_options", is_off),
    ("grammar_lazy", is_off),
    ("grammar_triggers", is_empty),
    ("image_data", is_empty),
    ("multimodal_data", is_empty),
    ("lora", is_empty),
    ("suffix", is_empty),
    ("best_of", |value| whole(value) == Some(1)),
    ("dynatemp_range", is_zero),
    ("xtc_probability", is_zero),
    ("dry_multiplier", is_zero),
    ("mirostat", is_zero),
    ("top_n_sigma", is_not_positive),
    ("n_indent", is_not_positive),
];

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_not_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number <= 0.0)
}

fn is_off(value: &Value) -> bool {
    *value == Value::Bool(false)
}

/// Refuses what would be ignored.
pub fn refuse_what_is_not_implemented(fields: &Fields) -> Result<(), ApiError> {
    for (name, is_neutral) in NOT_IMPLEMENTED {
        if fields.get(name).is_some_and(|value| !is_neutral(value)) {
            return Err(not_supported(name, "this server"));
        }
    }
    Ok(())
}

/// Refuses those of `names` that are there and not empty.
pub fn refuse_given(fields: &Fields, names: &[&str]) -> Result<(), ApiError> {
    match names.iter().find(|name| fields.get(name).is_some_and(|value| !is_empty(value))) {
        Some(name) => Err(not_supported(name, "this server")),
        None => Ok(()),
    }
}

/// The settings of a request, the server's own where it names none.
pub fn sampling(
    fields: &Fields,
    defaults: &Sampling,
    max_temperature: f32,
    tokenizer: &Tokenizer,
) -> Result<Sampling, ApiError> {
    let mut s = defaults.clone();
    let set = |target: &mut f32, name, range| -> Result<(), ApiError> {
        if let Some(value) = fields.f32(name, range)? {
            *target = value;
        }
        Ok(())
    };
    set(&mut s.temperature, "temperature", 0.0..=max_temperature)?;
    set(&mut s.top_p, "top_p", 0.0..=1.0)?;
    set(&mut s.min_p, "min_p", 0.0..=1.0)?;
    set(&mut s.typical_p, "typical_p", 0.0..=1.0)?;
    set(&mut s.repeat_penalty, "repeat_penalty", 0.01..=100.0)?;
    set(&mut s.presence_penalty, "presence_penalty", -2.0..=2.0)?;
    set(&mut s.frequency_penalty, "frequency_penalty", -2.0..=2.0)?;
    if let Some(top_k) = fields.integer("top_k", -1..=i64::from(u32::MAX))? {
        s.top_k = usize::try_from(top_k).unwrap_or(0);
    }
    if let Some(last) = fields.integer("repeat_last_n", -1..=i64::from(i32::MAX))? {
        s.repeat_last_n = i32::try_from(last).unwrap_or(-1);
    }
    if let Some(value) = fields.get("samplers") {
        s.steps = steps(value)?;
    }
    if let Some(min_keep) = fields.integer("min_keep", 0..=i64::from(u32::MAX))? {
        s.min_keep = usize::try_from(min_keep).unwrap_or(usize::MAX);
    }
    if let Some(value) = fields.get("logit_bias") {
        s.logit_bias = logit_bias(value, tokenizer)?;
    }
    let seed = match fields.get("seed").map(|value| (value, value.as_u64())) {
        Some((_, Some(seed))) => (seed != RANDOM_SEED as u64).then_some(seed),
        Some(_) => fields.integer("seed", i64::MIN..=i64::MAX)?.and(None),
        None => s.seed,
    };
    // Drawn here, not by the engine: a page can keep 32 bits in a number and several replies get seeds in a row.
    s.seed = Some(seed.unwrap_or_else(draw_seed));
    Ok(s)
}

/// llama.cpp's samplers: their names, a letter for each, and what they are here. Those that are none here are off as long as
/// their settings are, and other settings are refused.
const SAMPLERS: [(&[&str], char, Option<Step>); 9] = [
    (&["penalties"], 'e', Some(Step::Penalties)),
    (&["dry"], 'd', None),
    (&["top_n_sigma", "top-n-sigma"], 's', None),
    (&["top_k", "top-k"], 'k', Some(Step::TopK)),
    (&["typ_p", "typ-p", "typical_p", "typical-p", "typical", "typ"], 'y', Some(Step::Typical)),
    (&["top_p", "top-p", "nucleus"], 'p', Some(Step::TopP)),
    (&["min_p", "min-p"], 'm', Some(Step::MinP)),
    (&["xtc"], 'x', None),
    (&["temperature", "temp"], 't', Some(Step::Temperature)),
];

/// llama.cpp's name of a step.
pub fn sampler_name(step: Step) -> &'static str {
    let known = SAMPLERS.iter().find(|(_, _, known)| *known == Some(step));
    known.map_or("", |(names, _, _)| names[0])
}

/// Which steps run, in which order: a list of names, or a text of letters.
fn steps(value: &Value) -> Result<Vec<Step>, ApiError> {
    let unknown = |name: &str| {
        let names: Vec<&str> = SAMPLERS.iter().map(|(names, _, _)| names[0]).collect();
        let message = format!("`samplers` may name {}, not `{name}`", names.join(", "));
        ApiError::invalid("samplers".to_owned(), message).coded("invalid_value")
    };
    let of_letter = |letter: char| {
        let known = SAMPLERS.iter().find(|(_, known, _)| *known == letter);
        known.map(|(_, _, step)| *step).ok_or_else(|| unknown(&letter.to_string()))
    };
    let of_name = |name: &Value| {
        let name = name.as_str().ok_or_else(|| wrong("samplers", "a list of names", name))?;
        let known = SAMPLERS.iter().find(|(names, _, _)| names.contains(&name));
        known.map(|(_, _, step)| *step).ok_or_else(|| unknown(name))
    };
    let steps: Result<Vec<Option<Step>>, ApiError> = match value {
        Value::String(letters) => letters.chars().map(of_letter).collect(),
        Value::Array(names) => names.iter().map(of_name).collect(),
        other => Err(wrong("samplers", "a list of names", other)),
    };
    Ok(steps?.into_iter().flatten().collect())
}

/// A seed below 2^32 - 1, from the randomness that the standard library keeps for its hash maps.
fn draw_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(Instant::now()) % u64::from(u32::MAX)
}

/// The unique part of a response's id.
pub fn draw_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one(Instant::now()))
}

/// `{"id or text": bias}` as OpenAI has it, or llama.cpp's `[[id or text, bias or false]]`.
fn logit_bias(value: &Value, tokenizer: &Tokenizer) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let bad = |text: String| ApiError::invalid(Some("logit_bias".to_owned()), text);
    let mut pairs: Vec<(Value, &Value)> = Vec::new();
    match value {
        Value::Object(map) => {
            for (key, bias) in map {
                let token = key.parse::<u64>().map_or(Value::from(key.as_str()), Value::from);
                pairs.push((token, bias));
            }
        }
        Value::Array(list) => {
            for one in list {
                let pair = one.as_array().filter(|pair| pair.len() == 2);
                let pair = pair.ok_or_else(|| bad("`logit_bias` must hold pairs".into()))?;
                pairs.push((pair[0].clone(), &pair[1]));
            }
        }
        other => return Err(wrong("logit_bias", "an object", other)),
    }
    let mut biases = Vec::with_capacity(pairs.len());
    for (token, bias) in pairs {
        let bias = match bias {
            Value::Bool(false) => f32::NEG_INFINITY,
            bias => bias
                .as_f64()
                .filter(|bias| bias.abs() <= 100.0)
                .ok_or_else(|| bad(format!("a bias must be between -100 and 100, not {bias}")))?
                as f32,
        };
        match &token {
            Value::String(text) => {
                let ids = tokenizer.encode(text, Special::Parse);
                biases.extend(ids.into_iter().map(|id| (id, bias)));
            }
            id => biases.push((token_id("logit_bias", id, tokenizer)?, bias)),
        }
    }
    Ok(biases)
}

/// A token id inside the vocabulary.
pub fn token_id(param: &str, value: &Value, tokenizer: &Tokenizer) -> Result<TokenId, ApiError> {
    let id = value.as_u64().filter(|id| *id < tokenizer.n_vocab() as u64).and_then(|id| TokenId::try_from(id).ok());
    id.ok_or_else(|| {
        ApiError::invalid(
            Some(param.to_owned()),
            format!("{value} is not one of the {} token ids", tokenizer.n_vocab()),
        )
    })
}

/// A string or a list of them under `name`; empty ones say nothing and are dropped.
pub fn stop_strings(fields: &Fields, name: &str) -> Result<Vec<String>, ApiError> {
    let Some(value) = fields.get(name) else {
        return Ok(Vec::new());
    };
    let list = match value {
        Value::String(_) => std::slice::from_ref(value),
        Value::Array(list) => list.as_slice(),
        other => return Err(wrong(name, "a string or a list of strings", other)),
    };
    let mut stops = Vec::new();
    for one in list {
        let text = one.as_str().ok_or_else(|| wrong(name, "a list of strings", one))?;
        if text.len() > MAX_STOP_BYTES {
            let message = format!("a stop string may have {MAX_STOP_BYTES} bytes, not {}", text.len());
            return Err(ApiError::invalid(Some(name.to_owned()), message).coded("string_above_max_length"));
        }
        if !text.is_empty() {
            stops.push(text.to_owned());
        }
    }
    if stops.len() > MAX_STOP_STRINGS {
        let message = format!("there may be {MAX_STOP_STRINGS} stop strings, not {}", stops.len());
        return Err(ApiError::invalid(Some(name.to_owned()), message).coded("array_above_max_length"));
    }
    Ok(stops)
}

/// The length limit under the first of `names` that is there, else the server's; negative means none. `least` is the
/// smallest other value.
pub fn limit(fields: &Fields, names: &[&str], least: i64, default: Limit) -> Result<Limit, ApiError> {
    let Some((name, _)) = fields.get_any(names) else {
        return Ok(default);
    };
    match fields.integer(name, -2..=i64::from(u32::MAX))? {
        None | Some(..0) => Ok(Limit::EndOfTurn),
        Some(n) if n < least => {
            let message = format!("`{name}` must be at least {least}, not {n}");
            Err(ApiError::invalid(Some(name.to_owned()), message).coded("integer_below_min_value"))
        }
        Some(n) => Ok(Limit::Tokens(usize::try_from(n).unwrap_or(usize::MAX))),
    }
}

/// How many replies to each prompt.
pub fn n_replies(fields: &Fields, names: &[&str]) -> Result<usize, ApiError> {
    let Some((name, _)) = fields.get_any(names) else {
        return Ok(1);
    };
    let n = fields.integer(name, 1..=MAX_REPLIES as i64)?;
    Ok(n.and_then(|n| usize::try_from(n).ok()).unwrap_or(1))
}

/// How many alternatives are told with each token; `None` where probabilities are not asked for.
pub fn n_top(fields: &Fields) -> Result<Option<usize>, ApiError> {
    let n_top = fields.integer("top_logprobs", 0..=20)?;
    let is_on = fields.bool("logprobs", false)?;
    match n_top {
        Some(1..) if !is_on => {
            Err(ApiError::invalid(Some("top_logprobs".to_owned()), "`top_logprobs` needs `logprobs` to be true"))
        }
        n_top => Ok(is_on.then(|| n_top.and_then(|n| usize::try_from(n).ok()).unwrap_or(0))),
    }
}

/// What decides how a reply is told, the same on every API.
#[derive(Clone, Copy, Debug, Default)]
pub struct Telling {
    /// As server-sent events.
    pub stream: bool,
    /// With events about the prompt.
    pub return_progress: bool,
    /// With timings at every token.
    pub timings_per_token: bool,
    /// OpenAI's streams: with the usage at the end.
    pub include_usage: bool,
}

impl Telling {
    /// Reads the four fields.
    pub fn read(fields: &Fields) -> Result<Telling, ApiError> {
        let include_usage = match fields.object("stream_options")? {
            Some(options) => {
                options.bool("include_usage", false).map_err(|error| error.about("stream_options.include_usage"))?
            }
            None => false,
        };
        Ok(Telling {
            stream: fields.bool("stream", false)?,
            return_progress: fields.bool("return_progress", false)?,
            timings_per_token: fields.bool("timings_per_token", false)?,
            include_usage,
        })
    }
}

/// Prompts of the text APIs: a text, token ids, both mixed, or a list of these. Control tokens in texts are parsed, and a
/// text at the start gets its `<bos>`.
pub async fn prompts(fields: &Fields, ready: &Arc<Ready>) -> Result<Vec<Vec<TokenId>>, ApiError> {
    let value = fields.get("prompt").ok_or_else(|| super::fields::missing("prompt"))?;
    read_prompts("prompt", value.clone(), MAX_REPLIES, ready).await
}

/// The same for the `value` of the field `name`, of which there may be `most`.
pub async fn read_prompts(
    name: &'static str,
    value: Value,
    most: usize,
    ready: &Arc<Ready>,
) -> Result<Vec<Vec<TokenId>>, ApiError> {
    let ready = ready.clone();
    // Long texts take a while: not on a thread that serves others.
    run_blocking(move || parse_prompts(name, &value, most, ready.engine.tokenizer())).await?
}

/// Runs `work` where it may take its time.
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(error.to_string()))
}

fn parse_prompts(name: &str, value: &Value, most: usize, tokenizer: &Tokenizer) -> Result<Vec<Vec<TokenId>>, ApiError> {
    let prompts = single_prompts(value);
    if prompts.len() > most {
        return Err(ApiError::invalid(
            Some(name.to_owned()),
            format!("`{name}` may have {most} texts, not {}", prompts.len()),
        ));
    }
    prompts.into_iter().map(|one| parse_prompt(name, one, tokenizer)).collect()
}

/// The prompts of a list, or the one.
fn single_prompts(value: &Value) -> Vec<&Value> {
    let several = value.as_array().filter(|list| !list.iter().any(Value::is_number) && !list.is_empty());
    several.map_or_else(|| vec![value], |list| list.iter().collect())
}

/// How many tokens at the start of each of `prompts`, as [`prompts`] reads them, are not in the request: the `<bos>` of
/// texts.
pub fn n_added(fields: &Fields, prompts: &[Vec<TokenId>], tokenizer: &Tokenizer) -> Vec<usize> {
    let is_in = |value: &Value| {
        let first = value.as_array().and_then(|parts| parts.first()).unwrap_or(value);
        match first.get("prompt_string").unwrap_or(first) {
            Value::String(text) => text.as_bytes().starts_with(tokenizer.piece(tokenizer.bos())),
            _ => true,
        }
    };
    let values = fields.get("prompt").map(single_prompts).unwrap_or_default();
    let has_bos = prompts.iter().map(|ids| ids.first() == Some(&tokenizer.bos()));
    values.into_iter().zip(has_bos).map(|(value, has_bos)| usize::from(has_bos && !is_in(value))).collect()
}

fn parse_prompt(name: &str, value: &Value, tokenizer: &Tokenizer) -> Result<Vec<TokenId>, ApiError> {
    let expected = "a string, an array of token ids, or a list of these";
    let text = |text: &str| tokenizer.encode(text, Special::Parse);
    match value {
        Value::String(prompt) => Ok(tokenizer.with_bos(text(prompt))),
        Value::Object(map) => match map.get("prompt_string") {
            Some(_) if map.get("multimodal_data").is_some_and(|data| !data.is_null() && !is_empty(data)) => {
                Err(not_supported("multimodal_data", "this model: it reads text only"))
            }
            Some(Value::String(prompt)) => Ok(tokenizer.with_bos(text(prompt))),
            _ => Err(wrong(name, expected, value)),
        },
        Value::Array(parts) => {
            let mut ids = Vec::new();
            for part in parts {
                match part {
                    Value::String(part) => ids.extend(text(part)),
                    Value::Number(_) => ids.push(token_id(name, part, tokenizer)?),
                    other => return Err(wrong(name, expected, other)),
                }
            }
            let starts_with_text = parts.first().is_some_and(Value::is_string);
            Ok(if starts_with_text { tokenizer.with_bos(ids) } else { ids })
        }
        other => Err(wrong(name, expected, other)),
    }
}

/// The events of one reply with its number, and a last `None`.
type NumberedEvents = Pin<Box<dyn Stream<Item = (usize, Option<Event>)> + Send>>;

/// The replies to one call: all its requests' events in one stream. Dropping it cancels them.
pub struct Replies {
    events: SelectAll<NumberedEvents>,
    is_open: Vec<bool>,
}

impl Replies {
    /// Submits `n` requests for each of `prompts`, with `request` for all that is not the prompt; reply `i` of a prompt
    /// has the seed plus `i`.
    ///
    /// # Errors
    /// More than [`MAX_REPLIES`], and whatever the engine refuses at once; then none of the requests runs.
    pub fn submit(ready: &Ready, prompts: &[Vec<TokenId>], n: usize, request: &Request) -> Result<Replies, ApiError> {
        let n_all = prompts.len() * n;
        if n_all > MAX_REPLIES {
            let message = format!("one request may ask for {MAX_REPLIES} replies, not {n_all}");
            return Err(ApiError::invalid(None, message));
        }
        let mut all = Vec::with_capacity(n_all);
        for prompt in prompts {
            for i in 0..n as u64 {
                let mut request = request.clone();
                request.prompt.clone_from(prompt);
                request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(i));
                all.push(ready.engine.submit(request)?);
            }
        }
        let is_open = vec![true; all.len()];
        let streams = all.into_iter().enumerate().map(|(index, events)| {
            // The last item tells an engine that went away without a word.
            let events = events.map(Some).chain(stream::once(future::ready(None))).map(move |event| (index, event));
            Box::pin(events) as NumberedEvents
        });
        Ok(Replies { events: select_all(streams), is_open })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.is_open.len()
    }

    /// The next event and the reply it belongs to; `None` when all replies have ended.
    ///
    /// # Errors
    /// A request failed, or the server shuts down.
    pub async fn next(&mut self) -> Option<Result<(usize, Event), ApiError>> {
        loop {
            let (index, event) = self.events.next().await?;
            return Some(match event {
                None if !self.is_open[index] => continue,
                None => Err(EngineError::Stopped.into()),
                Some(Event::Failed(error)) => Err(error.into()),
                Some(Event::Done(done)) => {
                    self.is_open[index] = false;
                    if done.reason == StopReason::Shutdown {
                        Err(ApiError::unavailable("the server is shutting down"))
                    } else {
                        Ok((index, Event::Done(done)))
                    }
                }
                Some(event) => Ok((index, event)),
            });
        }
    }

    /// Waits for all of them.
    pub async fn collect(mut self) -> Result<Vec<Reply>, ApiError> {
        let mut parts: Vec<Parts> = Vec::new();
        parts.resize_with(self.len(), Parts::default);
        let mut replies: Vec<Option<Reply>> = Vec::new();
        replies.resize_with(self.len(), || None);
        while let Some(event) = self.next().await {
            let (index, event) = event?;
            match event {
                Event::Prefill { .. } | Event::Failed(_) => {}
                Event::Prompt(tokens) => parts[index].prompt.extend(tokens),
                Event::Token(token) => {
                    parts[index].text.push_str(&token.text);
                    parts[index].tokens.push(token);
                }
                Event::Done(done) => {
                    let Parts { prompt, mut text, tokens } = std::mem::take(&mut parts[index]);
                    text.push_str(&done.text);
                    replies[index] = Some(Reply { prompt, text, tokens, done: *done });
                }
            }
        }
        Ok(replies.into_iter().flatten().collect())
    }
}

/// What has come of a reply.
#[derive(Default)]
struct Parts {
    prompt: Vec<Token>,
    text: String,
    tokens: Vec<Token>,
}

/// A whole reply.
pub struct Reply {
    /// Its prompt, where the probabilities of that are asked for.
    pub prompt: Vec<Token>,
    /// All of its text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// Its end.
    pub done: Done,
}
