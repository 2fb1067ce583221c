//! What was typed: every flag, no I/O, no defaults that need the model. `settings.rs` decides what it means.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use super::foreign::Foreign;
use super::help;
use super::words::our_words;
use crate::ops::KvType;

/// A command line.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "gemma2",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    args_override_self = true,
    allow_negative_numbers = true,
    max_term_width = 100
)]
pub struct Args {
    /// A tool instead of running the model.
    #[command(subcommand)]
    pub tool: Option<Tool>,
    /// How to run the model.
    #[command(flatten)]
    pub run: RunArgs,
    /// Every flag with its default.
    #[arg(long)]
    pub help_all: bool,
}

/// Flags of the program itself. `None`, `false` and empty mean "not given".
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct RunArgs {
    /// Weights: a .gguf file, a model directory, a packed file or a .llamafile [env: GEMMA2_MODEL; default: see above]
    #[arg(short, long, value_name = "PATH", help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// Which model of a file with several: a name that `gemma2 list` shows [default: the first]
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub model_name: Option<String>,
    /// Read the weights into memory instead of mapping the file
    #[arg(long, help_heading = "Model")]
    pub no_mmap: bool,
    /// Copy the weights into memory and interleave their rows: faster, above all for several replies at once, for a moment
    /// at the start [default: a server and a chat do with AVX-512 and ample memory]
    #[arg(long, help_heading = "Model", overrides_with = "no_repack")]
    pub repack: bool,
    /// (-nr) Use the weights where they lie in the file
    #[arg(long, help_heading = "Model", overrides_with = "repack")]
    pub no_repack: bool,
    /// Keep the weights from being swapped out
    #[arg(long, help_heading = "Model")]
    pub mlock: bool,
    /// Take the weights of a safetensors model as this type, in memory of their own [default: as they are]
    #[arg(long, value_name = "TYPE", help_heading = "Model")]
    pub dtype: Option<Dtype>,

    /// Tokens of context; 0 is the model's maximum [default: 512]
    #[arg(short, long, value_name = "N", help_heading = "Context and speed")]
    pub ctx_size: Option<usize>,
    /// CPU threads [default: physical cores]
    #[arg(short, long, value_name = "N", help_heading = "Context and speed")]
    pub threads: Option<usize>,
    /// (-tb) CPU threads while a prompt is read [default: as many as `-t`]
    #[arg(long, value_name = "N", help_heading = "Context and speed")]
    pub threads_batch: Option<usize>,
    /// Most tokens of a prompt read together; at most `-ub` are [default: 2048]
    #[arg(short, long, value_name = "N", help_heading = "Context and speed")]
    pub batch_size: Option<usize>,
    /// (-ub) Most tokens of a prompt in one step [default: 512]
    #[arg(long, value_name = "N", help_heading = "Context and speed")]
    pub ubatch_size: Option<usize>,
    /// (-np) Slots: requests answered side by side, each with its own context [default: 1; server: 4]
    #[arg(long, value_name = "N", help_heading = "Context and speed")]
    pub parallel: Option<usize>,
    /// Tokens of a reply guessed ahead from the text so far and checked together: faster where a reply repeats much of it,
    /// never another reply; 0 turns it off [default: 15]
    #[arg(long, value_name = "N", help_heading = "Context and speed")]
    pub lookup: Option<usize>,
    /// (-ctk) How keys are kept: f32, f16, bf16 or q8_0 [default: f16]
    #[arg(long, value_name = "TYPE", help_heading = "Context and speed", value_parser = parse_kv_type)]
    pub cache_type_k: Option<KvType>,
    /// (-ctv) How values are kept: f32, f16, bf16 or q8_0 [default: f16]
    #[arg(long, value_name = "TYPE", help_heading = "Context and speed", value_parser = parse_kv_type)]
    pub cache_type_v: Option<KvType>,
    /// Replies to raw prompts end with the context; otherwise the oldest tokens make room
    #[arg(long, help_heading = "Context and speed")]
    pub no_context_shift: bool,
    /// (-ngl) So many of the last layers on the GPU, the output head counted as one; 999 is all. What does not fit stays on
    /// the CPU [default: 0]
    #[arg(long = "gpu-layers", visible_alias = "n-gpu-layers", value_name = "N", help_heading = "Context and speed")]
    pub n_gpu_layers: Option<u32>,
    /// Which GPU to use; one that is named has to be there, and takes all layers unless `-ngl` says otherwise [default: auto]
    #[arg(long, value_name = "WHICH", help_heading = "Context and speed")]
    pub gpu: Option<Gpu>,
    /// Several flags at once; what they are is printed, and flags that are given win
    #[arg(long, value_name = "NAME", help_heading = "Context and speed")]
    pub preset: Option<Preset>,
    /// Instruction set of the CPU to use [default: the best it has]
    #[arg(long, value_name = "NAME", help_heading = "Context and speed")]
    pub isa: Option<String>,

    /// Answer this prompt and exit
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Prompt")]
    pub prompt: Option<String>,
    /// Prompt from a file, `-` is stdin; beside `-p` it follows after a blank line
    #[arg(short, long, value_name = "FILE", help_heading = "Prompt")]
    pub file: Option<PathBuf>,
    /// In `-p`, `-r` and `-sys`, \n \t \r \" \' \\ and \xNN are escapes
    #[arg(short, long, help_heading = "Prompt")]
    pub escape: bool,
    /// The prompt goes to the model as it is, without the chat template
    #[arg(long, help_heading = "Prompt")]
    pub raw: bool,
    /// Keep what the model remembers of the prompt in this file, and go on from there where a prompt begins with the same
    #[arg(long, value_name = "FILE", help_heading = "Prompt")]
    pub prompt_cache: Option<PathBuf>,
    /// (-sys) Instructions before the first message
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Prompt")]
    pub system_prompt: Option<String>,
    /// (-sysf) The same from a file
    #[arg(long, value_name = "FILE", conflicts_with = "system_prompt", help_heading = "Prompt")]
    pub system_prompt_file: Option<PathBuf>,
    /// Tokens of a `--raw` prompt that stay when the reply outgrows the context; -1 is all of them [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Prompt")]
    pub keep: Option<i64>,
    /// Chat in the terminal
    #[arg(long, conflicts_with_all = ["server", "prompt", "file"], help_heading = "Prompt")]
    pub chat: bool,

    /// Most tokens to make; -1: to the end of the turn, -2: until the context is full [default: -1]
    #[arg(short, long, alias = "predict", value_name = "N", allow_negative_numbers = true, help_heading = "Sampling")]
    pub n_predict: Option<i64>,
    /// Start of the random numbers; -1 draws one [default: -1]
    #[arg(short, long, value_name = "N", value_parser = parse_seed, allow_negative_numbers = true, help_heading = "Sampling")]
    pub seed: Option<Seed>,
    /// Several flags of sampling at once; what they are is printed, and flags that are given win
    #[arg(long, value_name = "NAME", help_heading = "Sampling")]
    pub mode: Option<Mode>,
    /// Temperature; 0 always takes the likeliest token [default: 1.0]
    #[arg(long, visible_alias = "temperature", value_name = "X", help_heading = "Sampling")]
    pub temp: Option<f32>,
    /// Only the N likeliest tokens; 0 is off [default: 64]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that make up this probability; 1 is off [default: 0.95]
    #[arg(long, value_name = "X", help_heading = "Sampling")]
    pub top_p: Option<f32>,
    /// Only tokens at least this likely beside the likeliest; 0 is off [default: 0]
    #[arg(long, value_name = "X", help_heading = "Sampling")]
    pub min_p: Option<f32>,
    /// Locally typical sampling; 1 is off [default: 1]
    #[arg(long, visible_alias = "typical-p", value_name = "X", help_heading = "Sampling")]
    pub typical: Option<f32>,
    /// Divides the scores of repeated tokens; 1 is off [default: 1]
    #[arg(long, value_name = "X", help_heading = "Sampling")]
    pub repeat_penalty: Option<f32>,
    /// Tokens that penalties look back at; 0 is off, -1 the context [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Sampling")]
    pub repeat_last_n: Option<i32>,
    /// Subtracted once from the scores of repeated tokens [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling")]
    pub presence_penalty: Option<f32>,
    /// Subtracted for each repetition [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling")]
    pub frequency_penalty: Option<f32>,
    /// Stop before this text (repeatable)
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Sampling")]
    pub reverse_prompt: Vec<String>,
    /// Never end the turn; go on until the context is full
    #[arg(long, help_heading = "Sampling")]
    pub ignore_eos: bool,
    /// Raise or lower a token's score: 235265+2.5, 235265-inf (repeatable)
    #[arg(short, long, value_name = "ID±BIAS", value_parser = parse_logit_bias, help_heading = "Sampling")]
    pub logit_bias: Vec<LogitBias>,

    /// The answer follows this grammar (GBNF, or Lark after `%llguidance`)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["grammar_file", "regex", "json_schema", "json_schema_file"], help_heading = "Sampling")]
    pub grammar: Option<String>,
    /// The answer follows the grammar in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["regex", "json_schema", "json_schema_file"], help_heading = "Sampling")]
    pub grammar_file: Option<PathBuf>,
    /// The whole answer matches this regular expression
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["json_schema", "json_schema_file"], help_heading = "Sampling")]
    pub regex: Option<String>,
    /// The answer is JSON that this schema describes; `{}` is any JSON
    #[arg(short, long, value_name = "SCHEMA", conflicts_with = "json_schema_file", help_heading = "Sampling")]
    pub json_schema: Option<String>,
    /// (-jf) The answer is JSON that the schema in this file describes
    #[arg(long, value_name = "FILE", help_heading = "Sampling")]
    pub json_schema_file: Option<PathBuf>,

    /// Print control tokens too
    #[arg(long, help_heading = "Output")]
    pub special: bool,
    /// Print the prompt before the answer
    #[arg(long, conflicts_with = "no_display_prompt", help_heading = "Output")]
    pub echo: bool,
    /// Do not print the prompt (the default)
    #[arg(long, visible_alias = "silent-prompt", help_heading = "Output")]
    pub no_display_prompt: bool,
    /// Print the answer as one JSON object at the end, with counts and speed
    #[arg(long, conflicts_with = "stream_json", help_heading = "Output")]
    pub json: bool,
    /// Print a JSON object for each token, and one without text at the end
    #[arg(long, help_heading = "Output")]
    pub stream_json: bool,
    /// Speed and token counts on stderr at the end
    #[arg(long, help_heading = "Output")]
    pub stats: bool,
    /// No banner at the start
    #[arg(long, help_heading = "Output")]
    pub nologo: bool,
    /// Only ASCII characters in bars and messages
    #[arg(long, help_heading = "Output")]
    pub ascii: bool,
    /// In `--chat`, show Markdown as it is written, without colors
    #[arg(long, help_heading = "Output")]
    pub no_markdown: bool,
    /// In `--chat`, neither read nor write the file of texts typed before
    #[arg(long, help_heading = "Output")]
    pub no_history: bool,
    /// Only errors on stderr
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
    /// What is loaded and how, on stderr; -vv: also exact prompts, settings and speed. A server's answers tell more too
    #[arg(short, long, action = ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,

    /// Serve without opening a browser
    #[arg(long, conflicts_with_all = ["prompt", "file"], help_heading = "Server")]
    pub server: bool,
    /// Do not open a browser
    #[arg(long, visible_alias = "no-browser", help_heading = "Server")]
    pub nobrowser: bool,
    /// Address to listen on, or several with commas [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", help_heading = "Server")]
    pub host: Option<String>,
    /// Port to listen on; 0 takes a free one [default: 8080, or the next free one]
    #[arg(long, value_name = "N", help_heading = "Server")]
    pub port: Option<u16>,
    /// (-a) The model's name in the APIs, or several with commas, of which the first in the alphabet is told [default: that
    /// of its file]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub alias: Option<String>,
    /// Words about the model that `/v1/models` tells, with commas between them
    #[arg(long, value_name = "WORDS", help_heading = "Server")]
    pub tags: Option<String>,
    /// How `/embedding` makes a vector of a text's tokens [default: mean]
    #[arg(long, value_name = "HOW", help_heading = "Server")]
    pub pooling: Option<PoolingArg>,
    /// Key that API clients must send (repeatable)
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    pub api_key: Vec<String>,
    /// File with one such key in each line; unlike an argument, other users do not see it in the list of processes
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub api_key_file: Option<PathBuf>,
    /// Origin whose pages may call the API; `*` for all, `localhost` for those of this machine (repeatable)
    #[arg(long, value_name = "ORIGIN", help_heading = "Server")]
    pub cors: Vec<String>,
    /// Name by which the server is reached, as a proxy or your DNS has it, `*` for any (repeatable)
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub allow_host: Vec<String>,
    /// `GET /slots` does not answer: it tells what others do
    #[arg(long, help_heading = "Server")]
    pub no_slots: bool,
    /// No page, only the APIs
    #[arg(long, visible_alias = "no-webui", help_heading = "Server")]
    pub no_ui: bool,
    /// Folder for what slots hold, saved and restored by `POST /slots/ID`
    #[arg(long, value_name = "FOLDER", help_heading = "Server")]
    pub slot_save_path: Option<PathBuf>,
    /// Append a line of JSON for each request to this file
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub log_file: Option<PathBuf>,
    /// Let the running server open files, make connections and start programs (Linux)
    #[arg(long, help_heading = "Server")]
    pub no_sandbox: bool,

    /// What flags that are not ours came to.
    #[arg(skip)]
    pub foreign: Foreign,
}

