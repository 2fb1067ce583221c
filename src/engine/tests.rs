//! The engine as its callers see it, over a fake model.

mod constraint;

use async_channel::{Receiver, Sender};

use super::fake::*;
use super::*;

mod embedding;
mod fairness;
mod lookup;
mod overflow;
mod prompt_probs;
mod slots;

const OPTIONS: EngineOptions = EngineOptions { n_ctx: 256, n_parallel: 4, n_ubatch: 16, max_queue: 100, n_lookup: 0 };

type TestEngine = Engine<FakePieces>;

fn start(model: FakeModel, options: EngineOptions) -> TestEngine {
    Engine::start(model, Arc::new(FakePieces), options)
}

/// An engine whose model waits for a message before each step and tells what each step holds.
fn gated(model: FakeModel, options: EngineOptions) -> (TestEngine, Sender<()>, Receiver<Vec<Seen>>) {
    let (open, gate) = async_channel::unbounded();
    let (tell, steps) = async_channel::unbounded();
    let model = FakeModel { gate: Some(gate), steps: Some(tell), ..model };
    (start(model, options), open, steps)
}

fn observed(model: FakeModel, options: EngineOptions) -> (TestEngine, Receiver<Vec<Seen>>) {
    let (engine, open, steps) = gated(model, options);
    open.close();
    (engine, steps)
}

/// A model that says `reply` after a prompt of `n_prompt` tokens.
fn says(n_prompt: usize, reply: &[TokenId]) -> FakeModel {
    let mut script = vec![None; n_prompt];
    script.extend(reply.iter().copied().map(Some));
    FakeModel { script, ..FakeModel::default() }
}

fn prompt(text: &str) -> Vec<TokenId> {
    let mut prompt = vec![BOS];
    prompt.extend(letters(text));
    prompt
}

fn request(text: &str, n: usize) -> Request {
    Request {
        limit: Limit::Tokens(n),
        sampling: Sampling { seed: Some(1), ..Sampling::default() },
        ..Request::new(prompt(text))
    }
}

/// Everything a request brought.
#[derive(Debug, Default)]
struct Outcome {
    tokens: Vec<Token>,
    prompt: Vec<Token>,
    prefill: Vec<(usize, usize, usize)>,
    end: Option<Result<Done, EngineError>>,
}

impl Outcome {
    fn ids(&self) -> Vec<TokenId> {
        self.tokens.iter().map(|t| t.id).collect()
    }
    fn done(&self) -> &Done {
        match &self.end {
            Some(Ok(done)) => done,
            other => panic!("no Done but {other:?}"),
        }
    }
    fn error(&self) -> &EngineError {
        match &self.end {
            Some(Err(error)) => error,
            other => panic!("no Failed but {other:?}"),
        }
    }
    fn text(&self) -> String {
        let text: String = self.tokens.iter().map(|t| t.text.as_str()).collect();
        text + &self.done().text
    }
    fn reason(&self) -> StopReason {
        self.done().reason.clone()
    }
}

fn collect(events: Events) -> Outcome {
    let mut out = Outcome::default();
    while let Ok(event) = events.recv_blocking() {
        assert!(out.end.is_none(), "after the end came {event:?}");
        match event {
            Event::Prefill { done, total, cached } => {
                assert!(out.tokens.is_empty());
                out.prefill.push((done, total, cached));
            }
            Event::Prompt(tokens) => {
                assert!(out.tokens.is_empty());
                out.prompt.extend(tokens);
            }
            Event::Token(token) => out.tokens.push(token),
            Event::Done(done) => out.end = Some(Ok(*done)),
            Event::Failed(error) => out.end = Some(Err(error)),
        }
    }
    assert!(out.end.is_some(), "the channel closed without an end");
    out
}

fn run(engine: &TestEngine, request: Request) -> Outcome {
    collect(engine.submit(request).unwrap())
}

/// What a request gives on an engine of its own that reads prompts in one go.
fn alone(request: Request) -> Outcome {
    let options = EngineOptions { n_parallel: 1, n_ubatch: 10_000, ..OPTIONS };
    run(&start(FakeModel::default(), options), request)
}

