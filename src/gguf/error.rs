//! What can be wrong with a GGUF file.

use crate::error::{Hint, two_sizes_for_people};

/// Why bytes are not a GGUF file that can be used.
///
/// Messages are predicates, to be put behind the file's name by who knows it: "`model.gguf` ends at 1.20 GB but …".
/// Names out of the file are made fit for a terminal before they come here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum GgufError {
    #[error("is not a GGUF file: {looks_like}")]
    NotGguf { looks_like: String },
    #[error("is GGUF version {version}; versions 2 and 3 are supported")]
    Version { version: u32 },
    #[error("is a big-endian GGUF file; only little-endian ones are supported")]
    BigEndian,
    #[error("ends at {size} bytes, inside its header")]
    EndsInHeader { size: usize },
    #[error("ends at {} but its tensor table needs {}", two_sizes_for_people(*.actual, *.needed).0, two_sizes_for_people(*.actual, *.needed).1)]
    EndsInTensors { actual: u64, needed: u64 },
    #[error("has a damaged header: {what}")]
    Damaged { what: String },
    #[error("has the metadata key `{key}` twice")]
    DuplicateKey { key: String },
    #[error("has the tensor `{name}` twice")]
    DuplicateTensor { name: String },
    #[error("has `{key}` as {found} where {expected} is expected")]
    WrongType { key: String, expected: &'static str, found: String },
    #[error("stores the tensor `{name}` in type number {id}, which ggml does not have")]
    UnknownType { name: String, id: u32 },
    #[error("has an impossible tensor `{name}`: {what}")]
    BadTensor { name: String, what: String },
}

impl Hint for GgufError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            GgufError::NotGguf { .. } => {
                "give a `.gguf` file, a Hugging Face model directory or a file made by `gemma2 pack`".into()
            }
            GgufError::Version { .. } | GgufError::BigEndian => {
                "convert the model again with a current converter, or fetch a current file".into()
            }
            GgufError::EndsInHeader { .. } | GgufError::EndsInTensors { .. } => {
                "the download is incomplete; fetch the file again".into()
            }
            GgufError::UnknownType { .. } => {
                "the file is damaged, or made by a newer tool: use a common type such as Q4_K_M, Q6_K or Q8_0".into()
            }
            GgufError::Damaged { .. }
            | GgufError::DuplicateKey { .. }
            | GgufError::DuplicateTensor { .. }
            | GgufError::WrongType { .. }
            | GgufError::BadTensor { .. } => "the file is damaged; fetch it again".into(),
        })
    }
}
