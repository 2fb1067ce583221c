//! `doctor`: whether this program computes right on this machine, how fast it can be, and what would help.
//!
//! The checks need no file: they run the built-in model. Its answers were computed by Hugging Face's implementation and are
//! certain: the second-best token is far away at each step.

use std::time::{Duration, Instant};

use super::args::{DoctorArgs, RunArgs};
use super::demo::{DEMO_NAME, demo_model};
use super::error::CliError;
use super::load::Opened;
use super::loading::Loading;
use super::locate::Place;
use super::machine::available_memory;
use super::offload::describe_devices;
use super::settings::Settings;
use super::terminal::{Terminal, print};
use super::tools::open_model;
use crate::bench::read_bandwidth;
use crate::chat::{self, ChatTemplate, Message};
use crate::engine::{Event, Limit, Request};
use crate::error::bytes_for_people;
use crate::kernels::{Isa, Kernels};
use crate::model::{Chunk, Config, KvCache, LanguageModel, Model};
use crate::ops::Compute;
use crate::tokenizer::{Special, Tokenizer};
use crate::weights::{Files, NamedBytes, Source};

/// Bytes the bandwidth probe reads in a pass: more than any cache holds.
const PROBE_BYTES: usize = 1 << 29;

/// What the built-in model is asked, its prompt and its greedy answer as tokens (`tests/fixtures/demo/samples.json`).
const KNOWN: &[(&str, &[u32], &[u32])] = &[
    (
        "What is the opposite of hot?",
        &[2, 106, 396, 108, 484, 394, 382, 651, 413, 448, 433, 1978, 107, 108, 106, 387, 108],
        &[411, 651, 413, 448, 433, 394, 1182, 1961, 107],
    ),
    (
        "What is 7 + 8?",
        &[2, 106, 396, 108, 484, 394, 1947, 1970, 1947, 1958, 1947, 1971, 1978, 107, 108, 106, 387, 108],
        &[1970, 1947, 1958, 1947, 1971, 1947, 1976, 1947, 1964, 1968, 107],
    ),
];

/// Weights of Gemma 2 by size and format, in bytes, for advice.
const SIZES: &[(&str, f64)] = &[
    ("2B Q4_K_M", 1.70e9),
    ("2B Q6_K", 2.15e9),
    ("2B Q8_0", 2.78e9),
    ("9B Q4_K_M", 5.76e9),
    ("9B Q8_0", 9.83e9),
    ("27B Q4_K_M", 16.6e9),
];

/// Runs all checks, prints a line for each, measures, and advises.
///
/// # Errors
/// [`CliError::Unwell`] where a check has failed; a model that cannot be opened.
pub fn doctor(args: &DoctorArgs, terminal: &Terminal) -> Result<(), CliError> {
    let demo = Demo::open()?;
    let mut n_failed = 0;
    let mut tell = |name: &str, outcome: Result<(), String>| {
        let line = match outcome {
            Ok(()) => format!("ok       {name}\n"),
            Err(what) => {
                n_failed += 1;
                format!("WRONG    {name}: {what}\n")
            }
        };
        print(&line)
    };
    let mut first = None;
    for kernels in Kernels::available() {
        let answers = demo.answers(kernels)?;
        let first = *first.get_or_insert(answers.hash);
        tell(&format!("known answers, {}", kernels.isa()), demo.judge(&answers, first))?;
    }
    tell("beginning of the text (<bos>)", demo.bos())?;
    tell("chat template", demo.template())?;
    tell("soft caps", demo.softcaps()?)?;
    tell("sliding window", demo.window()?)?;
    let settings = Settings::resolve(RunArgs { threads: args.threads, ..RunArgs::default() }, RunArgs::default())?;
    if args.seconds > 0 {
        measure(args, &settings, terminal)?;
    }
    for line in advice(settings.compute.kernels.isa(), available_memory(), cfg!(debug_assertions)) {
        print(&format!("advice   {line}\n"))?;
    }
    match n_failed {
        0 => Ok(()),
        n => Err(CliError::Unwell(n)),
    }
}

