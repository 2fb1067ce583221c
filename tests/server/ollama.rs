//! Ollama's shapes, field by field.

use super::*;

const CHAT: &str = "/api/chat";
const GENERATE: &str = "/api/generate";

/// An object of all lines, after a look at the head.
fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    assert!(answer.text.ends_with('\n'));
    answer.text.lines().map(|line| serde_json::from_str(line).expect("JSON on a line")).collect()
}

async fn chat(body: Value) -> Answer {
    post(&ready(options()), CHAT, &body).await
}

async fn generate(body: Value) -> Answer {
    post(&ready(options()), GENERATE, &body).await
}

fn text<'a>(lines: impl IntoIterator<Item = &'a Value>) -> String {
    let pieces = lines.into_iter().map(|line| match &line["message"] {
        Value::Null => line["response"].as_str().expect("a response"),
        message => message["content"].as_str().expect("a content"),
    });
    pieces.collect()
}

#[tokio::test]
async fn a_chat_streams_lines_and_ends_with_the_counts() {
    let state = ready(options());
    let n_prompt = post(&state, "/apply-template", &json!({"messages": hi()})).await.ok()["n_tokens"].clone();
    let lines = lines(&post(&state, CHAT, &json!({"model": "gemma2:2b", "messages": hi()})).await);
    let (end, parts) = lines.split_last().expect("lines");
    assert!(parts.len() > 20, "a line each token");
    for part in parts {
        assert_eq!(part["model"], "alphabet-Q6_K:latest");
        assert_eq!(part["message"]["role"], "assistant");
        assert_eq!(part["done"], false);
        assert!(part.get("done_reason").is_none() && part.get("eval_count").is_none(), "{part}");
        let time = part["created_at"].as_str().expect("a time");
        assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 30, "{time}");
    }
    assert_eq!(text(parts), ALPHABET);
    assert_eq!(end["message"], json!({"role": "assistant", "content": ""}));
    assert_eq!((&end["done"], &end["done_reason"]), (&json!(true), &json!("stop")));
    assert_eq!(end["prompt_eval_count"], n_prompt);
    assert!(end["eval_count"].as_u64().is_some_and(|n| (26..=27).contains(&n)), "{end}");
    let duration = |name: &str| end[name].as_u64().unwrap_or_else(|| panic!("{name} in {end}"));
    let parts = duration("load_duration") + duration("prompt_eval_duration") + duration("eval_duration");
    assert_eq!(duration("total_duration"), parts);
    assert!(duration("eval_duration") > 0);
    assert!(end.get("context").is_none(), "a chat keeps its messages");
}

#[tokio::test]
async fn without_a_stream_the_answer_is_one_object() {
    let body = chat(json!({"model": "", "messages": hi(), "stream": false})).await.ok();
    assert_eq!(body["message"], json!({"role": "assistant", "content": ALPHABET}));
    assert_eq!((&body["done"], &body["done_reason"]), (&json!(true), &json!("stop")));
    let body = generate(json!({"prompt": "Hi", "stream": false})).await.ok();
    assert_eq!(body["response"], ALPHABET);
    assert!(body["total_duration"].is_u64() && body["eval_count"].is_u64(), "{body}");
}

#[tokio::test]
async fn options_mean_what_the_other_apis_mean() {
    for (options, expected, reason) in [
        (json!({"num_predict": 3}), "abc", "length"),
        (json!({"num_predict": -1}), ALPHABET, "stop"),
        (json!({"num_predict": 0}), ALPHABET, "stop"),
        (json!({"stop": ["efg"]}), "abcd", "stop"),
        (json!({"temperature": 0, "top_k": 1, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9}), ALPHABET, "stop"),
        (json!({"num_gpu": 1, "num_thread": 8, "use_mmap": true, "num_keep": 4, "num_ctx": 100_000}), ALPHABET, "stop"),
    ] {
        let streamed = lines(&generate(json!({"prompt": "Hi", "options": options})).await);
        assert_eq!(text(&streamed), expected, "{options}");
        assert_eq!(streamed.last().expect("an end")["done_reason"], reason, "{options}");
        let whole = chat(json!({"messages": hi(), "stream": false, "options": options})).await.ok();
        assert_eq!((&whole["message"]["content"], &whole["done_reason"]), (&json!(expected), &json!(reason)));
    }
    let ban =
        json!({"presence_penalty": 2, "frequency_penalty": 2, "repeat_penalty": 1.5, "repeat_last_n": -1, "seed": 4});
    generate(json!({"prompt": "Hi", "options": ban})).await;
}

