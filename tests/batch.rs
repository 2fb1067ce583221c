//! A row of logits has the same bits whatever else is in the batch, however the prompt was cut, and on any number of
//! threads and every instruction set: seeded replies are the same under load.

use gemma2::kernels::Kernels;
use gemma2::model::{Cache, Chunk, KvCache, LanguageModel, Model};
use gemma2::ops::{Compute, KvType};
use gemma2::weights::{Files, Source};

use crate::util::demo_model;

const N_CTX: usize = 160;

fn model(kernels: &'static Kernels, n_threads: usize) -> Model {
    model_with_cache(kernels, n_threads, [KvType::default(); 2])
}

fn model_with_cache(kernels: &'static Kernels, n_threads: usize, kv_types: [KvType; 2]) -> Model {
    let source = Source::open(Files::from_path(&demo_model()).expect("files")).expect("a model");
    let compute = Compute::cpu(kernels, n_threads).expect("threads").with_kv_types(kv_types);
    Model::new(source.config().clone(), source.tensors().expect("tensors"), compute, N_CTX).expect("a model")
}

/// Whole numbers below `n`, from a seed.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |n| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    }
}

fn prompt(seed: u64, len: usize) -> Vec<u32> {
    let mut random = random(seed);
    std::iter::once(2).chain((1..len).map(|_| 200 + random(1800) as u32)).collect()
}

/// The bits of all rows, tokens read in chunks of these lengths.
fn read(model: &Model, cache: &mut KvCache, tokens: &[u32], mut next_len: impl FnMut() -> usize) -> Vec<u32> {
    let mut bits = Vec::new();
    let mut rest = tokens;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(next_len().clamp(1, rest.len()));
        let logits =
            model.forward(&mut [Chunk { tokens: chunk, cache: &mut *cache, n_logits: chunk.len(), hidden_sum: None }]);
        bits.extend(logits.expect("logits").iter().map(|x| x.to_bits()));
        rest = after;
    }
    bits
}

#[test]
fn a_prompt_has_the_same_logits_in_any_chunks_on_any_threads_and_instruction_set() {
    let widest = model(Kernels::get(), 2);
    for seed in 1..4 {
        let tokens = prompt(seed, 90 + seed as usize);
        let whole = read(&widest, &mut widest.new_cache(N_CTX), &tokens, || usize::MAX);
        let single = read(&widest, &mut widest.new_cache(N_CTX), &tokens, || 1);
        assert!(whole == single, "prompt {seed}: token by token");
        let mut random = random(seed);
        let cut = read(&widest, &mut widest.new_cache(N_CTX), &tokens, || 1 + random(40));
        assert!(whole == cut, "prompt {seed}: random chunks");
        let mut cache = widest.new_cache(N_CTX);
        read(&widest, &mut cache, &tokens, || usize::MAX);
        assert_eq!(cache.truncate(50), 50);
        let again = read(&widest, &mut cache, &tokens[50..], || 7);
        assert!(whole.ends_with(&again), "prompt {seed}: after going back");
    }
    let tokens = prompt(9, 40);
    let expected = read(&widest, &mut widest.new_cache(N_CTX), &tokens, || usize::MAX);
    for kernels in Kernels::available() {
        let other = model(kernels, 1);
        let found = read(&other, &mut other.new_cache(N_CTX), &tokens, || 9);
        assert!(expected == found, "{} on one thread", kernels.isa());
    }
}

#[test]
fn decoding_beside_seven_others_gives_the_same_logits_as_alone() {
    let model = model(Kernels::get(), 2);
    let prompts: Vec<Vec<u32>> = (0..8).map(|i| prompt(100 + i, 5 + 11 * i as usize)).collect();
    let replies: Vec<Vec<u32>> = (0..8).map(|i| prompt(200 + i, 12)).collect();
    let alone: Vec<Vec<u32>> = prompts
        .iter()
        .zip(&replies)
        .map(|(prompt, reply)| {
            let mut cache = model.new_cache(N_CTX);
            read(&model, &mut cache, prompt, || usize::MAX);
            read(&model, &mut cache, reply, || 1)
        })
        .collect();

    let mut caches: Vec<KvCache> = prompts
        .iter()
        .map(|prompt| {
            let mut cache = model.new_cache(N_CTX);
            read(&model, &mut cache, prompt, || 6);
            cache
        })
        .collect();
    let mut together = vec![Vec::new(); 8];
    let mut at = [0; 8];
    let mut random = random(7);
    while at.iter().zip(&replies).any(|(at, reply)| *at < reply.len()) {
        // One token each; some verify several at once, as speculation does.
        let lens: Vec<usize> = (0..8).map(|i| (1 + random(2) * random(4)).min(replies[i].len() - at[i])).collect();
        let mut batch = Vec::new();
        for (i, cache) in caches.iter_mut().enumerate().filter(|(i, _)| lens[*i] > 0) {
            batch.push(Chunk { tokens: &replies[i][at[i]..][..lens[i]], cache, n_logits: lens[i], hidden_sum: None });
        }
        let logits = model.forward(&mut batch).expect("logits");
        let mut rows = logits.chunks_exact(model.n_vocab());
        for i in 0..8 {
            for row in rows.by_ref().take(lens[i]) {
                together[i].extend(row.iter().map(|x| x.to_bits()));
            }
            at[i] += lens[i];
        }
    }
    for i in 0..8 {
        assert!(alone[i] == together[i], "sequence {i}");
    }
}

#[test]
fn every_type_of_cache_has_the_same_bits_in_any_chunks_and_stays_near_the_exact_one() {
    use KvType::{BF16, F16, F32, Q8_0};
    let tokens = prompt(7, 120);
    let read = |kv_types, len: usize| -> Vec<f32> {
        let model = model_with_cache(Kernels::get(), 2, kv_types);
        let bits = read(&model, &mut model.new_cache(N_CTX), &tokens, || len);
        bits.into_iter().map(f32::from_bits).collect()
    };
    let exact = read([F32; 2], usize::MAX);
    let spread = (exact.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / exact.len() as f64).sqrt();
    for (kv_types, tolerance) in [
        ([F32; 2], 0.0),
        ([F16; 2], 0.03),
        ([BF16; 2], 0.12),
        ([Q8_0; 2], 0.12),
        ([Q8_0, F16], 0.12),
        ([F16, BF16], 0.12),
    ] {
        let whole = read(kv_types, usize::MAX);
        assert!(whole == read(kv_types, 1), "{kv_types:?}: token by token");
        assert!(whole == read(kv_types, 13), "{kv_types:?}: in chunks");
        let squares = whole.iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2));
        let off = (squares.sum::<f64>() / exact.len() as f64).sqrt() / spread;
        assert!(off <= tolerance, "{kv_types:?} is off by {off}");
        assert!(off > 0.0 || kv_types == [F32; 2], "{kv_types:?} is not used");
    }
}
