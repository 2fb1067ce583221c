//! Messages to token ids; the only place that knows the turn markers.

use crate::tokenizer::{Special, TokenId, Tokenizer};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` (or `model`, the same).
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
    segments
        .iter()
        .map(|s| match s {
            Segment::Template(t) | Segment::Content(t) => t.as_str(),
        })
        .collect()
}

/// Token ids of a rendered prompt, with exactly one `<bos>`.
pub fn encode(tokenizer: &Tokenizer, segments: &[Segment]) -> Vec<TokenId> {
    let ids = segments.iter().flat_map(|s| match s {
        Segment::Template(t) => tokenizer.encode(t, Special::Parse),
        Segment::Content(t) => tokenizer.encode(t, Special::Literal),
    });
    tokenizer.with_bos(ids.collect())
}

/// The model file's chat template, or Gemma's own where the file has none.
pub struct ChatTemplate {}

/// A conversation that cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template itself refused (roles out of order …) or is broken.
    #[error("the chat template refuses this conversation: {0}")]
    Template(String),
}

impl crate::error::Hint for ChatError {}

impl ChatTemplate {
    /// Compiles `source` (Jinja, as in `tokenizer_config.json` and GGUF's `tokenizer.chat_template`); `None` is Gemma's.
    pub fn new(_source: Option<&str>) -> Result<ChatTemplate, ChatError> {
        todo!()
    }

    /// Renders a conversation. System messages at the start are folded into the first user turn with a blank line
    /// between. `continue_last` leaves the last model turn open, so that the model goes on with it; otherwise the
    /// start of a model turn is added.
    pub fn render(&self, _messages: &[Message], _continue_last: bool) -> Result<Vec<Segment>, ChatError> {
        todo!()
    }
}

/// The page's two templates (`{{history}}`, `{{name}}`, `{{message}}`, `{{char}}`, `{{prompt}}`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageTemplates {
    /// Default `"{{history}}\n<start_of_turn>{{char}}\n"`.
    pub prompt: String,
    /// Default `"<start_of_turn>{{name}}\n{{message}}<end_of_turn>"`; rendered turns are joined with one newline.
    pub history: String,
    /// Default `user`.
    pub user_name: String,
    /// Default `model`.
    pub char_name: String,
}

impl PageTemplates {
    /// Expands in a single pass; substituted text is content, the rest is template. Messages are trimmed.
    pub fn render(&self, _messages: &[Message], _continue_last: bool) -> Result<Vec<Segment>, ChatError> {
        todo!()
    }
}
