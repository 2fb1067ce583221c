//! The golden ladder: tiny random Gemma 2 models whose logits were computed by Hugging Face's implementation.
//!
//! First candle's plain arithmetic in F32 must agree with the goldens to 0.005 for every file format; then our kernels,
//! on every instruction set this machine has, must agree with that exact arithmetic within the tolerance of their number
//! format. `tests/fixtures/golden` holds every model and every format once, four of the formats in one file
//! (`scripts/mix-golden`); the whole collection is read too where it lies beside the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use gemma2::kernels::{Isa, Kernels};
use gemma2::model::{Cache, Chunk, LanguageModel, Model};
use gemma2::ops::Compute;
use gemma2::weights::{Files, Placement, Source};
use serde::Deserialize;

/// What one file of a model must compute.
#[derive(Deserialize)]
struct Expected {
    prompts: std::collections::BTreeMap<String, Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    ids: Vec<u32>,
    last_logits: Vec<f32>,
    top5_ids: Vec<[u32; 5]>,
    top5_logits: Vec<[f32; 5]>,
    greedy: Vec<u32>,
    greedy_margin: Vec<f32>,
    mean_nll: Option<f64>,
}

/// A model file with its expectations.
struct Variant {
    path: PathBuf,
    /// `hf-bf16`, `Q4_K` …
    name: String,
    model: String,
    expected: Expected,
}

impl Variant {
    fn load(&self, compute: Compute, max_chunk: usize) -> Model {
        let source = Source::open(Files::from_path(&self.path).expect("the files")).expect("a Gemma 2");
        let tensors = source.tensors().expect("its tensors");
        Model::new(source.config().clone(), tensors, compute, max_chunk).expect("a model")
    }

    /// Weights of 16 or 32 bits, whose products are made in F32.
    fn is_float(&self) -> bool {
        self.name.starts_with("hf-") || matches!(self.name.as_str(), "F32" | "F16" | "BF16")
    }
}

/// How far our kernels may be from exact arithmetic (golden/README.md of the collection).
struct Tolerance {
    rms: f64,
    max: f32,
    kl: f64,
    top1: f64,
    nll: f64,
}

fn tolerance(variant: &Variant) -> Tolerance {
    if variant.is_float() {
        // The KV cache in F16 is the only difference.
        return Tolerance { rms: 0.015, max: 0.15, kl: 1e-4, top1: 0.97, nll: 0.005 };
    }
    match variant.name.as_str() {
        _ if variant.model == "tiny-d" => Tolerance { rms: 0.5, max: 4.0, kl: 0.02, top1: 0.89, nll: 0.3 },
        "Q8_0" | "Q4_0" | "LEGACY" => Tolerance { rms: 0.35, max: 3.5, kl: 0.012, top1: 0.92, nll: 0.3 },
        _ => Tolerance { rms: 0.5, max: 4.0, kl: 0.02, top1: 0.89, nll: 0.3 },
    }
}

#[test]
fn every_golden_file_gives_the_reference_logits() {
    let folders = folders();
    let variants: Vec<Variant> = folders.iter().flat_map(|folder| variants(folder)).collect();
    assert!(variants.len() >= 7, "only {} golden files", variants.len());
    for variant in &variants {
        let exact_model = variant.load(Compute::Candle(candle_core::Device::Cpu), 256);
        let exact: Vec<Vec<f32>> =
            variant.expected.prompts.values().map(|p| all_logits(&exact_model, &p.ids, 256)).collect();
        for ((name, prompt), logits) in variant.expected.prompts.iter().zip(&exact) {
            check_exact(&exact_model, prompt, logits, &format!("{} {name}", variant.path.display()));
        }
        check_full_logits(variant, &exact);
        for kernels in Kernels::available() {
            let model = variant.load(Compute::cpu(kernels, 2).expect("threads"), 256);
            check_kernels(variant, &model, kernels.isa(), &exact);
        }
    }
}

