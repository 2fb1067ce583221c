//! Messages to token ids; the only place that knows the turn markers.
//!
//! A rendered prompt is kept in [`Segment`]s, so that text typed by a person never becomes a control token: control
//! tokens count in what a template wrote, and are plain characters in what was filled in.

mod page;
mod template;
pub mod tools;

#[cfg(test)]
mod tests;

pub use page::PageTemplates;
pub use template::ChatTemplate;

use crate::error::Hint;
use crate::tokenizer::{Special, TokenId, Tokenizer};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system` (or `developer`, the same), `user`, `assistant` (or `model`, the same).
    pub role: String,
    /// Its text.
    pub content: String,
}

/// A rendered prompt in pieces: what the template wrote, where control tokens count, and what people wrote, where they
/// do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Written by the template.
    Template(String),
    /// Written by a person or the model.
    Content(String),
}

/// The text of a rendered prompt.
pub fn text(segments: &[Segment]) -> String {
    segments.iter().map(Segment::text).collect()
}

/// Token ids of a rendered prompt, with exactly one `<bos>`.
///
/// The text is encoded as a whole: the ids are those of [`text`] but for control tokens in content.
pub fn encode(tokenizer: &Tokenizer, segments: &[Segment]) -> Vec<TokenId> {
    let parts: Vec<(&str, Special)> = segments
        .iter()
        .map(|segment| match segment {
            Segment::Template(text) => (text.as_str(), Special::Parse),
            Segment::Content(text) => (text.as_str(), Special::Literal),
        })
        .collect();
    tokenizer.with_bos(tokenizer.encode_parts(&parts))
}

/// A conversation that cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The template itself refused: roles out of order …
    #[error("the chat template refuses this conversation: {0}")]
    Template(String),
    /// The template is not valid Jinja, uses something unknown, or does not come to an end.
    #[error("the chat template is broken: {0}")]
    Broken(String),
    /// There is no message to render.
    #[error("there are no messages")]
    NoMessages,
    /// More messages than can be told apart in a rendered prompt.
    #[error("{0} messages are too many")]
    TooManyMessages(usize),
    /// A role that no template knows.
    #[error("the role `{0}` is unknown")]
    UnknownRole(String),
    /// The reply to be continued is not the last message, or the template does not show it.
    #[error("there is no reply of the model at the end to continue")]
    NothingToContinue,
}

impl Hint for ChatError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            ChatError::Template(_) => "start with a `user` message and alternate `user` and `assistant`",
            ChatError::Broken(_) => "the template comes from the model file; use another copy of it",
            ChatError::NoMessages => "give at least one `user` message",
            ChatError::TooManyMessages(_) => "leave out the oldest messages",
            ChatError::UnknownRole(_) => "the roles are `system`, `user` and `assistant`",
            ChatError::NothingToContinue => "the last message must have the role `assistant`",
        };
        Some(hint.into())
    }
}

impl Segment {
    fn text(&self) -> &str {
        match self {
            Segment::Template(text) | Segment::Content(text) => text,
        }
    }
}

/// Who speaks, as far as templates can tell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    System,
    User,
    Model,
}

impl Message {
    fn parsed_role(&self) -> Result<Role, ChatError> {
        match self.role.as_str() {
            "system" | "developer" => Ok(Role::System),
            "user" => Ok(Role::User),
            "assistant" | "model" => Ok(Role::Model),
            other => Err(ChatError::UnknownRole(other.into())),
        }
    }
}

/// Appends template text, joined with template text before it.
fn push_template(segments: &mut Vec<Segment>, text: &str) {
    match segments.last_mut() {
        _ if text.is_empty() => {}
        Some(Segment::Template(before)) => before.push_str(text),
        _ => segments.push(Segment::Template(text.into())),
    }
}

/// Appends content.
fn push_content(segments: &mut Vec<Segment>, text: &str) {
    if !text.is_empty() {
        segments.push(Segment::Content(text.into()));
    }
}

/// The text of a message as it goes into a prompt: trimmed, but a reply to be continued keeps its end, since the next
/// token goes on right there.
fn shown(content: &str, is_continued: bool) -> &str {
    match is_continued {
        true => content.trim_start(),
        false => content.trim(),
    }
}

/// Appends a trimmed text after a blank line, unless one of both is empty.
fn append_paragraph(text: &mut String, paragraph: &str) {
    let paragraph = paragraph.trim();
    if !text.is_empty() && !paragraph.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(paragraph);
}
