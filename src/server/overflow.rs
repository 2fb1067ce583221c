//! `overflow` and `n_keep`: what happens to a prompt or a reply that outgrows the context.
//!
//! | `overflow` | a prompt that is too long | a reply that reaches the end of the context |
//! |---|---|---|
//! | `error` | 400 `context_length_exceeded` | ends, `finish_reason` `length` |
//! | `shift` | loses its middle | goes on; the oldest tokens behind `n_keep` make room |
//! | `drop_oldest_turns` (chat only) | loses whole turns, or 400 where that is not enough | ends |
//!
//! Where a request says nothing, a chat is `drop_oldest_turns`, unless the client brings its own `templates`: then it
//! composes the prompt and is told when that is too long. A text refuses a prompt that is too long and shifts its reply,
//! as llama.cpp does, unless the server runs with `--no-context-shift`. Answers say `truncated`, and `dropped_messages`
//! where messages were left out.

use serde::Serialize;

use super::error::ApiError;
use super::fields::Fields;
use crate::engine::{Done, Limit, Overflow, StopReason};

/// The policy of a request for a text. `shifts` is what is done where it names none.
///
/// # Errors
/// 400 where the fields make no sense.
pub fn of_text(fields: &Fields, shifts: bool) -> Result<Overflow, ApiError> {
    let n_keep = n_keep(fields)?;
    match fields.string("overflow")? {
        None if shifts => Ok(Overflow::Shift { n_keep, cut_prompt: false }),
        None | Some("error") => Ok(Overflow::Stop),
        Some("shift") => Ok(Overflow::Shift { n_keep, cut_prompt: true }),
        Some(other) => Err(unknown(other, "`error` or `shift`")),
    }
}

/// The policy of a conversation, and whether its oldest turns may be left out.
///
/// # Errors
/// 400 where the fields make no sense.
pub fn of_chat(fields: &Fields) -> Result<(Overflow, bool), ApiError> {
    let n_keep = n_keep(fields)?;
    match fields.string("overflow")? {
        None => Ok((Overflow::Stop, fields.get("templates").is_none())),
        Some("drop_oldest_turns") => Ok((Overflow::Stop, true)),
        Some("error") => Ok((Overflow::Stop, false)),
        Some("shift") => Ok((Overflow::Shift { n_keep, cut_prompt: true }, false)),
        Some(other) => Err(unknown(other, "`error`, `shift` or `drop_oldest_turns`")),
    }
}

/// Tokens that a conversation's prompt may have before turns are left out.
pub fn room(may_drop: bool, limit: Limit, n_ctx: usize) -> usize {
    if may_drop { n_ctx - reserve(limit, n_ctx) } else { usize::MAX }
}

/// Tokens that a conversation must leave free for the reply before none of its turns is left out: what was asked for, up
/// to half of the context, or an eighth.
fn reserve(limit: Limit, n_ctx: usize) -> usize {
    match limit {
        Limit::Tokens(n) => n.min(n_ctx / 2),
        Limit::EndOfTurn => n_ctx / 8,
    }
}

/// llama.cpp's `n_keep`: tokens of the prompt that a shift keeps, `<bos>` not counted; -1 is all of them.
fn n_keep(fields: &Fields) -> Result<Option<usize>, ApiError> {
    let n_keep = fields.integer("n_keep", -1..=i64::from(u32::MAX))?.unwrap_or(0);
    Ok(usize::try_from(n_keep).ok())
}

fn unknown(policy: &str, known: &str) -> ApiError {
    ApiError::invalid(Some("overflow".to_owned()), format!("`overflow` must be {known}, not `{policy}`"))
}

/// What an answer says about this; nothing before the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The context was too small for something.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
    /// Messages of the conversation that the model did not get.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped_messages: Option<usize>,
}

impl LeftOut {
    /// At the end of a reply to a conversation without its first `n_messages`.
    pub fn of(done: &Done, n_messages: usize) -> LeftOut {
        LeftOut {
            truncated: Some(is_truncated(done) || n_messages > 0),
            dropped_messages: (n_messages > 0).then_some(n_messages),
        }
    }

    /// Of several replies to the same prompt.
    pub fn and(self, other: LeftOut) -> LeftOut {
        LeftOut {
            truncated: Some(self.truncated == Some(true) || other.truncated == Some(true)),
            dropped_messages: self.dropped_messages.or(other.dropped_messages),
        }
    }
}

/// Whether the context was too small: something was dropped, or the reply is cut.
pub fn is_truncated(done: &Done) -> bool {
    done.n_dropped > 0 || done.reason == StopReason::ContextFull
}
