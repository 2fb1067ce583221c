//! Everything that ends the program early, with its exit status.

use std::io;
use std::path::PathBuf;

use crate::bundle::{BundleError, PackError, UnpackError};
use crate::chat::ChatError;
use crate::engine::EngineError;
use crate::error::{Hint, name_for_people};
use crate::gpu::GpuError;
use crate::model::ModelError;
use crate::quantize::QuantizeError;
use crate::tokenizer::TokenizerError;
use crate::weights::{PlaceError, WeightsError};

/// Why the program ends. [`CliError::exit_status`] is the promise of the command line.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What was typed makes no sense.
    #[error("{what}")]
    Usage {
        /// The flag and what is wrong with it.
        what: String,
        /// What to type instead.
        hint: String,
    },
    /// Default arguments inside the file make no sense.
    #[error("the default arguments in `.args` of this file: {what}")]
    BundleArgs {
        /// The flag and what is wrong with it.
        what: String,
    },
    /// More than one model beside the program: their paths.
    #[error("there are several models beside the program\n{}", numbered(.0))]
    SeveralModels(Vec<String>),
    /// The model's files.
    #[error(transparent)]
    Weights(Box<WeightsError>),
    /// `--no-mmap` and `--dtype`.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A packed file.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The model's vocabulary.
    #[error("`{file}`: {source}")]
    Tokenizer {
        /// The file it comes from.
        file: String,
        /// What is wrong with it.
        source: Box<TokenizerError>,
    },
    /// The chat template or a conversation it refuses.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The model cannot be set up.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A GPU that was there and does not answer.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// `pack`.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// `unpack` and `verify`.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// `quantize`.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// `verify` found differences; they were printed.
    #[error("`{}` is not as it was packed", .0.display())]
    Damaged(PathBuf),
    /// `doctor` found something wrong; it was printed.
    #[error("{0} of the checks failed")]
    Unwell(usize),
    /// The listener.
    #[error("{what}")]
    Network {
        /// The address and what is wrong with it.
        what: String,
        /// What to type instead.
        hint: String,
    },
    /// Not enough memory.
    #[error("{what}")]
    Memory {
        /// What is needed and what is free.
        what: String,
        /// What to type instead.
        hint: String,
    },
    /// Longer than the context.
    #[error("the prompt has {n_prompt} tokens and the context holds {n_ctx}, the reply included")]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Tokens of the context.
        n_ctx: usize,
        /// Tokens of the model's largest context.
        n_ctx_train: usize,
    },
    /// A file that was named on the command line.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The file; `-` is stdin.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A prompt file that is no text.
    #[error("`{}` is not UTF-8 text (byte {position})", path.display())]
    NotUtf8 {
        /// The file; `-` is stdin.
        path: PathBuf,
        /// Where the text ends.
        position: usize,
    },
    /// stdout.
    #[error("the output cannot be written")]
    Output(#[source] io::Error),
    /// Threads or the asynchronous runtime.
    #[error("{0}")]
    System(String),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    /// 1 it failed while running; 2 usage; 3 model file; 4 network; 5 memory; 6 the prompt does not fit; 130 Ctrl-C;
    /// 141 the reader closed the pipe.
    pub fn exit_status(&self) -> u8 {
        match self {
            CliError::Usage { .. } | CliError::BundleArgs { .. } => 2,
            CliError::SeveralModels(_)
            | CliError::Weights(_)
            | CliError::Bundle(_)
            | CliError::Place(PlaceError::NotFloat { .. })
            | CliError::Tokenizer { .. }
            | CliError::Model(_)
            | CliError::Chat(ChatError::Broken(_))
            | CliError::Unpack(UnpackError::Bundle(_))
            | CliError::Pack(PackError::Map(_) | PackError::Bundle(_) | PackError::NoWeights { .. }) => 3,
            CliError::Network { .. } => 4,
            CliError::Memory { .. } | CliError::Place(PlaceError::Memory { .. }) => 5,
            CliError::PromptTooLong { .. } | CliError::Engine(EngineError::PromptTooLong { .. }) => 6,
            CliError::Quantize(
                QuantizeError::Weights(_) | QuantizeError::Tokenizer(_) | QuantizeError::Value { .. },
            ) => 3,
            CliError::Interrupted
            | CliError::Quantize(QuantizeError::Interrupted)
            | CliError::Pack(PackError::Interrupted)
            | CliError::Unpack(UnpackError::Interrupted) => 130,
            CliError::Output(error) if is_closed_pipe(error) => 141,
            _ => 1,
        }
    }

    /// Whether the exit status says it all: Ctrl-C and a closed pipe are nobody's mistake.
    pub fn is_quiet(&self) -> bool {
        matches!(self.exit_status(), 130 | 141)
    }

    /// A usage error with the usual hint.
    pub fn usage(what: impl Into<String>) -> CliError {
        CliError::Usage { what: what.into(), hint: "`gemma2 --help` shows what is possible".into() }
    }
}

