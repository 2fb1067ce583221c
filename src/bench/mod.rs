//! The workloads behind `gemma2 bench`: reading a prompt and making tokens, through the same engine as everything else.

mod perplexity;

pub use perplexity::{Estimate, perplexity};

use std::time::{Duration, Instant};

use crate::engine::{Engine, EngineError, Event, Events, Limit, MAX_N_PROBS, Request, Sampling, Timings, Token};
use crate::gpu::{Gpu, GpuError};
use crate::kernels::{Format, Kernels, TileMut};

/// One kind of work: read a prompt (a prefill row) or make tokens (a decode row).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Read a prompt of this many tokens.
    Prefill(usize),
    /// Make `n_gen` tokens after a short prompt in each of `n_sequences` sequences, side by side in one batch.
    Decode {
        /// Tokens of each sequence.
        n_gen: usize,
        /// Sequences; the engine needs as many slots.
        n_sequences: usize,
    },
}

/// What a workload measured.
#[derive(Clone, Debug)]
pub struct Row {
    /// The work.
    pub workload: Workload,
    /// Tokens per second, of all sequences together, one for each repetition.
    pub samples: Vec<f64>,
    /// FNV-1a hash of all tokens that the repetitions made: equal arithmetic gives equal hashes.
    pub token_hash: u64,
    /// FNV-1a hash of the last token's best [`MAX_N_PROBS`] log-probabilities and their ids, of the first sequence. Each
    /// of them depends on every logit, so equal logits give equal hashes and others do not.
    pub logits_hash: u64,
}

impl Row {
    /// The middle one of the samples.
    pub fn median(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    /// Smallest and largest sample.
    pub fn spread(&self) -> (f64, f64) {
        let fold = |f: fn(f64, f64) -> f64| self.samples.iter().copied().reduce(f).unwrap_or(f64::NAN);
        (fold(f64::min), fold(f64::max))
    }
}

/// Runs a workload once to warm up and then `repetitions` times.
///
/// # Errors
/// What the engine says: a context that is too small, a model that fails.
pub fn run(engine: &Engine, workload: Workload, repetitions: usize) -> Result<Row, EngineError> {
    let (n_prompt, n_tokens, n_sequences) = match workload {
        Workload::Prefill(n) => (n, 1, 1),
        // The first token comes out of the prompt's own step.
        Workload::Decode { n_gen, n_sequences } => (2, n_gen + 1, n_sequences),
    };
    let mut row = Row { workload, samples: Vec::new(), token_hash: FNV_START, logits_hash: FNV_START };
    for repetition in 0..=repetitions {
        let is_warm_up = repetition == 0;
        let submit = |sequence: usize| {
            let mut request = Request::new(prompt(engine, n_prompt, sequence));
            request.sampling = Sampling { temperature: 0.0, ..Sampling::default() };
            request.limit = Limit::Tokens(n_tokens);
            request.ignore_eos = true;
            request.cache_prompt = false;
            // Sorting takes time of its own: only where nothing is measured.
            request.n_probs = if is_warm_up { MAX_N_PROBS } else { 0 };
            engine.submit(request)
        };
        let events = (0..n_sequences).map(submit).collect::<Result<Vec<_>, _>>()?;
        let replies = events.into_iter().map(finish).collect::<Result<Vec<_>, _>>()?;
        if is_warm_up {
            let last = replies.first().and_then(|(tokens, _)| tokens.last());
            for (id, logprob) in last.map_or(&[][..], |token| &token.top) {
                row.logits_hash = fnv(row.logits_hash, &id.to_le_bytes());
                row.logits_hash = fnv(row.logits_hash, &logprob.to_le_bytes());
            }
            continue;
        }
        let longest = |time: fn(&Timings) -> Duration| replies.iter().map(|(_, t)| time(t)).max().unwrap_or_default();
        row.samples.push(match workload {
            Workload::Prefill(n) => n as f64 / longest(|t| t.prefill).as_secs_f64(),
            Workload::Decode { n_gen, .. } => (n_gen * n_sequences) as f64 / longest(|t| t.decode).as_secs_f64(),
        });
        for token in replies.iter().flat_map(|(tokens, _)| tokens) {
            row.token_hash = fnv(row.token_hash, &token.id.to_le_bytes());
        }
    }
    Ok(row)
}

/// FNV-1a's offset basis.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// `<bos>` and pseudo-random tokens, the same on every machine, others for each sequence.
fn prompt(engine: &Engine, n: usize, sequence: usize) -> Vec<u32> {
    let n_vocab = engine.tokenizer().n_vocab() as u64;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_add(sequence as u64);
    let random = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % n_vocab.max(1)) as u32
    });
    std::iter::once(engine.tokenizer().bos()).chain(random).take(n).collect()
}

