//! Weights, and their products with activations.

use super::launch::Argument::{F32, Parts, U64};
use super::launch::{Argument, BLOCK, count, fits, number};
use super::layout::{arrange, device_bytes, device_row_bytes};
use super::memory::Quantized;
use super::{Buffer, Gpu, GpuError, Rows, SharedBytes, VENDOR, Vendor};
use crate::kernels::Format;

/// Declares the kernels of each format, and how they are found.
macro_rules! products {
    ($($format:ident $name:literal)*) => {
        /// All of them for a device of this capability, by name.
        pub(super) fn product_kernels(capability: (i32, i32)) -> impl Iterator<Item = &'static str> {
            let has_units = has_matrix_units(capability);
            [$(Format::$format,)*].into_iter().flat_map(move |format| {
                let Kernels { one, eight, gated, many } = Kernels::of(format);
                [one, eight, gated].into_iter().chain((has_units && format.is_quantized()).then_some(many))
            })
        }

        impl Kernels {
            fn of(format: Format) -> Kernels {
                match format {
                    $(Format::$format => Kernels {
                        one: concat!("matmul_", $name, "_1"),
                        eight: concat!("matmul_", $name, "_8"),
                        gated: concat!("gated_", $name),
                        many: concat!("tensor_", $name),
                    },)*
                }
            }
        }
    };
}

/// The kernels of a format: for one column, for groups of [`COLUMNS`], for gate and up with one column, and on matrix units,
/// where a quantized format has one for groups of [`TILE_COLUMNS`].
struct Kernels {
    one: &'static str,
    eight: &'static str,
    gated: &'static str,
    many: &'static str,
}

/// Devices of NVIDIA's that have matrix units for bytes in blocks of 32.
pub(super) const WITH_MATRIX_UNITS: (i32, i32) = (8, 0);

fn has_matrix_units(capability: (i32, i32)) -> bool {
    VENDOR == Some(Vendor::Nvidia) && capability >= WITH_MATRIX_UNITS
}

products! {
    F32 "f32"
    F16 "f16"
    BF16 "bf16"
    Q4_0 "q4_0"
    Q4_1 "q4_1"
    Q5_0 "q5_0"
    Q5_1 "q5_1"
    Q8_0 "q8_0"
    Q2_K "q2_k"
    Q3_K "q3_k"
    Q4_K "q4_k"
    Q5_K "q5_k"
    Q6_K "q6_k"
    IQ4_NL "iq4_nl"
    IQ4_XS "iq4_xs"
}

/// Columns that read the weights together.
const COLUMNS: usize = 8;
/// Threads of a block (`MATMUL_THREADS`).
const THREADS: u32 = 64;
/// The same where gate and up are made together, and rows of each (`GATED_THREADS`, `GATED_ROWS`).
const GATED_THREADS: u32 = 256;
const GATED_ROWS: usize = 32;
/// Threads, rows and columns of a block on matrix units (`TENSOR_THREADS`, `TILE_ROWS`, `TILE_COLUMNS`).
const TENSOR_THREADS: u32 = 256;
const TILE_ROWS: usize = 64;
const TILE_COLUMNS: usize = 32;
/// Matrices of a launch (`PARTS`).
const PARTS: usize = 3;
/// Bytes that the arranger has on the host at a time.
const UPLOAD_BYTES: usize = 64 << 20;

/// A weight matrix on the device.
pub struct Weights {
    buffer: Buffer,
    format: Format,
    n_rows: usize,
    n_cols: usize,
    row_bytes: usize,
}

/// A kernel for products, its threads, and the rows and columns of a thread block.
struct Shape {
    kernel: &'static str,
    threads: u32,
    rows: usize,
    columns: usize,
}

/// A matrix as kernels take it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    weights: u64,
    row_bytes: u64,
    n_rows: u32,
    first_out: u32,
}

impl Part {
    /// As it lies in memory.
    #[cfg(gpu = "metal")]
    pub fn bytes(&self) -> [u8; 24] {
        let Part { weights, row_bytes, n_rows, first_out } = *self;
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&weights.to_le_bytes());
        bytes[8..16].copy_from_slice(&row_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&n_rows.to_le_bytes());
        bytes[20..].copy_from_slice(&first_out.to_le_bytes());
        bytes
    }
}

