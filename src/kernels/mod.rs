//! Arithmetic on slices, one file for each instruction set; `scalar.rs` is the definition.
//!
//! [`Kernels`] is a table of functions for one instruction set. All tables give the same bits: results depend neither
//! on the machine nor on how many columns, rows or queries are handled together. That makes a run reproducible, lets a
//! batch of requests share a matrix product, and lets tests compare with `==`.
//!
//! # What bounds them
//!
//! Products of rows of 2304 values, one thread of an AMD EPYC (Zen 4, AVX-512 VNNI: 128 operations in a cycle), as
//! `kernels::speed` measures them, weights in the second-level cache:
//!
//! | columns | Q4_K | Q6_K | bound by |
//! |---|---|---|---|
//! | 1 | 81 GOP/s, 23 GB/s | 62 GOP/s, 25 GB/s | unpacking |
//! | 1, interleaved | 162, 45 GB/s | 93, 38 GB/s | unpacking, but memory is slower |
//! | 8 (`few.rs`) | 204 | 169 | a superblock of 4 rows keeps the multiplying units busy for 22 cycles a column, 93 operations in each; unpacking takes as long as two columns |
//! | 8, interleaved (`interleaved.rs`) | 267 | 240 | 11 cycles for a block of 16 rows and a column, again 93 operations in each; units that do not multiply are nearly as busy |
//! | 64 (`panel.rs`) | 304 | 301 | the same 11 cycles; unpacking a panel takes as long as five columns |
//! | 64, interleaved | 318 | 310 | the same |
//!
//! Weights from memory in pages of 4 KiB, which that measurement has: one column 74 (21 GB/s) and 35 (14 GB/s), eight 185 and
//! 131, 64 columns 279 and 258; interleaved 73 and 37, 196 and 143, 282 and 263. The program asks for pages of 2 MiB, and one
//! column then comes at the speed of memory, which `bench` shows. What is left: float arithmetic of 3 cycles in 11, which scales
//! of activations for 256 values instead of 32 would make 2, at some cost of accuracy; with 8 lanes a strip is read twice, since
//! registers hold half of it.

#![expect(unsafe_code, reason = "instructions that not every processor has, pointers into rows of bytes")]
#![expect(clippy::needless_range_loop, reason = "an index often stands for the same lane of several arrays")]

// The interface and the definition.
mod attention;
mod blocks;
mod q8;
mod scalar;
mod tile;
// The algorithms, over operations that an instruction set supplies.
mod attend;
mod elementwise;
mod few;
mod float;
mod interleaved;
mod panel;
mod simd;
mod unpack;
// The instruction sets.
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use half::f16;

pub use attention::{AttentionShape, AttentionState, KEY_BLOCK, Span};
pub use blocks::Format;
pub use interleaved::{STRIP_ROWS, can_interleave, deinterleave, interleave, row_of_strip};
pub use q8::{Q8RowMut, Q8Rows};
pub use tile::{TileMut, split_columns};

/// An instruction set with kernels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust: runs anywhere, slowly.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C: since 2013.
    Avx2,
    /// AVX2 with AVX-VNNI, dot products of bytes.
    AvxVnni,
    /// AVX-512 (F, BW, DQ, VL) with VNNI: since 2019.
    Avx512,
    /// Any AArch64.
    Neon,
    /// AArch64 with dot products of bytes: since 2018.
    NeonDotprod,
}

impl Isa {
    /// All, from the narrowest to the widest.
    pub const ALL: [Isa; 6] = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Neon, Isa::NeonDotprod];

    /// The instruction set of that name (as [`Isa`] displays it), in any case.
    pub fn parse(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name))
    }

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
            Isa::NeonDotprod => "neon-dotprod",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The kernels of one instruction set. Only [`Kernels::new`] makes one, after it has seen that the processor has
/// every instruction they use.
pub struct Kernels {
    isa: Isa,
    table: &'static Table,
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kernels").field(&self.isa).finish()
    }
}

