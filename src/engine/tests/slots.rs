//! Slots by number: requests for one, and what can be done with one between two requests.

use std::io::{self, Cursor, Write};

use proptest::prelude::*;

use super::*;

/// A file in memory that can be looked at after it was given away.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Vec<u8>>>);

impl Write for Shelf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait(answer: SlotAnswer) -> Result<SlotChange, SlotError> {
    answer.recv_blocking().unwrap()
}

fn saved(engine: &TestEngine, slot: usize) -> (SlotChange, Vec<u8>) {
    let shelf = Shelf::default();
    let change = wait(engine.save_slot(slot, Box::new(shelf.clone())).unwrap()).unwrap();
    let bytes = shelf.0.lock().unwrap().clone();
    assert_eq!(change.n_bytes, bytes.len() as u64);
    (change, bytes)
}

fn restored(engine: &TestEngine, slot: usize, bytes: Vec<u8>) -> Result<SlotChange, SlotError> {
    wait(engine.restore_slot(slot, Box::new(Cursor::new(bytes))).unwrap())
}

fn in_slot(text: &str, slot: usize) -> Request {
    Request { slot: Some(slot), ..request(text, 4) }
}

#[test]
fn a_request_runs_in_the_slot_it_asks_for() {
    let engine = start(FakeModel::default(), OPTIONS);
    for slot in [2, 0, 3, 2] {
        let got = run(&engine, in_slot("hello", slot));
        assert_eq!((got.done().slot, got.ids()), (Some(slot), alone(request("hello", 4)).ids()));
    }
    assert!(matches!(engine.submit(in_slot("hello", 4)), Err(EngineError::BadSetting(_))));
}

#[test]
fn who_waits_for_a_busy_slot_keeps_nobody_else_waiting() {
    let options = EngineOptions { n_parallel: 2, ..OPTIONS };
    let (engine, open, steps) = gated(FakeModel::default(), options);
    let first = engine.submit(in_slot("abc", 1)).unwrap();
    steps.recv_blocking().unwrap();
    let second = engine.submit(in_slot("def", 1)).unwrap();
    let other = engine.submit(request("ghi", 4)).unwrap();
    open.try_send(()).unwrap();
    let both = steps.recv_blocking().unwrap();
    assert_eq!(both.len(), 2, "the one for any slot runs beside the first");
    open.close();
    let (first, second, other) = (collect(first), collect(second), collect(other));
    assert_eq!((first.done().slot, second.done().slot, other.done().slot), (Some(1), Some(1), Some(0)));
    assert_eq!(second.ids(), alone(request("def", 4)).ids());
}

#[test]
fn a_saved_slot_goes_on_in_another_engine_as_if_it_had_never_left() {
    let engine = start(FakeModel::default(), OPTIONS);
    run(&engine, in_slot("hello", 1));
    let (change, bytes) = saved(&engine, 1);
    assert_eq!(change.n_tokens, 9, "the last token of the reply was never read");
    let other = start(FakeModel::default(), EngineOptions { n_parallel: 1, n_ctx: 9, ..OPTIONS });
    assert_eq!(restored(&other, 0, bytes).unwrap(), change);
    let got = run(&other, Request { limit: Limit::Tokens(1), ..in_slot("hello", 0) });
    assert_eq!((got.done().timings.cached_tokens, got.ids()[0]), (5, alone(request("hello", 1)).ids()[0]));
    // The slot it came from is as before.
    assert_eq!(run(&engine, in_slot("hello", 1)).done().timings.cached_tokens, 5);
}

#[test]
fn an_erased_slot_remembers_nothing() {
    let engine = start(FakeModel::default(), OPTIONS);
    run(&engine, in_slot("hello", 1));
    assert_eq!(wait(engine.erase_slot(1).unwrap()).unwrap().n_tokens, 9);
    assert_eq!(engine.slots()[1].n_cached, 0);
    assert_eq!(run(&engine, in_slot("hello", 1)).done().timings.cached_tokens, 0);
}

