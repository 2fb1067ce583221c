//! Text to token ids and back.
//!
//! Gemma's tokenizer is byte-pair encoding over characters with bytes as the fallback. Model files describe it in two
//! ways: GGUF has SentencePiece's pieces with scores ([`Tokenizer::from_sentencepiece`]), Hugging Face's
//! `tokenizer.json` has a list of merges ([`Tokenizer::from_tokenizer_json`]). Both become the same table here and go
//! through the same encoder; they differ only in what decides which merge comes first.
//!
//! A text is encoded in three steps: user-defined and control tokens are cut out (`special.rs`), what is left is split
//! where no merge can reach across, and each of these parts is merged by rank (`encode.rs`).

mod decode;
mod encode;
mod json;
mod special;
mod vocab;

#[cfg(test)]
pub(crate) mod tests;

pub use decode::StreamDecoder;
pub use vocab::{MAX_PIECE_BYTES, MAX_TOKENS, OwnedToken, SentencePieceToken, SpecialIds};

use crate::error::Hint;
use crate::weights::{JsonVocabulary, SpmVocabulary, TokenType, Vocabulary};
use vocab::Vocab;

/// Index of a token in the vocabulary.
pub type TokenId = u32;

/// Whether control tokens written out in a text count as tokens or as the characters they are made of.
///
/// User-defined tokens (newline runs, HTML tags) are ordinary text and are found in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `<end_of_turn>` in the text is the control token.
    Parse,
    /// `<end_of_turn>` in the text is thirteen characters.
    Literal,
}

/// A vocabulary that cannot be used. Who opened the file adds its name.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// No tokens at all.
    #[error("the vocabulary is empty")]
    Empty,
    /// More tokens, longer tokens or more bytes than any sensible vocabulary has.
    #[error("the vocabulary is not plausible: {0}")]
    Implausible(String),
    /// A token id that the file names but does not have.
    #[error("the `{name}` token is {id}, but the vocabulary has {n_vocab} tokens")]
    IdOutOfRange {
        /// What the id is for.
        name: &'static str,
        /// The id.
        id: TokenId,
        /// The number of tokens.
        n_vocab: usize,
    },
    /// A token that Gemma cannot do without.
    #[error("the vocabulary has no {0}")]
    Missing(&'static str),
    /// `tokenizer.json` is not JSON or lacks something.
    #[error("it cannot be read as a tokenizer: {0}")]
    Json(#[from] serde_json::Error),
    /// `tokenizer.json` describes another kind of tokenizer.
    #[error("it is not Gemma's kind of tokenizer: {0}")]
    NotGemma(String),
}

impl Hint for TokenizerError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            TokenizerError::NotGemma(_) => {
                "this program runs Gemma 2 only; take the tokenizer that came with the model".into()
            }
            _ => "the model file is damaged or badly converted; download or convert it again".into(),
        })
    }
}

/// A vocabulary with its encoder.
pub struct Tokenizer {
    vocab: Vocab,
    bos: TokenId,
    /// Sorted.
    ends: Vec<TokenId>,
}

impl Tokenizer {
    /// From what a model file says about its vocabulary. It may have fewer tokens than the model has rows of its embedding.
    ///
    /// # Errors
    /// As [`Tokenizer::from_sentencepiece`] and [`Tokenizer::from_tokenizer_json`].
    pub fn from_vocabulary(vocabulary: &Vocabulary) -> Result<Tokenizer, TokenizerError> {
        match vocabulary {
            Vocabulary::Spm(vocabulary) => from_spm(vocabulary),
            Vocabulary::Json(vocabulary) => from_json(vocabulary),
        }
    }

