//! `bench`: how fast a model runs here, beside what the machine's memory allows.

use std::fmt::Write as _;

use super::args::{BenchArgs, RunArgs, TableFormat};
use super::error::CliError;
use super::load::{Opened, Started};
use super::loading::Loading;
use super::settings::Settings;
use super::terminal::{Terminal, print};
use super::tools::open_model;
use super::{COMMIT, number_and_commit};
use crate::bench::{Row, Workload, copy_bandwidth, read_bandwidth, run};
use crate::kernels::Isa;

/// Bytes the bandwidth probe reads in a pass: more than any cache holds.
const PROBE_BYTES: usize = 1 << 29;
/// Bytes that a GPU copies, twice in its memory.
const GPU_PROBE_BYTES: usize = 1 << 28;

/// One line of the result.
struct Line {
    row: Row,
    n_threads: usize,
    isa: Isa,
    is_interleaved: bool,
    /// The GPU that computes the last layers, and what it copies at most in a second.
    gpu: Option<(String, f64)>,
    /// Weight bytes read in a second; for decoding, where each step reads all of them once.
    bytes_per_s: Option<f64>,
    /// What the same threads read from memory at most, measured just before; where a GPU computes everything, what it copies.
    bandwidth: f64,
}

/// Runs all workloads for each number of threads.
///
/// # Errors
/// A model that cannot be opened or does not fit.
pub fn bench(args: &BenchArgs, terminal: &Terminal) -> Result<(), CliError> {
    let mut lines = Vec::new();
    let mut model = None;
    let threads = if args.threads.is_empty() { vec![None] } else { args.threads.iter().copied().map(Some).collect() };
    for n_threads in threads {
        let run_args = RunArgs {
            threads: n_threads,
            isa: args.isa.clone(),
            repack: args.repack,
            no_repack: args.no_repack,
            lookup: Some(args.lookup),
            cache_type_k: args.cache_type_k,
            cache_type_v: args.cache_type_v,
            n_gpu_layers: args.n_gpu_layers,
            gpu: args.gpu,
            ..RunArgs::default()
        };
        let settings = Settings::resolve(run_args, RunArgs::default())?;
        settings.warnings.iter().for_each(|warning| terminal.note(warning));
        // Each sequence has a context of this size, but takes memory only as it fills.
        let n_ctx = args.n_prompt.max(args.n_gen).saturating_add(8);
        let opened = open_model(args.model.as_deref(), args.model_name.as_deref(), n_ctx, terminal)?;
        let facts = (opened.id(), opened.source.quantization().to_owned(), opened.source.weight_bytes());
        measure(opened, &settings, args, &mut lines, terminal)?;
        model = Some(facts);
    }
    let Some((name, quantization, weight_bytes)) = model else { return Ok(()) };
    let size = weight_bytes as f64 / 1e9;
    let gpu = lines.iter().find_map(|line| line.gpu.as_ref());
    let on = gpu.map_or(String::new(), |(gpu, copies)| format!("; {gpu}, which copies {:.1} GB/s", copies / 1e9));
    let is_interleaved = lines.iter().any(|line| line.is_interleaved);
    let rows = if is_interleaved { ", rows interleaved" } else { "" };
    let head = format!("{name} ({quantization}, {size:.2} GB{rows}{on}), gemma2 {}", number_and_commit());
    print(&match args.output {
        TableFormat::Json => json(&name, &quantization, weight_bytes, &lines),
        TableFormat::Table => format!("{head}\n{}", table(&lines, "  ", "")),
        TableFormat::Md => format!("{head}\n\n{}", table(&lines, " | ", "| ")),
    })
}

