//! The `messages` of a request, and the prompt they make.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::Ready;
use super::error::ApiError;
use super::fields::{Fields, missing, not_supported, wrong};
use super::generation::run_blocking;
use crate::chat::tools::{self, Call};
use crate::chat::{self, Message, PageTemplates};
use crate::tokenizer::TokenId;

/// A conversation as a client sent it.
#[derive(Clone, Debug)]
pub struct Conversation {
    messages: Vec<Message>,
    templates: Option<PageTemplates>,
    ending: Ending,
}

/// How a prompt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// With the start of a reply.
    Reply,
    /// Within the last message, which goes on.
    Open,
    /// With the end of the last message.
    Closed,
}

/// A conversation as the model gets it.
pub struct Prompt {
    /// As text.
    pub text: String,
    /// As tokens, with `<bos>`.
    pub tokens: Vec<TokenId>,
    /// Messages that were left out at the beginning.
    pub n_dropped: usize,
}

impl Conversation {
    /// Reads `messages` and `templates`. A last message by the assistant is continued, unless `continue_final_message` or
    /// `add_generation_prompt` says otherwise.
    ///
    /// # Errors
    /// 400 that names the message and the field.
    pub fn read(fields: &Fields) -> Result<Conversation, ApiError> {
        let templates = templates(fields)?;
        let mut messages = messages(list(fields)?)?;
        if templates.is_none() {
            messages = alternating(messages);
        }
        let ends_with_assistant = messages.last().is_some_and(|last| last.role == "assistant");
        let asks_for_reply = fields.bool("add_generation_prompt", false)?;
        let continue_last = fields.bool("continue_final_message", ends_with_assistant && !asks_for_reply)?;
        let refused = |message: &str| Err(ApiError::invalid(Some("continue_final_message".to_owned()), message));
        if continue_last && asks_for_reply {
            return refused("a message that goes on leaves no place for `add_generation_prompt`: one of them is false");
        }
        if continue_last && !ends_with_assistant {
            return refused("only a last message by the assistant can be continued");
        }
        let ending = match continue_last {
            true => Ending::Open,
            false if fields.bool("add_generation_prompt", true)? => Ending::Reply,
            false if templates.is_some() => return Err(not_supported("add_generation_prompt", "`templates`")),
            false => Ending::Closed,
        };
        Ok(Conversation { messages, templates, ending })
    }

    /// A conversation of an API that lets one speak twice in a row: such messages are joined, with a blank line between. A
    /// last message by the assistant is continued.
    pub fn of(messages: Vec<Message>) -> Conversation {
        let mut joined: Vec<Message> = Vec::with_capacity(messages.len());
        for message in messages {
            match joined.last_mut() {
                Some(last) if last.role == message.role => {
                    last.content.push_str("\n\n");
                    last.content.push_str(&message.content);
                }
                _ => joined.push(message),
            }
        }
        let ends_with_assistant = joined.last().is_some_and(|last| last.role == "assistant");
        let ending = if ends_with_assistant { Ending::Open } else { Ending::Reply };
        Conversation { messages: joined, templates: None, ending }
    }

    /// Puts instructions before the first message.
    pub fn instruct(&mut self, text: String) {
        self.messages.insert(0, Message { role: "system".into(), content: text });
    }

    /// Renders and encodes, off the threads that serve others.
    ///
    /// # Errors
    /// 400 if the template refuses the conversation.
    pub async fn prompt(self, ready: &Arc<Ready>) -> Result<Prompt, ApiError> {
        let ready = ready.clone();
        run_blocking(move || self.render(&ready, 0)).await?
    }

    /// The same for a prompt of at most `room` tokens, as far as leaving out the oldest turns makes it so short: as few
    /// as possible, always whole ones, never system messages or the last turn.
    ///
    /// # Errors
    /// 400 if the template refuses the conversation.
    pub async fn fitting_prompt(self, ready: &Arc<Ready>, room: usize) -> Result<Prompt, ApiError> {
        let ready = ready.clone();
        run_blocking(move || {
            let whole = self.render(&ready, 0)?;
            let starts = self.later_turns();
            let Some(&last) = starts.last().filter(|_| whole.tokens.len() > room) else {
                return Ok(whole);
            };
            // Fewer turns never make more tokens: the first start that fits is found by halving.
            let (mut low, mut high) = (0, starts.len() - 1);
            let mut best = self.render(&ready, last)?;
            while low < high {
                let middle = (low + high) / 2;
                let prompt = self.render(&ready, starts[middle])?;
                if prompt.tokens.len() <= room {
                    (best, high) = (prompt, middle);
                } else {
                    low = middle + 1;
                }
            }
            Ok(best)
        })
        .await?
    }

