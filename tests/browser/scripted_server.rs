//! The real server over a model that follows a script, for browser journeys that need exact texts, pauses and failures.
//!
//! `scripted_server '{"n_ctx": 512, …}'` prints its address, serves until its stdin ends, and takes further settings there:
//! one JSON object a line, each answered with `ok`. Everything but the model is the program's own: router, engine,
//! sampler, and the tokenizer of the built-in demo model.
//!
//! What the model says depends on the last message of the person:
//!
//! | message | reply |
//! |---|---|
//! | `say TEXT` | TEXT |
//! | `file NAME` | `tests/browser/replies/NAME.md` |
//! | `count N` | the numbers 1 to N |
//! | `fail TEXT` | the model fails after a few tokens |
//! | `refuse` | the model fails before the first |
//! | anything else | a sentence that repeats the message |

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use gemma2::chat::ChatTemplate;
use gemma2::engine::{Engine, EngineOptions, Limit, Sampling};
use gemma2::model::{Cache, Chunk, LanguageModel, ModelError};
use gemma2::server::{self, AppState, ModelFacts, ServerOptions};
use gemma2::tokenizer::{Special, TokenId, Tokenizer};
use gemma2::weights::{Files, NamedBytes, Source};
use serde::Deserialize;
use tokio::sync::Notify;

/// The tokens a failing reply has before it fails.
const N_BEFORE_FAILURE: usize = 4;

/// What the server is started with.
#[derive(Deserialize)]
#[serde(default)]
struct Options {
    port: u16,
    n_ctx: usize,
    n_ctx_train: usize,
    n_ubatch: usize,
    demo: bool,
    api_keys: Vec<String>,
    /// How much of the model is loaded; a later setting `"loading": null` makes it ready.
    loading: Option<f32>,
    #[serde(flatten)]
    script: Settings,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            port: 0,
            n_ctx: 4096,
            n_ctx_train: 8192,
            n_ubatch: 512,
            demo: false,
            api_keys: Vec::new(),
            loading: None,
            script: Settings::default(),
        }
    }
}

/// What may change while it runs; a field that is absent stays.
#[derive(Clone, Default, Deserialize)]
struct Settings {
    /// Milliseconds that a step of the model takes.
    step_ms: Option<u64>,
    /// Every reply; empty: by the table above.
    text: Option<String>,
    /// A reply waits here, at this many characters, until this is changed; 0 is never.
    hold: Option<usize>,
    #[serde(default, deserialize_with = "given")]
    loading: Option<Option<f32>>,
}

/// Tells a field that is null from one that is absent.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<f32>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Default)]
struct Script {
    settings: Mutex<Settings>,
    changed: Condvar,
}

impl Script {
    fn change(&self, new: Settings) {
        let mut settings = self.settings.lock().expect("no panics under the lock");
        let old = settings.clone();
        *settings = Settings {
            step_ms: new.step_ms.or(old.step_ms),
            text: new.text.or(old.text),
            hold: new.hold.or(old.hold),
            loading: None,
        };
        self.changed.notify_all();
    }

    /// Returns once a reply of `n_chars` may go on.
    fn wait(&self, n_chars: Option<usize>) {
        let settings = self.settings.lock().expect("no panics under the lock");
        let held = |settings: &mut Settings| {
            let hold = settings.hold.unwrap_or(0);
            hold > 0 && n_chars.is_some_and(|n| n >= hold)
        };
        let settings = self.changed.wait_while(settings, held).expect("no panics under the lock");
        let step = Duration::from_millis(settings.step_ms.unwrap_or(0));
        drop(settings);
        std::thread::sleep(step);
    }
}

/// A model that knows what it will say.
struct Scripted {
    tokenizer: Arc<Tokenizer>,
    script: Arc<Script>,
    start_of_turn: TokenId,
    end_of_turn: TokenId,
}

/// The tokens of a sequence, and how it goes on.
#[derive(Default)]
struct Lines {
    tokens: Vec<TokenId>,
    /// The rest of the reply after `tokens[..planned_at]`, the last token first.
    plan: Vec<TokenId>,
    planned_at: usize,
}

