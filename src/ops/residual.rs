//! The residual stream.

use candle_core::{Error, Result};

use super::{Activations, Compute, Norm, add, rms_norm};

/// `[n_tokens, d_model]` that the branches of each layer, normed, are added to.
///
/// On a GPU an addition waits for the norm that follows it, since both are one kernel then.
pub struct Residual<'a> {
    x: Activations,
    eps: f32,
    /// A branch that is still to be added, and its norm.
    branch: Option<(Activations, &'a Norm)>,
}

impl<'a> Residual<'a> {
    /// Begins with embeddings; `eps` is that of all norms.
    pub fn new(x: Activations, eps: f32) -> Residual<'a> {
        Residual { x, eps, branch: None }
    }

    /// The same where `compute` can take it.
    ///
    /// # Errors
    /// Not enough memory there.
    pub fn on(mut self, compute: &Compute) -> Result<Residual<'a>> {
        if !matches!(compute, Compute::Gpu(_)) {
            self.settle()?;
        }
        Ok(Residual { x: self.x.on(compute)?, ..self })
    }

    /// `x + rms_norm(branch)`
    ///
    /// # Errors
    /// Shapes or places that differ.
    pub fn add_normed(&mut self, compute: &Compute, branch: Activations, norm: &'a Norm) -> Result<()> {
        self.settle()?;
        match compute {
            Compute::Gpu(_) => self.branch = Some((branch, norm)),
            // In place on the CPU: a clone is the same rows, and they are replaced.
            _ => {
                let normed = rms_norm(compute, &branch, norm, self.eps)?;
                compute.reuse(branch)?;
                self.x = add(compute, self.x.clone(), normed)?;
            }
        }
        Ok(())
    }

    /// `rms_norm(x)`
    ///
    /// # Errors
    /// Shapes or places that differ.
    pub fn normed(&mut self, compute: &Compute, norm: &Norm) -> Result<Activations> {
        let Some((branch, post)) = self.branch.take() else { return rms_norm(compute, &self.x, norm, self.eps) };
        let branch = (branch.on_gpu()?, post.on_gpu()?);
        let x = self.x.on_gpu()?;
        let (sum, normed) = x.gpu().add_normed(x, branch, Some(norm.on_gpu()?), self.eps).map_err(Error::wrap)?;
        self.x = Activations::Gpu(sum);
        normed.map(Activations::Gpu).ok_or_else(|| Error::msg("a norm without a result"))
    }

    /// What it has come to.
    ///
    /// # Errors
    /// The device's.
    pub fn into_inner(mut self) -> Result<Activations> {
        self.settle()?;
        Ok(self.x)
    }

    /// Adds what is still to be added.
    fn settle(&mut self) -> Result<()> {
        let Some((branch, post)) = self.branch.take() else { return Ok(()) };
        let x = self.x.on_gpu()?;
        let branch = (branch.on_gpu()?, post.on_gpu()?);
        let (sum, _) = x.gpu().add_normed(x, branch, None, self.eps).map_err(Error::wrap)?;
        self.x = Activations::Gpu(sum);
        Ok(())
    }
}
