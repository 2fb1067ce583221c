//! What a model file says about its vocabulary, raw: the tokenizer makes an encoder of it.

use std::sync::Arc;

use super::WeightsError;
use super::json::Json;
use crate::bundle::Bytes;
use crate::gguf::{Gguf, GgufError, Strings};

/// The vocabulary of a model, in one of the two forms in which it comes. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Vocabulary {
    /// SentencePiece pieces with scores, from the metadata of a GGUF file.
    Spm(SpmVocabulary),
    /// Hugging Face's `tokenizer.json`.
    Json(JsonVocabulary),
}

impl Vocabulary {
    /// The file that it comes from, for messages.
    pub fn file(&self) -> &str {
        match self {
            Vocabulary::Spm(spm) => &spm.file,
            Vocabulary::Json(json) => &json.file,
        }
    }

    /// Ids that the files declare to end a reply, sorted. A GGUF often names `<eos>` only: `<end_of_turn>` must be found by
    /// its text.
    pub fn end_ids(&self) -> &[u32] {
        match self {
            Vocabulary::Spm(spm) => &spm.end_ids,
            Vocabulary::Json(json) => &json.end_ids,
        }
    }
}

/// `tokenizer.json` and what its neighbors say.
#[derive(Clone, Debug)]
pub struct JsonVocabulary {
    /// The name of `tokenizer`, for messages.
    pub file: String,
    /// `tokenizer.json`, not parsed.
    pub tokenizer: Bytes,
    /// `tokenizer_config.json`, not parsed.
    pub tokenizer_config: Option<Bytes>,
    /// `bos_token_id` of `config.json`.
    pub bos_id: Option<u32>,
    /// `eos_token_id` of `generation_config.json`, or of `config.json` where that is absent.
    pub end_ids: Vec<u32>,
}

/// SentencePiece's kinds of pieces, with GGUF's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// 1, and any number that is none of the others.
    Normal,
    /// 2: what stands for characters without a piece.
    Unknown,
    /// 3: never made from text, as `<bos>`.
    Control,
    /// 4: cut out of the text before pieces are merged.
    UserDefined,
    /// 5
    Unused,
    /// 6: one byte, written `<0x0A>`.
    Byte,
}

impl TokenType {
    /// Its number in GGUF files.
    pub fn id(self) -> i32 {
        self as i32 + 1
    }

    fn from_id(id: i32) -> TokenType {
        match id {
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => TokenType::Normal,
        }
    }
}

