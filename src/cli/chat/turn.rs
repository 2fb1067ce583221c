//! The model's turn: the prompt, room for it, and the reply as it streams in.

use serde_json::{Map, Value, json};

use super::super::error::CliError;
use super::super::one_shot::{cut_warning, request};
use super::super::reply::{self, Reply, Sink, answer};
use super::super::terminal::print;
use super::input::Typed;
use super::markdown::Markdown;
use super::sampling;
use super::tree::{Attachment, Message, Role, Tree};
use super::{Last, Repl};
use crate::chat::{self, ChatTemplate, PageTemplates, Segment};
use crate::engine::{StopReason, Token};
use crate::error::without_controls;
use crate::tokenizer::{TokenId, Tokenizer};

/// What the reply becomes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The next message.
    New,
    /// An alternative to the last one.
    Beside,
    /// The rest of the last one.
    GoesOn,
}

/// What a person decides when the context is full.
enum Choice {
    LeaveOut,
    NewChat,
    Nothing,
}

impl Repl<'_> {
    /// A message and its reply. Where there is none the message is taken back.
    pub(super) fn message(&mut self, text: String) -> Result<(), CliError> {
        let text = match self.quote.take() {
            Some(quote) => format!("{quote}\n\n{text}"),
            None => text,
        };
        let files = std::mem::take(&mut self.waiting);
        // A chat of the page may end with a message that has no reply; two in a row no template allows.
        let unanswered =
            self.chat.tree.path().last().filter(|last| last.role == Role::User).map(|last| last.id.clone());
        match unanswered {
            Some(id) => self.chat.tree.push_beside(&id, Role::User, text, files, Map::new()),
            None => self.chat.tree.push(Role::User, text, files, Map::new()),
        }
        self.reply_or_take_back()
    }

    /// A changed last message beside the old one, and its reply.
    pub(super) fn message_beside(&mut self, id: &str, text: String, files: Vec<Attachment>) -> Result<(), CliError> {
        let edited = Map::from_iter([("edited".to_owned(), Value::Bool(true))]);
        self.chat.tree.push_beside(id, Role::User, text, files, edited);
        self.reply_or_take_back()
    }

    fn reply_or_take_back(&mut self) -> Result<(), CliError> {
        let done = match self.is_manual {
            true => self.write_reply(),
            false => self.reply(Turn::New),
        };
        let unanswered = self.chat.tree.path().last().filter(|last| last.role == Role::User).copied().cloned();
        if let Some(message) = unanswered {
            self.chat.tree.remove(&message.id);
            self.waiting = message.files;
            if done.is_ok() {
                self.terminal.note("your message is taken back (Up finds it again)");
            }
        }
        done
    }

    /// Another reply to the last message.
    pub(super) fn regenerate(&mut self) -> Result<(), CliError> {
        if self.chat.tree.last(Role::Model).is_none() {
            self.terminal.tell("there is no reply yet");
            return Ok(());
        }
        if self.generation.sampling.temperature == 0.0 {
            self.terminal.note("temperature is 0: every reply to a message is the same (/set temp 1)");
        }
        self.reply(Turn::Beside)
    }

    /// The rest of the last reply.
    pub(super) fn go_on(&mut self) -> Result<(), CliError> {
        if self.chat.tree.path().last().is_none_or(|message| message.role != Role::Model) {
            self.terminal.tell("there is no reply to go on with");
            return Ok(());
        }
        self.reply(Turn::GoesOn)
    }

    /// Manual mode: the person writes the reply, or leaves it to the model with an empty line.
    fn write_reply(&mut self) -> Result<(), CliError> {
        match self.input.read("<<< ", "")? {
            Typed::Text(text) if text.trim().is_empty() => self.reply(Turn::New),
            Typed::Text(text) => {
                let other = json!({ "status": "complete", "edited": true });
                let other = other.as_object().cloned().unwrap_or_default();
                self.chat.tree.push(Role::Model, text.trim().to_owned(), Vec::new(), other);
                Ok(())
            }
            Typed::Interrupt { .. } | Typed::End => Ok(()),
        }
    }

    fn reply(&mut self, turn: Turn) -> Result<(), CliError> {
        let Some(tokens) = self.prompt_with_room(turn)? else {
            return Ok(());
        };
        if self.terminal.is_very_verbose {
            let piece = |id: &TokenId| String::from_utf8_lossy(self.engine.tokenizer().piece(*id)).into_owned();
            let exact: String = tokens.iter().map(piece).collect();
            self.terminal.tell(format!("prompt   {} tokens:\n{}", tokens.len(), without_controls(&exact)));
        }
        let mut request = request(tokens, &self.generation);
        request.constraint.clone_from(&self.constraint);
        if let (Turn::Beside, Some(seed), Some(last)) = (turn, request.sampling.seed, self.chat.tree.last(Role::Model))
        {
            request.sampling.seed = Some(seed.wrapping_add(self.chat.tree.n_alternatives(&last.id) as u64));
        }
        let mut screen = Screen {
            markdown: self.has_markdown.then(Markdown::default),
            is_terminal: self.terminal.stdout_is_terminal,
        };
        let reply = answer(&self.engine, request, &mut screen, self.terminal);
        screen.finish()?;
        let reply = reply?;
        if !reply.text.is_empty() || !reply.is_interrupted {
            print("\n")?;
        }
        if let Some(warning) = cut_warning(&reply, &self.generation) {
            self.terminal.note(format!("warning: {warning}"));
        }
        let is_cut = !reply.is_interrupted && reply.reason == StopReason::ContextFull;
        self.keep(turn, &reply);
        if reply.is_interrupted {
            if !self.input.is_interactive() {
                return Err(CliError::Interrupted);
            }
            self.terminal.note("stopped; /continue goes on");
        }
        if self.show_stats || self.terminal.is_very_verbose {
            self.stats();
        }
        if is_cut { self.after_cut() } else { Ok(()) }
    }

    /// Puts the reply into the chat. One that was stopped before its first word is none.
    fn keep(&mut self, turn: Turn, reply: &Reply) {
        let seed = (!reply.is_interrupted).then_some(reply.seed);
        self.last = Some(Last { timings: reply.timings, seed });
        if reply.is_interrupted && reply.text.is_empty() {
            return;
        }
        let status = match (&reply.reason, reply.is_interrupted) {
            (_, true) => "stopped",
            (StopReason::TokenLimit | StopReason::ContextFull, _) => "cut",
            _ => "complete",
        };
        let timings = &reply.timings;
        let n_read = timings.computed_tokens();
        let rate = |n: usize, time: std::time::Duration| (!time.is_zero()).then(|| n as f64 / time.as_secs_f64());
        let mut other = json!({
            "status": status,
            "model": self.model.name,
            "params": sampling::params(&self.generation, seed),
            "promptTokens": timings.prompt_tokens,
            "replyTokens": timings.decoded_tokens,
            "timings": {
                "prompt_n": n_read,
                "cache_n": timings.cached_tokens,
                "predicted_n": timings.decoded_tokens,
            },
        });
        if let Some(per_second) = rate(n_read, timings.prefill) {
            other["timings"]["prompt_per_second"] = json!(per_second);
        }
        if let Some(per_second) = rate(timings.decode_steps(), timings.decode) {
            other["timings"]["predicted_per_second"] = json!(per_second);
        }
        if self.model.is_demo {
            other["demo"] = json!(true);
        }
        if status == "cut" {
            other["cutBy"] =
                json!(if reply.reason == StopReason::ContextFull { "context_full" } else { "token_limit" });
        }
        let other = other.as_object().cloned().unwrap_or_default();
        let last = self.chat.tree.last(Role::Model).map(|message| message.id.clone());
        match (turn, last) {
            (Turn::Beside, Some(last)) => {
                self.chat.tree.push_beside(&last, Role::Model, reply.text.clone(), Vec::new(), other);
            }
            (Turn::GoesOn, Some(last)) => {
                if let Some(message) = self.chat.tree.get_mut(&last) {
                    message.content.push_str(&reply.text);
                    message.other.remove("cutBy");
                    // They would belong to a part of the text only.
                    message.other.remove("probs");
                    message.other.extend(other);
                }
            }
            _ => self.chat.tree.push(Role::Model, reply.text.clone(), Vec::new(), other),
        }
    }

    /// Says that the context has cut the reply, and lets a person decide.
    fn after_cut(&mut self) -> Result<(), CliError> {
        if !self.input.is_interactive() {
            self.terminal.note("the context is full and cut the reply; `-c 0` gives the model's whole context");
            return Ok(());
        }
        self.terminal.tell("the context is full and cut the reply");
        match self.ask("keep the reply as it is")? {
            Choice::LeaveOut if self.leave_out(Turn::GoesOn)? => self.reply(Turn::GoesOn),
            Choice::LeaveOut => {
                self.terminal.tell("there is nothing older to leave out");
                Ok(())
            }
            Choice::NewChat => {
                self.begin_with_last_answer();
                self.terminal.tell("a new chat: your next message begins with the last answer");
                Ok(())
            }
            Choice::Nothing => Ok(()),
        }
    }

    /// The prompt, with room for a reply. `None` where a person decides not to go on.
    fn prompt_with_room(&mut self, turn: Turn) -> Result<Option<Vec<TokenId>>, CliError> {
        let n_ctx = self.engine.options().n_ctx;
        loop {
            let tokens = self.renderer().tokens(&self.sent(turn), turn == Turn::GoesOn)?;
            // An eighth of the context stays for the reply.
            if tokens.len() + n_ctx / 8 < n_ctx {
                return Ok(Some(tokens));
            }
            let n_prompt = tokens.len();
            let too_long = CliError::PromptTooLong { n_prompt, n_ctx, n_ctx_train: self.model.n_ctx_train };
            let path = self.sent(turn);
            let is_alone = path.iter().filter(|message| message.role == Role::User).count() < 2;
            if is_alone {
                return if n_prompt < n_ctx { Ok(Some(tokens)) } else { Err(too_long) };
            }
            let choice = match self.input.is_interactive() {
                false => Choice::LeaveOut,
                true => {
                    self.terminal.tell(format!("the context is full: {n_prompt} of {n_ctx} tokens"));
                    self.ask("take the message back")?
                }
            };
            match choice {
                Choice::LeaveOut if self.leave_out(turn)? => {}
                Choice::LeaveOut if n_prompt < n_ctx => return Ok(Some(tokens)),
                Choice::LeaveOut => return Err(too_long),
                Choice::NewChat if turn == Turn::New => {
                    let message = self.chat.tree.path().last().map(|last| (last.content.clone(), last.files.clone()));
                    let (text, files) = message.unwrap_or_default();
                    self.begin_with_last_answer();
                    let text = self.quote.take().map_or(text.clone(), |quote| format!("{quote}\n\n{text}"));
                    self.chat.tree.push(Role::User, text, files, Map::new());
                }
                Choice::NewChat => {
                    self.begin_with_last_answer();
                    self.terminal.tell("a new chat: your next message begins with the last answer");
                    return Ok(None);
                }
                Choice::Nothing => return Ok(None),
            }
        }
    }

    /// The three ways out of a full context.
    fn ask(&mut self, nothing: &str) -> Result<Choice, CliError> {
        self.terminal.tell("  1  leave out the oldest turns: the model does not get them any more");
        self.terminal.tell("  2  a new chat that begins with the last answer (this one is gone unless saved: /save)");
        let n_ctx = self.engine.options().n_ctx;
        self.terminal.tell(match self.model.n_ctx_train {
            all if all > n_ctx => format!(
                "  3  {nothing}; with /save FILE, `gemma2 --chat -c 0` and /load FILE it goes on with all {all} tokens"
            ),
            all => format!("  3  {nothing} (these {all} tokens are the model's largest context)"),
        });
        loop {
            match self.input.ask("1, 2 or 3: ")? {
                Typed::Text(text) => match text.trim() {
                    "1" => return Ok(Choice::LeaveOut),
                    "2" => return Ok(Choice::NewChat),
                    "3" => return Ok(Choice::Nothing),
                    _ => {}
                },
                Typed::Interrupt { .. } | Typed::End => return Ok(Choice::Nothing),
            }
        }
    }

    /// Leaves out the fewest oldest turns that make a quarter of the context free, and says how many. False where there
    /// are none that would do.
    fn leave_out(&mut self, turn: Turn) -> Result<bool, CliError> {
        let n_ctx = self.engine.options().n_ctx;
        let renderer = Renderer {
            template: &self.template,
            page_templates: page_templates(&self.chat.settings),
            tokenizer: self.engine.tokenizer(),
            system_prompt: self.generation.system_prompt.as_deref(),
        };
        let has_system = renderer.system_prompt.is_some();
        let n_before = self.chat.tree.sent(has_system).len();
        let mut failure = None;
        let found = self.chat.tree.leave_out_oldest(has_system, |sent| {
            let sent = without_old_reply(sent, turn);
            match renderer.tokens(sent, turn == Turn::GoesOn) {
                Ok(tokens) => tokens.len() <= n_ctx - n_ctx / 4,
                Err(error) => {
                    failure.get_or_insert(error);
                    false
                }
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        let n_left_out = n_before.saturating_sub(self.chat.tree.sent(has_system).len()).div_ceil(2);
        if found {
            let what = if n_left_out == 1 { "turn is" } else { "turns are" };
            self.terminal.note(format!("the context is full: the oldest {n_left_out} {what} left out"));
        }
        Ok(found)
    }

    /// `/forget`
    pub(super) fn forget(&mut self) -> Result<(), CliError> {
        let turn = match self.chat.tree.path().last().map(|message| message.role) {
            Some(Role::Model) => Turn::GoesOn,
            _ => Turn::New,
        };
        if !self.leave_out(turn)? {
            self.terminal.tell("there is nothing older that could be left out");
        }
        Ok(())
    }

    /// A new chat; the next message begins with the last answer, as a quotation.
    fn begin_with_last_answer(&mut self) {
        let answer = self.chat.tree.path().into_iter().rfind(|m| m.role == Role::Model && !m.content.is_empty());
        let quote = answer.map(|answer| {
            let lines: Vec<String> = answer.content.trim().lines().map(|line| format!("> {line}")).collect();
            lines.iter().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
        });
        self.chat.tree = Tree::default();
        self.chat.other = Map::new();
        self.quote = quote;
    }

    /// What the model gets of the visible branch.
    fn sent(&self, turn: Turn) -> Vec<&Message> {
        let sent = self.chat.tree.sent(self.generation.system_prompt.is_some());
        without_old_reply(&sent, turn).to_vec()
    }

    /// What the model got for the last reply, or gets for the message that waits.
    pub(super) fn last_prompt(&self) -> Result<Vec<Segment>, CliError> {
        self.renderer().segments(&self.sent(Turn::Beside), false)
    }

    /// Tokens of all that the model has seen by now, the last reply included.
    pub(super) fn n_used(&self) -> Result<usize, CliError> {
        let sent = self.sent(Turn::GoesOn);
        match sent.last().map(|message| message.role) {
            None => Ok(0),
            Some(role) => Ok(self.renderer().tokens(&sent, role == Role::Model)?.len()),
        }
    }

    fn renderer(&self) -> Renderer<'_> {
        Renderer {
            template: &self.template,
            page_templates: page_templates(&self.chat.settings),
            tokenizer: self.engine.tokenizer(),
            system_prompt: self.generation.system_prompt.as_deref(),
        }
    }

    /// Speed and counts of the last reply.
    pub(super) fn stats(&self) {
        let Some(last) = &self.last else {
            self.terminal.tell("there is no reply yet");
            return;
        };
        let seed = last.seed.map_or_else(|| "stopped".into(), |seed| format!("seed {seed}"));
        self.terminal.tell(format!("{} · {seed}", reply::stats(&last.timings)));
    }
}

/// Messages to tokens.
struct Renderer<'a> {
    template: &'a ChatTemplate,
    /// A chat of the page may have templates of its own.
    page_templates: Option<PageTemplates>,
    tokenizer: &'a Tokenizer,
    system_prompt: Option<&'a str>,
}

