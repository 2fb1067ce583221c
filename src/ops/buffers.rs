//! Memory of results that nobody needs any more, for the next ones.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, InplaceOp1, Layout, Result};

use super::{Activations, Compute};
use crate::kernels::Q8Rows;

/// Vectors that results of operations are written to.
///
/// Those of a long prompt are megabytes. An allocator returns such memory to the system, which clears it before it gives
/// it out again, page by page; what was used a moment ago is ready, and may still be in a cache.
#[derive(Default)]
pub struct Buffers {
    results: Mutex<Vec<Vec<f32>>>,
    quantized: Mutex<Q8Rows>,
}

impl Buffers {
    /// As many as a layer's results that are alive at once, and some more. The oldest go first.
    const MOST: usize = 8;

    /// `len` values, any; to be written all.
    pub fn take(&self, len: usize) -> Vec<f32> {
        let mut free = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        match free.iter().position(|buffer| buffer.len() == len) {
            Some(found) => free.remove(found),
            None => vec![0.0; len],
        }
    }

    /// Rows of any kind, to be resized.
    pub fn take_quantized(&self) -> Q8Rows {
        std::mem::take(&mut self.quantized.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes them back.
    pub fn give_quantized(&self, rows: Q8Rows) {
        *self.quantized.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    fn give(&self, buffer: Vec<f32>) {
        let mut free = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() == Buffers::MOST {
            free.remove(0);
        }
        free.push(buffer);
    }
}

impl Compute {
    /// Takes back the memory of what is not read any more: neither `x` nor any other view of the same rows.
    ///
    /// # Errors
    /// None that a tensor of an operation could cause.
    pub fn reuse(&self, x: Activations) -> Result<()> {
        match (self, &x) {
            (Compute::Cpu(cpu), Activations::Tensor(tensor)) => tensor.inplace_op1(&Take(&cpu.buffers)),
            _ => Ok(()),
        }
    }
}

struct Take<'a>(&'a Buffers);

impl InplaceOp1 for Take<'_> {
    fn name(&self) -> &'static str {
        "reuse"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _layout: &Layout) -> Result<()> {
        if let CpuStorage::F32(values) = storage {
            self.0.give(std::mem::take(values));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_where_its_length_fits_and_the_oldest_are_freed() {
        let buffers = Buffers::default();
        buffers.give(vec![7.0; 3]);
        assert_eq!(buffers.take(2), [0.0; 2]);
        assert_eq!(buffers.take(3), [7.0; 3]);
        assert_eq!(buffers.take(3), [0.0; 3]);
        for len in 1..=Buffers::MOST + 1 {
            buffers.give(vec![7.0; len]);
        }
        assert_eq!(buffers.take(1), [0.0; 1]);
        assert_eq!(buffers.take(2), [7.0; 2]);
    }
}