/// The vocabulary arrays of a GGUF file, read where they lie; checked to be equally long.
#[derive(Clone, Debug)]
pub struct SpmVocabulary {
    gguf: Arc<Gguf<Bytes>>,
    /// The file's name, for messages.
    pub file: String,
    n_tokens: usize,
    /// `tokenizer.ggml.bos_token_id`
    pub bos_id: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`
    pub eos_id: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`
    pub eot_id: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`
    pub unk_id: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`
    pub pad_id: Option<u32>,
    /// `eos_id` and `eot_id`, where they are, sorted and each once.
    pub end_ids: Vec<u32>,
    /// `tokenizer.ggml.add_space_prefix`; false where it is absent, since no Gemma 2 puts a space before the text.
    pub add_space_prefix: bool,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";

impl SpmVocabulary {
    /// Reads the vocabulary of a file, which may have no tensors at all. `file` is its name for messages. Errors where an
    /// array is missing or of another length than the tokens, where an id lies outside, and where the vocabulary is of
    /// another kind than SentencePiece's (`tokenizer.ggml.model` other than `llama`).
    pub fn from_gguf(file: &str, gguf: Arc<Gguf<Bytes>>) -> Result<SpmVocabulary, WeightsError> {
        let named = |source: GgufError| WeightsError::Gguf { file: file.to_owned(), source };
        let missing = |key: &str| WeightsError::MissingKey { file: file.to_owned(), key: key.to_owned() };
        let bad = |key: &str, value: String, expected: String| WeightsError::BadValue {
            file: file.to_owned(),
            key: key.to_owned(),
            value,
            expected,
        };
        let metadata = gguf.metadata();
        let kind = metadata.string("tokenizer.ggml.model").map_err(named)?;
        let kind = kind.ok_or_else(|| missing("tokenizer.ggml.model"))?;
        if kind != "llama" {
            let value = format!("`{}`", crate::error::name_for_people(kind.as_bytes()));
            return Err(bad("tokenizer.ggml.model", value, "a Gemma 2 has `llama`".into()));
        }
        let tokens = metadata.strings(TOKENS).map_err(named)?;
        let n_tokens = tokens.ok_or_else(|| missing(TOKENS))?.len();
        let scores = metadata.f32s(SCORES).map_err(named)?;
        let types = metadata.i32s(TYPES).map_err(named)?;
        let n_scores = scores.ok_or_else(|| missing(SCORES))?.len();
        let n_types = types.ok_or_else(|| missing(TYPES))?.len();
        for (key, len) in [(SCORES, n_scores), (TYPES, n_types)] {
            if len != n_tokens {
                let value = format!("{len} values");
                return Err(bad(key, value, format!("there are {n_tokens} tokens")));
            }
        }
        if n_tokens == 0 || u32::try_from(n_tokens).is_err() {
            return Err(bad(
                TOKENS,
                format!("{n_tokens} tokens"),
                "a vocabulary has more than none and less than 2^32".into(),
            ));
        }
        let id = |name: &str| -> Result<Option<u32>, WeightsError> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match metadata.u64(&key).map_err(named)? {
                None => Ok(None),
                Some(id) if id < n_tokens as u64 => Ok(Some(id as u32)),
                Some(id) => Err(bad(&key, id.to_string(), format!("there are {n_tokens} tokens"))),
            }
        };
        let (bos_id, eos_id, eot_id) = (id("bos")?, id("eos")?, id("eot")?);
        let (unk_id, pad_id) = (id("unknown")?, id("padding")?);
        let add_space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix").map_err(named)?.unwrap_or(false);
        Ok(SpmVocabulary {
            file: file.to_owned(),
            n_tokens,
            bos_id,
            eos_id,
            eot_id,
            unk_id,
            pad_id,
            end_ids: sorted(eos_id.into_iter().chain(eot_id)),
            add_space_prefix,
            gguf,
        })
    }

    /// The header that the vocabulary stands in.
    pub(super) fn gguf(&self) -> &Gguf<Bytes> {
        &self.gguf
    }

    /// Number of tokens, and of items of [`tokens`](Self::tokens), [`scores`](Self::scores) and [`types`](Self::types).
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The pieces in id order: bytes that are supposed to be UTF-8, with U+2581 for a space.
    pub fn tokens(&self) -> Strings<'_> {
        // Checked when this was made; the fallback is for a file that was changed under the mapping.
        let tokens = self.gguf.metadata().strings(TOKENS);
        tokens.ok().flatten().unwrap_or_default()
    }

    /// The scores in id order: merges with a higher score come first.
    pub fn scores(&self) -> impl Iterator<Item = f32> + Clone + '_ {
        let scores = self.gguf.metadata().f32s(SCORES);
        scores.ok().flatten().into_iter().flatten()
    }

    /// The kinds of the pieces in id order.
    pub fn types(&self) -> impl Iterator<Item = TokenType> + Clone + '_ {
        let types = self.gguf.metadata().i32s(TYPES);
        types.ok().flatten().into_iter().flatten().map(TokenType::from_id)
    }
}

impl JsonVocabulary {
    /// Puts together what the files of a Hugging Face directory say.
    pub(super) fn from_parts(
        file: &str,
        tokenizer: Bytes,
        tokenizer_config: Option<Bytes>,
        config: &Json,
        generation_config: Option<&Json>,
    ) -> Result<JsonVocabulary, WeightsError> {
        let declared = match generation_config {
            Some(generation) => generation.token_ids("eos_token_id")?,
            None => None,
        };
        let end_ids = match declared {
            Some(ids) => ids,
            None => config.token_ids("eos_token_id")?.unwrap_or_default(),
        };
        let bos_ids = config.token_ids("bos_token_id")?.unwrap_or_default();
        Ok(JsonVocabulary {
            file: file.to_owned(),
            tokenizer,
            tokenizer_config,
            bos_id: bos_ids.first().copied(),
            end_ids: sorted(end_ids.into_iter()),
        })
    }
}

fn sorted(ids: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut ids: Vec<u32> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
