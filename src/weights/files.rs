//! Finding the files of a model: a GGUF with its splits, a Hugging Face directory, members of an archive.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::WeightsError;
use crate::bundle::{Bytes, MapError};
use crate::error::name_for_people;
use crate::safetensors::Index;

/// Bytes with the name that messages use for them.
#[derive(Clone, Debug)]
pub struct NamedBytes {
    /// A path as it was given, or the name of an archive's member.
    pub name: String,
    /// The content.
    pub bytes: Bytes,
}

impl NamedBytes {
    /// Maps a file and names it by its path.
    pub fn open(path: &Path) -> Result<NamedBytes, MapError> {
        Ok(NamedBytes { name: path.display().to_string(), bytes: Bytes::open(path)? })
    }

    /// The last part of the name.
    pub fn base_name(&self) -> &str {
        let name = &self.name;
        name.rsplit(['/', '\\']).next().unwrap_or(name)
    }
}

/// The files that make one model, wherever they lie.
#[derive(Clone, Debug)]
pub enum Files {
    /// One GGUF file, or all parts of a split one in order.
    Gguf(Vec<NamedBytes>),
    /// What a Hugging Face directory has.
    HuggingFace(Box<HuggingFaceFiles>),
}

/// The files of a Hugging Face directory that matter here.
#[derive(Clone, Debug)]
pub struct HuggingFaceFiles {
    /// What to call the model: the directory's name.
    pub name: String,
    /// `config.json`
    pub config: NamedBytes,
    /// `generation_config.json`
    pub generation_config: Option<NamedBytes>,
    /// `tokenizer.json`
    pub tokenizer: NamedBytes,
    /// `tokenizer_config.json`
    pub tokenizer_config: Option<NamedBytes>,
    /// `chat_template.jinja`, where it is a file of its own
    pub chat_template: Option<NamedBytes>,
    /// `model.safetensors.index.json`
    pub index: Option<NamedBytes>,
    /// The safetensors files.
    pub shards: Vec<NamedBytes>,
}

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

impl Files {
    /// Finds the files of the model at `path`: a GGUF file (of a split one, any part: the others lie beside it), a Hugging
    /// Face directory, or a safetensors file in such a directory. Files are mapped, not read.
    pub fn from_path(path: &Path) -> Result<Files, WeightsError> {
        let is_directory = match path.metadata() {
            Ok(metadata) => metadata.is_dir(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(WeightsError::NotFound { path: path.to_owned(), similar: similar_ggufs(path) });
            }
            Err(source) => {
                let path = path.to_owned();
                return Err(MapError { path, source }.into());
            }
        };
        if is_directory {
            return from_directory(path, None);
        }
        let file_name = path.file_name().and_then(OsStr::to_str).unwrap_or("");
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        if file_name == INDEX {
            return from_directory(directory, None);
        }
        if file_name.ends_with(".safetensors") {
            return from_directory(directory, Some(file_name));
        }
        let Some(split) = Split::of(file_name) else {
            return Ok(Files::Gguf(vec![NamedBytes::open(path)?]));
        };
        let mut parts = Vec::new();
        for number in 1..=split.count {
            let part = path.with_file_name(split.file_name(number));
            if !part.exists() {
                return Err(WeightsError::MissingSplit {
                    file: path.display().to_string(),
                    n_files: split.count,
                    missing: part.display().to_string(),
                });
            }
            parts.push(NamedBytes::open(&part)?);
        }
        Ok(Files::Gguf(parts))
    }

    /// Sorts the members of an archive (or any other named bytes) into a model. Members that belong to no model are left out.
    /// Errors where there is more than one model, or none that is whole.
    pub fn from_members(members: Vec<NamedBytes>) -> Result<Files, WeightsError> {
        let error = |what: String| WeightsError::Members { what };
        let (mut ggufs, others): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| member.base_name().ends_with(".gguf"));
        if !ggufs.is_empty() {
            ggufs.sort_by(|a, b| a.base_name().cmp(b.base_name()));
            if ggufs.len() > 1 {
                let first = Split::of(ggufs[0].base_name());
                let whole = first.is_some_and(|split| {
                    let names = (1..=split.count).map(|number| split.file_name(number));
                    names.eq(ggufs.iter().map(|part| part.base_name().to_owned()))
                });
                if !whole {
                    let names: Vec<String> = ggufs.iter().map(|part| format!("`{}`", shown(&part.name))).collect();
                    return Err(error(format!("there is {}", names.join(", "))));
                }
            }
            return Ok(Files::Gguf(ggufs));
        }
        let find = |name: &str| others.iter().find(|m| m.base_name() == name).cloned();
        let mut shards: Vec<NamedBytes> =
            others.iter().filter(|member| member.base_name().ends_with(".safetensors")).cloned().collect();
        shards.sort_by(|a, b| a.base_name().cmp(b.base_name()));
        if shards.is_empty() {
            return Err(error("there is no `.gguf` and no `.safetensors`".into()));
        }
        let need = |name: &str| find(name).ok_or_else(|| error(format!("`{name}` is missing")));
        let config = need(CONFIG)?;
        let directory = config.name.rsplit(['/', '\\']).nth(1).unwrap_or("");
        Ok(Files::HuggingFace(Box::new(HuggingFaceFiles {
            name: model_name(directory),
            tokenizer: need(TOKENIZER)?,
            generation_config: find(GENERATION_CONFIG),
            tokenizer_config: find(TOKENIZER_CONFIG),
            chat_template: find(CHAT_TEMPLATE),
            index: find(INDEX),
            config,
            shards,
        })))
    }
}

