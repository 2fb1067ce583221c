//! The kernels with their arguments. What is handed to one is checked here and in `products.rs` and `attention.rs`, as far
//! as its sizes go.

use super::products::Part;
use super::{Buffer, Gpu, GpuError, Rows};

/// All kernels, by name, but for the products and those that one maker's devices have.
pub(super) const KERNELS: [&str; 7] =
    ["add_normed", "geglu", "copy_16", "quantize_q8", "rope_and_store", "attend_scores", "attend_values"];

/// Most arguments of a kernel.
pub(super) const MAX_ARGUMENTS: usize = 16;
/// Threads of a block, of the kernels that leave it to the caller.
const THREADS: u32 = 256;
/// Values of a row at most, where it is normed (`MAX_ROW`).
const MAX_ROW: usize = 8192;
/// Values in a block of activations.
pub(super) const BLOCK: usize = 32;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    /// An address on the device, or a number of 64 bits.
    U64(u64),
    U32(u32),
    F32(f32),
    /// Matrices.
    Parts([Part; 3]),
}

use Argument::{F32, U32, U64};

impl Gpu {
    /// `x / sqrt(mean(x²) + eps) * weight` of each row; `weight` is `[width]` in F32.
    ///
    /// # Errors
    /// Another width; [`GpuError::Memory`], and the driver's, as of all that follow.
    pub fn rms_norm(&self, x: &Rows, weight: &Buffer, eps: f32) -> Result<Rows, GpuError> {
        let out = self.new_rows_for_products(x.n_rows(), x.width())?;
        self.norm(x, None, Some((weight, &out)), eps)?;
        Ok(out)
    }

    /// The sum `x + rms_norm(branch, post)` of each row and, where there is a `next`, `rms_norm(sum, next)`.
    ///
    /// # Errors
    /// Other shapes, and as of all.
    pub fn add_normed(
        &self,
        x: &Rows,
        (branch, post): (&Rows, &Buffer),
        next: Option<&Buffer>,
        eps: f32,
    ) -> Result<(Rows, Option<Rows>), GpuError> {
        fits(x.n_rows() == branch.n_rows() && x.width() == branch.width(), || "rows of two shapes".into())?;
        let sum = self.new_rows(x.n_rows(), x.width())?;
        let out = next.map(|_| self.new_rows_for_products(x.n_rows(), x.width())).transpose()?;
        self.norm(x, Some((branch, post, &sum)), next.zip(out.as_ref()), eps)?;
        Ok((sum, out))
    }

    fn norm(
        &self,
        x: &Rows,
        branch: Option<(&Rows, &Buffer, &Rows)>,
        next: Option<(&Buffer, &Rows)>,
        eps: f32,
    ) -> Result<(), GpuError> {
        let mut factors = branch.iter().map(|(_, post, _)| post).chain(next.iter().map(|(weight, _)| weight));
        let is_fit = factors.all(|factors| factors.len() == x.width() * size_of::<f32>());
        fits(is_fit && x.width() <= MAX_ROW, || format!("a norm for rows of {}", x.width()))?;
        let [branch, post, sum] =
            branch.map_or([U64(0); 3], |(x, post, sum)| [x.at(0), post.at(0), sum.at(0)].map(U64));
        let [weight, out] = next.map_or([U64(0); 2], |(weight, out)| [weight.at(0), out.at(0)].map(U64));
        let [q, sums] = next.map_or([U64(0); 2], |(_, out)| out.quantized_at());
        let arguments = [U64(x.at(0)), branch, post, weight, F32(eps), number(x.width())?, sum, out, q, sums];
        self.launch("add_normed", [x.n_rows(), 1], THREADS, &arguments)
    }

    /// `gelu(gate) * up` of rows that hold the gate and then the up half.
    ///
    /// # Errors
    /// As of all.
    pub fn geglu(&self, gate_up: &Rows) -> Result<Rows, GpuError> {
        let out = self.new_rows_for_products(gate_up.n_rows(), gate_up.width() / 2)?;
        let n = out.n_values();
        let [q, sums] = out.quantized_at();
        let arguments = [U64(gate_up.at(0)), number(out.width())?, U64(n as u64), U64(out.at(0)), q, sums];
        self.for_each("geglu", n, &arguments)?;
        Ok(out)
    }

    /// Starts a copy of one buffer into another, 16 bytes a thread: the measure of the memory.
    ///
    /// # Errors
    /// Buffers of two lengths, and as of all.
    pub fn copy(&self, from: &Buffer, to: &Buffer) -> Result<(), GpuError> {
        fits(from.len() == to.len(), || "buffers of two lengths".into())?;
        let n = from.len() / 16;
        self.for_each("copy_16", n, &[U64(from.at(0)), U64(n as u64), U64(to.at(0))])
    }

    /// One thread for each of `n`.
    pub(super) fn for_each(&self, kernel: &'static str, n: usize, arguments: &[Argument]) -> Result<(), GpuError> {
        self.launch(kernel, [n.div_ceil(THREADS as usize), 1], THREADS, arguments)
    }

    pub(super) fn launch(
        &self,
        kernel: &'static str,
        grid: [usize; 2],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), GpuError> {
        if grid.contains(&0) {
            return Ok(());
        }
        // A grid may be 65,535 blocks high.
        fits(grid[1] <= 0xffff, || format!("{} blocks of {kernel} are too many", grid[1]))?;
        let grid = [count(grid[0])?, count(grid[1])?];
        self.inner.driver.launch(kernel, grid, threads, arguments)
    }
}

pub(super) fn fits(is_fit: bool, what: impl FnOnce() -> String) -> Result<(), GpuError> {
    if is_fit { Ok(()) } else { Err(GpuError::Shape(what())) }
}

/// A number as kernels take it.
pub(super) fn number(n: usize) -> Result<Argument, GpuError> {
    count(n).map(U32)
}

/// At most 2^31 - 1: what a grid may be wide.
pub(super) fn count(n: usize) -> Result<u32, GpuError> {
    i32::try_from(n).map(i32::unsigned_abs).map_err(|_| GpuError::Shape(format!("{n} is too many")))
}
