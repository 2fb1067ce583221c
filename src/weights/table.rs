//! The tensors of all files of a model in one table, before anything is known of their meaning.

use std::collections::HashMap;
use std::sync::Arc;

use super::WeightsError;
use crate::bundle::Bytes;
use crate::error::name_for_people;
use crate::gguf::{GgmlType, Tensor as GgufTensor};
use crate::kernels::Format;
use crate::safetensors::{Dtype, Tensor as SafeTensor};

/// One tensor where it lies.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The file's name, for messages.
    pub file: Arc<str>,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
    /// How values are stored, where this program can compute with it.
    pub format: Option<Format>,
    /// What the file calls that.
    pub type_name: String,
    pub bytes: Bytes,
}

impl Entry {
    /// Number of values; cannot overflow, since the bytes are there.
    pub fn n_values(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}

/// All tensors by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub entries: HashMap<String, Entry>,
}

impl Table {
    /// Adds the tensors of a GGUF file.
    pub fn add_gguf(&mut self, file: &str, bytes: &Bytes, tensors: &[GgufTensor]) -> Result<(), WeightsError> {
        let file: Arc<str> = file.into();
        for tensor in tensors {
            let bytes = bytes.slice(tensor.range.clone());
            let entry = Entry {
                file: file.clone(),
                shape: tensor.shape.clone(),
                format: format_of_ggml(tensor.ggml_type),
                type_name: tensor.ggml_type.name().to_owned(),
                // The parser has checked that the range lies inside the file.
                bytes: bytes.unwrap_or_else(|| Bytes::from(Vec::new())),
            };
            self.insert(&tensor.name, entry)?;
        }
        Ok(())
    }

    /// Adds the tensors of a safetensors file.
    pub fn add_safetensors(&mut self, file: &str, bytes: &Bytes, tensors: &[SafeTensor]) -> Result<(), WeightsError> {
        let file: Arc<str> = file.into();
        for tensor in tensors {
            let bytes = bytes.slice(tensor.range.clone());
            let entry = Entry {
                file: file.clone(),
                shape: tensor.shape.clone(),
                format: format_of_dtype(tensor.dtype),
                type_name: format!("{:?}", tensor.dtype),
                bytes: bytes.unwrap_or_else(|| Bytes::from(Vec::new())),
            };
            self.insert(&tensor.name, entry)?;
        }
        Ok(())
    }

    /// The type that most weights of matrices have, by number of values.
    pub fn main_type(&self) -> &str {
        let mut n_values: HashMap<&str, u64> = HashMap::new();
        for entry in self.entries.values().filter(|e| e.shape.len() >= 2) {
            let n = n_values.entry(&entry.type_name).or_default();
            *n = n.saturating_add(entry.n_values());
        }
        // By name where two are equal, so that the answer is always the same.
        let most = n_values.into_iter().max_by_key(|&(name, n)| (n, name));
        most.map_or("unknown", |(name, _)| name)
    }

    fn insert(&mut self, name: &str, entry: Entry) -> Result<(), WeightsError> {
        let file = entry.file.clone();
        if self.entries.insert(name.to_owned(), entry).is_some() {
            return Err(WeightsError::DuplicateTensor {
                file: file.to_string(),
                tensor: name_for_people(name.as_bytes()),
            });
        }
        Ok(())
    }
}

fn format_of_ggml(ggml_type: GgmlType) -> Option<Format> {
    Format::ALL.into_iter().find(|&format| super::label::format_name(format) == ggml_type.name())
}

fn format_of_dtype(dtype: Dtype) -> Option<Format> {
    match dtype {
        Dtype::F32 => Some(Format::F32),
        Dtype::F16 => Some(Format::F16),
        Dtype::BF16 => Some(Format::BF16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_and_ggml_types_of_one_name_have_the_same_blocks() {
        let mut n_found = 0;
        for id in 0..64 {
            let Some(ggml_type) = GgmlType::from_id(id) else {
                continue;
            };
            if let Some(format) = format_of_ggml(ggml_type) {
                assert_eq!(format.block_len(), ggml_type.block_len(), "{ggml_type}");
                assert_eq!(format.block_bytes(), ggml_type.block_bytes(), "{ggml_type}");
                n_found += 1;
            }
        }
        assert_eq!(n_found, Format::ALL.len());
    }
}
