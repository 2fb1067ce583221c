//! What the arguments mean: everything that can be decided before the model is opened is decided here, once.

use std::path::PathBuf;

use super::args::{Dtype, PoolingArg, RunArgs, Seed};
use super::error::CliError;
use super::machine::{available_memory, physical_cores};
use super::offload::Offload;
use super::presets;
use super::prompt::{PromptSource, read_text, unescape};
use crate::engine::{Limit, Overflow, Pooling, Sampling};
use crate::grammar::Source;
use crate::kernels::{Format, Isa, Kernels};
use crate::ops::KvType;

/// Tokens of context where `-c` is not given.
pub const DEFAULT_N_CTX: usize = 512;
/// Slots of a server where `-np` is not given.
const DEFAULT_SERVER_SLOTS: usize = 4;
/// Most tokens of a prompt read together, as in llama.cpp.
const DEFAULT_N_BATCH: usize = 2048;
/// Most tokens of a prompt in one step, as in llama.cpp.
const DEFAULT_N_UBATCH: usize = 512;
/// With the token that is certain, as many as a step takes at little cost.
const DEFAULT_N_LOOKUP: usize = 15;
/// The port where `--port` is not given; the next ten are tried when it is taken.
pub const DEFAULT_PORT: u16 = 8080;

/// What to run and how.
#[derive(Debug)]
pub struct Settings {
    /// What the program is to do.
    pub mode: Mode,
    /// `-m` of the command line.
    pub model: Option<PathBuf>,
    /// `-m` of `.args`.
    pub default_model: Option<PathBuf>,
    /// Which of several models in a file.
    pub model_name: Option<String>,
    /// Tokens of context; 0 is the model's maximum.
    pub n_ctx: usize,
    /// How the model computes.
    pub compute: ComputeSettings,
    /// How text is made.
    pub generation: Generation,
    /// Speed and counts at the end.
    pub show_stats: bool,
    /// What is not as it was asked for, in words.
    pub warnings: Vec<String>,
    /// What presets stand for, a line each.
    pub presets: Vec<String>,
    /// All arguments together, for what may change while it runs.
    pub args: RunArgs,
}

/// How the model computes.
#[derive(Debug)]
pub struct ComputeSettings {
    /// The arithmetic to use.
    pub kernels: &'static Kernels,
    /// Threads.
    pub n_threads: usize,
    /// Threads for steps of several tokens.
    pub n_threads_batch: usize,
    /// Most prompt tokens in one step.
    pub n_ubatch: usize,
    /// Slots.
    pub n_parallel: usize,
    /// How caches keep keys, and values.
    pub kv_types: [KvType; 2],
    /// Most tokens guessed ahead.
    pub n_lookup: usize,
    /// The number of slots was asked for.
    pub is_parallel_given: bool,
    /// Copy the weights into memory.
    pub no_mmap: bool,
    /// Interleave their rows, in memory of their own; `None` leaves it to what there is of that.
    pub repack: Option<bool>,
    /// Lock the weights in memory.
    pub mlock: bool,
    /// Take the weights in this format.
    pub dtype: Option<Format>,
    /// It was asked for, and not only by a preset.
    pub is_dtype_given: bool,
    /// A GPU for a part of the model.
    pub offload: Option<Offload>,
}

/// How text is made.
#[derive(Clone, Debug)]
pub struct Generation {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// How long a reply may get.
    pub limit: Limit,
    /// What happens where it outgrows the context.
    pub overflow: Overflow,
    /// The turn never ends.
    pub ignore_eos: bool,
    /// Texts that end a reply.
    pub stop: Vec<String>,
    /// Control tokens are shown.
    pub show_control: bool,
    /// Instructions before the first message.
    pub system_prompt: Option<String>,
    /// What a reply has to look like.
    pub shape: Option<Shape>,
}

/// What a reply has to look like, and the flag that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// The grammar or schema.
    pub source: Source,
    /// `--grammar` and its like.
    pub flag: &'static str,
}

/// What the program is to do.
#[derive(Debug)]
pub enum Mode {
    /// Answer one prompt.
    OneShot(OneShot),
    /// Chat in the terminal.
    Chat(Chat),
    /// Answer HTTP.
    Serve(Serve),
}