/// `--pooling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PoolingArg {
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
    /// One for each token.
    None,
}

/// A seed, or the wish for a fresh one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// This one.
    Fixed(u64),
    /// Any.
    Random,
}

/// `--logit-bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitBias {
    /// The token.
    pub token: u32,
    /// Added to its score.
    pub bias: f32,
}

/// `--gpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gpu {
    /// What there is.
    Auto,
    /// None.
    Disable,
    /// One of NVIDIA's.
    Nvidia,
    /// One of AMD's.
    Amd,
    /// Apple's.
    Apple,
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, the exponent of F32.
    Bf16,
}

/// `--preset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// As large a context as the machine has room for
    Auto,
    /// The most exact arithmetic
    Exact,
    /// The fastest
    Speed,
    /// The least memory
    Memory,
}

impl Preset {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Auto => "auto",
            Preset::Exact => "exact",
            Preset::Speed => "speed",
            Preset::Memory => "memory",
        }
    }
}

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Gemma's own defaults
    Chat,
    /// The likeliest tokens only
    Factual,
    /// More surprise
    Creative,
}

impl Mode {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Chat => "chat",
            Mode::Factual => "factual",
            Mode::Creative => "creative",
        }
    }
}

/// What the program does besides running a model.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum Tool {
    /// Make one file of program and weights
    Pack(PackArgs),
    /// Give a packed file another program or other default arguments; its weights stay as they are
    Upgrade(UpgradeArgs),
    /// Write the members of a packed file into a directory
    Unpack(UnpackArgs),
    /// List the members of a packed file
    List(OptionalFileArgs),
    /// Compare a packed file with the hashes it carries; exit status 1 where they differ
    Verify(OptionalFileArgs),
    /// Show the tokens of a text
    Tokenize(TokenizeArgs),
    /// Show what a model is and what it needs
    Info(InfoArgs),
    /// Measure how fast a model reads prompts and makes tokens
    Bench(BenchArgs),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityArgs),
    /// Write the weights in a smaller format, as a GGUF file
    Quantize(QuantizeArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Check that this program computes right on this machine, and how fast it can be
    Doctor(DoctorArgs),
    /// Help about a topic (prompt, sampling, chat, gpu, api, llamafile, man) or a tool
    Help(HelpArgs),
}

