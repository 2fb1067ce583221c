//! What a request says, in the words of the other APIs.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::chat::Message;
use crate::chat::tools::{self, Call};
use crate::engine::Request;
use crate::grammar::Source;
use crate::server::Ready;
use crate::server::constraint::Wanted;
use crate::server::conversation::{self, Conversation, with_calls};
use crate::server::error::ApiError;
use crate::server::fields::{Fields, missing, wrong};
use crate::server::generation;
use crate::server::tools::{Choice, Tools, function, list};

/// All but the prompt, the tools and the form of the reply.
///
/// # Errors
/// 400 that names the field.
pub fn request(fields: &Fields, ready: &Ready) -> Result<Request, ApiError> {
    refuse(fields)?;
    let mut request = Request::new(Vec::new());
    request.sampling = generation::sampling(fields, &ready.facts.sampling, 2.0, ready.engine.tokenizer())?;
    request.limit = generation::limit(fields, &["max_tokens"], 1, ready.facts.limit)?;
    request.stop = generation::stop_strings(fields, "stop_sequences")?;
    Ok(request)
}

/// The form that the reply must have: `output_config.format`, or under its older name `output_format`.
///
/// # Errors
/// 400 that names the field.
pub fn form(fields: &Fields) -> Result<Option<Wanted>, ApiError> {
    let config = fields.object("output_config")?.unwrap_or_default();
    let format = config.object("format").map_err(|error| error.about("output_config.format"))?;
    let (param, format) = match format {
        Some(format) => ("output_config.format", format),
        None => match fields.object("output_format")? {
            Some(format) => ("output_format", format),
            None => return Ok(None),
        },
    };
    let at = |name: &str| format!("{param}.{name}");
    let kind = format.required_string("type").map_err(|error| error.about(&at("type")))?;
    if kind != "json_schema" {
        let message = format!("`{}` must be json_schema, not `{kind}`", at("type"));
        return Err(ApiError::invalid(at("type"), message).coded("invalid_value"));
    }
    match format.get("schema") {
        Some(schema @ Value::Object(_)) => {
            Ok(Some(Wanted { source: Source::JsonSchema(schema.clone()), param: at("schema") }))
        }
        Some(other) => Err(wrong(&at("schema"), "an object", other)),
        None => Err(missing(&at("schema"))),
    }
}

/// `tools` and `tool_choice`.
///
/// # Errors
/// 400 that names the field.
pub fn tools(fields: &Fields) -> Result<Option<Tools>, ApiError> {
    let tools = list(fields, "custom", |at, map| match map.get("input_schema") {
        None | Some(Value::Null) => Err(missing(&format!("{at}.input_schema"))),
        Some(_) => function(at, map, "input_schema"),
    })?;
    let param = "tool_choice";
    let Some(choice) = fields.object(param)? else {
        return Tools::new(tools, Choice::Auto, false);
    };
    let about = |error: ApiError, name: &str| error.about(&format!("{param}.{name}"));
    let one_only = choice.bool("disable_parallel_tool_use", false);
    let one_only = one_only.map_err(|error| about(error, "disable_parallel_tool_use"))?;
    let choice = match choice.required_string("type").map_err(|error| about(error, "type"))? {
        "auto" => Choice::Auto,
        "any" => Choice::Required,
        "none" => Choice::None,
        "tool" => Choice::Named(choice.required_string("name").map_err(|error| about(error, "name"))?.to_owned()),
        other => {
            let message = format!("`{param}.type` must be auto, any, none or tool, not `{other}`");
            return Err(ApiError::invalid(format!("{param}.type"), message));
        }
    };
    Tools::new(tools, choice, one_only)
}

/// `system` and `messages`, and what the model is told of its tools.
///
/// # Errors
/// 400 that names the message and the field.
pub fn conversation(fields: &Fields, tools: Option<&Tools>) -> Result<Conversation, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = fields.get("system") {
        let content = conversation::text(system, "system")?;
        messages.push(Message { role: "system".into(), content });
    }
    // Calls so far, by id, to name the function in its result.
    let mut names = HashMap::new();
    for (index, value) in conversation::list(fields)?.iter().enumerate() {
        messages.push(message(&format!("messages[{index}]"), value, &mut names)?);
    }
    let mut conversation = Conversation::of(messages);
    if let Some(tools) = tools {
        conversation.instruct(tools.instructions());
    }
    Ok(conversation)
}

