//! A model's files, opened: headers read and checked, tensors at hand.

use std::sync::Arc;

use super::config::{Config, GgufHeader, MAX_VOCAB};
use super::files::{Files, HuggingFaceFiles, NamedBytes};
use super::json::Json;
use super::label::quantization_label;
use super::names::Scheme;
use super::table::Table;
use super::tensors::read_tensors;
use super::vocabulary::{JsonVocabulary, SpmVocabulary, Vocabulary};
use super::{Tensors, WeightsError};
use crate::error::name_for_people;
use crate::gguf::{Gguf, GgufError};
use crate::safetensors::{self, Index};

/// An opened model: configuration, vocabulary and tensors, the same for both file formats.
#[derive(Clone, Debug)]
pub struct Source {
    file: String,
    name: String,
    scheme: Scheme,
    config: Config,
    table: Table,
    vocabulary: Vocabulary,
    chat_template: Option<String>,
    quantization: String,
}

impl Source {
    /// Reads the headers of all files. Weights are not touched; [`tensors`](Self::tensors) checks them.
    pub fn open(files: Files) -> Result<Source, WeightsError> {
        match files {
            Files::Gguf(parts) => open_gguf(parts),
            Files::HuggingFace(files) => open_hugging_face(*files),
        }
    }

    /// The numbers that describe the model. `n_vocab` is the number of rows of the embedding.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All tensors, found and checked: each has the shape that the configuration asks for and a type that kernels know;
    /// norms are factors and finite; nothing is left over. Matrices are slices of the mapped files. Whether values of
    /// matrices are finite is not looked at, since that would read all of them.
    pub fn tensors(&self) -> Result<Tensors, WeightsError> {
        read_tensors(&self.table, self.scheme, &self.config, &self.file)
    }

    /// What the tokenizer is made of. It can have fewer tokens than the embedding has rows (rows were added for alignment):
    /// the logits behind it are to be masked. See [`check_vocabulary_size`](Self::check_vocabulary_size).
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Errors where there are more tokens than the embedding has rows. Fewer are allowed. A GGUF's vocabulary has been
    /// checked by `open`; that of a `tokenizer.json` is known only to who has parsed it.
    pub fn check_vocabulary_size(&self, n_tokens: usize) -> Result<(), WeightsError> {
        check_vocabulary_size(self.vocabulary.file(), n_tokens, self.config.n_vocab)
    }

    /// The chat template, as Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Token ids that the files declare to end a reply.
    pub fn end_ids(&self) -> &[u32] {
        self.vocabulary.end_ids()
    }

    /// What the model calls itself (`general.name`), or the name of its file or directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first file's name as it was given, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// A short name of how weights are stored: `Q4_K_M`, `Q6_K`, `BF16`.
    pub fn quantization(&self) -> &str {
        &self.quantization
    }

    /// Number of weights.
    pub fn n_params(&self) -> u64 {
        self.used_entries().map(|entry| entry.n_values()).sum()
    }

    /// Bytes that all weights take in the files.
    pub fn weight_bytes(&self) -> u64 {
        self.used_entries().map(|entry| entry.bytes.len() as u64).sum()
    }

    /// The header of the GGUF file (the first one of a split model); `None` for safetensors.
    pub fn gguf(&self) -> Option<&Gguf<crate::bundle::Bytes>> {
        match &self.vocabulary {
            Vocabulary::Spm(vocabulary) => Some(vocabulary.gguf()),
            Vocabulary::Json(_) => None,
        }
    }

    /// `gguf` or `safetensors`.
    pub fn format_name(&self) -> &'static str {
        match self.scheme {
            Scheme::Gguf => "gguf",
            Scheme::HuggingFace => "safetensors",
        }
    }

    /// All but a copy of the embedding.
    fn used_entries(&self) -> impl Iterator<Item = &super::table::Entry> {
        let copy = self.scheme.output_matrix();
        let entries = self.table.entries.iter();
        entries.filter(move |(name, _)| *name != copy).map(|(_, entry)| entry)
    }
}

