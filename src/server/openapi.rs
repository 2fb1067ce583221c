//! `GET /openapi.json`: what can be called, for people's tools.
//!
//! [`OPERATIONS`] has a line for each route; a test holds it against the router. What bodies look like stands in
//! `openapi.json`, under the names that the lines use.

use std::sync::OnceLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::error::Dialect;

/// One method of one path.
#[derive(Clone, Copy, Debug)]
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    /// Name of the schema of the body; `None` where there is no body.
    body: Option<&'static str>,
    /// Content type of the answer, and the name of its schema where it is JSON.
    answer: (&'static str, Option<&'static str>),
    /// Content type of the answer where the body says `stream`.
    stream: Option<&'static str>,
    /// Needs no API key.
    is_open: bool,
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const TEXT: &str = "text/plain";
const LINES: &str = "application/x-ndjson";

const fn get(path: &'static str, summary: &'static str) -> Operation {
    let answer = (JSON, Some("Object"));
    Operation { method: "get", path, summary, body: None, answer, stream: None, is_open: false }
}

const fn post(path: &'static str, body: &'static str, summary: &'static str) -> Operation {
    Operation { method: "post", body: Some(body), ..get(path, summary) }
}

impl Operation {
    const fn without_body(self) -> Operation {
        Operation { body: None, ..self }
    }

    const fn answers(self, schema: &'static str) -> Operation {
        Operation { answer: (JSON, Some(schema)), ..self }
    }

    const fn answers_with(self, content_type: &'static str) -> Operation {
        Operation { answer: (content_type, None), ..self }
    }

    const fn streams(self, content_type: &'static str) -> Operation {
        Operation { stream: Some(content_type), ..self }
    }

    const fn open(self) -> Operation {
        Operation { is_open: true, ..self }
    }
}

#[rustfmt::skip]
const OPERATIONS: &[Operation] = &[
    // OpenAI
    post("/v1/chat/completions", "ChatRequest", "The next message of a conversation").answers("ChatCompletion").streams(EVENTS),
    post("/chat/completions", "ChatRequest", "The same as /v1/chat/completions").answers("ChatCompletion").streams(EVENTS),
    post("/v1/chat/completions/input_tokens", "ChatPrompt", "How long a prompt is").answers("TokenCount"),
    post("/chat/completions/input_tokens", "ChatPrompt", "The same as /v1/chat/completions/input_tokens").answers("TokenCount"),
    post("/v1/completions", "TextRequest", "Text that goes on").answers("TextCompletion").streams(EVENTS),
    post("/v1/responses", "ResponsesRequest", "An answer to a text or a conversation").answers("Response").streams(EVENTS),
    post("/responses", "ResponsesRequest", "The same as /v1/responses").answers("Response").streams(EVENTS),
    post("/v1/responses/input_tokens", "ResponsesRequest", "How long a prompt is").answers("TokenCount"),
    post("/responses/input_tokens", "ResponsesRequest", "The same as /v1/responses/input_tokens").answers("TokenCount"),
    post("/v1/embeddings", "EmbeddingsRequest", "Texts as vectors").answers("Embeddings"),
    get("/v1/models", "The one model").answers("Models"),
    get("/models", "The same as /v1/models").answers("Models"),
    get("/v1/models/{id}", "A model by its id").answers("Model"),
    // llama.cpp
    post("/completion", "CompletionRequest", "Text that goes on, with all that llama.cpp tells").answers("Completions").streams(EVENTS),
    post("/completions", "CompletionRequest", "The same as /completion").answers("Completions").streams(EVENTS),
    post("/embedding", "EmbeddingRequest", "Texts as vectors, in llama.cpp's form").answers("EmbeddingList"),
    post("/embeddings", "EmbeddingRequest", "The same as /embedding").answers("EmbeddingList"),
    post("/tokenize", "TokenizeRequest", "The tokens of a text").answers("Tokens"),
    get("/tokenizer_info", "What the tokenizer calls its tokens, and the chat template, as vLLM tells them"),
    post("/detokenize", "DetokenizeRequest", "The text of tokens").answers("Content"),
    post("/apply-template", "ApplyTemplateRequest", "The prompt of a conversation, and its length").answers("AppliedTemplate"),
    get("/props", "The model, its settings and this program"),
    get("/slots", "What each slot does").answers("Slots"),
    post("/slots/{id}", "SlotFile", "Saves what a slot holds, restores or erases it").answers("SlotAction"),
    get("/lora-adapters", "The adapters: none").answers("Adapters"),
    post("/lora-adapters", "", "Not in this program: 501").without_body(),
    post("/props", "", "Not in this program: 501").without_body(),
    post("/infill", "", "Not with these models: 501").without_body(),
    post("/rerank", "", "Not with these models: 501").without_body(),
    post("/reranking", "", "Not with these models: 501").without_body(),
    post("/v1/rerank", "", "Not with these models: 501").without_body(),
    post("/v1/reranking", "", "Not with these models: 501").without_body(),
    post("/v1/audio/transcriptions", "", "Not with these models: 501").without_body(),
    get("/metrics", "Counters and histograms in Prometheus' format").answers_with(TEXT),
    get("/health", "Whether requests are answered").open(),
    get("/v1/health", "The same as /health").open(),
    // Ollama
    post("/api/chat", "OllamaChatRequest", "The next message of a conversation").answers("OllamaReply").streams(LINES),
    post("/api/generate", "OllamaGenerateRequest", "An answer to a text").answers("OllamaReply").streams(LINES),
    post("/api/embed", "OllamaEmbedRequest", "Texts as vectors").answers("OllamaEmbeddings"),
    post("/api/embeddings", "OllamaEmbeddingRequest", "A text as a vector").answers("OllamaEmbedding"),
    get("/api/tags", "The one model").answers("OllamaModels"),
    post("/api/show", "OllamaShowRequest", "All about the model").answers("OllamaModelInfo"),
    get("/api/ps", "The one model, which is loaded").answers("OllamaModels"),
    get("/api/version", "The version of Ollama whose API this is").answers("OllamaVersion"),
    // Anthropic
    post("/v1/messages", "MessagesRequest", "The next message of a conversation").answers("Message").streams(EVENTS),
    post("/v1/messages/count_tokens", "CountTokensRequest", "How long a prompt is").answers("TokenCount"),
    // Our own
    get("/replies/{id}", "A reply that began with the header `x-reply-id`, from an event on").answers_with(EVENTS),
    post("/replies/{id}/stop", "", "Stops such a reply").without_body().answers("StoppedReply"),
    post("/quit", "", "Ends the program: only on loopback, with the token that /props tells").without_body(),
    get("/openapi.json", "This document").open(),
];

