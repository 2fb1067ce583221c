//! Functions that a request lets the model call: what all APIs share. Each of them has its own words for a tool and for a
//! choice, and its own form of calls in replies.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Ready;
use super::constraint::{Wanted, compile};
use super::error::ApiError;
use super::fields::{Fields, missing, wrong};
use crate::chat::tools::{self, MARKER, Tool};
use crate::grammar::{Constraint, Source, close, json_in_lark};

/// Most functions in one request, as in OpenAI's API.
const MAX_TOOLS: usize = 128;
/// Most characters of a function's name, as in Anthropic's API.
const MAX_NAME: usize = 128;
/// Keywords that say what a value is: a schema that has one of them needs no `type`.
const KINDS: [&str; 5] = ["type", "$ref", "anyOf", "oneOf", "allOf"];

/// The functions that a request lets the model call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    tools: Vec<Tool>,
    /// The reply has to be a call.
    is_required: bool,
    /// Not several calls at once.
    one_only: bool,
}

/// Whether something is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Nothing is.
    None,
    /// The model decides.
    Auto,
    /// Something is.
    Required,
    /// This function is.
    Named(String),
}

impl Tools {
    /// The functions of a list that a choice leaves. None where nothing may be called.
    ///
    /// # Errors
    /// 400 about `tool_choice`: a call is required and impossible.
    pub fn new(tools: Vec<Tool>, choice: Choice, one_only: bool) -> Result<Option<Tools>, ApiError> {
        let invalid = |message: String| ApiError::invalid("tool_choice".to_owned(), message);
        let (tools, is_required, one_only) = match choice {
            Choice::None => return Ok(None),
            Choice::Auto => (tools, false, one_only),
            Choice::Required if tools.is_empty() => {
                return Err(invalid("a call is required, but there are no `tools`".into()));
            }
            Choice::Required => (tools, true, one_only),
            Choice::Named(name) => {
                let named = tools.into_iter().find(|tool| tool.name == name);
                (vec![named.ok_or_else(|| invalid(format!("there is no tool `{name}`")))?], true, true)
            }
        };
        Ok((!tools.is_empty()).then_some(Tools { tools, is_required, one_only }))
    }

    /// Reads `tools`, `tool_choice` and `parallel_tool_calls` as OpenAI's chat, Ollama and llama.cpp have them.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn of_chat(fields: &Fields) -> Result<Option<Tools>, ApiError> {
        let tools = list(fields, "function", |at, map| {
            let at = format!("{at}.function");
            match map.get("function") {
                None | Some(Value::Null) => Err(missing(&at)),
                Some(Value::Object(described)) => function(&at, described, "parameters"),
                Some(other) => Err(wrong(&at, "an object", other)),
            }
        })?;
        let one_only = !fields.bool("parallel_tool_calls", true)?;
        let choice = choice(fields, |map| match map.get("function").map(|function| &function["name"]) {
            Some(Value::String(name)) => Ok(name.clone()),
            // OpenAI's responses have it so, and clients of Ollama too.
            _ => match map.get("name") {
                Some(Value::String(name)) => Ok(name.clone()),
                _ => Err(missing("tool_choice.function.name")),
            },
        })?;
        Tools::new(tools, choice, one_only)
    }

    /// What the model is told of them.
    pub fn instructions(&self) -> String {
        tools::instructions(&self.tools, self.is_required, self.one_only)
    }

    /// What keeps a reply in form: a call, or where none is required text too, which has the form that the request asks
    /// for.
    ///
    /// # Errors
    /// 400 where a schema cannot be used, or the form is no JSON.
    pub async fn constraint(&self, form: Option<Wanted>, ready: &Arc<Ready>) -> Result<Constraint, ApiError> {
        let param = "tools";
        let schema = match form.filter(|_| !self.is_required) {
            None => None,
            Some(Wanted { source: Source::JsonSchema(schema), param }) => {
                // By itself first, for an error that names its field.
                compile(Wanted { source: Source::JsonSchema(schema.clone()), param: param.clone() }, ready).await?;
                Some(json_in_lark(&schema).map_err(|error| ApiError::invalid(param, error.to_string()))?)
            }
            Some(other) => {
                let message = format!("`tools` and `{}` exclude each other: leave one out", other.param);
                return Err(ApiError::invalid(param.to_owned(), message));
            }
        };
        let closed = |tool: &Tool| {
            let mut tool = tool.clone();
            close(&mut tool.parameters);
            tool
        };
        let closed: Vec<Tool> = self.tools.iter().map(closed).collect();
        let source = Source::Lark(tools::grammar(&closed, self.one_only, schema.as_ref()));
        let constraint = compile(Wanted { source, param: param.into() }, ready).await?;
        let holds_always = self.is_required || schema.is_some();
        Ok(if holds_always { constraint } else { constraint.only_after(MARKER) })
    }
}