fn open_gguf(parts: Vec<NamedBytes>) -> Result<Source, WeightsError> {
    let mut table = Table::default();
    let mut first: Option<(String, Arc<Gguf<crate::bundle::Bytes>>)> = None;
    let n_parts = parts.len();
    for (number, part) in parts.into_iter().enumerate() {
        let gguf = Gguf::parse(part.bytes.clone()).map_err(named(&part.name))?;
        check_split(&part.name, &gguf, number, n_parts)?;
        if first.is_none() {
            // Before any other complaint, since everything else follows from this.
            check_kind(&part.name, &gguf)?;
        }
        table.add_gguf(&part.name, &part.bytes, gguf.tensors())?;
        first.get_or_insert_with(|| (part.name, Arc::new(gguf)));
    }
    let Some((file, gguf)) = first else {
        return Err(WeightsError::Members { what: "there is no file".into() });
    };
    let metadata = gguf.metadata();
    if let Some(n) = metadata.u64("split.tensors.count").map_err(named(&file))?
        && n != table.entries.len() as u64
    {
        let what = format!("all have {} tensors together, not {n}", table.entries.len());
        return Err(WeightsError::BadSplit { file, what });
    }
    let header = GgufHeader { file: &file, metadata };
    if table.entries.is_empty() {
        let what = "it has no tensors, only metadata";
        return Err(WeightsError::NoModel { file, what });
    }
    let n_vocab = embedding_rows(&table, &file)?;
    let config = Config::from_gguf(&header, n_vocab)?;
    let vocabulary = SpmVocabulary::from_gguf(&file, gguf.clone())?;
    check_vocabulary_size(&file, vocabulary.n_tokens(), n_vocab)?;
    let name = match header.string("general.name")? {
        Some(name) if !name.trim().is_empty() => name_for_people(name.trim().as_bytes()),
        _ => file_stem(&file),
    };
    let chat_template = header.string("tokenizer.chat_template")?.map(str::to_owned);
    let file_type = metadata.u64("general.file_type").map_err(named(&file))?;
    Ok(Source {
        name,
        scheme: Scheme::Gguf,
        config,
        vocabulary: Vocabulary::Spm(vocabulary),
        chat_template,
        quantization: quantization_label(file_type, table.main_type()),
        table,
        file,
    })
}

/// Whether this is the model's part `number` (from 0) of `n_parts`.
fn check_split(
    file: &str,
    gguf: &Gguf<crate::bundle::Bytes>,
    number: usize,
    n_parts: usize,
) -> Result<(), WeightsError> {
    let bad = |what: String| WeightsError::BadSplit { file: file.to_owned(), what };
    let metadata = gguf.metadata();
    let count = metadata.u64("split.count").map_err(named(file))?;
    // A count of 0 is what some tools write into a file that is whole.
    let count = count.filter(|&count| count > 0).unwrap_or(1);
    if count != n_parts as u64 {
        return Err(bad(format!("it is one of {count}, and there are {n_parts}")));
    }
    let position = metadata.u64("split.no").map_err(named(file))?;
    match position {
        Some(position) if n_parts > 1 && position != number as u64 => {
            Err(bad(format!("it is number {} and not {}", position.saturating_add(1), number + 1)))
        }
        None if n_parts > 1 => Err(bad("it does not say which part it is".into())),
        _ => Ok(()),
    }
}

/// Adapters and the like have the architecture of their model, but are none.
fn check_kind(file: &str, gguf: &Gguf<crate::bundle::Bytes>) -> Result<(), WeightsError> {
    let header = GgufHeader { file, metadata: gguf.metadata() };
    let architecture = header.string("general.architecture")?;
    if let Some(architecture) = architecture
        && architecture != "gemma2"
    {
        return Err(WeightsError::Architecture {
            file: file.to_owned(),
            architecture: name_for_people(architecture.as_bytes()),
        });
    }
    let what = match header.string("general.type")? {
        Some("adapter") => "it is an adapter (LoRA)",
        Some("mmproj") => "it is a projector for images",
        Some("imatrix") => "it is an importance matrix",
        _ => return Ok(()),
    };
    let file = file.to_owned();
    Err(WeightsError::NoModel { file, what })
}