/// One prompt.
#[derive(Debug)]
pub struct OneShot {
    /// Its text or where that comes from.
    pub prompt: PromptSource,
    /// No chat template.
    pub is_raw: bool,
    /// Print the prompt first.
    pub echo: bool,
    /// Where what the model remembers of it is kept.
    pub prompt_cache: Option<PathBuf>,
    /// How the answer is printed.
    pub output: Output,
}

/// What stdout gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The text as it is made.
    Text,
    /// One JSON object at the end.
    Json,
    /// A JSON object for each token, and one at the end.
    StreamJson,
}

/// A chat in the terminal.
#[derive(Clone, Debug)]
pub struct Chat {
    /// Color Markdown.
    pub markdown: bool,
    /// Remember what was typed in a file.
    pub history: bool,
    /// Where what the model remembers of the chat is kept.
    pub prompt_cache: Option<PathBuf>,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// Name or address to listen on.
    pub host: String,
    /// Further ones, on the same port.
    pub other_hosts: Vec<String>,
    /// `None` is the default port, or a free one near it.
    pub port: Option<u16>,
    /// Open a browser when ready.
    pub open_browser: bool,
    /// Print a banner.
    pub banner: bool,
    /// The model's names in the APIs, instead of its own; the first is the one told.
    pub aliases: Vec<String>,
    /// Words about the model.
    pub tags: Vec<String>,
    /// How texts are embedded.
    pub pooling: Pooling,
    /// `GET /slots` answers.
    pub shows_slots: bool,
    /// `GET /` answers.
    pub has_page: bool,
    /// Keys of API clients.
    pub api_keys: Vec<String>,
    /// More of them, in a file.
    pub api_key_file: Option<PathBuf>,
    /// Origins that may call the APIs.
    pub cors_origins: Vec<String>,
    /// Host names besides those that need no permission.
    pub allowed_hosts: Vec<String>,
    /// Where the log goes.
    pub log_file: Option<PathBuf>,
    /// Give up what a running server does not need.
    pub sandbox: bool,
    /// Replies to raw prompts go on past the context.
    pub context_shift: bool,
    /// Where slots are saved.
    pub slot_save_path: Option<PathBuf>,
}

impl Settings {
    /// Decides. `typed` is the command line, `defaults` what `.args` of this file says.
    ///
    /// # Errors
    /// Values out of range, flags that mean nothing in the mode they are given with.
    pub fn resolve(typed: RunArgs, defaults: RunArgs) -> Result<Settings, CliError> {
        let (model, default_model) = (typed.model.clone(), defaults.model.clone());
        let mut warnings = Vec::new();
        let args = typed.clone().or(defaults.clone());
        check_use(&typed, &args)
            .map_err(|what| CliError::Usage { hint: "leave it out, or see `gemma2 --help`".into(), what })?;
        if let Err(what) = check_use(&defaults, &args) {
            warnings.push(format!("in this file's `.args`, {what}"));
        }
        let args = completed(args)?;
        let is_dtype_given = args.dtype.is_some();
        let is_server = is_server(&args);
        let (args, presets) = presets::expand(args, is_server, available_memory())?;
        let generation = generation(&args)?;
        let compute = ComputeSettings { is_dtype_given, ..compute(&args, &mut warnings)? };
        let mode = mode(&args)?;
        Ok(Settings {
            mode,
            model,
            default_model,
            model_name: args.model_name.clone(),
            n_ctx: args.ctx_size.unwrap_or(DEFAULT_N_CTX),
            compute,
            generation,
            show_stats: args.stats,
            warnings,
            presets,
            args,
        })
    }
}

/// With escapes undone and the text of files in place.
fn completed(mut args: RunArgs) -> Result<RunArgs, CliError> {
    if let Some(path) = args.system_prompt_file.take() {
        args.system_prompt = Some(read_text(&path)?.trim_end().to_owned());
    } else if args.escape {
        args.system_prompt = args.system_prompt.as_deref().map(unescape).transpose()?;
    }
    if std::mem::take(&mut args.escape) {
        args.prompt = args.prompt.as_deref().map(unescape).transpose()?;
        args.reverse_prompt = args.reverse_prompt.iter().map(|text| unescape(text)).collect::<Result<_, _>>()?;
    }
    Ok(args)
}

