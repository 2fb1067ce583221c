//! A model and a vocabulary for tests: small, deterministic, and unforgiving about caches.

use std::io::{self, Read, Write};

use async_channel::{Receiver, Sender};

use super::Pieces;
use crate::model::{Cache, Chunk, LanguageModel, ModelError};
use crate::tokenizer::TokenId;

pub(crate) const N_VOCAB: usize = 80;
/// Rows that the model has beyond the vocabulary; their logits are the highest of all.
pub(crate) const N_PADDING: usize = 8;
pub(crate) const EOS: TokenId = 1;
pub(crate) const BOS: TokenId = 2;
pub(crate) const END_OF_TURN: TokenId = 3;
/// `a` is 10, `b` is 11 and so on.
pub(crate) const LETTER_A: TokenId = 10;
/// Tokens of one byte each that make `é`.
pub(crate) const E_ACUTE: [TokenId; 2] = [40, 41];
pub(crate) const NEW_LINE: TokenId = 42;
/// Reading one of these makes the model panic, fail, or give logits that are not numbers.
pub(crate) const PANIC: TokenId = 50;
pub(crate) const ERROR: TokenId = 51;
pub(crate) const NAN: TokenId = 52;
/// Its piece makes the tokenizer panic.
pub(crate) const BAD_PIECE: TokenId = 53;

/// The fake vocabulary.
pub(crate) struct FakePieces;

impl Pieces for FakePieces {
    fn n_vocab(&self) -> usize {
        N_VOCAB
    }
    fn piece(&self, id: TokenId) -> &[u8] {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
        match id {
            0 => b"<pad>",
            EOS => b"<eos>",
            BOS => b"<bos>",
            END_OF_TURN => b"<end_of_turn>",
            10..36 => &LETTERS[id as usize - 10..id as usize - 9],
            40 => "é".as_bytes().split_at(1).0,
            41 => "é".as_bytes().split_at(1).1,
            NEW_LINE => b"\n",
            BAD_PIECE => panic!("no such piece"),
            _ => b".",
        }
    }
    fn is_end(&self, id: TokenId) -> bool {
        id == EOS || id == END_OF_TURN
    }
    fn is_control(&self, id: TokenId) -> bool {
        id < 4
    }
}

/// The text's letters as tokens.
pub(crate) fn letters(text: &str) -> Vec<TokenId> {
    text.bytes().map(|b| LETTER_A + TokenId::from(b - b'a')).collect()
}

/// One chunk of a step as the model saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) start: usize,
    pub(crate) n_tokens: usize,
    pub(crate) n_logits: usize,
}

/// A model whose logits are a hash of all tokens before: one wrong, missing or doubled token in a cache changes every
/// reply after it.
#[derive(Default)]
pub(crate) struct FakeModel {
    /// Instead of the hash: this token follows when the cache holds as many tokens as the place in this list.
    pub(crate) script: Vec<Option<TokenId>>,
    /// Tokens that a cache can forget at its end and still go on; `None` is all.
    pub(crate) window: Option<usize>,
    /// Width of its hidden states.
    pub(crate) d_model: usize,
    /// The context it was trained for; `None` is a large one.
    pub(crate) n_ctx_train: Option<usize>,
    /// Each step waits for a message here, until the sender is gone.
    pub(crate) gate: Option<Receiver<()>>,
    /// Each step is told here, before it is computed.
    pub(crate) steps: Option<Sender<Vec<Seen>>>,
}

pub(crate) struct FakeCache {
    tokens: Vec<TokenId>,
    window: Option<usize>,
    n_ctx: usize,
}

