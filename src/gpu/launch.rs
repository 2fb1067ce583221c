//! The kernels with their arguments. What is handed to one is checked here, as far as its sizes go.

use std::ops::Range;

use super::layout::{arrange, device_bytes, device_row_bytes};
use super::{Buffer, Gpu, GpuError, Rows};
use crate::kernels::Format;

/// Declares the kernels that exist for each format with 1 and with up to 8 columns, and how they are found.
macro_rules! matmuls {
    ($($format:ident $one:literal $eight:literal)*) => {
        /// All kernels, by name.
        pub(super) const KERNELS: &[&str] = &[
            "rms_norm", "geglu", "softcap", "add", "copy_16", "rope", "store_kv", "attend", "quantize_q8",
            $($one, $eight,)*
        ];

        /// The product for a format, of one column or of groups of [`COLUMNS`].
        fn matmul_kernel(format: Format, one: bool) -> &'static str {
            match format {
                $(Format::$format => if one { $one } else { $eight },)*
            }
        }
    };
}

matmuls! {
    F32 "matmul_f32_1" "matmul_f32_8"
    F16 "matmul_f16_1" "matmul_f16_8"
    BF16 "matmul_bf16_1" "matmul_bf16_8"
    Q4_0 "matmul_q4_0_1" "matmul_q4_0_8"
    Q4_1 "matmul_q4_1_1" "matmul_q4_1_8"
    Q5_0 "matmul_q5_0_1" "matmul_q5_0_8"
    Q5_1 "matmul_q5_1_1" "matmul_q5_1_8"
    Q8_0 "matmul_q8_0_1" "matmul_q8_0_8"
    Q2_K "matmul_q2_k_1" "matmul_q2_k_8"
    Q3_K "matmul_q3_k_1" "matmul_q3_k_8"
    Q4_K "matmul_q4_k_1" "matmul_q4_k_8"
    Q5_K "matmul_q5_k_1" "matmul_q5_k_8"
    Q6_K "matmul_q6_k_1" "matmul_q6_k_8"
    IQ4_NL "matmul_iq4_nl_1" "matmul_iq4_nl_8"
    IQ4_XS "matmul_iq4_xs_1" "matmul_iq4_xs_8"
}

/// Most arguments of a kernel.
pub(super) const MAX_ARGUMENTS: usize = 16;
/// Columns that read the weights together.
const COLUMNS: usize = 8;
/// Threads of a block, of the kernels that leave it to the caller.
const THREADS: u32 = 256;
/// Threads of a block of products and of attention (`MATMUL_THREADS`, `ATTENTION_THREADS`).
const BLOCK_THREADS: u32 = 128;
/// Values of a head at most (`MAX_HEAD_DIM`).
pub const MAX_HEAD_DIM: usize = 512;
/// Values in a block of activations, and bytes of the numbers beside it.
const BLOCK: usize = 32;
const SUMS_BYTES: usize = 16;
/// Bytes that the arranger has on the host at a time.
const UPLOAD_BYTES: usize = 64 << 20;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    /// An address on the device, or a number of 64 bits.
    U64(u64),
    U32(u32),
    F32(f32),
}

impl Argument {
    pub fn bits(self) -> u64 {
        match self {
            Argument::U64(value) => value,
            Argument::U32(value) => value.into(),
            Argument::F32(value) => value.to_bits().into(),
        }
    }
}

use Argument::{F32, U32, U64};

/// A weight matrix on the device.
pub struct Weights {
    buffer: Buffer,
    format: Format,
    n_rows: usize,
    n_cols: usize,
    row_bytes: usize,
}

/// Keys or values of a cache on the device: slots of `[n_kv_heads]` heads.
#[derive(Clone, Copy)]
pub struct Cells<'a> {
    /// Where they lie.
    pub buffer: &'a Buffer,
    /// Their type, as the kernels count: F32, F16, BF16, Q8_0.
    pub code: u32,
    /// Bytes of a head.
    pub head_bytes: usize,
}

