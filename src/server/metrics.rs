//! `GET /metrics`: the engine's counters in Prometheus' text format, under llama.cpp's names where it has one.

use std::fmt::Write as _;

use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Loaded;

/// The handler.
pub async fn metrics(Loaded(ready): Loaded) -> Response {
    let m = ready.engine.metrics();
    let slots_per_step = if m.steps > 0 { m.slot_steps as f64 / m.steps as f64 } else { 0.0 };
    let counters = [
        ("llamacpp:prompt_tokens_total", "Prompt tokens computed.", m.prompt_tokens as f64),
        ("llamacpp:prompt_seconds_total", "Time that requests spent on their prompts.", m.prefill.as_secs_f64()),
        ("llamacpp:tokens_predicted_total", "Tokens made.", m.decoded_tokens as f64),
        ("llamacpp:tokens_predicted_seconds_total", "Time that requests spent on replies.", m.decode.as_secs_f64()),
        ("llamacpp:n_decode_total", "Forward passes.", m.steps as f64),
        ("gemma2:prompt_tokens_cached_total", "Prompt tokens that came from a cache.", m.cached_tokens as f64),
        ("gemma2:requests_total", "Requests taken.", m.requests as f64),
        ("gemma2:requests_rejected_total", "Requests refused because the queue was full.", m.rejected as f64),
        ("gemma2:requests_cancelled_total", "Requests whose client left.", m.cancelled as f64),
        ("gemma2:requests_failed_total", "Requests that failed.", m.failed as f64),
    ];
    let gauges = [
        ("llamacpp:requests_processing", "Requests that run now.", m.running as f64),
        ("llamacpp:requests_deferred", "Requests that wait now.", m.queued as f64),
        ("llamacpp:n_busy_slots_per_decode", "Slots that took part in a forward pass, on average.", slots_per_step),
    ];
    let mut text = String::new();
    for (kind, rows) in [("counter", counters.as_slice()), ("gauge", gauges.as_slice())] {
        for (name, help, value) in rows {
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