#[test]
fn replies_do_not_depend_on_what_else_runs_or_how_prompts_are_cut() {
    for n_ubatch in [1, 3, 16, 64] {
        let options = EngineOptions { n_ubatch, ..OPTIONS };
        let engine = start(FakeModel::default(), options);
        let requests: Vec<Request> = (0..12)
            .map(|i| {
                let mut request = request(&"hello".repeat(i + 1), 10 + i);
                request.sampling.seed = Some(i as u64 % 3);
                request.sampling.temperature = 0.5 * (i % 4) as f32;
                request.sampling.repeat_penalty = 1.0 + 0.1 * (i % 2) as f32;
                request
            })
            .collect();
        let running: Vec<Events> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
        for (request, events) in requests.into_iter().zip(running) {
            let got = collect(events);
            let want = alone(request);
            assert_eq!(got.ids(), want.ids());
            assert_eq!(got.text(), want.text());
            assert_eq!(got.reason(), StopReason::TokenLimit);
        }
        assert!(engine.metrics().slot_steps > engine.metrics().steps);
    }
}

#[test]
fn steps_carry_all_decoding_slots_and_a_bounded_part_of_prompts() {
    let options = EngineOptions { n_parallel: 3, n_ubatch: 32, ..OPTIONS };
    let (engine, open, steps) = gated(FakeModel::default(), options);
    let short = engine.submit(request("abc", 20)).unwrap();
    // The first step is under way; the others come in before the second.
    let first = steps.recv_blocking().unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].n_tokens, first[0].n_logits), (4, 1));
    let long =
        [engine.submit(request(&"xy".repeat(10), 2)).unwrap(), engine.submit(request(&"zz".repeat(6), 2)).unwrap()];
    open.close();
    let long: Vec<Outcome> = long.into_iter().map(collect).collect();
    assert_eq!(collect(short).ids().len(), 20);
    let seen: Vec<Vec<Seen>> = std::iter::from_fn(|| steps.try_recv().ok()).collect();
    assert!(seen.iter().all(|step| step.iter().map(|c| c.n_tokens).sum::<usize>() <= 9));
    let shape = |step: &[Seen]| -> Vec<(usize, usize)> { step.iter().map(|c| (c.n_tokens, c.n_logits)).collect() };
    // The first slot decodes in every step; the prompts of 21 and 13 tokens take turns.
    let shapes: Vec<_> = seen.iter().take(5).map(|s| shape(s)).collect();
    assert_eq!(shapes[0], [(1, 1), (8, 0)]);
    assert_eq!(shapes[1], [(1, 1), (8, 0)]);
    assert_eq!(shapes[2], [(1, 1), (8, 0)]);
    assert_eq!(shapes[3], [(1, 1), (3, 0), (5, 1)]);
    assert_eq!(shapes[4], [(1, 1), (2, 1), (1, 1)]);
    assert_eq!(long[0].prefill, [(0, 21, 0), (8, 21, 0), (16, 21, 0), (19, 21, 0), (21, 21, 0)]);
    assert_eq!(long[1].prefill, [(0, 13, 0), (8, 13, 0), (13, 13, 0)]);
}

#[test]
fn a_conversation_computes_only_what_is_new() {
    let (engine, steps) = observed(FakeModel::default(), OPTIONS);
    let first = run(&engine, request("hello", 5));
    let mut second = request("hello", 5);
    second.prompt.extend(first.ids());
    second.prompt.extend(letters("more"));
    while steps.try_recv().is_ok() {}
    let got = run(&engine, second.clone());
    // The last token of the first reply was never fed to the model.
    assert_eq!(got.prefill, [(10, 15, 10), (15, 15, 10)]);
    assert_eq!(got.done().timings.cached_tokens, 10);
    assert_eq!(got.done().timings.prompt_tokens, 15);
    let seen = steps.try_recv().unwrap();
    assert_eq!((seen[0].start, seen[0].n_tokens), (10, 5));
    assert_eq!(got.ids(), alone(second).ids());
    assert_eq!(engine.metrics().cached_tokens, 10);
    assert_eq!(engine.metrics().prompt_tokens, 6 + 5);
    assert_eq!(engine.metrics().decoded_tokens, 10);
}