#[test]
fn interleaved_weights_give_the_bits_that_the_files_rows_give() {
    let mut formats = BTreeSet::new();
    for variant in variants(&fixtures()) {
        let load = |interleave| {
            let source = Source::open(Files::from_path(&variant.path).expect("the files")).expect("a Gemma 2");
            let placement = Placement { interleave, ..Placement::default() };
            source.tensors().expect("its tensors").placed(&placement, &mut |_, _| ()).expect("memory").tensors
        };
        let interleaved = load(true);
        for layer in &interleaved.layers {
            let matrices = [&layer.wq, &layer.wv, &layer.wo, &layer.w_up, &layer.w_down];
            formats.extend(matrices.iter().filter(|m| m.is_interleaved).map(|m| format!("{:?}", m.format)));
        }
        let source = Source::open(Files::from_path(&variant.path).expect("the files")).expect("a Gemma 2");
        let logits = |tensors| {
            let compute = Compute::cpu(Kernels::get(), 2).expect("threads");
            let model = Model::new(source.config().clone(), tensors, compute, 256).expect("a model");
            let Some(prompt) = variant.expected.prompts.values().next() else { panic!("no prompts") };
            // All at once, and in pieces of several tokens and of one.
            [256, 5, 1].map(|chunk| all_logits(&model, &prompt.ids[..prompt.ids.len().min(24)], chunk))
        };
        assert_eq!(logits(interleaved), logits(load(false)), "{}", variant.path.display());
    }
    assert_eq!(formats.into_iter().collect::<Vec<_>>().join(" "), "Q4_0 Q4_K Q5_K Q6_K");
}

#[test]
fn the_repository_s_own_golden_files_have_every_format_of_the_collection() {
    let mut found = BTreeSet::new();
    for variant in variants(&fixtures()) {
        let source = Source::open(Files::from_path(&variant.path).expect("the files")).expect("a Gemma 2");
        let tensors = source.tensors().expect("its tensors");
        found.insert(format!("{:?}", tensors.embedding.format));
        for layer in &tensors.layers {
            let matrices = [&layer.wq, &layer.wk, &layer.wv, &layer.wo, &layer.w_gate, &layer.w_up, &layer.w_down];
            found.extend(matrices.map(|matrix| format!("{:?}", matrix.format)));
        }
    }
    let expected = "BF16 F16 F32 Q2_K Q3_K Q4_0 Q4_1 Q4_K Q5_0 Q5_1 Q5_K Q6_K Q8_0";
    assert_eq!(found.into_iter().collect::<Vec<_>>().join(" "), expected);
}

/// The exact arithmetic against the goldens: last logits, the best five everywhere, likelihood, greedy tokens.
fn check_exact(model: &Model, prompt: &Prompt, logits: &[f32], what: &str) {
    const MAX: f32 = 0.005;
    let n_vocab = prompt.last_logits.len();
    let last = &logits[logits.len() - n_vocab..];
    let (max, _) = differences(last, &prompt.last_logits);
    assert!(max <= MAX, "{what}: last logits differ by {max}");
    for (row, (ids, values)) in logits.chunks(n_vocab).zip(prompt.top5_ids.iter().zip(&prompt.top5_logits)) {
        for (id, value) in ids.iter().zip(values) {
            assert!(
                (row[*id as usize] - value).abs() <= MAX,
                "{what}: token {id} has {} for {value}",
                row[*id as usize]
            );
        }
    }
    if let Some(nll) = prompt.mean_nll {
        assert!((mean_nll(logits, &prompt.ids, n_vocab) - nll).abs() <= 0.002, "{what}: likelihood");
    }
    check_greedy(model, prompt, 2.0 * MAX, what);
}

/// Logits of every position, where the collection has them.
fn check_full_logits(variant: &Variant, exact: &[Vec<f32>]) {
    let folder = variant.path.ancestors().find(|p| p.ends_with("models")).and_then(Path::parent).expect("a collection");
    // The F32 files of a model hold the same numbers, whichever is there.
    let models = folder.join("models").join(&variant.model);
    let main = if models.join("hf-bf16").exists() { ["hf-bf16", "hf-bf16"] } else { ["hf-f32", "F32"] };
    if !main.contains(&variant.name.as_str()) {
        return;
    }
    let Ok(bytes) = fs::read(folder.join("expect").join(&variant.model).join("logits-full.safetensors")) else {
        return;
    };
    let full = safetensors::SafeTensors::deserialize(&bytes).expect("logits-full.safetensors");
    for (name, logits) in variant.expected.prompts.keys().zip(exact) {
        let Ok(tensor) = full.tensor(name) else { continue };
        let expected: Vec<f32> = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let (max, _) = differences(logits, &expected);
        assert!(max <= 0.005, "{} {name}: logits differ by {max}", variant.path.display());
    }
}

