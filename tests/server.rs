//! The HTTP APIs, called through the router and over real sockets, with a real engine over a model that says the alphabet.

mod anthropic;
mod constraint;
mod dialects;
mod embeddings;
mod guard;
mod hostile;
mod llama_cpp;
mod metrics;
mod ollama;
mod openai;
mod openapi;
mod overflow;
mod page;
mod prompts;
mod quit;
mod replies;
mod responses;
mod slots;
mod slow;
mod socket;
mod tools;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use async_channel::Receiver;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use gemma2::chat::ChatTemplate;
use gemma2::engine::{Engine, EngineOptions, Limit, Sampling};
use gemma2::model::{Cache, Chunk, LanguageModel, ModelError};
use gemma2::server::{AppState, ModelFacts, ServerOptions, router};
use gemma2::tokenizer::{Special, SpecialIds, TokenId, Tokenizer};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// What the model says to everything that does not end with a letter; then it ends its turn.
pub const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz";

pub const N_CTX: usize = 128;

/// Width of the model's hidden states.
pub const D_MODEL: usize = 5;

/// After a letter comes the next one, after `z` the end of the turn, after anything else `a`. The letter after the next
/// one is the second best.
struct Alphabet {
    letters: Vec<TokenId>,
    end: TokenId,
    n_vocab: usize,
    /// Each step waits for a message, until the sender is gone.
    gate: Option<Receiver<()>>,
}

struct Tokens(Vec<TokenId>);

impl Cache for Tokens {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn truncate(&mut self, n: usize) -> usize {
        self.0.truncate(n);
        n
    }
    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.iter().try_for_each(|token| out.write_all(&token.to_le_bytes()))
    }
    fn restore(&mut self, n: usize, input: &mut dyn Read) -> io::Result<()> {
        for _ in 0..n {
            let mut token = [0; 4];
            input.read_exact(&mut token)?;
            self.0.push(TokenId::from_le_bytes(token));
        }
        Ok(())
    }
}