#[tokio::test]
async fn a_smaller_context_holds_for_the_request() {
    let n_prompt = generate(json!({"prompt": "Hi", "stream": false})).await.ok()["prompt_eval_count"].clone();
    let n_prompt = n_prompt.as_u64().expect("a count");
    let ask =
        async |num_ctx: u64| generate(json!({"prompt": "Hi", "stream": false, "options": {"num_ctx": num_ctx}})).await;
    let body = ask(n_prompt + 5).await.ok();
    assert_eq!((&body["response"], &body["done_reason"]), (&json!("abcde"), &json!("length")));
    let said = ask(n_prompt - 1).await.said(400);
    assert!(said.contains(&n_prompt.to_string()) && said.contains("num_ctx"), "{said}");
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused_before_the_stream() {
    let said = generate(json!({"prompt": "word ".repeat(200)})).await.said(400);
    assert!(said.contains(&N_CTX.to_string()) && said.contains("-c 0"), "{said}");
}

#[tokio::test]
async fn a_prompt_becomes_a_turn_with_the_system_s_text() {
    let state = ready(options());
    let count = async |body: Value| post(&state, GENERATE, &body).await.ok()["prompt_eval_count"].clone();
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]);
    let expected = post(&state, "/apply-template", &json!({"messages": messages})).await.ok();
    let found = count(json!({"prompt": "Hi", "system": "Be brief.", "stream": false})).await;
    assert_eq!(found, expected["n_tokens"]);
}

#[tokio::test]
async fn a_raw_prompt_goes_to_the_model_as_it_is() {
    let body = generate(json!({"prompt": "w", "raw": true, "stream": false})).await.ok();
    assert_eq!(body["response"], "xyz");
    assert_eq!(body["prompt_eval_count"], 2, "with <bos>");
    assert!(body.get("context").is_none());
    let prompt = "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nw";
    let body = generate(json!({"prompt": prompt, "raw": true, "stream": false})).await.ok();
    assert_eq!(body["response"], "xyz");
    for (field, value) in [("system", json!("x")), ("context", json!([5])), ("template", json!("{{ .Prompt }}"))] {
        let said = generate(json!({"prompt": "w", "raw": true, field: value})).await.said(400);
        assert!(said.contains(field), "{said}");
    }
}

#[tokio::test]
async fn the_context_of_an_answer_is_the_conversation_so_far() {
    let state = ready(options());
    let ask = async |body: Value| post(&state, GENERATE, &body).await;
    let first = ask(json!({"prompt": "Hi", "stream": false, "options": {"num_predict": 3}})).await.ok();
    let streamed = lines(&ask(json!({"prompt": "Hi", "options": {"num_predict": 3}})).await);
    assert_eq!(streamed.last().expect("an end")["context"], first["context"]);
    let second = ask(json!({"prompt": "More", "context": first["context"], "stream": false})).await.ok();
    let messages = json!([
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "abc"}, {"role": "user", "content": "More"},
    ]);
    let same = post(&state, "/apply-template", &json!({"messages": messages})).await.ok();
    assert_eq!(second["prompt_eval_count"], same["n_tokens"]);
    let detokenized = post(&state, "/detokenize", &json!({"tokens": first["context"]})).await.ok();
    let text = detokenized["content"].as_str().expect("a text");
    assert!(text.ends_with("abc<end_of_turn>\n") && same["prompt"].as_str().expect("a text").contains(text), "{text}");
}

