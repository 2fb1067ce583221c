//! safetensors, Hugging Face's file format: bytes to a tensor table, and the index of a model in several files.
//!
//! The header is parsed and checked by the `safetensors` crate: offsets follow each other without gap or overlap, and each
//! length is what shape and type need. Its arithmetic on the file's total size can overflow, though, so that part is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

pub use ::safetensors::Dtype;
use ::safetensors::tensor::Metadata;

use crate::error::{Hint, name_for_people, two_sizes_for_people};

/// Bytes of the number that says how long the header is.
const LENGTH_BYTES: usize = 8;

/// The format's own limit on headers.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor, checked: `range` lies inside the file and has exactly the bytes that shape and type need.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Row-major shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub dtype: Dtype,
    /// Where its bytes lie, from the file's start.
    pub range: Range<usize>,
}

/// Why bytes are not a safetensors file that can be used. Messages are predicates, to be put behind the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum SafetensorsError {
    #[error("is not a safetensors file: {what}")]
    NotSafetensors { what: String },
    #[error("has a damaged header: {what}")]
    Damaged { what: String },
    #[error("ends at {} but its header needs {}", two_sizes_for_people(*.actual, *.needed).0, two_sizes_for_people(*.actual, *.needed).1)]
    Truncated { actual: u64, needed: u64 },
    #[error("has {n_bytes} bytes behind its last tensor")]
    TooLong { n_bytes: u64 },
    #[error("is not an index of safetensors files: {what}")]
    BadIndex { what: String },
}

impl Hint for SafetensorsError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            SafetensorsError::Truncated { .. } => "the download is incomplete; fetch the file again".into(),
            _ => "the file is damaged; fetch it again".into(),
        })
    }
}

/// The tensors of a file in the order of their bytes. Touches the header's bytes only.
pub fn parse(bytes: &[u8]) -> Result<Vec<Tensor>, SafetensorsError> {
    let not = |what: &str| SafetensorsError::NotSafetensors { what: what.into() };
    let Some(&length) = bytes.first_chunk::<LENGTH_BYTES>() else {
        return Err(not("it is too short"));
    };
    let n_header = u64::from_le_bytes(length);
    if n_header > MAX_HEADER_BYTES {
        return Err(not("its first bytes are no sensible length of a header"));
    }
    let data_start = LENGTH_BYTES + n_header as usize;
    let Some(header) = bytes.get(LENGTH_BYTES..data_start) else {
        return Err(SafetensorsError::Truncated { actual: bytes.len() as u64, needed: data_start as u64 });
    };
    if header.first() != Some(&b'{') {
        return Err(not("its header is not JSON"));
    }
    let metadata: Metadata = serde_json::from_slice(header)
        .map_err(|error| SafetensorsError::Damaged { what: printable(&error.to_string()) })?;
    let n_data = metadata.data_len();
    let needed = data_start.saturating_add(n_data);
    if needed > bytes.len() {
        return Err(SafetensorsError::Truncated { actual: bytes.len() as u64, needed: needed as u64 });
    }
    if needed < bytes.len() {
        let n_bytes = (bytes.len() - needed) as u64;
        return Err(SafetensorsError::TooLong { n_bytes });
    }
    let mut tensors: Vec<Tensor> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| Tensor {
            name,
            shape: info.shape.clone(),
            dtype: info.dtype,
            // Inside the file, since each end is at most `n_data`.
            range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
        })
        .collect();
    tensors.sort_by(|a, b| (a.range.start, &a.name).cmp(&(b.range.start, &b.name)));
    Ok(tensors)
}

/// `model.safetensors.index.json`: which file has which tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Tensor name to file name.
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Parses an index. File names must be plain: a path in a downloaded file must not lead anywhere else.
    pub fn parse(bytes: &[u8]) -> Result<Index, SafetensorsError> {
        #[derive(serde::Deserialize)]
        struct Stored {
            weight_map: BTreeMap<String, String>,
        }
        let bad = |what: String| SafetensorsError::BadIndex { what };
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| bad(printable(&error.to_string())))?;
        for file in stored.weight_map.values() {
            let plain = !file.contains(['/', '\\', ':', '\0']) && !file.starts_with('.');
            if !plain || !file.ends_with(".safetensors") {
                let shown = name_for_people(file.as_bytes());
                return Err(bad(format!("`{shown}` is no plain name of a file")));
            }
        }
        Ok(Index { weight_map: stored.weight_map })
    }

    /// The files, each once, sorted.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// A parser's message can quote the file: no control character of it may reach a terminal.
