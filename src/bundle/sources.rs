//! What goes into a packed file: which files belong to the weights somebody named.

use std::path::{Path, PathBuf};

use super::locate::{Bundle, is_weights};
use super::pack::PackError;
use super::{Bytes, is_safe_name};

/// Files of a Hugging Face model directory that the program reads, besides the weights.
const MODEL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    SHARD_INDEX,
];
const SHARD_INDEX: &str = "model.safetensors.index.json";

/// A future member with its mapped content.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub name: String,
    pub bytes: Bytes,
}

/// Everything that `path` means as weights: a GGUF file (all its parts where it is split), a directory, a safetensors
/// file with what lies beside it, or the weights in a packed file. Small files first.
pub(super) fn weight_sources(path: &Path) -> Result<Vec<Source>, PackError> {
    if path.is_dir() {
        return directory_sources(path);
    }
    let bytes = Bytes::open(path)?;
    if bytes.starts_with(b"GGUF") {
        return gguf_sources(path, bytes);
    }
    if let Some(bundle) = Bundle::from_bytes(path, bytes.clone())? {
        return bundle_sources(&bundle);
    }
    if path.extension().is_some_and(|e| e == "safetensors") {
        let parent = parent(path);
        let is_shard = file_name(path).contains("-of-");
        if is_shard {
            return directory_sources(parent);
        }
        let mut sources = model_files(parent, false)?;
        let name = file_name(path);
        sources.push(Source { name, bytes });
        return Ok(sources);
    }
    Err(no_weights(path, "it is no GGUF file, no safetensors file and no packed file"))
}

/// The last part of a path as a member's name.
pub(super) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let mut name = name.to_string_lossy().into_owned();
    if !is_safe_name(&name) {
        name = name
            .chars()
            .map(|c| match c {
                '/' | '\\' | ':' => '_',
                c if c.is_control() => '_',
                c => c,
            })
            .collect();
    }
    name
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn no_weights(path: &Path, reason: impl Into<String>) -> PackError {
    PackError::NoWeights { path: path.to_owned(), reason: reason.into() }
}

fn gguf_sources(path: &Path, bytes: Bytes) -> Result<Vec<Source>, PackError> {
    let mut name = file_name(path);
    let Some((stem, count)) = split_parts(&name) else {
        if !name.ends_with(".gguf") {
            name.push_str(".gguf");
        }
        return Ok(vec![Source { name, bytes }]);
    };
    (1..=count)
        .map(|part| {
            let name = format!("{stem}-{part:05}-of-{count:05}.gguf");
            let bytes = Bytes::open(&path.with_file_name(&name))?;
            Ok(Source { name, bytes })
        })
        .collect()
}

/// Stem and number of parts of a name like `model-00002-of-00003.gguf`.
fn split_parts(name: &str) -> Option<(&str, u32)> {
    let number = |text: &str| -> Option<u32> {
        let is_number = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| is_number)
    };
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let (part, count) = (number(part)?, number(count)?);
    (1..=count).contains(&part).then_some((stem, count))
}

fn bundle_sources(bundle: &Bundle) -> Result<Vec<Source>, PackError> {
    let to_source = |(name, bytes)| Source { name, bytes };
    let gguf = bundle.members_ending_in(&[".gguf"])?;
    if !gguf.is_empty() {
        return Ok(gguf.into_iter().map(to_source).collect());
    }
    let mut sources = Vec::new();
    for &name in MODEL_FILES {
        if let Some(bytes) = bundle.member(name)? {
            sources.push(to_source((name.to_owned(), bytes)));
        }
    }
    let weights = bundle.members_ending_in(&[".safetensors"])?;
    if weights.is_empty() {
        return Err(no_weights(&bundle.path, "its archive holds no weights"));
    }
    sources.extend(weights.into_iter().map(to_source));
    Ok(sources)
}

fn directory_sources(directory: &Path) -> Result<Vec<Source>, PackError> {
    let names = weight_files(directory)?;
    let ending_in = |ending: &str| -> Vec<&PathBuf> {
        let has_ending = |path: &&PathBuf| file_name(path).ends_with(ending);
        names.iter().filter(has_ending).collect()
    };
    let (tensors, ggufs) = (ending_in(".safetensors"), ending_in(".gguf"));
    if tensors.is_empty() {
        return match ggufs.as_slice() {
            [] => Err(no_weights(directory, "it holds no *.safetensors or *.gguf")),
            [first, ..] => {
                let sources = gguf_sources(first, Bytes::open(first)?)?;
                if sources.len() == ggufs.len() {
                    Ok(sources)
                } else {
                    Err(no_weights(directory, "it holds several *.gguf"))
                }
            }
        };
    }
    let index = directory.join(SHARD_INDEX);
    let single = directory.join("model.safetensors");
    let mut shards: Vec<PathBuf> = if index.exists() {
        shards_of(&index, directory)?
    } else if single.exists() {
        vec![single]
    } else {
        tensors.into_iter().cloned().collect()
    };
    shards.sort();
    let mut sources = model_files(directory, index.exists())?;
    for shard in shards {
        let (name, bytes) = (file_name(&shard), Bytes::open(&shard)?);
        sources.push(Source { name, bytes });
    }
    Ok(sources)
}

fn weight_files(directory: &Path) -> Result<Vec<PathBuf>, PackError> {
    let io = |source| PackError::Io { path: directory.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if is_weights(&file_name(&path)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The files that the index of a sharded model names.
fn shards_of(index: &Path, directory: &Path) -> Result<Vec<PathBuf>, PackError> {
    let bytes = Bytes::open(index)?;
    let broken = || no_weights(index, "it is no index of a sharded model");
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| broken())?;
    let map = json["weight_map"].as_object().ok_or_else(broken)?;
    let mut names: Vec<&str> = map.values().filter_map(|value| value.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() || !names.iter().all(|name| is_safe_name(name)) {
        return Err(broken());
    }
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

fn model_files(directory: &Path, with_index: bool) -> Result<Vec<Source>, PackError> {
    let mut sources = Vec::new();
    for &name in MODEL_FILES {
        let path = directory.join(name);
        if path.is_file() && (with_index || name != SHARD_INDEX) {
            let (name, bytes) = (name.to_owned(), Bytes::open(&path)?);
            sources.push(Source { name, bytes });
        }
    }
    for required in ["config.json", "tokenizer.json"] {
        if !sources.iter().any(|source| source.name == required) {
            let reason = format!("`{required}` is missing beside the weights");
            return Err(no_weights(directory, reason));
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_split_files_are_told_from_others() {
        assert_eq!(split_parts("a-b-00002-of-00003.gguf"), Some(("a-b", 3)));
        for name in ["a.gguf", "a-00004-of-00003.gguf", "a-2-of-3.gguf", "a-00001-of-00002.bin"] {
            assert_eq!(split_parts(name), None, "{name}");
        }
    }
}