#[tokio::test]
async fn a_last_message_by_the_assistant_is_continued() {
    let messages = json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "wx"}]);
    assert_eq!(text(&lines(&chat(json!({"messages": messages})).await)), "yz");
}

#[tokio::test]
async fn nothing_to_say_loads_the_model_which_is_there() {
    for body in [json!({"model": "x"}), json!({"messages": []}), json!({"messages": null, "keep_alive": 0})] {
        let body = chat(body).await.ok();
        assert_eq!((&body["done"], &body["done_reason"]), (&json!(true), &json!("load")));
        assert_eq!(body["message"]["content"], "");
    }
    let body = generate(json!({"model": "x", "prompt": "", "keep_alive": "5m"})).await.ok();
    assert_eq!((&body["response"], &body["done_reason"]), (&json!(""), &json!("load")));
}

#[tokio::test]
async fn log_probabilities_come_with_their_tokens() {
    let ask = json!({"prompt": "Hi", "logprobs": true, "top_logprobs": 2, "options": {"num_predict": 2}});
    let streamed = lines(&generate(ask.clone()).await);
    assert_eq!(streamed[0]["logprobs"][0]["token"], "a");
    assert_eq!(streamed[1]["logprobs"][0]["top_logprobs"][1]["token"], "c");
    let mut ask = ask;
    ask["stream"] = json!(false);
    let whole = generate(ask).await.ok();
    let tokens = whole["logprobs"].as_array().expect("a list").iter().filter_map(|one| one["token"].as_str());
    assert_eq!(tokens.collect::<String>(), "ab");
}

#[tokio::test]
async fn what_would_change_the_result_and_is_not_there_is_refused() {
    let state = ready(options());
    let picture = json!([{"role": "user", "content": "Hi", "images": ["aGk="]}]);
    for (path, field, value) in [
        (CHAT, "tools", json!([{"type": "function"}])),
        (CHAT, "messages", picture),
        (CHAT, "think", json!(true)),
        (CHAT, "format", json!("yaml")),
        (CHAT, "format", json!({"type": "thing"})),
        (CHAT, "stream", json!("yes")),
        (CHAT, "keep_alive", json!([])),
        (CHAT, "options", json!({"temperature": -1})),
        (CHAT, "options", json!({"mirostat": 1})),
        (CHAT, "options", json!("hot")),
        (GENERATE, "suffix", json!("x")),
        (GENERATE, "images", json!(["aGk="])),
        (GENERATE, "template", json!("{{ .Prompt }}")),
        (GENERATE, "context", json!([-1])),
        (GENERATE, "context", json!("x")),
        (GENERATE, "prompt", json!(5)),
    ] {
        let mut body = json!({"messages": hi(), "prompt": "Hi"});
        body[field] = value;
        let said = post(&state, path, &body).await.said(400);
        let named = match &body["options"] {
            Value::Object(options) => options.keys().next().expect("a name"),
            _ if field == "messages" => "images",
            _ => field,
        };
        assert!(said.contains(named), "{said}");
    }
    let neutral = json!({
        "messages": hi(), "tools": [], "think": false, "format": "", "options": {"mirostat": 0, "unknown": 1}, "stream": false,
    });
    assert_eq!(post(&state, CHAT, &neutral).await.ok()["message"]["content"], ALPHABET);
}

