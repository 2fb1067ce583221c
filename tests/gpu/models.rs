//! Whole models: wherever their layers are, they compute the same.

use std::path::Path;

use gemma2::gpu::Gpu;
use gemma2::kernels::{Format, Kernels};
use gemma2::model::{Cache, Chunk, KvCache, LanguageModel, Model};
use gemma2::ops::{Compute, KvType, Placement};
use gemma2::weights::{Files, Source};

use super::{bits, devices, is_exact, random};

/// Every format, every shape of layers, short windows, both kinds of files.
const MODELS: [&str; 8] = [
    "golden/models/tiny-a/gguf/tiny-a.MIX.gguf",
    "golden/models/tiny-a/gguf/tiny-a.Q4_K_M.gguf",
    "golden/models/tiny-a/gguf/tiny-a.Q2_K.gguf",
    "golden/models/tiny-a/gguf/tiny-a.LEGACY.gguf",
    "golden/models/tiny-c/gguf/tiny-c.F32.gguf",
    "golden/models/tiny-c/hf-bf16-sharded",
    "golden/models/tiny-d/gguf/tiny-d.Q8_0.gguf",
    "demo/gemma2-demo-q6_k.gguf",
];
/// Its window is shorter than the texts here; its heads are too small for Q8_0.
const WINDOW: &str = MODELS[4];
const DEMO: &str = MODELS[7];

/// Its weights are in BF16.
const IN_BF16: &str = MODELS[5];

/// Between logits, which are given as bits.
fn rms_difference(found: &[u32], expected: &[u32]) -> f64 {
    let [found, expected] = [found, expected].map(|bits| bits.iter().map(|bits| f64::from(f32::from_bits(*bits))));
    let n = found.len() as f64;
    (found.zip(expected).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / n).sqrt()
}

fn source(file: &str) -> Source {
    // From the folder that tests run in, which may be on another machine than the one they were built on.
    let path = Path::new("tests/fixtures").join(file);
    Source::open(Files::from_path(&path).expect("the file")).expect("a Gemma 2")
}

fn cpu(kv_type: KvType) -> Compute {
    Compute::cpu(Kernels::get(), 1).expect("threads").with_kv_types([kv_type; 2])
}

fn model(file: &str, placement: impl Into<Placement>, max_chunk: usize) -> Model {
    let source = source(file);
    Model::new(source.config().clone(), source.tensors().expect("tensors"), placement, max_chunk).expect("a model")
}

/// From part `start` on, on the GPU.
fn split(gpu: &Gpu, start: usize, kv_type: KvType) -> Placement {
    Placement::from(cpu(kv_type)).split(start, Compute::gpu(gpu.clone()).with_kv_types([kv_type; 2]))
}

fn text(len: usize) -> Vec<u32> {
    std::iter::once(2).chain((1..len as u32).map(|i| 10 + (i * i * 7 + i) % 200)).collect()
}

/// The logits of each position's token, as bits, read in chunks of these lengths.
fn read(model: &Model, cache: &mut KvCache, tokens: &[u32], mut chunk: impl FnMut() -> usize) -> Vec<u32> {
    let mut found = Vec::new();
    let mut rest = tokens;
    while !rest.is_empty() {
        let (tokens, after) = rest.split_at(chunk().clamp(1, rest.len()));
        let chunk = Chunk { tokens, cache: &mut *cache, n_logits: tokens.len(), hidden_sum: None };
        found.extend(bits(&model.forward(&mut [chunk]).expect("a step")));
        rest = after;
    }
    found
}

#[test]
fn every_golden_model_has_the_cpu_s_logits_wherever_its_layers_are() {
    for gpu in devices() {
        for file in MODELS {
            let on_cpu = model(file, cpu(KvType::F16), 64);
            let n_layers = on_cpu.config().n_layers;
            let tokens = text(if n_layers > 20 { 12 } else { 30 });
            let expected = read(&on_cpu, &mut on_cpu.new_cache(64), &tokens, || 64);
            let is_exact = is_exact(&gpu, Format::BF16) || file != IN_BF16;
            // All of it, the second half, the output head.
            for start in [0, n_layers / 2, n_layers] {
                let split = model(file, split(&gpu, start, KvType::F16), 64);
                assert_eq!(split.fingerprint(), on_cpu.fingerprint());
                let found = read(&split, &mut split.new_cache(64), &tokens, || 64);
                if is_exact {
                    assert!(found == expected, "{file} from part {start} on");
                    continue;
                }
                let difference = rms_difference(&found, &expected);
                assert!(difference < 0.1, "{file} from part {start} on: {difference}");
                // The rounding is of each token's own.
                let again = read(&split, &mut split.new_cache(64), &tokens, || 7);
                assert!(again == found, "{file} from part {start} on, in other chunks");
                let one_by_one = read(&split, &mut split.new_cache(64), &tokens, || 1);
                assert!(one_by_one == found, "{file} from part {start} on, one by one");
            }
        }
    }
}