/// Our kernels against the exact arithmetic of the same file, and the same bits however a prompt is cut.
fn check_kernels(variant: &Variant, model: &Model, isa: Isa, exact: &[Vec<f32>]) {
    let what = format!("{} {isa}", variant.path.display());
    let allowed = tolerance(variant);
    let n_vocab = model.n_vocab();
    let (mut squares, mut count, mut kl, mut same, mut rows) = (0.0, 0.0, 0.0, 0.0, 0.0);
    // Plain Rust takes its time: short prompts show its mistakes as well.
    let longest = if isa == Isa::Scalar { 40 } else { usize::MAX };
    for ((name, prompt), exact) in
        variant.expected.prompts.iter().zip(exact).filter(|((_, p), _)| p.ids.len() <= longest)
    {
        let logits = all_logits(model, &prompt.ids, 256);
        let (max, sum) = differences(&logits, exact);
        assert!(max <= allowed.max, "{what} {name}: logits differ by {max}");
        squares += sum;
        count += logits.len() as f64;
        for (ours, theirs) in logits.chunks(n_vocab).zip(exact.chunks(n_vocab)) {
            let (p, q) = (log_softmax(theirs), log_softmax(ours));
            kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            same += f64::from(argmax(ours) == argmax(theirs));
            rows += 1.0;
        }
        if let Some(nll) = prompt.mean_nll {
            let ours = mean_nll(&logits, &prompt.ids, n_vocab);
            assert!((ours - nll).abs() <= allowed.nll, "{what} {name}: likelihood {ours} for {nll}");
        }
        for chunk in [1, 7, 32] {
            assert!(all_logits(model, &prompt.ids, chunk) == logits, "{what} {name}: other bits in chunks of {chunk}");
        }
        if variant.is_float() {
            check_greedy(model, prompt, 2.0 * allowed.max, &what);
        }
    }
    let (rms, kl, top1) = ((squares / count).sqrt(), kl / rows, same / rows);
    eprintln!("{what}: rms {rms:.4}, KL {kl:.5}, same best token {:.1}%", 100.0 * top1);
    assert!(rms <= allowed.rms, "{what}: rms {rms}");
    assert!(kl <= allowed.kl, "{what}: KL {kl}");
    assert!(top1 >= allowed.top1, "{what}: same best token in {top1}");
}

/// Follows the golden tokens and expects each to be the best wherever its lead exceeds `margin`.
fn check_greedy(model: &Model, prompt: &Prompt, margin: f32, what: &str) {
    let mut cache = model.new_cache(1024);
    let mut tokens = prompt.ids.clone();
    for (step, (&token, &lead)) in prompt.greedy.iter().zip(&prompt.greedy_margin).enumerate() {
        let logits = model
            .forward(&mut [Chunk { tokens: &tokens, cache: &mut cache, n_logits: 1, hidden_sum: None }])
            .expect("a step");
        if lead > margin {
            assert_eq!(argmax(&logits), token as usize, "{what}: greedy token {step}");
        }
        tokens = vec![token];
    }
    assert_eq!(cache.len(), prompt.ids.len() + prompt.greedy.len() - 1);
}

#[test]
fn sequences_side_by_side_get_the_bits_they_get_alone() {
    for variant in variants(&fixtures()) {
        let model = variant.load(Compute::cpu(Kernels::get(), 2).expect("threads"), 256);
        let prompts: Vec<&Vec<u32>> = variant.expected.prompts.values().map(|p| &p.ids).collect();
        let alone: Vec<Vec<f32>> = prompts.iter().map(|ids| all_logits(&model, ids, 256)).collect();
        let mut caches: Vec<_> = prompts.iter().map(|_| model.new_cache(1024)).collect();
        let mut batch: Vec<_> = prompts
            .iter()
            .zip(&mut caches)
            .map(|(ids, cache)| Chunk { tokens: ids, cache, n_logits: ids.len(), hidden_sum: None })
            .collect();
        let together = model.forward(&mut batch).expect("a step");
        assert!(together == alone.concat(), "{}: other bits side by side", variant.path.display());
    }
}

#[test]
fn a_truncated_cache_continues_with_the_same_bits_or_says_that_it_cannot() {
    for variant in variants(&fixtures()) {
        let model = variant.load(Compute::cpu(Kernels::get(), 2).expect("threads"), 32);
        let ids = &variant.expected.prompts["long200"].ids;
        let n_vocab = model.n_vocab();
        let whole = all_logits(&model, ids, 32);
        for keep in [0, 1, 20, 150, 185, 190, 199] {
            let mut cache = model.new_cache(1024);
            feed(&model, &mut cache, ids, 32);
            let kept = cache.truncate(keep);
            assert!(kept == keep || kept == 0, "{kept} of {keep}");
            // A chunk and more behind the end, local layers still have their window.
            assert!(keep < ids.len() - 16 || kept == keep, "{keep} positions were lost without need");
            assert_eq!(cache.len(), kept);
            let rest = feed(&model, &mut cache, &ids[kept..], 32);
            assert!(rest[..] == whole[kept * n_vocab..], "{} from {kept}", variant.path.display());
        }
    }
}