fn measure(
    opened: Opened,
    settings: &Settings,
    args: &BenchArgs,
    lines: &mut Vec<Line>,
    terminal: &Terminal,
) -> Result<(), CliError> {
    let compute = &settings.compute;
    let weight_bytes = opened.source.weight_bytes() as f64;
    let tokenizer = opened.tokenizer()?;
    let n_slots = args.parallel.iter().copied().max().unwrap_or(1);
    // Before the weights fill its memory.
    let gpu_bandwidth = match &compute.offload {
        Some(offload) => Some(copy_bandwidth(&offload.gpu, GPU_PROBE_BYTES, 3)?),
        None => None,
    };
    let loading = Loading::for_long(terminal);
    let Started { engine, is_on_gpu, is_interleaved } = opened.start_and_tell(tokenizer, n_slots, compute, loading)?;
    let mut workloads = Vec::new();
    if args.n_prompt > 0 {
        workloads.push(Workload::Prefill(args.n_prompt));
    }
    if args.n_gen > 0 {
        let n_gen = args.n_gen;
        workloads.extend(args.parallel.iter().map(|&n_sequences| Workload::Decode { n_gen, n_sequences }));
    }
    for workload in workloads {
        terminal.status(&format!("{} on {} threads", name_of(workload), compute.n_threads));
        let bandwidth = match gpu_bandwidth.filter(|_| is_on_gpu) {
            Some(bandwidth) => bandwidth,
            None => read_bandwidth(compute.kernels, compute.n_threads, PROBE_BYTES, 3),
        };
        let row = run(&engine, workload, args.repetitions as usize);
        terminal.status("");
        let row = row?;
        let bytes_per_s = match workload {
            Workload::Prefill(_) => None,
            Workload::Decode { n_sequences, .. } => Some(row.median() / n_sequences as f64 * weight_bytes),
        };
        lines.push(Line {
            row,
            n_threads: compute.n_threads,
            isa: compute.kernels.isa(),
            is_interleaved,
            gpu: compute.offload.as_ref().map(|offload| offload.gpu.info().name.clone()).zip(gpu_bandwidth),
            bytes_per_s,
            bandwidth,
        });
    }
    Ok(())
}

fn name_of(workload: Workload) -> String {
    match workload {
        Workload::Prefill(n) => format!("pp{n}"),
        Workload::Decode { n_gen, n_sequences: 1 } => format!("tg{n_gen}"),
        Workload::Decode { n_gen, n_sequences } => format!("tg{n_gen}x{n_sequences}"),
    }
}

/// Columns of equal width; `edge` before and `gap` between make it Markdown.
fn table(lines: &[Line], gap: &str, edge: &str) -> String {
    let head = ["test", "threads", "ISA", "tokens/s", "min", "max", "GB/s", "of memory", "tokens", "logits"]
        .map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(lines.iter().map(|line| {
        let (min, max) = line.row.spread();
        [
            name_of(line.row.workload),
            line.n_threads.to_string(),
            line.isa.to_string(),
            format!("{:.2}", line.row.median()),
            format!("{min:.2}"),
            format!("{max:.2}"),
            line.bytes_per_s.map_or(String::new(), |b| format!("{:.1}", b / 1e9)),
            line.bytes_per_s.map_or(String::new(), |b| format!("{:.0} %", 100.0 * b / line.bandwidth)),
            format!("{:016x}", line.row.token_hash),
            format!("{:016x}", line.row.logits_hash),
        ]
    }));
    let widths: [usize; 10] = std::array::from_fn(|i| rows.iter().map(|r| r[i].len()).max().unwrap_or(0));
    if !edge.is_empty() {
        rows.insert(1, widths.map(|w| "-".repeat(w)));
    }
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let line = format!("{edge}{}{}", cells.join(gap), edge.chars().rev().collect::<String>());
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// llama-bench's field names, so that tools made for it read this too.
fn json(name: &str, quantization: &str, weight_bytes: u64, lines: &[Line]) -> String {
    let rows = lines.iter().map(|line| {
        let (n_prompt, n_gen, n_sequences) = match line.row.workload {
            Workload::Prefill(n) => (n, 0, 1),
            Workload::Decode { n_gen, n_sequences } => (0, n_gen, n_sequences),
        };
        let samples = &line.row.samples;
        let mean = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
        let squares: f64 = samples.iter().map(|s| (s - mean).powi(2)).sum();
        serde_json::json!({
            "build_version": env!("CARGO_PKG_VERSION"),
            "build_commit": COMMIT,
            "model_filename": name,
            "model_type": format!("gemma2 {quantization}"),
            "model_size": weight_bytes,
            "isa": line.isa.to_string(),
            "repack": line.is_interleaved,
            "gpu_info": line.gpu.as_ref().map(|(gpu, _)| gpu),
            "gpu_copy_bandwidth": line.gpu.as_ref().map(|(_, copies)| copies),
            "n_threads": line.n_threads,
            "n_prompt": n_prompt,
            "n_gen": n_gen,
            "n_parallel": n_sequences,
            "samples_ts": samples,
            "avg_ts": mean,
            "stddev_ts": (squares / samples.len().saturating_sub(1).max(1) as f64).sqrt(),
            "median_ts": line.row.median(),
            "weight_bytes_per_s": line.bytes_per_s,
            "read_bandwidth": line.bandwidth,
            "token_hash": format!("{:016x}", line.row.token_hash),
            "logits_hash": format!("{:016x}", line.row.logits_hash),
        })
    });
    format!("{:#}\n", serde_json::Value::Array(rows.collect()))
}