    /// From SentencePiece's pieces in id order, as GGUF metadata has them.
    ///
    /// Duplicate pieces: the last one is encoded, all decode. Empty pieces and unused ones are never encoded. A score that
    /// is not a number counts as the lowest.
    ///
    /// # Errors
    /// No tokens, more than [`MAX_TOKENS`] of them, a piece longer than [`MAX_PIECE_BYTES`], special ids
    /// out of range, no `<bos>`, or neither byte tokens nor an unknown token.
    pub fn from_sentencepiece<'a>(
        tokens: impl Iterator<Item = SentencePieceToken<'a>>,
        ids: &SpecialIds,
    ) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::new(Vocab::from_sentencepiece(tokens, ids)?, ids)
    }

    /// From the bytes of a `tokenizer.json`. `ids` adds what other files of the model directory say.
    ///
    /// # Errors
    /// As [`Tokenizer::from_sentencepiece`]; also a file of another form than Gemma's, for example another normalizer.
    pub fn from_tokenizer_json(json: &[u8], ids: &SpecialIds) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::new(json::read(json, ids)?, ids)
    }

    fn new(vocab: Vocab, ids: &SpecialIds) -> Result<Tokenizer, TokenizerError> {
        let bos =
            ids.bos.or_else(|| vocab.control_by_text(b"<bos>")).ok_or(TokenizerError::Missing("`<bos>` token"))?;
        // The file's list of end tokens is often incomplete: GGUF files and `config.json` name `<eos>` only.
        let mut ends: Vec<TokenId> = ids.ends.clone();
        ends.extend(ids.eos.or_else(|| vocab.control_by_text(b"<eos>")));
        ends.extend(vocab.control_by_text(b"<end_of_turn>"));
        if ends.is_empty() {
            return Err(TokenizerError::Missing("`<eos>` token"));
        }
        ends.sort_unstable();
        ends.dedup();
        Ok(Tokenizer { vocab, bos, ends })
    }

    /// The vocabulary as SentencePiece's pieces with scores, in id order, for a GGUF file: what it encodes, it encodes to
    /// the same ids.
    ///
    /// # Errors
    /// A `tokenizer.json` whose merges are in an order that scores of pieces cannot give.
    pub fn to_sentencepiece(&self) -> Result<Vec<OwnedToken>, TokenizerError> {
        self.vocab.to_sentencepiece()
    }

    /// The token that stands for text that cannot be expressed.
    pub fn unknown(&self) -> Option<TokenId> {
        self.vocab.unknown()
    }

    /// Number of token ids.
    pub fn n_vocab(&self) -> usize {
        self.vocab.n_vocab()
    }

    /// The token that starts every prompt.
    pub fn bos(&self) -> TokenId {
        self.bos
    }

    /// The tokens that end a reply, in ascending order.
    pub fn ends(&self) -> &[TokenId] {
        &self.ends
    }

    /// Whether this token ends a reply: `<eos>` and `<end_of_turn>`.
    pub fn is_end(&self, id: TokenId) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// Whether this token is a control token, which is not shown unless asked for.
    pub fn is_control(&self, id: TokenId) -> bool {
        matches!(self.vocab.kind(id), Some(TokenType::Control | TokenType::Unknown))
    }

    /// Whether text is made of this token: not of control tokens, the unknown one, and ids that are not in use.
    pub fn is_text(&self, id: TokenId) -> bool {
        matches!(self.vocab.kind(id), Some(TokenType::Normal | TokenType::UserDefined | TokenType::Byte))
    }

    /// The control token written `text`, such as `<start_of_turn>`.
    pub fn control(&self, text: &str) -> Option<TokenId> {
        self.vocab.control_by_text(text.as_bytes())
    }

    /// Token ids of `text`, without `<bos>` (unless the text contains it and `special` says to parse it).
    pub fn encode(&self, text: &str, special: Special) -> Vec<TokenId> {
        self.encode_parts(&[(text, special)])
    }

    /// Token ids of one text in several parts: tokens may cross from part to part as if they were joined, but a
    /// control token counts only inside a single part that says so.
    pub fn encode_parts(&self, parts: &[(&str, Special)]) -> Vec<TokenId> {
        encode::encode(&self.vocab, parts)
    }

    /// Exactly one `<bos>` in front, whatever the ids start with.
    pub fn with_bos(&self, mut ids: Vec<TokenId>) -> Vec<TokenId> {
        let n_bos = ids.iter().take_while(|&&id| id == self.bos).count();
        ids.splice(..n_bos, [self.bos]);
        ids
    }

    /// The bytes a token stands for. Control tokens give their written form (`<end_of_turn>`), ids outside the
    /// vocabulary nothing.
    pub fn piece(&self, id: TokenId) -> &[u8] {
        self.vocab.piece(id)
    }

    /// The text of `ids`; broken UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[TokenId], keep_control: bool) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            if keep_control || !self.is_control(id) {
                bytes.extend_from_slice(self.piece(id));
            }
        }
        String::from_utf8(bytes).unwrap_or_else(|broken| String::from_utf8_lossy(broken.as_bytes()).into_owned())
    }
}

fn from_spm(vocabulary: &SpmVocabulary) -> Result<Tokenizer, TokenizerError> {
    let ids = SpecialIds {
        bos: vocabulary.bos_id,
        eos: vocabulary.eos_id,
        unknown: vocabulary.unk_id,
        ends: vocabulary.end_ids.clone(),
        add_space_prefix: vocabulary.add_space_prefix,
    };
    let tokens = vocabulary.tokens().zip(vocabulary.scores()).zip(vocabulary.types());
    let token = |((piece, score), kind)| SentencePieceToken { piece, score, kind };
    Tokenizer::from_sentencepiece(tokens.map(token), &ids)
}

fn from_json(vocabulary: &JsonVocabulary) -> Result<Tokenizer, TokenizerError> {
    let ids = SpecialIds { bos: vocabulary.bos_id, ends: vocabulary.end_ids.clone(), ..SpecialIds::default() };
    Tokenizer::from_tokenizer_json(&vocabulary.tokenizer, &ids)
}
