//! Anthropic's shapes, field by field.

use super::*;

const MESSAGES: &str = "/v1/messages";

async fn message(body: Value) -> Answer {
    post(&ready(options()), MESSAGES, &body).await
}

/// The data of a stream's events, each of which has its type as its name.
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    named_events(&answer.text)
}

/// Holds the names of all events against the types in their data.
pub fn named_events(text: &str) -> Vec<Value> {
    let blocks = text.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':'));
    let events = blocks.map(|block| {
        let (name, data) = block.split_once('\n').expect("two lines");
        let name = name.strip_prefix("event: ").expect("a name");
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
        assert_eq!(data["type"], name);
        data
    });
    events.collect()
}

#[tokio::test]
async fn a_message_has_anthropic_s_fields() {
    let state = ready(options());
    let n_prompt = post(&state, "/apply-template", &json!({"messages": hi()})).await.ok()["n_tokens"].clone();
    let n_prompt = n_prompt.as_u64().expect("a count");
    let ask = json!({"model": "claude", "max_tokens": 100, "messages": hi()});
    let body = post(&state, MESSAGES, &ask).await.ok();
    assert!(body["id"].as_str().expect("an id").starts_with("msg_"));
    let n_reply = body["usage"]["output_tokens"].as_u64().expect("a count");
    assert!((26..=27).contains(&n_reply), "{n_reply}");
    let mut expected = json!({
        "id": body["id"], "type": "message", "role": "assistant", "model": "alphabet-Q6_K",
        "content": [{"type": "text", "text": ALPHABET}],
        "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {
            "input_tokens": n_prompt, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": n_reply,
        },
        "truncated": false,
    });
    assert_eq!(body, expected);

    let again = post(&state, MESSAGES, &ask).await.ok();
    let n_cached = again["usage"]["cache_read_input_tokens"].as_u64().expect("a count");
    assert!(n_cached > 0, "{again}");
    expected["id"] = again["id"].clone();
    expected["usage"]["cache_read_input_tokens"] = json!(n_cached);
    expected["usage"]["input_tokens"] = json!(n_prompt - n_cached);
    assert_eq!(again, expected);
}

#[tokio::test]
async fn the_end_is_told_in_anthropic_s_words() {
    let body = message(json!({"max_tokens": 3, "messages": hi()})).await.ok();
    assert_eq!((&body["content"][0]["text"], &body["stop_reason"]), (&json!("abc"), &json!("max_tokens")));
    let long = json!([{"role": "user", "content": "word ".repeat(33)}]);
    let body = message(json!({"messages": long})).await.ok();
    assert_eq!(body["stop_reason"], "model_context_window_exceeded", "{body}");
    let body = message(json!({"stop_sequences": ["no", "efg"], "messages": hi()})).await.ok();
    assert_eq!(body["content"][0]["text"], "abcd");
    assert_eq!((&body["stop_reason"], &body["stop_sequence"]), (&json!("stop_sequence"), &json!("efg")));
}