impl LanguageModel for Alphabet {
    type Cache = Tokens;
    fn n_vocab(&self) -> usize {
        self.n_vocab
    }
    fn n_ctx_train(&self) -> usize {
        8192
    }
    fn d_model(&self) -> usize {
        D_MODEL
    }
    fn new_cache(&self, _: usize) -> Tokens {
        Tokens(Vec::new())
    }
    fn forward(&self, batch: &mut [Chunk<'_, Tokens>]) -> Result<Vec<f32>, ModelError> {
        if let Some(gate) = &self.gate {
            let _ = gate.recv_blocking();
        }
        let mut rows = Vec::new();
        for chunk in batch {
            for (at, token) in chunk.tokens.iter().enumerate() {
                chunk.cache.0.push(*token);
                if let Some(sum) = &mut chunk.hidden_sum {
                    let n_sum = sum.len();
                    // Something of the token and of its place.
                    let value =
                        |i: usize| f64::from(token * 7 + 1).powi(i as i32 + 1).sin() + chunk.cache.0.len() as f64;
                    let sum = &mut sum[at * D_MODEL % n_sum..][..D_MODEL];
                    sum.iter_mut().enumerate().for_each(|(i, sum)| *sum += value(i));
                }
                if at + chunk.n_logits >= chunk.tokens.len() {
                    let place = self.letters.iter().position(|letter| letter == token);
                    let next = place.map_or(0, |place| place + 1);
                    let mut row = vec![-20.0; self.n_vocab];
                    let id = |place: usize| *self.letters.get(place).unwrap_or(&self.end) as usize;
                    row[id(next + 1)] = 0.0;
                    row[id(next)] = 20.0;
                    rows.extend(row);
                }
            }
        }
        Ok(rows)
    }
}

pub fn tokenizer() -> Arc<Tokenizer> {
    let json = include_bytes!("fixtures/golden/tiny-tokenizer/tokenizer.json");
    Arc::new(Tokenizer::from_tokenizer_json(json, &SpecialIds::default()).expect("the fixture"))
}

pub fn engine(options: EngineOptions, gate: Option<Receiver<()>>) -> Engine {
    let tokenizer = tokenizer();
    let one = |text: &str, special| {
        let ids = tokenizer.encode(text, special);
        assert_eq!(ids.len(), 1, "{text} is one token");
        ids[0]
    };
    let model = Alphabet {
        letters: ALPHABET.chars().map(|c| one(&c.to_string(), Special::Literal)).collect(),
        end: one("<end_of_turn>", Special::Parse),
        n_vocab: tokenizer.n_vocab(),
        gate,
    };
    Engine::start(model, tokenizer, options)
}

pub const SIZES: EngineOptions = EngineOptions { n_ctx: N_CTX, n_parallel: 2, n_ubatch: 8, max_queue: 8, n_lookup: 0 };

pub fn facts() -> ModelFacts {
    ModelFacts {
        id: "alphabet-Q6_K".into(),
        aliases: Vec::new(),
        tags: Vec::new(),
        name: "Alphabet".into(),
        quantization: "Q6_K".into(),
        path: "alphabet.gguf".into(),
        n_params: 26,
        size_bytes: 52,
        n_ctx_train: 8192,
        is_demo: false,
        sampling: Sampling { top_p: 0.9, ..Sampling::default() },
        limit: Limit::EndOfTurn,
    }
}

pub fn options() -> ServerOptions {
    ServerOptions::new(SocketAddr::from(([127, 0, 0, 1], 8080)))
}

pub fn make_ready(state: &AppState, engine: Engine) {
    state.set_ready(engine, facts(), ChatTemplate::new(None).expect("Gemma's own template"));
}

/// A server that is ready.
pub fn ready(options: ServerOptions) -> AppState {
    let state = AppState::new(options);
    make_ready(&state, engine(SIZES, None));
    state
}

/// The same with a context that holds long prompts and replies.
pub fn roomy() -> AppState {
    let state = AppState::new(options());
    make_ready(&state, engine(EngineOptions { n_ctx: 4096, ..SIZES }, None));
    state
}

/// A whole response.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in: {}", self.text))
    }

    /// The JSON, after a look at the status.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }

    /// The error object, after a look at the status.
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        let error = self.json()["error"].clone();
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{}", self.text);
        assert!(error["type"].is_string(), "{}", self.text);
        error
    }

    /// What an error says, in the words of any API, after a look at the status.
    pub fn said(&self, status: u16) -> String {
        match &self.json()["error"] {
            Value::String(text) => {
                assert_eq!(self.status, status, "{}", self.text);
                text.clone()
            }
            _ => self.error(status)["message"].as_str().expect("a text").to_owned(),
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a text"))
    }

    /// The data of all frames of a stream; `[DONE]` is the JSON string.
    pub fn frames(&self) -> Vec<Value> {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        assert_eq!(self.header("content-type"), "text/event-stream");
        frames(&self.text)
    }
}

pub fn frames(text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with(':'));
    lines
        .map(|line| match line.strip_prefix("data: ").expect("nothing but data") {
            "[DONE]" => json!("[DONE]"),
            data => serde_json::from_str(data).expect("JSON in a frame"),
        })
        .collect()
}

pub async fn call(state: &AppState, request: Request<Body>) -> Answer {
    let response = router(state.clone()).oneshot(request).await.expect("routers do not fail");
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    Answer { status: head.status, headers: head.headers, text: String::from_utf8(bytes.to_vec()).expect("UTF-8") }
}

/// A request to this machine, as a program would send it.
pub fn request(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "127.0.0.1:8080")
}

pub async fn get(state: &AppState, path: &str) -> Answer {
    call(state, request("GET", path).body(Body::empty()).expect("a request")).await
}

pub async fn post(state: &AppState, path: &str, body: &Value) -> Answer {
    post_text(state, path, body.to_string()).await
}

pub async fn post_text(state: &AppState, path: &str, body: impl Into<Body>) -> Answer {
    call(state, request("POST", path).body(body.into()).expect("a request")).await
}

/// One user message.
pub fn hi() -> Value {
    json!([{"role": "user", "content": "Hi"}])
}