    /// Where turns begin that others come before: user messages that do not follow another one.
    fn later_turns(&self) -> Vec<usize> {
        let spoken = self.messages.iter().enumerate().filter(|(_, message)| message.role != "system");
        let mut before = None;
        let mut starts = Vec::new();
        for (at, message) in spoken {
            if message.role == "user" && before.is_some_and(|role| role != "user") {
                starts.push(at);
            }
            before = Some(message.role.as_str());
        }
        starts
    }

    /// The prompt of the messages from `start` on, and of all system messages before.
    fn render(&self, ready: &Ready, start: usize) -> Result<Prompt, ApiError> {
        let (before, after) = self.messages.split_at(start);
        let kept = before.iter().filter(|message| message.role == "system");
        let messages: Vec<Message> = kept.chain(after).cloned().collect();
        let goes_on = self.ending == Ending::Open;
        let segments = match &self.templates {
            Some(templates) => {
                templates.render(&messages, goes_on).map_err(|error| ApiError::from(error).about("templates"))?
            }
            None if self.ending == Ending::Closed => ready.template.render_closed(&messages)?,
            None => ready.template.render(&messages, goes_on)?,
        };
        Ok(Prompt {
            text: chat::text(&segments),
            tokens: chat::encode(ready.engine.tokenizer(), &segments),
            n_dropped: self.messages.len() - messages.len(),
        })
    }
}

/// `messages` as they are.
///
/// # Errors
/// 400: there are none.
pub fn list(fields: &Fields) -> Result<&[Value], ApiError> {
    match fields.get("messages") {
        None => Err(missing("messages")),
        Some(Value::Array(list)) if list.is_empty() => {
            let error = ApiError::invalid(Some("messages".to_owned()), "`messages` must not be empty");
            Err(error.coded("empty_array"))
        }
        Some(Value::Array(list)) => Ok(list),
        Some(other) => Err(wrong("messages", "a list", other)),
    }
}

/// Reads messages. What functions returned is the user's.
///
/// # Errors
/// 400 that names the message and the field.
pub fn messages(list: &[Value]) -> Result<Vec<Message>, ApiError> {
    let mut messages: Vec<Message> = Vec::with_capacity(list.len());
    // Calls so far, by id, to name the function in its result.
    let mut names: HashMap<&str, &str> = HashMap::new();
    for (index, value) in list.iter().enumerate() {
        let message = match value["role"] == "tool" {
            true => result(index, value, &names)?,
            false => message(&format!("messages[{index}]"), value)?,
        };
        for call in value["tool_calls"].as_array().into_iter().flatten() {
            if let (Some(id), Some(name)) = (call["id"].as_str(), call["function"]["name"].as_str()) {
                names.insert(id, name);
            }
        }
        messages.push(message);
    }
    Ok(messages)
}

/// Turns alternate: all that the user says in a row is one message, with instructions in between.
fn alternating(messages: Vec<Message>) -> Vec<Message> {
    let mut joined: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        let is_said = |message: &Message| message.role != "system";
        let said = if message.role == "user" { joined.iter().rposition(is_said) } else { None };
        match said.filter(|at| joined[*at].role == "user") {
            Some(at) => {
                let rest: Vec<Message> = joined.drain(at + 1..).chain([message]).collect();
                for message in rest {
                    joined[at].content.push_str(&format!("\n\n{}", message.content.trim()));
                }
            }
            None => joined.push(message),
        }
    }
    joined
}

/// A message of the role `tool`.
fn result(index: usize, value: &Value, names: &HashMap<&str, &str>) -> Result<Message, ApiError> {
    let at = format!("messages[{index}]");
    let content = content(value.get("content"), &format!("{at}.content"))?;
    let id = match value.get("tool_call_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(id.as_str()),
        Some(other) => return Err(wrong(&format!("{at}.tool_call_id"), "a string", other)),
    };
    let told = ["name", "tool_name"].iter().find_map(|field| value[*field].as_str());
    let name = told.or_else(|| names.get(id?).copied());
    Ok(Message { role: "user".into(), content: tools::result(name, &content, false) })
}

