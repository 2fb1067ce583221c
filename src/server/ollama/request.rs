//! What both generating routes read from a request.

use std::sync::Arc;

use serde_json::Value;

use crate::engine::{Limit, Overflow, Request};
use crate::grammar::Source;
use crate::server::Ready;
use crate::server::constraint::{self, Wanted};
use crate::server::error::ApiError;
use crate::server::fields::{Fields, not_supported, wrong};
use crate::server::generation::{self, refuse_what_is_not_implemented};
use crate::server::overflow;
use crate::server::tools::Tools;

/// A request before its prompt.
pub struct Asked {
    /// As lines.
    pub stream: bool,
    /// Alternatives told with each token; `None` where no probabilities are asked for.
    pub n_top: Option<usize>,
    request: Request,
    /// Tokens of prompt and reply together.
    n_ctx: usize,
    /// The oldest turns of a conversation that is too long may be left out.
    may_drop: bool,
}

impl Asked {
    /// Reads what does not depend on the prompt. The reply may call `tools`.
    ///
    /// # Errors
    /// 400 that names the field.
    pub async fn read(fields: &Fields, tools: Option<&Tools>, ready: &Arc<Ready>) -> Result<Asked, ApiError> {
        refuse_what_is_not_implemented(fields)?;
        refuse_thinking(fields)?;
        check_model(fields)?;
        let n_top = generation::n_top(fields)?;
        let options = fields.object("options")?.unwrap_or_default();
        refuse_what_is_not_implemented(&options)?;
        let mut request = Request::new(Vec::new());
        request.constraint = constraint::of_reply(form(fields)?, tools, ready).await?;
        request.sampling = generation::sampling(&options, &ready.facts.sampling, 100.0, ready.engine.tokenizer())?;
        request.limit = match generation::limit(&options, &["num_predict"], 0, ready.facts.limit)? {
            // Ollama's zero is no limit either.
            Limit::Tokens(0) => Limit::EndOfTurn,
            limit => limit,
        };
        request.stop = generation::stop_strings(&options, "stop")?;
        let n_keep = options.integer("num_keep", -1..=i64::from(u32::MAX))?.unwrap_or(0);
        request.overflow = match fields.bool("shift", false)? {
            true => Overflow::Shift { n_keep: usize::try_from(n_keep).ok(), cut_prompt: false },
            false => Overflow::Stop,
        };
        request.n_probs = n_top.map_or(0, |n_top| n_top.max(1));
        let asked_n_ctx = options.integer("num_ctx", 1..=i64::from(u32::MAX))?;
        let n_ctx = asked_n_ctx.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        let (stream, may_drop) = (fields.bool("stream", true)?, fields.bool("truncate", true)?);
        Ok(Asked { stream, n_top, request, n_ctx, may_drop })
    }

    /// Tokens that the prompt of a conversation may have before turns are left out.
    pub fn room(&self, ready: &Ready) -> usize {
        let n_ctx = self.n_ctx.min(ready.engine.options().n_ctx);
        overflow::room(self.may_drop, self.request.limit, n_ctx)
    }

    /// The request for a prompt of `n_prompt` tokens.
    ///
    /// # Errors
    /// 400 where it is longer than `num_ctx`; that it does not fit the server's context is the engine's to say.
    pub fn request(&self, n_prompt: usize, ready: &Ready) -> Result<Request, ApiError> {
        let mut request = self.request.clone();
        if self.n_ctx >= ready.engine.options().n_ctx {
            return Ok(request);
        }
        let Some(room) = self.n_ctx.checked_sub(n_prompt) else {
            let message = format!("the prompt has {n_prompt} tokens and `num_ctx` is {}", self.n_ctx);
            return Err(ApiError::invalid(Some("num_ctx".to_owned()), message));
        };
        request.limit = match request.limit {
            Limit::EndOfTurn => Limit::Tokens(room),
            Limit::Tokens(n) => Limit::Tokens(n.min(room)),
        };
        Ok(request)
    }
}

/// Reads which model is meant and how long it should stay, which decide nothing here.
///
/// # Errors
/// 400 that names the field.
pub fn check_model(fields: &Fields) -> Result<(), ApiError> {
    fields.string("model")?;
    match fields.get("keep_alive") {
        None | Some(Value::String(_) | Value::Number(_)) => Ok(()),
        Some(other) => Err(wrong("keep_alive", "a duration", other)),
    }
}

/// The form that the reply must have.
fn form(fields: &Fields) -> Result<Option<Wanted>, ApiError> {
    let source = match fields.get("format") {
        None => return Ok(None),
        Some(Value::String(name)) if name.is_empty() => return Ok(None),
        Some(Value::String(name)) if name == "json" => Source::json_object(),
        Some(schema @ Value::Object(_)) => Source::JsonSchema(schema.clone()),
        Some(other) => return Err(wrong("format", "`json` or a JSON schema", other)),
    };
    Ok(Some(Wanted { source, param: "format".into() }))
}

fn refuse_thinking(fields: &Fields) -> Result<(), ApiError> {
    match fields.get("think") {
        None | Some(Value::Bool(false)) => Ok(()),
        Some(Value::Bool(true) | Value::String(_)) => Err(not_supported("think", "this model")),
        Some(other) => Err(wrong("think", "true or false", other)),
    }
}

/// Refuses pictures in an object that may have some.
///
/// # Errors
/// 400 where `images` is anything but an empty list.
pub fn refuse_images(images: Option<&Value>) -> Result<(), ApiError> {
    match images {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(list)) if list.is_empty() => Ok(()),
        Some(Value::Array(_)) => Err(not_supported("images", "this model: it reads text only")),
        Some(other) => Err(wrong("images", "a list", other)),
    }
}