#[tokio::test]
async fn the_models_are_the_one_that_is_loaded() {
    let state = ready(options());
    for path in ["/api/tags", "/api/ps"] {
        let body = get(&state, path).await.ok();
        let models = body["models"].as_array().expect("a list");
        assert_eq!(models.len(), 1);
        assert_eq!((&models[0]["name"], &models[0]["model"]), (&models[0]["model"], &json!("alphabet-Q6_K:latest")));
        assert_eq!(models[0]["size"], 52);
        assert_eq!(models[0]["digest"].as_str().map(str::len), Some(64));
        assert_eq!(
            models[0]["details"],
            json!({
                "parent_model": "", "format": "gguf", "family": "gemma2", "families": ["gemma2"],
                "parameter_size": "26", "quantization_level": "Q6_K",
            })
        );
    }
    assert_eq!(get(&state, "/api/ps").await.ok()["models"][0]["context_length"], N_CTX);
    for name in ["alphabet-Q6_K", "gemma2", "gemma2:2b", "alphabet-Q6_K:latest"] {
        let body = post(&state, "/api/show", &json!({"model": name})).await.ok();
        assert_eq!(body["capabilities"], json!(["completion", "tools", "embedding"]));
        assert_eq!(body["model_info"]["gemma2.context_length"], 8192);
        assert!(body["template"].as_str().expect("a text").contains("start_of_turn"));
        assert!(body["parameters"].as_str().expect("a text").contains("top_p                          0.9"), "{body}");
    }
    let version = get(&state, "/api/version").await.ok();
    assert!(version["version"].as_str().expect("a text").split('.').all(|part| part.parse::<u32>().is_ok()));
}

#[tokio::test]
async fn the_oldest_turns_are_left_out_where_a_conversation_does_not_fit() {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text.repeat(12)});
    let long = json!([turn("user", "word "), turn("assistant", "word "), turn("user", "word "), turn("assistant", "word "),
        {"role": "user", "content": "Hi"}]);
    let ask = json!({"messages": long, "stream": false, "options": {"num_predict": 20}});
    let body = chat(ask).await.ok();
    assert_eq!((&body["message"]["content"], &body["truncated"]), (&json!(ALPHABET[..20]), &json!(true)));
    chat(json!({"messages": long, "truncate": false})).await.said(400);
    let ask = json!({"prompt": "word ".repeat(33), "stream": false});
    assert_eq!(generate(ask.clone()).await.ok()["done_reason"], "length", "the context is full");
    let mut shifts = ask;
    shifts["shift"] = json!(true);
    let body = generate(shifts).await.ok();
    assert_eq!(
        (&body["response"], &body["done_reason"], &body["truncated"]),
        (&json!(ALPHABET), &json!("stop"), &json!(true))
    );
}

#[tokio::test]
async fn texts_become_vectors() {
    let state = ready(options());
    let openai = post(&state, "/v1/embeddings", &json!({"input": ["ab", "c"]})).await.ok();
    let body = post(&state, "/api/embed", &json!({"model": "x", "input": ["ab", "c"]})).await.ok();
    assert_eq!(body["embeddings"], json!([openai["data"][0]["embedding"], openai["data"][1]["embedding"]]));
    assert_eq!(body["prompt_eval_count"], openai["usage"]["prompt_tokens"]);
    assert!(body["total_duration"].as_u64().is_some_and(|time| time > 0));
    let one = post(&state, "/api/embed", &json!({"input": "ab", "dimensions": 1})).await.ok();
    assert_eq!(one["embeddings"][0].as_array().map(Vec::len), Some(1));
    let older = post(&state, "/api/embeddings", &json!({"prompt": "c"})).await.ok();
    assert_eq!(older["embedding"], body["embeddings"][1]);
    for nothing in [json!({}), json!({"input": []})] {
        assert_eq!(post(&state, "/api/embed", &nothing).await.ok()["embeddings"], json!([]));
    }
    let long = "a ".repeat(200);
    let cut = post(&state, "/api/embed", &json!({"input": long})).await.ok();
    assert_eq!(cut["prompt_eval_count"], N_CTX);
    let said = post(&state, "/api/embed", &json!({"input": long, "truncate": false})).await.said(400);
    assert!(said.contains("input"), "{said}");
    post(&state, "/api/embeddings", &json!({})).await.said(400);
}

#[tokio::test]
async fn errors_are_one_text() {
    let state = ready(options());
    let said = post_text(&state, CHAT, "{").await.said(400);
    assert!(said.contains("line 1 column"), "{said}");
    get(&state, "/api/nothing").await.said(404);
    get(&state, CHAT).await.said(405);
    let loading = AppState::new(options());
    let answer = post(&loading, CHAT, &json!({})).await;
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.said(503), "Loading model");
}