/// The built-in model.
struct Demo {
    source: Source,
    tokenizer: Tokenizer,
}

/// What one instruction set makes of the known questions.
struct Answers {
    tokens: Vec<Vec<u32>>,
    /// FNV-1a over the bits of all logits on the way.
    hash: u64,
    /// Reading a prompt at once and token by token gave the same bits.
    is_cut_freely: bool,
}

impl Demo {
    fn open() -> Result<Demo, CliError> {
        let file = NamedBytes { name: DEMO_NAME.into(), bytes: demo_model() };
        let source = Source::open(Files::from_members(vec![file])?)?;
        let tokenizer = Tokenizer::from_vocabulary(source.vocabulary())
            .map_err(|error| CliError::Tokenizer { file: DEMO_NAME.into(), source: Box::new(error) })?;
        Ok(Demo { source, tokenizer })
    }

    fn model(&self, config: Config, kernels: &'static Kernels) -> Result<Model, CliError> {
        // Two threads are enough to find out whether work is shared out right.
        let compute = Compute::cpu(kernels, 2).map_err(crate::model::ModelError::from)?;
        Ok(Model::new(config, self.source.tensors()?, compute, 128)?)
    }

    fn answers(&self, kernels: &'static Kernels) -> Result<Answers, CliError> {
        let model = self.model(self.source.config().clone(), kernels)?;
        let mut answers = Answers { tokens: Vec::new(), hash: 0xcbf2_9ce4_8422_2325, is_cut_freely: true };
        for (_, prompt, expected) in KNOWN {
            let mut cache = model.new_cache(128);
            let mut logits = logits(&model, prompt, &mut cache)?;
            let mut slow = model.new_cache(128);
            let mut last = Vec::new();
            for token in *prompt {
                last = self::logits(&model, &[*token], &mut slow)?;
            }
            answers.is_cut_freely &= bits(&last).eq(bits(&logits));
            let mut tokens = Vec::new();
            while tokens.len() < expected.len() {
                answers.hash = bits(&logits).fold(answers.hash, |hash, bits| {
                    bits.to_le_bytes().iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
                });
                let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or_default();
                tokens.push(best as u32);
                if tokens.len() < expected.len() {
                    logits = self::logits(&model, &[best as u32], &mut cache)?;
                }
            }
            answers.tokens.push(tokens);
        }
        Ok(answers)
    }

    fn judge(&self, answers: &Answers, first_hash: u64) -> Result<(), String> {
        for ((question, _, expected), tokens) in KNOWN.iter().zip(&answers.tokens) {
            if tokens != expected {
                let text = self.tokenizer.decode(tokens, false);
                return Err(format!("{question:?} is answered with {text:?}"));
            }
        }
        if !answers.is_cut_freely {
            return Err("a prompt read at once and token by token gives different numbers".into());
        }
        if answers.hash != first_hash {
            return Err("the numbers are not those of the other instruction sets".into());
        }
        Ok(())
    }

    fn bos(&self) -> Result<(), String> {
        let tokenizer = &self.tokenizer;
        for text in ["Hi", "<bos>Hi"] {
            let ids = tokenizer.with_bos(tokenizer.encode(text, Special::Parse));
            let n = ids.iter().filter(|&&id| id == tokenizer.bos()).count();
            if n != 1 || ids.first() != Some(&tokenizer.bos()) {
                return Err(format!("{text:?} has it {n} times"));
            }
        }
        Ok(())
    }

    fn template(&self) -> Result<(), String> {
        let template = ChatTemplate::new(self.source.chat_template()).map_err(|error| error.to_string())?;
        for (question, prompt, _) in KNOWN {
            let message = Message { role: "user".into(), content: (*question).into() };
            let segments = template.render(&[message], false).map_err(|error| error.to_string())?;
            if chat::encode(&self.tokenizer, &segments) != *prompt {
                return Err(format!("{question:?} becomes {:?}", chat::text(&segments)));
            }
        }
        Ok(())
    }

