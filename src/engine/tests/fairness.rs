//! Short requests beside long ones, and prompts that begin alike in several slots.

use super::*;

const N_UBATCH: usize = 64;

fn sizes(n_parallel: usize) -> EngineOptions {
    EngineOptions { n_ctx: 9000, n_parallel, n_ubatch: N_UBATCH, max_queue: 100, n_lookup: 0 }
}

/// Lets steps pass, one by one, until a token comes; the tokens that each of them read.
fn steps_until_token(events: &Events, open: &Sender<()>, steps: &Receiver<Vec<Seen>>) -> Vec<usize> {
    let mut sizes = Vec::new();
    loop {
        while let Ok(event) = events.try_recv() {
            if matches!(event, Event::Token(_)) {
                // The step that is under way now was not needed.
                sizes.pop();
                return sizes;
            }
        }
        open.try_send(()).unwrap();
        let step = steps.recv_blocking().unwrap();
        sizes.push(step.iter().map(|chunk| chunk.n_tokens).sum());
    }
}

#[test]
fn a_short_request_has_its_first_token_after_the_chunk_under_way_and_one_short_step() {
    for n_long in 1..4 {
        let (engine, open, steps) = gated(FakeModel::default(), sizes(4));
        let long: Vec<Events> =
            (0..n_long).map(|i| engine.submit(request(&["a", "b", "c"][i].repeat(8000), 5)).unwrap()).collect();
        steps.recv_blocking().unwrap();
        for _ in 0..5 {
            open.try_send(()).unwrap();
            steps.recv_blocking().unwrap();
        }
        // A chunk is under way now.
        let short = engine.submit(request("what", 5)).unwrap();
        let sizes = steps_until_token(&short, &open, &steps);
        assert_eq!(sizes, [5 + 16], "{n_long} long prompts: the short one and a little of a long one");
        open.close();
        assert_eq!(collect(short).done().timings.decoded_tokens, 5);
        for events in long {
            assert_eq!(collect(events).done().timings.prompt_tokens, 8001);
        }
    }
}

#[test]
fn a_short_request_does_not_wait_for_long_prompts_while_others_decode() {
    let (engine, open, steps) = gated(FakeModel::default(), sizes(4));
    let decoding = engine.submit(request("zz", 2000)).unwrap();
    steps.recv_blocking().unwrap();
    let long = engine.submit(request(&"a".repeat(5000), 5)).unwrap();
    for _ in 0..5 {
        open.try_send(()).unwrap();
        steps.recv_blocking().unwrap();
    }
    let short = engine.submit(request("what", 5)).unwrap();
    let sizes = steps_until_token(&short, &open, &steps);
    assert_eq!(sizes.len(), 1, "{sizes:?}");
    assert!(sizes[0] <= 1 + N_UBATCH / 4, "{sizes:?}");
    drop((decoding, long));
    open.close();
    collect(short);
}

#[test]
fn the_next_turn_of_a_long_conversation_reads_that_turn_only() {
    // Its local layers can go back by a few tokens, and a turn that goes on needs none.
    let model = FakeModel { window: Some(8), ..FakeModel::default() };
    let (engine, steps) = observed(model, sizes(4));
    let mut turns = prompt(&"a".repeat(2000));
    let first = run(&engine, Request { prompt: turns.clone(), ..request("", 50) });
    while steps.try_recv().is_ok() {}
    turns.extend(first.ids());
    for turn in ["whatelse", "andthen", "z"] {
        turns.extend(letters(turn));
        let got = run(&engine, Request { prompt: turns.clone(), ..request("", 50) });
        // The reply's last token was never read: it is told, not needed.
        assert_eq!(got.done().timings.computed_tokens(), turn.len() + 1, "{turn}");
        let n_read: usize = std::iter::from_fn(|| steps.try_recv().ok()).flatten().map(|chunk| chunk.n_tokens).sum();
        assert_eq!(n_read, turn.len() + 1 + got.done().timings.decode_steps(), "{turn}");
        turns.extend(got.ids());
    }
    let anew = Request { prompt: turns.clone(), cache_prompt: false, ..request("", 5) };
    let anew = run(&engine, anew);
    assert_eq!(run(&engine, Request { prompt: turns, ..request("", 5) }).ids(), anew.ids());
}

#[test]
fn a_beginning_that_a_busy_slot_holds_is_copied_and_not_read_again() {
    let instructions = "always answer in verse and never mention the weather or the king".replace(' ', "");
    let (engine, open, steps) = gated(FakeModel::default(), EngineOptions { n_parallel: 3, ..OPTIONS });
    let first = engine.submit(request(&format!("{instructions}one"), 100)).unwrap();
    for _ in 0..8 {
        steps.recv_blocking().unwrap();
        open.try_send(()).unwrap();
    }
    let others: Vec<Events> = ["two", "three"]
        .iter()
        .map(|end| engine.submit(request(&format!("{instructions}{end}"), 5)).unwrap())
        .collect();
    open.close();
    for (events, end) in others.into_iter().zip(["two", "three"]) {
        let got = collect(events);
        // The letters they share, and `<bos>`; `two` and `three` both begin with a letter that `one` does not have.
        assert!(got.done().timings.cached_tokens > instructions.len(), "{:?}", got.done().timings);
        assert_eq!(got.ids(), alone(request(&format!("{instructions}{end}"), 5)).ids());
    }
    assert_eq!(collect(first).ids(), alone(request(&format!("{instructions}one"), 100)).ids());
}

#[test]
fn a_beginning_whose_window_the_other_slot_has_lost_is_read_again() {
    let beginning = "abcdefghijklmnopqrstuvwxyz";
    let model = || FakeModel { window: Some(3), ..FakeModel::default() };
    let (engine, open, steps) = gated(model(), EngineOptions { n_parallel: 2, ..OPTIONS });
    let first = engine.submit(request(&format!("{beginning}one"), 50)).unwrap();
    for _ in 0..8 {
        steps.recv_blocking().unwrap();
        open.try_send(()).unwrap();
    }
    let second = engine.submit(request(&format!("{beginning}two"), 5)).unwrap();
    open.close();
    let got = collect(second);
    assert_eq!(got.done().timings.cached_tokens, 0);
    assert_eq!(got.ids(), alone(request(&format!("{beginning}two"), 5)).ids());
    collect(first);
}

#[test]
fn without_cache_prompt_nothing_is_copied_from_or_to_a_slot() {
    let text = "abcdefghijklmnopqrstuvwxyz";
    let private = |n| Request { cache_prompt: false, ..request(text, n) };
    let (engine, open, steps) = gated(FakeModel::default(), EngineOptions { n_parallel: 2, ..OPTIONS });
    let first = engine.submit(private(50)).unwrap();
    for _ in 0..8 {
        steps.recv_blocking().unwrap();
        open.try_send(()).unwrap();
    }
    let second = engine.submit(request(text, 5)).unwrap();
    open.close();
    assert_eq!(collect(second).done().timings.cached_tokens, 0, "the first one is private");
    collect(first);
    assert_eq!(run(&engine, private(5)).done().timings.cached_tokens, 0, "and so is this one");
}
