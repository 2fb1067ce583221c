//! The engine thread: takes requests into slots and runs one step after the other for all of them.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use rayon::prelude::*;

use super::metrics::Metrics;
use super::saved;
use super::scheduler::{FreeSlot, Need, Scheduler, WORTH_KEEPING, choose_slot, common_prefix};
use super::session::{Next, Session};
use super::shared::Shared;
use super::slots::{Action, Command, SlotChange};
use super::{EngineError, EngineOptions, Pieces, SlotState, StopReason};
use crate::model::{Cache, Chunk, LanguageModel};
use crate::tokenizer::TokenId;

/// One sequence and the request that runs in it.
struct Slot<C> {
    cache: C,
    /// What the cache holds, while no session runs; a session's own tokens say it otherwise.
    tokens: Vec<TokenId>,
    session: Option<Box<Session>>,
    last_used: u64,
}

impl<C: Cache> Slot<C> {
    /// The tokens in its cache, as far as others may know them.
    fn held(&self) -> &[TokenId] {
        match &self.session {
            Some(session) if !session.cache_prompt => &[],
            Some(session) => &session.tokens()[..self.cache.len().min(session.tokens().len())],
            None => &self.tokens,
        }
    }
}

/// The thread's state.
pub(super) struct Worker<M: LanguageModel> {
    model: M,
    pieces: Arc<dyn Pieces>,
    options: EngineOptions,
    shared: Arc<Shared>,
    slots: Vec<Slot<M::Cache>>,
    scheduler: Scheduler,
    /// Counts admissions, for `last_used`.
    clock: u64,
}

impl<M: LanguageModel> Worker<M> {
    pub(super) fn new(model: M, pieces: Arc<dyn Pieces>, options: EngineOptions, shared: Arc<Shared>) -> Worker<M> {
        let slots = (0..options.n_parallel)
            .map(|_| Slot { cache: model.new_cache(options.n_ctx), tokens: Vec::new(), session: None, last_used: 0 })
            .collect();
        Worker { model, pieces, options, shared, slots, scheduler: Scheduler::new(options.n_ubatch), clock: 0 }
    }

    /// Runs until [`Shared::stop`].
    pub(super) fn run(mut self) {
        while self.wait_for_work() {
            self.step();
        }
        self.shut_down();
    }