/// Functions whose arguments have been checked: lengths fit each other, and the processor has the instructions.
struct Table {
    quantize_row: unsafe fn(&[f32], Q8RowMut<'_>),
    matmul_q8: unsafe fn(&WeightRows<'_>, &Q8Rows, &mut TileMut<'_>),
    matmul_interleaved: unsafe fn(&WeightRows<'_>, &Q8Rows, &mut TileMut<'_>),
    matmul_f32: unsafe fn(&WeightRows<'_>, &[f32], &mut TileMut<'_>),
    rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    gelu_tanh_mul: unsafe fn(&[f32], &[f32], &mut [f32]),
    softcap: unsafe fn(&mut [f32], f32),
    rope: unsafe fn(&mut [f32], &[f32], &[f32]),
    add: unsafe fn(&mut [f32], &[f32]),
    add_scaled: unsafe fn(&mut [f32], &[f32], f32),
    scale: unsafe fn(&mut [f32], f32),
    f32_to_f16: unsafe fn(&[f32], &mut [f16]),
    attend: unsafe fn(&mut AttentionState, Range<usize>, &[f32], &Span<'_>),
    attend_f32: unsafe fn(&mut AttentionState, Range<usize>, &[f32], &Span<'_, f32>),
    attend_finish: unsafe fn(&AttentionState, &mut [f32]),
}

/// The rows of a matrix that one call works on.
struct WeightRows<'a> {
    format: Format,
    /// `n * row_bytes` bytes, aligned to nothing.
    bytes: &'a [u8],
    row_bytes: usize,
    /// Rows.
    n: usize,
    /// Values in a row.
    k: usize,
}

impl<'a> WeightRows<'a> {
    fn new(format: Format, weights: &'a [u8], k: usize, rows: &Range<usize>) -> Self {
        let row_bytes = format
            .row_bytes(k)
            .filter(|bytes| *bytes > 0)
            .unwrap_or_else(|| panic!("a row of {format:?} cannot have {k} values"));
        assert!(rows.start <= rows.end, "rows {rows:?} end before they start");
        let span = rows
            .start
            .checked_mul(row_bytes)
            .zip(rows.end.checked_mul(row_bytes))
            .filter(|(_, end)| *end <= weights.len());
        let Some((start, end)) = span else {
            panic!("rows {rows:?} of {row_bytes} bytes lie outside a matrix of {} bytes", weights.len());
        };
        WeightRows { format, bytes: &weights[start..end], row_bytes, n: rows.len(), k }
    }

    /// Panics where a product of these rows with `acts` does not fit `out`.
    fn check(&self, acts: &Q8Rows, out: &TileMut<'_>) {
        assert_eq!(acts.k(), self.k, "the activations have rows of another length");
        assert_eq!((out.n_rows(), out.width()), (acts.n(), self.n), "the output does not fit");
    }

    fn row(&self, r: usize) -> &'a [u8] {
        &self.bytes[r * self.row_bytes..][..self.row_bytes]
    }
}

impl Kernels {
    /// Whether products with one row of activations, too, are faster where rows of weights are interleaved. With 8 lanes they
    /// are not: each strip is read twice.
    pub fn is_faster_interleaved(&self) -> bool {
        self.isa == Isa::Avx512
    }

    /// The kernels for `isa`, if this processor has it.
    pub fn new(isa: Isa) -> Option<&'static Kernels> {
        macro_rules! kernels {
            ($isa:ident, $table:expr) => {{
                static KERNELS: Kernels = Kernels { isa: Isa::$isa, table: &$table };
                Some(&KERNELS)
            }};
        }
        match isa {
            Isa::Scalar => kernels!(Scalar, scalar::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if avx2::is_available() => kernels!(Avx2, avx2::TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni if avx2::vnni_is_available() => kernels!(AvxVnni, avx2::VNNI_TABLE),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if avx512::is_available() => kernels!(Avx512, avx512::TABLE),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon if neon::is_available() => kernels!(Neon, neon::TABLE),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod if neon::dotprod_is_available() => kernels!(NeonDotprod, neon::DOTPROD_TABLE),
            _ => None,
        }
    }

    /// The widest kernels that this processor has.
    pub fn get() -> &'static Kernels {
        static WIDEST: std::sync::OnceLock<&'static Kernels> = std::sync::OnceLock::new();
        WIDEST.get_or_init(|| Kernels::available().last().expect("the scalar kernels run anywhere"))
    }