impl Cache for FakeCache {
    fn len(&self) -> usize {
        self.tokens.len()
    }
    fn truncate(&mut self, n: usize) -> usize {
        assert!(n <= self.tokens.len());
        let lost = self.tokens.len() - n;
        let usable = if self.window.is_some_and(|window| lost > window) { 0 } else { n };
        self.tokens.truncate(usable);
        usable
    }
    fn copy_prefix(&mut self, from: &FakeCache, n: usize) -> bool {
        let lost = from.tokens.len() - n;
        let is_usable = self.window.is_none_or(|window| lost <= window);
        if is_usable {
            self.tokens = from.tokens[..n].to_vec();
        }
        is_usable
    }
    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.tokens.iter().try_for_each(|token| out.write_all(&token.to_le_bytes()))
    }
    fn restore(&mut self, n: usize, input: &mut dyn Read) -> io::Result<()> {
        for _ in 0..n {
            let mut token = [0; 4];
            input.read_exact(&mut token)?;
            self.tokens.push(TokenId::from_le_bytes(token));
        }
        Ok(())
    }
}

impl LanguageModel for FakeModel {
    type Cache = FakeCache;
    fn n_vocab(&self) -> usize {
        N_VOCAB + N_PADDING
    }
    fn n_ctx_train(&self) -> usize {
        self.n_ctx_train.unwrap_or(8192)
    }
    fn d_model(&self) -> usize {
        self.d_model
    }
    fn fingerprint(&self) -> [u8; 32] {
        [self.d_model as u8; 32]
    }
    fn new_cache(&self, n_ctx: usize) -> FakeCache {
        FakeCache { tokens: Vec::new(), window: self.window, n_ctx }
    }
    fn forward(&self, batch: &mut [Chunk<'_, FakeCache>]) -> Result<Vec<f32>, ModelError> {
        if let Some(steps) = &self.steps {
            let seen = batch.iter().map(|chunk| Seen {
                start: chunk.cache.len(),
                n_tokens: chunk.tokens.len(),
                n_logits: chunk.n_logits,
            });
            let _ = steps.try_send(seen.collect());
        }
        if let Some(gate) = &self.gate {
            let _ = gate.recv_blocking();
        }
        let mut logits = Vec::new();
        for chunk in batch {
            assert!(!chunk.tokens.is_empty() && chunk.n_logits <= chunk.tokens.len());
            let first = chunk.tokens.len() - chunk.n_logits;
            for (at, &token) in chunk.tokens.iter().enumerate() {
                match token {
                    PANIC => panic!("the fake model was asked to panic"),
                    ERROR => return Err(ModelError::Invalid("asked to fail".into())),
                    _ => chunk.cache.tokens.push(token),
                }
                if chunk.cache.tokens.len() > chunk.cache.n_ctx {
                    return Err(ModelError::Invalid("the cache is full".into()));
                }
                if let Some(sum) = &mut chunk.hidden_sum {
                    let state = hidden_state(&chunk.cache.tokens, self.d_model);
                    let n_sums = sum.len() / self.d_model;
                    let sum = &mut sum[at % n_sums * self.d_model..];
                    sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += value);
                }
                if at >= first {
                    logits.extend(self.row(&chunk.cache.tokens));
                }
            }
        }
        Ok(logits)
    }
}

/// One draw after the other that all of the tokens decide: FNV-1a is the seed.
fn draws(tokens: &[TokenId]) -> super::rng::Rng {
    let hash = |hash: u64, &token: &TokenId| (hash ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3);
    super::rng::Rng::new(tokens.iter().fold(0xcbf2_9ce4_8422_2325u64, hash))
}

/// The hidden state of the last of these tokens.
pub(crate) fn hidden_state(tokens: &[TokenId], d_model: usize) -> Vec<f64> {
    let mut rng = draws(tokens);
    (0..d_model).map(|_| rng.next_f64() - 0.5).collect()
}

impl FakeModel {
    /// The logits after `tokens`.
    fn row(&self, tokens: &[TokenId]) -> Vec<f32> {
        if tokens.contains(&NAN) {
            return vec![f32::NAN; N_VOCAB + N_PADDING];
        }
        let scripted = self.script.get(tokens.len()).copied().flatten();
        let mut rng = draws(tokens);
        (0..(N_VOCAB + N_PADDING) as TokenId)
            .map(|id| {
                let logit = rng.next_f64() as f32 * 6.0;
                match id {
                    _ if id as usize >= N_VOCAB => 100.0,
                    _ if Some(id) == scripted => 50.0,
                    0..4 | 50..54 => -30.0,
                    _ => logit,
                }
            })
            .collect()
    }
}