fn finish(events: Events) -> Result<(Vec<Token>, Timings), EngineError> {
    let mut tokens = Vec::new();
    loop {
        match events.recv_blocking() {
            Ok(Event::Token(token)) => tokens.push(token),
            Ok(Event::Done(done)) => return Ok((tokens, done.timings)),
            Ok(Event::Failed(error)) => return Err(error),
            Ok(Event::Prefill { .. } | Event::Prompt(_)) => {}
            Err(_) => return Err(EngineError::Stopped),
        }
    }
}

/// Bytes per second that `n_threads` threads read together from memory: the limit of decoding. Our own product of F32
/// weights with one column is the reader, since it does little else. Reads `bytes` (more than any cache holds) `passes`
/// times and takes the best pass.
pub fn read_bandwidth(kernels: &Kernels, n_threads: usize, bytes: usize, passes: usize) -> f64 {
    const K: usize = 2048;
    const ROW_BYTES: usize = K * size_of::<f32>();
    let n_rows = (bytes / ROW_BYTES).max(1);
    let weights = vec![1_u8; n_rows * ROW_BYTES];
    let activations = [1.0_f32; K];
    let mut out = vec![0.0_f32; n_rows];
    let share = n_rows.div_ceil(n_threads.max(1));
    let mut best = 0.0_f64;
    for _ in 0..passes {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (weights, out) in weights.chunks(share * ROW_BYTES).zip(out.chunks_mut(share)) {
                let activations = &activations;
                scope.spawn(move || {
                    let rows = 0..out.len();
                    let out = &mut TileMut::whole(out, rows.len());
                    kernels.matmul_f32(Format::F32, weights, K, rows, activations, out);
                });
            }
        });
        best = best.max(weights.len() as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// Bytes per second that a GPU's memory reads and writes together, copying `bytes` from one buffer to another: the limit
/// of decoding there. Copies several times in a row, and takes the best of `passes`.
///
/// # Errors
/// The device's, as when it has no memory for two buffers.
pub fn copy_bandwidth(gpu: &Gpu, bytes: usize, passes: usize) -> Result<f64, GpuError> {
    const COPIES: usize = 8;
    let (from, to) = (gpu.buffer_of(&vec![1; bytes])?, gpu.buffer(bytes)?);
    let mut best = 0.0_f64;
    for _ in 0..passes {
        gpu.synchronize()?;
        let start = Instant::now();
        (0..COPIES).try_for_each(|_| gpu.copy(&from, &to))?;
        gpu.synchronize()?;
        best = best.max((2 * COPIES * bytes) as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread_are_those_of_the_samples() {
        let row = |samples: &[f64]| Row {
            workload: Workload::Prefill(1),
            samples: samples.to_vec(),
            token_hash: 0,
            logits_hash: 0,
        };
        assert_eq!(row(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(row(&[4.0, 1.0]).median(), 2.5);
        assert!(row(&[]).median().is_nan());
        assert_eq!(row(&[3.0, 1.0, 2.0]).spread(), (1.0, 3.0));
    }

    #[test]
    fn the_bandwidth_probe_runs_on_any_number_of_threads() {
        for n_threads in [1, 2, 3] {
            assert!(read_bandwidth(Kernels::get(), n_threads, 1 << 20, 1) > 0.0);
        }
    }
}
