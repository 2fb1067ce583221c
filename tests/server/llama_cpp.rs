//! llama.cpp's shapes, field by field.

use super::*;

async fn complete(body: Value) -> Answer {
    post(&ready(options()), "/completion", &body).await
}

#[tokio::test]
async fn a_completion_has_llama_cpp_s_fields() {
    let body = complete(json!({"prompt": "w", "seed": 9, "return_tokens": true, "n_predict": 20})).await.ok();
    assert_eq!(body["content"], "xyz");
    assert_eq!(body["stop"], true);
    assert_eq!(body["stop_type"], "eos");
    assert_eq!(body["stopping_word"], "");
    assert_eq!(body["truncated"], false);
    assert_eq!(body["model"], "alphabet-Q6_K");
    assert_eq!(body["tokens_evaluated"], 2);
    assert_eq!(body["tokens_cached"], 0);
    assert_eq!(body["prompt"], "<bos>w");
    assert_eq!(body["index"], 0);
    assert_eq!(body["generation_settings"]["seed"], 9);
    assert_eq!(body["generation_settings"]["n_predict"], 20);
    assert_eq!(body["generation_settings"]["top_p"], 0.9, "the server's default");
    assert!(body["timings"]["predicted_per_second"].is_f64());
    let tokens = tokenizer().encode("x", Special::Literal)[0];
    assert_eq!(body["tokens"][0], tokens);
    let body = complete(json!({"prompt": "w"})).await.ok();
    assert_eq!(body["tokens"], json!([]));
    assert!(body["generation_settings"]["seed"].as_u64().is_some_and(|seed| seed < u64::from(u32::MAX)));
}

#[tokio::test]
async fn a_stream_ends_with_the_whole_answer_and_without_done() {
    let frames = complete(json!({"prompt": "u", "stream": true, "n_probs": 1})).await.frames();
    let (end, parts) = frames.split_last().expect("frames");
    assert_eq!(end["stop"], true);
    assert_eq!(end["stop_type"], "eos");
    assert!(end["generation_settings"].is_object());
    for (at, part) in parts.iter().enumerate() {
        assert_eq!(part["stop"], false);
        assert_eq!(part["tokens"].as_array().expect("a list").len(), 1);
        assert_eq!(part["tokens_predicted"], at + 1);
        assert_eq!(part["completion_probabilities"][0]["id"], part["tokens"][0]);
    }
    let texts = frames.iter().filter_map(|part| part["content"].as_str());
    assert_eq!(texts.collect::<String>(), "vwxyz");
}

#[tokio::test]
async fn whether_there_is_a_new_line_is_told() {
    let streamed = complete(json!({"prompt": "w", "stream": true})).await.frames();
    assert_eq!(streamed.last().expect("frames")["has_new_line"], false);
    assert_eq!(complete(json!({"prompt": "w"})).await.ok()["has_new_line"], false);
    let newline = tokenizer().encode("\n", Special::Literal)[0];
    let bias = json!([[newline, 100]]);
    for stream in [false, true] {
        let ask = json!({"prompt": "w", "n_predict": 1, "temperature": 0, "logit_bias": bias, "stream": stream});
        let answer = complete(ask).await;
        let end = if stream { answer.frames().pop().expect("frames") } else { answer.ok() };
        assert_eq!(end["has_new_line"], true, "{end}");
    }
}

#[tokio::test]
async fn the_end_is_told_in_llama_cpp_s_words() {
    let body = complete(json!({"prompt": "a", "stop": ["de"]})).await.ok();
    assert_eq!(
        (&body["content"], &body["stop_type"], &body["stopping_word"]),
        (&json!("bc"), &json!("word"), &json!("de"))
    );
    let body = complete(json!({"prompt": "a", "n_predict": 2})).await.ok();
    assert_eq!(
        (&body["content"], &body["stop_type"], &body["truncated"]),
        (&json!("bc"), &json!("limit"), &json!(false))
    );
    assert_eq!(body["tokens_predicted"], 2);
    let body = complete(json!({"prompt": "a", "n_predict": 0})).await.ok();
    assert_eq!((&body["content"], &body["stop_type"]), (&json!(""), &json!("limit")));
    assert_eq!(body["tokens_predicted"], 0);
    let body = complete(json!({"prompt": "a", "ignore_eos": true})).await.ok();
    assert_eq!((&body["stop_type"], &body["truncated"]), (&json!("limit"), &json!(true)));
    assert_eq!(body["stop_reason"], "context_full");
}

