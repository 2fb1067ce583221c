//! What can be done with a slot between two requests: what it holds can be saved, restored and forgotten.

use std::io::{self, Read, Write};

use async_channel::{Receiver, Sender};

use crate::error::Hint;

/// Most commands that wait for their slots.
pub(super) const MAX_COMMANDS: usize = 64;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotChange {
    /// Tokens that were saved, restored or forgotten.
    pub n_tokens: usize,
    /// Bytes that were written or read.
    pub n_bytes: u64,
}

/// Comes when the slot is free and the work is done; closed without a word where the engine has stopped.
pub type SlotAnswer = Receiver<Result<SlotChange, SlotError>>;

/// What cannot be done with a slot.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// No slot of this number.
    #[error("there is no slot {slot}; the last one is {}", n_slots - 1)]
    NoSlot {
        /// The number.
        slot: usize,
        /// How many there are.
        n_slots: usize,
    },
    /// Too many commands wait.
    #[error("too many commands wait for their slots")]
    Busy,
    /// The engine has ended.
    #[error("the engine has stopped")]
    Stopped,
    /// A file of another kind.
    #[error("this is no saved prompt")]
    NotSaved,
    /// A format that this program does not know.
    #[error("this saved prompt has version {0}, and this program knows version 1")]
    Version(u32),
    /// Keys and values mean nothing to another model.
    #[error("this prompt was saved for another model")]
    OtherModel,
    /// Longer than the context.
    #[error("the saved prompt has {n_tokens} tokens and the context holds {n_ctx}")]
    TooLong {
        /// Its tokens.
        n_tokens: usize,
        /// Size of the context.
        n_ctx: usize,
    },
    /// Its bytes make no sense.
    #[error("the saved prompt is damaged: {0}")]
    Damaged(String),
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Hint for SlotError {
    fn hint(&self) -> Option<String> {
        match self {
            SlotError::NotSaved | SlotError::Version(_) | SlotError::Damaged(_) => {
                Some("save the prompt again with this program".into())
            }
            SlotError::OtherModel => Some("use the model that it was saved for, or save it again with this one".into()),
            SlotError::TooLong { n_tokens, .. } => Some(format!("start with `-c` of more than {n_tokens}, or `-c 0`")),
            SlotError::Busy => Some("try again in a moment".into()),
            SlotError::NoSlot { .. } | SlotError::Stopped | SlotError::Io(_) => None,
        }
    }
}

/// What is to be done.
pub(super) enum Action {
    Save(Box<dyn Write + Send>),
    Restore(Box<dyn Read + Send>),
    Erase,
}

/// Something to do with a slot as soon as it is free.
pub(super) struct Command {
    pub(super) slot: usize,
    pub(super) action: Action,
    pub(super) answer: Sender<Result<SlotChange, SlotError>>,
}

impl Command {
    pub(super) fn new(slot: usize, action: Action) -> (Command, SlotAnswer) {
        let (answer, receiver) = async_channel::bounded(1);
        (Command { slot, action, answer }, receiver)
    }
}
