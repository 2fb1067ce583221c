//! Replies that a grammar shapes.

use super::*;
use crate::grammar::{Constraint, ConstraintError, Grammars, Source};

fn grammars() -> Grammars {
    let is_text = |id: TokenId| !FakePieces.is_control(id) && id != BAD_PIECE;
    let piece = |id| if is_text(id) { FakePieces.piece(id).to_vec() } else { Vec::new() };
    Grammars::of_pieces((0..N_VOCAB as TokenId).map(piece).collect(), vec![EOS, END_OF_TURN])
}

fn regex(regex: &str) -> Constraint {
    grammars().compile(&Source::Regex(regex.into())).expect("a grammar")
}

fn shaped(text: &str, n: usize, constraint: Constraint) -> Request {
    Request { constraint: Some(constraint), ..request(text, n) }
}

#[test]
fn a_reply_follows_its_grammar_and_ends_where_nothing_else_can_follow() {
    let engine = start(FakeModel::default(), OPTIONS);
    for seed in 0..20 {
        let mut request = shaped("hello", 50, regex("x[a-c]{3}y"));
        request.sampling.seed = Some(seed);
        request.sampling.top_k = [0, 1, 5][seed as usize % 3];
        let got = run(&engine, request);
        let text = got.text();
        assert!(text.len() == 5 && text.starts_with('x') && text.ends_with('y'), "{text}");
        assert!(text[1..4].bytes().all(|b| (b'a'..=b'c').contains(&b)), "{text}");
        assert_eq!((got.reason(), got.ids().len()), (StopReason::EndOfTurn, 5));
    }
}

#[test]
fn all_settings_of_sampling_work_under_a_grammar() {
    let engine = start(FakeModel::default(), OPTIONS);
    let mut banned = shaped("hello", 50, regex("[ab]{20}"));
    banned.sampling.logit_bias = vec![(LETTER_A, f32::NEG_INFINITY)];
    assert_eq!(run(&engine, banned).text(), "b".repeat(20));
    let mut greedy = shaped("hello", 50, regex("[a-z]{20}"));
    greedy.sampling.temperature = 0.0;
    assert_eq!(run(&engine, greedy.clone()).ids(), run(&engine, greedy).ids());
    let mut stopped = shaped("hello", 50, regex("ab[c-z]{20}"));
    stopped.stop = vec!["b".into()];
    let got = run(&engine, stopped);
    assert_eq!((got.text().as_str(), got.reason()), ("a", StopReason::StopString("b".into())));
    // The end is banned, so the reply goes on as long as the grammar lets it.
    let mut endless = shaped("hello", 30, regex("a*"));
    endless.ignore_eos = true;
    assert_eq!(run(&engine, endless).reason(), StopReason::TokenLimit);
    let mut complete = shaped("hello", 30, regex("abc"));
    complete.ignore_eos = true;
    assert_eq!(run(&engine, complete).reason(), StopReason::EndOfTurn);
    let mut told = shaped("hello", 30, regex("abc"));
    told.n_probs = 3;
    assert!(run(&engine, told).tokens.iter().all(|token| token.logprob.is_some_and(f32::is_finite)));
}

#[test]
fn a_grammar_that_cannot_go_on_fails_its_request_only() {
    let engine = start(FakeModel::default(), OPTIONS);
    let plain = engine.submit(request("hello", 20)).unwrap();
    let mut no_choice = shaped("hello", 20, regex("a+"));
    no_choice.sampling.logit_bias = vec![(LETTER_A, f32::NEG_INFINITY)];
    assert!(matches!(run(&engine, no_choice).error(), EngineError::BadSetting(_)));
    // The vocabulary has no bytes to write `日` with.
    let got = run(&engine, shaped("hello", 20, regex("a日")));
    assert_eq!(*got.error(), EngineError::Constraint(ConstraintError::DeadEnd));
    assert_eq!(collect(plain).ids(), alone(request("hello", 20)).ids());
}

#[test]
fn replies_under_grammars_do_not_depend_on_what_else_runs() {
    let engine = start(FakeModel::default(), EngineOptions { n_ubatch: 3, ..OPTIONS });
    let shared = regex("([a-m]|[n-z][a-c])*");
    let requests: Vec<Request> = (0..12)
        .map(|i| {
            let mut request = shaped(&"hello".repeat(i + 1), 10 + i, shared.clone());
            request.sampling.seed = Some(i as u64 % 3);
            if i % 4 == 3 {
                request.constraint = None;
            }
            request
        })
        .collect();
    let running: Vec<Events> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
    for (request, events) in requests.into_iter().zip(running) {
        assert_eq!(collect(events).ids(), alone(request).ids());
    }
}
