//! What llama.cpp's server and OpenAI have and this program, or any Gemma 2 model, does not: the routes answer 501 and say
//! why, so that a client sees more than a missing page.

use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::AppState;
use super::error::ApiError;

/// The routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/infill", post(infill))
        .route("/rerank", post(rerank))
        .route("/reranking", post(rerank))
        .route("/v1/rerank", post(rerank))
        .route("/v1/reranking", post(rerank))
        .route("/v1/audio/transcriptions", post(transcriptions))
        .route("/props", post(set_props))
        .route("/lora-adapters", get(adapters).post(set_adapters))
}

async fn infill() -> ApiError {
    ApiError::not_supported(
        "this model cannot fill in: it has no tokens for prefix, suffix and middle",
        "ask for the missing part in a chat, or use a model that was made for it",
    )
}

async fn rerank() -> ApiError {
    ApiError::not_supported(
        "this model does not rank documents",
        "compare the vectors of `/v1/embeddings`, or use a model that was made for it",
    )
}

async fn transcriptions() -> ApiError {
    ApiError::not_supported("this model does not hear: it reads text only", "use a model that was made for it")
}

async fn set_props() -> ApiError {
    ApiError::not_supported("a running server's settings do not change", "start it anew with other flags")
}

/// There are none, which is an answer.
async fn adapters() -> Json<Value> {
    Json(json!([]))
}

async fn set_adapters() -> ApiError {
    ApiError::not_supported("this server has no adapters", "use weights that the adapter was merged into")
}