#[test]
fn an_edited_prompt_reuses_the_part_before_the_edit() {
    let engine = start(FakeModel::default(), OPTIONS);
    run(&engine, request("abcdefgh", 4));
    let edited = request("abcdxfgh", 4);
    let got = run(&engine, edited.clone());
    assert_eq!(got.done().timings.cached_tokens, 5);
    assert_eq!(got.ids(), alone(edited.clone()).ids());
    // The same again: all but the last token.
    let got = run(&engine, edited.clone());
    assert_eq!(got.done().timings.cached_tokens, 8);
    assert_eq!(got.ids(), alone(edited).ids());
    // A beginning of it.
    let shorter = request("abcd", 4);
    let got = run(&engine, shorter.clone());
    assert_eq!(got.done().timings.cached_tokens, 4);
    assert_eq!(got.ids(), alone(shorter).ids());
}

#[test]
fn a_cache_that_lost_its_window_is_computed_anew() {
    let model = FakeModel { window: Some(3), ..FakeModel::default() };
    let engine = start(model, OPTIONS);
    run(&engine, request("abcdefghijklmnop", 4));
    for text in ["abcdxfgh", "abcdxfgy", "abcdxfgyabcde", "abcdxfgyabcyy"] {
        let got = run(&engine, request(text, 1));
        assert_eq!(got.ids(), alone(request(text, 1)).ids(), "{text}");
        let want = if text == "abcdxfgh" { 0 } else { text.len() };
        let cached = got.done().timings.cached_tokens;
        assert!(cached <= want && (cached > 0) == (want > 0), "{text}");
    }
}

#[test]
fn requests_go_to_the_slot_that_knows_their_beginning() {
    let engine = start(FakeModel::default(), OPTIONS);
    let texts = ["aaaaaaaa", "bbbbbbbb", "cccccccc"];
    for text in texts {
        assert_eq!(run(&engine, request(text, 2)).done().timings.cached_tokens, 0);
    }
    for text in texts {
        assert_eq!(run(&engine, request(text, 2)).done().timings.cached_tokens, 8);
    }
    let n_used = engine.slots().iter().filter(|s| s.n_cached > 0).count();
    assert_eq!(n_used, 3);
}

#[test]
fn without_cache_prompt_nothing_is_reused_or_left() {
    let engine = start(FakeModel::default(), OPTIONS);
    let private = Request { cache_prompt: false, ..request("secret", 3) };
    let ids = run(&engine, private.clone()).ids();
    assert!(engine.slots().iter().all(|s| s.n_cached == 0));
    assert_eq!(run(&engine, request("secret", 3)).done().timings.cached_tokens, 0);
    let again = run(&engine, private);
    assert_eq!(again.done().timings.cached_tokens, 0);
    assert_eq!(again.ids(), ids);
}

#[test]
fn a_dropped_receiver_cancels_within_a_step_even_while_the_prompt_is_read() {
    let (engine, open, steps) = gated(FakeModel::default(), OPTIONS);
    let events = engine.submit(request(&"abcd".repeat(50), 10)).unwrap();
    for _ in 0..2 {
        steps.recv_blocking().unwrap();
        open.try_send(()).unwrap();
    }
    // The third step is under way.
    steps.recv_blocking().unwrap();
    drop(events);
    open.close();
    let other = run(&engine, request("zz", 1));
    assert_eq!(other.reason(), StopReason::TokenLimit);
    let rest = steps.try_recv().unwrap();
    assert_eq!(rest.len(), 1, "only the other request runs");
    assert_eq!(rest[0].n_tokens, 3);
    let metrics = engine.metrics();
    assert_eq!((metrics.cancelled, metrics.running), (1, 0));
    // What was read stays useful.
    let again = run(&engine, request(&"abcd".repeat(50), 1));
    assert_eq!(again.done().timings.cached_tokens, 48);
}

#[test]
fn a_dropped_receiver_cancels_a_reply_and_a_waiting_request() {
    let options = EngineOptions { n_parallel: 1, ..OPTIONS };
    let (engine, open, steps) = gated(FakeModel::default(), options);
    let running = engine.submit(request("abc", 100)).unwrap();
    let waiting = engine.submit(request("def", 100)).unwrap();
    for _ in 0..3 {
        steps.recv_blocking().unwrap();
        open.try_send(()).unwrap();
    }
    steps.recv_blocking().unwrap();
    drop((running, waiting));
    open.close();
    assert_eq!(run(&engine, request("ghi", 1)).ids().len(), 1);
    assert_eq!(steps.len(), 1);
    let metrics = engine.metrics();
    assert_eq!((metrics.cancelled, metrics.requests), (2, 3));
}

