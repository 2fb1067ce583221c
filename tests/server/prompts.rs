//! How a conversation becomes a prompt, and how a client can see it.

use super::*;

const CHAT: &str = "/v1/chat/completions";

/// What `/apply-template` makes of a request.
async fn prompt(state: &AppState, body: Value) -> String {
    post(state, "/apply-template", &body).await.ok()["prompt"].as_str().expect("a text").to_owned()
}

fn said(messages: &[(&str, &str)]) -> Value {
    messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

#[tokio::test]
async fn a_verbose_answer_tells_prompt_settings_and_slot() {
    let state = ready(options());
    let ask = json!({"messages": hi(), "verbose": true, "max_tokens": 2, "seed": 5});
    let body = post(&state, CHAT, &ask).await.ok();
    let told = &body["__verbose"];
    assert_eq!(told["prompt"], "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n");
    assert_eq!(told["content"], "ab");
    assert_eq!(told["generation_settings"]["n_predict"], 2);
    assert_eq!(told["generation_settings"]["seed"], 5);
    assert_eq!((&told["stop_type"], &told["tokens_predicted"]), (&json!("limit"), &json!(2)));
    let streamed = json!({"messages": hi(), "verbose": true, "max_tokens": 2, "stream": true});
    let frames = post(&state, CHAT, &streamed).await.frames();
    let told: Vec<&Value> = frames.iter().filter(|frame| frame["__verbose"].is_object()).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["choices"][0]["finish_reason"], "length");
    assert_eq!(told[0]["__verbose"]["generation_settings"]["stream"], true);
    let text = post(&state, "/v1/completions", &json!({"prompt": "w", "verbose": true})).await.ok();
    assert_eq!((&text["__verbose"]["prompt"], &text["__verbose"]["content"]), (&json!("<bos>w"), &json!("xyz")));
    let quiet = post(&state, CHAT, &json!({"messages": hi(), "verbose": false})).await.ok();
    assert!(quiet.get("__verbose").is_none(), "{quiet}");
    post(&state, CHAT, &json!({"messages": hi(), "verbose": "very"})).await.error(400);
    let mut talkative = options();
    talkative.verbose = true;
    let talkative = ready(talkative);
    assert!(post(&talkative, CHAT, &json!({"messages": hi()})).await.ok()["__verbose"].is_object());
    let quiet = post(&talkative, CHAT, &json!({"messages": hi(), "verbose": false})).await.ok();
    assert!(quiet.get("__verbose").is_none(), "{quiet}");
}

#[tokio::test]
async fn the_length_of_a_prompt_is_told_without_a_reply() {
    let state = ready(options());
    let used = post(&state, CHAT, &json!({"messages": hi(), "max_tokens": 1})).await.ok();
    for (path, body) in [
        ("/v1/chat/completions/input_tokens", json!({"messages": hi()})),
        ("/chat/completions/input_tokens", json!({"messages": hi()})),
        ("/v1/responses/input_tokens", json!({"input": "Hi"})),
        ("/responses/input_tokens", json!({"input": hi()})),
    ] {
        let told = post(&state, path, &body).await.ok();
        let expected = json!({"object": "response.input_tokens", "input_tokens": used["usage"]["prompt_tokens"]});
        assert_eq!(told, expected, "{path}");
    }
    assert_eq!(post(&state, "/v1/chat/completions/input_tokens", &json!({})).await.error(400)["param"], "messages");
}

#[tokio::test]
async fn a_prompt_ends_as_the_client_says() {
    let state = ready(options());
    let two = said(&[("user", "Hi"), ("assistant", "Wh")]);
    let turns = "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nWh";
    let closed = format!("{turns}<end_of_turn>\n");
    for (fields, expected) in [
        (json!({}), turns.to_owned()),
        (json!({"continue_final_message": true}), turns.to_owned()),
        (json!({"continue_final_message": true, "add_generation_prompt": false}), turns.to_owned()),
        (json!({"continue_final_message": false, "add_generation_prompt": false}), closed.clone()),
        (json!({"add_generation_prompt": true}), format!("{closed}<start_of_turn>model\n")),
        (json!({"continue_final_message": false}), format!("{closed}<start_of_turn>model\n")),
    ] {
        let mut body = fields.clone();
        body["messages"] = two.clone();
        assert_eq!(prompt(&state, body).await, expected, "{fields}");
    }
    let one = json!({"messages": hi(), "add_generation_prompt": false});
    assert_eq!(prompt(&state, one).await, "<bos><start_of_turn>user\nHi<end_of_turn>\n");
    let both = json!({"messages": two, "continue_final_message": true, "add_generation_prompt": true});
    assert_eq!(post(&state, CHAT, &both).await.error(400)["param"], "continue_final_message");
}

#[tokio::test]
async fn what_the_user_says_in_a_row_is_one_turn() {
    let state = ready(options());
    for messages in [
        said(&[("user", "a"), ("user", "b"), ("user", "c")]),
        said(&[("user", "a"), ("system", "b"), ("user", "c")]),
        said(&[("system", "a"), ("user", "b"), ("developer", "c")]),
    ] {
        let expected = "<bos><start_of_turn>user\na\n\nb\n\nc<end_of_turn>\n<start_of_turn>model\n";
        assert_eq!(prompt(&state, json!({"messages": messages})).await, expected, "{messages}");
    }
    let twice = said(&[("user", "a"), ("assistant", "b"), ("assistant", "c")]);
    let error = post(&state, CHAT, &json!({"messages": twice})).await.error(400);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("alternate")), "{error}");
}

/// Evaluation tools count tokens the way vLLM tells them.
#[tokio::test]
async fn vllm_s_way_to_ask_for_tokens_is_understood() {
    let state = ready(options());
    let bos = tokenizer().bos();
    let ids = tokenizer().encode("<start_of_turn>a", Special::Parse);
    let told =
        post(&state, "/tokenize", &json!({"prompt": "<start_of_turn>a", "add_special_tokens": false})).await.ok();
    assert_eq!(told, json!({"count": 2, "max_model_len": N_CTX, "tokens": ids, "token_strs": null}));
    let told = post(&state, "/tokenize", &json!({"prompt": "a", "return_token_strs": true})).await.ok();
    assert_eq!((&told["tokens"][0], &told["token_strs"]), (&json!(bos), &json!(["<bos>", "a"])));
    let chat = post(&state, "/tokenize", &json!({"messages": hi()})).await.ok();
    let prompt = post(&state, "/detokenize", &json!({"tokens": chat["tokens"]})).await.ok();
    assert_eq!(prompt["prompt"], "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n");
    let info = get(&state, "/tokenizer_info").await.ok();
    assert_eq!((&info["bos_token"], &info["eos_token"]), (&json!("<bos>"), &json!("<eos>")));
    assert!(info["chat_template"].as_str().is_some_and(|template| template.contains("start_of_turn")), "{info}");
}