/// `doctor`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct DoctorArgs {
    /// The model whose speed is measured, as for the program itself
    #[arg(short, long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Which model of a file with several [default: the first]
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// CPU threads [default: physical cores]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<usize>,
    /// How long speed is measured; 0 leaves measurements out
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=600))]
    pub seconds: u64,
}

/// `help`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct HelpArgs {
    /// What about
    pub topic: Option<String>,
}

/// `pack`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct PackArgs {
    /// Weights: a .gguf file, a model directory, or a packed file whose weights are taken (repeatable: several models)
    #[arg(short, long, value_name = "PATH", required = true)]
    pub model: Vec<PathBuf>,
    /// The model's name inside (repeatable: one for each `-m`, in their order) [default: its file's name]
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// The file to make
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Make the weights smaller on the way: Q8_0, Q6_K, Q4_K_M or another type of `gemma2 quantize`
    #[arg(long, value_name = "TYPE")]
    pub quantize: Option<String>,
    /// CPU threads for `--quantize` [default: physical cores]
    #[arg(short, long, value_name = "N", requires = "quantize")]
    pub threads: Option<usize>,
    /// A default argument; `...` is where those of the command line go (repeatable): --arg=-c --arg=0
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub arg: Vec<String>,
    /// A license text to put into the file
    #[arg(long, value_name = "FILE")]
    pub license: Option<PathBuf>,
    /// The program to put the weights behind, also another system's [default: this one]
    #[arg(long, value_name = "EXE")]
    pub runtime: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
    /// No progress on stderr
    #[arg(short, long)]
    pub quiet: bool,
}

