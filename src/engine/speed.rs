//! What the engine costs beside the forward pass: `cargo test --release --lib engine::speed -- --ignored --nocapture`.
//! Asserts nothing.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::grammar::{Grammars, Source};
use crate::model::{Cache, Chunk, ModelError};
use crate::tokenizer::tests::real_gguf;

/// Rows of logits like those of a large vocabulary: most of them near zero, few far above, none above the cap.
fn logits(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = rng::Rng::new(seed);
    let mut draw = || rng.next_f64() as f32;
    (0..n).map(|_| 30.0 * ((draw() + draw() + draw() + draw() - 2.0) * 0.7).tanh() - 2.0 * draw().ln()).collect()
}

/// Gives the same rows at every step, and says how long that took.
struct Rows {
    rows: Vec<f32>, // [n_slots, n_vocab]
    n_vocab: usize,
    nanoseconds: Arc<AtomicU64>,
    pool: rayon::ThreadPool,
}

struct Count(usize);

impl Cache for Count {
    fn len(&self) -> usize {
        self.0
    }
    fn truncate(&mut self, n: usize) -> usize {
        self.0 = n;
        n
    }
}

impl LanguageModel for Rows {
    type Cache = Count;
    fn n_vocab(&self) -> usize {
        self.n_vocab
    }
    fn n_ctx_train(&self) -> usize {
        8192
    }
    fn new_cache(&self, _: usize) -> Count {
        Count(0)
    }
    fn forward(&self, batch: &mut [Chunk<'_, Count>]) -> Result<Vec<f32>, ModelError> {
        let start = Instant::now();
        let mut out = Vec::new();
        for (at, chunk) in batch.iter_mut().enumerate() {
            chunk.cache.0 += chunk.tokens.len();
            for _ in 0..chunk.n_logits {
                out.extend_from_slice(&self.rows[at * self.n_vocab..][..self.n_vocab]);
            }
        }
        self.nanoseconds.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        Ok(out)
    }
    fn share(&self, _: usize, work: &mut (dyn FnMut() + Send)) {
        self.pool.install(work);
    }
}

#[test]
#[ignore = "a measurement, not a test"]
fn time_of_a_step_beside_its_forward_pass() {
    const N_STEPS: usize = 64;
    let tokenizer = Arc::new(real_gguf());
    let n_vocab = tokenizer.n_vocab();
    let grammars = Grammars::new(tokenizer.clone());
    let any = grammars.compile(&Source::json_object()).expect("a grammar");
    let schema = json!({ "type": "object", "properties": { "name": { "type": "string" }, "age": { "type": "integer" } },
        "required": ["name", "age"] });
    let schema = grammars.compile(&Source::JsonSchema(schema)).expect("a grammar");
    let sampling = |change: &dyn Fn(&mut Request)| {
        let mut request = Request::new(vec![2, 3]);
        request.limit = Limit::Tokens(N_STEPS);
        request.ignore_eos = true;
        request.cache_prompt = false;
        change(&mut request);
        request
    };
    let cases: Vec<(&str, Request)> = vec![
        ("the defaults", sampling(&|_| {})),
        ("temperature 0", sampling(&|r| r.sampling.temperature = 0.0)),
        ("top_p alone", sampling(&|r| r.sampling.top_k = 0)),
        ("min_p alone", sampling(&|r| (r.sampling.top_k, r.sampling.top_p, r.sampling.min_p) = (0, 1.0, 0.05))),
        ("no filter", sampling(&|r| (r.sampling.top_k, r.sampling.top_p) = (0, 1.0))),
        ("typical alone", sampling(&|r| (r.sampling.top_k, r.sampling.top_p, r.sampling.typical_p) = (0, 1.0, 0.9))),
        ("penalties", sampling(&|r| (r.sampling.repeat_penalty, r.sampling.repeat_last_n) = (1.1, -1))),
        ("1,000 biases", sampling(&|r| r.sampling.logit_bias = (0..1000).map(|id| (id * 200, 1.0)).collect())),
        ("5 probabilities", sampling(&|r| r.n_probs = 5)),
        ("any JSON object", sampling(&|r| r.constraint = Some(any.clone()))),
        ("a JSON schema", sampling(&|r| r.constraint = Some(schema.clone()))),
        ("16 stop strings", sampling(&|r| r.stop = (0..16).map(|i| format!("stop {i}")).collect())),
    ];
    println!("milliseconds of a step, of {n_vocab} logits a slot, beside the forward pass; median of 5 runs");
    for (name, request) in &cases {
        print!("{name:>16}");
        for n_slots in [1, 8] {
            let nanoseconds = Arc::new(AtomicU64::new(0));
            let model = Rows {
                rows: (0..n_slots).flat_map(|seed| logits(seed as u64, n_vocab)).collect(),
                n_vocab,
                nanoseconds: nanoseconds.clone(),
                pool: rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads"),
            };
            let options = EngineOptions { n_ctx: 256, n_parallel: n_slots, n_ubatch: 64, max_queue: 100, n_lookup: 0 };
            let engine = Engine::start(model, tokenizer.clone(), options);
            let mut times: Vec<f64> = (0..5)
                .map(|_| {
                    let before = (engine.metrics().steps, nanoseconds.load(Ordering::Relaxed));
                    let start = Instant::now();
                    let running: Vec<Events> =
                        (0..n_slots).map(|_| engine.submit(request.clone()).expect("a place")).collect();
                    for events in running {
                        while events.recv_blocking().is_ok() {}
                    }
                    let n_steps = engine.metrics().steps - before.0;
                    let forward = Duration::from_nanos(nanoseconds.load(Ordering::Relaxed) - before.1);
                    (start.elapsed() - forward).as_secs_f64() * 1e3 / n_steps as f64
                })
                .collect();
            times.sort_by(f64::total_cmp);
            print!(" | {n_slots}: {:6.3}", times[2]);
            let _ = std::io::stdout().flush();
        }
        println!();
    }
}
