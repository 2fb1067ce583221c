//! The model file's Jinja template.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};

use super::{ChatError, Message, Role, Segment, append_paragraph, push_content, push_template, shown};

/// The template of Gemma 2's instruction models.
const GEMMA: &str = include_str!("gemma2.jinja");

/// One character stands for each message's text while the template runs; these are private use, so no template has
/// a meaning for them, and a single character cannot be cut apart.
const FIRST_STAND_IN: u32 = 0xF0000;
const MAX_MESSAGES: usize = 0x10000 - 2;

/// Instructions, and at 64 bytes each also memory, that a template may use: far more than any real one needs.
const BASE_FUEL: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 10_000;

/// The model file's chat template, or Gemma's own where the file has none.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

impl ChatTemplate {
    /// Compiles `source` (Jinja, as in `tokenizer_config.json` and GGUF's `tokenizer.chat_template`); `None` is Gemma's.
    ///
    /// # Errors
    /// [`ChatError::Broken`] where it is not valid Jinja.
    pub fn new(source: Option<&str>) -> Result<ChatTemplate, ChatError> {
        let source = source.unwrap_or(GEMMA).to_owned();
        let mut environment = Environment::new();
        // As transformers sets it up.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(chat_error)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "").with_source(Refusal(message)))
        });
        environment.add_global("bos_token", "<bos>");
        environment.add_global("eos_token", "<eos>");
        environment.add_template_owned("chat", source.clone()).map_err(chat_error)?;
        Ok(ChatTemplate { environment, source })
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation.
    ///
    /// System messages are folded into the user turn that follows, with a blank line between, since Gemma has no such
    /// role. `continue_last` leaves the last model turn open, so that the model goes on with it; otherwise the start of
    /// a model turn is added. Texts are trimmed, but for the end of one that is continued.
    ///
    /// # Errors
    /// [`ChatError::Template`] with the template's own words where roles do not alternate.
    pub fn render(&self, messages: &[Message], continue_last: bool) -> Result<Vec<Segment>, ChatError> {
        let messages = fold_system(messages)?;
        match messages.last() {
            None => return Err(ChatError::NoMessages),
            Some((role, _)) if continue_last && *role != Role::Model => {
                return Err(ChatError::NothingToContinue);
            }
            Some(_) => {}
        }
        self.render_turns(&messages, continue_last, !continue_last)
    }

    /// The same with the end of the last turn and nothing behind it.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_closed(&self, messages: &[Message]) -> Result<Vec<Segment>, ChatError> {
        let messages = fold_system(messages)?;
        if messages.is_empty() {
            return Err(ChatError::NoMessages);
        }
        self.render_turns(&messages, false, false)
    }

    /// Renders a conversation as the template itself does, system messages included.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; Gemma's template refuses system messages.
    pub fn render_strict(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<Segment>, ChatError> {
        let turns = messages
            .iter()
            .map(|message| Ok((message.parsed_role()?, message.content.clone())))
            .collect::<Result<Vec<_>, ChatError>>()?;
        self.render_turns(&turns, false, add_generation_prompt)
    }

    /// What the template writes after a reply of the model, which ends its turn.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn turn_end(&self) -> Result<String, ChatError> {
        let turns = [(Role::User, "a".into()), (Role::Model, "b".into())];
        let segments = self.render_turns(&turns, false, false)?;
        Ok(match segments.last() {
            Some(Segment::Template(end)) => end.clone(),
            _ => String::new(),
        })
    }

    fn render_turns(
        &self,
        turns: &[(Role, String)],
        continue_last: bool,
        add_generation_prompt: bool,
    ) -> Result<Vec<Segment>, ChatError> {
        if turns.len() > MAX_MESSAGES {
            return Err(ChatError::TooManyMessages(turns.len()));
        }
        let contents: Vec<&str> =
            turns.iter().enumerate().map(|(i, (_, text))| shown(text, continue_last && i + 1 == turns.len())).collect();
        // An empty text stays empty, since templates ask for that; but a turn that is continued must be found again.
        let stand_in = |index: usize| {
            let is_continued = continue_last && index + 1 == turns.len();
            char::from_u32(FIRST_STAND_IN + index as u32)
                .filter(|_| is_continued || !contents[index].is_empty())
                .map_or_else(String::new, String::from)
        };
        let messages = turns.iter().enumerate().map(|(i, (role, _))| {
            let role = match role {
                Role::System => "system",
                Role::User => "user",
                Role::Model => "assistant",
            };
            context! { role, content => stand_in(i) }
        });
        let context = context! {
            messages => Value::from_iter(messages),
            add_generation_prompt,
            // Templates ask whether these are none, which undefined is not.
            tools => (),
            documents => (),
        };
        let rendered = self.run(context, turns.len())?;

        let mut rendered = rendered.as_str();
        if continue_last {
            // What the template writes after the last text closes the turn.
            let last = stand_in(turns.len() - 1);
            let at = rendered.rfind(&last).ok_or(ChatError::NothingToContinue)?;
            rendered = &rendered[..at + last.len()];
        }
        let mut segments = Vec::new();
        let mut template_start = 0;
        for (at, character) in rendered.char_indices() {
            let index = u32::from(character).wrapping_sub(FIRST_STAND_IN) as usize;
            if let Some(content) = contents.get(index) {
                push_template(&mut segments, &rendered[template_start..at]);
                push_content(&mut segments, content);
                template_start = at + character.len_utf8();
            }
        }
        push_template(&mut segments, &rendered[template_start..]);
        Ok(segments)
    }

    fn run(&self, context: Value, n_messages: usize) -> Result<String, ChatError> {
        let fuel = BASE_FUEL + FUEL_PER_MESSAGE * n_messages as u64;
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let template = environment.get_template("chat").map_err(chat_error)?;
        template.render(context).map_err(chat_error)
    }
}

/// Roles and texts with system messages joined to the user message that follows, or else to the one before, or else as
/// a user message of their own.
fn fold_system(messages: &[Message]) -> Result<Vec<(Role, String)>, ChatError> {
    let mut turns: Vec<(Role, String)> = Vec::with_capacity(messages.len());
    let mut pending = String::new();
    for message in messages {
        match message.parsed_role()? {
            Role::System => append_paragraph(&mut pending, &message.content),
            Role::User => {
                let mut text = std::mem::take(&mut pending);
                append_paragraph(&mut text, &message.content);
                turns.push((Role::User, text));
            }
            Role::Model => {
                flush_system(&mut turns, &mut pending);
                turns.push((Role::Model, message.content.clone()));
            }
        }
    }
    flush_system(&mut turns, &mut pending);
    Ok(turns)
}

fn flush_system(turns: &mut Vec<(Role, String)>, pending: &mut String) {
    let text = std::mem::take(pending);
    match turns.last_mut() {
        _ if text.is_empty() => {}
        Some((Role::User, before)) => append_paragraph(before, &text),
        _ => turns.push((Role::User, text)),
    }
}

/// A template's own refusal, by `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn chat_error(error: minijinja::Error) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(Refusal(message)) = error.downcast_ref() {
            return ChatError::Template(message.clone());
        }
        cause = error.source();
    }
    ChatError::Broken(error.to_string())
}
