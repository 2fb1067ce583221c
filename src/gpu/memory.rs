//! Memory of the device. What activations use is kept for the next step, since taking memory makes the device wait.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::launch::{Argument, BLOCK};
use super::{Driver, Gpu, GpuError, SharedBytes};

/// Bytes on the device. What they are at first is unspecified.
pub struct Buffer {
    gpu: Gpu,
    at: u64,
    len: usize,
    /// What was taken and the pool that it goes back to, for memory of a step.
    pooled: Option<(usize, Arc<Pool>)>,
}

/// Activations, `[n_rows, width]` in F32. Clones and parts share the memory.
#[derive(Clone)]
pub struct Rows {
    buffer: Arc<Buffer>,
    /// Row of the buffer that is the first here.
    start: usize,
    n_rows: usize,
    width: usize,
    /// The same in blocks of 8 bits, of all the buffer's rows; made together with them where a product may follow.
    quantized: Option<Arc<Quantized>>,
}

/// Activations in blocks of 32 bytes, and behind them the numbers of each block.
pub(super) struct Quantized {
    buffer: Buffer,
    n_blocks: usize,
}

/// Bytes that are written at a time: the device copies them while the next are got ready.
pub(super) const PIECE_BYTES: usize = 2 << 20;
/// Bytes of a block's numbers (`Sums`).
const SUMS_BYTES: usize = 16;

/// Memory that is not in use, by size.
pub(super) struct Pool {
    driver: Arc<Driver>,
    free: Mutex<BTreeMap<usize, Vec<u64>>>,
}

impl Gpu {
    /// Memory that stays for long.
    ///
    /// # Errors
    /// [`GpuError::Memory`].
    pub fn buffer(&self, len: usize) -> Result<Buffer, GpuError> {
        let at = self.allocate(len.max(1))?;
        Ok(Buffer { gpu: self.clone(), at, len, pooled: None })
    }

    /// The same with these bytes in it.
    ///
    /// # Errors
    /// [`GpuError::Memory`], and the driver's.
    pub fn buffer_of(&self, bytes: &[u8]) -> Result<Buffer, GpuError> {
        let buffer = self.buffer(bytes.len())?;
        buffer.write(0, bytes)?;
        Ok(buffer)
    }

    /// These very bytes, where the device can read them in place; nobody may write them, nor to the buffer.
    pub(super) fn wrapped(&self, bytes: &SharedBytes) -> Option<Buffer> {
        let at = self.inner.driver.wrap(bytes)?;
        Some(Buffer { gpu: self.clone(), at, len: (**bytes).as_ref().len(), pooled: None })
    }

    /// Memory for a step.
    pub(super) fn scratch(&self, len: usize) -> Result<Buffer, GpuError> {
        let (size, pool) = (pooled_size(len), self.pool());
        let reused = pool.lock().get_mut(&size).and_then(Vec::pop);
        let at = reused.map_or_else(|| self.allocate(size), Ok)?;
        Ok(Buffer { gpu: self.clone(), at, len, pooled: Some((size, pool)) })
    }

    /// Rows that are still to be computed.
    ///
    /// # Errors
    /// [`GpuError::Memory`].
    pub fn new_rows(&self, n_rows: usize, width: usize) -> Result<Rows, GpuError> {
        let len = n_rows.checked_mul(width).and_then(|n| n.checked_mul(size_of::<f32>()));
        let len = len.ok_or_else(|| GpuError::Shape(format!("{n_rows} rows of {width} are too many")))?;
        Ok(Rows { buffer: Arc::new(self.scratch(len)?), start: 0, n_rows, width, quantized: None })
    }

    /// The same with room for their blocks, if they are whole.
    pub(super) fn new_rows_for_products(&self, n_rows: usize, width: usize) -> Result<Rows, GpuError> {
        let rows = self.new_rows(n_rows, width)?;
        if width.is_multiple_of(BLOCK) { rows.with_quantized() } else { Ok(rows) }
    }

