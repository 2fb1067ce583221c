//! What commands do, apart from letting the model write.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::error::CliError;
use super::super::prompt::read_text;
use super::super::settings::generation;
use super::Repl;
use super::copy;
use super::input::Typed;
use super::sampling;
use super::transfer::{self, Chat, LARGEST_FILE};
use super::tree::{Attachment, Role, now_ms};
use crate::bundle::NewFile;
use crate::chat;
use crate::error::{bytes_for_people, name_for_people, without_controls};
use crate::tokenizer::Special;

/// Bytes of a file that goes with a message, as in the page.
const LARGEST_ATTACHMENT: u64 = 1 << 20;

impl Repl<'_> {
    pub(super) fn clear(&mut self) {
        self.chat = Chat { settings: std::mem::take(&mut self.chat.settings), ..Chat::default() };
        self.waiting.clear();
        self.quote = None;
        self.last = None;
        self.terminal.note("a new chat");
    }

    pub(super) fn edit(&mut self, text: Option<String>) -> Result<(), CliError> {
        let Some(last) = self.chat.tree.last(Role::User) else {
            self.terminal.tell("there is no message yet");
            return Ok(());
        };
        let (id, old, files) = (last.id.clone(), last.content.clone(), last.files.clone());
        let text = match text {
            Some(text) => text,
            None if !self.input.can_edit() => {
                self.terminal.tell("write /edit TEXT: there is no line editor here");
                return Ok(());
            }
            None => match self.input.read(">>> ", &old)? {
                Typed::Text(text) if !text.trim().is_empty() => text.trim().to_owned(),
                _ => {
                    self.terminal.tell("nothing was changed");
                    return Ok(());
                }
            },
        };
        self.message_beside(&id, text, files)
    }

    pub(super) fn undo(&mut self) {
        let taken = self.chat.tree.undo();
        self.terminal.tell(match taken {
            Some((text, _)) => format!("taken back: {}", first_words(&text)),
            None => "there is nothing to take back".into(),
        });
    }

    pub(super) fn system(&mut self, text: Option<String>) {
        let Some(text) = text else {
            let shown = self.generation.system_prompt.as_deref().unwrap_or("there are no instructions (/system TEXT)");
            self.terminal.tell(without_controls(shown));
            return;
        };
        let text = Some(text).filter(|text| !text.is_empty());
        self.terminal.note(if text.is_some() { "from the next reply on" } else { "no instructions any more" });
        self.args.system_prompt.clone_from(&text);
        self.generation.system_prompt = text;
    }

    pub(super) fn context(&self) -> Result<(), CliError> {
        let (n_used, n_ctx, all) = (self.n_used()?, self.engine.options().n_ctx, self.model.n_ctx_train);
        let bar = self.terminal.bar(n_used as u64, n_ctx as u64);
        self.terminal.tell(format!("context  {bar}   {n_used} of {n_ctx} tokens"));
        let path = self.chat.tree.path();
        let is_sent = self.chat.tree.sent(self.generation.system_prompt.is_some()).len();
        if is_sent < path.len() {
            self.terminal.tell(format!(
                "messages {}, of which the oldest {} are left out",
                path.len(),
                path.len() - is_sent
            ));
        }
        if n_ctx < all {
            self.terminal.tell(format!("start with `-c 0` to use all {all} tokens"));
        }
        Ok(())
    }

    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<(), CliError> {
        (self.args, self.generation) = sampling::set(&self.args, key, value)?;
        self.terminal.note(format!("{key} is {value} from the next reply on"));
        Ok(())
    }

    pub(super) fn tokens(&self, text: Option<String>) {
        let text = match text {
            Some(text) => text,
            None => self.chat.tree.path().last().map(|last| last.sent_content()).unwrap_or_default(),
        };
        let tokenizer = self.engine.tokenizer();
        let ids = tokenizer.encode(&text, Special::Literal);
        let mut out = String::new();
        for &id in &ids {
            let _ = writeln!(out, "{id:>6}  {:?}", String::from_utf8_lossy(tokenizer.piece(id)));
        }
        let _ = write!(out, "{} tokens", ids.len());
        self.terminal.tell(out);
    }

    pub(super) fn prompt(&self) -> Result<(), CliError> {
        if self.chat.tree.path().is_empty() {
            self.terminal.tell("there is no message yet");
            return Ok(());
        }
        let segments = self.last_prompt()?;
        let n_tokens = chat::encode(self.engine.tokenizer(), &segments).len();
        self.terminal.tell(format!("{}\n({n_tokens} tokens)", without_controls(&chat::text(&segments))));
        Ok(())
    }

    pub(super) fn attach(&mut self, path: &str) -> Result<(), CliError> {
        let path = expand(path);
        check_size(&path, LARGEST_ATTACHMENT)?;
        let text = read_text(&path)?;
        if let Some(position) = text.find('\0') {
            return Err(CliError::NotUtf8 { path, position });
        }
        let n_tokens = self.engine.tokenizer().encode(&text, Special::Literal).len();
        let n_free = self.engine.options().n_ctx.saturating_sub(self.n_used()?);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shown = name_for_people(name.as_bytes());
        self.waiting.push(Attachment { name, text });
        self.terminal.tell(match n_tokens < n_free {
            true => format!("{shown}: {n_tokens} tokens, goes with your next message"),
            false => format!("{shown}: {n_tokens} tokens, and only {n_free} are free (/context); /clear drops it"),
        });
        Ok(())
    }

    pub(super) fn save(&mut self, path: &str) -> Result<(), CliError> {
        let path = expand(path);
        if self.chat.tree.messages().is_empty() {
            self.terminal.tell("there is nothing to save yet");
            return Ok(());
        }
        let is_markdown = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("md"));
        if path.exists() && !self.saved.contains(&path) && (is_markdown || load_chat(&path).is_err()) {
            return Err(CliError::Usage {
                what: format!("`{}` is there already and is no chat of this session", path.display()),
                hint: "save under another name".into(),
            });
        }
        let mut settings = sampling::to_page(&self.generation);
        for name in ["promptTemplate", "historyTemplate", "userName", "charName", "probabilities"] {
            if let Some(value) = self.chat.settings.remove(name) {
                settings.insert(name.into(), value);
            }
        }
        self.chat.settings = settings;
        let text = match is_markdown {
            true => transfer::markdown(&self.chat, &date(now_ms())),
            false => transfer::write(&mut self.chat),
        };
        let written = NewFile::create(&path, false).and_then(|file| {
            file.file().write_all(text.as_bytes())?;
            file.rename_to(&path)
        });
        if let Err(error) = written {
            return Err(CliError::System(format!("`{}` cannot be written: {error}", path.display())));
        }
        self.terminal.tell(format!("saved in `{}` ({})", path.display(), bytes_for_people(text.len() as u64)));
        self.saved.insert(path);
        Ok(())
    }

    pub(super) fn load(&mut self, path: &str) -> Result<(), CliError> {
        let path = expand(path);
        let (chat, n_others) = load_chat(&path)?;
        let (args, refused) = sampling::from_page(&self.first_args, &chat.settings);
        self.generation = generation(&args)?;
        self.args = args;
        self.chat = chat;
        (self.waiting, self.quote, self.last) = (Vec::new(), None, None);
        let title = self.chat.other.get("title").and_then(Value::as_str).unwrap_or_default();
        let n_messages = self.chat.tree.path().len();
        self.terminal.tell(format!("{n_messages} messages: {}", name_for_people(title.as_bytes())));
        if n_others > 0 {
            self.terminal.tell(format!("it is the newest of {} chats in this file", n_others + 1));
        }
        for setting in refused {
            self.terminal.tell(format!("left out, as it makes no sense here: {setting}"));
        }
        let path_of_chat = self.chat.tree.path();
        if let Some(last) = path_of_chat.last() {
            self.terminal.tell(format!("last: {}", first_words(&last.content)));
            if last.role == Role::User {
                // The page keeps such a message for another try; here it is given back.
                self.terminal.tell("it has no reply: /edit asks it again");
            }
        }
        if n_others == 0 {
            self.saved.insert(path);
        }
        Ok(())
    }

    pub(super) fn copy(&self) {
        let Some(last) = self.chat.tree.last(Role::Model) else {
            self.terminal.tell("there is no reply yet");
            return;
        };
        let programs = copy::programs(|name| std::env::var_os(name));
        if let Some((name, _)) = programs.iter().find(|(name, args)| copy::by_program(name, args, &last.content)) {
            self.terminal.tell(format!("copied ({name})"));
        } else if self.terminal.stderr_is_terminal && self.terminal.is_smart {
            let mut stderr = std::io::stderr().lock();
            let _ = stderr.write_all(copy::escape_sequence(&last.content).as_bytes());
            self.terminal.tell("handed to the terminal's clipboard; not every terminal takes it");
        } else {
            self.terminal.tell("there is no clipboard here; /save FILE.md writes the chat into a file");
        }
    }

    pub(super) fn manual(&mut self, is_on: bool) {
        self.is_manual = is_on;
        self.terminal.note(match is_on {
            true => "you write the replies, at <<<; an empty line lets the model write one",
            false => "the model writes the replies",
        });
    }
}

