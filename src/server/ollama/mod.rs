//! Ollama's API: chat and generate as lines of JSON, and the models as its clients ask for them.
//!
//! - `stream` is on unless it is `false`. Errors are `{"error": "…"}`, in the middle of a stream too.
//! - Every model name is answered by the one model that is loaded, as on the other APIs; answers carry its own name,
//!   which is the model's id with the tag `latest`.
//! - The model is there as long as the program runs: `keep_alive` is read and has nothing to decide, and a request
//!   without a prompt or messages, which loads a model elsewhere, is answered at once.
//! - `options` are those of the other APIs under Ollama's names; what it leaves out is the server's default. A `num_ctx`
//!   below the server's context holds for the request; above it, the server's context holds (`-c`). What decides how a
//!   model is loaded elsewhere (`num_gpu`, `num_thread`, `use_mmap` …) is decided when the program starts.
//! - A conversation that does not fit loses its oldest turns, unless `truncate` is `false`. A reply ends with the context,
//!   unless `shift` is `true`; then `num_keep` says how much of the prompt stays. Answers say `truncated`.
//! - `context` of `/api/generate` are the tokens of the conversation so far, with the end of the model's turn.
//! - `tools` of `/api/chat` may be called; a call is told when its arguments are whole. `tool_choice` and
//!   `parallel_tool_calls` are read as in OpenAI's API.
//! - Not there: `images`, `suffix`, `think`, and a `template` in Go's language. They are refused.

mod chat;
mod embed;
mod generate;
mod models;
mod reply;
mod request;

use axum::Router;
use axum::routing::{get, post};

use super::AppState;

/// The routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/api/chat", post(chat::chat))
        .route("/api/generate", post(generate::generate))
        .route("/api/embed", post(embed::embed))
        .route("/api/embeddings", post(embed::embeddings))
        .route("/api/tags", get(models::tags))
        .route("/api/show", post(models::show))
        .route("/api/ps", get(models::ps))
        .route("/api/version", get(models::version))
}