/// Reads a message, which stands `at` a place in the request.
///
/// # Errors
/// 400 that names the field.
pub fn message(at: &str, value: &Value) -> Result<Message, ApiError> {
    let Value::Object(object) = value else {
        return Err(wrong(at, "an object", value));
    };
    let role = role(at, value)?;
    if !object.get("function_call").is_none_or(Value::is_null) {
        let message = "`function_call` is not supported by this server: use `tool_calls`";
        return Err(ApiError::invalid(Some(format!("{at}.function_call")), message));
    }
    let calls = calls(object.get("tool_calls"), &format!("{at}.tool_calls"))?;
    if calls.is_empty() {
        let content = content(object.get("content"), &format!("{at}.content"))?;
        return Ok(Message { role: role.to_owned(), content });
    }
    if role != "assistant" {
        let message = "only the assistant calls functions";
        return Err(ApiError::invalid(Some(format!("{at}.tool_calls")), message));
    }
    let said = match object.get("content") {
        None | Some(Value::Null) => String::new(),
        given => content(given, &format!("{at}.content"))?,
    };
    Ok(Message { role: role.to_owned(), content: with_calls(&said, &calls) })
}

/// Who speaks in a message, in our own words.
///
/// # Errors
/// 400 that names the field.
pub fn role(at: &str, message: &Value) -> Result<&'static str, ApiError> {
    let field = format!("{at}.role");
    match &message["role"] {
        Value::Null => Err(missing(&field)),
        Value::String(role) => match role.as_str() {
            "system" | "developer" => Ok("system"),
            "user" => Ok("user"),
            "assistant" | "model" => Ok("assistant"),
            other => {
                let message = format!("the role `{other}` is not supported: use system, user, assistant or tool");
                Err(ApiError::invalid(Some(field), message).coded("invalid_value"))
            }
        },
        other => Err(wrong(&field, "a string", other)),
    }
}

/// A reply of earlier that called functions, after it perhaps said something.
pub fn with_calls(said: &str, calls: &[Call]) -> String {
    let calls = tools::calls(calls);
    if said.trim().is_empty() { calls } else { format!("{}\n{calls}", said.trim_end()) }
}

fn content(value: Option<&Value>, field: &str) -> Result<String, ApiError> {
    match value {
        None | Some(Value::Null) => Err(missing(field)),
        Some(content) => text(content, field),
    }
}

/// The `tool_calls` of a message, with arguments as a text or an object.
fn calls(value: Option<&Value>, field: &str) -> Result<Vec<Call>, ApiError> {
    let list = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong(field, "a list", other)),
    };
    let call = |(at, call): (usize, &Value)| {
        let text = |name: &str| {
            let field = format!("{field}[{at}].function.{name}");
            match &call["function"][name] {
                Value::Null => Err(missing(&field)),
                Value::String(text) => Ok(text.clone()),
                // Ollama's arguments are no text.
                arguments @ Value::Object(_) if name == "arguments" => Ok(arguments.to_string()),
                other => Err(wrong(&field, "a string", other)),
            }
        };
        Ok(Call { name: text("name")?, arguments: text("arguments")? })
    };
    list.iter().enumerate().map(call).collect()
}

/// A text, or a list of parts that are text.
///
/// # Errors
/// 400 that names the field, or what it has instead.
pub fn text(content: &Value, field: &str) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => return Err(wrong(field, "a string or a list of text parts", other)),
    };
    let parts = parts.iter().enumerate().map(|(index, part)| text_part(&format!("{field}[{index}]"), part));
    Ok(parts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// The text of a part of a content.
///
/// # Errors
/// 400 that names the field, or what the part has instead.
pub fn text_part<'a>(at: &str, part: &'a Value) -> Result<&'a str, ApiError> {
    match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text" | "input_text" | "output_text"), Some(text)) => Ok(text),
        (Some("text"), None) => Err(missing(&format!("{at}.text"))),
        (kind, _) => {
            let kind = kind.unwrap_or("?");
            let message = format!("a part of type `{kind}` is not supported: this model reads text only");
            Err(ApiError::invalid(Some(format!("{at}.type")), message).coded("invalid_value"))
        }
    }
}

fn templates(fields: &Fields) -> Result<Option<PageTemplates>, ApiError> {
    let Some(given) = fields.object("templates")? else {
        return Ok(None);
    };
    let mut templates = PageTemplates::default();
    let targets = [
        ("prompt", &mut templates.prompt),
        ("history", &mut templates.history),
        ("user_name", &mut templates.user_name),
        ("char_name", &mut templates.char_name),
    ];
    for (name, target) in targets {
        let text = given.string(name).map_err(|error| error.about(&format!("templates.{name}")))?;
        if let Some(text) = text {
            text.clone_into(target);
        }
    }
    Ok(Some(templates))
}
