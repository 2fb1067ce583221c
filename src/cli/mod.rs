//! What was typed, what it means, and the terminal. Only this module prints.
//!
//! `args.rs` is what was typed, `settings.rs` what it means, `locate.rs` where the weights are and `load.rs` how they
//! become an engine; `one_shot.rs`, `chat/` and `serve.rs` are the three ways to run it, `tools.rs` the rest.

mod args;
mod bench;
mod bind;
mod browser;
mod chat;
mod console;
mod demo;
mod desktop;
mod doctor;
mod error;
mod foreign;
mod help;
mod json;
mod load;
mod loading;
mod locate;
mod log;
mod machine;
mod nearest;
mod offload;
mod one_shot;
mod pack;
mod perplexity;
mod presets;
mod progress;
mod prompt;
mod prompt_cache;
mod quantize;
mod reply;
mod serve;
mod settings;
mod signals;
mod terminal;
mod tools;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;

use clap::error::{ContextKind, ContextValue, ErrorKind};

pub use desktop::report;
pub use error::CliError;

use crate::bundle::{ArgsFile, Bundle};
use crate::gpu::{VENDOR, Vendor};
use crate::kernels::Kernels;
use args::{Args, RunArgs};
use load::Opened;
use locate::{Surroundings, locate_model};
use settings::{Mode, Settings};
use terminal::{Terminal, print};

/// Runs the program with these arguments, without its name.
///
/// # Errors
/// Everything that ends it early; see [`CliError::exit_status`].
pub fn run(words: &[OsString]) -> Result<(), CliError> {
    let version = version();
    let terminal = Terminal::detect();
    let typed = match Args::parse_from_words(words, version) {
        Ok(args) => args,
        Err(error) if is_request(&error) => return print(&error.render().to_string()),
        // Default arguments may complete it: `-p ...` in `.args` and a bare text on the command line.
        Err(error) => return run_completed(words, &error, terminal),
    };
    if typed.help_all {
        return print(&args::command(version).render_long_help().to_string());
    }
    if let Some(tool) = typed.tool {
        return tools::run(tool, version, terminal);
    }
    let surroundings = Surroundings::detect()?;
    let file = arguments_file(&surroundings)?;
    let defaults = match parse_defaults(&file.defaults()) {
        Ok(defaults) => defaults,
        Err(error) => return run_completed(words, &error, terminal),
    };
    run_model(typed.run, defaults, &surroundings, terminal)
}

/// Puts the command line into its place in `.args` where either makes no sense alone. `error` is what is wrong with it,
/// for a file without `.args`.
fn run_completed(words: &[OsString], error: &clap::Error, terminal: Terminal) -> Result<(), CliError> {
    let surroundings = Surroundings::detect()?;
    let file = arguments_file(&surroundings)?;
    let words: Option<Vec<String>> = words.iter().map(|word| word.to_str().map(str::to_owned)).collect();
    let Some(words) = words.filter(|_| file != ArgsFile::default()) else {
        return Err(usage_error(error));
    };
    let placed: Vec<OsString> = file.place(&words).into_iter().map(Into::into).collect();
    match Args::parse_from_words(&placed, "") {
        Ok(Args { tool: None, help_all: false, run }) => {
            let defaults = RunArgs::default();
            run_model(run, defaults, &surroundings, terminal)
        }
        _ if parse_defaults(&file.defaults()).is_err() && Args::parse_from_words(&to_os(&words), "").is_ok() => {
            Err(CliError::BundleArgs { what: usage_text(error) })
        }
        Err(error) => Err(usage_error(&error)),
        Ok(_) => Err(usage_error(error)),
    }
}

