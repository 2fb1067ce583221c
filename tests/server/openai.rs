//! OpenAI's shapes, field by field.

use super::*;

const CHAT: &str = "/v1/chat/completions";

async fn chat(body: Value) -> Answer {
    post(&ready(options()), CHAT, &body).await
}

#[tokio::test]
async fn a_chat_completion_has_all_of_openai_s_fields() {
    let state = ready(options());
    let count = post(&state, "/apply-template", &json!({"messages": hi()})).await.ok();
    let body = post(&state, CHAT, &json!({"messages": hi(), "model": "whatever", "seed": 7})).await.ok();
    assert!(body["id"].as_str().expect("an id").starts_with("chatcmpl-"));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "alphabet-Q6_K");
    assert!(body["created"].as_u64().expect("a time") > 1_700_000_000);
    assert!(body["system_fingerprint"].as_str().expect("a text").starts_with('b'));
    assert_eq!(
        body["choices"],
        json!([{
            "index": 0,
            "message": {"role": "assistant", "content": ALPHABET},
            "logprobs": null,
            "finish_reason": "stop",
            "stop_reason": "end_of_turn",
            "stopping_word": "",
            "seed": 7,
        }])
    );
    let n_prompt = count["n_tokens"].as_u64().expect("a count");
    let n_reply = body["usage"]["completion_tokens"].as_u64().expect("a count");
    assert!((26..=27).contains(&n_reply), "{n_reply}");
    assert_eq!(
        body["usage"],
        json!({
            "prompt_tokens": n_prompt,
            "completion_tokens": n_reply,
            "total_tokens": n_prompt + n_reply,
            "prompt_tokens_details": {"cached_tokens": 0},
        })
    );
    assert_eq!(body["timings"]["prompt_n"], n_prompt);
    assert_eq!(body["timings"]["cache_n"], 0);
    assert_eq!(body["timings"]["predicted_n"], n_reply);
    for field in ["prompt_ms", "prompt_per_token_ms", "prompt_per_second", "predicted_ms", "predicted_per_second"] {
        assert!(body["timings"][field].is_f64(), "{field}");
    }
}

#[tokio::test]
async fn a_second_turn_finds_the_first_in_the_cache() {
    let state = ready(options());
    let first = post(&state, CHAT, &json!({"messages": hi()})).await.ok();
    let mut messages = hi();
    let turns = messages.as_array_mut().expect("a list");
    turns.push(json!({"role": "assistant", "content": first["choices"][0]["message"]["content"]}));
    turns.push(json!({"role": "user", "content": "More"}));
    let second = post(&state, CHAT, &json!({"messages": messages})).await.ok();
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
    assert!(cached >= first["usage"]["prompt_tokens"].as_u64().expect("a count"), "{second}");
    assert_eq!(second["timings"]["cache_n"], cached);
    let all = second["usage"]["prompt_tokens"].as_u64().expect("a count");
    assert_eq!(second["timings"]["prompt_n"], all - cached);
    let uncached = post(&state, CHAT, &json!({"messages": messages, "cache_prompt": false})).await.ok();
    assert_eq!(uncached["timings"]["cache_n"], 0);
}

#[tokio::test]
async fn a_stream_tells_the_role_the_text_the_end_and_done() {
    let body = json!({"messages": hi(), "stream": true, "stream_options": {"include_usage": true}});
    let frames = chat(body).await.frames();
    let (done, chunks) = frames.split_last().expect("frames");
    assert_eq!(*done, "[DONE]");
    for chunk in chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        for field in ["id", "created", "model", "system_fingerprint"] {
            assert_eq!(chunk[field], chunks[0][field], "{field}");
        }
    }
    assert_eq!(
        chunks[0]["choices"],
        json!([{"index": 0, "delta": {"role": "assistant", "content": null}, "finish_reason": null}])
    );
    let (usage, chunks) = chunks.split_last().expect("usage");
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["total_tokens"].is_u64());
    assert!(usage["timings"]["predicted_n"].is_u64());
    let (end, chunks) = chunks.split_last().expect("an end");
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
    assert_eq!(end["choices"][0]["stop_reason"], "end_of_turn");
    assert!(end["timings"]["predicted_per_second"].is_f64());
    let texts = chunks.iter().chain([end]).map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
    assert_eq!(texts.map(Option::unwrap_or_default).collect::<String>(), ALPHABET);
    assert!(chunks.len() > 20, "one chunk a token");
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn without_include_usage_no_chunk_is_without_choices() {
    let frames = chat(json!({"messages": hi(), "stream": true})).await.frames();
    let (_, chunks) = frames.split_last().expect("frames");
    assert!(chunks.iter().all(|chunk| chunk["choices"].as_array().is_some_and(|list| list.len() == 1)));
}

