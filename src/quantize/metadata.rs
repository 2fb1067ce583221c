//! The header of the new file: that of a GGUF is copied; for safetensors it is put together as llama.cpp's converter does.

use super::{QuantizeError, Recipe};
use crate::gguf::Writer;
use crate::tokenizer::{OwnedToken, Tokenizer};
use crate::weights::{GgufNumber, Source, TokenType, Vocabulary};

/// Adds all keys.
pub(super) fn write_metadata(writer: &mut Writer, source: &Source, recipe: Recipe) -> Result<(), QuantizeError> {
    match source.gguf() {
        Some(gguf) => {
            writer.copy_metadata(gguf, |key| {
                // A split model becomes one file.
                !matches!(key, "general.file_type" | "general.quantization_version") && !key.starts_with("split.")
            });
        }
        None => describe(writer, source)?,
    }
    writer.u32("general.file_type", recipe.file_type()).u32("general.quantization_version", 2);
    Ok(())
}

fn describe(writer: &mut Writer, source: &Source) -> Result<(), QuantizeError> {
    writer.string("general.architecture", "gemma2").string("general.type", "model");
    writer.string("general.name", source.name());
    for (key, value) in source.config().to_gguf().map_err(QuantizeError::NoKey)? {
        match value {
            GgufNumber::U32(n) => writer.u32(key, n),
            GgufNumber::F32(x) => writer.f32(key, x),
        };
    }
    let tokenizer = Tokenizer::from_vocabulary(source.vocabulary()).map_err(QuantizeError::Tokenizer)?;
    source.check_vocabulary_size(tokenizer.n_vocab())?;
    let mut tokens = tokenizer.to_sentencepiece().map_err(QuantizeError::Tokenizer)?;
    // llama.cpp wants a token for each row of the embedding.
    for id in tokens.len()..source.config().n_vocab {
        let piece = format!("[PAD{id}]").into_bytes();
        tokens.push(OwnedToken { piece, score: 0.0, kind: TokenType::Unused });
    }
    writer.string("tokenizer.ggml.model", "llama").string("tokenizer.ggml.pre", "default");
    writer.strings("tokenizer.ggml.tokens", &tokens.iter().map(|t| &t.piece[..]).collect::<Vec<_>>());
    writer.f32s("tokenizer.ggml.scores", &tokens.iter().map(|t| t.score).collect::<Vec<_>>());
    writer.i32s("tokenizer.ggml.token_type", &tokens.iter().map(|t| t.kind.id()).collect::<Vec<_>>());
    writer.u32("tokenizer.ggml.bos_token_id", tokenizer.bos());
    let mut id = |key: &str, id: Option<u32>| {
        if let Some(id) = id {
            writer.u32(key, id);
        }
    };
    id("tokenizer.ggml.eos_token_id", tokenizer.control("<eos>").or(first_end(source)));
    id("tokenizer.ggml.eot_token_id", tokenizer.control("<end_of_turn>"));
    id("tokenizer.ggml.unknown_token_id", tokenizer.unknown());
    id("tokenizer.ggml.padding_token_id", tokenizer.control("<pad>"));
    writer.bool("tokenizer.ggml.add_bos_token", true).bool("tokenizer.ggml.add_eos_token", false);
    writer.bool("tokenizer.ggml.add_space_prefix", false);
    if let Some(template) = source.chat_template() {
        writer.string("tokenizer.chat_template", template);
    }
    Ok(())
}

fn first_end(source: &Source) -> Option<u32> {
    match source.vocabulary() {
        Vocabulary::Json(json) => json.end_ids.first().copied(),
        Vocabulary::Spm(_) => None,
    }
}