#[tokio::test]
async fn prompts_are_texts_tokens_mixtures_and_lists() {
    let x = tokenizer().encode("x", Special::Literal)[0];
    for (prompt, n_tokens) in
        [(json!("x"), 2), (json!([x]), 1), (json!(["w", x]), 3), (json!({"prompt_string": "x"}), 2)]
    {
        let body = complete(json!({"prompt": prompt})).await.ok();
        assert_eq!(body["content"], "yz", "{prompt}");
        assert_eq!(body["tokens_evaluated"], n_tokens, "{prompt}");
    }
    let several = complete(json!({"prompt": ["x", [x], "y"]})).await.ok();
    let texts: Vec<&str> =
        several.as_array().expect("a list").iter().filter_map(|one| one["content"].as_str()).collect();
    assert_eq!(texts, ["yz", "yz", "z"]);
    complete(json!({"prompt": ["x", "y"], "n": 9})).await.error(400);
    let error = complete(json!({"prompt": []})).await.error(400);
    assert_eq!(error["code"], 400, "llama.cpp's code is the status");
}

#[tokio::test]
async fn control_tokens_in_a_raw_prompt_are_parsed_and_there_is_one_bos() {
    let state = ready(options());
    let turn = tokenizer().encode("<start_of_turn>", Special::Parse);
    assert_eq!(turn.len(), 1);
    let prompt = "<bos><start_of_turn>";
    let body = post(&state, "/completion", &json!({"prompt": prompt, "n_predict": 1})).await.ok();
    assert_eq!(body["tokens_evaluated"], 2);
    assert_eq!(body["prompt"], prompt);
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_has_llama_cpp_s_error() {
    let error = complete(json!({"prompt": "a ".repeat(200)})).await.error(400);
    assert_eq!(error["type"], "exceed_context_size_error");
    assert_eq!(error["code"], 400);
    assert_eq!(error["n_ctx"], N_CTX);
}

#[tokio::test]
async fn text_becomes_tokens_and_back() {
    let state = ready(options());
    let text = "<start_of_turn>ab é";
    let ids = post(&state, "/tokenize", &json!({"content": text})).await.ok()["tokens"].clone();
    assert_eq!(ids, json!(tokenizer().encode(text, Special::Parse)));
    let back = post(&state, "/detokenize", &json!({"tokens": ids})).await.ok();
    assert_eq!(back["content"], text);
    let literal = post(&state, "/tokenize", &json!({"content": text, "parse_special": false})).await.ok();
    assert!(literal["tokens"].as_array().expect("a list").len() > ids.as_array().expect("a list").len());
    let bos = post(&state, "/tokenize", &json!({"content": "a", "add_special": true})).await.ok();
    assert_eq!(bos["tokens"][0], tokenizer().bos());
    let pieces = post(&state, "/tokenize", &json!({"content": text, "with_pieces": true})).await.ok();
    let first = &pieces["tokens"][0];
    assert_eq!((&first["piece"], &first["control"]), (&json!("<start_of_turn>"), &json!(true)));
    let all: Vec<u8> = pieces["tokens"]
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|token| match &token["piece"] {
            Value::String(piece) => piece.as_bytes().to_vec(),
            bytes => serde_json::from_value(bytes.clone()).expect("bytes"),
        })
        .collect();
    assert_eq!(String::from_utf8(all).expect("UTF-8"), text);
    for (path, body) in [
        ("/tokenize", json!({})),
        ("/tokenize", json!({"prompt": 5})),
        ("/tokenize", json!({"messages": 5})),
        ("/tokenize", json!({"content": 5})),
        ("/detokenize", json!({"tokens": "a"})),
        ("/detokenize", json!({"tokens": [-1]})),
        ("/detokenize", json!({"tokens": [4294967296u64]})),
    ] {
        post(&state, path, &body).await.error(400);
    }
}

#[tokio::test]
async fn the_exact_prompt_comes_with_its_control_tokens_marked() {
    let state = ready(options());
    let messages = json!([{"role": "user", "content": "Hi <end_of_turn>"}]);
    let body = post(&state, "/apply-template", &json!({"messages": messages, "with_pieces": true})).await.ok();
    assert_eq!(
        body["prompt"].as_str().expect("a text").trim_start_matches("<bos>"),
        "<start_of_turn>user\nHi <end_of_turn><end_of_turn>\n<start_of_turn>model\n"
    );
    assert_eq!(body["n_ctx"], N_CTX);
    let tokens = body["tokens"].as_array().expect("a list");
    assert_eq!(body["n_tokens"], tokens.len());
    let control: Vec<&str> =
        tokens.iter().filter(|token| token["control"] == true).filter_map(|token| token["piece"].as_str()).collect();
    assert_eq!(control, ["<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_turn>"], "the typed one is text");
}

