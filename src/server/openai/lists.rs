//! Log-probabilities as the text API tells them: parallel lists, of the reply's tokens and, where the prompt is echoed, of
//! its tokens before them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::engine::Token;
use crate::server::wire::finite;
use crate::tokenizer::{StreamDecoder, TokenId, Tokenizer};

/// One place in each list for a token.
#[derive(Default, Serialize)]
pub struct Lists {
    tokens: Vec<String>,
    /// Null for the first token of a prompt: nothing comes before it.
    token_logprobs: Vec<Option<f32>>,
    /// The best tokens, and the token itself.
    top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Characters of the choice's text before the token. Tokens that make a character together have the same place.
    text_offset: Vec<usize>,
}

/// Makes the lists of one choice, in parts.
#[derive(Default)]
pub struct Lister {
    n_top: usize,
    /// Characters of the text so far.
    n_characters: usize,
    decoder: StreamDecoder,
}

impl Lister {
    /// A choice whose tokens are told with their best `n_top` alternatives.
    pub fn new(n_top: usize) -> Lister {
        Lister { n_top, ..Lister::default() }
    }

    /// Adds the tokens of an echoed prompt, all of them.
    pub fn prompt(&mut self, lists: &mut Lists, tokens: &[Token], tokenizer: &Tokenizer) {
        tokens.iter().for_each(|token| self.add(lists, token, true, tokenizer));
        self.n_characters += self.decoder.finish().chars().count();
    }

    /// Adds tokens of the reply.
    pub fn reply(&mut self, lists: &mut Lists, tokens: &[Token], tokenizer: &Tokenizer) {
        tokens.iter().for_each(|token| self.add(lists, token, !tokenizer.is_control(token.id), tokenizer));
    }

    /// `is_shown`: the text has it.
    fn add(&mut self, lists: &mut Lists, token: &Token, is_shown: bool, tokenizer: &Tokenizer) {
        lists.tokens.push(name(token.id, tokenizer));
        lists.text_offset.push(self.n_characters);
        if is_shown {
            self.n_characters += self.decoder.push(tokenizer.piece(token.id)).chars().count();
        }
        lists.token_logprobs.push(token.logprob.map(finite));
        lists.top_logprobs.push(token.logprob.map(|own| {
            let best = token.top.iter().take(self.n_top).copied();
            best.chain([(token.id, own)]).map(|(id, p)| (name(id, tokenizer), finite(p))).collect()
        }));
    }
}

/// A token's text, or as OpenAI writes what is no text by itself: `bytes:\xe2\x80`.
fn name(id: TokenId, tokenizer: &Tokenizer) -> String {
    let piece = tokenizer.piece(id);
    std::str::from_utf8(piece).map_or_else(
        |_| piece.iter().fold("bytes:".to_owned(), |name, byte| format!("{name}\\x{byte:02x}")),
        str::to_owned,
    )
}
