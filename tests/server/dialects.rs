//! Functions that the model may call, in the words of Ollama, Anthropic and OpenAI's responses.

use super::anthropic::named_events;
use super::*;

/// An API and how it words a request that may call functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    Ollama,
    Anthropic,
    Responses,
}

const APIS: [Api; 3] = [Api::Ollama, Api::Anthropic, Api::Responses];

#[derive(Debug, PartialEq)]
struct Told {
    text: String,
    /// Names and arguments.
    calls: Vec<(String, Value)>,
    end: String,
}

fn color() -> Value {
    json!({
        "type": "object", "properties": { "color": { "enum": ["red", "green"] } }, "required": ["color"],
        "additionalProperties": false,
    })
}

fn nothing() -> Value {
    json!({ "type": "object", "properties": {}, "additionalProperties": false })
}

impl Api {
    fn path(self) -> &'static str {
        match self {
            Api::Ollama => "/api/chat",
            Api::Anthropic => "/v1/messages",
            Api::Responses => "/v1/responses",
        }
    }

    fn tools(self) -> Value {
        let paints = "Paints the wall";
        match self {
            Api::Ollama => json!([
                { "type": "function", "function": { "name": "paint", "description": paints, "parameters": color() } },
                { "function": { "name": "now" } },
            ]),
            Api::Anthropic => json!([
                { "name": "paint", "description": paints, "input_schema": color(), "cache_control": { "type": "ephemeral" } },
                { "type": "custom", "name": "now", "input_schema": nothing() },
            ]),
            Api::Responses => json!([
                { "type": "function", "name": "paint", "description": paints, "parameters": color(), "strict": true },
                { "type": "function", "name": "now", "parameters": null },
            ]),
        }
    }

    /// One call of any function, or of a named one.
    fn choice(self, name: Option<&str>) -> Value {
        match (self, name) {
            (Api::Ollama, None) => json!({ "tool_choice": "required", "parallel_tool_calls": false }),
            (Api::Ollama, Some(name)) => json!({ "tool_choice": { "function": { "name": name } } }),
            (Api::Anthropic, None) => {
                json!({ "tool_choice": { "type": "any", "disable_parallel_tool_use": true } })
            }
            (Api::Anthropic, Some(name)) => json!({ "tool_choice": { "type": "tool", "name": name } }),
            (Api::Responses, None) => json!({ "tool_choice": "required", "parallel_tool_calls": false }),
            (Api::Responses, Some(name)) => json!({ "tool_choice": { "type": "function", "name": name } }),
        }
    }

    fn body(self, stream: bool, more: Value) -> Value {
        let mut body = match self {
            Api::Ollama => json!({ "messages": hi(), "options": { "temperature": 0 } }),
            Api::Anthropic => json!({ "messages": hi(), "temperature": 0 }),
            Api::Responses => json!({ "input": hi(), "temperature": 0 }),
        };
        body["tools"] = self.tools();
        body["stream"] = json!(stream);
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    }

    async fn ask(self, state: &AppState, stream: bool, more: Value) -> Told {
        let answer = post(state, self.path(), &self.body(stream, more)).await;
        match (self, stream) {
            (Api::Ollama, _) => ollama(&answer),
            (Api::Anthropic, false) => anthropic(&answer.ok()),
            (Api::Anthropic, true) => anthropic_stream(&named_events(&answer.text)),
            (Api::Responses, false) => responses(&answer.ok()),
            (Api::Responses, true) => responses_stream(&named_events(&answer.text)),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn ollama(answer: &Answer) -> Told {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let lines: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let calls = lines.iter().flat_map(|line| list(&line["message"]["tool_calls"])).enumerate().map(|(at, call)| {
        assert!(text(&call["id"]).starts_with("call_") && call["function"]["index"] == at, "{call}");
        (text(&call["function"]["name"]).to_owned(), call["function"]["arguments"].clone())
    });
    let end = lines.last().expect("a line");
    assert!(lines.len() == 1 || end["message"] == json!({ "role": "assistant", "content": "" }), "{end}");
    Told {
        text: lines.iter().map(|line| text(&line["message"]["content"])).collect(),
        calls: calls.collect(),
        end: text(&end["done_reason"]).to_owned(),
    }
}

fn anthropic(message: &Value) -> Told {
    let mut told = Told { text: String::new(), calls: Vec::new(), end: text(&message["stop_reason"]).to_owned() };
    for block in list(&message["content"]) {
        match text(&block["type"]) {
            "text" => told.text += text(&block["text"]),
            _ => {
                assert!(text(&block["id"]).starts_with("toolu_") && block["type"] == "tool_use", "{block}");
                told.calls.push((text(&block["name"]).to_owned(), block["input"].clone()));
            }
        }
    }
    told
}

/// Puts a message together as Anthropic's client does.
fn anthropic_stream(events: &[Value]) -> Told {
    let mut message = Value::Null;
    let mut partial = String::new();
    for event in events {
        let block = event["index"].as_u64().map(|index| format!("/content/{index}"));
        match text(&event["type"]) {
            "message_start" => message = event["message"].clone(),
            "content_block_start" => {
                let content = message["content"].as_array_mut().expect("a list");
                assert_eq!(event["index"], content.len());
                content.push(event["content_block"].clone());
                partial.clear();
            }
            "content_block_delta" => {
                let block = message.pointer_mut(&block.expect("an index")).expect("a block that has begun");
                match text(&event["delta"]["type"]) {
                    "text_delta" => {
                        block["text"] = json!(text(&block["text"]).to_owned() + text(&event["delta"]["text"]))
                    }
                    _ => partial += text(&event["delta"]["partial_json"]),
                }
            }
            "content_block_stop" => {
                let block = message.pointer_mut(&block.expect("an index")).expect("a block that has begun");
                if block["type"] == "tool_use" {
                    assert_eq!(block["input"], json!({}));
                    block["input"] = serde_json::from_str(&partial).unwrap_or(json!(partial));
                }
            }
            "message_delta" => message["stop_reason"] = event["delta"]["stop_reason"].clone(),
            "message_stop" | "ping" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(events.last().expect("events")["type"], "message_stop");
    anthropic(&message)
}

fn responses(response: &Value) -> Told {
    let mut told = Told { text: String::new(), calls: Vec::new(), end: text(&response["status"]).to_owned() };
    for item in list(&response["output"]) {
        match text(&item["type"]) {
            "message" => told.text += text(&item["content"][0]["text"]),
            _ => {
                assert!(item["type"] == "function_call" && text(&item["id"]).starts_with("fc_"), "{item}");
                assert!(text(&item["call_id"]).starts_with("call_"), "{item}");
                let arguments = text(&item["arguments"]);
                let arguments = serde_json::from_str(arguments).unwrap_or(json!(arguments));
                told.calls.push((text(&item["name"]).to_owned(), arguments));
            }
        }
    }
    told
}

/// Holds what was told of each item on its way against what was told of it at the end.
fn responses_stream(events: &[Value]) -> Told {
    let mut items: Vec<(Value, String)> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
        let kind = text(&event["type"]);
        if kind == "response.output_item.added" {
            assert_eq!(event["output_index"], items.len());
            items.push((event["item"].clone(), String::new()));
        }
        if event["output_index"].is_null() {
            continue;
        }
        assert_eq!(event["output_index"], items.len() - 1, "one item after the other");
        let (item, said) = items.last_mut().expect("an item");
        if event.get("item_id").is_some() {
            assert_eq!(event["item_id"], item["id"]);
        }
        match kind {
            "response.output_text.delta" | "response.function_call_arguments.delta" => *said += text(&event["delta"]),
            "response.output_text.done" => assert_eq!(event["text"], *said),
            "response.function_call_arguments.done" => assert_eq!(event["arguments"], *said),
            "response.output_item.done" => *item = event["item"].clone(),
            _ => {}
        }
    }
    let response = &events.last().expect("events")["response"];
    assert_eq!(*list(&response["output"]), items.into_iter().map(|(item, _)| item).collect::<Vec<_>>());
    responses(response)
}

#[tokio::test]
async fn a_call_that_is_required_is_made_whole_or_streamed_in_every_dialect() {
    let state = roomy();
    for api in APIS {
        for name in [None, Some("paint"), Some("now")] {
            let whole = api.ask(&state, false, api.choice(name)).await;
            let [(called, arguments)] = &whole.calls[..] else { panic!("{api:?} {whole:?}") };
            assert!(name.is_none_or(|name| name == called), "{api:?} {whole:?}");
            let fits = match called.as_str() {
                "paint" => [json!({ "color": "red" }), json!({ "color": "green" })].contains(arguments),
                _ => *arguments == json!({}),
            };
            let end = match api {
                Api::Ollama => "stop",
                Api::Anthropic => "tool_use",
                Api::Responses => "completed",
            };
            assert!(fits && whole.text.is_empty() && whole.end == end, "{api:?} {whole:?}");
            assert_eq!(api.ask(&state, true, api.choice(name)).await, whole, "{api:?}");
        }
    }
}

#[tokio::test]
async fn where_no_call_is_needed_the_reply_is_text_in_every_dialect() {
    let state = roomy();
    for api in APIS {
        let none = if api == Api::Anthropic { json!({ "type": "none" }) } else { json!("none") };
        for more in [json!({}), json!({ "tool_choice": none }), json!({ "tools": [] })] {
            for stream in [false, true] {
                let told = api.ask(&state, stream, more.clone()).await;
                assert!(told.text == ALPHABET && told.calls.is_empty(), "{api:?} {more} {told:?}");
                assert!(["stop", "end_turn", "completed"].contains(&told.end.as_str()), "{told:?}");
            }
        }
    }
}

/// Enough for the beginning of a call, and too little for its arguments.
#[tokio::test]
async fn a_call_that_is_cut_off_is_told_as_far_as_each_api_can() {
    let state = roomy();
    let limits = [
        (Api::Ollama, json!({ "options": { "temperature": 0, "num_predict": 45 } })),
        (Api::Anthropic, json!({ "max_tokens": 45 })),
        (Api::Responses, json!({ "max_output_tokens": 45 })),
    ];
    for (api, limit) in limits {
        let mut more = api.choice(Some("paint"));
        more.as_object_mut().expect("an object").extend(limit.as_object().expect("an object").clone());
        let whole = api.ask(&state, false, more.clone()).await;
        assert!(whole.text.is_empty(), "{whole:?}");
        let streamed = api.ask(&state, true, more).await;
        match api {
            Api::Ollama => assert_eq!((whole.calls.len(), whole.end.as_str(), streamed.calls.len()), (0, "length", 0)),
            // In a stream it has begun before it is cut.
            Api::Anthropic => {
                assert_eq!((whole.calls.len(), whole.end.as_str()), (0, "max_tokens"));
                assert!(streamed.calls[0].1.is_string(), "{streamed:?}");
            }
            Api::Responses => {
                assert_eq!(whole.end, "incomplete");
                assert!(whole.calls[0].1.is_string(), "{whole:?}");
                assert_eq!(whole, streamed);
            }
        }
    }
}

#[tokio::test]
async fn what_functions_returned_is_the_same_prompt_in_every_dialect() {
    let state = roomy();
    let asks = "What time is it?";
    let arguments = json!({ "color": "red" });
    let openai = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": asks },
        { "role": "assistant", "content": null, "tool_calls": [
            { "id": "c1", "type": "function", "function": { "name": "now", "arguments": "{}" } },
            { "id": "c2", "type": "function", "function": { "name": "paint", "arguments": arguments.to_string() } },
        ] },
        { "role": "tool", "tool_call_id": "c1", "content": "noon" },
        { "role": "tool", "tool_call_id": "c2", "content": "{\"ok\": true}" },
        { "role": "user", "content": "In words?" },
    ]);
    let ask = json!({ "messages": openai, "tools": Api::Ollama.tools() });
    let expected = post(&state, "/apply-template", &ask).await.ok();
    assert!(text(&expected["prompt"]).contains("{\"name\":\"paint\",\"result\":{\"ok\":true}}\n```\n\nIn words?"));

    let call = |name: &str, arguments: &Value| json!({ "function": { "name": name, "arguments": arguments } });
    let ollama = json!([
        openai[0], openai[1],
        { "role": "assistant", "content": "", "tool_calls": [call("now", &json!({})), call("paint", &arguments)] },
        { "role": "tool", "tool_name": "now", "content": "noon" },
        { "role": "tool", "tool_name": "paint", "content": "{\"ok\": true}" },
        openai[5],
    ]);
    let answer = post(&state, "/api/chat", &Api::Ollama.body(false, json!({ "messages": ollama }))).await.ok();
    assert_eq!(answer["prompt_eval_count"], expected["n_tokens"]);

    let noon = json!([{ "type": "text", "text": "noon" }]);
    let anthropic = json!([
        { "role": "user", "content": asks },
        { "role": "assistant", "content": [
            { "type": "tool_use", "id": "t1", "name": "now", "input": {} },
            { "type": "tool_use", "id": "t2", "name": "paint", "input": arguments },
        ] },
        { "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": "t1", "content": noon },
            { "type": "tool_result", "tool_use_id": "t2", "content": "{\"ok\": true}", "is_error": false },
            { "type": "text", "text": "In words?" },
        ] },
    ]);
    let ask = json!({ "messages": anthropic, "system": "Be brief.", "tools": Api::Anthropic.tools() });
    let count = post(&state, "/v1/messages/count_tokens", &ask).await.ok();
    assert_eq!(count["input_tokens"], expected["n_tokens"]);

    let input = json!([
        { "role": "user", "content": asks },
        { "type": "function_call", "id": "fc_1", "call_id": "c1", "name": "now", "arguments": "{}", "status": "completed" },
        { "type": "function_call", "call_id": "c2", "name": "paint", "arguments": arguments.to_string() },
        { "type": "function_call_output", "call_id": "c1", "output": "noon" },
        { "type": "function_call_output", "call_id": "c2", "output": [{ "type": "input_text", "text": "{\"ok\": true}" }] },
        { "role": "user", "content": "In words?" },
    ]);
    let ask = Api::Responses.body(false, json!({ "input": input, "instructions": "Be brief." }));
    let answer = post(&state, "/v1/responses", &ask).await.ok();
    assert_eq!(answer["usage"]["input_tokens"], expected["n_tokens"]);
    assert_eq!((&answer["tools"], &answer["tool_choice"]), (&Api::Responses.tools(), &json!("auto")));
}

