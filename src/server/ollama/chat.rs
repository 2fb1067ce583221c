//! `POST /api/chat`.

use axum::response::Response;
use serde_json::Value;

use super::reply::{self, Form};
use super::request::{Asked, refuse_images};
use crate::server::Loaded;
use crate::server::conversation::{Conversation, messages};
use crate::server::error::ApiError;
use crate::server::fields::{Fields, wrong};

/// The handler.
pub async fn chat(Loaded(ready): Loaded, fields: Fields) -> Result<Response, ApiError> {
    let asked = Asked::read(&fields, &ready).await?;
    let list = match fields.get("messages") {
        None => &[],
        Some(Value::Array(list)) => list.as_slice(),
        Some(other) => return Err(wrong("messages", "a list", other)),
    };
    if list.is_empty() {
        return Ok(reply::loaded(&ready, Form::Chat { n_dropped: 0 }));
    }
    for message in list {
        refuse_images(message.get("images"))?;
    }
    let room = asked.room(&ready);
    let prompt = Conversation::of(messages(&fields)?).fitting_prompt(&ready, room).await?;
    reply::answer(ready, &asked, prompt.tokens, Form::Chat { n_dropped: prompt.n_dropped }).await
}
