//! Requests in, events out: the one decode loop, on a thread of its own.
//!
//! [`Engine`] is a cheap handle; [`Engine::submit`] returns [`Events`], which a thread can iterate
//! (`recv_blocking`) and a task can await. Dropping the receiver cancels the request within a step.
//!
//! One thread (`worker`) runs one forward pass after the other. Each takes the newest token of every slot that
//! decodes and a bounded part of the prompts that are still to be read (`scheduler`); what follows from the logits is
//! `session`'s: a token ([`sampler`]), its text, perhaps a stop string ([`stop`]) and the end. While nothing is to be
//! done the thread sleeps.
//!
//! - A request's tokens depend on its prompt, settings and seed only, never on what else runs.
//! - A request's grammar ([`Request::constraint`]) masks the logits before anything else looks at them.
//! - Prompt and reply together never exceed `n_ctx`: what happens then is the request's choice ([`Overflow`]).
//! - A slot keeps its cache after a request; the next one that begins with the same tokens computes only the rest. Layers
//!   with a sliding window keep that and a step beside it: where a prompt leaves the one before further back, it is read
//!   from the start rather than wrongly.
//! - A model that fails or panics fails the requests of that step; the engine goes on.

pub mod chain;
mod context;
mod lookup;
mod metrics;
mod pooled;
pub mod rng;
mod row;
pub mod sampler;
mod saved;
mod scheduler;
mod session;
mod shared;
mod slots;
pub mod stop;
mod worker;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod speed;

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Hint;
use crate::grammar::{Constraint, ConstraintError};
use crate::model::LanguageModel;
use crate::tokenizer::{TokenId, Tokenizer};
use context::Context;
use session::Session;
use shared::Shared;
use slots::{Action, Command};
use worker::Worker;

pub use metrics::{Histogram, Metrics, Waits};
pub use pooled::Pooling;
pub use slots::{SlotAnswer, SlotChange, SlotError};

/// Most tokens reported with each token ([`Request::n_probs`]).
pub const MAX_N_PROBS: usize = 1024;

/// How tokens are chosen. The defaults are the ones recommended for Gemma.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: usize,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// 1 is off.
    pub typical_p: f32,
    /// 1 is off.
    pub repeat_penalty: f32,
    /// Tokens looked back at by the penalties; 0 is off, -1 the whole context.
    pub repeat_last_n: i32,
    /// 0 is off.
    pub presence_penalty: f32,
    /// 0 is off.
    pub frequency_penalty: f32,
    /// Added to a token's logit before all else; negative infinity bans it.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// The steps that run, in this order, each as the settings above say.
    pub steps: Vec<Step>,
    /// Tokens that `typical_p`, `top_p` and `min_p` leave at least.
    pub min_keep: usize,
    /// `None` draws one; the used one is reported in [`Done`].
    pub seed: Option<u64>,
}

/// A step on the way from logits to the tokens that may be drawn: llama.cpp's samplers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All three penalties.
    Penalties,
    /// [`Sampling::top_k`].
    TopK,
    /// [`Sampling::typical_p`].
    Typical,
    /// [`Sampling::top_p`].
    TopP,
    /// [`Sampling::min_p`].
    MinP,
    /// [`Sampling::temperature`]; without this step, a temperature of 0 is not greedy.
    Temperature,
}

impl Step {
    /// All of them, in the usual order.
    pub const ALL: [Step; 6] = [Step::Penalties, Step::TopK, Step::Typical, Step::TopP, Step::MinP, Step::Temperature];
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 64,
            top_p: 0.95,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            steps: Step::ALL.to_vec(),
            min_keep: 0,
            seed: None,
        }
    }
}

/// How long a reply may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Until an end token, or until the context is full.
    EndOfTurn,
    /// At most this many tokens.
    Tokens(usize),
}

/// What happens where prompt and reply outgrow the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The reply ends; a prompt that is too long is refused.
    #[default]
    Stop,
    /// The oldest tokens behind the first ones make room, and the rest is read again behind those. Where nothing else
    /// limits the reply, it ends when it and the prompt have as many tokens as the model's own context, as in llama.cpp.
    Shift {
        /// Tokens of the prompt that stay, besides a control token at its start (`<bos>`); `None` is all of them. Four
        /// of the context never do.
        n_keep: Option<usize>,
        /// A prompt that is too long loses its middle; otherwise it is refused.
        cut_prompt: bool,
    },
}