/// The handler.
pub async fn openapi() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| document().to_string());
    ([(header::CONTENT_TYPE, JSON)], text.as_str()).into_response()
}

fn document() -> Value {
    // A constant of this program; a test parses it.
    let mut document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap_or_default();
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = describe(operation);
    }
    document["paths"] = Value::Object(paths);
    document
}

fn describe(operation: &Operation) -> Value {
    let schema = |name: &str| json!({ "schema": { "$ref": format!("#/components/schemas/{name}") } });
    let (content_type, answer) = operation.answer;
    let answer = answer.unwrap_or(if content_type == EVENTS { "Event" } else { "Text" });
    let mut content = json!({ content_type: schema(answer) });
    if let Some(stream) = operation.stream {
        content[stream] = schema(if stream == EVENTS { "Event" } else { "Text" });
    }
    let error = match Dialect::of(operation.path) {
        Dialect::OpenAi | Dialect::LlamaCpp => "Error",
        Dialect::Ollama => "OllamaError",
        Dialect::Anthropic => "AnthropicError",
    };
    let mut responses = json!({ "200": { "description": "the answer", "content": content } });
    let errors = [
        ("400", "the request is wrong"),
        ("401", "an API key is missing or wrong"),
        ("403", "not from this host or page"),
        ("404", "there is no such thing"),
        ("405", "not with this method"),
        ("408", "the body came too slowly"),
        ("409", "the id is in use"),
        ("410", "it was there and is not any more"),
        ("413", "the body is too large"),
        ("500", "it failed"),
        ("501", "this server was not started for it"),
        ("503", "not now: loading, shutting down, or too many requests"),
    ];
    for (status, description) in errors {
        responses[status] = json!({ "description": description, "content": { JSON: schema(error) } });
    }
    let mut described = json!({
        "summary": operation.summary,
        "operationId": format!("{} {}", operation.method, operation.path),
        "responses": responses,
    });
    let mut parameters: Vec<Value> = Vec::new();
    for name in operation.path.split(['{', '}']).skip(1).step_by(2) {
        parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    if operation.path == "/replies/{id}" {
        let schema = json!({ "type": "integer", "minimum": 0 });
        let description = "how many events were seen already";
        parameters.push(json!({ "name": "offset", "in": "query", "schema": schema, "description": description }));
    }
    if operation.path == "/slots/{id}" {
        let schema = json!({ "enum": ["save", "restore", "erase"] });
        parameters.push(json!({ "name": "action", "in": "query", "required": true, "schema": schema }));
    }
    if !parameters.is_empty() {
        described["parameters"] = json!(parameters);
    }
    if let Some(body) = operation.body {
        described["requestBody"] = json!({ "required": true, "content": { JSON: schema(body) } });
    }
    if operation.is_open {
        described["security"] = json!([]);
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_that_is_used_is_there() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name: String = reference.chars().take_while(char::is_ascii_alphanumeric).collect();
            assert!(schemas[&name].is_object(), "{name}");
        }
    }
}