#[tokio::test]
async fn a_stream_tells_anthropic_s_events_in_their_order() {
    let body = json!({"max_tokens": 100, "stream": true, "messages": hi(), "stop_sequences": ["yz"]});
    let events = events(&message(body).await);
    let types: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(types[..3], ["message_start", "content_block_start", "ping"]);
    let n = types.len();
    assert_eq!(types[n - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert!(types[3..n - 3].iter().all(|one| *one == "content_block_delta"), "{types:?}");

    let start = &events[0]["message"];
    assert_eq!(
        (&start["content"], &start["stop_reason"], &start["role"]),
        (&json!([]), &Value::Null, &json!("assistant"))
    );
    assert!(start["usage"]["input_tokens"].as_u64().is_some_and(|n| n > 0));
    assert_eq!((&events[1]["index"], &events[1]["content_block"]), (&json!(0), &json!({"type": "text", "text": ""})));
    let deltas = events[3..n - 3].iter().map(|event| {
        assert_eq!((&event["index"], &event["delta"]["type"]), (&json!(0), &json!("text_delta")));
        event["delta"]["text"].as_str().expect("a text")
    });
    assert_eq!(deltas.collect::<String>() + "yz", ALPHABET);
    let delta = &events[n - 2];
    assert_eq!(delta["delta"], json!({"stop_reason": "stop_sequence", "stop_sequence": "yz"}));
    assert_eq!(delta["usage"]["input_tokens"], start["usage"]["input_tokens"]);
    assert!(delta["usage"]["output_tokens"].as_u64().is_some_and(|n| n > 20));
}

#[tokio::test]
async fn system_texts_and_blocks_make_the_prompt_and_can_be_counted() {
    let state = ready(options());
    let plain = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n\nthere"}]);
    let expected = post(&state, "/apply-template", &json!({"messages": plain})).await.ok()["n_tokens"].clone();
    let cached = json!({"type": "ephemeral"});
    for system in [json!("Be brief."), json!([{"type": "text", "text": "Be brief.", "cache_control": cached}])] {
        let messages = json!([
            {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": cached}]},
            {"role": "user", "content": "there"},
        ]);
        let count = post(&state, "/v1/messages/count_tokens", &json!({"system": system, "messages": messages})).await;
        assert_eq!(count.ok(), json!({"input_tokens": expected}));
    }
}

#[tokio::test]
async fn a_last_message_by_the_assistant_is_continued() {
    let messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "wx"}]);
    assert_eq!(message(json!({"messages": messages})).await.ok()["content"][0]["text"], "yz");
}

#[tokio::test]
async fn errors_have_anthropic_s_form() {
    let picture = json!([{"role": "user", "content": [{"type": "image", "source": {}}]}]);
    for (field, value) in [
        ("messages", json!([])),
        ("messages", picture),
        ("messages", json!([{"role": "user"}])),
        ("max_tokens", json!(0)),
        ("max_tokens", json!("x")),
        ("temperature", json!(3)),
        ("stop_sequences", json!(vec!["x"; 257])),
        ("stop_sequences", json!(5)),
        ("system", json!(5)),
        ("tools", json!([{"type": "web_search_20250305", "name": "web_search"}])),
        ("tool_choice", json!({"type": "any"})),
        ("output_format", json!({"type": "json_schema"})),
        ("stream", json!("yes")),
        ("thinking", json!(true)),
    ] {
        let answer = message(json!({"messages": hi(), field: value})).await;
        let said = answer.said(400);
        assert!(said.contains(&format!("`{field}")), "{said}");
        assert_eq!(answer.json()["type"], "error");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    let neutral = json!({
        "messages": hi(), "tools": [], "tool_choice": {"type": "auto"}, "metadata": {"user_id": "x"},
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "top_k": 5, "top_p": 0.5, "service_tier": "auto",
    });
    assert_eq!(message(neutral).await.ok()["content"][0]["text"], ALPHABET);
    let long = message(json!({"messages": [{"role": "user", "content": "word ".repeat(200)}], "stream": true})).await;
    assert!(long.said(400).contains(&N_CTX.to_string()));
    assert_eq!(get(&ready(options()), MESSAGES).await.json()["error"]["type"], "invalid_request_error");
    let answer = post(&AppState::new(options()), MESSAGES, &json!({})).await;
    assert_eq!(
        (answer.said(503), answer.json()["error"]["type"].as_str()),
        ("Loading model".into(), Some("overloaded_error"))
    );
}

#[tokio::test]
async fn the_key_may_stand_in_anthropic_s_header() {
    let mut options = options();
    options.api_keys = vec!["one".into()];
    let state = ready(options);
    let ask = |key: &str| {
        let request = request("POST", MESSAGES).header("x-api-key", key).header("anthropic-version", "2023-06-01");
        request.body(Body::from(json!({"messages": hi()}).to_string())).expect("a request")
    };
    call(&state, ask("one")).await.ok();
    let answer = call(&state, ask("two")).await;
    answer.said(401);
    assert_eq!(answer.json()["error"]["type"], "authentication_error");
}
