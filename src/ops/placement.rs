//! Which part of a model is computed where.

use super::Compute;

/// The parts of a model in order, its layers and then the output head: those before some point are computed in one place,
/// the others in another.
pub struct Placement {
    front: Compute,
    /// The first part that is computed elsewhere, and where.
    back: Option<(usize, Compute)>,
}

impl Placement {
    /// Part `start` and all that follow are computed by `back`.
    pub fn split(self, start: usize, back: Compute) -> Placement {
        Placement { back: Some((start, back)), ..self }
    }

    /// Where part `part` is computed.
    pub fn of(&self, part: usize) -> &Compute {
        match &self.back {
            Some((start, back)) if part >= *start => back,
            _ => &self.front,
        }
    }

    /// Where the model begins: tokens become rows of the embedding there.
    pub fn front(&self) -> &Compute {
        &self.front
    }
}

impl From<Compute> for Placement {
    fn from(compute: Compute) -> Placement {
        Placement { front: compute, back: None }
    }
}