impl Cache for Lines {
    fn len(&self) -> usize {
        self.tokens.len()
    }
    fn truncate(&mut self, n: usize) -> usize {
        self.tokens.truncate(n);
        self.plan.clear();
        n
    }
}

/// The turn that is being written, and what it answers.
struct Turn {
    asked: String,
    so_far: String,
    n_tokens: usize,
}

impl LanguageModel for Scripted {
    type Cache = Lines;
    fn n_vocab(&self) -> usize {
        self.tokenizer.n_vocab()
    }
    fn n_ctx_train(&self) -> usize {
        8192
    }
    fn new_cache(&self, _: usize) -> Lines {
        Lines::default()
    }
    fn forward(&self, batch: &mut [Chunk<'_, Lines>]) -> Result<Vec<f32>, ModelError> {
        let mut rows = Vec::new();
        let mut longest = None;
        for chunk in batch {
            chunk.cache.tokens.extend_from_slice(chunk.tokens);
            if chunk.n_logits == 0 {
                continue;
            }
            let turn = self.turn(&chunk.cache.tokens);
            self.fail_if_asked(&turn)?;
            longest = longest.max(Some(turn.so_far.chars().count()));
            let next = self.next(chunk.cache, &turn);
            let mut row = vec![-20.0; self.n_vocab()];
            for other in self.tokenizer.encode(" other", Special::Literal).into_iter().take(1) {
                row[other as usize] = 5.0;
            }
            row[next as usize] = 20.0;
            rows.extend(row);
        }
        self.script.wait(longest);
        Ok(rows)
    }
}

impl Scripted {
    /// What `tokens` end with.
    fn turn(&self, tokens: &[TokenId]) -> Turn {
        let mut turns = tokens.split(|&id| id == self.start_of_turn);
        let open = turns.next_back().unwrap_or_default();
        // The name of the speaker is not part of what is said.
        let said = |ids: &[TokenId]| {
            let text = self.tokenizer.decode(ids, false);
            text.split_once('\n').map_or(String::new(), |(_, said)| said.trim_end_matches('\n').to_owned())
        };
        match turns.next_back() {
            // Without any turn it is a raw text.
            None => Turn { asked: String::new(), so_far: String::new(), n_tokens: 0 },
            Some(before) => {
                let so_far = self.tokenizer.decode(open, false);
                let so_far = so_far.split_once('\n').map_or(String::new(), |(_, text)| text.to_owned());
                let n_name = self.tokenizer.encode("model\n", Special::Literal).len();
                Turn { asked: said(before), so_far, n_tokens: open.len().saturating_sub(n_name) }
            }
        }
    }

    fn fail_if_asked(&self, turn: &Turn) -> Result<(), ModelError> {
        match turn.asked.strip_prefix("fail ") {
            _ if turn.asked == "refuse" && self.text().is_empty() => Err(ModelError::Invalid("out of ink".into())),
            Some(why) if turn.n_tokens >= N_BEFORE_FAILURE => Err(ModelError::Invalid(why.to_owned())),
            _ => Ok(()),
        }
    }

    fn text(&self) -> String {
        self.script.settings.lock().expect("no panics under the lock").text.clone().unwrap_or_default()
    }

    /// The token after `lines`. A plan is followed as long as the sequence does; then a new one is made.
    fn next(&self, lines: &mut Lines, turn: &Turn) -> TokenId {
        let follows = lines.planned_at + 1 == lines.tokens.len() && lines.plan.pop() == lines.tokens.last().copied();
        if !follows {
            let reply = self.reply(turn);
            let rest = reply.strip_prefix(turn.so_far.as_str()).unwrap_or(&reply);
            let mut plan = self.tokenizer.encode(rest, Special::Literal);
            plan.push(self.end_of_turn);
            plan.reverse();
            lines.plan = plan;
        }
        lines.planned_at = lines.tokens.len();
        lines.plan.last().copied().unwrap_or(self.end_of_turn)
    }