    /// These rows, on the device.
    ///
    /// # Errors
    /// Values that are not whole rows; [`GpuError::Memory`], and the driver's.
    pub fn rows_of(&self, values: &[f32], width: usize) -> Result<Rows, GpuError> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(GpuError::Shape(format!("{} values are not rows of {width}", values.len())));
        }
        let rows = self.new_rows(values.len() / width, width)?;
        rows.replace(values)?;
        Ok(rows)
    }

    fn allocate(&self, len: usize) -> Result<u64, GpuError> {
        let driver = &self.inner.driver;
        match driver.allocate(len) {
            Err(GpuError::Memory(_)) => {
                // What the pool keeps may be in the way.
                self.pool().drain();
                driver.allocate(len)
            }
            other => other,
        }
    }
}

impl Pool {
    pub fn new(driver: Arc<Driver>) -> Arc<Pool> {
        Arc::new(Pool { driver, free: Mutex::default() })
    }

    /// Gives all back that is not in use.
    fn drain(&self) {
        std::mem::take(&mut *self.lock()).into_values().flatten().for_each(|at| self.driver.free(at));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<u64>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.drain();
    }
}

impl Quantized {
    pub fn new(gpu: &Gpu, n_blocks: usize) -> Result<Quantized, GpuError> {
        Ok(Quantized { buffer: gpu.scratch(n_blocks * (BLOCK + SUMS_BYTES))?, n_blocks })
    }

    /// Where block `block` is, and its numbers.
    pub fn at(&self, block: usize) -> [Argument; 2] {
        [block * BLOCK, self.n_blocks * BLOCK + block * SUMS_BYTES].map(|offset| Argument::U64(self.buffer.at(offset)))
    }
}

/// Sizes of the pool: four between two powers of two, so that steps of similar lengths share memory.
fn pooled_size(len: usize) -> usize {
    let len = len.max(256);
    len.next_multiple_of(len.next_power_of_two() / 8)
}

impl Buffer {
    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where byte `offset` is, on the device.
    pub(super) fn at(&self, offset: usize) -> u64 {
        self.at + offset as u64
    }

    /// Writes bytes from `offset` on.
    ///
    /// # Errors
    /// More than there is room for; the driver's.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), GpuError> {
        self.check(offset, bytes.len())?;
        let mut pieces = (0..).step_by(PIECE_BYTES).zip(bytes.chunks(PIECE_BYTES));
        pieces.try_for_each(|(at, piece)| self.fill(offset + at, piece.len(), &mut |out| out.copy_from_slice(piece)))
    }

    /// Has `f` write `len` bytes from `offset` on, where the device takes them from. What is there before is anything at all.
    ///
    /// # Errors
    /// More than there is room for; the driver's.
    pub(super) fn fill(&self, offset: usize, len: usize, f: &mut dyn FnMut(&mut [u8])) -> Result<(), GpuError> {
        self.check(offset, len)?;
        if len == 0 { Ok(()) } else { self.gpu.inner.driver.upload(self.at(offset), len, f) }
    }

    /// Reads bytes from `offset` on, after everything that was started before is done.
    ///
    /// # Errors
    /// More than there are; the driver's.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), GpuError> {
        let mut rest = &mut *bytes;
        self.read_pieces(offset, rest.len(), &mut |piece| {
            let (here, after) = std::mem::take(&mut rest).split_at_mut(piece.len());
            here.copy_from_slice(piece);
            rest = after;
        })
    }

    /// The same, bytes after bytes where they are, in pieces of whole 16 bytes but for the last.
    fn read_pieces(&self, offset: usize, len: usize, f: &mut dyn FnMut(&[u8])) -> Result<(), GpuError> {
        self.check(offset, len)?;
        if len == 0 { Ok(()) } else { self.gpu.inner.driver.download(self.at(offset), len, f) }
    }

    /// Copies a range of `from` to `offset`.
    ///
    /// # Errors
    /// A range that does not fit; the driver's.
    pub fn copy_from(&self, offset: usize, from: &Buffer, range: Range<usize>) -> Result<(), GpuError> {
        self.check(offset, range.len())?;
        from.check(range.start, range.len())?;
        if range.is_empty() {
            return Ok(());
        }
        self.gpu.inner.driver.copy(from.at(range.start), self.at(offset), range.len())
    }

    pub(super) fn check(&self, offset: usize, len: usize) -> Result<(), GpuError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(GpuError::Shape(format!("{len} bytes at {offset} lie outside a buffer of {}", self.len))),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match &self.pooled {
            // Whoever takes it next is behind those who used it: everything runs in one order.
            Some((size, pool)) => pool.lock().entry(*size).or_default().push(self.at),
            None => self.gpu.inner.driver.free(self.at),
        }
    }
}

