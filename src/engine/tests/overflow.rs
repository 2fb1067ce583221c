//! Prompts and replies that outgrow the context.

use super::*;

const N_CTX: usize = 16;

fn shift(n_keep: Option<usize>) -> Overflow {
    Overflow::Shift { n_keep, cut_prompt: true }
}

fn small(n_ubatch: usize) -> EngineOptions {
    EngineOptions { n_ctx: N_CTX, n_ubatch, ..OPTIONS }
}

/// The greedy reply of `n` tokens, each computed anew from what the context holds at that moment.
fn by_hand(mut context: Vec<TokenId>, n: usize, n_keep: usize) -> Vec<TokenId> {
    let mut reply = Vec::new();
    while reply.len() < n {
        let mut one = Request { limit: Limit::Tokens(1), ..Request::new(context.clone()) };
        one.sampling.temperature = 0.0;
        let next = alone(one).ids()[0];
        reply.push(next);
        context.push(next);
        if context.len() == N_CTX {
            let n_discard = (N_CTX - n_keep) / 2;
            context.drain(n_keep..n_keep + n_discard);
        }
    }
    reply
}

fn greedy(text: &str, n: usize, overflow: Overflow) -> Request {
    let mut request = Request { overflow, ..request(text, n) };
    request.sampling.temperature = 0.0;
    request
}

#[test]
fn a_shifted_reply_is_what_recomputing_the_shorter_context_gives() {
    for n_ubatch in [1, 3, 64] {
        for (n_keep, kept) in [(Some(0), 1), (Some(3), 4), (None, 6), (Some(500), 6)] {
            let engine = start(FakeModel::default(), small(n_ubatch));
            let got = run(&engine, greedy("hello", 60, shift(n_keep)));
            assert_eq!(got.ids(), by_hand(prompt("hello"), 60, kept), "{n_ubatch} {n_keep:?}");
            assert_eq!((got.reason(), got.done().timings.decoded_tokens), (StopReason::TokenLimit, 60));
            assert!(got.done().n_dropped > 0 && engine.metrics().context_shifts > 0);
        }
    }
}

#[test]
fn a_cache_that_cannot_go_back_is_read_again_and_gives_the_same_reply() {
    let model = FakeModel { window: Some(2), ..FakeModel::default() };
    let got = run(&start(model, small(8)), greedy("hello", 40, shift(Some(2))));
    assert_eq!(got.ids(), by_hand(prompt("hello"), 40, 3));
}

#[test]
fn after_a_shift_the_slot_remembers_what_it_holds() {
    let engine = start(FakeModel::default(), EngineOptions { n_parallel: 1, ..small(8) });
    let got = run(&engine, greedy("hello", 20, shift(Some(2))));
    // The context as it stands at the end, without its last token, which was never read.
    let mut context = prompt("hello");
    for id in got.ids() {
        if context.len() == N_CTX {
            context.drain(3..3 + (N_CTX - 3) / 2);
        }
        context.push(id);
    }
    context.pop();
    let next = run(&engine, Request { limit: Limit::Tokens(1), ..Request::new(context.clone()) });
    assert_eq!(next.done().timings.cached_tokens, context.len() - 1);
}

#[test]
fn a_reply_without_a_limit_ends_at_the_model_s_own_context() {
    let engine = start(FakeModel { n_ctx_train: Some(100), ..FakeModel::default() }, small(8));
    let got = run(&engine, Request { limit: Limit::EndOfTurn, ignore_eos: true, ..greedy("hello", 0, shift(None)) });
    assert_eq!((got.reason(), got.tokens.len()), (StopReason::ContextFull, 94));
}

#[test]
fn a_prompt_that_is_too_long_loses_its_middle_where_it_may() {
    let engine = start(FakeModel::default(), small(8));
    let long = "abcdefghijklmnopqrstuvwxyz";
    let got = run(&engine, greedy(long, 1, shift(Some(3))));
    assert_eq!(got.done().n_dropped, 27 - got.done().timings.prompt_tokens);
    let read = got.done().timings.prompt_tokens;
    assert!(read < N_CTX);
    let left = [&prompt(long)[..4], &letters(long)[26 - (read - 4)..]].concat();
    assert_eq!(got.ids(), by_hand(left, 1, 4));
    let refused = Overflow::Shift { n_keep: Some(3), cut_prompt: false };
    let error = engine.submit(greedy(long, 3, refused)).unwrap_err();
    assert_eq!(error, EngineError::PromptTooLong { prompt: 27, n_ctx: N_CTX });
}

#[test]
fn a_shifting_reply_can_be_cancelled_and_lets_others_run() {
    let options = EngineOptions { n_parallel: 2, ..small(4) };
    let (engine, open, steps) = gated(FakeModel::default(), options);
    let endless = engine.submit(Request { ignore_eos: true, ..greedy("abc", usize::MAX, shift(Some(0))) }).unwrap();
    for _ in 0..50 {
        steps.recv_blocking().unwrap();
        open.try_send(()).unwrap();
    }
    assert!(engine.metrics().context_shifts > 1);
    let other = engine.submit(greedy("zz", 5, Overflow::Stop)).unwrap();
    steps.recv_blocking().unwrap();
    drop(endless);
    open.close();
    assert_eq!(collect(other).ids(), by_hand(prompt("zz"), 5, 0));
    assert_eq!(engine.metrics().cancelled, 1);
}
