//! `tools`, `tool_choice` and `parallel_tool_calls`: what may be called, and the calls in replies.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::chat::tools::{self, MARKER, Part, Reader, Tool};
use crate::grammar::{Constraint, Source};
use crate::server::Ready;
use crate::server::constraint::{Wanted, compile};
use crate::server::error::ApiError;
use crate::server::fields::{Fields, missing, wrong};
use crate::server::generation::draw_id;

/// Most functions in one request, as in OpenAI's API.
const MAX_TOOLS: usize = 128;
/// Most characters of a function's name.
const MAX_NAME: usize = 64;

/// The functions that a request lets the model call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    tools: Vec<Tool>,
    /// The reply has to be a call.
    is_required: bool,
    /// Not several calls at once.
    one_only: bool,
}

impl Tools {
    /// Reads the three fields. None where nothing may be called.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn read(fields: &Fields) -> Result<Option<Tools>, ApiError> {
        let tools = match fields.get("tools") {
            None => Vec::new(),
            Some(Value::Array(list)) if list.len() > MAX_TOOLS => {
                let message = format!("there may be {MAX_TOOLS} tools, not {}", list.len());
                return Err(ApiError::invalid("tools".to_owned(), message));
            }
            Some(Value::Array(list)) => {
                list.iter().enumerate().map(|(at, value)| tool(at, value)).collect::<Result<Vec<_>, _>>()?
            }
            Some(other) => return Err(wrong("tools", "a list", other)),
        };
        let one_only = !fields.bool("parallel_tool_calls", true)?;
        let choice = choice(fields, &tools)?;
        if tools.is_empty() || choice == Choice::None {
            return Ok(None);
        }
        Ok(Some(match choice {
            Choice::Named(at) => Tools { tools: vec![tools[at].clone()], is_required: true, one_only: true },
            choice => Tools { tools, is_required: choice == Choice::Required, one_only },
        }))
    }

    /// What the model is told of them.
    pub fn instructions(&self) -> String {
        tools::instructions(&self.tools, self.is_required, self.one_only)
    }

    /// What a reply may be: a call, or text too where none is required.
    ///
    /// # Errors
    /// 400 where the schema of some arguments cannot be used.
    pub async fn constraint(&self, ready: &Arc<Ready>) -> Result<Constraint, ApiError> {
        let source = Source::Lark(tools::grammar(&self.tools, self.one_only));
        let constraint = compile(Wanted { source, param: "tools".into() }, ready).await?;
        Ok(if self.is_required { constraint } else { constraint.only_after(MARKER) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    None,
    Auto,
    Required,
    /// By its place in the list.
    Named(usize),
}

fn choice(fields: &Fields, tools: &[Tool]) -> Result<Choice, ApiError> {
    let param = "tool_choice";
    let invalid = |message: String| ApiError::invalid(param.to_owned(), message);
    let choice = match fields.get(param) {
        None => Choice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "none" => Choice::None,
            "auto" => Choice::Auto,
            "required" | "any" => Choice::Required,
            other => return Err(invalid(format!("`{other}` is no choice: use none, auto, required or a function"))),
        },
        Some(Value::Object(map)) => {
            let name = map.get("function").and_then(|function| function["name"].as_str());
            let name = name.ok_or_else(|| missing("tool_choice.function.name"))?;
            let at = tools.iter().position(|tool| tool.name == name);
            Choice::Named(at.ok_or_else(|| invalid(format!("there is no tool `{name}`")))?)
        }
        Some(other) => return Err(wrong(param, "a string or an object", other)),
    };
    match choice {
        Choice::Required if tools.is_empty() => Err(invalid("a call is required, but there are no `tools`".into())),
        choice => Ok(choice),
    }
}

fn tool(at: usize, value: &Value) -> Result<Tool, ApiError> {
    let place = format!("tools[{at}]");
    let field = |name: &str| format!("{place}.function.{name}");
    let Value::Object(_) = value else {
        return Err(wrong(&place, "an object", value));
    };
    if value["type"] != "function" {
        let message = format!("a tool of type {} is not supported: use function", value["type"]);
        return Err(ApiError::invalid(format!("{place}.type"), message));
    }
    let Some(Value::Object(function)) = value.get("function") else {
        return Err(missing(&format!("{place}.function")));
    };
    let name = match function.get("name") {
        None | Some(Value::Null) => return Err(missing(&field("name"))),
        Some(Value::String(name)) => name,
        Some(other) => return Err(wrong(&field("name"), "a string", other)),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_name) {
        let message = format!("a function's name has 1 to {MAX_NAME} letters, digits, dots, dashes and underscores");
        return Err(ApiError::invalid(field("name"), message));
    }
    let description = match function.get("description") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => return Err(wrong(&field("description"), "a string", other)),
    };
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
        Some(Value::Object(schema)) => Value::Object(schema.clone()),
        Some(other) => return Err(wrong(&field("parameters"), "an object", other)),
    };
    Ok(Tool { name: name.clone(), description, parameters })
}

/// A call in a response, or a part of one in a stream.
#[derive(Clone, Debug, Serialize)]
pub struct WireCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: WireFunction,
}

#[derive(Clone, Debug, Serialize)]
struct WireFunction {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl WireCall {
    fn start(name: String) -> WireCall {
        WireCall {
            index: None,
            id: Some(format!("call_{}", draw_id())),
            kind: Some("function"),
            function: WireFunction { name: Some(name), arguments: String::new() },
        }
    }

    fn more(arguments: String) -> WireCall {
        WireCall { index: None, id: None, kind: None, function: WireFunction { name: None, arguments } }
    }
}

/// Takes one reply apart as it comes.
#[derive(Clone, Debug, Default)]
pub struct CallReader {
    reader: Reader,
    n_calls: usize,
}

/// A piece of a reply.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Text.
    Text(String),
    /// A call begins or goes on.
    Call(WireCall),
}

impl CallReader {
    /// What a piece of text turned out to be.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let parts = self.reader.push(text);
        self.pieces(parts)
    }

    /// What was held back.
    pub fn finish(&mut self) -> Vec<Piece> {
        let parts = self.reader.finish();
        self.pieces(parts)
    }

    /// Whether there was a call.
    pub fn has_calls(&self) -> bool {
        self.n_calls > 0
    }

    fn pieces(&mut self, parts: Vec<Part>) -> Vec<Piece> {
        let piece = |part| {
            let mut call = match part {
                Part::Text(text) => return Piece::Text(text),
                Part::Call(name) => {
                    self.n_calls += 1;
                    WireCall::start(name)
                }
                Part::Arguments(more) => WireCall::more(more),
            };
            call.index = Some(self.n_calls.saturating_sub(1));
            Piece::Call(call)
        };
        parts.into_iter().map(piece).collect()
    }
}

/// The text and the calls of a whole reply.
pub fn take_apart(text: &str) -> (String, Vec<WireCall>) {
    let mut reader = CallReader::default();
    let mut pieces = reader.push(text);
    pieces.extend(reader.finish());
    let (mut text, mut calls): (String, Vec<WireCall>) = Default::default();
    for piece in pieces {
        match (piece, calls.last_mut()) {
            (Piece::Text(more), _) => text.push_str(&more),
            (Piece::Call(call), Some(last)) if call.id.is_none() => {
                last.function.arguments.push_str(&call.function.arguments)
            }
            (Piece::Call(call), _) => calls.push(WireCall { index: None, ..call }),
        }
    }
    (text, calls)
}