#[test]
fn a_full_queue_refuses_until_there_is_room() {
    let options = EngineOptions { n_parallel: 2, max_queue: 1, ..OPTIONS };
    let (engine, open, steps) = gated(FakeModel::default(), options);
    let taken: Vec<Events> = (0..3).map(|_| engine.submit(request("abc", 3)).unwrap()).collect();
    steps.recv_blocking().unwrap();
    let refused = engine.submit(request("abc", 3)).unwrap_err();
    assert_eq!(refused, EngineError::QueueFull);
    assert!(refused.hint().is_some());
    assert_eq!(engine.metrics().rejected, 1);
    assert!(engine.metrics().queued >= 1);
    open.close();
    for events in taken {
        assert_eq!(collect(events).ids().len(), 3);
        // Whoever has seen an end finds room.
        assert_eq!(run(&engine, request("abc", 3)).ids().len(), 3);
    }
    assert_eq!(engine.metrics().queued, 0);
}

#[test]
fn without_a_queue_one_request_after_the_other_still_runs() {
    let options = EngineOptions { n_parallel: 1, max_queue: 0, ..OPTIONS };
    let engine = start(FakeModel::default(), options);
    for _ in 0..200 {
        assert_eq!(run(&engine, request("abc", 1)).ids().len(), 1);
        assert!(!engine.slots()[0].busy);
    }
}

#[test]
fn a_model_that_panics_or_fails_fails_that_request_and_the_engine_lives_on() {
    let engine = start(FakeModel::default(), OPTIONS);
    let before = run(&engine, request("abcdef", 4));
    for (token, text) in [
        (PANIC, "the model failed: it panicked: the fake model was asked"),
        (ERROR, "the model failed: asked to fail"),
        (NAN, "the model failed: it gave token 0 a logit that is not"),
    ] {
        let mut bad = request("abcdefgh", 4);
        bad.prompt[5] = token;
        let error = run(&engine, bad).error().to_string();
        assert!(error.starts_with(text), "{error}");
        let after = run(&engine, request("abcdef", 4));
        assert_eq!(after.ids(), before.ids());
    }
    let metrics = engine.metrics();
    assert_eq!((metrics.failed, metrics.running, metrics.requests), (3, 0, 7));
}

#[test]
fn requests_in_the_same_step_as_a_panic_fail_and_waiting_ones_run() {
    let options = EngineOptions { n_parallel: 2, ..OPTIONS };
    let (engine, open, steps) = gated(FakeModel::default(), options);
    let neighbour = engine.submit(request("abc", 50)).unwrap();
    steps.recv_blocking().unwrap();
    let bad = engine.submit(Request::new(vec![BOS, PANIC])).unwrap();
    let waiting = engine.submit(request("xyz", 3)).unwrap();
    open.close();
    assert!(matches!(collect(bad).error(), EngineError::Model(_)));
    assert!(matches!(collect(neighbour).error(), EngineError::Model(_)));
    assert_eq!(collect(waiting).ids(), alone(request("xyz", 3)).ids());
}

#[test]
fn a_panic_while_one_reply_is_made_fails_only_that_request() {
    let (engine, open, steps) = gated(says(3, &letters("hello")), OPTIONS);
    let good = engine.submit(request("ab", 5)).unwrap();
    steps.recv_blocking().unwrap();
    let mut bad = request("ab", 5);
    bad.sampling.logit_bias = vec![(BAD_PIECE, 1000.0)];
    let bad = engine.submit(bad).unwrap();
    open.close();
    assert!(collect(bad).error().to_string().contains("no such piece"));
    assert_eq!(collect(good).text(), "hello");
}

#[test]
fn stop_strings_end_the_text_wherever_tokens_begin() {
    let reply = letters("onetwothree");
    for (stop, text, n_tokens) in [
        ("two", "one", 6),
        ("w", "onet", 5),
        ("threex", "onetwothree", 11),
        ("one", "", 3),
        ("nosuch", "onetwothree", 11),
    ] {
        let engine = start(says(3, &reply), OPTIONS);
        let got = run(&engine, Request { stop: vec![stop.into(), "never".into()], ..request("ab", 11) });
        assert_eq!(got.text(), text, "{stop}");
        assert_eq!(got.tokens.len(), n_tokens, "{stop}");
        assert_eq!(got.done().timings.decoded_tokens, n_tokens);
        let found = text.len() < reply.len();
        let reason = if found { StopReason::StopString(stop.into()) } else { StopReason::TokenLimit };
        assert_eq!(got.reason(), reason);
    }
}

