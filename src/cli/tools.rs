//! The tools: `unpack`, `list`, `verify`, `tokenize`, `info`, `completions`; larger ones have files of their own.

use std::fmt::Write as _;
use std::path::Path;

use super::args::{self, InfoArgs, RunArgs, TokenizeArgs, Tool, UnpackArgs};
use super::bench::bench;
use super::doctor::doctor;
use super::error::CliError;
use super::help;
use super::load::{Opened, kv_cache_bytes};
use super::locate::{Surroundings, locate_model};
use super::machine::available_memory;
use super::offload::describe_devices;
use super::pack::{run_pack, run_upgrade};
use super::perplexity::run_perplexity;
use super::progress::progress;
use super::prompt::read_text;
use super::quantize::run_quantize;
use super::settings::{DEFAULT_N_CTX, Settings};
use super::terminal::{Terminal, error_line, print};
use crate::bundle::{Bundle, BundleError, Bytes, executable_path, running_executable, unpack, verify};
use crate::error::{bytes_for_people, name_for_people};
use crate::kernels::Kernels;
use crate::tokenizer::Special;

/// Runs a tool.
///
/// # Errors
/// What the tool says.
pub fn run(tool: Tool, version: &'static str, mut terminal: Terminal) -> Result<(), CliError> {
    match tool {
        Tool::Pack(args) => {
            terminal.is_quiet = args.quiet;
            run_pack(args, &terminal)
        }
        Tool::Upgrade(args) => {
            terminal.is_quiet = args.quiet;
            run_upgrade(args, &terminal)
        }
        Tool::Unpack(args) => run_unpack(&args, &terminal),
        Tool::List(args) => list(&open(args.file.as_deref())?),
        Tool::Verify(args) => run_verify(args.file.as_deref(), &terminal),
        Tool::Tokenize(args) => tokenize(&args, &terminal),
        Tool::Info(args) => info(&args, &terminal),
        Tool::Bench(args) => bench(&args, &terminal),
        Tool::Perplexity(args) => run_perplexity(&args, &terminal),
        Tool::Quantize(args) => {
            terminal.is_quiet = args.quiet;
            run_quantize(args, &terminal)
        }
        Tool::Doctor(args) => doctor(&args, &terminal),
        Tool::Help(args) => print(&help::topic(args.topic.as_deref(), version)?),
        Tool::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut args::command(version), "gemma2", &mut script);
            let script = String::from_utf8_lossy(&script);
            print(&match args.shell {
                clap_complete::Shell::Fish => with_waiting_options(&script),
                _ => script.into_owned(),
            })
        }
    }
}

/// fish's completions as they are made fail behind an option that waits for its value, where values are to be offered.
fn with_waiting_options(script: &str) -> String {
    const FIRST: &str = "    set -e cmd[1]\n";
    const LAST: &str = "    string match -q -- '-*' \"$cmd[-1]\"; and set -e cmd[-1]\n";
    script.replacen(FIRST, &format!("{FIRST}{LAST}"), 1)
}

/// The packed file at `path`, or this program's own; [`Bundle::path`] is what people call it.
fn open(path: Option<&Path>) -> Result<Bundle, CliError> {
    let (file, name) = match path {
        Some(path) => (path.to_owned(), path.to_owned()),
        None => (running_executable()?, executable_path()?),
    };
    let bytes = Bytes::open(&file).map_err(BundleError::from)?;
    Ok(Bundle::from_bytes(&name, bytes)?.ok_or(BundleError::NoArchive(name))?)
}

fn run_unpack(args: &UnpackArgs, terminal: &Terminal) -> Result<(), CliError> {
    let bundle = open(args.file.as_deref())?;
    let unpacked = unpack(&bundle, &args.directory, args.force, &mut progress("unpacking", terminal)?);
    terminal.status("");
    let mut out = String::new();
    for path in unpacked? {
        let _ = writeln!(out, "{}", path.display());
    }
    print(&out)
}

fn list(bundle: &Bundle) -> Result<(), CliError> {
    let mut out = format!("{:>14} {:>14}  name\n", "size", "offset");
    for entry in &bundle.archive.entries {
        let name = name_for_people(entry.name.as_bytes());
        let _ = writeln!(out, "{:>14} {:>14}  {name}", entry.size, entry.offset());
    }
    let models = bundle.models();
    if models.len() > 1 {
        out.push_str("\nmodels, of which the first runs unless `--model-name` says otherwise:\n");
        for model in models {
            let _ = writeln!(out, "  {}", name_for_people(model.name.as_bytes()));
        }
    }
    print(&out)
}

fn run_verify(path: Option<&Path>, terminal: &Terminal) -> Result<(), CliError> {
    let bundle = open(path)?;
    // Where the weights are a file of their own, they are what matters.
    let beside = if bundle.has_weights() { None } else { Bundle::beside(&bundle.path, Some(&bundle))? };
    let mut is_intact = true;
    for bundle in std::iter::once(&bundle).chain(&beside) {
        is_intact &= verify_one(bundle, terminal)?;
    }
    if is_intact { Ok(()) } else { Err(CliError::Damaged(bundle.path)) }
}

