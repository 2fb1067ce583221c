//! Guesses ahead change the steps, never the reply.

use super::*;

const GUESSING: EngineOptions = EngineOptions { n_lookup: 15, ..OPTIONS };

/// Replies that repeat the prompt and themselves, now and then with another token.
fn repetitive(n_prompt: usize, reply: &str) -> FakeModel {
    says(n_prompt, &letters(reply))
}

const REPLY: &str = "abcdefghabcdefgxabcdefghabcdefghabcdefghabcyabcdefghabcdefghijklmnopabcabcabcabcabcabcabcabc";

#[test]
fn a_reply_is_the_same_with_and_without_guesses_but_takes_fewer_steps() {
    let prompt = request("abcdefghijklmnop", REPLY.len());
    let n_prompt = prompt.prompt.len();
    let plain = run(&start(repetitive(n_prompt, REPLY), OPTIONS), prompt.clone());
    let (engine, steps) = observed(repetitive(n_prompt, REPLY), GUESSING);
    let guessed = run(&engine, prompt);
    assert_eq!(guessed.ids(), plain.ids());
    assert_eq!((guessed.text(), guessed.reason()), (plain.text(), plain.reason()));
    let timings = &guessed.done().timings;
    assert_eq!(timings.decoded_tokens, REPLY.len());
    assert!(timings.accepted_tokens > REPLY.len() / 2 && timings.accepted_tokens < timings.drafted_tokens);
    let mut n_steps = 0;
    while let Ok(step) = steps.try_recv() {
        n_steps += 1;
        assert!(step.iter().all(|chunk| chunk.n_tokens <= 16), "{step:?}");
    }
    // A step for the prompt and one for each token that no guess has foreseen.
    assert!(n_steps <= 2 + REPLY.len() - timings.accepted_tokens, "{n_steps} steps, {timings:?}");
}

#[test]
fn limits_stops_ends_and_probabilities_are_the_same_with_guesses() {
    let n_prompt = request("abcdefghijklmnop", 1).prompt.len();
    let mut ended = letters(&REPLY[..60]);
    ended.push(END_OF_TURN);
    let models: [fn(usize, &[TokenId]) -> FakeModel; 2] =
        [says, |n, reply| FakeModel { window: Some(3), ..says(n, reply) }];
    for model in models {
        let check = |change: &dyn Fn(&mut Request), n_ctx: usize| {
            let outcome = |n_lookup| {
                let mut request = request("abcdefghijklmnop", 80);
                change(&mut request);
                let engine = start(model(n_prompt, &ended), EngineOptions { n_lookup, n_ctx, ..OPTIONS });
                let first = run(&engine, request.clone());
                // What is left in the slot must be of use to the next.
                let again = run(&engine, request);
                assert_eq!(first.ids(), again.ids());
                let top: Vec<_> = first.tokens.iter().map(|t| (t.logprob, t.top.clone())).collect();
                (first.ids(), first.text(), first.reason(), top)
            };
            assert_eq!(outcome(15), outcome(0));
        };
        check(&|_| {}, 256);
        for n in [1, 2, 11, 12, 13, 20, 33] {
            check(&|request| request.limit = Limit::Tokens(n), 256);
        }
        check(&|request| request.stop = vec!["ghab".into()], 256);
        check(&|request| request.stop = vec!["cya".into()], 256);
        check(&|request| request.n_probs = 4, 256);
        check(&|request| request.cache_prompt = false, 256);
        for n_ctx in [n_prompt + 1, n_prompt + 30, n_prompt + 31] {
            check(&|request| request.limit = Limit::EndOfTurn, n_ctx);
            check(&|request| request.overflow = Overflow::Shift { n_keep: Some(4), cut_prompt: false }, n_ctx);
        }
    }
}

#[test]
fn guesses_leave_room_for_the_others() {
    let (engine, steps) = observed(FakeModel::default(), GUESSING);
    let text = "abcabcabcabcabcabcabcabcabcabcabcabc";
    let all: Vec<_> = (0..4).map(|_| engine.submit(request(text, 30)).unwrap()).collect();
    let alone = run(&start(FakeModel::default(), OPTIONS), request(text, 30));
    for events in all {
        assert_eq!(collect(events).ids(), alone.ids());
    }
    while let Ok(step) = steps.try_recv() {
        let decoding = step.iter().filter(|chunk| chunk.n_logits == chunk.n_tokens);
        assert!(decoding.map(|chunk| chunk.n_tokens).sum::<usize>() <= 16, "{step:?}");
    }
}
