//! Counters and histograms.

use super::*;

/// The value of a sample, by all that stands before it.
fn sample(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no `{name}` in:\n{text}"))
}

#[tokio::test]
async fn what_clients_feel_is_counted() {
    let state = ready(options());
    for _ in 0..2 {
        post(&state, "/completion", &json!({"prompt": "Hi", "seed": 1})).await.ok();
    }
    post(&state, "/completion", &json!({"prompt": "Hi", "n_predict": 0})).await.ok();
    let text = get(&state, "/metrics").await.text;
    assert_eq!(sample(&text, "gemma2:prompt_cache_hits_total"), 2.0);
    for (name, count) in [("queue_seconds", 3.0), ("first_token_seconds", 2.0), ("reply_tokens_per_second", 2.0)] {
        assert!(text.contains(&format!("# TYPE gemma2:{name} histogram")), "{name}");
        assert_eq!(sample(&text, &format!("gemma2:{name}_count")), count, "{name}");
        assert_eq!(sample(&text, &format!("gemma2:{name}_bucket{{le=\"+Inf\"}}")), count, "{name}");
        assert!(sample(&text, &format!("gemma2:{name}_sum")) > 0.0, "{name}");
    }
    for name in ["open_connections", "kept_replies", "kept_reply_bytes"] {
        assert_eq!(sample(&text, &format!("gemma2:{name}")), 0.0, "{name}");
    }
}