impl Renderer<'_> {
    fn segments(&self, sent: &[&Message], continue_last: bool) -> Result<Vec<Segment>, CliError> {
        let message = |role: &str, content: String| chat::Message { role: role.into(), content };
        let system = self.system_prompt.map(|content| message("system", content.to_owned()));
        let turns = sent.iter().map(|turn| match turn.role {
            Role::User => message("user", turn.sent_content()),
            Role::Model => message("model", turn.content.clone()),
        });
        let messages: Vec<chat::Message> = system.into_iter().chain(turns).collect();
        Ok(match &self.page_templates {
            Some(templates) => templates.render(&messages, continue_last)?,
            None => self.template.render(&messages, continue_last)?,
        })
    }

    fn tokens(&self, sent: &[&Message], continue_last: bool) -> Result<Vec<TokenId>, CliError> {
        Ok(chat::encode(self.tokenizer, &self.segments(sent, continue_last)?))
    }
}

fn without_old_reply<'a, 'b>(sent: &'a [&'b Message], turn: Turn) -> &'a [&'b Message] {
    match sent {
        [before @ .., last] if turn == Turn::Beside && last.role == Role::Model => before,
        all => all,
    }
}

/// The templates of a chat that has changed them.
fn page_templates(settings: &Map<String, Value>) -> Option<PageTemplates> {
    let text = |name: &str| settings.get(name).and_then(Value::as_str).map(str::to_owned);
    let names = ["promptTemplate", "historyTemplate", "userName", "charName"];
    if names.iter().all(|name| text(name).is_none()) {
        return None;
    }
    let default = PageTemplates::default();
    Some(PageTemplates {
        prompt: text(names[0]).unwrap_or(default.prompt),
        history: text(names[1]).unwrap_or(default.history),
        user_name: text(names[2]).unwrap_or(default.user_name),
        char_name: text(names[3]).unwrap_or(default.char_name),
    })
}

/// stdout as a person sees it, or as a program reads it.
struct Screen {
    markdown: Option<Markdown>,
    is_terminal: bool,
}

impl Screen {
    fn finish(&mut self) -> Result<(), CliError> {
        match &mut self.markdown {
            Some(markdown) => print(&markdown.finish()),
            None => Ok(()),
        }
    }
}

impl Sink for Screen {
    fn write(&mut self, text: &str, _: Option<&Token>) -> Result<(), CliError> {
        if text.is_empty() {
            return Ok(());
        }
        let safe = if self.is_terminal { without_controls(text) } else { text.to_owned() };
        match &mut self.markdown {
            Some(markdown) => print(&markdown.push(&safe)),
            None => print(&safe),
        }
    }
}