#[tokio::test]
async fn a_function_that_failed_is_told_as_an_error() {
    let state = roomy();
    let count = async |has_failed: bool| {
        let result = json!({ "type": "tool_result", "tool_use_id": "t1", "content": "x", "is_error": has_failed });
        let ask = json!({ "messages": [{ "role": "user", "content": [result] }] });
        post(&state, "/v1/messages/count_tokens", &ask).await.ok()["input_tokens"].clone()
    };
    let failed = json!([{ "role": "user", "content": "```tool_result\n{\"error\":\"x\"}\n```" }]);
    let expected = post(&state, "/apply-template", &json!({ "messages": failed })).await.ok();
    assert_eq!(count(true).await, expected["n_tokens"]);
}

#[tokio::test]
async fn the_events_of_a_streamed_call_have_the_types_that_clients_expect() {
    let state = roomy();
    let types = async |api: Api| {
        let answer = post(&state, api.path(), &api.body(true, api.choice(Some("now")))).await;
        let mut types: Vec<String> =
            named_events(&answer.text).iter().map(|event| text(&event["type"]).to_owned()).collect();
        types.dedup();
        types
    };
    let anthropic = [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(types(Api::Anthropic).await, anthropic);
    let responses = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(types(Api::Responses).await, responses);
}

#[tokio::test]
async fn tools_that_cannot_be_used_are_a_400_about_their_field_in_every_dialect() {
    let state = roomy();
    let own = |api: Api| api.tools()[1].clone();
    for api in APIS {
        let (function, schema) = match api {
            Api::Ollama => ("tools[0].function", "parameters"),
            Api::Anthropic => ("tools[0]", "input_schema"),
            Api::Responses => ("tools[0]", "parameters"),
        };
        let described = |name: Value, value: Value| match api {
            Api::Ollama => json!([{ "function": { "name": name, schema: value } }]),
            Api::Anthropic | Api::Responses => json!([{ "name": name, schema: value }]),
        };
        for (tools, field) in [
            (json!(5), "tools".to_owned()),
            (json!(vec![own(api); 129]), "tools".into()),
            (json!([5]), "tools[0]".into()),
            (json!([{ "type": "web_search_20250305", "name": "web_search" }]), "tools[0].type".into()),
            (described(Value::Null, json!({})), format!("{function}.name")),
            (described(json!("two words"), json!({})), format!("{function}.name")),
            (described(json!("f"), json!([])), format!("{function}.{schema}")),
            (described(json!("f"), json!({ "type": "string" })), format!("{function}.{schema}")),
            (described(json!("f"), json!({ "$ref": "#/nowhere" })), "tools".into()),
        ] {
            let answer = post(&state, api.path(), &api.body(false, json!({ "tools": tools }))).await;
            let said = answer.said(400);
            assert!(said.contains(&format!("`{field}`")), "{api:?} {tools}: {said}");
        }
        let choices = match api {
            Api::Anthropic => {
                [json!("any"), json!({ "type": "often" }), json!({ "type": "tool", "name": "g" }), json!({})]
            }
            _ => [json!("often"), json!(5), json!({ "name": "g", "function": { "name": "g" } }), json!({})],
        };
        for choice in choices {
            let said = post(&state, api.path(), &api.body(false, json!({ "tool_choice": choice }))).await.said(400);
            assert!(said.contains("tool"), "{api:?} {choice}: {said}");
        }
        let none = json!({ "tools": [], "tool_choice": api.choice(None)["tool_choice"] });
        assert!(post(&state, api.path(), &api.body(false, none)).await.said(400).contains("tools"));
    }
    let said = post(&state, "/api/generate", &json!({ "prompt": "Hi", "tools": Api::Ollama.tools() })).await.said(400);
    assert!(said.contains("tools"), "{said}");
}

#[tokio::test]
async fn a_form_of_the_reply_leaves_calls_possible_in_every_dialect() {
    let state = roomy();
    let schema = json!({ "type": "object", "properties": { "ok": { "enum": [1, 2] } }, "required": ["ok"] });
    for api in APIS {
        let form = match api {
            Api::Ollama => json!({ "format": schema }),
            Api::Anthropic => json!({ "output_config": { "format": { "type": "json_schema", "schema": schema } } }),
            Api::Responses => {
                json!({ "text": { "format": { "type": "json_schema", "name": "answer", "schema": schema } } })
            }
        };
        for stream in [false, true] {
            let told = api.ask(&state, stream, form.clone()).await;
            match told.calls.is_empty() {
                true => {
                    let value: Value =
                        serde_json::from_str(&told.text).unwrap_or_else(|e| panic!("{e}: {}", told.text));
                    assert!(value == json!({ "ok": 1 }) || value == json!({ "ok": 2 }), "{value}");
                }
                false => assert_eq!(told.text, ""),
            }
            let mut named = form.clone();
            named["tool_choice"] = api.choice(Some("now"))["tool_choice"].clone();
            assert_eq!(api.ask(&state, stream, named).await.calls, [("now".to_owned(), json!({}))]);
        }
    }
}

#[tokio::test]
async fn a_choice_may_name_its_function_as_the_responses_do() {
    let choice = json!({ "tool_choice": { "type": "function", "name": "now" } });
    let told = Api::Ollama.ask(&roomy(), false, choice).await;
    assert_eq!(told.calls, [("now".to_owned(), json!({}))]);
}

#[tokio::test]
async fn what_other_models_thought_is_no_part_of_the_prompt() {
    let state = roomy();
    let said = json!({ "type": "text", "text": "4" });
    let thought = json!({ "type": "thinking", "thinking": "2 and 2", "signature": "s" });
    let hidden = json!({ "type": "redacted_thinking", "data": "x" });
    let ask = async |content: Value| {
        let messages = json!([hi()[0], { "role": "assistant", "content": content }, hi()[0]]);
        post(&state, "/v1/messages/count_tokens", &json!({ "messages": messages })).await
    };
    let with = ask(json!([thought, hidden, said])).await.ok();
    assert_eq!(with, ask(json!([said])).await.ok());
    let body = json!({ "messages": [{ "role": "user", "content": [thought] }] });
    post(&state, "/v1/messages", &body).await.said(400);
}

#[tokio::test]
async fn calls_and_results_that_make_no_sense_are_a_400() {
    let state = roomy();
    let user = |block: Value| json!([{ "role": "user", "content": [block] }]);
    let assistant = |block: Value| json!([{ "role": "assistant", "content": [block] }]);
    for (messages, field) in [
        (user(json!({ "type": "tool_use", "id": "t", "name": "f", "input": {} })), "user"),
        (assistant(json!({ "type": "tool_result", "tool_use_id": "t" })), "assistant"),
        (assistant(json!({ "type": "tool_use", "id": "t", "input": {} })), "content[0].name"),
        (assistant(json!({ "type": "tool_use", "id": "t", "name": "f" })), "content[0].input"),
        (assistant(json!({ "type": "tool_use", "id": "t", "name": "f", "input": "{}" })), "content[0].input"),
        (user(json!({ "type": "tool_result", "content": "x" })), "content[0].tool_use_id"),
        (user(json!({ "type": "tool_result", "tool_use_id": 5 })), "content[0].tool_use_id"),
        (user(json!({ "type": "tool_result", "tool_use_id": "t", "is_error": 1 })), "content[0].is_error"),
        (user(json!({ "type": "tool_result", "tool_use_id": "t", "content": [{ "type": "image" }] })), "image"),
        (user(json!({ "type": "document" })), "document"),
        (json!([{ "role": "tool", "content": "x" }]), "role"),
        (json!([{ "role": 5, "content": [] }]), "messages[0].role"),
    ] {
        let said = post(&state, "/v1/messages", &json!({ "messages": messages })).await.said(400);
        assert!(said.contains(field), "{messages}: {said}");
    }
    for (item, field) in [
        (json!({ "type": "function_call", "name": "f", "arguments": "{}" }), "input[0].call_id"),
        (json!({ "type": "function_call", "call_id": "c", "arguments": "{}" }), "input[0].name"),
        (json!({ "type": "function_call", "call_id": "c", "name": "f", "arguments": {} }), "input[0].arguments"),
        (json!({ "type": "function_call_output", "output": "x" }), "input[0].call_id"),
        (json!({ "type": "function_call_output", "call_id": "c" }), "input[0].output"),
        (json!({ "type": "function_call_output", "call_id": "c", "output": 5 }), "input[0].output"),
        (json!({ "type": "custom_tool_call" }), "input[0].type"),
        (json!({ "type": 5 }), "input[0].type"),
    ] {
        let error = post(&state, "/v1/responses", &json!({ "input": [item] })).await.error(400);
        assert_eq!(error["param"], field, "{error}");
    }
    let odd = json!([{ "role": "assistant", "tool_calls": [{ "function": { "name": "f", "arguments": 5 } }] }]);
    let said = post(&state, "/api/chat", &json!({ "messages": odd })).await.said(400);
    assert!(said.contains("arguments"), "{said}");
}