/// One generation.
#[derive(Clone, Debug)]
pub struct Request {
    /// The whole prompt, `<bos>` included.
    pub prompt: Vec<TokenId>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// How long the reply may get.
    pub limit: Limit,
    /// After so long a reply ends with its line, as [`Limit::Tokens`] ends it.
    pub time_limit: Option<Duration>,
    /// What happens where the context is too small.
    pub overflow: Overflow,
    /// End tokens are not sampled (their logits are masked).
    pub ignore_eos: bool,
    /// Generation ends before the first of these; they are found across token borders and never emitted.
    pub stop: Vec<String>,
    /// Control tokens appear in the text.
    pub show_control: bool,
    /// Probabilities reported with each token: the sampled one and this many best; 0 is none.
    pub n_probs: usize,
    /// They are those that the token was drawn with, after all filters, and not the model's own.
    pub probs_after_sampling: bool,
    /// The prompt's tokens are told with their probabilities under the model and with `n_probs` best ones
    /// ([`Event::Prompt`]). Then all of it is computed, whatever a slot's cache holds. The token that ends the reply is told
    /// like the others, with an empty text: evaluation tools count on a token behind the prompt.
    pub prompt_probs: bool,
    /// Keep and reuse the prefix in a slot's cache.
    pub cache_prompt: bool,
    /// The slot to run in, once it is free; `None` is the one that suits best.
    pub slot: Option<usize>,
    /// What the reply has to look like. The reply ends where nothing but its end can follow.
    pub constraint: Option<Constraint>,
}

impl Request {
    /// A request with default settings.
    pub fn new(prompt: Vec<TokenId>) -> Request {
        Request {
            prompt,
            sampling: Sampling::default(),
            limit: Limit::EndOfTurn,
            time_limit: None,
            overflow: Overflow::Stop,
            ignore_eos: false,
            stop: Vec::new(),
            show_control: false,
            n_probs: 0,
            probs_after_sampling: false,
            prompt_probs: false,
            cache_prompt: true,
            slot: None,
            constraint: None,
        }
    }
}

/// What happens to a request, in order: any number of `Prefill` and `Prompt`, then `Token`s, then one `Done` or `Failed`, then the
/// channel is closed. By the time of the last event the slot is free again.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt is being read: `done` of `total` tokens, of which `cached` came from the slot's cache.
    Prefill {
        /// Tokens in the cache by now.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
        /// Tokens that were not computed again.
        cached: usize,
    },
    /// The next tokens of the prompt, with their probabilities given all before them; the first one has none. Their texts are
    /// left empty.
    Prompt(Vec<Token>),
    /// A token was made. Its text may be empty while a character or a possible stop string is unfinished.
    Token(Token),
    /// The end, with the rest of the text.
    Done(Box<Done>),
    /// The request failed; the engine goes on.
    Failed(EngineError),
}

/// One token, of a reply unless it came with [`Event::Prompt`].
#[derive(Clone, Debug)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// The text that became certain with it: whole characters, no part of a stop string.
    pub text: String,
    /// Natural log of its probability, where asked for: under the model (temperature 1, no filters), unless the request
    /// wants that of the draw.
    pub logprob: Option<f32>,
    /// The best tokens at this step with their log-probabilities, best first, where asked for.
    pub top: Vec<(TokenId, f32)>,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended its turn, or nothing else could follow in the request's grammar.
    EndOfTurn,
    /// A stop string was found.
    StopString(String),
    /// `Limit::Tokens` was reached.
    TokenLimit,
    /// The context is full, or a reply that shifts it has gone on for as long as one may without a limit.
    ContextFull,
    /// The engine shuts down.
    Shutdown,
}

/// The end of a generation.
#[derive(Clone, Debug)]
pub struct Done {
    /// Why.
    pub reason: StopReason,
    /// Text held back until now.
    pub text: String,
    /// The seed that was used.
    pub seed: u64,
    /// The slot it ran in; `None` where it never did.
    pub slot: Option<usize>,
    /// Of [`Engine::embed`]: the prompt's hidden states, pooled: `[d_model]`, or without pooling `[n_tokens, d_model]`;
    /// otherwise empty.
    pub embedding: Vec<f32>,
    /// Tokens of prompt and reply that were dropped to make room ([`Overflow::Shift`]).
    pub n_dropped: usize,
    /// How long it took.
    pub timings: Timings,
}