#[test]
fn text_comes_in_whole_characters_and_ends_with_the_rest() {
    let mut reply = letters("caf");
    reply.extend(E_ACUTE);
    reply.extend(letters("x"));
    reply.push(E_ACUTE[0]);
    let engine = start(says(3, &reply), OPTIONS);
    let got = run(&engine, request("ab", 7));
    let texts: Vec<&str> = got.tokens.iter().map(|t| t.text.as_str()).collect();
    assert_eq!(texts, ["c", "a", "f", "", "é", "x", ""]);
    assert_eq!(got.done().text, "\u{fffd}");
}

#[test]
fn a_reply_whose_time_is_over_ends_with_its_line() {
    let reply = [letters("one"), vec![NEW_LINE], letters("two")].concat();
    let engine = start(says(3, &reply), OPTIONS);
    let got = run(&engine, Request { time_limit: Some(Duration::ZERO), ..request("ab", 7) });
    assert_eq!((got.text().as_str(), got.reason()), ("one\n", StopReason::TokenLimit));
    let got = run(&engine, Request { time_limit: Some(Duration::MAX), ..request("ab", 7) });
    assert_eq!(got.text(), "one\ntwo");
}

#[test]
fn an_end_token_ends_the_reply_and_is_shown_only_if_asked_for() {
    let reply = [letters("hi"), vec![END_OF_TURN]].concat();
    let engine = start(says(3, &reply), OPTIONS);
    let base = Request { limit: Limit::EndOfTurn, ..request("ab", 0) };
    let got = run(&engine, base.clone());
    assert_eq!((got.text().as_str(), got.reason()), ("hi", StopReason::EndOfTurn));
    assert_eq!((got.tokens.len(), got.done().timings.decoded_tokens), (2, 3));
    let shown = Request { show_control: true, ..base };
    let got = run(&engine, shown);
    assert_eq!(got.text(), "hi<end_of_turn>");
    assert_eq!((got.tokens.len(), got.reason()), (3, StopReason::EndOfTurn));
}

#[test]
fn control_tokens_inside_a_reply_are_left_out_of_the_text() {
    let reply = [letters("a"), vec![BOS], letters("b")].concat();
    let engine = start(says(3, &reply), OPTIONS);
    assert_eq!(run(&engine, request("ab", 3)).text(), "ab");
    let shown = Request { show_control: true, ..request("ab", 3) };
    assert_eq!(run(&engine, shown).text(), "a<bos>b");
}

#[test]
fn ignore_eos_goes_on_past_the_end_token() {
    let reply = [letters("hi"), vec![END_OF_TURN]].concat();
    for temperature in [0.0, 1.0] {
        let engine = start(says(3, &reply), OPTIONS);
        let mut forced = Request { ignore_eos: true, ..request("ab", 20) };
        forced.sampling.temperature = temperature;
        let got = run(&engine, forced);
        assert_eq!(got.reason(), StopReason::TokenLimit);
        assert_eq!(got.tokens.len(), 20);
        assert!(got.ids().iter().all(|id| *id != EOS && *id != END_OF_TURN));
    }
}

#[test]
fn a_limit_of_0_reads_the_prompt_and_makes_nothing() {
    let (engine, steps) = observed(FakeModel::default(), OPTIONS);
    let got = run(&engine, request("abcdef", 0));
    assert_eq!(got.reason(), StopReason::TokenLimit);
    assert!(got.tokens.is_empty() && got.done().text.is_empty());
    assert_eq!(got.prefill.last(), Some(&(7, 7, 0)));
    assert!(steps.try_recv().unwrap().iter().all(|c| c.n_logits == 0));
    assert_eq!(engine.slots().iter().map(|s| s.n_cached).max(), Some(7));
    let got = run(&engine, request("abcdef", 2));
    assert_eq!(got.done().timings.cached_tokens, 6);
    assert_eq!(got.ids(), alone(request("abcdef", 2)).ids());
}

