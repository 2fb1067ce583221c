//! What a request says, in the words of the other APIs.

use std::sync::Arc;

use serde_json::Value;

use crate::chat::Message;
use crate::engine::{Overflow, Request};
use crate::grammar::{Constraint, Source};
use crate::server::Ready;
use crate::server::constraint::{Wanted, compile};
use crate::server::conversation::{self, Conversation};
use crate::server::error::ApiError;
use crate::server::fields::{Fields, missing, not_supported, wrong};
use crate::server::generation::{self, refuse_given, refuse_what_is_not_implemented};
use crate::server::overflow;

/// All but the prompt.
///
/// # Errors
/// 400 that names the field.
pub async fn request(fields: &Fields, ready: &Arc<Ready>) -> Result<Request, ApiError> {
    refuse_what_is_not_implemented(fields)?;
    refuse_given(fields, &["tools"])?;
    let is_forced = fields.get("tool_choice").is_some_and(|choice| !matches!(choice.as_str(), Some("auto" | "none")));
    if is_forced {
        return Err(not_supported("tool_choice", "this route"));
    }
    refuse_what_needs_a_store(fields)?;
    refuse_other_answers(fields)?;
    fields.string("model")?;
    fields.object("metadata")?;
    let mut request = Request::new(Vec::new());
    request.constraint = constraint(fields, ready).await?;
    request.sampling = generation::sampling(fields, &ready.facts.sampling, 2.0, ready.engine.tokenizer())?;
    request.limit = generation::limit(fields, &["max_output_tokens"], 1)?;
    request.stop = generation::stop_strings(fields, "stop")?;
    Ok(request)
}

/// `instructions` and `input`.
///
/// # Errors
/// 400 that names the item and the field.
pub fn conversation(fields: &Fields) -> Result<Conversation, ApiError> {
    let mut messages = Vec::new();
    if let Some(instructions) = fields.string("instructions")? {
        messages.push(Message { role: "system".into(), content: instructions.into() });
    }
    match fields.get("input") {
        None => return Err(missing("input")),
        Some(Value::String(text)) => messages.push(Message { role: "user".into(), content: text.clone() }),
        Some(Value::Array(items)) if items.is_empty() => {
            return Err(ApiError::invalid(Some("input".to_owned()), "`input` must not be empty").coded("empty_array"));
        }
        Some(Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                messages.extend(message(&format!("input[{index}]"), item)?);
            }
        }
        Some(other) => return Err(wrong("input", "a string or a list of items", other)),
    }
    Ok(Conversation::of(messages))
}

/// An item of the input; `None` for one that has no text for the model.
fn message(at: &str, item: &Value) -> Result<Option<Message>, ApiError> {
    match item.get("type") {
        None | Some(Value::Null) => conversation::message(at, item).map(Some),
        Some(Value::String(kind)) => match kind.as_str() {
            "message" => conversation::message(at, item).map(Some),
            "reasoning" => Ok(None),
            _ => {
                let message = format!("an item of type `{kind}` is not supported by this server");
                Err(ApiError::invalid(Some(format!("{at}.type")), message).coded("invalid_value"))
            }
        },
        Some(other) => Err(wrong(&format!("{at}.type"), "a string", other)),
    }
}

/// Fields that only mean something where responses are kept.
fn refuse_what_needs_a_store(fields: &Fields) -> Result<(), ApiError> {
    for name in ["store", "background"] {
        if fields.bool(name, false)? {
            return Err(not_supported(name, "this server: nothing is stored"));
        }
    }
    for name in ["previous_response_id", "conversation", "prompt"] {
        if fields.get(name).is_some() {
            return Err(not_supported(name, "this server: nothing is stored"));
        }
    }
    Ok(())
}

/// The form that the reply must have: `text.format`, whose schema stands beside its type.
async fn constraint(fields: &Fields, ready: &Arc<Ready>) -> Result<Option<Constraint>, ApiError> {
    let Some(text) = fields.object("text")? else {
        return Ok(None);
    };
    let Some(format) = text.object("format").map_err(|error| error.about("text.format"))? else {
        return Ok(None);
    };
    let kind = format.required_string("type").map_err(|error| error.about("text.format.type"))?;
    let (source, param) = match kind {
        "text" => return Ok(None),
        "json_object" => (Source::json_object(), "text.format"),
        "json_schema" => match format.get("schema") {
            Some(schema @ Value::Object(_)) => (Source::JsonSchema(schema.clone()), "text.format.schema"),
            Some(other) => return Err(wrong("text.format.schema", "an object", other)),
            None => return Err(missing("text.format.schema")),
        },
        other => {
            let message = format!("`{other}` is no type of a format: use text, json_object or json_schema");
            return Err(ApiError::invalid(Some("text.format.type".to_owned()), message).coded("invalid_value"));
        }
    };
    compile(Wanted { source, param: param.into() }, ready).await.map(Some)
}

/// Fields that ask for more than is told.
fn refuse_other_answers(fields: &Fields) -> Result<(), ApiError> {
    if fields.integer("top_logprobs", 0..=20)?.is_some_and(|n| n > 0) {
        return Err(not_supported("top_logprobs", "this route"));
    }
    let asks_for_logprobs = |list: &Vec<Value>| list.iter().any(|one| one == "message.output_text.logprobs");
    match fields.get("include") {
        None => {}
        Some(Value::Array(list)) if asks_for_logprobs(list) => return Err(not_supported("include", "this route")),
        Some(Value::Array(_)) => {}
        Some(other) => return Err(wrong("include", "a list", other)),
    }
    Ok(())
}

/// What happens to an input that does not fit, and whether its oldest turns may be left out.
///
/// # Errors
/// 400 where the fields make no sense.
pub fn overflow(fields: &Fields) -> Result<(Overflow, bool), ApiError> {
    match fields.string("truncation")? {
        None => overflow::of_chat(fields),
        Some("auto") => Ok((Overflow::Stop, true)),
        Some("disabled") => Ok((Overflow::Stop, false)),
        Some(other) => {
            let message = format!("`truncation` must be `auto` or `disabled`, not `{other}`");
            Err(ApiError::invalid(Some("truncation".to_owned()), message).coded("invalid_value"))
        }
    }
}