/// `upgrade`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct UpgradeArgs {
    /// The packed file to change
    pub file: PathBuf,
    /// The program to put in front of the weights [default: this one, unless arguments are given]
    #[arg(long, value_name = "EXE")]
    pub runtime: Option<PathBuf>,
    /// A default argument, in place of all that are inside (repeatable): --arg=-c --arg=0
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub arg: Vec<String>,
    /// Remove the default arguments that are inside
    #[arg(long, conflicts_with = "arg")]
    pub no_args: bool,
    /// No progress on stderr
    #[arg(short, long)]
    pub quiet: bool,
}

/// `unpack`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct UnpackArgs {
    /// A packed file or a .llamafile [default: this program's own file]
    pub file: Option<PathBuf>,
    /// Where the members go
    #[arg(short, long, value_name = "DIR")]
    pub directory: PathBuf,
    /// Replace existing files
    #[arg(long)]
    pub force: bool,
}

/// `list` and `verify`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct OptionalFileArgs {
    /// A packed file or a .llamafile [default: this program's own file]
    pub file: Option<PathBuf>,
}

/// `tokenize`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct TokenizeArgs {
    /// The text; without it, stdin
    pub text: Option<String>,
    /// Where the vocabulary comes from, as for the program itself
    #[arg(short, long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Which model of a file with several [default: the first]
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// Control tokens in the text are plain characters
    #[arg(long)]
    pub literal: bool,
    /// Do not put `<bos>` in front
    #[arg(long)]
    pub no_bos: bool,
}