    /// The last soft cap follows `cap * tanh(x / cap)`, and that of attention has an effect.
    fn softcaps(&self) -> Result<Result<(), String>, CliError> {
        let run = |change: &dyn Fn(&mut Config)| {
            let mut config = self.source.config().clone();
            change(&mut config);
            let model = self.model(config, Kernels::get())?;
            logits(&model, KNOWN[0].1, &mut model.new_cache(128))
        };
        let cap = self.source.config().final_softcap;
        let (usual, small) = (run(&|_| {})?, run(&|config| config.final_softcap = 1.0)?);
        let worst = usual.iter().zip(&small).map(|(usual, small)| {
            let uncapped = cap * (usual / cap).atanh();
            (uncapped.tanh() - small).abs()
        });
        // A logit beyond its cap makes no number.
        let worst = worst.fold(0.0, |worst: f32, off| if off.is_nan() { f32::INFINITY } else { worst.max(off) });
        if worst > 1e-3 {
            return Ok(Err(format!("logits are off by {worst}")));
        }
        let flat = run(&|config| config.attn_softcap = 1e-3)?;
        Ok(match bits(&flat).eq(bits(&usual)) {
            true => Err("that of attention does nothing".into()),
            false => Ok(()),
        })
    }

    /// With local layers only, what lies further back than their windows together reach has no effect, to the bit.
    fn window(&self) -> Result<Result<(), String>, CliError> {
        let mut config = self.source.config().clone();
        config.local_layers = vec![true; config.n_layers];
        config.sliding_window = 8;
        let reach = config.n_layers * (config.sliding_window - 1);
        let model = self.model(config, Kernels::get())?;
        let tokens: Vec<u32> = (0..reach as u32 + 20).map(|i| 400 + i * 7 % 1000).collect();
        let run = |changed: usize| {
            let mut tokens = tokens.clone();
            tokens[changed] += 1;
            logits(&model, &tokens, &mut model.new_cache(256))
        };
        let usual = logits(&model, &tokens, &mut model.new_cache(256))?;
        let last = tokens.len() - 1;
        Ok(if !bits(&run(last - reach - 1)?).eq(bits(&usual)) {
            Err("a token before it has an effect".into())
        } else if bits(&run(last - 3)?).eq(bits(&usual)) {
            Err("a token inside it has no effect".into())
        } else {
            Ok(())
        })
    }
}

/// Logits after the last of these tokens.
fn logits(model: &Model, tokens: &[u32], cache: &mut KvCache) -> Result<Vec<f32>, CliError> {
    Ok(model.forward(&mut [Chunk { tokens, cache, n_logits: 1, hidden_sum: None }])?)
}

fn bits(values: &[f32]) -> impl Iterator<Item = u32> + '_ {
    values.iter().map(|value| value.to_bits())
}

/// Prints what memory gives and what the model makes of it.
fn measure(args: &DoctorArgs, settings: &Settings, terminal: &Terminal) -> Result<(), CliError> {
    let compute = &settings.compute;
    let most = available_memory().map_or(PROBE_BYTES, |free| usize::try_from(free / 4).unwrap_or(PROBE_BYTES));
    terminal.status("measuring memory");
    let bandwidth = read_bandwidth(compute.kernels, compute.n_threads, PROBE_BYTES.min(most), 3);
    terminal.status("");
    print(&format!(
        "memory   {:.1} GB/s read by {} threads ({})\n",
        bandwidth / 1e9,
        compute.n_threads,
        compute.kernels.isa()
    ))?;
    let bounds: Vec<String> =
        SIZES.iter().take(3).map(|(name, size)| format!("{name} {:.1}", bandwidth / size)).collect();
    print(&format!("         so at most, tokens/s: {}\n", bounds.join(", ")))?;

    let opened = open_model(args.model.as_deref(), args.model_name.as_deref(), 1024, terminal)?;
    let (name, is_demo) = (opened.id(), opened.place == Place::Demo);
    let weight_bytes = opened.source.weight_bytes() as f64;
    terminal.status("measuring speed");
    let speed = decode_speed(opened, settings, Duration::from_secs(args.seconds), terminal);
    terminal.status("");
    let speed = speed?;
    let share = 100.0 * speed * weight_bytes / bandwidth;
    print(&format!("speed    {speed:.1} tokens/s with {name}, {share:.0} % of what memory allows\n"))?;
    if is_demo {
        print("         the built-in model is tiny and says little about speed: `gemma2 doctor -m MODEL`\n")?;
    }
    Ok(())
}

