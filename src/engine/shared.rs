//! What the handles of an engine and its thread share: what waits, what is done, and what is told about it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::metrics::Metrics;
use super::session::Session;
use super::slots::{Command, MAX_COMMANDS, SlotError};
use super::{EngineError, SlotState};

/// What handles and thread share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something has come in, or the end.
    pub(super) changed: Condvar,
}

/// Kept small and under one lock, which is held for moments only: never during a step.
#[derive(Default)]
pub(super) struct State {
    pub(super) queue: VecDeque<Box<Session>>,
    pub(super) commands: Vec<Command>,
    pub(super) stopping: bool,
    pub(super) slots: Vec<SlotState>,
    pub(super) metrics: Metrics,
}

impl Shared {
    pub(super) fn new(n_parallel: usize) -> Shared {
        Shared {
            state: Mutex::new(State { slots: vec![SlotState::default(); n_parallel], ..State::default() }),
            changed: Condvar::new(),
        }
    }

    /// Queues a session, unless `max_queue` are waiting for a slot already.
    pub(super) fn submit(&self, session: Box<Session>, max_queue: usize) -> Result<(), EngineError> {
        let mut state = self.lock();
        let result = if state.stopping {
            Err(EngineError::Stopped)
        } else {
            state.drop_cancelled();
            let room = state.slots.len().saturating_add(max_queue);
            if state.metrics.running + state.queue.len() < room {
                Ok(())
            } else {
                state.metrics.rejected += 1;
                Err(EngineError::QueueFull)
            }
        };
        if result.is_ok() {
            state.metrics.requests += 1;
            state.queue.push_back(session);
            self.changed.notify_all();
        }
        result
    }

    /// Queues a command, unless too many wait already.
    pub(super) fn command(&self, command: Command) -> Result<(), SlotError> {
        let mut state = self.lock();
        if state.stopping {
            return Err(SlotError::Stopped);
        }
        if state.commands.len() >= MAX_COMMANDS {
            return Err(SlotError::Busy);
        }
        state.commands.push(command);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    pub(super) fn slots(&self) -> Vec<SlotState> {
        self.lock().slots.clone()
    }

    pub(super) fn metrics(&self) -> Metrics {
        let state = self.lock();
        Metrics { queued: state.queue.len(), ..state.metrics }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that panics runs under the lock, so its state is whole even when poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn drop_cancelled(&mut self) {
        let before = self.queue.len();
        self.queue.retain(|session| !session.is_cancelled());
        self.metrics.cancelled += (before - self.queue.len()) as u64;
    }
}