/// Reads `tools`: `one` reads each, from its place and its fields. Only functions are possible, whose type is `word`, and a
/// tool without a type is one.
///
/// # Errors
/// 400 that names the field.
pub fn list(
    fields: &Fields,
    word: &str,
    one: impl Fn(&str, &Map<String, Value>) -> Result<Tool, ApiError>,
) -> Result<Vec<Tool>, ApiError> {
    let list = match fields.get("tools") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("tools", "a list", other)),
    };
    if list.len() > MAX_TOOLS {
        let message = format!("`tools` may have {MAX_TOOLS} entries, not {}", list.len());
        return Err(ApiError::invalid("tools".to_owned(), message));
    }
    let read = |(at, value): (usize, &Value)| {
        let place = format!("tools[{at}]");
        let Value::Object(map) = value else {
            return Err(wrong(&place, "an object", value));
        };
        match map.get("type") {
            None | Some(Value::Null) => one(&place, map),
            Some(kind) if kind == word => one(&place, map),
            Some(kind) => {
                let message =
                    format!("`{place}.type` must be `{word}`, not {kind}: this server has no tools of its own");
                Err(ApiError::invalid(format!("{place}.type"), message))
            }
        }
    };
    list.iter().enumerate().map(read).collect()
}

/// Reads a function, described by an object at a place, whose schema has this name.
///
/// # Errors
/// 400 that names the field.
pub fn function(at: &str, described: &Map<String, Value>, schema: &str) -> Result<Tool, ApiError> {
    let field = |name: &str| format!("{at}.{name}");
    let name = match described.get("name") {
        None | Some(Value::Null) => return Err(missing(&field("name"))),
        Some(Value::String(name)) => name,
        Some(other) => return Err(wrong(&field("name"), "a string", other)),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_name) {
        let field = field("name");
        let message = format!("`{field}` must be 1 to {MAX_NAME} letters, digits, dots, dashes and underscores");
        return Err(ApiError::invalid(field, message));
    }
    let description = match described.get("description") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => return Err(wrong(&field("description"), "a string", other)),
    };
    let parameters = match described.get(schema) {
        None | Some(Value::Null) => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
        Some(Value::Object(schema)) => Value::Object(schema.clone()),
        Some(other) => return Err(wrong(&field(schema), "an object", other)),
    };
    Ok(Tool { name: name.clone(), description, parameters: of_objects(parameters, &field(schema))? })
}

/// A schema of arguments, which are objects on every API.
fn of_objects(mut schema: Value, field: &str) -> Result<Value, ApiError> {
    if let Value::Object(map) = &mut schema
        && !KINDS.iter().any(|keyword| map.contains_key(*keyword))
    {
        map.insert("type".into(), json!("object"));
    }
    match schema.get("type") {
        Some(kind) if kind != "object" => {
            let message = format!("`{field}` must describe an object, not {kind}");
            Err(ApiError::invalid(field.to_owned(), message))
        }
        _ => Ok(schema),
    }
}

/// Reads OpenAI's `tool_choice`, where `name` reads the function that an object names.
///
/// # Errors
/// 400 that names the field.
pub fn choice(
    fields: &Fields,
    name: impl Fn(&Map<String, Value>) -> Result<String, ApiError>,
) -> Result<Choice, ApiError> {
    let param = "tool_choice";
    match fields.get(param) {
        None => Ok(Choice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "none" => Ok(Choice::None),
            "auto" => Ok(Choice::Auto),
            "required" | "any" => Ok(Choice::Required),
            other => {
                let message = format!("`{param}` must be none, auto, required or a function, not `{other}`");
                Err(ApiError::invalid(param.to_owned(), message))
            }
        },
        Some(Value::Object(map)) => name(map).map(Choice::Named),
        Some(other) => Err(wrong(param, "a string or an object", other)),
    }
}
