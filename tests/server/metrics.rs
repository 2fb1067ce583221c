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

#[tokio::test]
async fn every_metric_of_llama_cpp_is_there_with_its_type() {
    let state = ready(options());
    let done = post(&state, "/completion", &json!({"prompt": "a", "n_predict": 4})).await.ok();
    let answer = get(&state, "/metrics").await;
    assert!(answer.header("process-start-time-unix").parse::<u64>().is_ok_and(|seconds| seconds > 1_700_000_000));
    let text = answer.text;
    let counters = [
        "prompt_tokens_total",
        "prompt_tokens_cached_total",
        "prompt_seconds_total",
        "tokens_predicted_total",
        "tokens_predicted_seconds_total",
        "n_decode_total",
        "n_tokens_max",
        "spec_decode_num_draft_tokens_total",
        "spec_decode_num_accepted_tokens_total",
        "spec_decode_num_drafts_total",
    ];
    let gauges = [
        "prompt_tokens_seconds",
        "predicted_tokens_seconds",
        "requests_processing",
        "requests_deferred",
        "n_busy_slots_per_decode",
    ];
    for (kind, names) in [("counter", &counters[..]), ("gauge", &gauges[..])] {
        for name in names {
            assert!(text.contains(&format!("# HELP llamacpp:{name} ")), "{name}");
            assert!(text.contains(&format!("# TYPE llamacpp:{name} {kind}\n")), "{name}");
            sample(&text, &format!("llamacpp:{name}"));
        }
    }
    let n_all = done["tokens_evaluated"].as_f64().expect("a number") + 4.0;
    assert_eq!(sample(&text, "llamacpp:n_tokens_max"), n_all);
    assert!(sample(&text, "llamacpp:predicted_tokens_seconds") > 0.0);
}