fn is_one_shot(args: &RunArgs) -> bool {
    args.prompt.is_some() || args.file.is_some()
}

fn is_server(args: &RunArgs) -> bool {
    !is_one_shot(args) && !args.chat
}

/// `-n` for a reply that ends with the context only.
const UNTIL_FULL: i64 = -2;

/// A flag that is accepted does something: here are those that cannot, in the mode that `all` arguments select.
fn check_use(given: &RunArgs, all: &RunArgs) -> Result<(), String> {
    let needs_prompt =
        [(given.raw, "--raw"), (given.echo, "--echo"), (given.json, "--json"), (given.stream_json, "--stream-json")];
    let needs_raw =
        [(given.keep.is_some(), "--keep"), (given.no_context_shift && !is_server(all), "--no-context-shift")];
    let needs_text = [
        (given.special, "--special"),
        (given.stats, "--stats"),
        (given.ignore_eos, "--ignore-eos"),
        (given.n_predict == Some(UNTIL_FULL), "-n -2"),
        (given.system_prompt.is_some(), "-sys"),
        (given.system_prompt_file.is_some(), "-sysf"),
        (given.prompt_cache.is_some(), "--prompt-cache"),
        (!given.reverse_prompt.is_empty(), "-r"),
        (given.grammar.is_some(), "--grammar"),
        (given.grammar_file.is_some(), "--grammar-file"),
        (given.regex.is_some(), "--regex"),
        (given.json_schema.is_some(), "-j"),
        (given.json_schema_file.is_some(), "-jf"),
    ];
    let needs_chat = [(given.no_markdown, "--no-markdown"), (given.no_history, "--no-history")];
    let needs_server = [
        (given.parallel.is_some(), "-np"),
        (given.host.is_some(), "--host"),
        (given.port.is_some(), "--port"),
        (given.alias.is_some(), "--alias"),
        (given.tags.is_some(), "--tags"),
        (given.pooling.is_some(), "--pooling"),
        (given.no_slots, "--no-slots"),
        (given.no_ui, "--no-ui"),
        (!given.api_key.is_empty(), "--api-key"),
        (given.api_key_file.is_some(), "--api-key-file"),
        (!given.cors.is_empty(), "--cors"),
        (!given.allow_host.is_empty(), "--allow-host"),
        (given.slot_save_path.is_some(), "--slot-save-path"),
        (given.log_file.is_some(), "--log-file"),
    ];
    let first = |flags: &[(bool, &'static str)]| flags.iter().find(|(is_given, _)| *is_given).map(|(_, flag)| *flag);
    if given.escape && all.prompt.is_none() && all.reverse_prompt.is_empty() && all.system_prompt.is_none() {
        return Err("`-e` unescapes the texts of `-p`, `-r` and `-sys`, and none is there".into());
    }
    if let Some(flag) = given.foreign.needs_prompt
        && !is_one_shot(all)
    {
        return Err(format!("`{flag}` needs a prompt (`-p` or `-f`)"));
    }
    if !is_one_shot(all)
        && let Some(flag) = first(&needs_prompt)
    {
        return Err(format!("`{flag}` needs a prompt (`-p` or `-f`)"));
    }
    if !all.raw
        && let Some(flag) = first(&needs_raw)
    {
        return Err(format!("`{flag}` is about the context of a raw prompt (`--raw`)"));
    }
    if is_server(all)
        && let Some(flag) = first(&needs_text)
    {
        return Err(format!(
            "`{flag}` needs a prompt (`-p` or `-f`) or `--chat`; requests to a server bring their own"
        ));
    }
    if !all.chat
        && let Some(flag) = first(&needs_chat)
    {
        return Err(format!("`{flag}` is for `--chat`"));
    }
    if !is_server(all)
        && let Some(flag) = first(&needs_server)
    {
        return Err(format!("`{flag}` is for the server, and `-p`, `-f` and `--chat` start none"));
    }
    Ok(())
}

fn mode(args: &RunArgs) -> Result<Mode, CliError> {
    if args.chat {
        let prompt_cache = args.prompt_cache.clone();
        return Ok(Mode::Chat(Chat { markdown: !args.no_markdown, history: !args.no_history, prompt_cache }));
    }
    if let Some(prompt) = PromptSource::of(args) {
        let output = match (args.json, args.stream_json) {
            (_, true) => Output::StreamJson,
            (true, false) => Output::Json,
            (false, false) => Output::Text,
        };
        return Ok(Mode::OneShot(OneShot {
            prompt,
            is_raw: args.raw,
            echo: args.echo,
            output,
            prompt_cache: args.prompt_cache.clone(),
        }));
    }
    let words = |list: &Option<String>| -> Vec<String> {
        let mut words: Vec<String> = list.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
        // The order that llama.cpp has, where the first one is the model's id.
        words.sort_unstable();
        words.dedup();
        words
    };
    let (aliases, tags) = (words(&args.alias), words(&args.tags));
    for (flag, words) in [("--alias", &aliases), ("--tags", &tags)] {
        if !words.iter().all(|word| is_model_name(word)) {
            let message = format!("`{flag}` takes words of 1 to 128 characters, none of them a space or invisible");
            return Err(CliError::usage(message));
        }
    }
    if !args.api_key.iter().all(|key| is_api_key(key)) {
        return Err(CliError::usage("`--api-key` takes visible ASCII characters without spaces"));
    }
    let hosts = args.host.as_deref().unwrap_or("127.0.0.1");
    let mut hosts = hosts.split(',').map(|host| host.trim().to_owned());
    Ok(Mode::Serve(Serve {
        host: hosts.next().unwrap_or_default(),
        other_hosts: hosts.collect(),
        port: args.port,
        open_browser: !args.nobrowser && !args.server && !args.no_ui,
        banner: !args.nologo,
        aliases,
        tags,
        pooling: match args.pooling {
            None | Some(PoolingArg::Mean) => Pooling::Mean,
            Some(PoolingArg::Cls) => Pooling::First,
            Some(PoolingArg::Last) => Pooling::Last,
            Some(PoolingArg::None) => Pooling::None,
        },
        shows_slots: !args.no_slots,
        has_page: !args.no_ui,
        api_keys: args.api_key.clone(),
        api_key_file: args.api_key_file.clone(),
        cors_origins: args.cors.clone(),
        allowed_hosts: args.allow_host.clone(),
        log_file: args.log_file.clone(),
        sandbox: !args.no_sandbox,
        context_shift: !args.no_context_shift,
        slot_save_path: args.slot_save_path.clone(),
    }))
}

/// Whether clients can tell this name and write it down.
fn is_model_name(name: &str) -> bool {
    (1..=128).contains(&name.chars().count()) && !name.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Whether this can travel in a header.
pub fn is_api_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_graphic())
}

fn compute(args: &RunArgs, warnings: &mut Vec<String>) -> Result<ComputeSettings, CliError> {
    let positive = |flag: &str, value: Option<usize>, default: usize| match value {
        Some(0) => Err(CliError::usage(format!("`{flag}` is 0 and must be at least 1"))),
        value => Ok(value.unwrap_or(default)),
    };
    let n_batch = positive("-b", args.batch_size, DEFAULT_N_BATCH)?;
    let n_threads = positive("-t", args.threads, physical_cores())?;
    let default_slots = if is_server(args) { DEFAULT_SERVER_SLOTS } else { 1 };
    Ok(ComputeSettings {
        kernels: kernels(args.isa.as_deref())?,
        n_threads,
        n_threads_batch: positive("-tb", args.threads_batch, n_threads)?,
        n_ubatch: positive("-ub", args.ubatch_size, DEFAULT_N_UBATCH)?.min(n_batch),
        n_parallel: positive("-np", args.parallel, default_slots)?,
        kv_types: [args.cache_type_k, args.cache_type_v].map(Option::unwrap_or_default),
        n_lookup: args.lookup.unwrap_or(DEFAULT_N_LOOKUP),
        is_parallel_given: args.parallel.is_some(),
        no_mmap: args.no_mmap,
        repack: (args.repack || args.no_repack).then_some(args.repack),
        mlock: args.mlock,
        dtype: args.dtype.map(|dtype| match dtype {
            Dtype::F32 => Format::F32,
            Dtype::Bf16 => Format::BF16,
        }),
        is_dtype_given: false,
        offload: Offload::wanted(args, warnings)?,
    })
}

fn kernels(name: Option<&str>) -> Result<&'static Kernels, CliError> {
    let Some(name) = name else {
        return Ok(Kernels::get());
    };
    let usable: Vec<String> = Kernels::available().map(|k| k.isa().to_string()).collect();
    let hint = format!("this CPU has {}", usable.join(", "));
    match Isa::parse(name).map(Kernels::new) {
        Some(Some(kernels)) => Ok(kernels),
        Some(None) => Err(CliError::Usage { what: format!("`--isa {name}` is not possible on this CPU"), hint }),
        None => Err(CliError::Usage { what: format!("`--isa {name}` is unknown"), hint }),
    }
}