fn printable(message: &str) -> String {
    let shown = message.chars().take(300);
    shown.map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, n_data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + n_data, 0);
        bytes
    }

    const TWO: &str = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},
        "a":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}"#;

    #[test]
    fn tensors_come_in_the_order_of_their_bytes() {
        let tensors = parse(&file(TWO, 16)).unwrap();
        let start = 8 + TWO.len();
        assert_eq!(tensors.len(), 2);
        assert_eq!((tensors[0].name.as_str(), tensors[0].dtype), ("b", Dtype::BF16));
        assert_eq!(tensors[0].shape, [2, 3]);
        assert_eq!(tensors[0].range, start..start + 12);
        assert_eq!(tensors[1].range, start + 12..start + 16);
    }

    #[test]
    fn a_file_of_another_size_than_its_header_says_is_refused() {
        let error = parse(&file(TWO, 15)).unwrap_err();
        let needed = 8 + TWO.len() + 16;
        let expected = format!("ends at {} bytes but its header needs {needed} bytes", needed - 1);
        assert_eq!(error.to_string(), expected);
        assert_eq!(parse(&file(TWO, 17)), Err(SafetensorsError::TooLong { n_bytes: 1 }));
    }

    #[test]
    fn broken_headers_are_refused() {
        let check = |header: &str| {
            for n_data in [0, 4, 8, 12] {
                assert!(parse(&file(header, n_data)).is_err(), "{header} {n_data}");
            }
        };
        check("[]");
        check("{");
        check(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#);
        check(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,3]}}"#);
        check(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#);
        check(r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#);
        check(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#);
        // Overlap.
        check(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
        );
        // One name twice.
        check(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        );
        check(r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#);
        assert!(parse(b"").is_err());
        assert!(parse(&[0xff; 16]).is_err());
        assert!(parse(&[0xff, 0, 0, 0, 0, 0, 0, 0, b'{']).is_err());
    }

    #[test]
    fn sizes_that_add_up_to_more_than_memory_can_hold_are_no_panic() {
        // Eight tensors of 2^61 - 1 bytes each are fine one by one; header and length behind them overflow.
        let each = (1u64 << 61) - 1;
        let mut entries = Vec::new();
        for i in 0..8u64 {
            let (start, end) = (i * each, (i + 1) * each);
            entries.push(format!(r#""t{i}":{{"dtype":"U8","shape":[{each}],"data_offsets":[{start},{end}]}}"#));
        }
        let header = format!("{{{}}}", entries.join(","));
        assert!(matches!(parse(&file(&header, 0)), Err(SafetensorsError::Truncated { .. })));
    }

    #[test]
    fn truncations_and_flipped_bits_never_panic() {
        let mut bytes = file(TWO, 16);
        for n in 0..bytes.len() {
            assert!(parse(&bytes[..n]).is_err());
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                if let Ok(tensors) = parse(&bytes) {
                    assert!(tensors.iter().all(|t| bytes.get(t.range.clone()).is_some()));
                }
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn an_index_names_plain_files_only() {
        let index = Index::parse(br#"{"metadata":{},"weight_map":{"a":"m-1.safetensors","b":"m-1.safetensors"}}"#);
        assert_eq!(index.unwrap().files().into_iter().collect::<Vec<_>>(), ["m-1.safetensors"]);
        for name in ["../m.safetensors", "/m.safetensors", "a\\\\m.safetensors", ".safetensors", "m.bin", ""] {
            let text = format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#);
            let error = Index::parse(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("no plain name"), "{error}");
        }
        assert!(Index::parse(b"{}").is_err());
        assert!(Index::parse(br#"{"weight_map":{"a":7}}"#).is_err());
    }
}