fn run_model(
    typed: RunArgs,
    defaults: RunArgs,
    surroundings: &Surroundings,
    mut terminal: Terminal,
) -> Result<(), CliError> {
    let merged = typed.clone().or(defaults.clone());
    (terminal.is_quiet, terminal.is_ascii) = (merged.quiet, merged.ascii);
    (terminal.is_verbose, terminal.is_very_verbose) = (merged.verbose > 0, merged.verbose > 1);
    let settings = Settings::resolve(typed, defaults)?;
    for warning in &settings.warnings {
        terminal.note(format!("warning: {warning}"));
    }
    for note in &settings.args.foreign.notes {
        terminal.note(format!("note: {note}"));
    }
    for line in &settings.presets {
        terminal.note(line);
    }
    // Before anything else is opened: a missing prompt file is the quickest mistake to correct.
    let text = match &settings.mode {
        Mode::OneShot(one_shot) => Some(one_shot.prompt.read(one_shot.is_raw)?),
        Mode::Chat(_) | Mode::Serve(_) => None,
    };
    let (model, default_model) = (settings.model.as_deref(), settings.default_model.as_deref());
    let model_name = settings.model_name.as_deref();
    let located = match locate_model(model, default_model, model_name, surroundings) {
        Err(CliError::SeveralModels(names)) if terminal.stdin_is_terminal && terminal.stderr_is_terminal => {
            locate_model(Some(&ask_which(names)?), None, model_name, surroundings)?
        }
        located => located?,
    };
    let opened = Opened::new(located, settings.n_ctx, &terminal)?;
    opened.check_dtype(&settings.compute, &terminal)?;
    // A server says this when it has its port.
    if !matches!(settings.mode, Mode::Serve(_)) {
        serve::demo_notice(&opened, &terminal);
    }
    terminal.detail(format!("file     {}", opened.source.file()));
    if !matches!(&settings.mode, Mode::Serve(serve) if serve.banner) {
        for line in serve::banner_lines(&opened, &settings.compute) {
            terminal.detail(line);
        }
    }
    terminal.trace(format!("sampling {}", chat::on_one_line(&settings.generation)));
    match &settings.mode {
        Mode::OneShot(one_shot) => {
            one_shot::run(&settings, one_shot, text.as_deref().unwrap_or_default(), opened, &terminal)
        }
        Mode::Chat(options) => chat::run(&settings, options.clone(), opened, &terminal),
        Mode::Serve(serve) => {
            let serve = serve.clone();
            serve::run(settings, serve, opened, terminal)
        }
    }
}

/// Lets a person choose one of several models.
fn ask_which(names: Vec<String>) -> Result<PathBuf, CliError> {
    terminal::error_line("There are several models beside the program:");
    for line in error::numbered(&names).lines() {
        terminal::error_line(line);
    }
    loop {
        terminal::prompt(&format!("Which model, 1 to {}? ", names.len()));
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        match read.map(|_| line.trim().parse::<usize>()) {
            Ok(Ok(number)) if (1..=names.len()).contains(&number) => return Ok(PathBuf::from(&names[number - 1])),
            // Ctrl-D, or no answer at all.
            _ if line.trim().is_empty() => return Err(CliError::SeveralModels(names)),
            _ => terminal::error_line("Type the number that stands before the one you mean, or Ctrl-C to leave."),
        }
    }
}

/// The commit, where the build was told one: see `build.rs`.
const COMMIT: Option<&str> = option_env!("GEMMA2_COMMIT");

/// `0.1.0 (a1b2c3d4e5)`
fn number_and_commit() -> String {
    let commit = COMMIT.map(|commit| format!(" ({commit})")).unwrap_or_default();
    format!("{}{commit}", env!("CARGO_PKG_VERSION"))
}

/// `0.1.0`, the commit where the build was told one, and what the program can use on this machine.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let number = number_and_commit();
        let usable: Vec<String> = Kernels::available().map(|kernels| kernels.isa().to_string()).collect();
        let best = Kernels::get().isa();
        // Which there are, `info` tells: asking the driver takes its time.
        let gpu = match VENDOR {
            Some(Vendor::Nvidia) => "code for NVIDIA's",
            Some(Vendor::Apple) => "code for Apple's",
            None => "none in this build",
        };
        format!("{number}\nCPU: {best} (can run {})\nGPU: {gpu}", usable.join(", "))
    })
}

fn arguments_file(surroundings: &Surroundings) -> Result<ArgsFile, CliError> {
    Ok(surroundings.bundle.as_ref().map(Bundle::args).transpose()?.unwrap_or_default())
}

/// The default arguments inside a bundle; those that need a command line to be complete are left out.
fn default_arguments(bundle: &Bundle) -> Result<RunArgs, CliError> {
    Ok(parse_defaults(&bundle.args()?.defaults()).unwrap_or_default())
}