    /// Lets go of cancelled sessions, fills free slots from the queue and waits while there is nothing to do. False
    /// when the engine is to stop.
    fn wait_for_work(&mut self) -> bool {
        for at in 0..self.slots.len() {
            let session = &self.slots[at].session;
            if session.as_ref().is_some_and(|s| s.is_cancelled()) {
                self.release(at, |metrics| metrics.cancelled += 1);
            }
        }
        self.publish();
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            if state.stopping {
                return false;
            }
            // A command is older than whatever would take its slot now.
            let is_free = |command: &mut Command| self.slots[command.slot].session.is_none();
            let commands: Vec<Command> = state.commands.extract_if(.., is_free).collect();
            if !commands.is_empty() {
                drop(state);
                for command in commands {
                    self.execute(command);
                }
                state = shared.lock();
                continue;
            }
            state.drop_cancelled();
            let admitted = self.admissible(&mut state.queue);
            // Both counts change together, so that `submit` always finds a request in one of the two.
            state.metrics.running += admitted.len();
            if state.metrics.running > 0 {
                drop(state);
                for (session, at) in admitted {
                    self.admit(session, at);
                }
                return true;
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes from the queue what can run now, oldest first, each with its slot: the one it asks for, or of the free ones
    /// the one that suits it best.
    fn admissible(&self, queue: &mut VecDeque<Box<Session>>) -> Vec<(Box<Session>, usize)> {
        let mut is_free: Vec<bool> = self.slots.iter().map(|slot| slot.session.is_none()).collect();
        let mut admitted = Vec::new();
        let mut place = 0;
        while is_free.contains(&true)
            && let Some(session) = queue.get(place)
        {
            let suits = |index: usize| is_free[index] && session.slot.is_none_or(|wanted| wanted == index);
            let free = self.slots.iter().enumerate().filter(|(index, _)| suits(*index));
            let free = free.map(|(index, slot)| FreeSlot { index, tokens: &slot.tokens, last_used: slot.last_used });
            let at = choose_slot(session.tokens(), session.reuses_cache(), free);
            match at.and_then(|at| Some((queue.remove(place)?, at))) {
                Some((session, at)) => {
                    is_free[at] = false;
                    admitted.push((session, at));
                }
                None => place += 1,
            }
        }
        admitted
    }

    /// Starts a session in slot `at`, which is free.
    fn admit(&mut self, mut session: Box<Session>, at: usize) {
        let n_cached = if session.reuses_cache() { self.reuse(session.tokens(), at) } else { self.rewind(at, 0) };
        self.clock += 1;
        let slot = &mut self.slots[at];
        slot.tokens = Vec::new();
        slot.last_used = self.clock;
        session.start(at, n_cached);
        slot.session = Some(session);
        self.count(|metrics| {
            metrics.cached_tokens += n_cached as u64;
            metrics.cache_hits += u64::from(n_cached > 0);
        });
    }

    /// Leaves in the cache of slot `at` what `prompt` begins with, or takes it from another slot that has more of it, busy or
    /// not: conversations often begin with the same instructions. Returns how many tokens that are.
    fn reuse(&mut self, prompt: &[TokenId], at: usize) -> usize {
        // The last token is always computed: its logits are what the reply begins with.
        let common = |slot: &Slot<M::Cache>| common_prefix(prompt, slot.held()).min(prompt.len() - 1);
        let own = self.rewind(at, common(&self.slots[at]));
        let others = self.slots.iter().enumerate().filter(|(other, _)| *other != at);
        let best = others.map(|(other, slot)| (common(slot), other)).max();
        // Copying a few tokens costs about what reading them does.
        let Some((n, other)) = best.filter(|(n, _)| *n >= own + WORTH_KEEPING) else {
            return own;
        };
        let Ok([slot, other]) = self.slots.get_disjoint_mut([at, other]) else {
            return own;
        };
        if slot.cache.copy_prefix(&other.cache, n) { self.rewind(at, n) } else { own }
    }

    /// Does what was asked for with a slot that is free.
    fn execute(&mut self, command: Command) {
        let Command { slot: at, action, answer } = command;
        self.clock += 1;
        let slot = &mut self.slots[at];
        let result = match action {
            Action::Save(out) => saved::save(out, self.model.fingerprint(), &slot.tokens, &slot.cache),
            Action::Restore(input) => {
                saved::restore(input, &self.model, self.options.n_ctx).map(|(tokens, cache, change)| {
                    (slot.tokens, slot.cache, slot.last_used) = (tokens, cache, self.clock);
                    change
                })
            }
            Action::Erase => {
                let n_tokens = slot.cache.len();
                slot.tokens = Vec::new();
                slot.cache = self.model.new_cache(self.options.n_ctx);
                Ok(SlotChange { n_tokens, n_bytes: 0 })
            }
        };
        self.publish();
        // Whoever asked may have left.
        let _ = answer.try_send(result);
    }

    /// Brings the cache of slot `at` back to its first `n` tokens, or to none where it cannot go on from there. Returns how
    /// many it holds.
    fn rewind(&mut self, at: usize, n: usize) -> usize {
        let slot = &mut self.slots[at];
        let usable = slot.cache.truncate(n);
        if usable > n || usable != slot.cache.len() {
            // Not what the trait promises; rather begin anew than compute nonsense.
            slot.cache = self.model.new_cache(self.options.n_ctx);
        }
        slot.cache.len()
    }

    /// One forward pass for all slots that need one, and what follows from its logits.
    fn step(&mut self) {
        let most_told = most_told(&self.slots);
        let needs: Vec<Need> = self.slots.iter().map(|slot| need(slot, most_told)).collect();
        let shares = self.scheduler.share(&needs);
        let n_ctx = self.options.n_ctx;
        let guess_room = guess_room(&needs);
        let mut batch = Vec::new();
        let mut part = Vec::new(); // (slot, tokens in its cache afterwards, rows of logits)
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(session) = slot.session.as_mut().filter(|_| shares[at] > 0) else {
                continue;
            };
            let start = slot.cache.len();
            let end = start + shares[at];
            let mut n_logits = session.n_logits(&(start..end), n_ctx);
            let n_guessed = if needs[at] == Need::Decode { session.guess(guess_room, n_ctx) } else { 0 };
            n_logits += n_guessed;
            let (tokens, hidden_sum) = session.part(start..end);
            part.push((at, end + n_guessed, n_logits));
            batch.push(Chunk { tokens, cache: &mut slot.cache, n_logits, hidden_sum });
        }
        let n_rows: usize = part.iter().map(|p| p.2).sum();
        let n_vocab = self.model.n_vocab();
        let result = catch_unwind(AssertUnwindSafe(|| self.model.forward(&mut batch)));
        drop(batch);
        self.count(|metrics| {
            metrics.steps += 1;
            metrics.slot_steps += part.len() as u64;
        });
        let result = match result {
            Ok(Ok(logits)) if logits.len() != n_rows * n_vocab => {
                Err(format!("it gave {} logits where {n_rows} rows of {n_vocab} were wanted", logits.len()))
            }
            Ok(Ok(_)) if part.iter().any(|p| self.slots[p.0].cache.len() != p.1) => {
                Err("its cache does not hold the tokens it was given".into())
            }
            Ok(Ok(logits)) => Ok(logits),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(panic_text(panic.as_ref())),
        };
        let mut logits = match result {
            Ok(logits) => logits,
            Err(text) => {
                // How far the caches got is unknown, so all of this step's requests fail and their slots begin anew.
                for (at, ..) in part {
                    self.fail(at, EngineError::Model(text.clone()));
                    self.slots[at].tokens = Vec::new();
                    self.slots[at].cache = self.model.new_cache(n_ctx);
                }
                return;
            }
        };
        for outcome in self.take_turns(&part, &shares, &mut logits) {
            self.proceed(outcome);
        }
    }

    /// Lets each session of a step go on with its rows of logits, side by side: what they draw depends on nothing that they
    /// share, and with large vocabularies it takes its time. `part`: each slot, the tokens in its cache now, its rows.
    fn take_turns(&mut self, part: &[(usize, usize, usize)], shares: &[usize], mut logits: &mut [f32]) -> Vec<Outcome> {
        let (n_ctx, n_row, pieces) = (self.options.n_ctx, self.model.n_vocab(), &*self.pieces);
        // Rows may be longer than the vocabulary (padded embeddings); such tokens do not exist.
        let n_vocab = n_row.min(pieces.n_vocab());
        let mut turns = Vec::new();
        let mut slots = self.slots.iter_mut().enumerate();
        for &(at, end, n_logits) in part {
            let (rows, rest) = std::mem::take(&mut logits).split_at_mut(n_logits * n_row);
            logits = rest;
            let session = slots.find(|(index, _)| *index == at).and_then(|(_, slot)| slot.session.as_deref_mut());
            turns.extend(session.map(|session| Turn { at, n_new: shares[at], end, session, rows }));
        }
        let mut outcomes = Vec::new();
        if turns.iter().filter(|turn| !turn.rows.is_empty()).count() > 1 {
            self.model.share(turns.len(), &mut || {
                let outcome = |turn: &mut Turn<'_>| turn.take(n_row, n_vocab, pieces, n_ctx);
                outcomes = turns.par_iter_mut().with_max_len(1).map(outcome).collect();
            });
        } else {
            outcomes.extend(turns.iter_mut().map(|turn| turn.take(n_row, n_vocab, pieces, n_ctx)));
        }
        outcomes
    }

    /// What follows for a slot and its cache from what its session has made of a step.
    fn proceed(&mut self, outcome: Outcome) {
        let Outcome { at, end, n_read, n_decoded, n_tokens, next } = outcome;
        // The newest token has not been read yet: what the cache holds from there on was a wrong guess.
        let n_valid = n_tokens.saturating_sub(usize::from(n_decoded > 0));
        self.count(|metrics| {
            metrics.prompt_tokens += n_read as u64;
            metrics.decoded_tokens += n_decoded as u64;
            metrics.context_shifts += u64::from(matches!(next, Next::Shifted(_)));
        });
        if end > n_valid && !matches!(next, Next::Shifted(_)) {
            self.rewind(at, n_valid);
        }
        match next {
            Next::Goes => {}
            Next::Shifted(n_kept) => {
                self.rewind(at, n_kept);
            }
            Next::Ended => self.release(at, |_| {}),
            Next::Failed => self.release(at, |metrics| metrics.failed += 1),
        }
    }

    fn fail(&mut self, at: usize, error: EngineError) {
        if let Some(session) = &mut self.slots[at].session {
            session.fail(error);
        }
        self.release(at, |metrics| metrics.failed += 1);
    }

    /// Takes the session out of slot `at`, leaves the slot with what its cache holds, and only then sends the session's
    /// last event.
    fn release(&mut self, at: usize, count: impl FnOnce(&mut Metrics)) {
        let slot = &mut self.slots[at];
        let Some(session) = slot.session.take() else {
            return;
        };
        if session.cache_prompt {
            let n = slot.cache.len().min(session.tokens().len());
            slot.tokens = session.tokens()[..n].to_vec();
        } else {
            slot.cache.truncate(0);
            slot.tokens = Vec::new();
        }
        let timings = session.timings();
        let n_tokens = session.tokens().len() as u64;
        self.count(|metrics| {
            metrics.running -= 1;
            metrics.longest = metrics.longest.max(n_tokens);
            metrics.drafts += timings.drafts as u64;
            metrics.prefill += timings.prefill;
            metrics.decode += timings.decode;
            metrics.drafted_tokens += timings.drafted_tokens as u64;
            metrics.accepted_tokens += timings.accepted_tokens as u64;
            metrics.waits.record(&timings);
            count(metrics);
        });
        self.publish();
        drop(session);
    }

    fn count(&self, change: impl FnOnce(&mut Metrics)) {
        change(&mut self.shared.lock().metrics);
    }

    fn publish(&self) {
        let mut state = self.shared.lock();
        state.slots.clear();
        state.slots.extend(self.slots.iter().map(|slot| SlotState {
            busy: slot.session.is_some(),
            n_cached: slot.cache.len(),
            n_prompt: slot.session.as_ref().map_or(0, |s| s.n_prompt()),
            n_reused: slot.session.as_ref().map_or(0, |s| s.n_reused()),
            n_decoded: slot.session.as_ref().map_or(0, |s| s.n_decoded()),
            n_remaining: slot.session.as_ref().and_then(|s| s.n_remaining()),
        }));
    }

    /// Every request, running or waiting, ends with what it has.
    fn shut_down(&mut self) {
        for at in 0..self.slots.len() {
            if let Some(session) = &mut self.slots[at].session {
                session.finish(StopReason::Shutdown);
            }
            self.release(at, |_| {});
        }
        let (queue, commands) = {
            let mut state = self.shared.lock();
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.commands))
        };
        drop(commands);
        for mut session in queue {
            session.finish(StopReason::Shutdown);
        }
    }
}

