//! `--chat`: a conversation in the terminal, line by line. Only replies go to stdout.

use std::io::BufRead;

use super::error::CliError;
use super::load::Opened;
use super::one_shot::{answer, constraint, request, stats};
use super::settings::Settings;
use super::signals;
use super::terminal::{Terminal, print};
use crate::chat::{self, ChatTemplate, Message};
use crate::engine::Engine;
use crate::error::render;
use crate::grammar::Constraint;
use crate::tokenizer::TokenId;

const HELP: &str = "\
/clear   forget the conversation
/help    this list
/exit    leave (also Ctrl-D)
Ctrl-C stops a reply. Every other line is a message.";

/// Chats until `/exit` or the end of stdin.
///
/// # Errors
/// A model that cannot be started; stdout that cannot be written.
pub fn run(settings: &Settings, opened: Opened, terminal: &Terminal) -> Result<(), CliError> {
    let tokenizer = opened.tokenizer()?;
    let template = match opened.template()? {
        Some(template) => template,
        None => {
            terminal.note("this model has no chat template; using Gemma's");
            ChatTemplate::new(None)?
        }
    };
    let constraint = constraint(&settings.generation, &tokenizer)?;
    let n_ctx_train = opened.source.config().n_ctx_train;
    let n_parallel = opened.check_memory(&settings.compute, terminal)?;
    let engine = opened.start(tokenizer, n_parallel, &settings.compute, terminal)?;
    if terminal.stdin_is_terminal {
        terminal.note("Type a message; /help shows what else is possible.");
    }
    Repl { settings, template, engine, constraint, n_ctx_train, terminal, messages: Vec::new() }.run()
}

struct Repl<'a> {
    settings: &'a Settings,
    template: ChatTemplate,
    engine: Engine,
    /// What each reply has to look like.
    constraint: Option<Constraint>,
    /// The model's largest context.
    n_ctx_train: usize,
    terminal: &'a Terminal,
    /// Without the system prompt.
    messages: Vec<Message>,
}

impl Repl<'_> {
    fn run(mut self) -> Result<(), CliError> {
        let (lines, runtime) = (read_lines()?, signals::small_runtime()?);
        loop {
            if self.terminal.stdin_is_terminal {
                super::terminal::prompt(">>> ");
            }
            let line = runtime.block_on(async {
                loop {
                    tokio::select! {
                        line = lines.recv() => break line,
                        () = signals::interrupt() => {
                            if !self.terminal.stdin_is_terminal {
                                break Ok(Err(CliError::Interrupted));
                            }
                            super::terminal::error_line("\nCtrl-D or /exit leaves");
                            super::terminal::prompt(">>> ");
                        }
                    }
                }
            });
            let Ok(line) = line else {
                // Ctrl-D leaves the cursor behind the prompt.
                if self.terminal.stdin_is_terminal {
                    super::terminal::error_line("");
                }
                return Ok(());
            };
            let line = line?;
            match line.trim() {
                "" => {}
                "/exit" | "/quit" | "/bye" => return Ok(()),
                "/help" => super::terminal::error_line(HELP),
                "/clear" => self.messages.clear(),
                command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                    super::terminal::error_line(&format!("`{command}` is no command; /help lists them"));
                }
                text => self.turn(text)?,
            }
        }
    }

    /// One message and its reply. A failure is told and the message forgotten; only a broken stdout ends the chat.
    fn turn(&mut self, text: &str) -> Result<(), CliError> {
        self.messages.push(Message { role: "user".into(), content: text.into() });
        let reply = self.fitting_prompt().and_then(|tokens| {
            let mut request = request(tokens, &self.settings.generation);
            request.constraint.clone_from(&self.constraint);
            answer(&self.engine, request, self.terminal)
        });
        match reply {
            Ok(reply) => {
                print("\n")?;
                if self.settings.show_stats && !reply.is_interrupted {
                    self.terminal.note(stats(&reply.timings));
                }
                if reply.reason == crate::engine::StopReason::ContextFull {
                    self.terminal.note("the context is full and cut the reply; `-c 0` gives the model's whole context");
                }
                self.messages.push(Message { role: "model".into(), content: reply.text });
                if reply.is_interrupted && !self.terminal.stdin_is_terminal {
                    return Err(CliError::Interrupted);
                }
                Ok(())
            }
            Err(error @ CliError::Output(_)) => Err(error),
            Err(error) => {
                self.messages.pop();
                super::terminal::error_line(&render(&error));
                Ok(())
            }
        }
    }

    /// The tokens of the conversation. Where it has outgrown the context, the oldest turns are left out, and that is
    /// said; the system prompt and the last message stay.
    fn fitting_prompt(&mut self) -> Result<Vec<TokenId>, CliError> {
        let n_ctx = self.engine.options().n_ctx;
        let mut n_dropped = 0;
        loop {
            let tokens = self.tokens()?;
            // An eighth of the context stays for the reply.
            if tokens.len() + n_ctx / 8 < n_ctx {
                if n_dropped > 0 {
                    let what = if n_dropped == 1 { "turn was" } else { "turns were" };
                    self.terminal.note(format!("the context is full: the oldest {n_dropped} {what} left out"));
                }
                return Ok(tokens);
            }
            if self.messages.len() < 3 {
                let n_prompt = tokens.len();
                if n_prompt < n_ctx {
                    return Ok(tokens);
                }
                return Err(CliError::PromptTooLong { n_prompt, n_ctx, n_ctx_train: self.n_ctx_train });
            }
            self.messages.drain(..2);
            n_dropped += 1;
        }
    }

    fn tokens(&self) -> Result<Vec<TokenId>, CliError> {
        let system = self.settings.generation.system_prompt.as_ref();
        let system = system.map(|content| Message { role: "system".into(), content: content.clone() });
        let messages: Vec<Message> = system.into_iter().chain(self.messages.iter().cloned()).collect();
        let segments = self.template.render(&messages, false)?;
        Ok(chat::encode(self.engine.tokenizer(), &segments))
    }
}

/// Lines of stdin from a thread of its own, so that Ctrl-C can be waited for too. Closed at the end of stdin.
fn read_lines() -> Result<async_channel::Receiver<Result<String, CliError>>, CliError> {
    let (sender, lines) = async_channel::bounded(1);
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let path = || std::path::PathBuf::from("-");
                let line = line.map_err(|source| CliError::Read { path: path(), source });
                let is_last = line.is_err();
                if sender.send_blocking(line).is_err() || is_last {
                    return;
                }
            }
        })
        .map_err(|error| CliError::System(format!("no thread for stdin: {error}")))?;
    Ok(lines)
}