    fn reply(&self, turn: &Turn) -> String {
        let text = self.text();
        if !text.is_empty() {
            return text;
        }
        if turn.asked.is_empty() {
            return " and so it goes on.".into();
        }
        // A system text or a file stands before what was typed.
        let asked = turn.asked.rsplit("\n\n").next().unwrap_or_default();
        match turn.asked.split_once(' ').or(asked.split_once(' ')) {
            Some(("say", text)) => text.into(),
            Some(("count", n)) => {
                let numbers = 1..=n.parse().unwrap_or(0);
                numbers.map(|n: usize| n.to_string()).collect::<Vec<_>>().join(" ")
            }
            Some(("file", name)) => {
                let path = here().join("replies").join(name).with_extension("md");
                std::fs::read_to_string(&path).unwrap_or_else(|error| format!("{}: {error}", path.display()))
            }
            _ => format!("You said “{}”, and this is a scripted answer to it.", turn.asked),
        }
    }
}

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

fn facts(options: &Options) -> ModelFacts {
    ModelFacts {
        aliases: Vec::new(),
        tags: Vec::new(),
        id: "scripted".into(),
        name: if options.demo { "Demo model" } else { "Gemma 2 2B it" }.into(),
        quantization: "Q6_K".into(),
        path: "/models/gemma-2-2b-it-Q6_K.gguf".into(),
        n_params: 2_614_341_888,
        size_bytes: 2_150_000_000,
        n_ctx_train: options.n_ctx_train,
        is_demo: options.demo,
        sampling: Sampling::default(),
        limit: Limit::EndOfTurn,
    }
}

fn start_engine(options: &Options, script: Arc<Script>) -> Engine {
    let file = here().join("../../assets/demo-model/gemma2-demo-q8_0.gguf");
    let file = NamedBytes::open(&file).expect("the demo model");
    let source = Source::open(Files::Gguf(vec![file])).expect("a model file");
    let tokenizer = Arc::new(Tokenizer::from_vocabulary(source.vocabulary()).expect("a vocabulary"));
    let control = |text| tokenizer.control(text).expect("one of Gemma's tokens");
    let model = Scripted {
        start_of_turn: control("<start_of_turn>"),
        end_of_turn: control("<end_of_turn>"),
        tokenizer: tokenizer.clone(),
        script,
    };
    let sizes =
        EngineOptions { n_ctx: options.n_ctx, n_parallel: 4, n_ubatch: options.n_ubatch, max_queue: 8, n_lookup: 0 };
    Engine::start(model, tokenizer, sizes)
}

#[tokio::main]
async fn main() {
    let json = std::env::args().nth(1).unwrap_or_else(|| "{}".into());
    let options: Options = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in: {json}"));
    let address = SocketAddr::from(([127, 0, 0, 1], options.port));
    let listener = tokio::net::TcpListener::bind(address).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let mut server_options = ServerOptions::new(address);
    server_options.api_keys = options.api_keys.clone();
    // What was built last, not what was there when this program was compiled.
    server_options.ui_dir = Some(here().join("../../web/dist"));
    let state = AppState::new(server_options);
    let script = Arc::new(Script::default());
    script.change(options.script.clone());
    let make_ready = {
        let (state, script) = (state.clone(), script.clone());
        let engine = start_engine(&options, script);
        let facts = facts(&options);
        move || {
            let template = ChatTemplate::new(None).expect("Gemma's own template");
            state.set_ready(engine.clone(), facts.clone(), template);
        }
    };
    match options.loading {
        Some(progress) => state.set_progress(progress, "loading"),
        None => make_ready(),
    }
    println!("http://{address}/");

    let end = Arc::new(Notify::new());
    let ended = end.clone();
    let loading = state.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let settings: Settings = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in: {line}"));
            match settings.loading {
                Some(Some(progress)) => loading.set_progress(progress, "loading"),
                Some(None) => make_ready(),
                None => {}
            }
            script.change(settings);
            println!("ok");
            std::io::stdout().flush().expect("somebody reads");
        }
        end.notify_one();
    });
    server::serve(listener, state.clone(), async move {
        tokio::select! {
            () = ended.notified() => {}
            () = state.quit_requested() => {}
        }
    })
    .await
    .expect("a server");
}
