//! Functions that the model may call, as OpenAI's clients know them.

use super::*;

const CHAT: &str = "/v1/chat/completions";

fn tools() -> Value {
    let color = json!({
        "type": "object", "properties": { "color": { "enum": ["red", "green"] } }, "required": ["color"],
    });
    json!([
        { "type": "function", "function": { "name": "paint", "description": "Paints the wall", "parameters": color } },
        { "type": "function", "function": { "name": "now" } },
    ])
}

fn body(more: Value) -> Value {
    let mut body = json!({ "messages": hi(), "tools": tools(), "temperature": 0 });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// The one message of an answer, and its reason.
fn message(answer: &Value) -> (&Value, &Value) {
    (&answer["choices"][0]["message"], &answer["choices"][0]["finish_reason"])
}

/// A call of `paint` or `now` with arguments that fit.
fn check_call(call: &Value) {
    assert_eq!(call["type"], "function");
    assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")), "{call}");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().expect("a text")).expect("JSON");
    match call["function"]["name"].as_str() {
        Some("paint") => {
            assert!(arguments == json!({"color": "red"}) || arguments == json!({"color": "green"}), "{call}")
        }
        Some("now") => assert_eq!(arguments, json!({})),
        _ => panic!("{call}"),
    }
}

#[tokio::test]
async fn a_call_that_is_required_is_made_and_one_that_is_named_is_that_one() {
    let state = roomy();
    for (choice, name) in [
        (json!("required"), None),
        (json!({ "type": "function", "function": { "name": "paint" } }), Some("paint")),
        (json!({ "type": "function", "function": { "name": "now" } }), Some("now")),
    ] {
        let asked = body(json!({ "tool_choice": choice, "parallel_tool_calls": false }));
        let answer = post(&state, CHAT, &asked).await.ok();
        let (message, reason) = message(&answer);
        assert_eq!((reason, &message["content"]), (&json!("tool_calls"), &Value::Null), "{answer}");
        let calls = message["tool_calls"].as_array().expect("calls");
        assert_eq!(calls.len(), 1);
        check_call(&calls[0]);
        assert!(name.is_none_or(|name| calls[0]["function"]["name"] == name), "{answer}");
    }
}

#[tokio::test]
async fn a_streamed_call_comes_in_pieces_that_make_the_same_call() {
    let state = roomy();
    let choice = json!({ "type": "function", "function": { "name": "paint" } });
    let whole = post(&state, CHAT, &body(json!({ "tool_choice": choice }))).await.ok();
    let frames = post(&state, CHAT, &body(json!({ "tool_choice": choice, "stream": true }))).await.frames();
    let deltas: Vec<&Value> = frames.iter().map(|frame| &frame["choices"][0]["delta"]).collect();
    let calls: Vec<&Value> = deltas.iter().filter_map(|delta| delta["tool_calls"].as_array()).flatten().collect();
    assert!(calls.iter().all(|call| call["index"] == 0));
    assert!(calls[0]["id"].is_string() && calls[0]["function"]["name"] == "paint" && calls[0]["type"] == "function");
    assert!(calls[1..].iter().all(|call| call["id"].is_null() && call["function"]["name"].is_null()));
    let arguments: String = calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    assert_eq!(whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], arguments);
    let reasons: Vec<&Value> = frames.iter().map(|frame| &frame["choices"][0]["finish_reason"]).collect();
    assert!(reasons.contains(&&json!("tool_calls")), "{reasons:?}");
    let texts = deltas.iter().filter_map(|delta| delta["content"].as_str());
    assert_eq!(texts.collect::<String>(), "");
}

#[tokio::test]
async fn where_no_call_is_needed_the_reply_is_text() {
    let state = roomy();
    for more in [json!({}), json!({ "tool_choice": "auto" }), json!({ "tool_choice": "none" })] {
        let answer = post(&state, CHAT, &body(more.clone())).await.ok();
        let (message, reason) = message(&answer);
        assert_eq!((&message["content"], reason), (&json!(ALPHABET), &json!("stop")), "{more}");
        assert!(message.get("tool_calls").is_none());
        let mut streamed = body(more);
        streamed["stream"] = json!(true);
        let frames = post(&state, CHAT, &streamed).await.frames();
        let texts = frames.iter().filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str());
        assert_eq!(texts.collect::<String>(), ALPHABET);
    }
}