#[test]
fn a_command_waits_until_its_slot_is_free() {
    let (engine, open, steps) = gated(FakeModel::default(), OPTIONS);
    let running = engine.submit(in_slot("hello", 1)).unwrap();
    steps.recv_blocking().unwrap();
    let erased = engine.erase_slot(1).unwrap();
    let next = engine.submit(in_slot("hello", 1)).unwrap();
    let other = engine.erase_slot(0).unwrap();
    open.try_send(()).unwrap();
    assert_eq!(wait(other).unwrap().n_tokens, 0);
    assert!(erased.try_recv().is_err(), "slot 1 is still busy");
    open.close();
    collect(running);
    assert_eq!(wait(erased).unwrap().n_tokens, 9);
    assert_eq!(collect(next).done().timings.cached_tokens, 0, "the command was older");
}

#[test]
fn commands_for_no_slot_and_to_an_engine_that_has_ended_are_told() {
    let engine = start(FakeModel::default(), OPTIONS);
    let error = engine.erase_slot(4).unwrap_err();
    assert_eq!(error.to_string(), "there is no slot 4; the last one is 3");
    engine.shutdown();
    engine.join();
    assert!(matches!(engine.erase_slot(0), Err(SlotError::Stopped)));
}

#[test]
fn a_disk_that_is_full_is_told_and_the_slot_is_as_before() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let engine = start(FakeModel::default(), OPTIONS);
    run(&engine, in_slot("hello", 1));
    let error = wait(engine.save_slot(1, Box::new(Full)).unwrap()).unwrap_err();
    assert!(matches!(error, SlotError::Io(error) if error.kind() == io::ErrorKind::StorageFull));
    assert_eq!(engine.slots()[1].n_cached, 9);
}

#[test]
fn files_of_another_kind_model_or_size_are_refused_and_change_nothing() {
    let engine = start(FakeModel::default(), OPTIONS);
    run(&engine, in_slot("hello", 1));
    let (_, bytes) = saved(&engine, 1);
    for foreign in [&b""[..], b"gemma2", b"GGUF and much more of it", b"gemma2kW............"] {
        assert!(matches!(restored(&engine, 1, foreign.to_vec()), Err(SlotError::NotSaved)), "{foreign:?}");
    }
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert!(matches!(restored(&engine, 1, newer), Err(SlotError::Version(2))));
    let other = start(FakeModel { d_model: 3, ..FakeModel::default() }, OPTIONS);
    assert!(matches!(restored(&other, 1, bytes.clone()), Err(SlotError::OtherModel)));
    let small = start(FakeModel::default(), EngineOptions { n_ctx: 8, ..OPTIONS });
    assert!(matches!(restored(&small, 1, bytes.clone()), Err(SlotError::TooLong { n_tokens: 9, n_ctx: 8 })));
    let longer = [bytes, vec![0]].concat();
    assert!(matches!(restored(&engine, 1, longer), Err(SlotError::Damaged(_))));
    assert_eq!(run(&engine, in_slot("hello", 1)).done().timings.cached_tokens, 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_damage_to_a_file_goes_unnoticed(at in 0usize..1000, flip in 1u8.., cut in any::<bool>()) {
        let engine = start(FakeModel::default(), EngineOptions { n_parallel: 1, ..OPTIONS });
        run(&engine, in_slot("hello", 0));
        let (_, mut bytes) = saved(&engine, 0);
        let at = at % bytes.len();
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= flip;
        }
        prop_assert!(restored(&engine, 0, bytes).is_err());
        prop_assert_eq!(engine.slots()[0].n_cached, 9);
    }

    #[test]
    fn no_bytes_behind_a_good_beginning_break_anything(rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let engine = start(FakeModel::default(), EngineOptions { n_parallel: 1, ..OPTIONS });
        let (_, bytes) = saved(&engine, 0);
        let hostile = [&bytes[..44], &rest].concat();
        prop_assert!(restored(&engine, 0, hostile).is_err());
    }
}