/// What attention is to know of a layer's heads.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Values in each.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Cap on the scaled scores.
    pub softcap: f32,
    /// Keys a query sees; `None` sees all.
    pub window: Option<usize>,
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
        let row_bytes = device_row_bytes(format, file_row_bytes);
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

    /// `x / sqrt(mean(x²) + eps) * weight` of each row; `weight` is `[width]` in F32.
    ///
    /// # Errors
    /// Another width; [`GpuError::Memory`], and the driver's, as of all that follow.
    pub fn rms_norm(&self, x: &Rows, weight: &Buffer, eps: f32) -> Result<Rows, GpuError> {
        fits(weight.len() == x.width() * size_of::<f32>(), || format!("a norm for rows of {}", x.width()))?;
        let out = self.new_rows(x.n_rows(), x.width())?;
        let arguments = [U64(x.at(0)), U64(weight.at(0)), F32(eps), number(x.width())?, U64(out.at(0))];
        self.launch("rms_norm", [x.n_rows(), 1], THREADS, &arguments)?;
        Ok(out)
    }

    /// `gelu(gate) * up` of rows that hold the gate and then the up half.
    ///
    /// # Errors
    /// As of all.
    pub fn geglu(&self, gate_up: &Rows) -> Result<Rows, GpuError> {
        let out = self.new_rows(gate_up.n_rows(), gate_up.width() / 2)?;
        let n = out.n_values();
        let arguments = [U64(gate_up.at(0)), number(out.width())?, U64(n as u64), U64(out.at(0))];
        self.for_each("geglu", n, &arguments)?;
        Ok(out)
    }

    /// `cap * tanh(x / cap)`
    ///
    /// # Errors
    /// As of all.
    pub fn softcap(&self, x: &Rows, cap: f32) -> Result<Rows, GpuError> {
        let out = self.new_rows(x.n_rows(), x.width())?;
        let n = x.n_values();
        self.for_each("softcap", n, &[U64(x.at(0)), F32(cap), U64(n as u64), U64(out.at(0))])?;
        Ok(out)
    }

    /// `x + y`
    ///
    /// # Errors
    /// Other shapes, and as of all.
    pub fn add(&self, x: &Rows, y: &Rows) -> Result<Rows, GpuError> {
        fits(x.n_rows() == y.n_rows() && x.width() == y.width(), || "rows of two shapes".into())?;
        let out = self.new_rows(x.n_rows(), x.width())?;
        let n = x.n_values();
        self.for_each("add", n, &[U64(x.at(0)), U64(y.at(0)), U64(n as u64), U64(out.at(0))])?;
        Ok(out)
    }

    /// The products of each row with all matrices, their outputs side by side.
    ///
    /// # Errors
    /// Matrices for rows of another width, and as of all.
    pub fn matmul(&self, x: &Rows, weights: &[Weights]) -> Result<Rows, GpuError> {
        fits(weights.iter().all(|w| w.n_cols == x.width()), || format!("a matrix not for rows of {}", x.width()))?;
        let n_columns = x.n_rows();
        let out = self.new_rows(n_columns, weights.iter().map(|w| w.n_rows).sum())?;
        let quantized = weights.iter().any(|w| w.format.is_quantized()).then(|| self.quantize(x)).transpose()?;
        let one = n_columns == 1;
        let groups = if one { 1 } else { n_columns.div_ceil(COLUMNS) };
        let mut first_row = 0;
        for w in weights {
            let to = U64(out.at(0) + (first_row * size_of::<f32>()) as u64);
            let (columns, stride) = (number(n_columns)?, U64(out.width() as u64));
            let (row_bytes, rows) = (U64(w.row_bytes as u64), number(w.n_rows)?);
            let at = U64(w.buffer.at(0));
            let kernel = matmul_kernel(w.format, one);
            match &quantized {
                Some((q, sums)) if w.format.is_quantized() => {
                    let (q, sums) = (U64(q.at(0)), U64(sums.at(0)));
                    let arguments = [at, row_bytes, rows, number(w.n_cols / BLOCK)?, q, sums, columns, to, stride];
                    let blocks = w.n_rows.div_ceil(BLOCK_THREADS as usize / 8);
                    self.launch(kernel, [blocks, groups], BLOCK_THREADS, &arguments)?;
                }
                _ => {
                    let arguments = [at, row_bytes, rows, number(w.n_cols)?, U64(x.at(0)), columns, to, stride];
                    let blocks = w.n_rows.div_ceil(BLOCK_THREADS as usize / 16);
                    self.launch(kernel, [blocks, groups], BLOCK_THREADS, &arguments)?;
                }
            }
            first_row += w.n_rows;
        }
        Ok(out)
    }

    /// Blocks of 32 bytes, and the numbers beside them.
    fn quantize(&self, x: &Rows) -> Result<(Buffer, Buffer), GpuError> {
        fits(x.width().is_multiple_of(BLOCK), || format!("rows of {} are not whole blocks of 32", x.width()))?;
        let n = x.n_values() / BLOCK;
        let (q, sums) = (self.scratch(n * BLOCK)?, self.scratch(n * SUMS_BYTES)?);
        self.for_each("quantize_q8", n, &[U64(x.at(0)), U64(n as u64), U64(q.at(0)), U64(sums.at(0))])?;
        Ok((q, sums))
    }

    /// Rotates the first `n_heads` heads of each row, in place. `cos` and `sin` are `[n_rows, head_dim / 2]` in F32.
    ///
    /// # Errors
    /// Shapes that do not fit, and as of all.
    pub fn rope(
        &self,
        qkv: &Rows,
        cos: &Buffer,
        sin: &Buffer,
        n_heads: usize,
        head_dim: usize,
    ) -> Result<(), GpuError> {
        let half = head_dim / 2;
        let table_bytes = qkv.n_rows() * half * size_of::<f32>();
        let is_fit = n_heads * head_dim <= qkv.width() && cos.len() == table_bytes && sin.len() == table_bytes;
        fits(is_fit, || format!("{n_heads} heads of {head_dim} are not in rows of {}", qkv.width()))?;
        let n = qkv.n_rows() * n_heads * half;
        let (cos, sin) = (U64(cos.at(0)), U64(sin.at(0)));
        let arguments =
            [U64(qkv.at(0)), cos, sin, number(qkv.width())?, number(n_heads)?, number(half)?, U64(n as u64)];
        self.for_each("rope", n, &arguments)
    }

    /// Writes heads `heads` of these rows, which are positions from `pos` on, into the slots of a cache of `capacity`
    /// (position `p` into slot `p % capacity`; the caller has seen that there is room).
    ///
    /// # Errors
    /// Shapes that do not fit, and as of all.
    pub fn store(
        &self,
        qkv: &Rows,
        heads: Range<usize>,
        head_dim: usize,
        pos: usize,
        capacity: usize,
        to: Cells<'_>,
    ) -> Result<(), GpuError> {
        fits(heads.end * head_dim <= qkv.width(), || format!("heads {heads:?} are not in rows of {}", qkv.width()))?;
        let last_slot = if pos + qkv.n_rows() > capacity { capacity } else { pos + qkv.n_rows() };
        to.buffer.check(0, last_slot * heads.len() * to.head_bytes)?;
        let n = qkv.n_rows() * heads.len() * head_dim.div_ceil(BLOCK);
        let arguments = [
            U64(qkv.at(0) + (heads.start * head_dim * size_of::<f32>()) as u64),
            number(qkv.width())?,
            number(head_dim)?,
            number(heads.len())?,
            U32(to.code),
            U64(pos as u64),
            U64(capacity as u64),
            U64(n as u64),
            U64(to.buffer.at(0)),
        ];
        self.for_each("store_kv", n, &arguments)
    }

    /// Attention of these rows' queries, which are positions from `pos` on, to the keys that are stored; writes
    /// `[n_rows, n_heads * head_dim]` into `out` from row `first` on.
    ///
    /// # Errors
    /// Shapes that do not fit, and as of all.
    #[expect(clippy::too_many_arguments, reason = "attention has as many")]
    pub fn attend(
        &self,
        qkv: &Rows,
        head: &Head,
        keys: Cells<'_>,
        values: Cells<'_>,
        pos: usize,
        capacity: usize,
        out: &Rows,
        first: usize,
    ) -> Result<(), GpuError> {
        let &Head { n_heads, n_kv_heads, head_dim, scale, softcap, window } = head;
        let is_fit = n_heads * head_dim <= qkv.width()
            && n_heads * head_dim == out.width()
            && first + qkv.n_rows() <= out.n_rows()
            && head_dim <= MAX_HEAD_DIM
            && n_kv_heads > 0;
        fits(is_fit, || format!("{n_heads} heads of {head_dim} do not fit"))?;
        let slots = (pos + qkv.n_rows()).min(capacity);
        for cells in [keys, values] {
            cells.buffer.check(0, slots * n_kv_heads * cells.head_bytes)?;
        }
        let arguments = [
            U64(qkv.at(0)),
            number(qkv.width())?,
            number(head_dim)?,
            number(n_heads)?,
            number(n_kv_heads)?,
            U64(keys.buffer.at(0)),
            U32(keys.code),
            U64(values.buffer.at(0)),
            U32(values.code),
            U64(capacity as u64),
            U64(pos as u64),
            U64(window.unwrap_or(0) as u64),
            F32(scale),
            F32(softcap),
            U64(out.at(first)),
        ];
        self.launch("attend", [n_heads, qkv.n_rows()], BLOCK_THREADS, &arguments)
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
    fn for_each(&self, kernel: &'static str, n: usize, arguments: &[Argument]) -> Result<(), GpuError> {
        self.launch(kernel, [n.div_ceil(THREADS as usize), 1], THREADS, arguments)
    }

    fn launch(
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

fn fits(is_fit: bool, what: impl FnOnce() -> String) -> Result<(), GpuError> {
    if is_fit { Ok(()) } else { Err(GpuError::Shape(what())) }
}

/// A number as kernels take it.
fn number(n: usize) -> Result<Argument, GpuError> {
    count(n).map(U32)
}

/// At most 2^31 - 1: what a grid may be wide.
fn count(n: usize) -> Result<u32, GpuError> {
    i32::try_from(n).map(i32::unsigned_abs).map_err(|_| GpuError::Shape(format!("{n} is too many")))
}