#[tokio::test]
async fn progress_of_the_prompt_and_live_timings_are_told_where_asked_for() {
    let long = "word ".repeat(15);
    let body = json!({
        "messages": [{"role": "user", "content": long}],
        "stream": true, "return_progress": true, "timings_per_token": true, "max_tokens": 3,
    });
    let frames = chat(body).await.frames();
    let progress: Vec<&Value> = frames.iter().filter_map(|frame| frame.get("prompt_progress")).collect();
    assert!(progress.len() > 1, "{} tokens are read in steps of 8: {progress:?}", progress[0]["total"]);
    let done = |p: &Value| p["processed"].as_u64().expect("a count");
    assert!(progress.windows(2).all(|two| done(two[0]) <= done(two[1])));
    assert_eq!(progress[0]["processed"], 0, "the first tells where reading begins");
    assert_eq!(progress.last().expect("one")["processed"], progress[0]["total"]);
    assert!(progress.iter().all(|p| p["cache"] == 0 && p["time_ms"].is_u64()));
    let counts: Vec<u64> = frames
        .iter()
        .filter(|frame| frame["choices"][0]["delta"].get("content").is_some())
        .filter_map(|frame| frame["timings"]["predicted_n"].as_u64())
        .collect();
    assert_eq!(counts[..3], [1, 2, 3]);
}

#[tokio::test]
async fn limits_and_stop_strings_end_a_reply() {
    let body = chat(json!({"messages": hi(), "max_tokens": 3})).await.ok();
    assert_eq!(body["choices"][0]["message"]["content"], "abc");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["choices"][0]["stop_reason"], "token_limit");
    let body = chat(json!({"messages": hi(), "max_completion_tokens": 2, "max_tokens": 9})).await.ok();
    assert_eq!(body["choices"][0]["message"]["content"], "ab");
    for stop in [json!("efg"), json!(["nothing", "efg"])] {
        let body = chat(json!({"messages": hi(), "stop": stop})).await.ok();
        assert_eq!(body["choices"][0]["message"]["content"], "abcd");
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
        assert_eq!(body["choices"][0]["stop_reason"], "stop_string");
        assert_eq!(body["choices"][0]["stopping_word"], "efg");
    }
    let body = chat(json!({"messages": hi(), "stream": true, "stop": "efg"})).await.frames();
    // What was held back in case a stop string began is told apart from the end.
    let cut = chat(json!({"messages": hi(), "stream": true, "stop": "cdx", "max_tokens": 4})).await.frames();
    let [.., text, end, _] = cut.as_slice() else { panic!("{cut:?}") };
    assert_eq!(text["choices"][0], json!({"index": 0, "delta": {"content": "cd"}, "finish_reason": null}));
    assert_eq!((&end["choices"][0]["delta"], &end["choices"][0]["finish_reason"]), (&json!({}), &json!("length")));
    let texts = body.iter().filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str());
    assert_eq!(texts.collect::<String>(), "abcd");
}

