//! The real program calls functions: the demo model knows nothing of them, and its replies are in form all the same.

use std::io::Read;

use serde_json::{Value, json};

use crate::program::Server;

fn post(server: &Server, path: &str, body: &Value) -> Value {
    let mut answer = String::new();
    server.send("POST", path, "", &body.to_string()).read_to_string(&mut answer).expect("an answer");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {answer}"))
}

#[test]
fn a_call_that_is_forced_has_arguments_that_fit_in_every_dialect() {
    let server = Server::start("0", &["-c", "2048", "--seed", "1"]);
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["city", "days", "unit"],
        "properties": {
            "city": { "type": "string", "maxLength": 20 }, "days": { "type": "integer", "minimum": 1, "maximum": 14 },
            "unit": { "enum": ["celsius", "fahrenheit"] },
        },
    });
    let messages = json!([{ "role": "user", "content": "What will the weather be in Paris?" }]);
    let nested = json!([{ "type": "function", "function": { "name": "get_weather", "parameters": schema } }]);
    let named = json!({ "type": "function", "name": "get_weather", "function": { "name": "get_weather" } });
    let mut flat = json!({ "type": "function", "name": "get_weather", "parameters": schema });
    let responses = json!({ "input": messages, "tools": [flat], "tool_choice": named });
    flat = json!({ "name": "get_weather", "input_schema": schema });
    let anthropic =
        json!({ "messages": messages, "tools": [flat], "tool_choice": { "type": "tool", "name": "get_weather" } });
    let chat = json!({ "messages": messages, "tools": nested, "tool_choice": named, "stream": false });
    for (path, body, call, arguments) in [
        ("/v1/chat/completions", &chat, "/choices/0/message/tool_calls/0/function", "arguments"),
        ("/api/chat", &chat, "/message/tool_calls/0/function", "arguments"),
        ("/v1/responses", &responses, "/output/0", "arguments"),
        ("/v1/messages", &anthropic, "/content/0", "input"),
    ] {
        let answer = post(&server, path, body);
        let call = answer.pointer(call).unwrap_or_else(|| panic!("{path}: {answer}"));
        assert_eq!(call["name"], "get_weather", "{answer}");
        let parsed = call[arguments].as_str().map(|text| serde_json::from_str(text).expect("JSON"));
        let arguments = parsed.unwrap_or(call[arguments].clone());
        assert!(arguments["city"].as_str().is_some_and(|city| city.chars().count() <= 20), "{path}: {answer}");
        assert!(arguments["days"].as_u64().is_some_and(|days| (1..=14).contains(&days)), "{path}: {answer}");
        assert!(
            ["celsius", "fahrenheit"].contains(&arguments["unit"].as_str().unwrap_or_default()),
            "{path}: {answer}"
        );
    }
    server.stop();
}
