//! `--chat`: a conversation in the terminal. Only replies go to stdout; everything else to stderr.
//!
//! `command.rs`, `tree.rs`, `transfer.rs`, `markdown.rs` and `sampling.rs` are logic without a terminal; `input.rs` and
//! `editor.rs` read, `turn.rs` lets the model answer, `actions.rs` does what commands say.

mod actions;
mod command;
mod copy;
mod editor;
mod input;
mod markdown;
mod sampling;
mod transfer;
mod tree;
mod turn;

use std::collections::HashSet;
use std::path::PathBuf;

use super::args::RunArgs;
use super::error::CliError;
use super::load::Opened;
use super::loading::Loading;
use super::locate::Place;
use super::one_shot::constraint;
use super::prompt_cache;
use super::settings::{self, Generation, Settings};
use super::terminal::Terminal;
use crate::chat::ChatTemplate;
use crate::engine::{Engine, Timings};
use crate::error::render;
use crate::grammar::Constraint;
pub use sampling::on_one_line;

use command::{Command, Line, parse};
use input::{Input, Typed};
use transfer::Chat;
use tree::Attachment;

/// Chats until `/exit` or the end of stdin.
///
/// # Errors
/// A model that cannot be started; stdout that cannot be written.
pub fn run(settings: &Settings, options: settings::Chat, opened: Opened, terminal: &Terminal) -> Result<(), CliError> {
    let tokenizer = opened.tokenizer()?;
    let template = match opened.template()? {
        Some(template) => template,
        None => {
            terminal.note("this model has no chat template; using Gemma's");
            ChatTemplate::new(None)?
        }
    };
    let model = Model {
        name: opened.source.name().to_owned(),
        is_demo: opened.place == Place::Demo,
        n_ctx_train: opened.source.config().n_ctx_train,
    };
    let constraint = constraint(&settings.generation, &tokenizer)?;
    let n_parallel = opened.check_memory(&settings.compute, terminal)?;
    let engine = opened.start(tokenizer, n_parallel, &settings.compute, Loading::for_long(terminal))?;
    if let Some(file) = &options.prompt_cache {
        prompt_cache::restore(&engine, file, terminal)?;
    }
    let input = Input::open(terminal, options.history, sampling::KEYS.to_vec())?;
    if input.is_interactive() {
        terminal.note("Type a message; /help shows what else is possible.");
    }
    let repl = Repl {
        terminal,
        input,
        engine,
        constraint,
        template,
        model,
        first_args: settings.args.clone(),
        args: settings.args.clone(),
        generation: settings.generation.clone(),
        has_markdown: options.markdown && terminal.stdout_is_terminal && terminal.has_color,
        show_stats: settings.show_stats,
        chat: Chat::default(),
        waiting: Vec::new(),
        quote: None,
        is_manual: false,
        last: None,
        saved: HashSet::new(),
        prompt_cache: options.prompt_cache,
    };
    repl.run()
}

/// What is said about the model.
struct Model {
    name: String,
    is_demo: bool,
    n_ctx_train: usize,
}

/// The last reply's numbers.
struct Last {
    timings: Timings,
    seed: Option<u64>,
}

struct Repl<'a> {
    terminal: &'a Terminal,
    input: Input,
    engine: Engine,
    /// What each reply has to look like.
    constraint: Option<Constraint>,
    template: ChatTemplate,
    model: Model,
    /// As the program was started.
    first_args: RunArgs,
    /// With what `/set` and `/load` changed.
    args: RunArgs,
    /// What `args` means.
    generation: Generation,
    has_markdown: bool,
    show_stats: bool,
    chat: Chat,
    /// Files that go with the next message.
    waiting: Vec<Attachment>,
    /// Goes before the next message.
    quote: Option<String>,
    /// The person writes the replies.
    is_manual: bool,
    last: Option<Last>,
    /// Files that this session has saved or loaded, and so may replace.
    saved: HashSet<PathBuf>,
    /// Where what the model remembers goes at the end.
    prompt_cache: Option<PathBuf>,
}

/// Whether the chat goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Goes,
    Ends,
}

impl Repl<'_> {
    fn run(mut self) -> Result<(), CliError> {
        let done = self.talk();
        // Where the model has answered, it remembers more than before.
        if let (Some(file), true) = (&self.prompt_cache, self.last.is_some()) {
            prompt_cache::keep(&self.engine, file, self.terminal);
        }
        done
    }

    fn talk(&mut self) -> Result<(), CliError> {
        loop {
            let typed = match self.input.read(">>> ", "")? {
                Typed::Text(typed) => typed,
                Typed::Interrupt { had_text } => {
                    if !had_text {
                        self.terminal.tell("Ctrl-D or /exit leaves");
                    }
                    continue;
                }
                Typed::End => return Ok(()),
            };
            let done = match parse(&typed) {
                Line::Empty => Ok(Next::Goes),
                Line::Wrong(what) => {
                    self.terminal.tell(what);
                    Ok(Next::Goes)
                }
                Line::Message(text) => self.message(text).map(|()| Next::Goes),
                Line::Command(command) => self.command(command),
            };
            match done {
                Ok(Next::Goes) => {}
                Ok(Next::Ends) => return Ok(()),
                // Nobody reads any more, or nobody wants to go on.
                Err(error @ (CliError::Output(_) | CliError::Interrupted)) => return Err(error),
                Err(error) => self.terminal.explain(&render(&error)),
            }
        }
    }

    fn command(&mut self, command: Command) -> Result<Next, CliError> {
        match command {
            Command::Exit => return Ok(Next::Ends),
            Command::Help(about) => self.terminal.explain(&command::help(about.as_deref())),
            Command::Clear => self.clear(),
            Command::Regenerate => self.regenerate()?,
            Command::Edit(text) => self.edit(text)?,
            Command::Undo => self.undo(),
            Command::Continue => self.go_on()?,
            Command::System(text) => self.system(text),
            Command::Context => self.context()?,
            Command::Forget => self.forget()?,
            Command::Set(None) => self.terminal.tell(sampling::list(&self.generation)),
            Command::Set(Some((key, value))) => self.set(&key, &value)?,
            Command::Stats => self.stats(),
            Command::Tokens(text) => self.tokens(text),
            Command::Prompt => self.prompt()?,
            Command::File(path) => self.attach(&path)?,
            Command::Save(path) => self.save(&path)?,
            Command::Load(path) => self.load(&path)?,
            Command::Copy => self.copy(),
            Command::Manual(is_on) => self.manual(is_on),
        }
        Ok(Next::Goes)
    }
}
