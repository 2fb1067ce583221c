//! Requests in, events out: the one decode loop, on a thread of its own.
//!
//! [`Engine`] is a cheap handle; [`Engine::submit`] returns [`Events`], which a thread can iterate
//! (`recv_blocking`) and a task can await. Dropping the receiver cancels the request within a step.

pub mod chain;
pub mod rng;
pub mod sampler;

use std::sync::Arc;
use std::time::Duration;

use crate::error::Hint;
use crate::model::LanguageModel;
use crate::tokenizer::{TokenId, Tokenizer};

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
    /// `None` draws one; the used one is reported in [`Done`].
    pub seed: Option<u64>,
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

/// One generation.
#[derive(Clone, Debug)]
pub struct Request {
    /// The whole prompt, `<bos>` included.
    pub prompt: Vec<TokenId>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// How long the reply may get.
    pub limit: Limit,
    /// End tokens are not sampled (their logits are masked).
    pub ignore_eos: bool,
    /// Generation ends before the first of these; they are found across token borders and never emitted.
    pub stop: Vec<String>,
    /// Control tokens appear in the text.
    pub show_control: bool,
    /// Probabilities reported with each token: the sampled one and this many best; 0 is none.
    pub n_probs: usize,
    /// Keep and reuse the prefix in a slot's cache.
    pub cache_prompt: bool,
}

impl Request {
    /// A request with default settings.
    pub fn new(prompt: Vec<TokenId>) -> Request {
        Request {
            prompt,
            sampling: Sampling::default(),
            limit: Limit::EndOfTurn,
            ignore_eos: false,
            stop: Vec::new(),
            show_control: false,
            n_probs: 0,
            cache_prompt: true,
        }
    }
}

/// What happens to a request, in order: any number of `Prefill`, then `Token`s, then one `Done` or `Failed`.
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
    /// A token was made. Its text may be empty while a character or a possible stop string is unfinished.
    Token(Token),
    /// The end, with the rest of the text.
    Done(Box<Done>),
    /// The request failed; the engine goes on.
    Failed(EngineError),
}

/// One generated token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// The text that became certain with it: whole characters, no part of a stop string.
    pub text: String,
    /// Natural log of its probability under the model (temperature 1, no filters), where asked for.
    pub logprob: Option<f32>,
    /// The best tokens at this step with their log-probabilities, best first, where asked for.
    pub top: Vec<(TokenId, f32)>,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended its turn.
    EndOfTurn,
    /// A stop string was found.
    StopString(String),
    /// `Limit::Tokens` was reached.
    TokenLimit,
    /// The context is full.
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
    /// Reading the rest of the prompt, up to the first token's logits.
    pub prefill: Duration,
    /// Tokens made.
    pub decoded_tokens: usize,
    /// From the first token's logits to the end.
    pub decode: Duration,
}

/// A request that cannot be taken or that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Longer than the context.
    #[error("the prompt has {prompt} tokens and the context holds {n_ctx}")]
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
            EngineError::QueueFull => {
                Some("try again in a moment, or start with a larger `-np`".into())
            }
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
    /// Tokens made so far.
    pub n_decoded: usize,
}

/// Handle of the engine thread. The thread ends when the last handle is dropped or at [`Engine::shutdown`].
#[derive(Clone)]
pub struct Engine {
    tokenizer: Arc<Tokenizer>,
    options: EngineOptions,
}

impl Engine {
    /// Starts the thread.
    pub fn start<M: LanguageModel>(
        _model: M,
        _tokenizer: Arc<Tokenizer>,
        _options: EngineOptions,
    ) -> Engine {
        todo!()
    }

    /// Queues a request.
    ///
    /// # Errors
    /// At once for a prompt that is empty or does not fit, a setting out of range, a full queue.
    pub fn submit(&self, _request: Request) -> Result<Events, EngineError> {
        todo!()
    }

    /// The tokenizer the engine decodes with.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// Its sizes.
    pub fn options(&self) -> EngineOptions {
        self.options
    }

    /// What each slot is doing now.
    pub fn slots(&self) -> Vec<SlotState> {
        todo!()
    }

    /// Ends the thread: running requests get `Done` with [`StopReason::Shutdown`].
    pub fn shutdown(&self) {
        todo!()
    }
}
