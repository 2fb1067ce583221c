//! Counters for `GET /metrics`, in Prometheus' text format with llama.cpp's names.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::{AppState, Loaded};
use crate::engine::Timings;

/// Sums over the requests that came to an end by themselves, and over all tokens that were made.
#[derive(Debug, Default)]
pub struct Metrics {
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    prompt_micros: AtomicU64,
    predicted_tokens: AtomicU64,
    predicted_micros: AtomicU64,
    requests: AtomicU64,
}

impl Metrics {
    /// A request has ended.
    pub fn finished(&self, timings: &Timings) {
        let computed = timings.prompt_tokens.saturating_sub(timings.cached_tokens);
        add(&self.prompt_tokens, computed as u64);
        add(&self.cached_tokens, timings.cached_tokens as u64);
        add(&self.prompt_micros, micros(timings.prefill));
        add(&self.predicted_tokens, timings.decoded_tokens as u64);
        add(&self.predicted_micros, micros(timings.decode));
        add(&self.requests, 1);
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// `GET /metrics`.
pub async fn metrics(State(state): State<AppState>, Loaded(ready): Loaded) -> Response {
    let m = state.metrics();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let busy = ready.engine.slots().iter().filter(|slot| slot.busy).count();
    let rows = [
        ("prompt_tokens_total", "counter", "Prompt tokens computed by finished requests.", count(&m.prompt_tokens)),
        (
            "prompt_tokens_cached_total",
            "counter",
            "Prompt tokens of finished requests that came from the cache.",
            count(&m.cached_tokens),
        ),
        (
            "prompt_seconds_total",
            "counter",
            "Time finished requests spent on their prompts.",
            count(&m.prompt_micros) / 1e6,
        ),
        ("tokens_predicted_total", "counter", "Tokens made by finished requests.", count(&m.predicted_tokens)),
        (
            "tokens_predicted_seconds_total",
            "counter",
            "Time finished requests spent on making tokens.",
            count(&m.predicted_micros) / 1e6,
        ),
        ("requests_total", "counter", "Requests that came to an end by themselves.", count(&m.requests)),
        ("requests_processing", "gauge", "Requests that run now.", busy as f64),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in rows {
        let _ = writeln!(text, "# HELP llamacpp:{name} {help}");
        let _ = writeln!(text, "# TYPE llamacpp:{name} {kind}");
        let _ = writeln!(text, "llamacpp:{name} {value}");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