/// A chat out of a file.
fn load_chat(path: &Path) -> Result<(Chat, usize), CliError> {
    check_size(path, LARGEST_FILE)?;
    let text = read_text(path)?;
    transfer::read(&text).map_err(|error| CliError::Usage {
        what: format!("`{}` cannot be loaded: {error}", path.display()),
        hint: "take a file that /save or the chat page's export wrote".into(),
    })
}

/// Refuses what is too large, and what never ends, such as a device.
fn check_size(path: &Path, most: u64) -> Result<(), CliError> {
    let facts = std::fs::metadata(path).map_err(|source| CliError::Read { path: path.to_owned(), source })?;
    let wrong = |what: String| CliError::Usage { what, hint: "name a text file".into() };
    match facts.len() {
        _ if !facts.is_file() => Err(wrong(format!("`{}` is no file", path.display()))),
        n if n > most => Err(wrong(format!(
            "`{}` has {}, and at most {} are read",
            path.display(),
            bytes_for_people(n),
            bytes_for_people(most)
        ))),
        _ => Ok(()),
    }
}

/// `~/` is the home folder, as in a shell.
fn expand(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// The beginning of a text, on one line.
fn first_words(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(60).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    without_controls(&short)
}

/// The day as `2026-01-31`, of milliseconds since the epoch (UTC). The Gregorian calendar repeats after 146,097 days.
fn date(ms: u64) -> String {
    let mut days = ms / 86_400_000;
    let mut year = 1970 + 400 * (days / 146_097);
    days %= 146_097;
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = |year: u64| if is_leap(year) { 366 } else { 365 };
    while days >= length(year) {
        days -= length(year);
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for n_days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < n_days {
            break;
        }
        days -= n_days;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let day = |days: u64| date(days * 86_400_000 + 5);
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(59), "1970-03-01");
        assert_eq!(day(11_016), "2000-02-29");
        assert_eq!(day(20_783), "2026-11-26");
        assert_eq!(day(20_818), "2026-12-31");
    }

    #[test]
    fn a_text_is_shown_by_its_first_words() {
        assert_eq!(first_words(" a\n b "), "a b");
        assert_eq!(first_words(&"ä ".repeat(100)).chars().count(), 61);
    }
}
