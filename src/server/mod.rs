//! The HTTP APIs and the embedded page.
//!
//! A server is a function: [`router`] makes the whole application out of an [`AppState`], and tests call it without a
//! socket; [`serve`] puts it behind a listener. The state starts as *loading*, so that a port can be bound and answered
//! before the model is read, and becomes ready once.
//!
//! # Routes
//!
//! | route | API | needs |
//! |---|---|---|
//! | `POST /v1/chat/completions`, `/v1/completions`, `/v1/responses`, `GET /v1/models` | OpenAI ([`openai`]) | key, model |
//! | `POST /v1/chat/completions/input_tokens`, `/v1/responses/input_tokens` | how long a prompt is | key, model |
//! | `POST /v1/messages`, `/v1/messages/count_tokens` | Anthropic ([`anthropic`]) | key, model |
//! | `POST /v1/embeddings`, `/embedding` | OpenAI and llama.cpp (`embeddings.rs`) | key, model |
//! | `POST /completion`, `/tokenize`, `/detokenize`, `/apply-template` | llama.cpp ([`llama_cpp`]) | key, model |
//! | `GET /tokenizer_info` | vLLM (`vllm.rs`) | key, model |
//! | `GET /props`, `/slots`, `/metrics` | llama.cpp | key, model |
//! | `POST /slots/{id}` | llama.cpp: save, restore, erase (`slots.rs`) | key, model |
//! | `POST /api/chat`, `/api/generate`, `/api/embed`, `/api/embeddings`, `/api/show`, `GET /api/tags`, `/api/ps`, `/api/version` | Ollama ([`ollama`]) | key, model |
//! | `POST /infill`, `/rerank`, `/props` and others | what these models or this program do not do: 501 (`absent.rs`) | key |
//! | `GET /replies/{id}`, `POST /replies/{id}/stop` | replies that outlive their connection (`replies.rs`) | key |
//! | `POST /quit` | ends the program, for the page (`quit.rs`) | key, token, loopback |
//! | `GET /health` | llama.cpp: 503 with progress while loading | |
//! | `GET /openapi.json` | what can be called (`openapi.rs`) | |
//! | `GET /` and its files | the page ([`ui`]) | |
//!
//! # Conventions on the wire
//!
//! - Fields have OpenAI's and llama.cpp's names. A field that is unknown is ignored; one that is known, not implemented and
//!   would change the result is a 400 that names it.
//! - Errors are OpenAI's object `{"error": {"message", "type", "param", "code"}}`: under `/v1` the code is null or OpenAI's
//!   word (`context_length_exceeded`, `invalid_api_key`, `model_not_found`), elsewhere llama.cpp's, the status. `hint`
//!   says what to do. A stream that fails ends with one `data: {"error": …}` frame and no `[DONE]`. Under `/api` they are
//!   Ollama's `{"error": "…"}`, under `/v1/messages` Anthropic's `{"type": "error", "error": {"type", "message"}}`.
//! - Streams are server-sent events with a comment in each second of silence; Ollama's are lines of JSON. Closing the
//!   connection cancels, unless the request carries `x-reply-id`: see `replies.rs`.
//! - What does not fit the context is the request's choice: `overflow` and `n_keep`, see `overflow.rs`.
//! - Extensions, for the page and whoever likes them: `templates` (in), `stop_reason`, `stopping_word` and `seed` beside
//!   `finish_reason`, llama.cpp's `timings`, `timings_per_token` and `return_progress` on every API, its `verbose` on OpenAI's.
//! - Gemma 2 knows no functions: `tools` are told in the first user turn, calls and results travel in fenced blocks
//!   (`chat/tools.rs`), and a reply that begins with such a block comes out as the calls of the API that was asked
//!   (`tools.rs`). Where arguments are objects and not texts, a call that was cut off within them is left out.
//! - 503 carries `Retry-After`: loading (with `progress` and `stage`), a full queue, shutting down.

mod absent;
pub mod anthropic;
mod completion;
mod constraint;
mod conversation;
mod embeddings;
pub mod error;
mod fields;
mod generation;
mod guard;
mod listen;
pub mod llama_cpp;
pub mod log;
mod metrics;
pub mod ollama;
pub mod openai;
mod openapi;
mod overflow;
mod quit;
mod replies;
pub mod sandbox;
mod selection;
mod slots;
mod sse;
mod tools;
pub mod ui;
mod vllm;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::middleware;
use axum::routing::get;
use tokio::sync::Semaphore;

use crate::chat::ChatTemplate;
use crate::engine::{Engine, Limit, Pooling, Sampling};
use crate::grammar::Grammars;
use crate::tokenizer::TokenId;
use error::ApiError;
use quit::Quit;
use replies::Replies;

pub use listen::{serve, serve_all};
pub use replies::ReplyLimits;

