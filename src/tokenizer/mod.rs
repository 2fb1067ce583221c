//! Text to token ids and back.

/// Index of a token in the vocabulary.
pub type TokenId = u32;

/// Whether control tokens written out in a text count as tokens or as the characters they are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `<end_of_turn>` in the text is the control token.
    Parse,
    /// `<end_of_turn>` in the text is thirteen characters.
    Literal,
}

/// A vocabulary with its encoder.
pub struct Tokenizer {
    n_vocab: usize,
}

impl Tokenizer {
    /// Number of token ids.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// The token that starts every prompt.
    pub fn bos(&self) -> TokenId {
        todo!()
    }

    /// Whether this token ends a reply: `<eos>` and `<end_of_turn>`.
    pub fn is_end(&self, _id: TokenId) -> bool {
        todo!()
    }

    /// Whether this token is a control token, which is not shown unless asked for.
    pub fn is_control(&self, _id: TokenId) -> bool {
        todo!()
    }

    /// Token ids of `text`, without `<bos>` (unless the text contains it and `special` says to parse it).
    pub fn encode(&self, _text: &str, _special: Special) -> Vec<TokenId> {
        todo!()
    }

    /// Exactly one `<bos>` in front, whatever the ids start with.
    pub fn with_bos(&self, _ids: Vec<TokenId>) -> Vec<TokenId> {
        todo!()
    }

    /// The bytes a token stands for. Control tokens give their written form (`<end_of_turn>`).
    pub fn piece(&self, _id: TokenId) -> &[u8] {
        todo!()
    }

    /// The text of `ids`; broken UTF-8 becomes U+FFFD.
    pub fn decode(&self, _ids: &[TokenId], _keep_control: bool) -> String {
        todo!()
    }
}

/// Decodes token by token and gives out whole UTF-8 characters only.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    #[allow(dead_code)]
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// The text that `piece` completes; may be empty while a character is unfinished.
    pub fn push(&mut self, _piece: &[u8]) -> String {
        todo!()
    }

    /// What is left at the end: U+FFFD for a broken character, else nothing.
    pub fn finish(&mut self) -> String {
        todo!()
    }
}
