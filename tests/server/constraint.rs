//! Replies of a given form, on every API.

use super::*;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const COMPLETION: &str = "/completion";

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 8 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "color": { "enum": ["red", "green"] },
        },
        "required": ["name", "age", "color"],
        "additionalProperties": false,
    })
}

/// The JSON of a reply to [`person`], checked by hand.
fn check_person(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let map = value.as_object().expect("an object");
    assert_eq!(map.keys().collect::<Vec<_>>(), ["name", "age", "color"], "{text}");
    assert!(map["name"].as_str().is_some_and(|name| name.chars().count() <= 8), "{text}");
    assert!(map["age"].as_u64().is_some_and(|age| age <= 150), "{text}");
    assert!(map["color"] == "red" || map["color"] == "green", "{text}");
}

fn schema_format(schema: Value) -> Value {
    json!({ "type": "json_schema", "json_schema": { "name": "person", "strict": true, "schema": schema } })
}

#[tokio::test]
async fn a_reply_under_a_schema_is_json_of_that_schema_on_every_api() {
    let state = roomy();
    for seed in 0..8 {
        let chat =
            json!({ "messages": hi(), "seed": seed, "temperature": 2, "response_format": schema_format(person()) });
        let body = post(&state, CHAT, &chat).await.ok();
        check_person(body["choices"][0]["message"]["content"].as_str().expect("a text"));
        assert_eq!(body["choices"][0]["finish_reason"], "stop");
    }
    let format = json!({ "type": "json_object", "schema": person() });
    for (path, name, value, content) in [
        (CHAT, "json_schema", person(), "/choices/0/message/content"),
        (CHAT, "response_format", format.clone(), "/choices/0/message/content"),
        (TEXT, "response_format", format, "/choices/0/text"),
        (COMPLETION, "json_schema", person(), "/content"),
    ] {
        let body = json!({ "messages": hi(), "prompt": "Hi", "temperature": 0, name: value });
        let body = post(&state, path, &body).await.ok();
        check_person(body.pointer(content).and_then(Value::as_str).expect("a text"));
    }
}

#[tokio::test]
async fn vllm_s_words_for_a_form_are_understood() {
    let state = roomy();
    let reply = async |path: &str, form: Value| {
        let mut body = json!({ "messages": hi(), "prompt": "Hi", "temperature": 2, "seed": 3 });
        body.as_object_mut().expect("an object").extend(form.as_object().expect("an object").clone());
        let body = post(&state, path, &body).await.ok();
        let content = body.pointer("/choices/0/message/content").or(body.pointer("/choices/0/text"));
        content.and_then(Value::as_str).expect("a text").to_owned()
    };
    for path in [CHAT, TEXT] {
        check_person(&reply(path, json!({ "structured_outputs": { "json": person() } })).await);
        check_person(&reply(path, json!({ "guided_json": person().to_string() })).await);
        let object = reply(path, json!({ "structured_outputs": { "json_object": true, "regex": null } })).await;
        assert!(object.starts_with('{'), "{object}");
        for form in [
            json!({ "structured_outputs": { "regex": "[x-z]{4}" } }),
            json!({ "guided_regex": "[x-z]{4}" }),
            json!({ "guided_grammar": "root ::= [x-z]{4}" }),
            json!({ "structured_outputs": { "grammar": "root ::= [x-z]{4}" } }),
        ] {
            let text = reply(path, form).await;
            assert!(text.len() == 4 && text.chars().all(|letter| ('x'..='z').contains(&letter)), "{text}");
        }
        for form in
            [json!({ "structured_outputs": { "choice": ["a|b.", "(c)"] } }), json!({ "guided_choice": ["a|b."] })]
        {
            assert!(["a|b.", "(c)"].contains(&&*reply(path, form).await));
        }
    }
    for (form, param) in [
        (json!({ "guided_choice": [] }), "guided_choice"),
        (json!({ "guided_choice": [1] }), "guided_choice"),
        (json!({ "guided_json": "{" }), "guided_json"),
        (json!({ "structured_outputs": "json" }), "structured_outputs"),
        (json!({ "structured_outputs": { "json": 5 } }), "structured_outputs.json"),
        (json!({ "structured_outputs": { "structural_tag": "{}" } }), "structured_outputs.structural_tag"),
        (json!({ "structured_outputs": { "regex": "a", "choice": ["b"] } }), "structured_outputs.choice"),
        (json!({ "regex": "a", "guided_regex": "b" }), "guided_regex"),
    ] {
        let mut body = json!({ "prompt": "Hi" });
        body.as_object_mut().expect("an object").extend(form.as_object().expect("an object").clone());
        assert_eq!(post(&state, TEXT, &body).await.error(400)["param"], param, "{form}");
    }
}

