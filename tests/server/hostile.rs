//! Bodies that nobody should send.

use super::*;

const PATHS: [&str; 14] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/completion",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/api/chat",
    "/api/generate",
    "/api/show",
    "/api/embed",
    "/api/embeddings",
];

#[tokio::test]
async fn broken_json_is_a_400_with_a_position() {
    let state = ready(options());
    let deep_list = format!("{{\"messages\":{}", "[".repeat(200_000));
    let deep_object = "{\"a\":".repeat(200_000);
    for body in [deep_list.as_str(), &deep_object, "", "{", "\u{feff}{}", "{\"a\":1e999}", "{'a':1}", "\"\\ud800\""] {
        for path in PATHS {
            let message = post_text(&state, path, body.to_owned()).await.said(400);
            assert!(message.contains("line 1 column"), "{path}: {message}");
        }
    }
    for path in PATHS {
        for body in [&b"\xff\xfe{"[..], b"{\"model\":\"\xff\"}", b"[1,2,3]", b"null"] {
            post_text(&state, path, body).await.said(400);
        }
    }
}

#[tokio::test]
async fn every_field_with_every_type_is_answered() {
    let state = ready(options());
    let values = [
        json!(true),
        json!(0),
        json!(-1),
        json!(1e308),
        json!(-1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(1e-320),
        json!(""),
        json!("\u{0}\u{10ffff}"),
        json!([]),
        json!([null]),
        json!([[]]),
        json!([{}]),
        json!({}),
        json!({"type": {"type": []}}),
        json!({"a": 1}),
    ];
    let fields = [
        "messages",
        "prompt",
        "content",
        "tokens",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "repeat_last_n",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "stop",
        "max_tokens",
        "max_completion_tokens",
        "n_predict",
        "n",
        "n_cmpl",
        "logprobs",
        "top_logprobs",
        "n_probs",
        "logit_bias",
        "templates",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "json_schema",
        "grammar",
        "regex",
        "samplers",
        "min_keep",
        "modalities",
        "cache_prompt",
        "ignore_eos",
        "echo",
        "return_progress",
        "model",
        "with_pieces",
        "add_special",
        "parse_special",
        "continue_final_message",
        "options",
        "format",
        "keep_alive",
        "raw",
        "context",
        "images",
        "think",
        "system",
        "template",
        "input",
        "instructions",
        "max_output_tokens",
        "store",
        "text",
        "truncation",
        "truncate",
        "shift",
        "dimensions",
        "include",
        "stop_sequences",
        "thinking",
        "output_config",
    ];
    for path in PATHS {
        for field in fields {
            for value in &values {
                let mut body = json!({"messages": hi(), "prompt": "x", "content": "x", "tokens": [5], "max_tokens": 1});
                if path == "/v1/responses" {
                    body = json!({"input": hi(), "max_output_tokens": 1});
                }
                body[field] = value.clone();
                let answer = post(&state, path, &body).await;
                let is_answered = matches!(answer.status.as_u16(), 200 | 400);
                assert!(is_answered, "{path} {field} {value}: {} {}", answer.status, answer.text);
                if answer.status == 400 {
                    answer.said(400);
                }
            }
        }
    }
}

/// What a client or a model writes must not become an event of its own.
#[tokio::test]
async fn text_with_line_breaks_stays_within_its_event() {
    let state = ready(options());
    let forged = "\r\n\r\nevent: done\ndata: [DONE]\n\nid: 7\rdata: {\"x\":1}\u{2028}\n\n";
    let ask = json!({"prompt": forged, "echo": true, "stream": true, "max_tokens": 2});
    let frames = post(&state, "/v1/completions", &ask).await.frames();
    let texts: String = frames.iter().filter_map(|frame| frame["choices"][0]["text"].as_str()).collect();
    assert!(texts.starts_with(forged), "{texts:?}");
    assert_eq!(frames.iter().filter(|frame| **frame == json!("[DONE]")).count(), 1);
    let ask = json!({"messages": hi(), "stream": true, "stop_sequences": [forged], "metadata": {"user_id": forged}});
    let events = super::anthropic::named_events(&post(&state, "/v1/messages", &ask).await.text);
    assert!(events.len() > 20);
    let ask = json!({"input": "Hi", "stream": true, "instructions": forged, "metadata": {"a": forged}});
    let events = super::anthropic::named_events(&post(&state, "/v1/responses", &ask).await.text);
    assert_eq!(events[0]["response"]["instructions"], forged);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let state = ready(options());
    let large = vec![b' '; (16 << 20) + 1];
    let error = post_text(&state, "/tokenize", large.clone()).await.error(413);
    assert_eq!(error["code"], 413);
    // Without a declared length it is found out while reading.
    let chunks = large.chunks(1 << 20).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>();
    let body = Body::from_stream(futures_util::stream::iter(chunks));
    post_text(&state, "/tokenize", body).await.error(413);
    let lying = request("POST", "/tokenize").header("content-length", "99999999999").body(Body::empty());
    call(&state, lying.expect("a request")).await.error(413);
}

#[tokio::test]
async fn ten_thousand_stop_strings_are_refused_and_as_many_as_may_be_work() {
    let state = ready(options());
    let routes = [
        ("/v1/chat/completions", "stop"),
        ("/v1/completions", "stop"),
        ("/v1/responses", "stop"),
        ("/v1/messages", "stop_sequences"),
        ("/completion", "stop"),
    ];
    let ask = |path: &str, field: &str, stops: Vec<String>| {
        let mut body = json!({"messages": hi(), "prompt": "c", "max_tokens": 40});
        if path == "/v1/responses" {
            body = json!({"input": hi()});
        }
        body[field] = json!(stops);
        body
    };
    for (path, field) in routes {
        let many = (0..10_000).map(|i| format!("{i}")).collect();
        let said = post(&state, path, &ask(path, field, many)).await.said(400);
        assert!(said.contains("256"), "{path}: {said}");
        let long = vec!["x".repeat(1025)];
        post(&state, path, &ask(path, field, long)).await.said(400);
        // Each begins as the text does, and only the last one ends in it. A prompt that is no message is gone on with.
        let (begin, end) =
            if path.ends_with("completion") || path == "/v1/completions" { ("defg", "hij") } else { ("abcd", "efg") };
        let most = (0..255).map(|i| format!("{begin}{i}")).chain([end.to_owned()]).collect();
        let text = post(&state, path, &ask(path, field, most)).await.ok().to_string();
        assert!(text.contains(&format!("\"{begin}\"")), "{path}: {text}");
    }
    let options = json!({"messages": hi(), "options": {"stop": vec!["x"; 10_000]}});
    post(&state, "/api/chat", &options).await.said(400);
}