/// What is decided before the model is loaded.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where the listener is bound, on which depends what the Host header may say (`guard.rs`).
    pub local_addr: SocketAddr,
    /// Host names by which this server is reached besides those that cannot be anybody else's, or `*` for any.
    pub allowed_hosts: Vec<String>,
    /// The usual port, where another program has it: browsers keep the page's chats apart by port, and the page says so.
    pub moved_from: Option<u16>,
    /// Keys that open the APIs; none: everything is open.
    pub api_keys: Vec<String>,
    /// Origins (`https://example.org`) whose pages may call the APIs; `*` is all of them, `localhost` those that this
    /// machine serves.
    pub cors_origins: Vec<String>,
    /// Serve the page from this folder instead of the embedded one.
    pub ui_dir: Option<PathBuf>,
    /// Version of the program.
    pub version: String,
    /// How long running replies may go on at shutdown.
    pub shutdown_grace: Duration,
    /// How slow a client may be.
    pub patience: Patience,
    /// How much is kept of replies that outlive their connection.
    pub replies: ReplyLimits,
    /// Replies to raw prompts go on past the context, unless a request says otherwise (`overflow.rs`).
    pub context_shift: bool,
    /// OpenAI's answers come with `__verbose`, unless a request says otherwise.
    pub verbose: bool,
    /// Where `POST /slots/{id}` saves slots; `None` is nowhere.
    pub slot_save_path: Option<PathBuf>,
    /// `GET /slots` answers.
    pub shows_slots: bool,
    /// `GET /` answers.
    pub has_page: bool,
    /// How texts are embedded.
    pub pooling: Pooling,
}

/// How slow a client may be.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From a connection's start, or the last response, to the end of the next request's headers.
    pub head: Duration,
    /// From the end of the headers to the end of the body.
    pub body: Duration,
    /// Taking nothing while there is something to take.
    pub write: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { head: Duration::from_secs(60), body: Duration::from_secs(30), write: Duration::from_secs(30) }
    }
}

impl ServerOptions {
    /// Nothing special: no keys, no foreign origins, the embedded page.
    pub fn new(local_addr: SocketAddr) -> ServerOptions {
        ServerOptions {
            local_addr,
            allowed_hosts: Vec::new(),
            moved_from: None,
            api_keys: Vec::new(),
            cors_origins: Vec::new(),
            ui_dir: None,
            version: env!("CARGO_PKG_VERSION").into(),
            shutdown_grace: Duration::from_secs(3),
            patience: Patience::default(),
            replies: ReplyLimits::default(),
            context_shift: true,
            verbose: false,
            slot_save_path: None,
            shows_slots: true,
            has_page: true,
            pooling: Pooling::default(),
        }
    }
}

/// What clients may know about the loaded model.
#[derive(Clone, Debug)]
pub struct ModelFacts {
    /// The model's id in the APIs: `gemma-2-2b-it-Q6_K`.
    pub id: String,
    /// All names that were given to it, the id among them; none where the id is its own.
    pub aliases: Vec<String>,
    /// Words about it, for clients that choose by them.
    pub tags: Vec<String>,
    /// For people: `Gemma 2 2B it`.
    pub name: String,
    /// `Q6_K`, `BF16` …
    pub quantization: String,
    /// Where it was read from, as far as there is a path.
    pub path: String,
    /// Parameters.
    pub n_params: u64,
    /// Bytes of weights.
    pub size_bytes: u64,
    /// The context it was trained for.
    pub n_ctx_train: usize,
    /// It is the built-in demo model.
    pub is_demo: bool,
    /// Settings of a request that names none.
    pub sampling: Sampling,
    /// How long a reply may get where a request does not say it.
    pub limit: Limit,
}

/// A loaded model.
pub struct Ready {
    /// Runs requests.
    pub engine: Engine,
    /// Compiles what replies have to look like.
    pub grammars: Grammars,
    /// What clients may know.
    pub facts: ModelFacts,
    /// Renders conversations.
    pub template: ChatTemplate,
    /// Seconds since 1970 when it became ready.
    pub loaded_at: u64,
    /// Tokens that end a reply.
    pub end_tokens: Vec<TokenId>,
}

struct Loading {
    progress: f32,
    stage: String,
}

struct Shared {
    options: ServerOptions,
    ready: OnceLock<Arc<Ready>>,
    loading: Mutex<Loading>,
    large_bodies: Semaphore,
    large_answers: Semaphore,
    open_connections: AtomicUsize,
    replies: Arc<Replies>,
    quit: Quit,
    started_at: u64,
    sandbox: OnceLock<sandbox::Report>,
}

/// What all handlers share; cheap to clone. Starts as loading.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

