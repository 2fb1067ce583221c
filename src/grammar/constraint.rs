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
        Constraint { matcher, usable }
    }

    /// The same grammar for another request, which shares nothing that grows with use.
    pub(super) fn fresh(&self) -> Constraint {
        Constraint { matcher: self.matcher.deep_clone(), usable: self.usable.clone() }
    }

    /// Sets the logits of all tokens that may not come next to negative infinity. End tokens stay where the grammar may
    /// stop.
    ///
    /// # Errors
    /// Nothing may come next; a limit was reached.
    pub fn mask(&mut self, row: &mut [f32]) -> Result<(), ConstraintError> {
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
        self.matcher.consume_token(id).map_err(|error| too_complex(&error.to_string()))
    }

    /// Whether nothing but the end can follow.
    pub fn is_complete(&self) -> bool {
        let reason = self.matcher.stop_reason();
        reason != StopReason::NotStopped && reason.is_ok()
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