#[test]
fn prompt_and_reply_fill_the_context_exactly() {
    let options = EngineOptions { n_ctx: 10, ..OPTIONS };
    let engine = start(FakeModel::default(), options);
    let endless = |text: &str| Request { limit: Limit::EndOfTurn, ..request(text, 0) };
    for n_letters in 0..10 {
        let text = &"abcdefghi"[..n_letters];
        let got = run(&engine, endless(text));
        assert_eq!(got.reason(), StopReason::ContextFull);
        assert_eq!(got.tokens.len(), 10 - (n_letters + 1), "{text}");
        assert_eq!(got.ids(), alone(request(text, 9 - n_letters)).ids());
    }
    let got = run(&engine, request("abcdefgh", 1));
    assert_eq!(got.reason(), StopReason::TokenLimit);
    let got = run(&engine, request("abcdefghi", 0));
    assert_eq!(got.reason(), StopReason::TokenLimit);
    let too_long = engine.submit(endless("abcdefghij")).unwrap_err();
    assert_eq!(too_long, EngineError::PromptTooLong { prompt: 11, n_ctx: 10 });
}

#[test]
fn a_seed_is_reported_and_gives_the_same_reply_again() {
    let engine = start(FakeModel::default(), OPTIONS);
    let mut free = request("abc", 30);
    free.sampling.seed = None;
    let first = run(&engine, free.clone());
    let second = run(&engine, free.clone());
    assert_ne!(first.done().seed, second.done().seed);
    assert_ne!(first.ids(), second.ids());
    free.sampling.seed = Some(first.done().seed);
    let again = run(&engine, free);
    assert_eq!(again.ids(), first.ids());
    assert_eq!(again.done().seed, first.done().seed);
}

#[test]
fn biases_ban_and_force_tokens() {
    let engine = start(FakeModel::default(), OPTIONS);
    let z = LETTER_A + 25;
    let mut forced = request("abc", 5);
    forced.sampling.logit_bias = vec![(z, 100.0)];
    assert_eq!(run(&engine, forced.clone()).text(), "zzzzz");
    forced.sampling.logit_bias = vec![(z, 100.0), (z, f32::NEG_INFINITY)];
    assert!(!run(&engine, forced.clone()).ids().contains(&z));
    let all = 0..N_VOCAB as TokenId;
    forced.sampling.logit_bias = all.map(|id| (id, f32::NEG_INFINITY)).collect();
    let got = run(&engine, forced);
    assert!(matches!(got.error(), EngineError::BadSetting(_)));
}

#[test]
fn rows_beyond_the_vocabulary_are_never_sampled_or_reported() {
    let engine = start(FakeModel::default(), OPTIONS);
    for temperature in [0.0, 1.0, 100.0] {
        let mut request = request("abc", 50);
        request.sampling.temperature = temperature;
        request.sampling.top_k = 0;
        request.sampling.top_p = 1.0;
        request.n_probs = 100;
        for token in run(&engine, request).tokens {
            assert!((token.id as usize) < N_VOCAB);
            assert!(token.top.iter().all(|t| (t.0 as usize) < N_VOCAB));
        }
    }
}

