//! Weights, and their products with activations.

use rayon::prelude::*;

use super::launch::Argument::{F32, Parts, U64};
use super::launch::{Argument, BLOCK, count, fits, number};
use super::layout::{arrange, device_bytes, device_row_bytes};
use super::memory::{PIECE_BYTES, Quantized};
use super::{Buffer, Gpu, GpuError, Rows, SharedBytes, VENDOR, Vendor};
use crate::kernels::Format;

/// Declares the kernels of each format.
macro_rules! products {
    ($($format:ident $name:literal)*) => {
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

/// The kernels for BF16 on matrix units: those that round activations, make up to [`COLUMNS`] columns, gate and up with one
/// column, and tiles of 128 and of 64 columns.
const BF16_KERNELS: [&str; 5] = ["bf16_round", "bf16_few", "bf16_gated", "bf16_many_128", "bf16_many_64"];

/// The kernels of a format: for one column, for groups of [`COLUMNS`], for gate and up with one column, and on matrix units,
/// where a quantized format has one for groups of [`TILE_COLUMNS`].
struct Kernels {
    one: &'static str,
    eight: &'static str,
    gated: &'static str,
    many: &'static str,
}

/// Devices of NVIDIA's that have matrix units for bytes in blocks of 32 and for BF16.
const WITH_MATRIX_UNITS: (i32, i32) = (8, 0);

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
/// On matrix units in BF16, threads where there are up to [`COLUMNS`] columns and where there are more (`FEW_THREADS`,
/// `MANY_THREADS`), and rows (`MANY_ROWS`).
const BF16_THREADS: u32 = 256;
const FEW_ROWS: usize = 16;
const MANY_ROWS: usize = 128;
/// Thread blocks that keep a device busy, about.
const BUSY: usize = 256;
/// Values of a unit, in which rows are rounded to BF16 (`UNIT`), and its bytes.
const UNIT: usize = 8;
const UNIT_BYTES: usize = 16;
/// Matrices of a launch (`PARTS`).
const PARTS: usize = 3;

/// Rows that a thread of the host arranges at a time.
const GROUP_ROWS: usize = 32;

/// A weight matrix on the device.
pub struct Weights {
    buffer: Buffer,
    format: Format,
    n_rows: usize,
    n_cols: usize,
    row_bytes: usize,
}

/// A kernel for products, what it takes, its threads, and the rows and columns of a thread block.
struct Shape {
    kernel: &'static str,
    input: Input,
    threads: u32,
    rows: usize,
    columns: usize,
}

/// Activations as kernels take them.
#[derive(Clone, Copy)]
enum Input {
    /// As they are.
    Values,
    /// In blocks of 8 bits.
    Blocks,
    /// Rounded to BF16.
    Rounded,
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
        self.prepare(format)?;
        let row_bytes = device_row_bytes(file_row_bytes);
        let weights = Weights { buffer: self.buffer(len)?, format, n_rows, n_cols, row_bytes };
        let rows_at_once = (PIECE_BYTES / row_bytes.max(1)).max(1);
        for (piece, rows) in bytes.chunks((rows_at_once * file_row_bytes).max(1)).enumerate() {
            let len = rows.len() / file_row_bytes * row_bytes;
            let mut put = |out: &mut [u8]| {
                let groups =
                    out.par_chunks_mut(row_bytes * GROUP_ROWS).zip(rows.par_chunks(file_row_bytes * GROUP_ROWS));
                groups.for_each(|(out, rows)| arrange(format, rows, file_row_bytes, out));
            };
            weights.buffer.fill(piece * rows_at_once * row_bytes, len, &mut put)?;
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
            Some((row_bytes, buffer)) => {
                self.prepare(format)?;
                Ok(Weights { buffer, format, n_rows, n_cols, row_bytes })
            }
            None => self.weights(format, n_rows, n_cols, slice),
        }
    }

    /// Makes the kernels for weights of this format ready, which can take a second where the driver has to compile them and
    /// has kept none from an earlier time. Where this is left out, it is done with the first weights.
    ///
    /// # Errors
    /// The driver's.
    pub fn prepare(&self, format: Format) -> Result<(), GpuError> {
        if self.is_rounded(format) {
            return self.inner.driver.prepare(&BF16_KERNELS);
        }
        let Kernels { one, eight, gated, many } = Kernels::of(format);
        let has_many = format.is_quantized() && has_matrix_units(self.info().capability);
        let kernels = [one, eight, gated, many];
        self.inner.driver.prepare(&kernels[..if has_many { 4 } else { 3 }])
    }

    /// The products of each row with all matrices, their outputs side by side; where there is a cap, each product is
    /// `cap * tanh(product / cap)`.
    ///
    /// A product of a row does not depend on what other rows there are. It has the CPU's bits, but for weights in BF16 on
    /// matrix units, for which activations are rounded to BF16.
    ///
    /// # Errors
    /// Matrices for rows of another width; [`GpuError::Memory`], and the driver's.
    pub fn matmul(&self, x: &Rows, weights: &[Weights], cap: Option<f32>) -> Result<Rows, GpuError> {
        check(x, weights)?;
        let n_columns = x.n_rows();
        let out = self.new_rows(n_columns, weights.iter().map(|w| w.n_rows).sum())?;
        let (mut first_row, mut quantized, mut rounded) = (0, None, None);
        for same in weights.chunk_by(|a, b| a.format == b.format).flat_map(|same| same.chunks(PARTS)) {
            let Some(Weights { format, n_cols, .. }) = same.first() else { continue };
            let n_blocks = |rows: usize| same.iter().map(|w| w.n_rows.div_ceil(rows)).sum::<usize>();
            let Shape { kernel, input, threads, rows, columns } = self.shape(*format, n_columns, n_blocks(MANY_ROWS));
            let mut arguments = vec![Parts(parts(same, first_row)?)];
            match input {
                Input::Values => arguments.extend([number(*n_cols)?, U64(x.at(0))]),
                Input::Blocks => {
                    let (q, sums) = self.quantized(x, &mut quantized)?;
                    arguments.extend([number(n_cols / BLOCK)?, q, sums]);
                }
                Input::Rounded => {
                    arguments.extend([number(n_cols.div_ceil(UNIT))?, self.rounded(x, &mut rounded)?]);
                }
            }
            let (cap, stride) = (F32(cap.unwrap_or(0.0)), U64(out.width() as u64));
            arguments.extend([number(n_columns)?, cap, U64(out.at(0)), stride]);
            self.launch(kernel, [n_blocks(rows), n_columns.div_ceil(columns)], threads, &arguments)?;
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
        if self.is_rounded(gate.format) {
            let out = self.new_rows(1, up.n_rows)?;
            let arguments = [Parts(parts(weights, 0)?), number(gate.n_cols)?, U64(x.at(0)), U64(out.at(0))];
            self.launch("bf16_gated", [gate.n_rows.div_ceil(FEW_ROWS), 1], BF16_THREADS, &arguments)?;
            return Ok(out);
        }
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

    /// Whether products with weights of this format are made on matrix units in BF16.
    fn is_rounded(&self, format: Format) -> bool {
        format == Format::BF16 && has_matrix_units(self.info().capability)
    }

    /// The kernel for a product with so many columns and `n_tall` times [`MANY_ROWS`] rows.
    fn shape(&self, format: Format, n_columns: usize, n_tall: usize) -> Shape {
        let kernels = Kernels::of(format);
        if self.is_rounded(format) {
            let (kernel, input, rows, columns) = match n_columns {
                n if n <= COLUMNS => ("bf16_few", Input::Values, FEW_ROWS, COLUMNS),
                n if n_tall * n.div_ceil(128) >= BUSY => ("bf16_many_128", Input::Rounded, MANY_ROWS, 128),
                _ => ("bf16_many_64", Input::Rounded, MANY_ROWS, 64),
            };
            return Shape { kernel, input, threads: BF16_THREADS, rows, columns };
        }
        let (input, lanes) = if format.is_quantized() { (Input::Blocks, 8) } else { (Input::Values, 16) };
        let rows = THREADS as usize / lanes;
        let has_units = format.is_quantized() && has_matrix_units(self.info().capability);
        match n_columns {
            1 => Shape { kernel: kernels.one, input, threads: THREADS, rows, columns: 1 },
            n if n > COLUMNS && has_units => {
                Shape { kernel: kernels.many, input, threads: TENSOR_THREADS, rows: TILE_ROWS, columns: TILE_COLUMNS }
            }
            _ => Shape { kernel: kernels.eight, input, threads: THREADS, rows, columns: COLUMNS },
        }
    }

    /// The rows rounded to BF16, which are made the first time.
    fn rounded(&self, x: &Rows, made: &mut Option<Buffer>) -> Result<Argument, GpuError> {
        if let Some(made) = made {
            return Ok(U64(made.at(0)));
        }
        let n_units = x.n_rows() * x.width().div_ceil(UNIT);
        let new = self.scratch(n_units * UNIT_BYTES)?;
        let arguments = [U64(x.at(0)), number(x.width())?, U64(n_units as u64), U64(new.at(0))];
        self.for_each("bf16_round", n_units, &arguments)?;
        Ok(U64(made.insert(new).at(0)))
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
