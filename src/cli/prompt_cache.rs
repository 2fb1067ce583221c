//! `--prompt-cache FILE`: what the model remembers of a prompt or a chat, kept from one run to the next.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use super::error::CliError;
use super::reply::{Plain, Reply, answer};
use super::terminal::Terminal;
use crate::bundle::NewFile;
use crate::engine::{Engine, Limit, Request, SlotError};
use crate::error::bytes_for_people;

/// The only slot outside of a server.
const SLOT: usize = 0;

/// Reads the prompt of `request` with the help of `file`, and keeps what the model remembers of it there where that is more
/// than before. The request itself then finds its prompt read.
///
/// It is kept before the reply: later, layers with a sliding window could not go back to the end of the prompt.
///
/// # Errors
/// A file of another kind, which is left alone; whatever the engine says. What is wrong with a saved prompt is only said.
pub fn read_prompt(engine: &Engine, request: &Request, file: &Path, terminal: &Terminal) -> Result<Reply, CliError> {
    restore(engine, file, terminal)?;
    let reply = answer(engine, Request { limit: Limit::Tokens(0), ..request.clone() }, &mut Plain, terminal)?;
    // The last token is always computed.
    let is_new = reply.timings.cached_tokens + 1 < reply.timings.prompt_tokens;
    if is_new && !reply.is_interrupted {
        keep(engine, file, terminal);
    }
    Ok(reply)
}

/// Keeps what the model remembers in `file`, or says why it cannot.
pub fn keep(engine: &Engine, file: &Path, terminal: &Terminal) {
    if let Err(error) = save(engine, file, terminal) {
        terminal.note(format!("warning: the prompt cannot be kept in `{}`: {error}", file.display()));
    }
}

/// Takes what the model remembers from `file`, where it is there.
///
/// # Errors
/// A file of another kind, which is left alone. What is wrong with a saved prompt is only said.
pub fn restore(engine: &Engine, file: &Path, terminal: &Terminal) -> Result<(), CliError> {
    let input = match File::open(file) {
        Ok(input) => input,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(CliError::Read { path: file.to_owned(), source }),
    };
    // As `mktemp` makes them.
    let is_empty = input.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0);
    let answer = engine.restore_slot(SLOT, Box::new(input)).and_then(wait);
    match answer {
        Ok(change) => {
            terminal.detail(format!("cache    {} tokens of `{}`", change.n_tokens, file.display()));
            Ok(())
        }
        Err(SlotError::NotSaved) if is_empty => Ok(()),
        Err(SlotError::NotSaved) => Err(CliError::Usage {
            what: format!("`--prompt-cache {}` is a file of another kind", file.display()),
            hint: "name a file that is not there yet, or one that this flag made".into(),
        }),
        Err(error) => {
            let file = file.display();
            terminal.note(format!("warning: `{file}`: {error}; reading the whole prompt and replacing the file"));
            Ok(())
        }
    }
}

/// The file appears under its name when it is whole.
fn save(engine: &Engine, file: &Path, terminal: &Terminal) -> Result<(), SlotError> {
    let new = NewFile::create(file, false)?;
    let out = new.file().try_clone()?;
    let change = engine.save_slot(SLOT, Box::new(out)).and_then(wait)?;
    new.rename_to(file)?;
    let size = bytes_for_people(change.n_bytes);
    terminal.detail(format!("cache    {} tokens, {size}, kept in `{}`", change.n_tokens, file.display()));
    Ok(())
}

fn wait(answer: crate::engine::SlotAnswer) -> Result<crate::engine::SlotChange, SlotError> {
    answer.recv_blocking().map_err(|_| SlotError::Stopped)?
}
