//! What real models remember, saved, restored and copied: the same bits, or none.

use std::io::{Cursor, ErrorKind};
use std::path::{Path, PathBuf};

use gemma2::kernels::Kernels;
use gemma2::model::{Cache, Chunk, KvCache, LanguageModel, Model};
use gemma2::ops::Compute;
use gemma2::weights::{Files, Source};
use proptest::prelude::*;

/// The sliding window of this model is shorter than the texts here.
const TINY: &str = "golden/models/tiny-c/gguf/tiny-c.F32.gguf";
const OTHERS: [&str; 3] = [
    "golden/models/tiny-a/gguf/tiny-a.Q4_K_M.gguf",
    "golden/models/tiny-a/gguf/tiny-a.MIX.gguf",
    "demo/gemma2-demo-q6_k.gguf",
];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file)
}

fn model(file: &str, max_chunk: usize) -> Model {
    let source = Source::open(Files::from_path(&path(file)).expect("the file")).expect("a Gemma 2");
    let compute = Compute::cpu(Kernels::get(), 1).expect("threads");
    Model::new(source.config().clone(), source.tensors().expect("tensors"), compute, max_chunk).expect("a model")
}

fn text(len: usize) -> Vec<u32> {
    std::iter::once(2).chain((1..len as u32).map(|i| 10 + (i * i * 7 + i) % 200)).collect()
}

/// Reads `tokens` in chunks, and returns the logits of the last one.
fn read(model: &Model, cache: &mut KvCache, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut logits = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let chunk = Chunk { tokens, cache: &mut *cache, n_logits: 1, hidden_sum: None };
        logits = model.forward(&mut [chunk]).expect("a step");
    }
    logits
}

fn saved(cache: &KvCache) -> Vec<u8> {
    let mut bytes = Vec::new();
    cache.save(&mut bytes).expect("memory");
    bytes
}

#[test]
fn a_restored_cache_goes_on_with_the_same_bits_whatever_its_size_and_the_steps() {
    let n_window = model(TINY, 8).config().sliding_window;
    for (from, to, n_ctx) in [(8, 8, 400), (8, 64, 220), (64, 8, 301), (64, 1, 1000)] {
        let (model, other) = (model(TINY, from), model(TINY, to));
        for len in [1, n_window - 1, n_window, n_window + 1, 200] {
            let text = text(len + 1);
            let mut cache = model.new_cache(300);
            read(&model, &mut cache, &text[..len], from);
            let bytes = saved(&cache);
            let mut back = other.new_cache(n_ctx);
            let mut input = Cursor::new(&bytes);
            back.restore(len, &mut input).expect("what was saved");
            assert_eq!((back.len(), input.position()), (len, bytes.len() as u64), "all of it is read");
            let want = read(&model, &mut cache, &text[len..], 1);
            assert!(read(&other, &mut back, &text[len..], 1) == want, "{from} {to} {len}");
            // And back a little, as far as that is possible.
            let kept = back.truncate(len.saturating_sub(3));
            let fresh = read(&model, &mut model.new_cache(300), &text, from);
            assert!(read(&other, &mut back, &text[kept..], to) == fresh, "{from} {to} {len} from {kept}");
        }
    }
}

#[test]
fn a_copied_prefix_has_the_same_bits_or_is_refused() {
    let model = model(TINY, 16);
    let text = text(160);
    let want = |n: usize| read(&model, &mut model.new_cache(200), &[&text[..n], &[7, 8]].concat(), 16);
    let mut from = model.new_cache(200);
    read(&model, &mut from, &text, 16);
    let mut n_copied = 0;
    for n in [0, 1, 20, 100, 130, 150, 159, 160] {
        let mut copy = model.new_cache(200);
        // What was there before does not matter.
        read(&model, &mut copy, &[2, 9, 9, 9], 4);
        if copy.copy_prefix(&from, n) {
            n_copied += 1;
            assert_eq!(copy.len(), n);
            assert!(read(&model, &mut copy, &[7, 8], 16) == want(n), "{n}");
        } else {
            assert!(n < 150, "{n} was lost without need");
            assert_eq!(copy.len(), 4, "nothing is changed");
        }
    }
    assert!(n_copied > 2);
    assert!(!model.new_cache(200).copy_prefix(&from, 161), "more than there is");
    assert!(!model.new_cache(100).copy_prefix(&from, 150), "more than fits");
}

#[test]
fn every_model_has_a_fingerprint_of_its_own() {
    let mut all: Vec<[u8; 32]> = OTHERS.iter().chain([&TINY]).map(|file| model(file, 8).fingerprint()).collect();
    assert_eq!(all[3], model(TINY, 64).fingerprint(), "of the model, not of its settings");
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 4);
    // The same model with one weight that differs.
    let mut bytes = std::fs::read(path(TINY)).expect("the file");
    let gguf = gemma2::gguf::Gguf::parse(bytes.clone()).expect("GGUF");
    let range = gguf.tensor("blk.0.attn_q.weight").expect("the tensor").range.clone();
    bytes[range.start] ^= 1;
    let other = tempfile::NamedTempFile::with_suffix(".gguf").expect("a file");
    std::fs::write(other.path(), bytes).expect("to write");
    let source = Source::open(Files::from_path(other.path()).expect("the file")).expect("a Gemma 2");
    let compute = Compute::cpu(Kernels::get(), 1).expect("threads");
    let changed = Model::new(source.config().clone(), source.tensors().expect("tensors"), compute, 8).expect("a model");
    assert!(!all.contains(&changed.fingerprint()));
}

#[test]
fn candle_s_caches_are_not_saved() {
    let source = Source::open(Files::from_path(&path(TINY)).expect("the file")).expect("a Gemma 2");
    let compute = Compute::Candle(candle_core::Device::Cpu);
    let model = Model::new(source.config().clone(), source.tensors().expect("tensors"), compute, 8).expect("a model");
    let mut cache = model.new_cache(20);
    read(&model, &mut cache, &text(5), 8);
    assert_eq!(cache.save(&mut Vec::new()).expect_err("no form").kind(), ErrorKind::Unsupported);
    assert!(!model.new_cache(20).copy_prefix(&cache, 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn hostile_bytes_make_an_error_or_a_cache_and_never_a_panic(
        n in 0usize..400,
        local_start in any::<u32>(),
        small in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..4000),
    ) {
        let model = model(TINY, 8);
        let mut cache = model.new_cache(300);
        let start = if small { local_start % 300 } else { local_start };
        // Zeros are good numbers, so that some of these go far.
        let hostile = [&start.to_le_bytes()[..], &bytes, &vec![0; 1 << 20]].concat();
        match cache.restore(n, &mut Cursor::new(hostile)) {
            Ok(()) => {
                prop_assert!(cache.len() == n && n <= 300);
                if n < 300 {
                    let logits = read(&model, &mut cache, &[5], 1);
                    prop_assert!(logits.iter().all(|x| x.is_finite()));
                }
            }
            Err(error) => prop_assert!(error.kind() == ErrorKind::InvalidData || error.kind() == ErrorKind::UnexpectedEof),
        }
        prop_assert!(cache.bytes() <= 4 << 20);
    }
}
