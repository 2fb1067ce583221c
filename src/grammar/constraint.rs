//! The state of one request's grammar.

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;

use crate::tokenizer::TokenId;

/// What a reply has to look like, and how far it has got. A clone goes on from the same place by itself.
#[derive(Clone)]
pub struct Constraint {
    matcher: Matcher,
    /// Text and end tokens: a grammar may name any token by its number.
    usable: Arc<SimpleVob>,
    hold: Hold,
}

/// Whether the grammar holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// From the first token on.
    Always,
    /// When the reply has gone on as it demands for this many more bytes.
    After(usize),
    /// The reply has begun in another way.
    Never,
}

/// Why a reply cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Nothing can follow, and the grammar may not stop here.
    #[error("the grammar leads to a point where nothing can follow")]
    DeadEnd,
    /// A limit of the parser was reached.
    #[error("the grammar is too complex: {0}")]
    TooComplex(String),
}

impl Constraint {
    pub(super) fn new(matcher: Matcher, usable: Arc<SimpleVob>) -> Constraint {
        Constraint { matcher, usable, hold: Hold::Always }
    }

    /// The same for a reply that is free to begin otherwise: it holds once the reply has begun with `marker`, with which
    /// every text of the grammar begins.
    pub fn only_after(self, marker: &str) -> Constraint {
        Constraint { hold: Hold::After(marker.len()), ..self }
    }

    /// The same grammar for another request, which shares nothing that grows with use.
    pub(super) fn fresh(&self) -> Constraint {
        Constraint { matcher: self.matcher.deep_clone(), usable: self.usable.clone(), hold: self.hold }
    }

    /// Sets the logits of all tokens that may not come next to negative infinity. End tokens stay where the grammar may
    /// stop.
    ///
    /// # Errors
    /// Nothing may come next; a limit was reached.
    pub fn mask(&mut self, row: &mut [f32]) -> Result<(), ConstraintError> {
        if self.hold != Hold::Always {
            return Ok(());
        }
        let allowed = self.allowed()?;
        let words = allowed.as_slice();
        for (at, logits) in row.chunks_mut(32).enumerate() {
            match words.get(at).copied().unwrap_or(0) {
                0 => logits.fill(f32::NEG_INFINITY),
                u32::MAX => {}
                word => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the token that was chosen.
    ///
    /// # Errors
    /// A token that the grammar does not allow here; a limit was reached.
    pub fn commit(&mut self, id: TokenId) -> Result<(), ConstraintError> {
        match self.hold {
            Hold::Never => Ok(()),
            Hold::Always => self.matcher.consume_token(id).map_err(|error| too_complex(&error.to_string())),
            Hold::After(n_bytes) => {
                let is_taken = matches!(self.matcher.try_consume_tokens(&[id]), Ok(1));
                let n_taken = self.matcher.tok_env().map_or(0, |env| env.tok_trie().token_len(id));
                self.hold = match n_bytes.saturating_sub(n_taken) {
                    _ if !is_taken => Hold::Never,
                    0 => Hold::Always,
                    left => Hold::After(left),
                };
                Ok(())
            }
        }
    }

    /// Whether nothing but the end can follow.
    pub fn is_complete(&self) -> bool {
        let reason = self.matcher.stop_reason();
        self.hold == Hold::Always && reason != StopReason::NotStopped && reason.is_ok()
    }

    /// The tokens that may come next.
    pub(super) fn allowed(&mut self) -> Result<SimpleVob, ConstraintError> {
        let mut allowed = match self.matcher.compute_mask_or_eos() {
            Ok(allowed) => allowed,
            Err(_) if self.matcher.stop_reason() == StopReason::NoExtensionBias => {
                return Err(ConstraintError::DeadEnd);
            }
            Err(error) if error.to_string().contains("NoExtension") => return Err(ConstraintError::DeadEnd),
            Err(error) => return Err(too_complex(&error.to_string())),
        };
        allowed.and(&self.usable);
        if allowed.is_zero() { Err(ConstraintError::DeadEnd) } else { Ok(allowed) }
    }
}

fn too_complex(message: &str) -> ConstraintError {
    ConstraintError::TooComplex(super::first_line(message))
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("is_complete", &self.is_complete()).finish_non_exhaustive()
    }
}