#[tokio::test]
async fn a_reply_that_may_call_and_must_be_json_is_one_of_the_two() {
    let state = roomy();
    let schema = json!({ "type": "object", "properties": { "ok": { "enum": [1, 2] } }, "required": ["ok"] });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } });
    let is_answer = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(value == json!({ "ok": 1 }) || value == json!({ "ok": 2 }), "{text}");
    };
    let (mut n_calls, mut n_answers) = (0, 0);
    for seed in 0..24 {
        let more = json!({ "response_format": format, "seed": seed, "temperature": 2, "top_k": 0, "top_p": 1 });
        let answer = post(&state, CHAT, &body(more)).await.ok();
        let (message, reason) = message(&answer);
        match message["tool_calls"].as_array() {
            Some(calls) => {
                calls.iter().for_each(check_call);
                assert_eq!(reason, "tool_calls");
                n_calls += 1;
            }
            None => {
                is_answer(message["content"].as_str().expect("a text"));
                assert_eq!(reason, "stop");
                n_answers += 1;
            }
        }
    }
    assert!(n_calls > 0 && n_answers > 0, "{n_calls} {n_answers}");
    // Where a call is required no reply is JSON, and where none is possible all are.
    let required = body(json!({ "response_format": format, "tool_choice": "required" }));
    assert_eq!(message(&post(&state, CHAT, &required).await.ok()).1, "tool_calls");
    let none = body(json!({ "response_format": format, "tool_choice": "none" }));
    is_answer(message(&post(&state, CHAT, &none).await.ok()).0["content"].as_str().expect("a text"));
}

#[tokio::test]
async fn functions_calls_and_results_are_told_to_the_model_in_turns() {
    let state = roomy();
    let call = json!({ "id": "c1", "type": "function", "function": { "name": "now", "arguments": "{ }" } });
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "What time is it?" },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": "c1", "content": "noon" },
        { "role": "user", "content": "In words?" },
    ]);
    let prompt = post(&state, "/apply-template", &json!({ "messages": messages, "tools": tools() })).await.ok();
    let prompt = prompt["prompt"].as_str().expect("a text");
    let (first, rest) = prompt.split_once("<end_of_turn>\n").expect("turns");
    assert!(
        first.contains(r#"{"name":"paint","description":"Paints the wall","parameters":{"type":"object""#),
        "{first}"
    );
    assert!(first.contains("Be brief.") && first.ends_with("What time is it?"), "{first}");
    let expected = "<start_of_turn>model\n```tool_call\n{\"name\": \"now\", \"arguments\": {}}\n```<end_of_turn>\n\
        <start_of_turn>user\n```tool_result\n{\"name\":\"now\",\"result\":\"noon\"}\n```\n\nIn words?<end_of_turn>\n\
        <start_of_turn>model\n";
    assert_eq!(rest, expected);
}

#[tokio::test]
async fn tools_that_cannot_be_used_are_a_400_about_their_field() {
    let state = roomy();
    let function = |function: Value| json!({ "tools": [{ "type": "function", "function": function }] });
    let cases = [
        (json!({ "tools": 5 }), "tools"),
        (json!({ "tools": vec![tools()[1].clone(); 129] }), "tools"),
        (json!({ "tools": ["x"] }), "tools[0]"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function"),
        (function(json!({})), "tools[0].function.name"),
        (function(json!({ "name": "two words" })), "tools[0].function.name"),
        (function(json!({ "name": "f", "description": 5 })), "tools[0].function.description"),
        (function(json!({ "name": "f", "parameters": [] })), "tools[0].function.parameters"),
        (function(json!({ "name": "f", "parameters": { "type": "thing" } })), "tools[0].function.parameters"),
        (function(json!({ "name": "f", "parameters": { "$ref": "#/nowhere" } })), "tools"),
        (json!({ "tools": tools(), "tool_choice": "often" }), "tool_choice"),
        (
            json!({ "tools": tools(), "tool_choice": { "type": "function", "function": { "name": "g" } } }),
            "tool_choice",
        ),
        (json!({ "tools": tools(), "tool_choice": {} }), "tool_choice.function.name"),
        (json!({ "tools": tools(), "parallel_tool_calls": "yes" }), "parallel_tool_calls"),
        (json!({ "tools": tools(), "grammar": "root ::= \"x\"" }), "tools"),
        (
            json!({ "tools": tools(), "response_format": { "type": "json_object", "schema": { "$ref": "#/nowhere" } } }),
            "response_format.schema",
        ),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (json!({ "messages": [{ "role": "tool" }] }), "messages[0].content"),
        (json!({ "messages": [{ "role": "tool", "content": "x", "tool_call_id": 5 }] }), "messages[0].tool_call_id"),
        (
            json!({ "messages": [{ "role": "user", "content": "x", "tool_calls": [{ "function": { "name": "f",
            "arguments": "{}" } }] }] }),
            "messages[0].tool_calls",
        ),
        (
            json!({ "messages": [{ "role": "assistant", "tool_calls": [{ "function": { "name": "f" } }] }] }),
            "messages[0].tool_calls[0].function.arguments",
        ),
    ];
    for (mut body, param) in cases {
        if body.get("messages").is_none() {
            body["messages"] = hi();
        }
        let error = post(&state, CHAT, &body).await.error(400);
        assert_eq!(error["param"], param, "{error}");
    }
}