impl Rows {
    /// The device that they are on.
    pub fn gpu(&self) -> &Gpu {
        &self.buffer.gpu
    }

    /// How many there are.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Some of them.
    ///
    /// # Errors
    /// A range that is not there.
    pub fn narrow(&self, range: Range<usize>) -> Result<Rows, GpuError> {
        if range.start > range.end || range.end > self.n_rows {
            return Err(GpuError::Shape(format!("there are {} rows, and not {range:?}", self.n_rows)));
        }
        Ok(Rows { start: self.start + range.start, n_rows: range.len(), ..self.clone() })
    }

    /// One after the other; `parts` are of one width.
    ///
    /// # Errors
    /// None, or of several widths; [`GpuError::Memory`].
    pub fn concat(parts: &[Rows]) -> Result<Rows, GpuError> {
        let Some(first) = parts.first() else { return Err(GpuError::Shape("no rows at all".into())) };
        if parts.iter().any(|part| part.width != first.width) {
            return Err(GpuError::Shape("rows of several widths".into()));
        }
        if let [one] = parts {
            return Ok(one.clone());
        }
        let row_bytes = first.width * size_of::<f32>();
        let all = first.buffer.gpu.new_rows(parts.iter().map(|part| part.n_rows).sum(), first.width)?;
        let mut to = 0;
        for part in parts {
            let range = part.start * row_bytes..(part.start + part.n_rows) * row_bytes;
            let len = range.len();
            all.buffer.copy_from(to, &part.buffer, range)?;
            to += len;
        }
        Ok(all)
    }

    /// The values, on the host.
    ///
    /// # Errors
    /// The driver's.
    pub fn to_vec(&self) -> Result<Vec<f32>, GpuError> {
        let mut values = Vec::with_capacity(self.n_values());
        let [first, len] = [self.start * self.width, self.n_values()].map(|n| n * size_of::<f32>());
        self.buffer.read_pieces(first, len, &mut |bytes| {
            values.extend(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)));
        })?;
        Ok(values)
    }

    /// Writes other values in their place.
    ///
    /// # Errors
    /// Another number of them; the driver's.
    pub fn replace(&self, values: &[f32]) -> Result<(), GpuError> {
        if values.len() != self.n_values() {
            return Err(GpuError::Shape(format!("{} values in place of {}", values.len(), self.n_values())));
        }
        let mut offset = self.start * self.width * size_of::<f32>();
        for values in values.chunks(PIECE_BYTES / size_of::<f32>()) {
            let len = size_of_val(values);
            self.buffer.fill(offset, len, &mut |out| {
                out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_le_bytes());
            })?;
            offset += len;
        }
        Ok(())
    }

    /// The same with room for their blocks; the rows are the buffer's first, and of whole blocks.
    pub(super) fn with_quantized(self) -> Result<Rows, GpuError> {
        let quantized = Quantized::new(self.gpu(), self.n_values() / BLOCK)?;
        Ok(Rows { quantized: Some(Arc::new(quantized)), ..self })
    }

    /// Where their blocks are and the numbers of those; 0 where there are none.
    pub(super) fn quantized_at(&self) -> [Argument; 2] {
        let first = self.start * self.width / BLOCK;
        self.quantized.as_ref().map_or([Argument::U64(0); 2], |quantized| quantized.at(first))
    }

    pub(super) fn n_values(&self) -> usize {
        self.n_rows * self.width
    }

    /// Where row `row` is, on the device.
    pub(super) fn at(&self, row: usize) -> u64 {
        self.buffer.at((self.start + row) * self.width * size_of::<f32>())
    }
}