impl Gpu {
    /// Uploads a matrix, `n_rows` rows of `n_cols` values as they lie in a file.
    ///
    /// # Errors
    /// Bytes that are no such matrix; [`GpuError::Memory`], and the driver's.
    pub fn weights(&self, format: Format, n_rows: usize, n_cols: usize, bytes: &[u8]) -> Result<Weights, GpuError> {
        let file_row_bytes = format.row_bytes(n_cols).filter(|n| n.checked_mul(n_rows) == Some(bytes.len()));
        let (Some(file_row_bytes), Some(len)) = (file_row_bytes, device_bytes(format, n_rows, n_cols)) else {
            return Err(GpuError::Shape(format!("{} bytes are no matrix of {n_rows} x {n_cols}", bytes.len())));
        };
        let row_bytes = device_row_bytes(file_row_bytes);
        let weights = Weights { buffer: self.buffer(len)?, format, n_rows, n_cols, row_bytes };
        let rows_at_once = (UPLOAD_BYTES / row_bytes.max(1)).max(1);
        let mut arranged = Vec::new();
        for (piece, rows) in bytes.chunks((rows_at_once * file_row_bytes).max(1)).enumerate() {
            arranged.resize(rows.len() / file_row_bytes * row_bytes, 0);
            arrange(format, rows, file_row_bytes, &mut arranged);
            weights.buffer.write(piece * rows_at_once * row_bytes, &arranged)?;
        }
        Ok(weights)
    }

    /// The same where the device reads them where they lie, if it can; otherwise a copy of them.
    ///
    /// # Errors
    /// As [`Gpu::weights`].
    pub fn weights_in_place(
        &self,
        format: Format,
        n_rows: usize,
        n_cols: usize,
        bytes: &SharedBytes,
    ) -> Result<Weights, GpuError> {
        let slice = (**bytes).as_ref();
        let row_bytes = format.row_bytes(n_cols).filter(|n| n.checked_mul(n_rows) == Some(slice.len()));
        match row_bytes.and_then(|row_bytes| Some((row_bytes, self.wrapped(bytes)?))) {
            Some((row_bytes, buffer)) => Ok(Weights { buffer, format, n_rows, n_cols, row_bytes }),
            None => self.weights(format, n_rows, n_cols, slice),
        }
    }

    /// The products of each row with all matrices, their outputs side by side; where there is a cap, each product is
    /// `cap * tanh(product / cap)`.
    ///
    /// # Errors
    /// Matrices for rows of another width; [`GpuError::Memory`], and the driver's.
    pub fn matmul(&self, x: &Rows, weights: &[Weights], cap: Option<f32>) -> Result<Rows, GpuError> {
        check(x, weights)?;
        let n_columns = x.n_rows();
        let out = self.new_rows(n_columns, weights.iter().map(|w| w.n_rows).sum())?;
        let (mut first_row, mut quantized) = (0, None);
        for same in weights.chunk_by(|a, b| a.format == b.format).flat_map(|same| same.chunks(PARTS)) {
            let Some(Weights { format, n_cols, .. }) = same.first() else { continue };
            let mut arguments = vec![Parts(parts(same, first_row)?)];
            if format.is_quantized() {
                let (q, sums) = self.quantized(x, &mut quantized)?;
                arguments.extend([number(n_cols / BLOCK)?, q, sums]);
            } else {
                arguments.extend([number(*n_cols)?, U64(x.at(0))]);
            }
            let (cap, stride) = (F32(cap.unwrap_or(0.0)), U64(out.width() as u64));
            arguments.extend([number(n_columns)?, cap, U64(out.at(0)), stride]);
            let Shape { kernel, threads, rows, columns } = self.shape(*format, n_columns);
            let blocks = same.iter().map(|w| w.n_rows.div_ceil(rows)).sum();
            self.launch(kernel, [blocks, n_columns.div_ceil(columns)], threads, &arguments)?;
            first_row += same.iter().map(|w| w.n_rows).sum::<usize>();
        }
        Ok(out)
    }