/// Nobody reads any more. Windows has a second error for it, which the standard library does not count as one.
fn is_closed_pipe(error: &io::Error) -> bool {
    const PIPE_NOT_CONNECTED: i32 = 233;
    error.kind() == io::ErrorKind::BrokenPipe || cfg!(windows) && error.raw_os_error() == Some(PIPE_NOT_CONNECTED)
}

impl From<WeightsError> for CliError {
    fn from(error: WeightsError) -> CliError {
        CliError::Weights(Box::new(error))
    }
}

impl Hint for CliError {
    fn hint(&self) -> Option<String> {
        match self {
            CliError::Usage { hint, .. } | CliError::Network { hint, .. } | CliError::Memory { hint, .. } => {
                Some(hint.clone())
            }
            CliError::BundleArgs { .. } => Some("pack the file again with other `--arg`s".into()),
            CliError::SeveralModels(names) => {
                Some(format!("say which: `gemma2 -m {}`", names.first().map_or("FILE", |name| name)))
            }
            CliError::Weights(error) => error.hint(),
            CliError::Place(error) => error.hint(),
            CliError::Gpu(_) => Some("`--gpu disable` computes everything on the CPU".into()),
            CliError::Bundle(error) => error.hint(),
            CliError::Tokenizer { source, .. } => source.hint(),
            CliError::Chat(error) => error.hint(),
            CliError::Model(error) => error.hint(),
            CliError::Engine(error) => error.hint(),
            CliError::Pack(error) => error.hint(),
            CliError::Unpack(error) => error.hint(),
            CliError::Quantize(error) => error.hint(),
            CliError::Damaged(_) => Some("download or copy the file again".into()),
            CliError::Unwell(_) => Some(
                "take a fresh copy of the program; if that fails too, this CPU or its memory computes wrong".into(),
            ),
            CliError::PromptTooLong { n_ctx, n_ctx_train, .. } if n_ctx < n_ctx_train => {
                Some(format!("`-c 0` uses the model's whole context of {n_ctx_train} tokens"))
            }
            CliError::PromptTooLong { .. } => {
                Some("this is the model's whole context (`-c 0`); make the prompt shorter".into())
            }
            CliError::NotUtf8 { .. } => Some("convert the file to UTF-8 first, as with `iconv -t UTF-8`".into()),
            CliError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Some("check the path".into()),
            CliError::Read { .. } | CliError::Output(_) | CliError::System(_) | CliError::Interrupted => None,
        }
    }
}

/// A line for each of these paths, with a number: the files' names.
pub fn numbered(paths: &[String]) -> String {
    let name = |path: &String| name_for_people(path.rsplit(['/', '\\']).next().unwrap_or(path).as_bytes());
    let lines: Vec<String> = paths.iter().zip(1..).map(|(path, n)| format!("{n:3}  {}", name(path))).collect();
    lines.join("\n")
}