/// A session's part in what follows a forward pass.
struct Turn<'a> {
    /// Its slot.
    at: usize,
    /// Tokens that the step read for it, guesses aside.
    n_new: usize,
    /// Tokens in its cache now, of which those of a guess may be wrong.
    end: usize,
    session: &'a mut Session,
    /// The logits that it wanted.
    rows: &'a mut [f32],
}

/// What came of it.
struct Outcome {
    at: usize,
    end: usize,
    /// Tokens of its prompt that were read.
    n_read: usize,
    /// Tokens that it made.
    n_decoded: usize,
    /// Tokens that it has now.
    n_tokens: usize,
    next: Next,
}

impl Turn<'_> {
    fn take(&mut self, n_row: usize, n_vocab: usize, pieces: &dyn Pieces, n_ctx: usize) -> Outcome {
        let Turn { at, n_new, end, session, rows } = self;
        let (at, end) = (*at, *end);
        let before = session.n_decoded();
        // After a shift parts of the reply are read as prompts are, which is nobody's news.
        let reads = before == 0;
        if reads {
            session.report_prefill(end);
        }
        let read = end.saturating_sub(*n_new)..end;
        let next = match session.tell_prompt(read, std::mem::take(rows), n_row, n_vocab, n_ctx) {
            Err(error) => session.fail(error),
            Ok(rows) if !rows.is_empty() => {
                catch_unwind(AssertUnwindSafe(|| session.take_rows(rows, n_row, n_vocab, pieces, n_ctx)))
                    .unwrap_or_else(|panic| session.fail(EngineError::Model(panic_text(panic.as_ref()))))
            }
            Ok(_) if end < session.tokens().len() => Next::Goes,
            Ok(_) => session.end_without_token(n_ctx),
        };
        Outcome {
            at,
            end,
            n_read: if reads { *n_new } else { 0 },
            n_decoded: session.n_decoded() - before,
            n_tokens: session.tokens().len(),
            next,
        }
    }
}

