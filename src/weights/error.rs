//! What can be wrong with a model, always with the file by name.

use std::path::PathBuf;

use crate::bundle::MapError;
use crate::error::{Hint, name_for_people};
use crate::gguf::GgufError;
use crate::kernels::Format;
use crate::safetensors::SafetensorsError;

/// Why a model cannot be loaded. `file` is the name as it was given; keys and tensors are named as in the file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum WeightsError {
    #[error("`{}` does not exist", path.display())]
    NotFound { path: PathBuf, similar: Vec<String> },
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("`{}` cannot be listed", path.display())]
    List {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` is a directory without {missing}", path.display())]
    NotAModelDirectory { path: PathBuf, missing: &'static str, ggufs: Vec<String>, pytorch: bool },
    #[error("the model's files do not make one model: {what}")]
    Members { what: String },
    #[error("`{file}` {source}")]
    Gguf {
        file: String,
        // Part of the message, so that the sentence is whole wherever it is shown.
        source: GgufError,
    },
    #[error("`{file}` {source}")]
    Safetensors { file: String, source: SafetensorsError },
    #[error("`{file}` belongs to a model in {n_files} files, of which `{missing}` is missing")]
    MissingSplit { file: String, n_files: usize, missing: String },
    #[error("`{file}` does not fit the other files of this model: {what}")]
    BadSplit { file: String, what: String },
    #[error("`{file}` is a model of the architecture `{architecture}`, not `gemma2`")]
    Architecture { file: String, architecture: String },
    #[error("`{file}` has no model in it: {what}")]
    NoModel { file: String, what: &'static str },
    #[error("`{file}` is not valid JSON: {what}")]
    Json { file: String, what: String },
    #[error("`{file}` lacks the key `{key}`")]
    MissingKey { file: String, key: String },
    #[error("`{file}` has `{key}` = {value}; {expected}")]
    BadValue { file: String, key: String, value: String, expected: String },
    #[error("`{file}` lacks the tensor `{tensor}`")]
    MissingTensor { file: String, tensor: String },
    #[error("`{file}` has the tensor `{tensor}`, which is no part of a Gemma 2 of {n_layers} layers")]
    UnexpectedTensor { file: String, tensor: String, n_layers: usize },
    #[error("`{file}` has the tensor `{tensor}` twice over its parts")]
    DuplicateTensor { file: String, tensor: String },
    #[error("`{file}` has the tensor `{tensor}` with shape {found:?} where the model needs {expected:?}")]
    Shape { file: String, tensor: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("`{file}` stores the tensor `{tensor}` as {found}, which this program does not compute with")]
    UnsupportedType { file: String, tensor: String, found: String },
    #[error("`{file}` stores the norm `{tensor}` as {found}; F32, F16 and BF16 are supported there")]
    NormType { file: String, tensor: String, found: String },
    #[error("`{file}` has {value} at position {position} of the tensor `{tensor}`")]
    NotFinite { file: String, tensor: String, position: usize, value: f32 },
    #[error("`{file}` has an output matrix `{tensor}` that differs from the embedding; Gemma 2 uses one for both")]
    UntiedOutput { file: String, tensor: String },
    #[error("`{file}` has a vocabulary of {n_tokens} tokens, but the embedding has only {n_rows} rows")]
    VocabularyTooLong { file: String, n_tokens: usize, n_rows: usize },
}

impl Hint for WeightsError {
    fn hint(&self) -> Option<String> {
        match self {
            WeightsError::NotFound { similar, .. } if similar.is_empty() => {
                Some("check the path given with `-m`".into())
            }
            WeightsError::NotFound { similar, .. } => Some(format!("there is {}", list(similar))),
            WeightsError::Map(error) => error.hint(),
            WeightsError::List { .. } => None,
            WeightsError::NotAModelDirectory { ggufs, pytorch, .. } => {
                if !ggufs.is_empty() {
                    Some(format!("give a file in it: {}", list(ggufs)))
                } else if *pytorch {
                    Some("it has PyTorch weights only: convert them to safetensors".into())
                } else {
                    Some(
                        "give a `.gguf` file, or a directory with config.json, tokenizer.json and *.safetensors".into(),
                    )
                }
            }
            WeightsError::Members { .. } => Some(
                "one `.gguf`, or safetensors with config.json and tokenizer.json, is what a model consists of".into(),
            ),
            WeightsError::Gguf { source, .. } => source.hint(),
            WeightsError::Safetensors { source, .. } => source.hint(),
            WeightsError::MissingSplit { missing, .. } => {
                Some(format!("fetch `{missing}` too, and put it beside the others"))
            }
            WeightsError::BadSplit { .. } => Some("fetch all files of the model again, from one place".into()),
            WeightsError::Architecture { .. } => Some("this program runs Gemma 2 only".into()),
            WeightsError::NoModel { .. } => {
                Some("give a file with a Gemma 2 model; adapters and vocabularies are not enough".into())
            }
            WeightsError::UnsupportedType { .. } => {
                let names: Vec<String> = Format::ALL.iter().map(|f| format!("{f:?}")).collect();
                Some(format!("supported are {}", names.join(", ")))
            }
            WeightsError::UntiedOutput { .. } => {
                Some("this is a changed Gemma 2 that this program cannot run faithfully; use the original".into())
            }
            WeightsError::UnexpectedTensor { .. } => {
                Some("the model was changed or is not a Gemma 2; leaving the tensor out would give wrong text".into())
            }
            WeightsError::NotFinite { .. } => Some("the file is damaged or was converted badly; fetch it again".into()),
            WeightsError::Json { .. }
            | WeightsError::MissingKey { .. }
            | WeightsError::BadValue { .. }
            | WeightsError::MissingTensor { .. }
            | WeightsError::DuplicateTensor { .. }
            | WeightsError::Shape { .. }
            | WeightsError::NormType { .. }
            | WeightsError::VocabularyTooLong { .. } => {
                Some("the file is damaged or was converted badly; try one from another source".into())
            }
        }
    }
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name_for_people(name.as_bytes()))).collect();
    quoted.join(", ")
}
