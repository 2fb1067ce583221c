//! OpenAI's responses, field by field.

use super::anthropic::named_events;
use super::*;

const RESPONSES: &str = "/v1/responses";

async fn respond(body: Value) -> Answer {
    post(&ready(options()), RESPONSES, &body).await
}

fn output(response: &Value) -> &Value {
    &response["output"][0]["content"][0]["text"]
}

#[tokio::test]
async fn a_response_has_openai_s_fields() {
    let body = respond(json!({
        "model": "gpt", "input": "Hi", "instructions": "Be brief.", "temperature": 0.5, "metadata": {"a": "b"},
        "max_output_tokens": 100,
    }))
    .await
    .ok();
    assert!(body["id"].as_str().expect("an id").starts_with("resp_"));
    assert!(body["created_at"].as_u64().is_some_and(|time| time > 1_700_000_000));
    assert_eq!((&body["object"], &body["status"]), (&json!("response"), &json!("completed")));
    assert_eq!((&body["error"], &body["incomplete_details"]), (&Value::Null, &Value::Null));
    let item = &body["output"][0];
    assert!(item["id"].as_str().expect("an id").starts_with("msg_"));
    let part = json!({"type": "output_text", "text": ALPHABET, "annotations": [], "logprobs": []});
    let expected = json!({
        "id": item["id"], "type": "message", "status": "completed", "role": "assistant", "content": [part],
    });
    assert_eq!(*item, expected);
    for (field, value) in [
        ("instructions", json!("Be brief.")),
        ("temperature", json!(0.5)),
        ("metadata", json!({"a": "b"})),
        ("max_output_tokens", json!(100)),
        ("model", json!("alphabet-Q6_K")),
        ("store", json!(false)),
        ("tools", json!([])),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
    let usage = &body["usage"];
    let count = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("{name} in {usage}"));
    assert_eq!(count("total_tokens"), count("input_tokens") + count("output_tokens"));
    assert_eq!(usage["input_tokens_details"], json!({"cached_tokens": 0}));
    assert_eq!(usage["output_tokens_details"], json!({"reasoning_tokens": 0}));
}

#[tokio::test]
async fn input_is_a_text_or_items() {
    let state = ready(options());
    let messages = json!([
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "More"},
    ]);
    let expected = post(&state, "/apply-template", &json!({"messages": messages})).await.ok()["n_tokens"].clone();
    let items = json!([
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "summary": []},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Yes?", "annotations": []}]},
        {"type": "message", "role": "user", "content": "More"},
    ]);
    let body = post(&state, RESPONSES, &json!({"input": items, "instructions": "Be brief."})).await.ok();
    assert_eq!(body["usage"]["input_tokens"], expected);
    let same = post(&state, "/responses", &json!({"input": "Hi"})).await.ok();
    assert_eq!(*output(&same), ALPHABET);
}

#[tokio::test]
async fn a_reply_that_is_cut_is_incomplete() {
    let body = respond(json!({"input": "Hi", "max_output_tokens": 3})).await.ok();
    assert_eq!((output(&body), &body["status"]), (&json!("abc"), &json!("incomplete")));
    assert_eq!(body["incomplete_details"], json!({"reason": "max_output_tokens"}));
    let events = respond(json!({"input": "Hi", "max_output_tokens": 3, "stream": true})).await;
    let last = named_events(&events.text).pop().expect("events");
    assert_eq!((&last["type"], output(&last["response"])), (&json!("response.incomplete"), &json!("abc")));
}

