//! `GET /metrics`: the engine's counters and histograms in Prometheus' text format, under llama.cpp's names where it has one.

use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};

use super::{AppState, Loaded};

/// The handler.
pub async fn metrics(State(state): State<AppState>, Loaded(ready): Loaded) -> Response {
    let m = ready.engine.metrics();
    let (n_kept, kept_bytes) = state.replies().size();
    let slots_per_step = if m.steps > 0 { m.slot_steps as f64 / m.steps as f64 } else { 0.0 };
    let counters = [
        ("llamacpp:prompt_tokens_total", "Prompt tokens computed.", m.prompt_tokens as f64),
        ("llamacpp:prompt_seconds_total", "Time that requests spent on their prompts.", m.prefill.as_secs_f64()),
        ("llamacpp:tokens_predicted_total", "Tokens made.", m.decoded_tokens as f64),
        ("llamacpp:tokens_predicted_seconds_total", "Time that requests spent on replies.", m.decode.as_secs_f64()),
        ("llamacpp:n_decode_total", "Forward passes.", m.steps as f64),
        ("llamacpp:n_tokens_max", "Most tokens of a prompt and its reply together.", m.longest as f64),
        ("llamacpp:prompt_tokens_cached_total", "Prompt tokens that came from a cache.", m.cached_tokens as f64),
        ("gemma2:prompt_cache_hits_total", "Requests whose prompt began in a cache.", m.cache_hits as f64),
        ("llamacpp:spec_decode_num_draft_tokens_total", "Tokens of replies guessed ahead.", m.drafted_tokens as f64),
        ("llamacpp:spec_decode_num_accepted_tokens_total", "Those that came true.", m.accepted_tokens as f64),
        ("llamacpp:spec_decode_num_drafts_total", "Steps that checked such guesses.", m.drafts as f64),
        ("gemma2:context_shifts_total", "Times that a full context was shifted.", m.context_shifts as f64),
        ("gemma2:requests_total", "Requests taken.", m.requests as f64),
        ("gemma2:requests_rejected_total", "Requests refused because the queue was full.", m.rejected as f64),
        ("gemma2:requests_cancelled_total", "Requests whose client left.", m.cancelled as f64),
        ("gemma2:requests_failed_total", "Requests that failed.", m.failed as f64),
    ];
    let speed = |n: u64, time: Duration| if time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() };
    let gauges = [
        ("llamacpp:prompt_tokens_seconds", "Prompt tokens per second.", speed(m.prompt_tokens, m.prefill)),
        ("llamacpp:predicted_tokens_seconds", "Tokens made per second.", speed(m.decoded_tokens, m.decode)),
        ("llamacpp:requests_processing", "Requests that run now.", m.running as f64),
        ("llamacpp:requests_deferred", "Requests that wait now.", m.queued as f64),
        ("gemma2:open_connections", "Connections that are open now.", state.open_connections() as f64),
        ("gemma2:kept_replies", "Replies that outlive their connection.", n_kept as f64),
        ("gemma2:kept_reply_bytes", "What they have so far.", kept_bytes as f64),
        ("llamacpp:n_busy_slots_per_decode", "Slots that took part in a forward pass, on average.", slots_per_step),
    ];
    let mut text = String::new();
    for (kind, rows) in [("counter", counters.as_slice()), ("gauge", gauges.as_slice())] {
        for (name, help, value) in rows {
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }
    let histograms = [
        ("gemma2:queue_seconds", "Time that requests waited for a slot.", m.waits.queue),
        ("gemma2:first_token_seconds", "Time from a request to its first token.", m.waits.first_token),
        ("gemma2:reply_tokens_per_second", "Speed of replies after their first token.", m.waits.tokens_per_second),
    ];
    for (name, help, histogram) in histograms {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} histogram\n");
        let mut total = 0;
        for (bound, count) in histogram.cumulative() {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".into() };
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
            total = count;
        }
        let _ = write!(text, "{name}_sum {}\n{name}_count {total}\n", histogram.sum());
    }
    let headers = [
        (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8".to_owned()),
        (HeaderName::from_static("process-start-time-unix"), state.started_at().to_string()),
    ];
    (headers, text).into_response()
}