#[tokio::test]
async fn a_full_context_ends_a_reply_and_says_so() {
    let body = chat(json!({"messages": hi(), "ignore_eos": true})).await.ok();
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["choices"][0]["stop_reason"], "context_full");
    let total = body["usage"]["total_tokens"].as_u64().expect("a count");
    assert!((N_CTX as u64..=N_CTX as u64 + 1).contains(&total), "{total}");
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused_before_the_stream() {
    for stream in [false, true] {
        let messages = json!([{"role": "user", "content": "word ".repeat(200)}]);
        let error = chat(json!({"messages": messages, "stream": stream})).await.error(400);
        assert_eq!(error["code"], "context_length_exceeded");
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["param"], "messages");
        assert_eq!(error["n_ctx"], N_CTX);
        assert!(error["n_prompt_tokens"].as_u64().expect("a count") > N_CTX as u64);
        assert!(error["hint"].as_str().expect("a hint").contains("-c 0"));
    }
}

#[tokio::test]
async fn several_replies_have_seeds_in_a_row() {
    let body = chat(json!({"messages": hi(), "n": 3, "seed": 40})).await.ok();
    let choices = body["choices"].as_array().expect("a list");
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["seed"], 40 + index);
        assert_eq!(choice["message"]["content"], ALPHABET);
    }
    assert_eq!(choices.len(), 3);
    let one = chat(json!({"messages": hi()})).await.ok();
    assert_eq!(body["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"], "the prompt counts once");
    let n_one = one["usage"]["completion_tokens"].as_u64().expect("a count");
    assert_eq!(body["usage"]["completion_tokens"], 3 * n_one);

    let frames = chat(json!({"messages": hi(), "n": 2, "stream": true})).await.frames();
    for index in [0, 1] {
        let choices = frames.iter().map(|frame| &frame["choices"][0]).filter(|choice| choice["index"] == index);
        let texts = choices.filter_map(|choice| choice["delta"]["content"].as_str());
        assert_eq!(texts.collect::<String>(), ALPHABET);
    }
}

#[tokio::test]
async fn log_probabilities_come_with_their_alternatives() {
    let ask = json!({"messages": hi(), "logprobs": true, "top_logprobs": 2, "max_tokens": 2});
    let body = chat(ask).await.ok();
    let content = &body["choices"][0]["logprobs"]["content"];
    assert_eq!(content[0]["token"], "a");
    assert_eq!(content[0]["bytes"], json!([97]));
    assert!(content[0]["logprob"].as_f64().is_some_and(|p| p <= 0.0 && p > -0.01));
    let top = content[1]["top_logprobs"].as_array().expect("a list");
    assert_eq!(top.iter().map(|one| one["token"].as_str().expect("a text")).collect::<Vec<_>>(), ["b", "c"]);
    assert!((top[1]["logprob"].as_f64().expect("a number") + 20.0).abs() < 0.01);

    let body = chat(json!({"messages": hi(), "logprobs": true, "max_tokens": 1})).await.ok();
    assert_eq!(body["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));

    let frames = chat(json!({"messages": hi(), "logprobs": true, "stream": true, "max_tokens": 3})).await.frames();
    let tokens = frames.iter().filter_map(|frame| frame["choices"][0]["logprobs"]["content"][0]["token"].as_str());
    assert_eq!(tokens.collect::<String>(), "abc");
}

#[tokio::test]
async fn a_bias_bans_a_token_by_id() {
    let a = tokenizer().encode("a", Special::Literal)[0];
    let bias = json!({ a.to_string(): -100 });
    let body = chat(json!({"messages": hi(), "logit_bias": bias, "temperature": 0, "max_tokens": 2})).await.ok();
    assert_eq!(body["choices"][0]["message"]["content"], "bc", "the second best");
}

#[tokio::test]
async fn text_parts_and_the_roles_of_newer_clients_are_understood() {
    let state = ready(options());
    let plain = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\nthere"}]);
    let parts = json!([
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]},
    ]);
    let a = post(&state, "/apply-template", &json!({"messages": plain})).await.ok();
    let b = post(&state, "/apply-template", &json!({"messages": parts})).await.ok();
    assert_eq!(a, b);
    assert!(a["prompt"].as_str().expect("a text").contains("Be brief.\n\nHi\nthere"), "{a}");
}