    /// `gelu(gate x) * up x` of each row, where `weights` are the gate and the up matrix.
    ///
    /// # Errors
    /// As of [`Gpu::matmul`].
    pub fn gated(&self, x: &Rows, weights: &[Weights]) -> Result<Rows, GpuError> {
        let (gate, up) = match weights {
            [gate, up] if x.n_rows() == 1 && gate.is_like(up) && gate.n_rows.is_multiple_of(GATED_ROWS) => (gate, up),
            _ => return self.geglu(&self.matmul(x, weights, None)?),
        };
        check(x, weights)?;
        let out = self.new_rows_for_products(1, up.n_rows)?;
        let [out_q, out_sums] = out.quantized_at();
        let mut arguments = vec![Parts(parts(weights, 0)?)];
        if gate.format.is_quantized() {
            let mut made = None;
            let (q, sums) = self.quantized(x, &mut made)?;
            arguments.extend([number(gate.n_cols / BLOCK)?, q, sums]);
        } else {
            arguments.extend([number(gate.n_cols)?, U64(x.at(0))]);
        }
        arguments.extend([U64(out.at(0)), out_q, out_sums]);
        let kernel = Kernels::of(gate.format).gated;
        self.launch(kernel, [gate.n_rows / GATED_ROWS, 1], GATED_THREADS, &arguments)?;
        Ok(out)
    }

    /// The kernel for a product.
    fn shape(&self, format: Format, n_columns: usize) -> Shape {
        let kernels = Kernels::of(format);
        let rows = THREADS as usize / if format.is_quantized() { 8 } else { 16 };
        let has_units = format.is_quantized() && has_matrix_units(self.info().capability);
        match n_columns {
            1 => Shape { kernel: kernels.one, threads: THREADS, rows, columns: 1 },
            n if n > COLUMNS && has_units => {
                Shape { kernel: kernels.many, threads: TENSOR_THREADS, rows: TILE_ROWS, columns: TILE_COLUMNS }
            }
            _ => Shape { kernel: kernels.eight, threads: THREADS, rows, columns: COLUMNS },
        }
    }

    /// The blocks of rows, which are made into `made` where the rows came without.
    fn quantized(&self, x: &Rows, made: &mut Option<Quantized>) -> Result<(Argument, Argument), GpuError> {
        if let [U64(q), U64(sums)] = x.quantized_at()
            && q != 0
        {
            return Ok((U64(q), U64(sums)));
        }
        if made.is_none() {
            fits(x.width().is_multiple_of(BLOCK), || format!("rows of {} are not whole blocks of 32", x.width()))?;
            let new = Quantized::new(self, x.n_values() / BLOCK)?;
            let [q, sums] = new.at(0);
            self.for_each("quantize_q8", x.n_values(), &[U64(x.at(0)), U64(x.n_values() as u64), q, sums])?;
            *made = Some(new);
        }
        let [q, sums] = made.as_ref().map_or([U64(0); 2], |made| made.at(0));
        Ok((q, sums))
    }
}

impl Weights {
    fn is_like(&self, other: &Weights) -> bool {
        self.format == other.format && self.n_rows == other.n_rows && self.n_cols == other.n_cols
    }
}

fn check(x: &Rows, weights: &[Weights]) -> Result<(), GpuError> {
    fits(weights.iter().all(|w| w.n_cols == x.width()), || format!("a matrix not for rows of {}", x.width()))
}

/// At most [`PARTS`] matrices; the first output of the first is `first_out`.
fn parts(weights: &[Weights], first_out: usize) -> Result<[Part; PARTS], GpuError> {
    let mut parts = [Part { weights: 0, row_bytes: 0, n_rows: 0, first_out: 0 }; PARTS];
    let mut first_out = first_out;
    for (part, w) in parts.iter_mut().zip(weights) {
        let [n_rows, first] = [w.n_rows, first_out].map(count);
        *part = Part { weights: w.buffer.at(0), row_bytes: w.row_bytes as u64, n_rows: n_rows?, first_out: first? };
        first_out += w.n_rows;
    }
    Ok(parts)
}