/// Counts and durations of one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of it that came from the cache.
    pub cached_tokens: usize,
    /// Waiting for a slot.
    pub queued: Duration,
    /// Reading the rest of the prompt, up to the first token's logits.
    pub prefill: Duration,
    /// Tokens made, the end token included (for which there is no [`Event::Token`] unless control tokens are shown).
    pub decoded_tokens: usize,
    /// From the first token's logits to the end.
    pub decode: Duration,
    /// Tokens guessed by prompt lookup ([`EngineOptions::n_lookup`]).
    pub drafted_tokens: usize,
    /// Those of them that came true.
    pub accepted_tokens: usize,
    /// Steps that checked such guesses.
    pub drafts: usize,
}

impl Timings {
    /// Tokens of the prompt that were computed.
    pub fn computed_tokens(&self) -> usize {
        self.prompt_tokens.saturating_sub(self.cached_tokens)
    }

    /// Tokens that took a step of their own: the first one's logits come with the prompt.
    pub fn decode_steps(&self) -> usize {
        self.decoded_tokens.saturating_sub(1)
    }
}

/// A request that cannot be taken or that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Longer than the context.
    // Clients look for these words: "too large" and "exceeds the available context size" are llama.cpp's.
    #[error("the prompt is too large: it has {prompt} tokens, which exceeds the available context size of {n_ctx}")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Size of the context.
        n_ctx: usize,
    },
    /// No tokens at all.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A setting outside its range.
    #[error("{0}")]
    BadSetting(String),
    /// Too many requests wait.
    #[error("too many requests are waiting")]
    QueueFull,
    /// The engine has ended.
    #[error("the engine has stopped")]
    Stopped,
    /// The reply cannot go on as its grammar demands.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The model failed on this request.
    #[error("the model failed: {0}")]
    Model(String),
}

impl Hint for EngineError {
    fn hint(&self) -> Option<String> {
        match self {
            EngineError::PromptTooLong { .. } => {
                Some("use `-c 0` for the model's whole context, or a shorter prompt".into())
            }
            EngineError::Constraint(_) => Some("use a simpler grammar or schema".into()),
            EngineError::QueueFull => Some("try again in a moment, or start with a larger `-np`".into()),
            _ => None,
        }
    }
}

/// The receiving end of a request. Dropping it cancels the request.
pub type Events = async_channel::Receiver<Event>;

/// Sizes of an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Context of each slot, in tokens.
    pub n_ctx: usize,
    /// Slots: sequences decoded side by side.
    pub n_parallel: usize,
    /// Most prompt tokens in one step.
    pub n_ubatch: usize,
    /// Most requests waiting for a slot.
    pub max_queue: usize,
    /// Most tokens of a reply that are guessed ahead from what the sequence holds already, and checked in one step; 0
    /// is none. It changes how fast a reply comes, never what it says.
    pub n_lookup: usize,
}

/// What a slot is doing.
#[derive(Clone, Debug, Default)]
pub struct SlotState {
    /// A request runs in it.
    pub busy: bool,
    /// Tokens in its cache.
    pub n_cached: usize,
    /// Tokens of the running request's prompt.
    pub n_prompt: usize,
    /// Those of them that the cache had when the request began.
    pub n_reused: usize,
    /// Tokens made so far.
    pub n_decoded: usize,
    /// Tokens that the running request may still make, where it has a limit.
    pub n_remaining: Option<usize>,
}

/// What the engine needs of a tokenizer; tests fake it.
pub trait Pieces: Send + Sync + 'static {
    /// Number of token ids. Logits beyond it belong to no token and are never sampled.
    fn n_vocab(&self) -> usize;
    /// The bytes a token stands for.
    fn piece(&self, id: TokenId) -> &[u8];
    /// Whether this token ends a reply.
    fn is_end(&self, id: TokenId) -> bool;
    /// Whether this token is not shown unless asked for.
    fn is_control(&self, id: TokenId) -> bool;
}