#[tokio::test]
async fn a_stream_tells_typed_and_numbered_events() {
    let answer = respond(json!({"input": "Hi", "stream": true})).await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let events = named_events(&answer.text);
    let types: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    let n = types.len();
    assert_eq!(
        types[..4],
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    );
    assert!(types[4..n - 4].iter().all(|one| *one == "response.output_text.delta"), "{types:?}");
    let ends = ["response.output_text.done", "response.content_part.done", "response.output_item.done"];
    assert_eq!(types[n - 4..n - 1], ends);
    assert_eq!(types[n - 1], "response.completed");
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
        assert!(event.get("timings").is_none() || number == n - 1, "{event}");
    }
    let item_id = &events[2]["item"]["id"];
    assert!(events[3..n - 2].iter().all(|event| event["item_id"] == *item_id));
    let deltas = events.iter().filter_map(|event| event["delta"].as_str());
    assert_eq!(deltas.collect::<String>(), ALPHABET);
    let last = &events[n - 1]["response"];
    assert_eq!((&last["id"], output(last)), (&events[0]["response"]["id"], &json!(ALPHABET)));
    assert_eq!(last["output"][0], events[n - 2]["item"]);
}

#[tokio::test]
async fn progress_and_timings_are_told_where_they_are_asked_for() {
    let ask = json!({
        "input": "word ".repeat(15), "stream": true, "return_progress": true, "timings_per_token": true,
        "max_output_tokens": 3,
    });
    let events = named_events(&respond(ask).await.text);
    let progress = events.iter().filter(|event| event["type"] == "response.in_progress");
    let progress: Vec<&Value> = progress.filter_map(|event| event.get("prompt_progress")).collect();
    assert!(progress.len() > 1, "{progress:?}");
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    let counts: Vec<u64> = deltas.filter_map(|event| event["timings"]["predicted_n"].as_u64()).collect();
    assert_eq!(counts, [1, 2, 3]);
}

#[tokio::test]
async fn the_oldest_turns_are_left_out_where_the_input_does_not_fit() {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text.repeat(12)});
    let long = json!([turn("user", "word "), turn("assistant", "word "), turn("user", "word "), turn("assistant", "word "),
        {"role": "user", "content": "Hi"}]);
    for truncation in [json!("auto"), json!(null)] {
        let body = respond(json!({"input": long, "truncation": truncation, "max_output_tokens": 30})).await.ok();
        assert_eq!((output(&body), &body["truncated"]), (&json!(ALPHABET), &json!(true)));
        assert!(body["dropped_messages"].as_u64().is_some_and(|n| n >= 2), "{body}");
    }
    let error = respond(json!({"input": long, "truncation": "disabled"})).await.error(400);
    assert_eq!(error["code"], "context_length_exceeded");
}

#[tokio::test]
async fn what_needs_a_store_and_what_is_not_there_is_refused() {
    let state = ready(options());
    for (field, value) in [
        ("store", json!(true)),
        ("background", json!(true)),
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!("conv_1")),
        ("prompt", json!({"id": "pmpt_1"})),
        ("tools", json!([{"type": "web_search"}])),
        ("tool_choice", json!("required")),
        ("text", json!({"format": {"type": "yaml"}})),
        ("top_logprobs", json!(2)),
        ("include", json!(["message.output_text.logprobs"])),
        ("truncation", json!("sometimes")),
        ("max_output_tokens", json!(0)),
        ("input", json!(5)),
        ("input", json!([])),
        ("input", json!([{"type": "item_reference", "id": "msg_1"}])),
        ("input", json!([{"role": "user", "content": [{"type": "input_image"}]}])),
        ("instructions", json!([])),
    ] {
        let error = post(&state, RESPONSES, &json!({"input": "Hi", field: value})).await.error(400);
        let param = error["param"].as_str().expect("a field");
        assert!(param.starts_with(field), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let neutral = json!({
        "input": "Hi", "store": false, "previous_response_id": null, "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tools": [], "tool_choice": "auto", "reasoning": {"effort": "low"}, "truncation": "disabled", "background": false,
        "include": ["reasoning.encrypted_content"], "user": "x", "parallel_tool_calls": true, "service_tier": "auto",
    });
    assert_eq!(*output(&post(&state, RESPONSES, &neutral).await.ok()), ALPHABET);
    let error = post(&state, RESPONSES, &json!({"input": "word ".repeat(200), "stream": true})).await.error(400);
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("input")));
    post(&state, RESPONSES, &json!({})).await.error(400);
}
