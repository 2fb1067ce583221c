//! `POST /api/chat`.

use axum::response::Response;
use serde_json::Value;

use super::reply::{self, Form};
use super::request::{Asked, refuse_images};
use crate::server::Loaded;
use crate::server::conversation::{Conversation, messages};
use crate::server::error::ApiError;
use crate::server::fields::{Fields, wrong};
use crate::server::tools::Tools;

/// The handler.
pub async fn chat(Loaded(ready): Loaded, fields: Fields) -> Result<Response, ApiError> {
    let tools = Tools::of_chat(&fields)?;
    let asked = Asked::read(&fields, tools.as_ref(), &ready).await?;
    let list = match fields.get("messages") {
        None => &[],
        Some(Value::Array(list)) => list.as_slice(),
        Some(other) => return Err(wrong("messages", "a list", other)),
    };
    if list.is_empty() {
        return Ok(reply::loaded(&ready, Form::Chat { n_dropped: 0, has_tools: false }));
    }
    for message in list {
        refuse_images(message.get("images"))?;
    }
    let mut conversation = Conversation::of(messages(list)?);
    if let Some(tools) = &tools {
        conversation.instruct(tools.instructions());
    }
    let room = asked.room(&ready);
    let prompt = conversation.fitting_prompt(&ready, room).await?;
    let form = Form::Chat { n_dropped: prompt.n_dropped, has_tools: tools.is_some() };
    reply::answer(ready, &asked, prompt.tokens, form).await
}