impl Pieces for Tokenizer {
    fn n_vocab(&self) -> usize {
        self.n_vocab()
    }
    fn piece(&self, id: TokenId) -> &[u8] {
        self.piece(id)
    }
    fn is_end(&self, id: TokenId) -> bool {
        self.is_end(id)
    }
    fn is_control(&self, id: TokenId) -> bool {
        self.is_control(id)
    }
}

/// Handle of the engine thread. The thread ends when the last handle is dropped or at [`Engine::shutdown`]; either way
/// running and waiting requests get `Done` with [`StopReason::Shutdown`].
pub struct Engine<P: Pieces = Tokenizer> {
    tokenizer: Arc<P>,
    inner: Arc<Inner>,
}

/// What the handles share; dropped with the last of them.
struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    options: EngineOptions,
    /// Rows of the model's embedding: what a prompt may contain.
    n_rows: usize,
    n_ctx_train: usize,
    d_model: usize,
    end_tokens: Vec<TokenId>,
}

impl<P: Pieces> Engine<P> {
    /// Starts the thread. Sizes of 0 are taken as 1, except `max_queue`.
    ///
    /// Should the system refuse a thread, every [`Engine::submit`] answers [`EngineError::Stopped`].
    pub fn start<M: LanguageModel>(model: M, tokenizer: Arc<P>, options: EngineOptions) -> Engine<P> {
        let options = EngineOptions {
            n_ctx: options.n_ctx.max(1),
            n_parallel: options.n_parallel.max(1),
            n_ubatch: options.n_ubatch.max(1),
            max_queue: options.max_queue,
            n_lookup: options.n_lookup,
        };
        let shared = Arc::new(Shared::new(options.n_parallel));
        let (n_rows, n_ctx_train, d_model) = (model.n_vocab(), model.n_ctx_train(), model.d_model());
        let n_vocab = tokenizer.n_vocab().min(n_rows) as TokenId;
        let end_tokens = (0..n_vocab).filter(|&id| tokenizer.is_end(id)).collect();
        let thread = std::thread::Builder::new().name("engine".into()).spawn({
            let (shared, pieces) = (Arc::clone(&shared), Arc::clone(&tokenizer));
            move || Worker::new(model, pieces, options, shared).run()
        });
        if thread.is_err() {
            shared.stop();
        }
        let thread = Mutex::new(thread.ok());
        let inner = Inner { shared, thread, options, n_rows, n_ctx_train, d_model, end_tokens };
        Engine { tokenizer, inner: Arc::new(inner) }
    }

    /// Queues a request.
    ///
    /// The channel is unbounded: a reader who lags is never waited for, and what piles up is bounded by the length of
    /// the prompt and the reply.
    ///
    /// # Errors
    /// At once for a prompt that is empty or does not fit, a setting out of range, a full queue.
    pub fn submit(&self, mut request: Request) -> Result<Events, EngineError> {
        let Inner { options, n_ctx_train, .. } = &*self.inner;
        let has_bos = request.prompt.first().is_some_and(|&id| self.tokenizer.is_control(id));
        let context = Context::new(request.overflow, &mut request.prompt, has_bos, options.n_ctx, *n_ctx_train);
        self.check(&request)?;
        if request.ignore_eos {
            let bans = self.inner.end_tokens.iter();
            let bans = bans.map(|&id| (id, f32::NEG_INFINITY));
            request.sampling.logit_bias.extend(bans);
        }
        let (sender, events) = async_channel::unbounded();
        let session = Box::new(Session::new(request, context, sender).with_lookup(self.inner.options.n_lookup));
        self.inner.shared.submit(session, options.max_queue)?;
        Ok(events)
    }

    /// Queues a text whose embedding is wanted: it is in [`Done`], and there are no tokens. Nothing of it stays in a slot.
    ///
    /// # Errors
    /// At once for a text that is empty or does not fit, a full queue, a model without hidden states.
    pub fn embed(&self, tokens: Vec<TokenId>, pooling: Pooling) -> Result<Events, EngineError> {
        let Inner { options, d_model, .. } = &*self.inner;
        let request = Request { limit: Limit::Tokens(0), cache_prompt: false, ..Request::new(tokens) };
        self.check(&request)?;
        if *d_model == 0 {
            return Err(EngineError::BadSetting("this model gives no hidden states to embed a text with".into()));
        }
        let (sender, events) = async_channel::unbounded();
        let session = Box::new(Session::new(request, Context::default(), sender).with_embedding(pooling, *d_model));
        self.inner.shared.submit(session, options.max_queue)?;
        Ok(events)
    }