#[test]
fn a_prompt_has_the_same_bits_in_any_chunks_past_the_window_and_in_every_type_of_cache() {
    for gpu in devices() {
        for kv_type in KvType::ALL {
            let (file, len) = if kv_type == KvType::Q8_0 { (DEMO, 50) } else { (WINDOW, 100) };
            let tokens = text(len);
            let on_cpu = model(file, cpu(kv_type), 64);
            let expected = read(&on_cpu, &mut on_cpu.new_cache(160), &tokens, || 64);
            let on_gpu = model(file, split(&gpu, 0, kv_type), 64);
            let mut random = random(4);
            let found = read(&on_gpu, &mut on_gpu.new_cache(160), &tokens, || 1 + random(40));
            assert!(found == expected, "{kv_type:?}");
        }
    }
}

#[test]
fn tokens_one_by_one_are_replayed_with_the_same_bits() {
    // Past the window.
    let tokens = text(48);
    for gpu in devices() {
        for (file, kv_type) in [(WINDOW, KvType::F32), (MODELS[6], KvType::F16)] {
            let on_cpu = model(file, cpu(kv_type), 64);
            let expected = read(&on_cpu, &mut on_cpu.new_cache(90), &tokens, || 64);
            let on_gpu = model(file, split(&gpu, 0, kv_type), 64);
            let mut caches = [on_gpu.new_cache(90), on_gpu.new_cache(70)];
            let start = 40;
            for cache in &mut caches {
                let found = read(&on_gpu, cache, &tokens[..start], || 50);
                assert!(expected.starts_with(&found), "{file} {kv_type:?}: the beginning");
            }
            // By turns, of two caches that lie elsewhere; then both at once.
            let n_vocab = expected.len() / tokens.len();
            for i in start..tokens.len() {
                let row = &expected[i * n_vocab..(i + 1) * n_vocab];
                if i % 4 == 3 {
                    let mut batch = caches.each_mut().map(|cache| Chunk {
                        tokens: &tokens[i..=i],
                        cache,
                        n_logits: 1,
                        hidden_sum: None,
                    });
                    assert!(bits(&on_gpu.forward(&mut batch).expect("a step")) == [row, row].concat());
                    continue;
                }
                for cache in &mut caches {
                    assert!(read(&on_gpu, cache, &tokens[i..=i], || 1) == row, "{file} {kv_type:?}: token {i}");
                }
            }
        }
    }
}

#[test]
fn sequences_side_by_side_get_what_they_get_alone() {
    for gpu in devices() {
        let model = model(WINDOW, split(&gpu, 0, KvType::F16), 64);
        let texts = [text(30), text(3), text(60)];
        let alone: Vec<Vec<u32>> =
            texts.iter().map(|text| read(&model, &mut model.new_cache(64), text, || 64)).collect();
        let mut caches: Vec<KvCache> = texts.iter().map(|_| model.new_cache(64)).collect();
        let mut sums = vec![0.0; model.d_model()];
        let mut batch: Vec<_> = texts
            .iter()
            .zip(&mut caches)
            .map(|(tokens, cache)| Chunk { tokens, cache, n_logits: tokens.len(), hidden_sum: None })
            .collect();
        batch[1].hidden_sum = Some(&mut sums);
        assert!(bits(&model.forward(&mut batch).expect("a step")) == alone.concat());
        assert!(sums.iter().any(|sum| *sum != 0.0));
    }
}

#[test]
fn what_a_cache_remembers_moves_between_sequences_and_between_gpu_and_cpu() {
    let tokens = text(110);
    for gpu in devices() {
        for (file, kv_type) in [(WINDOW, KvType::F16), (DEMO, KvType::Q8_0)] {
            let on_cpu = model(file, cpu(kv_type), 32);
            let on_gpu = model(file, split(&gpu, 0, kv_type), 32);
            let expected = read(&on_cpu, &mut on_cpu.new_cache(130), &tokens, || 32);
            let rest = |model: &Model, cache: &mut KvCache| read(model, cache, &tokens[100..], || 7);

            let mut cache = on_gpu.new_cache(130);
            read(&on_gpu, &mut cache, &tokens[..100], || 32);
            let mut copy = on_gpu.new_cache(200);
            assert!(copy.copy_prefix(&cache, 100));
            assert!(expected.ends_with(&rest(&on_gpu, &mut copy)), "{kv_type:?}: copied");

            let mut saved = Vec::new();
            cache.save(&mut saved).expect("memory");
            for (place, model) in [("GPU", &on_gpu), ("CPU", &on_cpu)] {
                let mut restored = model.new_cache(130);
                restored.restore(100, &mut &saved[..]).expect("what was saved");
                assert!(expected.ends_with(&rest(model, &mut restored)), "{kv_type:?}: restored on the {place}");
                let mut again = Vec::new();
                restored.truncate(100);
                let mut fresh = model.new_cache(130);
                fresh.restore(100, &mut &saved[..]).expect("what was saved");
                fresh.save(&mut again).expect("memory");
                assert!(again == saved, "{kv_type:?}: the same bytes on the {place}");
            }
            let mut short = on_gpu.new_cache(130);
            short.restore(100, &mut &saved[..saved.len() - 1]).expect_err("one byte is missing");

            cache.truncate(95);
            let back = read(&on_gpu, &mut cache, &tokens[95..], || 9);
            assert!(expected.ends_with(&back), "{kv_type:?}: after going back");
        }
    }
}