/// A message, in whose content calls and results may stand beside texts.
fn message<'a>(at: &str, value: &'a Value, names: &mut HashMap<&'a str, &'a str>) -> Result<Message, ApiError> {
    let Value::Array(blocks) = &value["content"] else {
        return conversation::message(at, value);
    };
    let role = conversation::role(at, value)?;
    let (mut results, mut texts, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (index, block) in blocks.iter().enumerate() {
        let at = format!("{at}.content[{index}]");
        match (block["type"].as_str(), block) {
            (Some("tool_use"), Value::Object(block)) if role == "assistant" => {
                let call = call(&at, block)?;
                if let (Some(id), Some(name)) = (block.get("id").and_then(Value::as_str), block["name"].as_str()) {
                    names.insert(id, name);
                }
                calls.push(call);
            }
            (Some("tool_result"), Value::Object(block)) if role == "user" => results.push(result(&at, block, names)?),
            (Some(kind @ ("tool_use" | "tool_result")), _) => {
                let message = format!("a block of type `{kind}` is not the {role}'s");
                return Err(ApiError::invalid(format!("{at}.type"), message));
            }
            // Another model's: this one has none, and its template no place for them.
            (Some("thinking" | "redacted_thinking"), Value::Object(_)) if role == "assistant" => {}
            _ => texts.push(conversation::text_part(&at, block)?),
        }
    }
    let said = texts.join("\n");
    let content = match (results.is_empty(), said.trim().is_empty()) {
        (false, true) => results.join("\n\n"),
        (false, false) => format!("{}\n\n{}", results.join("\n\n"), said.trim()),
        (true, _) if calls.is_empty() => said,
        (true, _) => with_calls(&said, &calls),
    };
    Ok(Message { role: role.to_owned(), content })
}

/// A block of the type `tool_use`.
fn call(at: &str, block: &Map<String, Value>) -> Result<Call, ApiError> {
    let field = |name: &str| format!("{at}.{name}");
    let name = match block.get("name") {
        None | Some(Value::Null) => return Err(missing(&field("name"))),
        Some(Value::String(name)) => name.clone(),
        Some(other) => return Err(wrong(&field("name"), "a string", other)),
    };
    match block.get("input") {
        None | Some(Value::Null) => Err(missing(&field("input"))),
        Some(input @ Value::Object(_)) => Ok(Call { name, arguments: input.to_string() }),
        Some(other) => Err(wrong(&field("input"), "an object", other)),
    }
}

/// A block of the type `tool_result`.
fn result(at: &str, block: &Map<String, Value>, names: &HashMap<&str, &str>) -> Result<String, ApiError> {
    let field = |name: &str| format!("{at}.{name}");
    let id = match block.get("tool_use_id") {
        None | Some(Value::Null) => return Err(missing(&field("tool_use_id"))),
        Some(Value::String(id)) => id.as_str(),
        Some(other) => return Err(wrong(&field("tool_use_id"), "a string", other)),
    };
    let content = match block.get("content") {
        None | Some(Value::Null) => String::new(),
        Some(content) => conversation::text(content, &field("content"))?,
    };
    let has_failed = match block.get("is_error") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(has_failed)) => *has_failed,
        Some(other) => return Err(wrong(&field("is_error"), "true or false", other)),
    };
    Ok(tools::result(names.get(id).copied(), &content, has_failed))
}

/// Refuses what would change the answer and is not there.
///
/// # Errors
/// 400 that names the field.
pub fn refuse(fields: &Fields) -> Result<(), ApiError> {
    fields.string("model")?;
    generation::refuse_given(fields, &["mcp_servers", "container"])?;
    fields.object("thinking")?.map_or(Ok(()), |thinking| thinking.string("type").map(|_| ()))
}