#[tokio::test]
async fn the_other_dialects_have_their_own_words_for_a_schema() {
    let state = roomy();
    let format = json!({ "format": { "type": "json_schema", "name": "person", "schema": person() } });
    for (path, name, value, content) in [
        ("/api/chat", "format", person(), "/message/content"),
        ("/api/generate", "format", person(), "/response"),
        ("/v1/responses", "text", format.clone(), "/output/0/content/0/text"),
        ("/v1/messages", "output_config", format.clone(), "/content/0/text"),
        ("/v1/messages", "output_format", format["format"].clone(), "/content/0/text"),
    ] {
        let body = json!({ "messages": hi(), "prompt": "Hi", "input": "Hi", "stream": false, "temperature": 0,
            "options": { "temperature": 0 }, name: value });
        let body: Value = match path {
            "/v1/responses" => without(body, &["messages", "prompt", "options"]),
            _ => body,
        };
        let body = post(&state, path, &body).await.ok();
        check_person(body.pointer(content).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: {body}")));
    }
    let any =
        json!({ "messages": hi(), "format": "json", "stream": false, "options": { "num_predict": 40, "seed": 3 } });
    let body = post(&state, "/api/chat", &any).await.ok();
    assert!(body["message"]["content"].as_str().is_some_and(|text| text.trim_start().starts_with('{')), "{body}");
}

fn without(mut body: Value, names: &[&str]) -> Value {
    for name in names {
        body.as_object_mut().expect("an object").remove(*name);
    }
    body
}

#[tokio::test]
async fn a_grammar_decides_what_the_model_may_say() {
    let state = ready(options());
    let text = async |path: &str, grammar: &str| {
        let body = json!({ "messages": hi(), "prompt": "a", "temperature": 0, "grammar": grammar });
        let body = post(&state, path, &body).await.ok();
        let choice = &body["choices"][0];
        let texts = [&body["content"], &choice["text"], &choice["message"]["content"]];
        texts.into_iter().find_map(Value::as_str).expect("a text").to_owned()
    };
    // The model says the alphabet where it may, and its end where the grammar may stop.
    assert_eq!(text(COMPLETION, "root ::= [b-d]+").await, "bcd");
    assert!(["yes", "no"].contains(&text(CHAT, r#"root ::= "yes" | "no""#).await.as_str()));
    assert_eq!(text(TEXT, "root ::= \"b\" rest\nrest ::= \"cd\" | \"xx\" rest").await, "bcd");
    assert_eq!(text(CHAT, "%llguidance {}\nstart: /[a-c]{5}/").await.len(), 5);
    assert_eq!(text(CHAT, " ").await, ALPHABET, "no grammar");
}

#[tokio::test]
async fn the_whole_reply_matches_a_regular_expression() {
    let state = ready(options());
    for path in [COMPLETION, TEXT, CHAT] {
        let body = json!({ "messages": hi(), "prompt": "a", "temperature": 0, "regex": "[0-9]{2}-(b|c)" });
        let body = post(&state, path, &body).await.ok();
        let choice = &body["choices"][0];
        let texts = [&body["content"], &choice["text"], &choice["message"]["content"]];
        let text = texts.into_iter().find_map(Value::as_str).expect("a text");
        let is_digit = |at: usize| text.as_bytes()[at].is_ascii_digit();
        assert!(text.len() == 4 && is_digit(0) && is_digit(1) && ["-b", "-c"].contains(&&text[2..]), "{path}: {text}");
    }
}

#[tokio::test]
async fn several_replies_and_streams_follow_the_grammar_each_for_itself() {
    let state = ready(options());
    let body =
        json!({ "messages": hi(), "n": 3, "seed": 1, "grammar": "root ::= [xyz]{4}", "temperature": 2, "top_p": 1 });
    let whole = post(&state, CHAT, &body).await.ok();
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let frames = post(&state, CHAT, &streamed).await.frames();
    for index in 0..3 {
        let text = whole["choices"][index]["message"]["content"].as_str().expect("a text");
        assert!(text.len() == 4 && text.bytes().all(|b| b"xyz".contains(&b)), "{text}");
        let pieces = frames.iter().filter(|frame| frame["choices"][0]["index"] == index);
        let pieces = pieces.filter_map(|frame| frame["choices"][0]["delta"]["content"].as_str());
        assert_eq!(pieces.collect::<String>(), text, "the same seed, the same text");
    }
}

#[tokio::test]
async fn a_form_that_cannot_be_used_is_a_400_about_its_field() {
    let state = ready(options());
    let format = |format: Value| json!({ "response_format": format });
    let schema = |schema: Value| format(schema_format(schema));
    let deep = format!("root ::= {}", "(".repeat(10_000));
    let cases = [
        (format(json!("json_object")), "response_format"),
        (format(json!({})), "response_format.type"),
        (format(json!({ "type": "yaml" })), "response_format.type"),
        (format(json!({ "type": "json_schema" })), "response_format.json_schema"),
        (format(json!({ "type": "json_schema", "json_schema": {} })), "response_format.json_schema.schema"),
        (format(json!({ "type": "json_schema", "json_schema": { "name": 5 } })), "response_format.json_schema.name"),
        (schema(json!("x")), "response_format.json_schema.schema"),
        (schema(json!({ "type": "thing" })), "response_format.json_schema.schema"),
        (schema(json!({ "type": "integer", "minimum": 2, "maximum": 1 })), "response_format.json_schema.schema"),
        (format(json!({ "type": "json_object", "schema": { "$ref": "#/nowhere" } })), "response_format.schema"),
        (json!({ "json_schema": 5 }), "json_schema"),
        (json!({ "grammar": 5 }), "grammar"),
        (json!({ "grammar": "root ::= item" }), "grammar"),
        (json!({ "regex": "(a" }), "regex"),
        (json!({ "regex": 5 }), "regex"),
        (json!({ "regex": "a", "grammar": "root ::= \"a\"" }), "regex"),
        (json!({ "grammar": deep }), "grammar"),
        (json!({ "grammar": "%llguidance {}\nstart: start \"a\"" }), "grammar"),
        (json!({ "grammar": "root ::= \"日\"", "json_schema": {} }), "grammar"),
        (json!({ "grammar_lazy": true, "grammar": "root ::= \"a\"" }), "grammar_lazy"),
    ];
    for (mut body, param) in cases {
        body["messages"] = hi();
        let error = post(&state, CHAT, &body).await.error(400);
        assert_eq!(error["param"], param, "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    // The page asks without a reply: that takes no slot.
    for path in [COMPLETION, "/apply-template"] {
        let ask = json!({ "prompt": "a", "messages": hi(), "grammar": "root ::= \"a\"\n  item" });
        let error = post(&state, path, &ask).await.error(400);
        let message = error["message"].as_str().expect("a text");
        assert!(message.contains("line 2, column") && error["hint"].is_string(), "{error}");
    }
}