    /// All kernels that this processor has, from the narrowest to the widest.
    pub fn available() -> impl Iterator<Item = &'static Kernels> {
        Isa::ALL.into_iter().filter_map(Kernels::new)
    }

    /// The instruction set they use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Quantizes a row of activations for [`Kernels::matmul_q8`].
    ///
    /// # Panics
    /// If `x` has another length than the row.
    pub fn quantize_row(&self, x: &[f32], row: Q8RowMut<'_>) {
        assert_eq!(x.len(), row.k, "the row was made for another length");
        // SAFETY: `Kernels::new` has seen the instructions, the length was checked above.
        unsafe { (self.table.quantize_row)(x, row) }
    }

    /// Products of quantized weights with quantized activations:
    /// `out[c][r - rows.start] = dot(weights[r], acts[c])` for `r` in `rows`.
    ///
    /// `weights` is the whole matrix with rows of `k` values, aligned to nothing. `out` is `[acts.n(), rows.len()]`:
    /// a band of a larger result, or all of it.
    ///
    /// # Panics
    /// If `format` is a float format, a row of it cannot have `k` values, or a length does not fit.
    pub fn matmul_q8(
        &self,
        format: Format,
        weights: &[u8],
        k: usize,
        rows: Range<usize>,
        acts: &Q8Rows,
        out: &mut TileMut<'_>,
    ) {
        assert!(format.is_quantized(), "{format:?} is not quantized");
        let weights = WeightRows::new(format, weights, k, &rows);
        weights.check(acts, out);
        // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
        unsafe { (self.table.matmul_q8)(&weights, acts, out) }
    }

    /// [`Kernels::matmul_q8`] with weights that [`interleave`] made: the same bits. `rows` are whole strips.
    ///
    /// # Panics
    /// As there; or the format is not interleaved, or `rows` begin or end within a strip.
    pub fn matmul_interleaved(
        &self,
        format: Format,
        weights: &[u8],
        k: usize,
        rows: Range<usize>,
        acts: &Q8Rows,
        out: &mut TileMut<'_>,
    ) {
        assert!(can_interleave(format, rows.len(), k), "{rows:?} of {k} values of {format:?} are not interleaved");
        assert!(rows.start.is_multiple_of(STRIP_ROWS), "rows {rows:?} begin within a strip");
        let weights = WeightRows::new(format, weights, k, &rows);
        weights.check(acts, out);
        // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
        unsafe { (self.table.matmul_interleaved)(&weights, acts, out) }
    }

    /// Products of weights of any format with f32 activations, `acts` being `[n, k]`. Quantized weights are decoded
    /// exactly: slower than [`Kernels::matmul_q8`], and without the rounding of the activations.
    ///
    /// The rest is as in [`Kernels::matmul_q8`].
    ///
    /// # Panics
    /// If a row of `format` cannot have `k` values, or a length does not fit.
    pub fn matmul_f32(
        &self,
        format: Format,
        weights: &[u8],
        k: usize,
        rows: Range<usize>,
        acts: &[f32],
        out: &mut TileMut<'_>,
    ) {
        let weights = WeightRows::new(format, weights, k, &rows);
        assert!(acts.len().is_multiple_of(k), "{} activations are not rows of {k}", acts.len());
        assert_eq!((out.n_rows(), out.width()), (acts.len() / k, weights.n), "the output does not fit");
        // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
        unsafe { (self.table.matmul_f32)(&weights, acts, out) }
    }