impl<M: LanguageModel> Drop for Worker<M> {
    /// Should the thread ever end by a panic, requests must not wait for it.
    fn drop(&mut self) {
        self.shared.stop();
        let mut state = self.shared.lock();
        let waiting = (std::mem::take(&mut state.queue), std::mem::take(&mut state.commands));
        drop(state);
        drop(waiting);
    }
}

/// Tokens that each slot may guess in a step. A step of some tokens costs little more than one of a single token, since
/// the weights are read once for all; with many slots their own tokens fill it already, and a prompt takes its time
/// anyway.
fn guess_room(needs: &[Need]) -> usize {
    let n_decoding = needs.iter().filter(|need| **need == Need::Decode).count();
    (MOST_COLUMNS / n_decoding.max(1)).saturating_sub(1)
}

/// Most tokens of a step that has guesses.
const MOST_COLUMNS: usize = 16;

/// Most tokens of all prompts in a step that are told with their probabilities: each takes a row of logits, a megabyte with
/// Gemma's vocabulary.
const MOST_ROWS: usize = 64;

/// Tokens that each slot of those that tell their prompts may read in a step.
fn most_told<C: Cache>(slots: &[Slot<C>]) -> usize {
    let n_telling =
        slots.iter().filter_map(|slot| slot.session.as_ref()).filter(|session| session.tells_prompt()).count();
    (MOST_ROWS / n_telling.max(1)).max(2)
}

fn need<C: Cache>(slot: &Slot<C>, most_told: usize) -> Need {
    let Some(session) = &slot.session else {
        return Need::Nothing;
    };
    match session.tokens().len() - slot.cache.len() {
        1 => Need::Decode,
        n if session.tells_prompt() => Need::Prefill(n.min(most_told)),
        n => Need::Prefill(n),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("it panicked: {text}")
}
