//! `POST /quit`: the page's way to end the program, for whoever started it without a terminal.
//!
//! Only where the server is bound to loopback, and only with the token that `/props` tells in `quit_token`: a page of
//! somebody else can send a request but cannot read the token.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use super::AppState;
use super::error::ApiError;

const QUIT_TOKEN: &str = "x-quit-token";

/// The wish to quit, and who may have it.
pub(super) struct Quit {
    /// `None` where nobody may.
    token: Option<String>,
    requested: Notify,
}

impl Quit {
    pub(super) fn new(local_addr: SocketAddr) -> Quit {
        let mut random = [0u8; 16];
        let is_random = getrandom::fill(&mut random).is_ok();
        let token = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Quit { token: Some(token).filter(|_| is_random && local_addr.ip().is_loopback()), requested: Notify::new() }
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub(super) async fn requested(&self) {
        self.requested.notified().await;
    }
}

/// The route.
pub fn routes() -> Router<AppState> {
    Router::new().route("/quit", post(quit))
}

async fn quit(State(state): State<AppState>, headers: HeaderMap) -> Result<(StatusCode, Json<Value>), ApiError> {
    let hint = "press Ctrl-C where the program was started";
    let Some(token) = state.quit().token() else {
        return Err(ApiError::forbidden("only a server that is bound to loopback can be ended from its page", hint));
    };
    let given = headers.get(QUIT_TOKEN).map_or(&[][..], |value| value.as_bytes());
    if !bool::from(given.ct_eq(token.as_bytes())) {
        return Err(ApiError::forbidden("the token in `x-quit-token` is not the one that `/props` tells", hint));
    }
    state.quit().requested.notify_one();
    Ok((StatusCode::ACCEPTED, Json(json!({ "status": "stopping" }))))
}