#[test]
fn a_chunk_that_does_not_fit_is_refused() {
    let variant = variants(&fixtures()).into_iter().next().expect("a model");
    let model = variant.load(Compute::cpu(Kernels::get(), 1).expect("threads"), 8);
    let mut cache = model.new_cache(10);
    let mut step = |tokens: &[u32], n_logits| {
        model.forward(&mut [Chunk { tokens, cache: &mut cache, n_logits, hidden_sum: None }])
    };
    assert!(step(&[2; 9], 1).is_err(), "longer than the longest chunk");
    assert!(step(&[], 0).is_err(), "no tokens");
    assert!(step(&[2], 2).is_err(), "more logits than tokens");
    assert!(step(&[4_000_000], 1).is_err(), "outside the vocabulary");
    assert!(step(&[2; 8], 0).expect("half a prompt").is_empty());
    assert!(step(&[2; 3], 1).is_err(), "past the context");
    assert_eq!(step(&[2; 2], 1).expect("the rest").len(), model.n_vocab());
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let variant = variants(&fixtures()).into_iter().find(|v| v.name == "F32").expect("the F32 file");
    let gguf = gemma2::gguf::Gguf::parse(fs::read(&variant.path).expect("the file")).expect("GGUF");
    let range = gguf.tensor("blk.1.ffn_up.weight").expect("the tensor").range.clone();
    let mut bytes = gguf.bytes().clone();
    bytes[range.start + 4000..range.start + 4004].copy_from_slice(&f32::NAN.to_le_bytes());
    let damaged = tempfile::NamedTempFile::with_suffix(".gguf").expect("a file");
    fs::write(damaged.path(), bytes).expect("to write");
    let variant = Variant { path: damaged.path().to_owned(), ..variant };
    let model = variant.load(Compute::cpu(Kernels::get(), 1).expect("threads"), 8);
    let chunk = Chunk { tokens: &[2, 5], cache: &mut model.new_cache(8), n_logits: 1, hidden_sum: None };
    let error = model.forward(&mut [chunk]).expect_err("no numbers").to_string();
    assert!(error.contains("`blk.1.ffn_up.weight`") && error.contains("row 7"), "{error}");
}

/// Logits of every position of a fresh sequence, read in chunks.
fn all_logits(model: &Model, ids: &[u32], chunk: usize) -> Vec<f32> {
    feed(model, &mut model.new_cache(1024), ids, chunk)
}

fn feed(model: &Model, cache: &mut <Model as LanguageModel>::Cache, ids: &[u32], chunk: usize) -> Vec<f32> {
    let step = |tokens: &[u32]| {
        model.forward(&mut [Chunk { tokens, cache, n_logits: tokens.len(), hidden_sum: None }]).expect("a step")
    };
    ids.chunks(chunk).flat_map(step).collect()
}

/// Largest absolute difference, and the sum of squares.
fn differences(a: &[f32], b: &[f32]) -> (f32, f64) {
    assert_eq!(a.len(), b.len());
    let each = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    let not_a_number = each.clone().any(f32::is_nan);
    (if not_a_number { f32::NAN } else { each.clone().fold(0.0, f32::max) }, each.map(|d| f64::from(d).powi(2)).sum())
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    logits.iter().map(|l| f64::from(l - max) - sum.ln()).collect()
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("logits")
}

fn mean_nll(logits: &[f32], ids: &[u32], n_vocab: usize) -> f64 {
    let rows = logits.chunks(n_vocab).zip(&ids[1..]);
    -rows.map(|(row, id)| log_softmax(row)[*id as usize]).sum::<f64>() / (ids.len() - 1) as f64
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden")
}

/// The collections to read: the project's own subset, and the whole where it lies beside the repository.
fn folders() -> Vec<PathBuf> {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden");
    if whole.is_dir() {
        return vec![fixtures(), whole];
    }
    eprintln!("skipped: the whole golden collection is not beside the repository");
    vec![fixtures()]
}

fn variants(folder: &Path) -> Vec<Variant> {
    let mut found = Vec::new();
    for model in entries(&folder.join("models")) {
        let name = file_name(&model);
        let hf = entries(&model).into_iter().filter(|p| p.join("config.json").exists()).map(|p| {
            let variant = file_name(&p);
            (p, format!("{variant}.json"), variant)
        });
        let gguf = entries(&model.join("gguf")).into_iter().map(|p| {
            let kind = file_name(&p).trim_end_matches(".gguf").trim_start_matches(&format!("{name}.")).to_owned();
            (p, format!("gguf-{kind}.json"), kind)
        });
        for (path, file, variant) in hf.chain(gguf) {
            let text = fs::read_to_string(folder.join("expect").join(&name).join(&file)).expect(&file);
            let expected = serde_json::from_str(&text).expect(&file);
            found.push(Variant { path, name: variant, model: name.clone(), expected });
        }
    }
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}
