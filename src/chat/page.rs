//! The chat page's templates: plain text with `{{…}}` in it, which people can edit.

use super::{ChatError, Message, Role, Segment, append_paragraph, push_content, push_template, shown};

/// The page's two templates (`{{history}}`, `{{name}}`, `{{message}}`, `{{user}}`, `{{char}}`, `{{prompt}}`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageTemplates {
    /// Default `"{{history}}\n<start_of_turn>{{char}}\n"`. Knows `{{history}}`, `{{user}}`, `{{char}}`, `{{prompt}}`.
    pub prompt: String,
    /// Default `"<start_of_turn>{{name}}\n{{message}}<end_of_turn>"`; rendered turns are joined with one newline. Knows
    /// `{{name}}`, `{{message}}`, `{{user}}`, `{{char}}`, `{{prompt}}`.
    pub history: String,
    /// Default `user`.
    pub user_name: String,
    /// Default `model`.
    pub char_name: String,
}

impl Default for PageTemplates {
    fn default() -> PageTemplates {
        PageTemplates {
            prompt: "{{history}}\n<start_of_turn>{{char}}\n".into(),
            history: "<start_of_turn>{{name}}\n{{message}}<end_of_turn>".into(),
            user_name: "user".into(),
            char_name: "model".into(),
        }
    }
}

impl PageTemplates {
    /// Expands in a single pass; substituted text is content, the rest is template. Messages are trimmed, but for the end
    /// of a reply that is continued.
    ///
    /// The system messages' text goes where `{{prompt}}` is; where no template has that, it is put before the first user
    /// message with one blank line between. `{{…}}` with another name stays as it is. With `continue_last` the prompt ends
    /// with the last message.
    ///
    /// # Errors
    /// Unknown roles; `continue_last` where the last message is not the model's or the templates do not show it.
    pub fn render(&self, messages: &[Message], continue_last: bool) -> Result<Vec<Segment>, ChatError> {
        let mut system = String::new();
        let mut turns: Vec<(Role, String)> = Vec::with_capacity(messages.len());
        for message in messages {
            match message.parsed_role()? {
                Role::System => append_paragraph(&mut system, &message.content),
                role => turns.push((role, message.content.clone())),
            }
        }
        if !self.has("prompt") && !system.is_empty() {
            let first_user = turns.iter().position(|(role, _)| *role == Role::User);
            let at = first_user.unwrap_or_else(|| {
                turns.insert(0, (Role::User, String::new()));
                0
            });
            let message = std::mem::replace(&mut turns[at].1, system.clone());
            append_paragraph(&mut turns[at].1, &message);
        }
        if continue_last && !turns.last().is_some_and(|(role, _)| *role == Role::Model) {
            return Err(ChatError::NothingToContinue);
        }

        let mut out = Vec::new();
        for part in parse(&self.prompt) {
            let is_history = matches!(part, Part::Variable { name: "history", .. });
            match part {
                _ if is_history => self.push_history(&mut out, &turns, &system, continue_last)?,
                Part::Variable { name, source } => match self.setting(name, &system) {
                    Some(value) => push_content(&mut out, value),
                    None => push_template(&mut out, source),
                },
                Part::Text(text) => push_template(&mut out, text),
            }
            if is_history && continue_last {
                return Ok(out);
            }
        }
        match continue_last {
            true => Err(ChatError::NothingToContinue),
            false => Ok(out),
        }
    }

    /// Whether a template uses the variable.
    fn has(&self, wanted: &str) -> bool {
        parse(&self.prompt)
            .chain(parse(&self.history))
            .any(|part| matches!(part, Part::Variable { name, .. } if name == wanted))
    }

    fn push_history(
        &self,
        out: &mut Vec<Segment>,
        turns: &[(Role, String)],
        system: &str,
        continue_last: bool,
    ) -> Result<(), ChatError> {
        for (index, (role, message)) in turns.iter().enumerate() {
            if index > 0 {
                push_template(out, "\n");
            }
            let is_continued = continue_last && index + 1 == turns.len();
            let name_of_role = match role {
                Role::Model => &self.char_name,
                _ => &self.user_name,
            };
            let mut is_shown = false;
            for part in parse(&self.history) {
                match part {
                    Part::Variable { name: "message", .. } => {
                        push_content(out, shown(message, is_continued));
                        is_shown = true;
                        if is_continued {
                            break;
                        }
                    }
                    Part::Variable { name: "name", .. } => push_content(out, name_of_role),
                    Part::Variable { name, source } => match self.setting(name, system) {
                        Some(value) => push_content(out, value),
                        None => push_template(out, source),
                    },
                    Part::Text(text) => push_template(out, text),
                }
            }
            if is_continued && !is_shown {
                return Err(ChatError::NothingToContinue);
            }
        }
        Ok(())
    }

    /// What means the same in both templates.
    fn setting<'a>(&'a self, name: &str, system: &'a str) -> Option<&'a str> {
        match name {
            "user" => Some(&self.user_name),
            "char" => Some(&self.char_name),
            "prompt" => Some(system),
            _ => None,
        }
    }
}

/// A stretch of a page template.
enum Part<'a> {
    Text(&'a str),
    /// `{{ name }}`
    Variable {
        name: &'a str,
        source: &'a str,
    },
}

fn parse(template: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let open = rest.find("{{").unwrap_or(rest.len());
        let close = rest[open..].find("}}").map(|at| open + at + 2);
        let (part, n_bytes) = match close {
            // Without an end the braces are plain text.
            None => (Part::Text(rest), rest.len()),
            Some(_) if open > 0 => (Part::Text(&rest[..open]), open),
            Some(close) => {
                let source = &rest[..close];
                let name = source[2..source.len() - 2].trim();
                (Part::Variable { name, source }, close)
            }
        };
        rest = &rest[n_bytes..];
        Some(part)
    })
}
