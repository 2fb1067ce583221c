//! Conversations, prompts and replies that outgrow the context.

use super::*;

/// `n` turns by a user and the model, and a last question.
fn long_chat(n: usize) -> Vec<Value> {
    let mut messages = vec![json!({"role": "system", "content": "Be brief."})];
    for turn in 0..n {
        messages.push(json!({"role": "user", "content": format!("question {turn}")}));
        messages.push(json!({"role": "assistant", "content": format!("answer {turn}")}));
    }
    messages.push(json!({"role": "user", "content": "the last one"}));
    messages
}

async fn n_tokens(state: &AppState, messages: &[Value]) -> usize {
    let body = post(state, "/apply-template", &json!({"messages": messages})).await.ok();
    body["n_tokens"].as_u64().expect("a count") as usize
}

#[tokio::test]
async fn a_chat_that_is_too_long_loses_its_oldest_turns_and_says_how_many_messages() {
    let state = ready(options());
    let messages = long_chat(30);
    let body = post(&state, "/v1/chat/completions", &json!({"messages": messages, "max_tokens": 20})).await.ok();
    let n_dropped = body["dropped_messages"].as_u64().expect("a count") as usize;
    assert_eq!((&body["truncated"], n_dropped % 2), (&json!(true), 0), "whole turns: {body}");
    // The prompt is the shortest cut that leaves the room asked for, with the system message in front.
    let left = |n: usize| [&messages[..1], &messages[1 + n..]].concat();
    let n_left = n_tokens(&state, &left(n_dropped)).await;
    assert_eq!(body["usage"]["prompt_tokens"], n_left);
    assert!(n_left <= N_CTX - 20, "{n_left}");
    assert!(n_tokens(&state, &left(n_dropped - 2)).await > N_CTX - 20, "one turn less would have done");
    assert_eq!(body["choices"][0]["message"]["content"], &ALPHABET[..20]);

    let streamed = json!({"messages": messages, "stream": true, "max_tokens": 20,
        "stream_options": {"include_usage": true}});
    let frames = post(&state, "/v1/chat/completions", &streamed).await.frames();
    let ends: Vec<&Value> = frames.iter().filter(|frame| frame["truncated"] == true).collect();
    assert_eq!(ends.len(), 2, "the last chunk and the usage: {frames:?}");
    assert!(ends.iter().all(|end| end["dropped_messages"] == n_dropped));
}

#[tokio::test]
async fn a_chat_that_fits_is_left_alone() {
    let state = ready(options());
    let body = post(&state, "/v1/chat/completions", &json!({"messages": long_chat(1)})).await.ok();
    assert_eq!((&body["truncated"], &body["dropped_messages"]), (&json!(false), &Value::Null));
}

#[tokio::test]
async fn whoever_wants_an_error_gets_one_and_so_does_a_client_with_templates_of_its_own() {
    let state = ready(options());
    for more in [json!({"overflow": "error"}), json!({"templates": {}})] {
        for stream in [false, true] {
            let mut body = json!({"messages": long_chat(30), "stream": stream});
            body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            let error = post(&state, "/v1/chat/completions", &body).await.error(400);
            assert_eq!(error["code"], "context_length_exceeded", "{more}");
        }
    }
    let chosen = json!({"messages": long_chat(30), "templates": {}, "overflow": "drop_oldest_turns"});
    let body = post(&state, "/v1/chat/completions", &chosen).await.ok();
    assert_eq!(body["truncated"], true);
}

#[tokio::test]
async fn a_last_turn_that_does_not_fit_is_an_error_whatever_is_left_out() {
    let mut messages = long_chat(3);
    messages.push(json!({"role": "assistant", "content": "yes?"}));
    messages.push(json!({"role": "user", "content": "word ".repeat(200)}));
    let error = post(&ready(options()), "/v1/chat/completions", &json!({"messages": messages})).await.error(400);
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("messages")));
}

#[tokio::test]
async fn a_chat_can_be_shifted_too() {
    let body = json!({"messages": long_chat(30), "overflow": "shift", "n_keep": 10, "max_tokens": 5});
    let body = post(&ready(options()), "/v1/chat/completions", &body).await.ok();
    assert_eq!((&body["truncated"], &body["usage"]["completion_tokens"]), (&json!(true), &json!(5)));
    assert!(body["usage"]["prompt_tokens"].as_u64().expect("a count") < N_CTX as u64);
    assert_eq!(body["dropped_messages"], Value::Null, "tokens, not messages");
}

#[tokio::test]
async fn a_raw_reply_goes_on_past_the_context_unless_that_is_off() {
    let asked = json!({"prompt": "a", "ignore_eos": true, "n_predict": 200, "n_keep": 1});
    let body = post(&ready(options()), "/completion", &asked).await.ok();
    assert_eq!((&body["tokens_predicted"], &body["truncated"]), (&json!(200), &json!(true)));
    assert_eq!((&body["stop_reason"], &body["generation_settings"]["n_keep"]), (&json!("token_limit"), &json!(1)));
    let text = json!({"prompt": "a", "ignore_eos": true, "max_tokens": 200});
    let body = post(&ready(options()), "/v1/completions", &text).await.ok();
    assert_eq!((&body["usage"]["completion_tokens"], &body["truncated"]), (&json!(200), &json!(true)));

    let mut fixed = options();
    fixed.context_shift = false;
    let mut refusing = asked.clone();
    refusing["overflow"] = json!("error");
    for (state, body) in [(ready(fixed), &asked), (ready(options()), &refusing)] {
        let body = post(&state, "/completion", body).await.ok();
        assert_eq!((&body["stop_reason"], &body["truncated"]), (&json!("context_full"), &json!(true)));
        assert_eq!(body["tokens_predicted"], N_CTX - 2);
        assert_eq!(body["stop_type"], "limit");
    }
}

#[tokio::test]
async fn a_raw_prompt_that_is_too_long_loses_its_middle_only_on_request() {
    let state = ready(options());
    let prompt = "a ".repeat(200) + "x";
    let body = post(&state, "/completion", &json!({"prompt": prompt, "overflow": "shift"})).await.ok();
    assert_eq!((&body["content"], &body["truncated"]), (&json!("yz"), &json!(true)));
    assert!(body["tokens_evaluated"].as_u64().expect("a count") < N_CTX as u64);
    post(&state, "/completion", &json!({"prompt": prompt})).await.error(400);
}

#[tokio::test]
async fn a_policy_without_a_meaning_is_refused_by_name() {
    let state = ready(options());
    for (path, policy) in [
        ("/completion", json!("drop_oldest_turns")),
        ("/v1/completions", json!("x")),
        ("/v1/chat/completions", json!("x")),
        ("/v1/chat/completions", json!(1)),
    ] {
        let body = json!({"prompt": "a", "messages": hi(), "overflow": policy});
        assert_eq!(post(&state, path, &body).await.error(400)["param"], "overflow", "{path}");
    }
    let body = json!({"prompt": "a", "n_keep": -2});
    assert_eq!(post(&state, "/completion", &body).await.error(400)["param"], "n_keep");
}