fn parse_defaults(words: &[String]) -> Result<RunArgs, clap::Error> {
    let args = Args::parse_from_words(&to_os(words), "")?;
    match args.tool {
        None => Ok(args.run),
        Some(_) => Err(clap::Error::raw(ErrorKind::InvalidSubcommand, "a tool cannot be a default argument")),
    }
}

fn to_os(words: &[String]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Whether clap's "error" is what was asked for: help or the version.
fn is_request(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

fn usage_error(error: &clap::Error) -> CliError {
    let suggested = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::SuggestedValue]
        .into_iter()
        .find_map(|kind| match error.get(kind)? {
            ContextValue::String(one) => Some(one.clone()),
            ContextValue::Strings(several) => several.last().cloned(), // The likeliest comes last.
            _ => None,
        });
    let valid = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => Some(values.join(", ")),
        _ => None,
    };
    if let Some(ContextValue::String(hint)) = error.get(ContextKind::Custom) {
        return CliError::Usage { what: usage_text(error), hint: hint.clone() };
    }
    let names = [ContextKind::InvalidArg, ContextKind::PriorArg].map(|kind| match error.get(kind) {
        Some(ContextValue::String(name)) => name.clone(),
        Some(ContextValue::Strings(names)) => names.join(" "),
        _ => String::new(),
    });
    let is_chat = error.kind() == ErrorKind::ArgumentConflict && names.iter().any(|name| name.contains("--chat"));
    if is_chat && names.iter().any(|name| name.contains("--prompt") || name.contains("--file")) {
        let hint = "a chat begins with what you type in it, and `-sys TEXT` gives it instructions; \
                    without `--chat` the prompt is answered";
        return CliError::Usage { what: usage_text(error), hint: hint.into() };
    }
    let is_server = error.kind() == ErrorKind::ArgumentConflict && names.iter().any(|name| name.contains("--server"));
    if is_server && names.iter().any(|name| name.contains("--prompt") || name.contains("--file")) {
        let hint = "requests to a server bring their own prompts; without `--server` this one is answered";
        return CliError::Usage { what: usage_text(error), hint: hint.into() };
    }
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
        && suggested.is_none()
    {
        return CliError::Usage { what: format!("`{word}` is no tool of this program"), hint: meant_by(word) };
    }
    let hint = match (suggested, valid) {
        (Some(suggested), _) => format!("did you mean `{suggested}`? `gemma2 --help-all` lists every flag"),
        (None, Some(valid)) => format!("possible values: {valid}"),
        (None, None) => "`gemma2 --help` shows what is possible, `--help-all` every flag".into(),
    };
    CliError::Usage { what: usage_text(error), hint }
}

/// What somebody may have meant who typed this without a flag.
fn meant_by(word: &str) -> String {
    let is_model = [".gguf", ".llamafile", ".safetensors"].iter().any(|ending| word.ends_with(ending));
    match is_model || std::path::Path::new(word).exists() {
        true => format!("weights are named with `-m`: `gemma2 -m {word}`"),
        false => "a question is asked with `-p`: `gemma2 -p 'TEXT'`; `gemma2 --help` lists the tools".into(),
    }
}

/// What is wrong, in clap's words, on one line.
fn usage_text(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let mut text = backticks(&first.join(" "));
    for (said, plain) in
        [("invalid digit found in string", "it is no whole number"), ("invalid float literal", "it is no number")]
    {
        text = text.replace(said, plain);
    }
    let flag = error.get(ContextKind::InvalidArg).map(ToString::to_string);
    if let Some(flag) = flag.as_deref().and_then(|flag| flag.strip_prefix('-'))
        && foreign::is_short(flag)
    {
        text = format!("`{flag}` is no flag of this tool");
    }
    text
}

/// `'word'` to `` `word` ``; an apostrophe within a word stays.
fn backticks(text: &str) -> String {
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(character) = rest.next() {
        let is_within = before.is_alphanumeric() && rest.peek().is_some_and(|next| next.is_alphanumeric());
        out.push(if character == '\'' && !is_within { '`' } else { character });
        before = character;
    }
    out
}