/// How text is made, of arguments that may be those of a chat that goes on.
///
/// # Errors
/// Values out of range.
pub fn generation(args: &RunArgs) -> Result<Generation, CliError> {
    let default = Sampling::default();
    let seed = match args.seed {
        Some(Seed::Fixed(seed)) => Some(seed),
        Some(Seed::Random) | None => None,
    };
    let sampling = Sampling {
        temperature: in_range("--temp", args.temp, default.temperature, 0.0, f32::MAX)?,
        top_k: args.top_k.unwrap_or(default.top_k),
        top_p: in_range("--top-p", args.top_p, default.top_p, 0.0, 1.0)?,
        min_p: in_range("--min-p", args.min_p, default.min_p, 0.0, 1.0)?,
        typical_p: in_range("--typical", args.typical, default.typical_p, 0.0, 1.0)?,
        repeat_penalty: in_range("--repeat-penalty", args.repeat_penalty, default.repeat_penalty, 0.0, f32::MAX)?,
        repeat_last_n: args.repeat_last_n.unwrap_or(default.repeat_last_n),
        presence_penalty: in_range("--presence-penalty", args.presence_penalty, 0.0, f32::MIN, f32::MAX)?,
        frequency_penalty: in_range("--frequency-penalty", args.frequency_penalty, 0.0, f32::MIN, f32::MAX)?,
        logit_bias: args.logit_bias.iter().map(|b| (b.token, b.bias)).collect(),
        seed,
        ..default
    };
    if sampling.repeat_last_n < -1 {
        return Err(CliError::usage("`--repeat-last-n` is below -1"));
    }
    if sampling.repeat_penalty == 0.0 {
        return Err(CliError::usage("`--repeat-penalty` is 0 and must be more"));
    }
    let (limit, until_full) = match args.n_predict.unwrap_or(-1) {
        UNTIL_FULL => (Limit::EndOfTurn, true),
        -1 => (Limit::EndOfTurn, false),
        n => match usize::try_from(n) {
            Ok(n) => (Limit::Tokens(n), false),
            Err(_) => return Err(CliError::usage(format!("`-n {n}` is below -2"))),
        },
    };
    if args.reverse_prompt.iter().any(String::is_empty) {
        return Err(CliError::usage("`-r` is empty and would stop everything"));
    }
    let n_keep = match args.keep.unwrap_or(0) {
        -1 => None,
        n => Some(usize::try_from(n).map_err(|_| CliError::usage(format!("`--keep {n}` is below -1")))?),
    };
    // A number of tokens is a promise; without one a reply ends with the context.
    let shifts = args.raw && !args.no_context_shift && matches!(limit, Limit::Tokens(_));
    let overflow = if shifts { Overflow::Shift { n_keep, cut_prompt: false } } else { Overflow::Stop };
    Ok(Generation {
        sampling,
        limit,
        overflow,
        ignore_eos: args.ignore_eos || until_full,
        stop: args.reverse_prompt.clone(),
        show_control: args.special,
        system_prompt: args.system_prompt.clone(),
        shape: shape(args)?,
    })
}

