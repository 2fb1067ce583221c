//! The tools: `pack`, `unpack`, `list`, `verify`, `tokenize`, `info`, `completions`; larger ones have files of their own.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::args::{self, Args, InfoArgs, PackArgs, RunArgs, TokenizeArgs, Tool, UnpackArgs};
use super::bench::bench;
use super::error::CliError;
use super::load::{Opened, kv_cache_bytes};
use super::locate::{Surroundings, locate_weights};
use super::perplexity::run_perplexity;
use super::prompt::read_text;
use super::quantize::run_quantize;
use super::settings::{DEFAULT_N_CTX, Settings};
use super::signals;
use super::terminal::{Terminal, error_line, print};
use crate::bundle::{ArgsFile, Bundle, BundleError, PackOptions, Progress, pack, running_executable, unpack, verify};
use crate::error::{bytes_for_people, name_for_people};
use crate::tokenizer::Special;
use crate::weights::Source;

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
        Tool::Unpack(args) => run_unpack(&args, &terminal),
        Tool::List(args) => list(&open(&args.file)?),
        Tool::Verify(args) => run_verify(args.file.as_deref(), &terminal),
        Tool::Tokenize(args) => tokenize(&args, &terminal),
        Tool::Info(args) => info(&args, &terminal),
        Tool::Bench(args) => bench(&args, &terminal),
        Tool::Perplexity(args) => run_perplexity(&args, &terminal),
        Tool::Quantize(args) => {
            terminal.is_quiet = args.quiet;
            run_quantize(args, &terminal)
        }
        Tool::Completions(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut args::command(version), "gemma2", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

/// What a progress callback shows, and whether Ctrl-C ended it.
fn progress<'a>(
    verb: &'static str,
    terminal: &'a Terminal,
) -> Result<impl FnMut(Progress<'_>) -> ControlFlow<()> + 'a, CliError> {
    let interrupted = signals::interrupt_flag()?;
    let mut shown = None;
    Ok(move |progress: Progress<'_>| {
        let percent = progress.done * 100 / progress.total.max(1);
        if shown != Some(percent) {
            shown = Some(percent);
            let member = if progress.member.is_empty() { "the program" } else { progress.member };
            let (done, total) = (bytes_for_people(progress.done), bytes_for_people(progress.total));
            terminal
                .status(&format!("{verb} {percent:3} %  {done} of {total}  {}", name_for_people(member.as_bytes())));
        }
        match interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })
}

fn run_pack(args: PackArgs, terminal: &Terminal) -> Result<(), CliError> {
    check_default_arguments(&args.arg)?;
    // A model that this program cannot run is better refused now than by those who get the file.
    let located = locate_weights(Some(&args.model), None, &Surroundings::default())?;
    let source = Source::open(located.files)?;
    source.tensors()?;
    let options = PackOptions {
        weights: args.model,
        output: args.output,
        args: args.arg,
        license: args.license,
        runtime: args.runtime,
        overwrite: args.force,
    };
    let packed = pack(&options, &mut progress("packing", terminal)?);
    terminal.status("");
    let size = packed?;
    terminal.note(format!("`{}` has {}: {}", options.output.display(), bytes_for_people(size), describe_run(&options)));
    Ok(())
}

fn describe_run(options: &PackOptions) -> String {
    match options.runtime {
        Some(_) => "program and weights in one file".into(),
        None => format!("run it, or look into it with `gemma2 list {}`", options.output.display()),
    }
}

/// Default arguments that the packed program would refuse are refused now.
fn check_default_arguments(words: &[String]) -> Result<(), CliError> {
    let wrong =
        |what: String| CliError::Usage { what: format!("`--arg`: {what}"), hint: "write --arg=-c --arg=0".into() };
    let file = ArgsFile::parse(ArgsFile::text(words).as_bytes()).map_err(|error| wrong(error.to_string()))?;
    // `-p ...` needs the argument that is still to come.
    let candidates = [file.defaults(), file.place(&["0".into()])];
    let mut first_error = None;
    for words in candidates {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        match Args::parse_from_words(&words, "") {
            Ok(args) if args.tool.is_none() && !args.help_all => {
                return match Settings::resolve(RunArgs::default(), args.run) {
                    Ok(_) => Ok(()),
                    Err(error) => Err(wrong(error.to_string())),
                };
            }
            Ok(_) => first_error = first_error.or(Some("tools are no default arguments".to_owned())),
            Err(error) => first_error = first_error.or(Some(super::usage_text(&error))),
        }
    }
    Err(wrong(first_error.unwrap_or_default()))
}

fn open(path: &Path) -> Result<Bundle, CliError> {
    Ok(Bundle::open(path)?.ok_or_else(|| BundleError::NoArchive(path.to_owned()))?)
}

fn run_unpack(args: &UnpackArgs, terminal: &Terminal) -> Result<(), CliError> {
    let bundle = open(&args.file)?;
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
    print(&out)
}

fn run_verify(path: Option<&Path>, terminal: &Terminal) -> Result<(), CliError> {
    let own = running_executable()?;
    let bundle = open(path.unwrap_or(&own))?;
    let verified = verify(&bundle, &mut progress("verifying", terminal)?);
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
    if !verified.has_manifest {
        terminal.note("there is no manifest with SHA-256 hashes: compared with the archive's own CRC-32 checksums");
    }
    match verified.problems.is_empty() {
        true => Ok(()),
        false => Err(CliError::Damaged(path.map_or_else(|| std::env::current_exe().unwrap_or(own), Path::to_owned))),
    }
}

fn tokenize(args: &TokenizeArgs, terminal: &Terminal) -> Result<(), CliError> {
    let opened = open_model(args.model.as_deref(), DEFAULT_N_CTX, terminal)?;
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
    let opened = open_model(args.model.as_deref(), args.ctx_size.unwrap_or(DEFAULT_N_CTX), terminal)?;
    let settings = Settings::resolve(RunArgs::default(), RunArgs::default())?;
    let (source, compute) = (&opened.source, &settings.compute);
    let config = source.config();
    let kv_bytes = kv_cache_bytes(config, opened.n_ctx, compute.n_ubatch);
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
         memory        {kv} for the context (each slot of a server)\n\
         chat template {template}\n\
         device        CPU, {n_threads} threads, {isa}\n",
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
        kv = bytes_for_people(kv_bytes),
        template = if source.chat_template().is_some() { "yes" } else { "no" },
        n_threads = compute.n_threads,
        isa = compute.kernels.isa(),
    );
    print(&out)
}

/// The model that the program itself would take.
pub(super) fn open_model(typed: Option<&Path>, n_ctx: usize, terminal: &Terminal) -> Result<Opened, CliError> {
    let surroundings = Surroundings::detect()?;
    let default = match &surroundings.bundle {
        Some(bundle) => super::default_arguments(bundle)?.model,
        None => None,
    };
    let located = locate_weights(typed, default.as_deref(), &surroundings)?;
    if located.place == super::locate::Place::Demo {
        error_line("note: this is the built-in demo model; `-m` takes another");
    }
    Opened::new(located, n_ctx, terminal)
}