fn open_hugging_face(files: HuggingFaceFiles) -> Result<Source, WeightsError> {
    let json = Json::parse(&files.config.name, &files.config.bytes)?;
    let config = Config::from_json(&json)?;
    let parse = |part: &Option<NamedBytes>| {
        let parsed = part.as_ref().map(|part| Json::parse(&part.name, &part.bytes));
        parsed.transpose()
    };
    let generation_config = parse(&files.generation_config)?;
    let tokenizer_config = parse(&files.tokenizer_config)?;
    let vocabulary = JsonVocabulary::from_parts(
        &files.tokenizer.name,
        files.tokenizer.bytes.clone(),
        files.tokenizer_config.as_ref().map(|part| part.bytes.clone()),
        &json,
        generation_config.as_ref(),
    )?;
    let mut chat_template = None;
    if let Some(part) = &files.chat_template {
        let text = std::str::from_utf8(&part.bytes).map_err(|_| WeightsError::BadValue {
            file: part.name.clone(),
            key: "chat_template".into(),
            value: "bytes".into(),
            expected: "UTF-8 is expected".into(),
        })?;
        chat_template = Some(text.to_owned());
    } else if let Some(json) = &tokenizer_config {
        chat_template = template_of(json)?;
    }

    let mut table = Table::default();
    for shard in &files.shards {
        let named = |source| WeightsError::Safetensors { file: shard.name.clone(), source };
        let tensors = safetensors::parse(&shard.bytes).map_err(named)?;
        table.add_safetensors(&shard.name, &shard.bytes, &tensors)?;
    }
    if let Some(index) = &files.index {
        check_index(index, &files.shards, &table)?;
    }
    let file = match files.shards.first() {
        Some(shard) => shard.name.clone(),
        None => files.config.name.clone(),
    };
    Ok(Source {
        name: files.name,
        scheme: Scheme::HuggingFace,
        config,
        vocabulary: Vocabulary::Json(vocabulary),
        chat_template,
        quantization: quantization_label(None, table.main_type()),
        table,
        file,
    })
}

/// Whether the files that the index lists are there, and have what it says.
fn check_index(index: &NamedBytes, shards: &[NamedBytes], table: &Table) -> Result<(), WeightsError> {
    let parsed =
        Index::parse(&index.bytes).map_err(|source| WeightsError::Safetensors { file: index.name.clone(), source })?;
    let listed = parsed.files();
    for &missing in &listed {
        if !shards.iter().any(|shard| shard.base_name() == missing) {
            return Err(WeightsError::MissingSplit {
                file: index.name.clone(),
                n_files: listed.len(),
                missing: missing.to_owned(),
            });
        }
    }
    for (tensor, shard) in &parsed.weight_map {
        if !table.entries.contains_key(tensor) {
            return Err(WeightsError::MissingTensor {
                file: shard.clone(),
                tensor: name_for_people(tensor.as_bytes()),
            });
        }
    }
    Ok(())
}

/// `chat_template` of tokenizer_config.json: a string, or a list of named ones of which `default` counts.
fn template_of(json: &Json) -> Result<Option<String>, WeightsError> {
    let key = "chat_template";
    let Some(serde_json::Value::Array(templates)) = json.get(key) else {
        return Ok(json.string(key)?.map(str::to_owned));
    };
    let default = templates.iter().find(|t| t["name"] == "default");
    let text = default.and_then(|t| t["template"].as_str());
    Ok(text.map(str::to_owned))
}

fn embedding_rows(table: &Table, file: &str) -> Result<usize, WeightsError> {
    let tensor = Scheme::Gguf.embedding();
    let Some(entry) = table.entries.get(tensor) else {
        return Err(WeightsError::MissingTensor { file: file.to_owned(), tensor: tensor.to_owned() });
    };
    match entry.shape[..] {
        [n_rows, _] if n_rows <= MAX_VOCAB => Ok(n_rows),
        _ => Err(WeightsError::Shape {
            file: entry.file.to_string(),
            tensor: tensor.to_owned(),
            expected: vec![256_000, entry.shape.last().copied().unwrap_or(0)],
            found: entry.shape.clone(),
        }),
    }
}

fn check_vocabulary_size(file: &str, n_tokens: usize, n_rows: usize) -> Result<(), WeightsError> {
    if n_tokens <= n_rows {
        return Ok(());
    }
    Err(WeightsError::VocabularyTooLong { file: file.to_owned(), n_tokens, n_rows })
}

fn named(file: &str) -> impl Fn(GgufError) -> WeightsError + '_ {
    move |source| WeightsError::Gguf { file: file.to_owned(), source }
}

fn file_stem(file: &str) -> String {
    let base = file.rsplit(['/', '\\']).next().unwrap_or(file);
    name_for_people(base.strip_suffix(".gguf").unwrap_or(base).as_bytes())
}
