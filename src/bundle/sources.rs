//! What goes into a packed file: which files belong to the weights somebody named.

use std::path::{Path, PathBuf};

use super::locate::{Bundle, is_weights};
use super::models::split_parts;
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

/// The same as members of a file: a GGUF gets `name` in place of its own, anything else a folder of that name.
///
/// # Errors
/// `name` for a packed file with several models.
pub(super) fn named_sources(path: &Path, name: Option<&str>) -> Result<Vec<Source>, PackError> {
    let mut sources = weight_sources(path)?;
    let Some(name) = name else { return Ok(sources) };
    let n_weights = sources.iter().filter(|source| source.name.ends_with(".gguf")).count();
    let is_split = |source: &Source| split_parts(&source.name).is_some_and(|(_, count)| count as usize == n_weights);
    if n_weights > 1 && !sources.iter().all(is_split) {
        return Err(no_weights(path, "it holds several models, which have names already"));
    }
    for source in &mut sources {
        let own = source.name.rsplit('/').next().unwrap_or_default();
        source.name = match split_parts(own) {
            Some((stem, _)) => format!("{name}{}", &own[stem.len()..]),
            None if own.ends_with(".gguf") => format!("{name}.gguf"),
            None => format!("{name}/{own}"),
        };
    }
    Ok(sources)
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
    if let Some(whole) = name.strip_suffix(".cat0") {
        // All parts together.
        name.truncate(whole.len());
    }
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

/// The members of all models inside, small ones first.
fn bundle_sources(bundle: &Bundle) -> Result<Vec<Source>, PackError> {
    let mut sources = Vec::new();
    for model in bundle.models() {
        let (weights, others): (Vec<&String>, Vec<&String>) = model.members.iter().partition(|name| is_weights(name));
        for name in others.into_iter().chain(weights) {
            if let Some(bytes) = bundle.member(name)? {
                sources.push(Source { name: name.clone(), bytes });
            }
        }
    }
    if sources.is_empty() {
        return Err(no_weights(&bundle.path, "its archive holds no weights"));
    }
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
