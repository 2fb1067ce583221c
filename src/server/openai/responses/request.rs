//! What a request says, in the words of the other APIs.

use std::collections::HashMap;

use serde_json::Value;

use crate::chat::tools::Call;
use crate::chat::{self, Message};
use crate::engine::{Overflow, Request};
use crate::grammar::Source;
use crate::server::Ready;
use crate::server::constraint::Wanted;
use crate::server::conversation::{self, Conversation, with_calls};
use crate::server::error::ApiError;
use crate::server::fields::{Fields, missing, not_supported, wrong};
use crate::server::generation::{self, refuse_what_is_not_implemented};
use crate::server::overflow;
use crate::server::tools::{self, Tools};

/// All but the prompt, the tools and the form of the reply.
///
/// # Errors
/// 400 that names the field.
pub fn request(fields: &Fields, ready: &Ready) -> Result<Request, ApiError> {
    refuse_what_is_not_implemented(fields)?;
    refuse_what_needs_a_store(fields)?;
    refuse_other_answers(fields)?;
    fields.string("model")?;
    fields.object("metadata")?;
    let mut request = Request::new(Vec::new());
    request.sampling = generation::sampling(fields, &ready.facts.sampling, 2.0, ready.engine.tokenizer())?;
    request.limit = generation::limit(fields, &["max_output_tokens"], 1, ready.facts.limit)?;
    request.stop = generation::stop_strings(fields, "stop")?;
    Ok(request)
}

/// `tools`, `tool_choice` and `parallel_tool_calls`.
///
/// # Errors
/// 400 that names the field.
pub fn tools(fields: &Fields) -> Result<Option<Tools>, ApiError> {
    let tools = tools::list(fields, "function", |at, map| tools::function(at, map, "parameters"))?;
    let one_only = !fields.bool("parallel_tool_calls", true)?;
    let choice = tools::choice(fields, |map| match map.get("name") {
        Some(Value::String(name)) => Ok(name.clone()),
        _ => Err(missing("tool_choice.name")),
    })?;
    Tools::new(tools, choice, one_only)
}

/// `instructions` and `input`, and what the model is told of its tools.
///
/// # Errors
/// 400 that names the item and the field.
pub fn conversation(fields: &Fields, tools: Option<&Tools>) -> Result<Conversation, ApiError> {
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
        Some(Value::Array(items)) => read_items(items, &mut messages)?,
        Some(other) => return Err(wrong("input", "a string or a list of items", other)),
    }
    let mut conversation = Conversation::of(messages);
    if let Some(tools) = tools {
        conversation.instruct(tools.instructions());
    }
    Ok(conversation)
}

/// The items of the input. Calls in a row are one block.
fn read_items(items: &[Value], messages: &mut Vec<Message>) -> Result<(), ApiError> {
    // Calls so far, by id, to name the function in its result.
    let mut names = HashMap::new();
    let mut calls: Vec<Call> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("input[{index}]");
        let kind = match item.get("type") {
            None | Some(Value::Null) => "message",
            Some(Value::String(kind)) => kind.as_str(),
            Some(other) => return Err(wrong(&format!("{at}.type"), "a string", other)),
        };
        let text = |name: &str| match &item[name] {
            Value::Null => Err(missing(&format!("{at}.{name}"))),
            Value::String(text) => Ok(text.as_str()),
            other => Err(wrong(&format!("{at}.{name}"), "a string", other)),
        };
        let message = match kind {
            "function_call" => {
                let name = text("name")?;
                names.insert(text("call_id")?, name);
                calls.push(Call { name: name.to_owned(), arguments: text("arguments")?.to_owned() });
                continue;
            }
            // It has no text for the model.
            "reasoning" => continue,
            "function_call_output" => {
                let name = names.get(text("call_id")?).copied();
                let output = item.get("output").filter(|output| !output.is_null());
                let output = output.ok_or_else(|| missing(&format!("{at}.output")))?;
                let content = chat::tools::result(name, &conversation::text(output, &format!("{at}.output"))?, false);
                Message { role: "user".into(), content }
            }
            "message" => conversation::message(&at, item)?,
            other => {
                let message = format!("an item of type `{other}` is not supported by this server");
                return Err(ApiError::invalid(Some(format!("{at}.type")), message).coded("invalid_value"));
            }
        };
        messages.extend(told(&mut calls));
        messages.push(message);
    }
    messages.extend(told(&mut calls));
    Ok(())
}

/// A reply of these calls, if there are any.
fn told(calls: &mut Vec<Call>) -> Option<Message> {
    let calls = std::mem::take(calls);
    (!calls.is_empty()).then(|| Message { role: "assistant".into(), content: with_calls("", &calls) })
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
///
/// # Errors
/// 400 that names the field.
pub fn form(fields: &Fields) -> Result<Option<Wanted>, ApiError> {
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
    Ok(Some(Wanted { source, param: param.into() }))
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