/// `info`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct InfoArgs {
    /// The model, as for the program itself
    #[arg(short, long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Which model of a file with several [default: the first]
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// The context to count memory for; 0 is the model's maximum [default: 512]
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,
}

/// `bench`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct BenchArgs {
    /// The model, as for the program itself
    #[arg(short, long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Which model of a file with several [default: the first]
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// Tokens of the prompt to read; 0 leaves this out
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    pub n_prompt: usize,
    /// Tokens to make; 0 leaves this out
    #[arg(short, long, value_name = "N", default_value_t = 128)]
    pub n_gen: usize,
    /// Sequences that make tokens side by side in one batch, one number or several
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1", value_parser = parse_positive)]
    pub parallel: Vec<usize>,
    /// As for the program itself: guess so many tokens ahead. Off here unless asked for, since random tokens soon repeat
    /// themselves
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub lookup: usize,
    /// Threads, one number or several [default: physical cores]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    pub threads: Vec<usize>,
    /// Runs of each, after one to warm up
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: TableFormat,
    /// Interleave the rows of the weights, in memory of their own [default: as a server does]
    #[arg(long, overrides_with = "no_repack")]
    pub repack: bool,
    /// (-nr) Use the weights where they lie in the file, as a single prompt does
    #[arg(long, overrides_with = "repack")]
    pub no_repack: bool,
    /// The instruction set to use [default: the widest there is]
    #[arg(long, value_name = "NAME")]
    pub isa: Option<String>,
    /// (-ctk) How keys are kept: f32, f16, bf16 or q8_0 [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = parse_kv_type)]
    pub cache_type_k: Option<KvType>,
    /// (-ctv) How values are kept: f32, f16, bf16 or q8_0 [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = parse_kv_type)]
    pub cache_type_v: Option<KvType>,
    /// (-ngl) As for the program itself: layers on the GPU
    #[arg(long = "gpu-layers", visible_alias = "n-gpu-layers", value_name = "N")]
    pub n_gpu_layers: Option<u32>,
    /// Which GPU to use
    #[arg(long, value_name = "WHICH")]
    pub gpu: Option<Gpu>,
}

/// How `bench` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TableFormat {
    /// Columns for a terminal
    Table,
    /// llama-bench's fields
    Json,
    /// Markdown
    Md,
}

/// `perplexity`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct PerplexityArgs {
    /// The text; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// The model, as for the program itself
    #[arg(short, long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Which model of a file with several [default: the first]
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// Tokens of a chunk, of whose second half each token is scored; 0 is the model's maximum [default: 512]
    #[arg(short, long, value_name = "N")]
    pub ctx_size: Option<usize>,
    /// At most this many chunks [default: all]
    #[arg(long, value_name = "N", value_parser = parse_positive)]
    pub chunks: Option<usize>,
    /// CPU threads [default: physical cores]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<usize>,
    /// The instruction set to use [default: the widest there is]
    #[arg(long, value_name = "NAME")]
    pub isa: Option<String>,
    /// (-ctk) How keys are kept: f32, f16, bf16 or q8_0 [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = parse_kv_type)]
    pub cache_type_k: Option<KvType>,
    /// (-ctv) How values are kept: f32, f16, bf16 or q8_0 [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = parse_kv_type)]
    pub cache_type_v: Option<KvType>,
    /// (-ngl) As for the program itself: layers on the GPU
    #[arg(long = "gpu-layers", visible_alias = "n-gpu-layers", value_name = "N")]
    pub n_gpu_layers: Option<u32>,
    /// Which GPU to use
    #[arg(long, value_name = "WHICH")]
    pub gpu: Option<Gpu>,
}

/// `quantize`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct QuantizeArgs {
    /// Weights: a .gguf file, a model directory, or a packed file
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The file to make
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, BF16, F16 or another of llama.cpp's names
    #[arg(value_name = "TYPE")]
    pub recipe: String,
    /// Which model of a file with several [default: the first]
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
    /// CPU threads [default: physical cores]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<usize>,
    /// No progress on stderr
    #[arg(short, long)]
    pub quiet: bool,
}

/// `completions`.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