#[tokio::test]
async fn props_tell_which_port_the_server_would_usually_have() {
    let mut moved = options();
    moved.moved_from = Some(8080);
    let props = get(&ready(moved), "/props").await.ok();
    assert_eq!(props["moved_from"], 8080);
}

#[tokio::test]
async fn props_slots_and_metrics_tell_about_the_server() {
    let state = ready(options());
    let props = get(&state, "/props").await.ok();
    assert_eq!(props["n_ctx"], N_CTX);
    assert_eq!(props["n_ctx_train"], 8192);
    assert_eq!(props["total_slots"], 2);
    assert_eq!(props["is_demo"], false);
    assert_eq!(props["bos_token"], "<bos>");
    assert_eq!(props["eos_token"], "<eos>");
    assert_eq!(props["model_alias"], "alphabet-Q6_K");
    assert!(props["chat_template"].as_str().expect("a text").contains("start_of_turn"));
    assert_eq!(props["default_generation_settings"]["params"]["top_p"], 0.9);
    assert_eq!(props["page_templates"]["prompt"], "{{history}}\n<start_of_turn>{{char}}\n");
    assert_eq!(props["page_templates"]["history"], "<start_of_turn>{{name}}\n{{message}}<end_of_turn>");

    assert_eq!(props["moved_from"], Value::Null, "it has the port that was asked for");

    let slots = get(&state, "/slots").await.ok();
    assert_eq!(slots.as_array().expect("a list").len(), 2);
    assert_eq!(slots[0]["is_processing"], false);

    post(&state, "/completion", &json!({"prompt": "a", "n_predict": 4})).await.ok();
    let metrics = get(&state, "/metrics").await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let value = |name: &str| {
        let line = metrics.text.lines().find(|line| line.starts_with(&format!("llamacpp:{name} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!(value("tokens_predicted_total"), 4.0);
    assert_eq!(value("prompt_tokens_total"), 2.0);
    assert!(value("tokens_predicted_seconds_total") > 0.0);
}

#[tokio::test]
async fn while_loading_the_apis_say_how_far_it_is_and_then_they_work() {
    let state = AppState::new(options());
    state.set_progress(0.71, "reading weights");
    for path in ["/health", "/v1/health", "/props"] {
        let answer = get(&state, path).await;
        assert_eq!(answer.header("retry-after"), "1");
        let error = answer.error(503);
        assert_eq!(error["code"], 503);
        assert_eq!(error["message"], "Loading model");
        assert_eq!(error["type"], "unavailable_error");
        assert_eq!(error["progress"], 0.71);
        assert_eq!(error["stage"], "reading weights");
    }
    assert_eq!(get(&state, "/health").await.json()["product"], "gemma2");
    for path in ["/v1/chat/completions", "/v1/completions", "/completion", "/tokenize", "/apply-template"] {
        let answer = post_text(&state, path, "not even JSON").await;
        assert_eq!(answer.header("retry-after"), "1");
        answer.error(503);
    }
    make_ready(&state, engine(SIZES, None));
    let health = get(&state, "/health").await.ok();
    assert_eq!(health["status"], "ok");
    assert_eq!(health["model"], "alphabet-Q6_K");
    assert!(health["started"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000), "{health}");
    get(&state, "/props").await.ok();
}

#[tokio::test]
async fn an_answer_has_only_the_fields_that_were_asked_for() {
    let wanted = json!(["content", "generation_settings/n_predict", "no/such", "timings"]);
    for stream in [false, true] {
        let body = json!({"prompt": "u", "n_predict": 9, "response_fields": wanted, "stream": stream});
        let answer = complete(body).await;
        let body = if stream { answer.frames().pop().expect("an end") } else { answer.ok() };
        let keys: Vec<&String> = body.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["content", "generation_settings/n_predict", "timings"], "{body}");
        assert_eq!(body["generation_settings/n_predict"], 9);
    }
    for wrong in [json!("content"), json!([1]), json!(vec!["a"; 65])] {
        let error = complete(json!({"prompt": "u", "response_fields": wrong})).await.error(400);
        assert_eq!(error["param"], "response_fields");
    }
    assert!(complete(json!({"prompt": "u", "response_fields": []})).await.ok()["stop"].is_boolean());
}

#[tokio::test]
async fn samplers_are_those_that_are_named_and_min_keep_is_what_they_leave() {
    let ask = |more: Value| {
        let mut body = json!({"prompt": "a", "n_predict": 1, "n_probs": 50, "temperature": 2, "top_k": 40, "top_p": 0.1,
            "post_sampling_probs": true});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    for (more, names, n_left) in [
        (json!({}), json!(["penalties", "top_k", "typ_p", "top_p", "min_p", "temperature"]), 1),
        (json!({"samplers": ["top_k"]}), json!(["top_k"]), 40),
        (json!({"samplers": ["temperature", "dry", "top_k"], "top_k": 7}), json!(["temperature", "top_k"]), 7),
        (json!({"samplers": "kt"}), json!(["top_k", "temperature"]), 40),
        (json!({"samplers": []}), json!([]), 50),
        (json!({"min_keep": 5}), json!(["penalties", "top_k", "typ_p", "top_p", "min_p", "temperature"]), 5),
        (json!({"samplers": ["top_p", "top_k"], "min_keep": 9, "top_k": 3}), json!(["top_p", "top_k"]), 3),
    ] {
        let body = complete(ask(more.clone())).await.ok();
        let top = body["completion_probabilities"][0]["top_probs"].as_array().expect("a list");
        assert_eq!((top.len(), &body["generation_settings"]["samplers"]), (n_left, &names), "{more}");
        assert_eq!(body["generation_settings"]["min_keep"], more.get("min_keep").cloned().unwrap_or(json!(0)));
    }
    for (name, value) in [
        ("samplers", json!(["top_k", "infill"])),
        ("samplers", json!("kz")),
        ("samplers", json!([5])),
        ("samplers", json!({})),
        ("samplers", json!(vec!["top_k"; 33])),
        ("min_keep", json!(-1)),
        ("min_keep", json!("many")),
    ] {
        let said = complete(ask(json!({name: value}))).await.said(400);
        assert!(said.contains(&format!("`{name}`")), "{said}");
    }
}

#[tokio::test]
async fn probabilities_of_the_draw_have_names_of_their_own() {
    for (temperature, first) in [(json!(0), 1.0), (json!(100.0), 0.5)] {
        let body = json!({"prompt": "a", "n_predict": 3, "n_probs": 2, "temperature": temperature, "top_k": 2,
            "top_p": 1, "post_sampling_probs": true});
        let body = complete(body).await.ok();
        let tokens = body["completion_probabilities"].as_array().expect("a list");
        assert_eq!(tokens.len(), 3);
        for token in tokens {
            let top = token["top_probs"].as_array().expect("a list");
            let probs: Vec<f64> = top.iter().map(|one| one["prob"].as_f64().expect("a number")).collect();
            assert!(probs.len() == 2 && (probs.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{token}");
            assert!((probs[0] - first).abs() < 0.06, "{token}");
            assert!(top.iter().any(|one| one["id"] == token["id"] && one["prob"] == token["prob"]), "{token}");
            assert!(token["logprob"].is_null() && token["top_logprobs"].is_null(), "{token}");
        }
    }
}

#[tokio::test]
async fn the_settings_tell_which_tokens_are_favored_and_which_never_come() {
    let id = tokenizer().encode("x", Special::Literal)[0];
    let bias = json!([[id, 1.5], [id, false]]);
    let body = complete(json!({"prompt": "a", "n_predict": 1, "logit_bias": bias})).await.ok();
    let settings = &body["generation_settings"];
    assert_eq!(settings["logit_bias"], json!([{"token": id, "bias": 1.5}, {"token": id, "bias": null}]));
    for sampler in ["dynatemp_range", "xtc_probability", "dry_multiplier", "mirostat"] {
        assert_eq!(settings[sampler].as_f64(), Some(0.0), "{sampler} is not there");
    }
    let body = complete(json!({"prompt": "a", "n_predict": 1, "ignore_eos": true})).await.ok();
    let biases = body["generation_settings"]["logit_bias"].as_array().expect("a list");
    let end = tokenizer().encode("<end_of_turn>", Special::Parse)[0];
    assert!(biases.contains(&json!({"token": end, "bias": null})), "{biases:?}");
}

#[tokio::test]
async fn the_first_token_comes_with_the_prompt_and_counts_for_no_speed() {
    let one = complete(json!({"prompt": "a", "n_predict": 1})).await.ok()["timings"].clone();
    assert_eq!((one["predicted_n"].as_f64(), one["predicted_per_second"].as_f64()), (Some(1.0), Some(0.0)));
    let four = complete(json!({"prompt": "a", "n_predict": 4})).await.ok()["timings"].clone();
    let ms = four["predicted_ms"].as_f64().expect("a number");
    let speed = four["predicted_per_second"].as_f64().expect("a number");
    assert!((speed * ms / 3e3 - 1.0).abs() < 1e-9, "{four}");
}

#[tokio::test]
async fn timings_come_with_each_step_of_the_prompt_where_they_are_asked_for() {
    for (path, kind) in [("/completion", "prompt"), ("/v1/completions", "prompt"), ("/v1/responses", "input")] {
        let state = ready(options());
        let body =
            json!({kind: "a b c d e f g h i j k", "stream": true, "return_progress": true, "timings_per_token": true});
        let text = post(&state, path, &body).await.text;
        let frames = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
        let steps: Vec<Value> = frames.filter(|frame| frame["prompt_progress"].is_object()).collect();
        assert!(steps.len() > 2, "{path}: {text}");
        assert_eq!(steps[0]["timings"]["prompt_n"], 0, "{path}");
        for step in &steps {
            assert_eq!(step["timings"]["prompt_n"], step["prompt_progress"]["processed"], "{path}");
            assert_eq!(step["timings"]["predicted_n"], 0, "{path}");
        }
    }
}

#[tokio::test]
async fn an_idle_slot_has_nothing_left_to_do() {
    let state = ready(options());
    post(&state, "/completion", &json!({"prompt": "a", "n_predict": 4})).await.ok();
    for slot in get(&state, "/slots").await.ok().as_array().expect("a list") {
        assert_eq!(slot["next_token"], json!([{"has_next_token": false, "n_remain": -1, "n_decoded": 0}]));
        assert_eq!((&slot["is_processing"], &slot["speculative"]), (&json!(false), &json!(false)));
    }
}

#[tokio::test]
async fn pictures_in_a_prompt_are_refused_and_not_passed_over() {
    let with = |data: Value| json!({"prompt": {"prompt_string": "x", "multimodal_data": data}});
    let error = complete(with(json!(["iVBORw0KGgo="]))).await.error(400);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("reads text only")), "{error}");
    complete(with(json!([]))).await.ok();
}

#[tokio::test]
async fn what_these_models_cannot_do_is_said_by_a_501() {
    let state = ready(options());
    let paths =
        ["/infill", "/rerank", "/v1/rerank", "/reranking", "/v1/reranking", "/v1/audio/transcriptions", "/props"];
    for path in paths.into_iter().chain(["/lora-adapters"]) {
        let error = post(&state, path, &json!({})).await.error(501);
        assert_eq!(error["type"], "not_supported_error", "{path}");
        assert!(error["hint"].is_string(), "{path}");
    }
    assert_eq!(get(&state, "/lora-adapters").await.ok(), json!([]));
    let mut locked = options();
    locked.api_keys = vec!["one".into()];
    post(&ready(locked), "/infill", &json!({})).await.error(401);
}

#[tokio::test]
async fn what_is_switched_off_says_so() {
    let mut options = options();
    (options.shows_slots, options.has_page) = (false, false);
    let state = ready(options);
    let error = get(&state, "/slots").await.error(501);
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("--no-slots")), "{error}");
    assert_eq!(get(&state, "/props").await.ok()["endpoint_slots"], false);
    get(&state, "/").await.error(404);
    get(&state, "/index.html").await.error(404);
    get(&state, "/health").await.ok();
}

#[tokio::test]
async fn a_model_of_several_names_answers_to_each() {
    let state = AppState::new(options());
    let facts =
        ModelFacts { id: "a".into(), aliases: vec!["a".into(), "gpt-4o".into()], tags: vec!["chat".into()], ..facts() };
    state.set_ready(engine(SIZES, None), facts, ChatTemplate::new(None).expect("the built-in one"));
    let models = get(&state, "/v1/models").await.ok();
    let model = &models["data"][0];
    assert_eq!(
        (&model["id"], &model["aliases"], &model["tags"]),
        (&json!("a"), &json!(["a", "gpt-4o"]), &json!(["chat"]))
    );
    assert_eq!(get(&state, "/v1/models/gpt-4o").await.ok()["id"], "a");
    get(&state, "/v1/models/gpt-5").await.error(404);
}