/// Tokens made in a second, measured for this long or until the context is full.
fn decode_speed(opened: Opened, settings: &Settings, time: Duration, terminal: &Terminal) -> Result<f64, CliError> {
    let tokenizer = opened.tokenizer()?;
    let n_ctx = opened.n_ctx;
    let prompt = tokenizer.with_bos(tokenizer.encode("Once upon a time", Special::Literal));
    let engine = opened.start(tokenizer, 1, &settings.compute, Loading::for_long(terminal))?;
    let (mut n_tokens, mut measured) = (0_u32, Duration::ZERO);
    // A fast model fills its context before the time is over: then it begins again.
    while measured < time {
        let mut request = Request::new(prompt.clone());
        request.ignore_eos = true;
        request.sampling.seed = Some(1);
        request.limit = Limit::Tokens(n_ctx.saturating_sub(prompt.len() + 1).max(2));
        let events = engine.submit(request)?;
        let mut start = None;
        loop {
            match events.recv_blocking() {
                Ok(Event::Token(_)) => match start {
                    // The first token comes out of the prompt's own step.
                    None => start = Some(Instant::now()),
                    Some(start) => {
                        n_tokens += 1;
                        if measured + start.elapsed() >= time {
                            break;
                        }
                    }
                },
                Ok(Event::Prefill { .. } | Event::Prompt(_)) => {}
                Ok(Event::Failed(error)) => return Err(error.into()),
                Ok(Event::Done(_)) | Err(_) => break,
            }
        }
        match start {
            Some(start) => measured += start.elapsed(),
            None => break,
        }
    }
    Ok(f64::from(n_tokens) / measured.as_secs_f64().max(1e-9))
}

/// What would help here, in plain words.
fn advice(isa: Isa, free: Option<u64>, is_unoptimized: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if isa == Isa::Scalar {
        lines.push("this CPU has none of the instructions that make it fast; a smaller model helps".into());
    }
    if is_unoptimized {
        lines.push("this program was built without optimization; `cargo build --release` is many times faster".into());
    }
    if let Some(free) = free {
        // Weights are mapped, but a model that does not fit is read from disk for each token.
        let fits = SIZES.iter().rfind(|(_, size)| *size * 1.15 < free as f64);
        let free = bytes_for_people(free);
        lines.push(match fits {
            Some((name, _)) => format!("{free} of memory are free: up to Gemma 2 {name} fits"),
            None => format!("{free} of memory are free: Gemma 2 2B needs about 2 GB, close other programs"),
        });
    }
    lines.push(format!("GPU: {}", describe_devices()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_answers_are_told_from_right_ones() {
        let demo = Demo::open().unwrap();
        let right = demo.answers(Kernels::get()).unwrap();
        assert_eq!(demo.judge(&right, right.hash), Ok(()));
        assert!(demo.judge(&right, right.hash ^ 1).unwrap_err().contains("other instruction sets"));
        let hash = right.hash;
        let cut = Answers { tokens: right.tokens.clone(), hash, is_cut_freely: false };
        assert!(demo.judge(&cut, hash).unwrap_err().contains("token by token"));
        let mut tokens = right.tokens;
        tokens[1][0] = 1971;
        let wrong = Answers { tokens, hash, is_cut_freely: true };
        assert!(demo.judge(&wrong, hash).unwrap_err().contains("What is 7 + 8?"));
    }

    #[test]
    fn advice_fits_the_machine() {
        let text = |isa, free, debug| advice(isa, free, debug).join("\n");
        assert!(text(Isa::Scalar, None, true).contains("smaller model"));
        assert!(text(Isa::Avx2, None, true).contains("--release"));
        assert!(text(Isa::Avx2, Some(4_000_000_000), false).contains("Gemma 2 2B Q8_0 fits"));
        assert!(text(Isa::Avx2, Some(1_000_000_000), false).contains("close other programs"));
    }
}