fn verify_one(bundle: &Bundle, terminal: &Terminal) -> Result<bool, CliError> {
    let verified = verify(bundle, &mut progress("verifying", terminal)?);
    terminal.status("");
    let verified = verified?;
    let mut out = String::new();
    for part in &verified.intact {
        let _ = writeln!(out, "ok       {part}");
    }
    for problem in &verified.problems {
        let _ = writeln!(out, "DAMAGED  {problem}");
    }
    print(&out)?;
    if verified.unfinished_tail > 0 {
        let n_bytes = verified.unfinished_tail;
        terminal.note(format!("an interrupted `upgrade` has left {n_bytes} bytes at the end, which do no harm"));
    }
    if !verified.has_manifest {
        terminal.note("there is no manifest with SHA-256 hashes: compared with the archive's own CRC-32 checksums");
    }
    Ok(verified.problems.is_empty())
}

fn tokenize(args: &TokenizeArgs, terminal: &Terminal) -> Result<(), CliError> {
    let opened = open_model(args.model.as_deref(), args.model_name.as_deref(), DEFAULT_N_CTX, terminal)?;
    let text = match &args.text {
        Some(text) => text.clone(),
        None => read_text(Path::new("-"))?,
    };
    let tokenizer = opened.tokenizer()?;
    let special = if args.literal { Special::Literal } else { Special::Parse };
    let mut ids = tokenizer.encode(&text, special);
    if !args.no_bos {
        ids = tokenizer.with_bos(ids);
    }
    let mut out = String::new();
    for id in ids {
        let piece = String::from_utf8_lossy(tokenizer.piece(id));
        let _ = writeln!(out, "{id:>6}  {piece:?}");
    }
    print(&out)
}

fn info(args: &InfoArgs, terminal: &Terminal) -> Result<(), CliError> {
    let n_ctx = args.ctx_size.unwrap_or(DEFAULT_N_CTX);
    let opened = open_model(args.model.as_deref(), args.model_name.as_deref(), n_ctx, terminal)?;
    let settings = Settings::resolve(RunArgs::default(), RunArgs::default())?;
    let (source, compute) = (&opened.source, &settings.compute);
    let config = source.config();
    let kv_bytes = kv_cache_bytes(config, opened.n_ctx, compute);
    let all = source.weight_bytes().saturating_add(kv_bytes);
    let free = match available_memory() {
        Some(free) if free < all => format!("{} are free: too little, it would read from disk", bytes_for_people(free)),
        Some(free) => format!("{} are free", bytes_for_people(free)),
        None => "this system does not say what is free".into(),
    };
    let usable: Vec<String> = Kernels::available().map(|kernels| kernels.isa().to_string()).collect();
    let global = config.local_layers.iter().filter(|is_local| !**is_local).count();
    let out = format!(
        "name          {name}\n\
         file          {file}\n\
         format        {format}, {quantization}\n\
         parameters    {n_params}\n\
         weights       {weights}, mapped\n\
         layers        {n_layers} ({global} global, {local} with a window of {window})\n\
         width         {d_model}, feed-forward {d_ff}\n\
         heads         {n_heads} of {head_dim}, {n_kv_heads} for keys and values\n\
         vocabulary    {n_vocab}\n\
         context       {n_ctx} of {n_ctx_train} tokens\n\
         memory        {all}: the weights, and {kv} for the context (each slot of a server); {free}\n\
         chat template {template}\n\
         device        CPU, {n_threads} threads, {isa} (this CPU can run {usable})\n\
         GPU           {gpus}\n",
        name = name_for_people(source.name().as_bytes()),
        file = name_for_people(source.file().as_bytes()),
        format = source.format_name(),
        quantization = source.quantization(),
        n_params = source.n_params(),
        weights = bytes_for_people(source.weight_bytes()),
        n_layers = config.n_layers,
        local = config.n_layers - global,
        window = config.sliding_window,
        d_model = config.d_model,
        d_ff = config.d_ff,
        n_heads = config.n_heads,
        head_dim = config.head_dim,
        n_kv_heads = config.n_kv_heads,
        n_vocab = config.n_vocab,
        n_ctx = opened.n_ctx,
        n_ctx_train = config.n_ctx_train,
        all = bytes_for_people(all),
        kv = bytes_for_people(kv_bytes),
        template = if source.chat_template().is_some() { "yes" } else { "no" },
        n_threads = compute.n_threads,
        isa = compute.kernels.isa(),
        usable = usable.join(", "),
        gpus = describe_devices(),
    );
    print(&out)
}

/// The model that the program itself would take.
///
/// # Errors
/// A path without a model, a name that there is not, files that are no Gemma 2.
pub(super) fn open_model(
    typed: Option<&Path>,
    name: Option<&str>,
    n_ctx: usize,
    terminal: &Terminal,
) -> Result<Opened, CliError> {
    let surroundings = Surroundings::detect()?;
    let defaults = match &surroundings.bundle {
        Some(bundle) => super::default_arguments(bundle)?,
        None => RunArgs::default(),
    };
    let name = name.or(defaults.model_name.as_deref().filter(|_| typed.is_none()));
    let located = locate_model(typed, defaults.model.as_deref(), name, &surroundings)?;
    if located.place == super::locate::Place::Demo {
        error_line("note: this is the built-in demo model; `-m` takes another");
    }
    Opened::new(located, n_ctx, terminal)
}