impl AppState {
    /// A server whose model is still to be loaded.
    pub fn new(options: ServerOptions) -> AppState {
        AppState(Arc::new(Shared {
            replies: Arc::new(Replies::new(options.replies)),
            quit: Quit::new(options.local_addr),
            started_at: wire::unix_time(),
            sandbox: OnceLock::new(),
            options,
            ready: OnceLock::new(),
            loading: Mutex::new(Loading { progress: 0.0, stage: "starting".into() }),
            large_bodies: Semaphore::new(2),
            large_answers: Semaphore::new(2),
            open_connections: AtomicUsize::new(0),
        }))
    }

    /// How far loading is: `progress` from 0 to 1, `stage` in words.
    pub fn set_progress(&self, progress: f32, stage: &str) {
        let mut loading = self.0.loading.lock().unwrap_or_else(PoisonError::into_inner);
        loading.progress = progress.clamp(0.0, 1.0);
        stage.clone_into(&mut loading.stage);
    }

    /// The model is loaded; from now on the APIs answer. A second call changes nothing.
    pub fn set_ready(&self, engine: Engine, facts: ModelFacts, template: ChatTemplate) {
        let tokenizer = engine.tokenizer();
        let n_vocab = TokenId::try_from(tokenizer.n_vocab()).unwrap_or(TokenId::MAX);
        let end_tokens = (0..n_vocab).filter(|id| tokenizer.is_end(*id)).collect();
        let grammars = Grammars::new(tokenizer.clone());
        let loaded_at = wire::unix_time();
        let _ = self.0.ready.set(Arc::new(Ready { engine, grammars, facts, template, loaded_at, end_tokens }));
    }

    /// The model.
    ///
    /// # Errors
    /// 503 with the progress while it is being loaded.
    pub fn ready(&self) -> Result<Arc<Ready>, ApiError> {
        if let Some(ready) = self.0.ready.get() {
            return Ok(ready.clone());
        }
        let loading = self.0.loading.lock().unwrap_or_else(PoisonError::into_inner);
        Err(ApiError::loading(loading.progress, &loading.stage))
    }

    /// Connections that are open now. One that was cut stops counting when all that was made for it is let go of.
    pub fn open_connections(&self) -> usize {
        self.0.open_connections.load(Ordering::Acquire)
    }

    fn count_connection(&self) -> OpenConnection {
        self.0.open_connections.fetch_add(1, Ordering::Relaxed);
        OpenConnection(self.clone())
    }

    fn options(&self) -> &ServerOptions {
        &self.0.options
    }

    /// The sandbox is up. A second call changes nothing.
    pub fn set_sandbox(&self, report: sandbox::Report) {
        let _ = self.0.sandbox.set(report);
    }

    fn sandbox(&self) -> Option<&sandbox::Report> {
        self.0.sandbox.get()
    }

    /// Ready when the page has asked for the end of the program.
    pub async fn quit_requested(&self) {
        self.0.quit.requested().await;
    }

    /// Seconds since 1970 when the server began.
    fn started_at(&self) -> u64 {
        self.0.started_at
    }

    fn quit(&self) -> &Quit {
        &self.0.quit
    }

    fn replies(&self) -> &Arc<Replies> {
        &self.0.replies
    }

    fn large_bodies(&self) -> &Semaphore {
        &self.0.large_bodies
    }

    /// A permit to make an answer of many megabytes.
    fn large_answers(&self) -> &Semaphore {
        &self.0.large_answers
    }
}

/// Counts as a connection until it is dropped.
struct OpenConnection(AppState);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let AppState(shared) = &self.0;
        shared.open_connections.fetch_sub(1, Ordering::Release);
    }
}

/// The model as an argument of a handler. It stands before the body in the argument list: a server that loads says so
/// before it reads anything.
pub(crate) struct Loaded(pub(crate) Arc<Ready>);

impl FromRequestParts<AppState> for Loaded {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, state: &AppState) -> Result<Loaded, ApiError> {
        state.ready().map(Loaded)
    }
}

/// The whole application.
pub fn router(state: AppState) -> Router {
    let apis = Router::new()
        .merge(openai::routes())
        .merge(llama_cpp::routes())
        .merge(embeddings::routes())
        .merge(ollama::routes())
        .merge(anthropic::routes())
        .merge(vllm::routes())
        .merge(absent::routes())
        .route("/metrics", get(metrics::metrics))
        .merge(replies::routes())
        .merge(quit::routes())
        .route_layer(middleware::from_fn_with_state(state.clone(), replies::keep))
        .route_layer(middleware::from_fn_with_state(state.clone(), guard::require_key));
    let open = Router::new().route("/health", get(llama_cpp::health)).route("/v1/health", get(llama_cpp::health));
    let open = open.route("/openapi.json", get(openapi::openapi));
    Router::new()
        .merge(apis)
        .merge(open)
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .fallback(ui::page)
        .layer(middleware::from_fn_with_state(state.clone(), guard::guard))
        .layer(middleware::from_fn(log::log))
        .with_state(state)
}