#[test]
fn log_probabilities_are_of_the_model_not_of_the_filters() {
    let engine = start(FakeModel::default(), OPTIONS);
    let mut plain = request("abc", 6);
    plain.n_probs = N_VOCAB;
    let mut filtered = plain.clone();
    filtered.sampling =
        Sampling { temperature: 0.0, top_k: 1, logit_bias: vec![(LETTER_A, 100.0)], ..plain.sampling.clone() };
    let first = |request: &Request| run(&engine, request.clone()).tokens[0].clone();
    let (a, b) = (first(&plain), first(&filtered));
    assert_eq!(a.top, b.top);
    assert_eq!(b.id, LETTER_A);
    for token in [a, b] {
        let sum: f32 = token.top.iter().map(|t| t.1.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
        assert!(token.top.windows(2).all(|w| w[0].1 >= w[1].1));
        let own = token.top.iter().find(|t| t.0 == token.id).unwrap().1;
        assert_eq!(token.logprob, Some(own));
    }
    plain.n_probs = 3;
    assert_eq!(first(&plain).top.len(), 3);
    plain.n_probs = 0;
    let none = first(&plain);
    assert!(none.logprob.is_none() && none.top.is_empty());
}

#[test]
fn requests_without_a_meaning_are_refused_at_once() {
    let engine = start(FakeModel::default(), OPTIONS);
    let refused = |change: fn(&mut Request)| {
        let mut request = request("abc", 1);
        change(&mut request);
        engine.submit(request).unwrap_err()
    };
    assert_eq!(refused(|r| r.prompt.clear()), EngineError::EmptyPrompt);
    let bad: [fn(&mut Request); 6] = [
        |r| r.prompt.push((N_VOCAB + N_PADDING) as TokenId),
        |r| r.sampling.temperature = -1.0,
        |r| r.sampling.logit_bias = vec![(N_VOCAB as TokenId, 1.0)],
        |r| r.n_probs = MAX_N_PROBS + 1,
        |r| r.stop = vec![String::new()],
        |r| r.stop = vec!["x".repeat(stop::MAX_STOP_BYTES + 1)],
    ];
    for change in bad {
        assert!(matches!(refused(change), EngineError::BadSetting(_)));
    }
    assert_eq!(engine.metrics().requests, 0);
}

#[test]
fn shutdown_ends_running_and_waiting_requests_with_what_they_have() {
    let options = EngineOptions { n_parallel: 1, ..OPTIONS };
    let mut model = says(3, &letters("hello"));
    model.window = Some(0);
    let (engine, open, steps) = gated(model, options);
    let running = engine.submit(Request { stop: vec!["lost".into()], ..request("ab", 50) }).unwrap();
    let waiting = engine.submit(request("cd", 5)).unwrap();
    for _ in 0..3 {
        steps.recv_blocking().unwrap();
        open.try_send(()).unwrap();
    }
    // The fourth step is under way when the end is asked for.
    steps.recv_blocking().unwrap();
    engine.shutdown();
    assert!(matches!(engine.submit(request("ef", 1)), Err(EngineError::Stopped)));
    open.close();
    engine.join();
    let running = collect(running);
    assert_eq!(running.reason(), StopReason::Shutdown);
    assert_eq!(running.text(), "hell", "with the text that was held back");
    assert_eq!(running.done().text, "l");
    let waiting = collect(waiting);
    assert_eq!(waiting.reason(), StopReason::Shutdown);
    assert!(waiting.tokens.is_empty());
    assert!(engine.slots().iter().all(|s| !s.busy));
}

#[test]
fn dropping_the_last_handle_ends_the_thread() {
    let (engine, open, steps) = gated(FakeModel::default(), OPTIONS);
    let events = engine.submit(request("abc", 200)).unwrap();
    steps.recv_blocking().unwrap();
    let second = engine.clone();
    drop(engine);
    open.try_send(()).unwrap();
    steps.recv_blocking().unwrap();
    drop(second);
    open.close();
    assert_eq!(collect(events).reason(), StopReason::Shutdown);
    // The model, which holds the other end, is freed with the thread.
    while steps.recv_blocking().is_ok() {}
}

#[test]
fn slots_tell_what_runs() {
    let (engine, open, steps) = gated(FakeModel::default(), OPTIONS);
    let events = engine.submit(request("abcd", 10)).unwrap();
    for _ in 0..3 {
        steps.recv_blocking().unwrap();
        open.try_send(()).unwrap();
    }
    steps.recv_blocking().unwrap();
    let slots = engine.slots();
    assert_eq!(slots.len(), 4);
    let busy: Vec<&SlotState> = slots.iter().filter(|s| s.busy).collect();
    assert_eq!(busy.len(), 1);
    assert_eq!((busy[0].n_prompt, busy[0].n_decoded, busy[0].n_cached), (5, 3, 7));
    assert_eq!(engine.metrics().running, 1);
    open.close();
    collect(events);
}

#[test]
fn tasks_can_await_events() {
    // The channel belongs to no runtime: a task polls it where a thread blocks.
    let engine = start(FakeModel::default(), OPTIONS);
    let events = engine.submit(request("abc", 5)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let n_tokens = runtime.block_on(async {
        let mut n = 0;
        while let Ok(event) = events.recv().await {
            n += usize::from(matches!(event, Event::Token(_)));
        }
        n
    });
    assert_eq!(n_tokens, 5);
}
