//! Probabilities of the prompt's own tokens.

use super::*;

/// What is told of a token: its log-probability, and the best tokens.
type Told = (TokenId, Option<f32>, Vec<(TokenId, f32)>);

/// A request for a prompt and its probabilities, and `n` tokens more.
fn told(text: &str, n: usize) -> Request {
    Request { prompt_probs: true, n_probs: 3, ..request(text, n) }
}

/// The same tokens, one request each: what the model thinks of the token behind each beginning of the prompt.
fn one_by_one(prompt: &[TokenId]) -> Vec<Told> {
    let engine = start(FakeModel::default(), OPTIONS);
    let follower = |n: usize| {
        // The bias makes sure that it is drawn; the probabilities told are the model's own.
        let sampling = Sampling { temperature: 0.0, logit_bias: vec![(prompt[n], 1e6)], ..Sampling::default() };
        let beginning = Request { sampling, n_probs: 3, limit: Limit::Tokens(1), ..Request::new(prompt[..n].to_vec()) };
        let token = run(&engine, beginning).tokens.remove(0);
        assert_eq!(token.id, prompt[n]);
        (token.id, token.logprob, token.top)
    };
    std::iter::once((prompt[0], None, Vec::new())).chain((1..prompt.len()).map(follower)).collect()
}

fn parts(tokens: &[Token]) -> Vec<Told> {
    tokens.iter().map(|token| (token.id, token.logprob, token.top.clone())).collect()
}

#[test]
fn each_token_has_the_probability_it_would_be_drawn_with_however_the_prompt_is_cut() {
    let text = "abcabcxyzabcabcxyz";
    let want = one_by_one(&prompt(text));
    for n_ubatch in [1, 2, 5, 100] {
        for n in [0, 1, 4] {
            let engine = start(FakeModel::default(), EngineOptions { n_ubatch, n_lookup: 15, ..OPTIONS });
            let beside = engine.submit(request("hello", 50)).unwrap();
            let others: Vec<Events> = (0..3).map(|_| engine.submit(told(text, n)).unwrap()).collect();
            for events in others {
                let got = collect(events);
                assert_eq!(parts(&got.prompt), want, "{n_ubatch} {n}");
                assert_eq!(got.ids(), alone(request(text, n)).ids());
                assert_eq!(got.done().timings.cached_tokens, 0);
            }
            assert_eq!(collect(beside).ids(), alone(request("hello", 50)).ids());
        }
    }
}

#[test]
fn a_prompt_of_one_token_a_full_context_and_a_shift_are_no_exceptions() {
    let engine = start(FakeModel::default(), EngineOptions { n_ctx: 12, ..OPTIONS });
    let got = run(&engine, told("", 2));
    assert_eq!((parts(&got.prompt), got.tokens.len()), (one_by_one(&prompt("")), 2));
    let got = run(&engine, told("abcdefghijk", 2));
    assert_eq!((parts(&got.prompt), got.reason()), (one_by_one(&prompt("abcdefghijk")), StopReason::ContextFull));
    let shifting =
        Request { overflow: Overflow::Shift { n_keep: Some(2), cut_prompt: false }, ..told("abcdefghij", 20) };
    let got = run(&engine, shifting);
    assert_eq!((parts(&got.prompt), got.tokens.len()), (one_by_one(&prompt("abcdefghij")), 20));
    assert!(got.done().n_dropped > 0);
}

#[test]
fn the_token_that_ends_the_reply_is_told_without_a_text() {
    let n_prompt = prompt("abc").len();
    let engine = start(says(n_prompt, &[END_OF_TURN]), OPTIONS);
    let got = run(&engine, told("abc", 5));
    assert_eq!((got.ids(), got.text().as_str(), got.reason()), (vec![END_OF_TURN], "", StopReason::EndOfTurn));
    assert!(got.tokens[0].logprob.is_some_and(|p| p > -0.1) && got.tokens[0].top.len() == 3);
    assert!(run(&engine, Request { n_probs: 3, ..request("abc", 5) }).tokens.is_empty());
}

#[test]
fn it_is_computed_anew_but_left_in_the_cache() {
    let engine = start(FakeModel::default(), EngineOptions { n_parallel: 1, ..OPTIONS });
    let text = "abcdefghijklmnopqrstuvwxyz";
    for _ in 0..2 {
        let got = run(&engine, told(text, 1));
        assert_eq!((got.prompt.len(), got.done().timings.cached_tokens), (27, 0));
    }
    assert_eq!(run(&engine, request(text, 1)).done().timings.cached_tokens, 26);
}

#[test]
fn a_long_prompt_takes_a_bounded_number_of_rows_in_each_step() {
    let (engine, steps) = observed(FakeModel::default(), EngineOptions { n_ubatch: 200, ..OPTIONS });
    let running: Vec<Events> = (0..3).map(|_| engine.submit(told(&"abcde".repeat(40), 1)).unwrap()).collect();
    for events in running {
        assert_eq!(collect(events).prompt.len(), 201);
    }
    while let Ok(step) = steps.try_recv() {
        assert!(step.iter().map(|chunk| chunk.n_logits).sum::<usize>() <= 64, "{step:?}");
    }
}

#[test]
fn logits_that_are_no_numbers_fail_the_request() {
    let engine = start(FakeModel::default(), OPTIONS);
    let mut request = told("abc", 0);
    request.prompt.extend([NAN, LETTER_A]);
    assert!(matches!(run(&engine, request).error(), EngineError::Model(_)));
    assert_eq!(run(&engine, told("abc", 1)).prompt.len(), 4);
}
