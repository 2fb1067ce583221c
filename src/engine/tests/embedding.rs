//! Embeddings: sums of hidden states through the same steps as everything else.

use super::*;

const D_MODEL: usize = 7;

fn model() -> FakeModel {
    FakeModel { d_model: D_MODEL, ..FakeModel::default() }
}

fn mean(tokens: &[TokenId]) -> Vec<f32> {
    let mut sum = [0.0; D_MODEL];
    for n in 1..=tokens.len() {
        sum.iter_mut().zip(hidden_state(&tokens[..n], D_MODEL)).for_each(|(sum, value)| *sum += value);
    }
    sum.iter().map(|x| (x / tokens.len() as f64) as f32).collect()
}

#[test]
fn a_text_has_one_embedding_however_it_is_cut_and_whatever_runs_beside_it() {
    for n_ubatch in [1, 3, 64] {
        let engine = start(model(), EngineOptions { n_ubatch, ..OPTIONS });
        let beside = engine.submit(request("hello", 50)).unwrap();
        let texts: Vec<Vec<TokenId>> = (0..9).map(|i| prompt(&"abc".repeat(i))).collect();
        let running: Vec<Events> =
            texts.iter().map(|text| engine.embed(text.clone(), Pooling::Mean).unwrap()).collect();
        for (text, events) in texts.iter().zip(running) {
            let got = collect(events);
            assert_eq!(got.done().embedding, mean(text));
            assert!(got.tokens.is_empty());
            assert_eq!(got.done().timings.prompt_tokens, text.len());
        }
        assert_eq!(collect(beside).ids(), alone(request("hello", 50)).ids());
    }
}

#[test]
fn an_embedding_uses_no_cache_and_leaves_none() {
    let engine = start(model(), EngineOptions { n_parallel: 1, ..OPTIONS });
    run(&engine, request("hello", 5));
    let got = collect(engine.embed(prompt("hello"), Pooling::Mean).unwrap());
    assert_eq!(got.done().embedding, mean(&prompt("hello")));
    assert_eq!((got.done().timings.cached_tokens, engine.slots()[0].n_cached), (0, 0));
    assert!(run(&engine, request("hello", 5)).done().embedding.is_empty());
}

#[test]
fn texts_that_cannot_be_embedded_are_refused_at_once() {
    let engine = start(model(), EngineOptions { n_ctx: 8, ..OPTIONS });
    assert_eq!(engine.embed(Vec::new(), Pooling::Mean).unwrap_err(), EngineError::EmptyPrompt);
    let long = engine.embed(prompt("abcdefgh"), Pooling::Mean).unwrap_err();
    assert_eq!(long, EngineError::PromptTooLong { prompt: 9, n_ctx: 8 });
    assert_eq!(collect(engine.embed(prompt("abcdefg"), Pooling::Mean).unwrap()).done().embedding.len(), D_MODEL);
    let none = start(FakeModel::default(), OPTIONS);
    assert!(matches!(none.embed(prompt("abc"), Pooling::Mean), Err(EngineError::BadSetting(_))));
    assert_eq!((engine.d_model(), none.d_model()), (D_MODEL, 0));
}

#[test]
fn the_states_of_single_tokens_can_be_had_however_a_text_is_cut() {
    let text = prompt("hello");
    let states: Vec<f32> = (1..=text.len()).flat_map(|n| hidden_state(&text[..n], D_MODEL)).map(|x| x as f32).collect();
    for n_ubatch in [1, 4, 64] {
        let engine = start(model(), EngineOptions { n_ubatch, ..OPTIONS });
        let pooled = |pooling| collect(engine.embed(text.clone(), pooling).unwrap()).done().embedding.clone();
        assert_eq!(pooled(Pooling::None), states);
        assert_eq!(pooled(Pooling::First), states[..D_MODEL]);
        assert_eq!(pooled(Pooling::Last), states[states.len() - D_MODEL..]);
    }
}