/// The grammar or schema; at most one is given.
fn shape(args: &RunArgs) -> Result<Option<Shape>, CliError> {
    let schema = |text: &str, flag: &'static str| match serde_json::from_str(text) {
        Ok(schema) => Ok(Some(Shape { source: Source::JsonSchema(schema), flag })),
        Err(error) => Err(CliError::Usage {
            what: format!("`{flag}` is not JSON: {error}"),
            hint: r#"a schema looks like this: {"type": "object", "properties": {"name": {"type": "string"}}}"#.into(),
        }),
    };
    let grammar = |text: &str, flag| Ok(Some(Shape { source: Source::from_text(text), flag }));
    if let Some(text) = &args.regex {
        return Ok(Some(Shape { source: Source::Regex(text.clone()), flag: "--regex" }));
    }
    match (&args.grammar, &args.grammar_file, &args.json_schema, &args.json_schema_file) {
        (Some(text), ..) => grammar(text, "--grammar"),
        (_, Some(path), ..) => grammar(&read_text(path)?, "--grammar-file"),
        (_, _, Some(text), _) => schema(text, "--json-schema"),
        (.., Some(path)) => schema(&read_text(path)?, "--json-schema-file"),
        _ => Ok(None),
    }
}

fn in_range(flag: &str, value: Option<f32>, default: f32, low: f32, high: f32) -> Result<f32, CliError> {
    match value {
        None => Ok(default),
        Some(value) if (low..=high).contains(&value) => Ok(value),
        Some(value) if high == f32::MAX && low > f32::MIN => {
            Err(CliError::usage(format!("`{flag} {value}` is no number from {low}")))
        }
        Some(value) if high == f32::MAX => Err(CliError::usage(format!("`{flag} {value}` is no finite number"))),
        Some(value) => Err(CliError::usage(format!("`{flag} {value}` is no number from {low} to {high}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::Args;
    use super::*;

    fn run_args(line: &[&str]) -> RunArgs {
        let words: Vec<std::ffi::OsString> = line.iter().map(Into::into).collect();
        Args::parse_from_words(&words, "0").unwrap().run
    }

    fn resolve(typed: &[&str], defaults: &[&str]) -> Result<Settings, CliError> {
        Settings::resolve(run_args(typed), run_args(defaults))
    }

    fn serve(typed: &[&str]) -> Serve {
        match resolve(typed, &[]).unwrap().mode {
            Mode::Serve(serve) => serve,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_arguments_it_serves_with_gemma_s_defaults() {
        let settings = resolve(&[], &[]).unwrap();
        assert_eq!(settings.generation.sampling, Sampling::default());
        assert_eq!((settings.n_ctx, settings.compute.n_parallel, settings.compute.n_ubatch), (512, 4, 512));
        assert_eq!(settings.generation.limit, Limit::EndOfTurn);
        let serve = serve(&[]);
        assert_eq!((serve.host.as_str(), serve.port, serve.open_browser), ("127.0.0.1", None, true));
    }

    #[test]
    fn browsers_are_opened_only_when_wanted() {
        for flag in ["--server", "--nobrowser", "--no-browser"] {
            assert!(!serve(&[flag]).open_browser, "{flag}");
        }
        assert_eq!(serve(&["--port", "0"]).port, Some(0));
    }

    #[test]
    fn the_mode_follows_from_what_was_typed() {
        assert!(matches!(resolve(&["--chat"], &["--server"]).unwrap().mode, Mode::Chat(_)));
        assert!(matches!(resolve(&["-p", "x"], &["--chat"]).unwrap().mode, Mode::OneShot(_)));
        assert!(matches!(resolve(&["-n", "5"], &["-p", "x"]).unwrap().mode, Mode::OneShot(_)));
        assert!(matches!(resolve(&["--server"], &["-p", "x"]).unwrap().mode, Mode::Serve(_)));
    }

    #[test]
    fn lengths_are_tokens_or_conditions() {
        let generation = |n: &str| resolve(&["-p", "x", "-n", n], &[]).unwrap().generation;
        assert_eq!(generation("7").limit, Limit::Tokens(7));
        assert!(!generation("-1").ignore_eos);
        assert!(generation("-2").ignore_eos);
        assert_eq!(generation("-2").limit, Limit::EndOfTurn);
        assert_eq!(resolve(&["-p", "x", "-n", "-3"], &[]).unwrap_err().exit_status(), 2);
    }

    #[test]
    fn a_raw_prompt_with_a_number_of_tokens_goes_on_past_the_context() {
        let overflow =
            |more: &[&str]| resolve(&[&["-p", "x", "--raw"], more].concat(), &[]).unwrap().generation.overflow;
        let shift = |n_keep| Overflow::Shift { n_keep, cut_prompt: false };
        assert_eq!(overflow(&["-n", "5"]), shift(Some(0)));
        assert_eq!(overflow(&["-n", "5", "--keep", "7"]), shift(Some(7)));
        assert_eq!(overflow(&["-n", "5", "--keep", "-1"]), shift(None));
        assert_eq!(overflow(&["-n", "5", "--no-context-shift"]), Overflow::Stop);
        assert_eq!(overflow(&["-n", "-1"]), Overflow::Stop);
        assert!(serve(&[]).context_shift && !serve(&["--no-context-shift"]).context_shift);
    }

    #[test]
    fn values_out_of_range_are_usage_errors_that_name_the_flag() {
        let cases: [&[&str]; 15] = [
            &["--keep=-2", "--raw", "-p", "x"],
            &["--temp=-1"],
            &["--temp", "nan"],
            &["--temp", "inf"],
            &["--top-p", "1.5"],
            &["--min-p", "2"],
            &["--typical=-0.1"],
            &["--repeat-penalty", "0"],
            &["--repeat-last-n", "-2"],
            &["--presence-penalty", "inf"],
            &["-t", "0"],
            &["-tb", "0"],
            &["-b", "0"],
            &["--isa", "z80"],
            &["--api-key", "two words"],
        ];
        for case in cases {
            let error = match Args::parse_from_words(&case.iter().map(Into::into).collect::<Vec<_>>(), "0") {
                Ok(args) => Settings::resolve(args.run, RunArgs::default()).unwrap_err(),
                Err(_) => continue,
            };
            assert_eq!(error.exit_status(), 2, "{case:?}");
            let flag = case[0].split('=').next().unwrap();
            assert!(error.to_string().contains(flag), "{case:?}: {error}");
        }
    }

    #[test]
    fn no_flag_is_accepted_where_it_would_do_nothing() {
        let cases: [&[&str]; 15] = [
            &["--prompt-cache", "x"],
            &["--cli"],
            &["--keep", "5"],
            &["-p", "x", "--keep", "5"],
            &["-p", "x", "--no-context-shift"],
            &["-e"],
            &["-e", "-f", "x"],
            &["--raw"],
            &["--echo", "--chat"],
            &["--special"],
            &["-n", "-2", "--server"],
            &["-sys", "x"],
            &["-p", "x", "--port", "1"],
            &["--chat", "--host", "x"],
            &["-p", "x", "-np", "2"],
        ];
        for case in cases {
            let error = resolve(case, &[]).unwrap_err();
            assert_eq!(error.exit_status(), 2, "{case:?}");
        }
        // As a default inside a packed file it may be meant for another mode: said, not fatal.
        let settings = resolve(&["--server"], &["-n", "-2"]).unwrap();
        assert_eq!(settings.warnings.len(), 1, "{:?}", settings.warnings);
    }

    #[test]
    fn escapes_and_files_are_read_once() {
        let settings = resolve(&["-e", "-p", r"a\nb", "-r", r"```\n", "-sys", r"x\ty"], &[]).unwrap();
        assert_eq!(settings.generation.stop, ["```\n"]);
        assert_eq!(settings.generation.system_prompt.as_deref(), Some("x\ty"));
        assert_eq!((settings.args.prompt.as_deref(), settings.args.escape), (Some("a\nb"), false));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("system.txt");
        std::fs::write(&path, "Be brief.\n").unwrap();
        let settings = resolve(&["-sysf", path.to_str().unwrap(), "-p", "x"], &["-sys", "Be long."]).unwrap();
        assert_eq!(settings.generation.system_prompt.as_deref(), Some("Be brief."));
    }

    #[test]
    fn a_wish_for_a_gpu_is_answered_with_a_warning() {
        // On a machine with one, it is taken.
        let settings = resolve(&["-ngl", "999"], &[]).unwrap();
        assert_eq!(settings.warnings.len(), usize::from(settings.compute.offload.is_none()));
        assert!(resolve(&["-ngl", "0"], &[]).unwrap().warnings.is_empty());
        assert!(resolve(&["-ngl", "9", "--gpu", "disable"], &[]).unwrap().warnings.is_empty());
        assert_eq!(resolve(&["--gpu", "amd"], &[]).unwrap_err().exit_status(), 2);
    }

    #[test]
    fn an_instruction_set_can_be_forced() {
        let settings = resolve(&["--isa", "scalar"], &[]).unwrap();
        assert_eq!(settings.compute.kernels.isa(), Isa::Scalar);
    }
}