    /// `out = x / sqrt(mean(x^2) + eps) * weight`
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "lengths differ");
        // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
        unsafe { (self.table.rms_norm)(x, weight, eps, out) }
    }

    /// `out = gelu(gate) * up` with GELU's tanh approximation.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gelu_tanh_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert!(gate.len() == up.len() && gate.len() == out.len(), "lengths differ");
        // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
        unsafe { (self.table.gelu_tanh_mul)(gate, up, out) }
    }

    /// `x = cap * tanh(x / cap)`
    pub fn softcap(&self, x: &mut [f32], cap: f32) {
        // SAFETY: `Kernels::new` has seen the instructions.
        unsafe { (self.table.softcap)(x, cap) }
    }

    /// Rotates one head's `d` values: the pair `j`, `j + d / 2` by the angle of `cos[j]`, `sin[j]`.
    ///
    /// # Panics
    /// If `cos` and `sin` are not half as long as `x`.
    pub fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        assert!(cos.len() == sin.len() && x.len() == 2 * cos.len(), "lengths differ");
        // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
        unsafe { (self.table.rope)(x, cos, sin) }
    }

    /// `x = x + y`
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "lengths differ");
        // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
        unsafe { (self.table.add)(x, y) }
    }

    /// `x = x + y * factor`, rounded once.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_scaled(&self, x: &mut [f32], y: &[f32], factor: f32) {
        assert_eq!(x.len(), y.len(), "lengths differ");
        // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
        unsafe { (self.table.add_scaled)(x, y, factor) }
    }

    /// `x = x * factor`
    pub fn scale(&self, x: &mut [f32], factor: f32) {
        // SAFETY: `Kernels::new` has seen the instructions.
        unsafe { (self.table.scale)(x, factor) }
    }

    /// Rounds to f16, ties to even.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn f32_to_f16(&self, x: &[f32], out: &mut [f16]) {
        assert_eq!(x.len(), out.len(), "lengths differ");
        // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
        unsafe { (self.table.f32_to_f16)(x, out) }
    }

    /// Lets `which` of the queries (`[state.n_queries(), head_dim]`) attend to one more span of keys and values, all of
    /// them to all keys of it. A query's result does not depend on which other queries come with it.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn attend(&self, state: &mut AttentionState, which: Range<usize>, queries: &[f32], span: &Span<'_>) {
        if check_attend(state, &which, queries, span) {
            // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
            unsafe { (self.table.attend)(state, which, queries, span) }
        }
    }

    /// The same with keys and values in F32.
    ///
    /// # Panics
    /// If a length does not fit.
    pub fn attend_f32(&self, state: &mut AttentionState, which: Range<usize>, queries: &[f32], span: &Span<'_, f32>) {
        if check_attend(state, &which, queries, span) {
            // SAFETY: `Kernels::new` has seen the instructions, lengths were checked above.
            unsafe { (self.table.attend_f32)(state, which, queries, span) }
        }
    }

    /// Writes the queries' results, `[state.n_queries(), head_dim]`. Without any key before, NaN.
    ///
    /// # Panics
    /// If the length does not fit.
    pub fn attend_finish(&self, state: &AttentionState, out: &mut [f32]) {
        assert_eq!(out.len(), state.acc.len(), "the output does not fit");
        if out.is_empty() {
            return;
        }
        // SAFETY: `Kernels::new` has seen the instructions, the length was checked above.
        unsafe { (self.table.attend_finish)(state, out) }
    }

    /// The index of the largest value, the first of several; 0 if there is none that is not NaN.
    pub fn argmax(&self, x: &[f32]) -> usize {
        let mut best = (0, f32::NEG_INFINITY);
        for (i, &x) in x.iter().enumerate() {
            if x > best.1 {
                best = (i, x);
            }
        }
        best.0
    }
}

/// Panics where a length does not fit; false where there is nothing to do.
fn check_attend<E>(state: &AttentionState, which: &Range<usize>, queries: &[f32], span: &Span<'_, E>) -> bool {
    assert_eq!(queries.len(), state.acc.len(), "the state is for other queries");
    assert!(which.start <= which.end && which.end <= state.n_queries(), "there are no such queries");
    assert_eq!(span.keys.len(), span.values.len(), "keys and values differ");
    if which.is_empty() {
        return false;
    }
    assert!(span.keys.len().is_multiple_of(state.head_dim), "keys are not rows of {}", state.head_dim);
    true
}

/// Decodes a row exactly as ggml does, bit for bit.
///
/// # Panics
/// If `row` is not `out.len()` values of `format`.
pub fn dequantize_row(format: Format, row: &[u8], out: &mut [f32]) {
    assert_eq!(
        format.row_bytes(out.len()),
        Some(row.len()),
        "{} bytes are not {} values of {format:?}",
        row.len(),
        out.len()
    );
    scalar::dequantize_row(format, row, out);
}