#[tokio::test]
async fn a_last_message_by_the_assistant_is_continued() {
    let messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "wx"}]);
    let body = chat(json!({"messages": messages})).await.ok();
    assert_eq!(body["choices"][0]["message"]["content"], "yz");
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let cases = [
        (json!({"messages": hi(), "temperature": 2.5}), "temperature", "decimal_above_max_value"),
        (json!({"messages": hi(), "temperature": "hot"}), "temperature", "invalid_type"),
        (json!({"messages": hi(), "top_p": 1.1}), "top_p", "decimal_above_max_value"),
        (json!({"messages": hi(), "presence_penalty": -3}), "presence_penalty", "decimal_below_min_value"),
        (json!({"messages": hi(), "max_tokens": 0}), "max_tokens", "integer_below_min_value"),
        (json!({"messages": hi(), "max_tokens": 1.5}), "max_tokens", "invalid_type"),
        (json!({"messages": hi(), "n": 0}), "n", "integer_below_min_value"),
        (json!({"messages": hi(), "n": 1000}), "n", "integer_above_max_value"),
        (json!({"messages": hi(), "stop": vec!["x"; 257]}), "stop", "array_above_max_length"),
        (json!({"messages": hi(), "stop": 5}), "stop", "invalid_type"),
        (json!({"messages": hi(), "top_logprobs": 2}), "top_logprobs", ""),
        (json!({"messages": hi(), "logprobs": true, "top_logprobs": 21}), "top_logprobs", "integer_above_max_value"),
        (json!({"messages": hi(), "logit_bias": {"99999999": 1}}), "logit_bias", ""),
        (json!({"messages": hi(), "logit_bias": {"5": 101}}), "logit_bias", ""),
        (json!({"messages": hi(), "stream": "yes"}), "stream", "invalid_type"),
        (
            json!({"messages": hi(), "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
            "invalid_type",
        ),
        (json!({"messages": hi(), "seed": "x"}), "seed", "invalid_type"),
        (json!({"messages": hi(), "templates": {"prompt": 1}}), "templates.prompt", "invalid_type"),
        (json!({}), "messages", "missing_required_parameter"),
        (json!({"messages": "Hi"}), "messages", "invalid_type"),
        (json!({"messages": []}), "messages", "empty_array"),
        (json!({"messages": ["Hi"]}), "messages[0]", "invalid_type"),
        (json!({"messages": [{"content": "Hi"}]}), "messages[0].role", "missing_required_parameter"),
        (json!({"messages": [{"role": "function", "content": "Hi"}]}), "messages[0].role", "invalid_value"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", "missing_required_parameter"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content", "invalid_type"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "messages[0].content[0].type",
            "invalid_value",
        ),
    ];
    let state = ready(options());
    for (body, param, code) in cases {
        let error = post(&state, CHAT, &body).await.error(400);
        assert_eq!(error["param"], param, "{body} gave {error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["code"].as_str().unwrap_or_default(), code, "{error}");
    }
}

#[tokio::test]
async fn what_would_change_the_result_and_is_not_there_is_refused() {
    let state = ready(options());
    let cases = [
        ("functions", json!([{"name": "f"}])),
        ("mirostat", json!(2)),
        ("audio", json!({"voice": "x"})),
        ("best_of", json!(3)),
    ];
    for (name, value) in cases {
        let error = post(&state, CHAT, &json!({"messages": hi(), name: value})).await.error(400);
        assert_eq!(error["param"], name);
    }
    let neutral = json!({
        "messages": hi(), "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "grammar": "",
        "mirostat": 0, "functions": null, "user": "somebody", "metadata": {"a": "b"}, "store": false, "max_tokens": null,
        "dynatemp_range": 0.0, "top_n_sigma": -1, "modalities": ["text"], "parallel_tool_calls": true,
    });
    assert_eq!(post(&state, CHAT, &neutral).await.ok()["choices"][0]["message"]["content"], ALPHABET);
}

#[tokio::test]
async fn a_template_that_refuses_the_roles_is_a_400() {
    let first = json!([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]);
    let error = chat(json!({"messages": first})).await.error(400);
    assert_eq!(error["param"], "messages");
}

#[tokio::test]
async fn the_page_s_templates_render_the_prompt() {
    let state = ready(options());
    let templates = json!({"user_name": "boy", "char_name": "girl"});
    let body = json!({"messages": hi(), "templates": templates});
    let prompt = post(&state, "/apply-template", &body).await.ok();
    assert_eq!(
        prompt["prompt"].as_str().expect("a text").trim_start_matches("<bos>"),
        "<start_of_turn>boy\nHi<end_of_turn>\n<start_of_turn>girl\n"
    );
    let reply = post(&state, CHAT, &body).await.ok();
    assert_eq!(reply["usage"]["prompt_tokens"], prompt["n_tokens"]);
}

#[tokio::test]
async fn text_completions_take_texts_tokens_and_lists_of_them() {
    let state = ready(options());
    let x = tokenizer().encode("x", Special::Literal)[0];
    let path = "/v1/completions";
    let body = post(&state, path, &json!({"prompt": "x"})).await.ok();
    assert!(body["id"].as_str().expect("an id").starts_with("cmpl-"));
    assert_eq!(body["object"], "text_completion");
    assert_eq!(body["choices"][0]["text"], "yz");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["choices"][0]["logprobs"], Value::Null);
    assert_eq!(body["usage"]["prompt_tokens"], 2, "with <bos>");
    let body = post(&state, path, &json!({"prompt": [x]})).await.ok();
    assert_eq!(body["choices"][0]["text"], "yz");
    assert_eq!(body["usage"]["prompt_tokens"], 1, "tokens are taken as they are");
    let body = post(&state, path, &json!({"prompt": ["x", "w"], "n": 2, "echo": true})).await.ok();
    let texts: Vec<&str> =
        body["choices"].as_array().expect("a list").iter().filter_map(|choice| choice["text"].as_str()).collect();
    assert_eq!(texts, ["xyz", "xyz", "wxyz", "wxyz"]);
    assert_eq!(body["usage"]["prompt_tokens"], 4);
    let body = post(&state, path, &json!({"prompt": "x", "logprobs": 1})).await.ok();
    let lists = &body["choices"][0]["logprobs"];
    assert_eq!(lists["tokens"][0], "y");
    assert_eq!(lists["text_offset"][1], 1);
    assert!(lists["token_logprobs"][0].as_f64().is_some_and(|p| p <= 0.0));
    assert!(lists["top_logprobs"][0]["y"].is_f64());
    let body = post(&state, path, &json!({"prompt": "x", "max_tokens": 0, "echo": true})).await.ok();
    assert_eq!((&body["choices"][0]["text"], &body["choices"][0]["finish_reason"]), (&json!("x"), &json!("length")));
    let frames = post(&state, path, &json!({"prompt": "v", "stream": true})).await.frames();
    assert_eq!(*frames.last().expect("frames"), "[DONE]");
    let texts = frames.iter().filter_map(|frame| frame["choices"][0]["text"].as_str());
    assert_eq!(texts.collect::<String>(), "wxyz");
    for bad in [json!(null), json!(5), json!([1.5]), json!([-1]), json!([99999999]), json!([[["a"]]]), json!({})] {
        let error = post(&state, path, &json!({"prompt": bad})).await.error(400);
        assert_eq!(error["param"], "prompt", "{bad}");
    }
}

#[tokio::test]
async fn an_echoed_prompt_has_the_probabilities_of_its_tokens() {
    let state = ready(options());
    let ask = |prompt: Value, n: usize| json!({"prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": n});
    let body = post(&state, "/v1/completions", &ask(json!("uvx"), 2)).await.ok();
    let choice = &body["choices"][0];
    assert_eq!(choice["text"], "uvxyz");
    let lists = &choice["logprobs"];
    assert_eq!(lists["tokens"], json!(["u", "v", "x", "y", "z"]));
    assert_eq!(lists["text_offset"], json!([0, 1, 2, 3, 4]));
    // The model is sure of the next letter and of nothing else. The token itself is always among the best.
    let p: Vec<f64> = lists["token_logprobs"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
    assert_eq!(p.len(), 5, "`<bos>` is before the first one: {lists}");
    assert!(p[1] > -0.1 && p[2] < -1.0 && p[3] > -0.1, "{p:?}");
    let best: Vec<&Value> = lists["top_logprobs"].as_array().expect("a list").iter().collect();
    assert_eq!((best[1].get("v"), best[2].get("x")), (Some(&json!(p[1])), Some(&json!(p[2]))));
    assert!(best[2]["w"].as_f64() > Some(p[2]), "{lists}");

    let whole = post(&state, "/v1/completions", &ask(json!(["uvx", "a🦀b"]), 0)).await.ok();
    let first = &whole["choices"][0];
    assert_eq!((&first["text"], &first["finish_reason"]), (&json!("uvx"), &json!("length")));
    assert_eq!(first["logprobs"]["token_logprobs"], json!(p[..3]));
    let second = &whole["choices"][1]["logprobs"];
    let offsets = second["text_offset"].as_array().expect("a list");
    assert_eq!((&offsets[0], &offsets[1], offsets.last()), (&json!(0), &json!(1), Some(&json!(2))), "{second}");
    assert_eq!(second["tokens"].as_array().map(Vec::len), Some(offsets.len()));

    // Where the reply is nothing but its end, that end has its place in the lists.
    let ended = &post(&state, "/v1/completions", &ask(json!("z"), 1)).await.ok()["choices"][0];
    assert_eq!((&ended["text"], &ended["finish_reason"]), (&json!("z"), &json!("stop")));
    assert_eq!(ended["logprobs"]["tokens"], json!(["z", "<end_of_turn>"]));
    assert_eq!(ended["logprobs"]["text_offset"], json!([0, 1]));

    // Given tokens are told as given.
    let ids = tokenizer().with_bos(tokenizer().encode("uvx", Special::Literal));
    for prompt in [json!(ids), json!("<bos>uvx")] {
        let choice = &post(&state, "/v1/completions", &ask(prompt, 0)).await.ok()["choices"][0];
        assert_eq!(choice["text"], "<bos>uvx");
        assert_eq!(choice["logprobs"]["tokens"], json!(["<bos>", "u", "v", "x"]));
        assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, p[0], p[1], p[2]]));
        assert_eq!(choice["logprobs"]["top_logprobs"][0], Value::Null);
        assert_eq!(choice["logprobs"]["text_offset"], json!([0, 5, 6, 7]));
    }

    let mut streamed = ask(json!("uvx"), 2);
    streamed["stream"] = json!(true);
    let frames = post(&state, "/v1/completions", &streamed).await.frames();
    let choices: Vec<&Value> = frames.iter().map(|frame| &frame["choices"][0]).collect();
    assert_eq!(choices.iter().filter_map(|choice| choice["text"].as_str()).collect::<String>(), "uvxyz");
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let parts = choices.iter().filter_map(|choice| choice["logprobs"][name].as_array());
        assert_eq!(json!(parts.flatten().collect::<Vec<_>>()), lists[name], "{name}");
    }
    let long = json!({"prompt": "x".repeat(1000), "echo": true, "logprobs": 1, "overflow": "shift", "max_tokens": 1});
    let error = post(&state, "/v1/completions", &long).await.error(400);
    assert_eq!(error["code"], "context_length_exceeded");
}

#[tokio::test]
async fn the_model_can_be_asked_for() {
    let state = ready(options());
    let body = get(&state, "/v1/models").await.ok();
    assert_eq!(body["object"], "list");
    assert_eq!(body["data"][0]["id"], "alphabet-Q6_K");
    assert_eq!(body["data"][0]["object"], "model");
    assert_eq!(body["data"][0]["owned_by"], "gemma2");
    assert_eq!(get(&state, "/v1/models/alphabet-Q6_K").await.ok(), body["data"][0]);
    // Anthropic's clients ask at the same path.
    assert_eq!((&body["data"][0]["type"], &body["has_more"]), (&json!("model"), &json!(false)));
    assert!(body["data"][0]["created_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{body}");
    let error = get(&state, "/v1/models/gpt-4").await.error(404);
    assert_eq!(error["code"], "model_not_found");
}
