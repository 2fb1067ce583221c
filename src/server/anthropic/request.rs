//! What a request says, in the words of the other APIs.

use crate::chat::Message;
use crate::engine::Request;
use crate::server::Ready;
use crate::server::conversation::{self, Conversation};
use crate::server::error::ApiError;
use crate::server::fields::{Fields, not_supported};
use crate::server::generation;

/// All but the prompt.
///
/// # Errors
/// 400 that names the field.
pub fn request(fields: &Fields, ready: &Ready) -> Result<Request, ApiError> {
    refuse(fields)?;
    let mut request = Request::new(Vec::new());
    request.sampling = generation::sampling(fields, &ready.facts.sampling, 2.0, ready.engine.tokenizer())?;
    request.limit = generation::limit(fields, &["max_tokens"], 1)?;
    request.stop = generation::stop_strings(fields, "stop_sequences")?;
    Ok(request)
}

/// `system` and `messages`.
///
/// # Errors
/// 400 that names the message and the field.
pub fn conversation(fields: &Fields) -> Result<Conversation, ApiError> {
    let mut messages = conversation::messages(fields)?;
    if let Some(system) = fields.get("system") {
        let content = conversation::text(system, "system")?;
        messages.insert(0, Message { role: "system".into(), content });
    }
    Ok(Conversation::of(messages))
}

/// Refuses what would change the answer and is not there.
///
/// # Errors
/// 400 that names the field.
pub fn refuse(fields: &Fields) -> Result<(), ApiError> {
    fields.string("model")?;
    generation::refuse_given(fields, &["tools", "mcp_servers", "container", "output_format"])?;
    let is_forced =
        matches!(fields.get("tool_choice").and_then(|choice| choice["type"].as_str()), Some("any" | "tool"));
    if is_forced {
        return Err(not_supported("tool_choice", "this server"));
    }
    let has_format = fields.object("output_config")?.is_some_and(|config| config.get("format").is_some());
    if has_format {
        return Err(not_supported("output_config", "this server"));
    }
    fields.object("thinking")?.map_or(Ok(()), |thinking| thinking.string("type").map(|_| ()))
}