/// A Hugging Face directory; of its weights only `shard` where it is given and no index lists it.
fn from_directory(directory: &Path, shard: Option<&str>) -> Result<Files, WeightsError> {
    let not_a_model = |missing| WeightsError::NotAModelDirectory {
        path: directory.to_owned(),
        missing,
        ggufs: file_names(directory, ".gguf").unwrap_or_default(),
        pytorch: file_names(directory, ".bin").is_ok_and(|names| !names.is_empty()),
    };
    let optional = |name: &str| -> Result<Option<NamedBytes>, WeightsError> {
        let path = directory.join(name);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(NamedBytes::open(&path)?))
    };
    let config = optional(CONFIG)?.ok_or_else(|| not_a_model(CONFIG))?;
    let tokenizer = optional(TOKENIZER)?.ok_or_else(|| not_a_model(TOKENIZER))?;
    let mut index = optional(INDEX)?;
    let mut names: Vec<String> = Vec::new();
    if let Some(index) = &index {
        let parsed = Index::parse(&index.bytes)
            .map_err(|source| WeightsError::Safetensors { file: index.name.clone(), source })?;
        names = parsed.files().into_iter().map(str::to_owned).collect();
    }
    // One file that was named, or the usual single one, is a whole model unless the index lists it as a part.
    let single = shard.unwrap_or(SINGLE);
    if !names.iter().any(|name| name == single) && directory.join(single).exists() {
        index = None;
        names = vec![single.to_owned()];
    }
    if index.is_none() && names.is_empty() {
        let found = file_names(directory, ".safetensors")
            .map_err(|source| WeightsError::List { path: directory.to_owned(), source })?;
        if found.len() != 1 {
            return Err(not_a_model(SINGLE));
        }
        names = found;
    }
    let mut shards = Vec::new();
    for name in &names {
        let path = directory.join(name);
        if !path.exists() {
            return Err(WeightsError::MissingSplit {
                file: directory.join(INDEX).display().to_string(),
                n_files: names.len(),
                missing: path.display().to_string(),
            });
        }
        shards.push(NamedBytes::open(&path)?);
    }
    // "." and ".." have no name of their own.
    let resolved = directory.canonicalize();
    let resolved = resolved.as_deref().unwrap_or(directory);
    let directory_name = resolved.file_name().unwrap_or_default().to_string_lossy();
    Ok(Files::HuggingFace(Box::new(HuggingFaceFiles {
        name: model_name(&directory_name),
        config,
        tokenizer,
        generation_config: optional(GENERATION_CONFIG)?,
        tokenizer_config: optional(TOKENIZER_CONFIG)?,
        chat_template: optional(CHAT_TEMPLATE)?,
        index,
        shards,
    })))
}

/// A part of a split GGUF, as `model-00002-of-00003.gguf`.
struct Split {
    stem: String,
    count: usize,
}

impl Split {
    fn of(file_name: &str) -> Option<Split> {
        let (rest, count) = file_name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let parse = |digits: &str| {
            let plain = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
            if plain { digits.parse().ok() } else { None }
        };
        let (number, count): (usize, usize) = (parse(number)?, parse(count)?);
        (1..=count).contains(&number).then(|| Split { stem: stem.to_owned(), count })
    }

    fn file_name(&self, number: usize) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

/// Names of GGUF files in the folder where `missing` was looked for, those that begin most like it first.
fn similar_ggufs(missing: &Path) -> Vec<String> {
    let directory = match missing.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let wanted = missing.file_name().unwrap_or_default().to_string_lossy();
    let wanted = wanted.to_lowercase();
    let n_common = |name: &String| {
        let name = name.to_lowercase();
        name.chars().zip(wanted.chars()).take_while(|(a, b)| a == b).count()
    };
    let mut names = file_names(&directory, ".gguf").unwrap_or_default();
    names.sort_by_key(|name| std::cmp::Reverse(n_common(name)));
    names.truncate(3);
    names
}

fn file_names(directory: &Path, suffix: &str) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(suffix) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn model_name(directory: &str) -> String {
    match directory {
        "" => "gemma2".into(),
        name => shown(name),
    }
}

fn shown(name: &str) -> String {
    name_for_people(name.as_bytes())
}