    /// Writes what slot `slot` holds, with its tokens, as soon as no request runs in it.
    ///
    /// # Errors
    /// At once for a slot that is not there, or where too many wait.
    pub fn save_slot(&self, slot: usize, out: Box<dyn Write + Send>) -> Result<SlotAnswer, SlotError> {
        self.command(slot, Action::Save(out))
    }

    /// Puts what [`Engine::save_slot`] wrote into slot `slot`, as soon as no request runs in it. Where that fails, the slot
    /// is as before.
    ///
    /// # Errors
    /// As [`Engine::save_slot`].
    pub fn restore_slot(&self, slot: usize, input: Box<dyn Read + Send>) -> Result<SlotAnswer, SlotError> {
        self.command(slot, Action::Restore(input))
    }

    /// Forgets what slot `slot` holds, as soon as no request runs in it.
    ///
    /// # Errors
    /// As [`Engine::save_slot`].
    pub fn erase_slot(&self, slot: usize) -> Result<SlotAnswer, SlotError> {
        self.command(slot, Action::Erase)
    }

    fn command(&self, slot: usize, action: Action) -> Result<SlotAnswer, SlotError> {
        let n_slots = self.inner.options.n_parallel;
        if slot >= n_slots {
            return Err(SlotError::NoSlot { slot, n_slots });
        }
        let (command, answer) = Command::new(slot, action);
        self.inner.shared.command(command)?;
        Ok(answer)
    }

    /// Values of an embedding; 0 where the model gives none.
    pub fn d_model(&self) -> usize {
        self.inner.d_model
    }

    /// The tokenizer the engine decodes with.
    pub fn tokenizer(&self) -> &Arc<P> {
        &self.tokenizer
    }

    /// Its sizes.
    pub fn options(&self) -> EngineOptions {
        self.inner.options
    }

    /// What each slot is doing now.
    pub fn slots(&self) -> Vec<SlotState> {
        self.inner.shared.slots()
    }

    /// What has been done since the start.
    pub fn metrics(&self) -> Metrics {
        self.inner.shared.metrics()
    }

    /// Ends the thread: running and waiting requests get `Done` with [`StopReason::Shutdown`]. Does not wait; the step
    /// under way is finished first.
    pub fn shutdown(&self) {
        self.inner.shared.stop();
    }

    /// Waits until the thread has ended and the model is freed. Only the first caller waits. Do not call it from a
    /// task: it blocks for as long as a step takes.
    pub fn join(&self) {
        let thread = self.inner.thread.lock();
        let thread = thread.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread has already been told by the panic hook.
            let _ = thread.join();
        }
    }

    fn check(&self, request: &Request) -> Result<(), EngineError> {
        let n_rows = self.inner.n_rows;
        let n_ctx = self.inner.options.n_ctx;
        if request.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if request.prompt.len() > n_ctx {
            return Err(EngineError::PromptTooLong { prompt: request.prompt.len(), n_ctx });
        }
        if let Some(id) = request.prompt.iter().find(|&&id| id as usize >= n_rows) {
            return Err(EngineError::BadSetting(format!(
                "the prompt contains token {id} and the model has {n_rows} tokens"
            )));
        }
        request.sampling.check(n_rows.min(self.tokenizer.n_vocab()))?;
        let n_slots = self.inner.options.n_parallel;
        if let Some(slot) = request.slot.filter(|slot| *slot >= n_slots) {
            return Err(EngineError::BadSetting(format!("there is no slot {slot}; the last one is {}", n_slots - 1)));
        }
        if request.n_probs > MAX_N_PROBS {
            return Err(EngineError::BadSetting(format!("`n_probs` is {} and may be {MAX_N_PROBS}", request.n_probs)));
        }
        stop::check(&request.stop)
    }
}

impl<P: Pieces> Clone for Engine<P> {
    fn clone(&self) -> Self {
        Engine { tokenizer: Arc::clone(&self.tokenizer), inner: Arc::clone(&self.inner) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

#[cfg(test)]
mod tests;
