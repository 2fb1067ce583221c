//! Embeddings of real models: the mean of hidden states, whatever else runs and however a text is cut.

use std::path::Path;
use std::sync::Arc;

use gemma2::engine::{Engine, EngineOptions, Event, Pooling, Request};
use gemma2::kernels::{Kernels, dequantize_row};
use gemma2::model::{Chunk, LanguageModel, Model};
use gemma2::ops::Compute;
use gemma2::tokenizer::{TokenId, Tokenizer};
use gemma2::weights::{Files, Source};

const N_CTX: usize = 128;

fn source() -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/models/tiny-c/gguf/tiny-c.F32.gguf");
    Source::open(Files::from_path(&path).expect("the file")).expect("a Gemma 2")
}

fn model(source: &Source, n_ubatch: usize) -> Model {
    let compute = Compute::cpu(Kernels::get(), 2).expect("threads");
    Model::new(source.config().clone(), source.tensors().expect("tensors"), compute, n_ubatch).expect("a model")
}

fn engine(n_parallel: usize, n_ubatch: usize) -> Engine {
    let source = source();
    let tokenizer = Tokenizer::from_vocabulary(source.vocabulary()).expect("a tokenizer");
    let options = EngineOptions { n_ctx: N_CTX, n_parallel, n_ubatch, max_queue: 100, n_lookup: 0 };
    Engine::start(model(&source, n_ubatch), Arc::new(tokenizer), options)
}

fn text(seed: u32, len: u32) -> Vec<TokenId> {
    std::iter::once(2).chain((1..len).map(|i| 10 + (seed * 31 + i * i * 7 + i) % 200)).collect()
}

/// The hidden state and the logits after each token, one step each.
fn states(model: &Model, tokens: &[TokenId]) -> Vec<(Vec<f64>, Vec<f32>)> {
    let mut cache = model.new_cache(N_CTX);
    let step = |token: &TokenId| {
        let mut state = vec![0.0; model.d_model()];
        let tokens = std::slice::from_ref(token);
        let chunk = Chunk { tokens, cache: &mut cache, n_logits: 1, hidden_sum: Some(&mut state) };
        let logits = model.forward(&mut [chunk]).expect("a step");
        (state, logits)
    };
    tokens.iter().map(step).collect()
}

fn embedding(events: gemma2::engine::Events) -> Vec<f32> {
    loop {
        match events.recv_blocking().expect("an end") {
            Event::Done(done) => return done.embedding,
            Event::Failed(error) => panic!("{error}"),
            Event::Prefill { .. } | Event::Prompt(_) => {}
            Event::Token(token) => panic!("a token: {token:?}"),
        }
    }
}

#[test]
fn an_embedding_is_the_mean_of_the_hidden_states() {
    let model = model(&source(), N_CTX);
    for (n_parallel, n_ubatch) in [(1, N_CTX), (4, 8)] {
        let engine = engine(n_parallel, n_ubatch);
        let texts: Vec<Vec<TokenId>> = (0..6).map(|i| text(i, 1 + i * 17)).collect();
        // A reply runs beside them.
        let beside = engine.submit(Request { ignore_eos: true, ..Request::new(text(9, 20)) }).expect("a place");
        let running: Vec<_> =
            texts.iter().map(|tokens| engine.embed(tokens.clone(), Pooling::Mean).expect("a place")).collect();
        for (tokens, events) in texts.iter().zip(running) {
            let states = states(&model, tokens);
            let n = states.len() as f64;
            let mean: Vec<f64> =
                (0..model.d_model()).map(|i| states.iter().map(|(s, _)| s[i]).sum::<f64>() / n).collect();
            let got = embedding(events);
            assert_eq!(got.len(), mean.len());
            for (got, mean) in got.iter().zip(&mean) {
                assert!((f64::from(*got) - mean).abs() < 1e-6 * mean.abs().max(1.0), "{got} {mean}");
            }
        }
        drop(beside);
    }
}

#[test]
fn the_states_of_single_tokens_can_be_had_however_a_text_is_cut() {
    let (model, tokens) = (model(&source(), N_CTX), text(2, 30));
    let want: Vec<f32> = states(&model, &tokens).into_iter().flat_map(|(state, _)| state).map(|x| x as f32).collect();
    let d_model = model.d_model();
    for n_ubatch in [8, N_CTX] {
        let engine = engine(1, n_ubatch);
        let pooled = |pooling| embedding(engine.embed(tokens.clone(), pooling).expect("a place"));
        let close = |got: Vec<f32>, want: &[f32]| {
            assert_eq!(got.len(), want.len());
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-4 * want.abs().max(1.0)));
        };
        close(pooled(Pooling::None), &want);
        close(pooled(Pooling::First), &want[..d_model]);
        close(pooled(Pooling::Last), &want[want.len() - d_model..]);
    }
}

#[test]
fn the_same_text_has_the_same_bits_alone_among_others_and_after_itself() {
    let alone = engine(1, N_CTX);
    let want = embedding(alone.embed(text(3, 90), Pooling::Mean).expect("a place"));
    let busy = engine(3, 8);
    let running: Vec<_> = (0..7)
        .map(|i| busy.embed(text(if i % 2 == 0 { 3 } else { 10 + i }, 90), Pooling::Mean).expect("a place"))
        .collect();
    for (i, events) in running.into_iter().enumerate() {
        assert_eq!(embedding(events) == want, i % 2 == 0, "{i}");
    }
    assert!(busy.slots().iter().all(|slot| slot.n_cached == 0), "nothing of it is kept");
}

#[test]
fn the_states_are_those_that_the_logits_come_from() {
    let (source, tokens) = (source(), text(1, 12));
    let cap = f64::from(source.config().final_softcap);
    let tensors = source.tensors().expect("tensors");
    let table = &tensors.embedding;
    let stride = table.bytes.len() / table.n_rows;
    let mut row = vec![0.0; table.n_cols];
    for (state, logits) in states(&model(&source, N_CTX), &tokens) {
        for id in [0, 5, 77, table.n_rows - 1] {
            dequantize_row(table.format, &table.bytes[id * stride..(id + 1) * stride], &mut row);
            let dot: f64 = state.iter().zip(&row).map(|(a, b)| a * f64::from(*b)).sum();
            let want = cap * (dot / cap).tanh();
            assert!((want - f64::from(logits[id])).abs() < 1e-2, "{want} {}", logits[id]);
        }
    }
}