impl Args {
    /// Reads arguments, without the program's name.
    ///
    /// # Errors
    /// What clap says; also for `--help` and `--version`, whose text is in the error.
    pub fn parse_from_words(words: &[OsString], version: &'static str) -> Result<Args, clap::Error> {
        let mut command = command(version).override_help(help::SHORT);
        let (words, foreign) = our_words(words, &command)?;
        let name = OsString::from("gemma2");
        let mut matches = command.try_get_matches_from_mut(std::iter::once(name).chain(words))?;
        let mut args = Args::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))?;
        args.run.foreign = foreign;
        Ok(args)
    }
}

/// The table of flags, for help and completions.
pub fn command(version: &'static str) -> clap::Command {
    Args::command().version(version)
}

impl RunArgs {
    /// These arguments, and those of `defaults` for what was not given. A mode that was given (`-p` or `-f`, `--chat`,
    /// `--server`) replaces the default one; so does each list, and a grammar or schema.
    pub fn or(self, defaults: RunArgs) -> RunArgs {
        let has_mode = self.has_mode();
        let shape = if self.has_shape() { RunArgs::default() } else { defaults.clone() };
        let mode = if has_mode { RunArgs::default() } else { defaults.clone() };
        let list = |given: Vec<String>, default: Vec<String>| if given.is_empty() { default } else { given };
        RunArgs {
            // A name belongs to the file that it was given with.
            model_name: self.model_name.or(if self.model.is_some() { None } else { defaults.model_name }),
            model: self.model.or(defaults.model),
            no_mmap: self.no_mmap || defaults.no_mmap,
            repack: self.repack || (defaults.repack && !self.no_repack),
            no_repack: self.no_repack || (defaults.no_repack && !self.repack),
            mlock: self.mlock || defaults.mlock,
            dtype: self.dtype.or(defaults.dtype),
            ctx_size: self.ctx_size.or(defaults.ctx_size),
            threads: self.threads.or(defaults.threads),
            threads_batch: self.threads_batch.or(defaults.threads_batch),
            batch_size: self.batch_size.or(defaults.batch_size),
            ubatch_size: self.ubatch_size.or(defaults.ubatch_size),
            parallel: self.parallel.or(defaults.parallel),
            lookup: self.lookup.or(defaults.lookup),
            cache_type_k: self.cache_type_k.or(defaults.cache_type_k),
            cache_type_v: self.cache_type_v.or(defaults.cache_type_v),
            no_context_shift: self.no_context_shift || defaults.no_context_shift,
            n_gpu_layers: self.n_gpu_layers.or(defaults.n_gpu_layers),
            gpu: self.gpu.or(defaults.gpu),
            preset: self.preset.or(defaults.preset),
            isa: self.isa.or(defaults.isa),
            prompt: self.prompt.or(mode.prompt),
            file: self.file.or(mode.file),
            escape: self.escape || mode.escape,
            raw: self.raw || defaults.raw,
            system_prompt_file: self.system_prompt_file.or(if self.system_prompt.is_some() {
                None
            } else {
                defaults.system_prompt_file
            }),
            system_prompt: self.system_prompt.or(defaults.system_prompt),
            prompt_cache: self.prompt_cache.or(defaults.prompt_cache),
            keep: self.keep.or(defaults.keep),
            chat: self.chat || mode.chat,
            n_predict: self.n_predict.or(defaults.n_predict),
            seed: self.seed.or(defaults.seed),
            mode: self.mode.or(defaults.mode),
            temp: self.temp.or(defaults.temp),
            top_k: self.top_k.or(defaults.top_k),
            top_p: self.top_p.or(defaults.top_p),
            min_p: self.min_p.or(defaults.min_p),
            typical: self.typical.or(defaults.typical),
            repeat_penalty: self.repeat_penalty.or(defaults.repeat_penalty),
            repeat_last_n: self.repeat_last_n.or(defaults.repeat_last_n),
            presence_penalty: self.presence_penalty.or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(defaults.frequency_penalty),
            reverse_prompt: list(self.reverse_prompt, defaults.reverse_prompt),
            ignore_eos: self.ignore_eos || defaults.ignore_eos,
            logit_bias: if self.logit_bias.is_empty() { defaults.logit_bias } else { self.logit_bias },
            grammar: self.grammar.or(shape.grammar),
            grammar_file: self.grammar_file.or(shape.grammar_file),
            regex: self.regex.or(shape.regex),
            json_schema: self.json_schema.or(shape.json_schema),
            json_schema_file: self.json_schema_file.or(shape.json_schema_file),
            special: self.special || defaults.special,
            echo: self.echo || (defaults.echo && !self.no_display_prompt),
            no_display_prompt: self.no_display_prompt || (defaults.no_display_prompt && !self.echo),
            json: self.json || (defaults.json && !self.stream_json),
            stream_json: self.stream_json || (defaults.stream_json && !self.json),
            stats: self.stats || defaults.stats,
            nologo: self.nologo || defaults.nologo,
            ascii: self.ascii || defaults.ascii,
            no_markdown: self.no_markdown || defaults.no_markdown,
            no_history: self.no_history || defaults.no_history,
            quiet: self.quiet || (defaults.quiet && self.verbose == 0),
            verbose: self.verbose.max(if self.quiet { 0 } else { defaults.verbose }),
            server: self.server || mode.server,
            nobrowser: self.nobrowser || defaults.nobrowser,
            host: self.host.or(defaults.host),
            port: self.port.or(defaults.port),
            alias: self.alias.or(defaults.alias),
            tags: self.tags.or(defaults.tags),
            pooling: self.pooling.or(defaults.pooling),
            no_slots: self.no_slots || defaults.no_slots,
            no_ui: self.no_ui || defaults.no_ui,
            api_key: list(self.api_key, defaults.api_key),
            api_key_file: self.api_key_file.or(defaults.api_key_file),
            cors: list(self.cors, defaults.cors),
            allow_host: list(self.allow_host, defaults.allow_host),
            slot_save_path: self.slot_save_path.or(defaults.slot_save_path),
            log_file: self.log_file.or(defaults.log_file),
            no_sandbox: self.no_sandbox || defaults.no_sandbox,
            foreign: Foreign {
                notes: [self.foreign.notes, defaults.foreign.notes].concat(),
                needs_prompt: self.foreign.needs_prompt.or(mode.foreign.needs_prompt),
            },
        }
    }

