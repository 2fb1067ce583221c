//! A vocabulary as a trie of its pieces, the form in which grammars walk it.

use std::sync::Arc;

use llguidance::toktrie::{SimpleVob, TokRxInfo, TokTrie, TokenizerEnv};

use super::GrammarError;
use crate::tokenizer::{Special, TokenId, Tokenizer};

/// Longer pieces are left out of replies; the trie holds none above 1024 bytes.
const MAX_PIECE_BYTES: usize = 512;
/// Most bytes of all pieces together: the trie holds no more nodes than about this.
const MAX_BYTES: usize = 4_000_000;
/// Most tokens: the trie has 24 bits for an id.
const MAX_TOKENS: usize = 1 << 23;

/// The pieces that text is made of, and how text is cut into them.
pub(super) struct Vocabulary {
    trie: TokTrie,
    /// None: any way to cut a text is as good as another.
    tokenizer: Option<Arc<Tokenizer>>,
}

impl Vocabulary {
    pub(super) fn of_tokenizer(tokenizer: &Arc<Tokenizer>) -> Result<Vocabulary, GrammarError> {
        let ids = 0..TokenId::try_from(tokenizer.n_vocab()).unwrap_or(TokenId::MAX);
        let piece = |id| match tokenizer.is_text(id) {
            true => tokenizer.piece(id).to_vec(),
            false => Vec::new(),
        };
        let pieces: Vec<Vec<u8>> = ids.map(piece).collect();
        let mut vocabulary = Vocabulary::of_pieces(&pieces, tokenizer.ends())?;
        // Where the grammar leaves one way to go on, its text is cut as the tokenizer would, which is what the model knows.
        // Not possible with a vocabulary that puts a space before every text.
        let adds_nothing = tokenizer.decode(&tokenizer.encode("a", Special::Literal), true) == "a";
        vocabulary.tokenizer = adds_nothing.then(|| tokenizer.clone());
        Ok(vocabulary)
    }

    /// Piece `i` is token `i`; an empty one is no text.
    pub(super) fn of_pieces(pieces: &[Vec<u8>], ends: &[TokenId]) -> Result<Vocabulary, GrammarError> {
        let unusable = |what: &str| Err(GrammarError::Vocabulary(what.into()));
        let n_bytes: usize = pieces.iter().map(Vec::len).sum();
        if n_bytes > MAX_BYTES || pieces.len() > MAX_TOKENS {
            return unusable("it is too large");
        }
        let ends: Vec<TokenId> = ends.iter().copied().filter(|&id| (id as usize) < pieces.len()).collect();
        let Some(&end) = ends.first() else {
            return unusable("it has no end token");
        };
        // 0xFF marks control tokens inside the trie, and is no byte of any text.
        let is_kept = |piece: &[u8]| piece.len() <= MAX_PIECE_BYTES && piece.first() != Some(&0xFF);
        let words: Vec<Vec<u8>> =
            pieces.iter().map(|piece| if is_kept(piece) { piece.clone() } else { Vec::new() }).collect();
        let info = TokRxInfo::new(words.len() as u32, end);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        Ok(Vocabulary { trie, tokenizer: None })
    }

    /// Tokens of text and end tokens.
    pub(super) fn usable(&self) -> SimpleVob {
        let mut usable = self.trie.eos_token_set();
        for id in 0..self.trie.vocab_size() as TokenId {
            if !self.trie.token(id).is_empty() {
                usable.allow_token(id);
            }
        }
        usable
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let ids = match (&self.tokenizer, std::str::from_utf8(bytes)) {
            (Some(tokenizer), Ok(text)) => tokenizer.encode(text, Special::Literal),
            _ => return self.trie.greedy_tokenize(bytes),
        };
        // Characters that only the unknown token stands for.
        let is_text = ids.iter().all(|&id| !self.trie.token(id).is_empty());
        if is_text { ids } else { self.trie.greedy_tokenize(bytes) }
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.tokenizer.is_some()
    }
}