    fn has_mode(&self) -> bool {
        self.prompt.is_some() || self.file.is_some() || self.chat || self.server
    }

    fn has_shape(&self) -> bool {
        self.grammar.is_some()
            || self.grammar_file.is_some()
            || self.regex.is_some()
            || self.json_schema.is_some()
            || self.json_schema_file.is_some()
    }
}

fn parse_kv_type(text: &str) -> Result<KvType, String> {
    KvType::parse(text).ok_or_else(|| {
        let names: Vec<&str> = KvType::ALL.iter().map(|one| one.name()).collect();
        format!("`{text}` is not one of {}", names.join(", "))
    })
}

fn parse_positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a whole number from 1".into())
}

fn parse_seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        return Ok(Seed::Random);
    }
    text.parse().map(Seed::Fixed).map_err(|_| "a whole number from 0, or -1 for a random one".into())
}

fn parse_logit_bias(text: &str) -> Result<LogitBias, String> {
    let wrong = || "write a token's number and a bias, as in 235265+2.5 or 235265-inf".to_owned();
    let at = text.find(['+', '-']).ok_or_else(wrong)?;
    let token = text[..at].parse().map_err(|_| wrong())?;
    let bias: f32 = text[at..].parse().map_err(|_| wrong())?;
    if bias.is_nan() || bias == f32::INFINITY {
        return Err("a bias is a finite number, or -inf to forbid the token".into());
    }
    Ok(LogitBias { token, bias })
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        let words: Vec<OsString> = line.iter().map(OsString::from).collect();
        Args::parse_from_words(&words, "0")
    }

    fn run(line: &[&str]) -> RunArgs {
        parse(line).unwrap().run
    }

    #[test]
    fn the_table_of_flags_is_consistent() {
        command("0").debug_assert();
    }

    #[test]
    fn no_flag_looks_like_two_to_fish() {
        // Its `argparse` reads `n-gpu-layers` as `-n` and `--gpu-layers`, and then gives up.
        let command = command("0");
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            for arg in command.get_arguments().filter(|arg| arg.get_short().is_none()) {
                let long = arg.get_long().unwrap_or_default();
                assert_ne!(long.as_bytes().get(1), Some(&b'-'), "--{long}");
            }
        }
    }

    #[test]
    fn flags_of_several_letters_are_accepted_as_written() {
        let args = run(&["-ngl", "999", "-np", "2", "-ub", "64", "-sys", "Be brief.", "-np=3"][..8]);
        assert_eq!(args.n_gpu_layers, Some(999));
        assert_eq!(args.parallel, Some(2));
        assert_eq!(args.ubatch_size, Some(64));
        assert_eq!(args.system_prompt.as_deref(), Some("Be brief."));
        assert_eq!(run(&["-np=3"]).parallel, Some(3));
        assert_eq!(run(&["-p", "-np"]).prompt.as_deref(), Some("-np"));
        assert_eq!(run(&["--temp", "0", "-np", "1"]).parallel, Some(1));
        let pack = parse(&["pack", "-m", "a", "-o", "b", "--arg", "-ngl", "--arg=-np"]).unwrap();
        let Some(Tool::Pack(pack)) = pack.tool else { panic!("{pack:?}") };
        assert_eq!(pack.arg, ["-ngl", "-np"]);
    }

    #[test]
    fn flags_of_llama_cpp_are_not_taken_for_others() {
        assert_eq!(run(&["-tb", "4"]).threads_batch, Some(4));
        let repacks = |line: &[&str]| (run(line).repack, run(line).no_repack);
        assert_eq!(repacks(&["--repack", "-nr"]), (false, true));
        assert_eq!(repacks(&["--no-repack", "--repack"]), (true, false));
        let packed = run(&["--repack"]);
        assert!(!run(&["--no-repack"]).or(packed.clone()).repack && run(&[]).or(packed).repack);
        assert_eq!(run(&["-a", "name", "-sp", "-l", "5+1"]).alias.as_deref(), Some("name"));
        assert_eq!(run(&["-p", "x", "-fa", "-c", "7"]).ctx_size, Some(7));
        assert_eq!(run(&["-p", "-fa"]).prompt.as_deref(), Some("-fa"), "in the place of a value");
        assert_eq!(run(&["--poll", "50", "-cb"]).foreign.notes.len(), 1);
        assert!(run(&["-cnv"]).chat && !run(&["-cnv", "-st", "-p", "x"]).chat);
        assert_eq!((run(&["-vv"]).verbose, run(&["-lv", "1"]).verbose), (2, 1));
        for line in [&["-hf", "x"][..], &["bench", "-fa", "1"], &["bench", "-tb", "4"], &["--image", "x.png"]] {
            assert_eq!(parse(line).unwrap_err().kind(), ErrorKind::UnknownArgument, "{line:?}");
        }
    }

    #[test]
    fn prompts_may_look_like_flags_and_numbers_may_be_negative() {
        assert_eq!(run(&["-p", "- a list"]).prompt.as_deref(), Some("- a list"));
        assert_eq!(run(&["-n", "-2"]).n_predict, Some(-2));
        assert_eq!(run(&["-s", "-1"]).seed, Some(Seed::Random));
        assert_eq!(run(&["--seed", "18446744073709551615"]).seed, Some(Seed::Fixed(u64::MAX)));
        assert_eq!(run(&["--repeat-last-n", "-1"]).repeat_last_n, Some(-1));
        assert!(parse(&["-c", "-5"]).is_err());
        assert!(parse(&["-s", "x"]).is_err());
    }

    #[test]
    fn logit_biases_are_a_token_and_a_number() {
        let args = run(&["--logit-bias", "5+2.5", "--logit-bias", "7-inf"]);
        let expected = [(5, 2.5), (7, f32::NEG_INFINITY)];
        assert!(args.logit_bias.iter().map(|b| (b.token, b.bias)).eq(expected));
        for wrong in ["5", "x+1", "5+x", "5+nan", "5+inf", "-5+1", ""] {
            assert!(parse(&["--logit-bias", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_flag_that_is_repeated_counts_the_last_time() {
        assert_eq!(run(&["-n", "1", "-p", "a", "--echo", "--echo", "-n", "2"]).n_predict, Some(2));
    }

    #[test]
    fn the_modes_exclude_each_other() {
        for line in [&["--chat", "-p", "x"][..], &["--server", "-f", "x"], &["--chat", "--server"]] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ArgumentConflict, "{line:?}");
        }
    }

    #[test]
    fn what_was_typed_wins_over_defaults() {
        let defaults = run(&["-c", "0", "--temp", "0.5", "--server", "-r", "A", "--no-browser"]);
        let typed = run(&["-c", "64", "-p", "hi", "-r", "B", "-r", "C"]);
        let args = typed.or(defaults);
        assert_eq!((args.ctx_size, args.temp), (Some(64), Some(0.5)));
        assert!(!args.server && args.nobrowser);
        assert_eq!(args.reverse_prompt, ["B", "C"]);
        let defaults = run(&["-p", "hello", "-e", "--echo", "-q"]);
        let args = run(&["--chat", "--silent-prompt", "-v"]).or(defaults.clone());
        assert_eq!((args.prompt, args.escape, args.echo, args.quiet), (None, false, false, false));
        assert_eq!(run(&["-n", "1"]).or(defaults).prompt.as_deref(), Some("hello"));
    }

    #[test]
    fn aliases_of_llamafile_are_known() {
        let line = ["--temperature", "1", "--silent-prompt", "--n-predict", "3", "--gpu-layers", "1"];
        let args = run(&line);
        assert_eq!(args.n_predict, Some(3));
        assert!(args.no_display_prompt);
    }
}
