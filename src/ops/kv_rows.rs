//! Rows of keys or values, in one of the types that a cache may have.

use std::io::{self, Read, Write};
use std::ops::Range;

use half::{bf16, f16};

use crate::kernels::Kernels;

/// How keys or values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvType {
    /// As they are computed.
    F32,
    /// Half the size; the usual choice.
    #[default]
    F16,
    /// Half the size, the range of F32 and fewer digits.
    BF16,
    /// A quarter of the size: ggml's `Q8_0`, 32 values with a common scale.
    Q8_0,
}

/// Values that share a scale in [`KvType::Q8_0`].
const BLOCK: usize = 32;

impl KvType {
    /// All of them.
    pub const ALL: [KvType; 4] = [KvType::F32, KvType::F16, KvType::BF16, KvType::Q8_0];

    /// llama.cpp's name of it.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::BF16 => "bf16",
            KvType::Q8_0 => "q8_0",
        }
    }

    /// The type of this name.
    pub fn parse(name: &str) -> Option<KvType> {
        Self::ALL.into_iter().find(|one| one.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a row of `head_dim` values; `None` where such a row cannot be kept in this type.
    pub fn row_bytes(self, head_dim: usize) -> Option<usize> {
        match self {
            KvType::F32 => Some(4 * head_dim),
            KvType::F16 | KvType::BF16 => Some(2 * head_dim),
            KvType::Q8_0 => head_dim.is_multiple_of(BLOCK).then_some(head_dim / BLOCK * (BLOCK + 2)),
        }
    }
}

/// What is stored: a value, or a block of them.
trait Cell: Copy + Default {
    /// Values in it.
    const VALUES: usize;
    /// Bytes in a file.
    const BYTES: usize;
    fn encode(values: &[f32]) -> Self;
    fn decode(self, out: &mut [f32]);
    fn write(self, out: &mut Vec<u8>);
    /// `None` if it is no number.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// 32 values, `scale * value`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Q8Block {
    scale: f16,
    values: [i8; BLOCK],
}

macro_rules! float_cell {
    ($type:ty, $encode:expr, $decode:expr) => {
        impl Cell for $type {
            const VALUES: usize = 1;
            const BYTES: usize = size_of::<$type>();
            #[inline]
            fn encode(values: &[f32]) -> Self {
                $encode(values[0])
            }
            #[inline]
            fn decode(self, out: &mut [f32]) {
                out[0] = $decode(self);
            }
            fn write(self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Option<Self> {
                let value = <$type>::from_le_bytes(bytes.try_into().ok()?);
                value.is_finite().then_some(value)
            }
        }
    };
}

float_cell!(f32, |x| x, |x| x);
float_cell!(f16, f16::from_f32, f16::to_f32);
float_cell!(bf16, bf16::from_f32, bf16::to_f32);

impl Cell for Q8Block {
    const VALUES: usize = BLOCK;
    const BYTES: usize = BLOCK + 2;

    /// ggml's: the largest magnitude becomes 127, halves are rounded away from zero.
    fn encode(values: &[f32]) -> Self {
        let largest = values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let mut block = Q8Block { scale: f16::from_f32(scale), values: [0; BLOCK] };
        for (out, x) in block.values.iter_mut().zip(values) {
            *out = (x * inverse).round() as i8;
        }
        block
    }

    #[inline]
    fn decode(self, out: &mut [f32]) {
        let scale = self.scale.to_f32();
        for (out, x) in out.iter_mut().zip(self.values) {
            *out = scale * f32::from(x);
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend(self.scale.to_le_bytes());
        out.extend(self.values.map(|x| x as u8));
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (scale, values) = bytes.split_first_chunk()?;
        let values: &[u8; BLOCK] = values.try_into().ok()?;
        let scale = f16::from_le_bytes(*scale);
        scale.is_finite().then(|| Q8Block { scale, values: values.map(|x| x as i8) })
    }
}

/// `[slots, head_dim]`.
pub enum KvRows {
    /// See [`KvType::F32`].
    F32(Vec<f32>),
    /// See [`KvType::F16`].
    F16(Vec<f16>),
    /// See [`KvType::BF16`].
    BF16(Vec<bf16>),
    /// See [`KvType::Q8_0`].
    Q8_0(Vec<Q8Block>),
}

/// The same expression for each kind.
macro_rules! each {
    ($rows:expr, $cells:ident => $body:expr) => {
        match $rows {
            KvRows::F32($cells) => $body,
            KvRows::F16($cells) => $body,
            KvRows::BF16($cells) => $body,
            KvRows::Q8_0($cells) => $body,
        }
    };
}

impl KvRows {
    /// None yet.
    pub fn new(kv_type: KvType) -> KvRows {
        match kv_type {
            KvType::F32 => KvRows::F32(Vec::new()),
            KvType::F16 => KvRows::F16(Vec::new()),
            KvType::BF16 => KvRows::BF16(Vec::new()),
            KvType::Q8_0 => KvRows::Q8_0(Vec::new()),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        each!(self, cells => size_of_val(cells.as_slice()))
    }

    /// Slots there are.
    pub fn slots(&self, head_dim: usize) -> usize {
        each!(self, cells => cells_in(cells, cells.len()) / head_dim.max(1))
    }

    /// Takes memory for `slots` of them.
    pub fn grow(&mut self, slots: usize, head_dim: usize) {
        each!(self, cells => {
            let len = cells_of(cells, slots * head_dim);
            cells.reserve_exact(len.saturating_sub(cells.len()));
            cells.resize(len, Default::default());
        });
    }

    /// Writes a row.
    pub fn store(&mut self, slot: usize, row: &[f32], kernels: &Kernels) {
        let d = row.len();
        match self {
            KvRows::F16(cells) => kernels.f32_to_f16(row, &mut cells[slot * d..(slot + 1) * d]),
            KvRows::F32(cells) => encode(row, &mut cells[slot * d..(slot + 1) * d]),
            KvRows::BF16(cells) => encode(row, &mut cells[slot * d..(slot + 1) * d]),
            KvRows::Q8_0(cells) => encode(row, &mut cells[slot * d / BLOCK..(slot + 1) * d / BLOCK]),
        }
    }

    /// The rows of these slots, decoded.
    pub fn decode(&self, slots: Range<usize>, head_dim: usize, out: &mut Vec<f32>) {
        out.clear();
        out.resize(slots.len() * head_dim, 0.0);
        each!(self, cells => {
            let range = cells_of(cells, slots.start * head_dim)..cells_of(cells, slots.end * head_dim);
            decode(&cells[range], out);
        });
    }

    /// Copies a row of the same type and length. False where the types differ.
    pub fn copy_row(&mut self, slot: usize, from: &KvRows, from_slot: usize, head_dim: usize) -> bool {
        macro_rules! copy {
            ($cells:ident, $others:ident) => {{
                let n = cells_of($cells, head_dim);
                $cells[slot * n..(slot + 1) * n].copy_from_slice(&$others[from_slot * n..(from_slot + 1) * n]);
                true
            }};
        }
        match (self, from) {
            (KvRows::F32(cells), KvRows::F32(others)) => copy!(cells, others),
            (KvRows::F16(cells), KvRows::F16(others)) => copy!(cells, others),
            (KvRows::BF16(cells), KvRows::BF16(others)) => copy!(cells, others),
            (KvRows::Q8_0(cells), KvRows::Q8_0(others)) => copy!(cells, others),
            _ => false,
        }
    }

    /// Writes the rows of these slots, little-endian.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, slots: Range<usize>, head_dim: usize, out: &mut dyn Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        each!(self, cells => {
            let range = cells_of(cells, slots.start * head_dim)..cells_of(cells, slots.end * head_dim);
            cells[range].iter().for_each(|cell| cell.write(&mut bytes));
        });
        out.write_all(&bytes)
    }

    /// Reads a row that [`KvRows::write`] wrote.
    ///
    /// # Errors
    /// The reader's; `InvalidData` where a value is no number.
    pub fn read_row(&mut self, slot: usize, head_dim: usize, input: &mut dyn Read) -> io::Result<()> {
        each!(self, cells => {
            let n = cells_of(cells, head_dim);
            read(&mut cells[slot * n..(slot + 1) * n], input)
        })
    }
}

/// Cells that `n` values take.
fn cells_of<C: Cell>(_: &[C], n: usize) -> usize {
    n / C::VALUES
}

/// Values in `n` cells.
fn cells_in<C: Cell>(_: &[C], n: usize) -> usize {
    n * C::VALUES
}

fn encode<C: Cell>(row: &[f32], cells: &mut [C]) {
    for (cell, values) in cells.iter_mut().zip(row.chunks_exact(C::VALUES)) {
        *cell = C::encode(values);
    }
}

fn decode<C: Cell>(cells: &[C], out: &mut [f32]) {
    for (cell, out) in cells.iter().zip(out.chunks_exact_mut(C::VALUES)) {
        cell.decode(out);
    }
}

fn read<C: Cell>(cells: &mut [C], input: &mut dyn Read) -> io::Result<()> {
    let mut bytes = vec![0; cells.len() * C::BYTES];
    input.read_exact(&mut bytes)?;
    for (cell, bytes) in cells.iter_mut().zip(bytes.chunks_exact(C::BYTES)) {
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "a value is no number");
        *cell = C::read(bytes).ok_or_else(bad)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_DIM: usize = 64;

    fn rows(kv_type: KvType) -> (KvRows, Vec<Vec<f32>>) {
        let mut rows = KvRows::new(kv_type);
        rows.grow(5, HEAD_DIM);
        let values: Vec<Vec<f32>> = (0..5)
            .map(|slot| (0..HEAD_DIM).map(|i| ((slot * 97 + i * 13) as f32).sin() * (slot + 1) as f32).collect())
            .collect();
        for (slot, row) in values.iter().enumerate() {
            rows.store(slot, row, Kernels::get());
        }
        (rows, values)
    }

    #[test]
    fn each_type_keeps_rows_as_exactly_as_it_can() {
        for kv_type in KvType::ALL {
            let (rows, values) = rows(kv_type);
            assert_eq!(rows.slots(HEAD_DIM), 5);
            assert_eq!(Some(rows.bytes()), kv_type.row_bytes(HEAD_DIM).map(|bytes| 5 * bytes));
            let mut decoded = Vec::new();
            rows.decode(1..4, HEAD_DIM, &mut decoded);
            for (slot, (row, expected)) in decoded.chunks_exact(HEAD_DIM).zip(&values[1..4]).enumerate() {
                let largest = (slot + 2) as f32;
                let tolerance = match kv_type {
                    KvType::F32 => 0.0,
                    KvType::F16 => largest / 2048.0,
                    KvType::BF16 => largest / 256.0,
                    // Half a step, and the scale's own rounding.
                    KvType::Q8_0 => largest / 127.0 * 0.57,
                };
                for (x, expected) in row.iter().zip(expected) {
                    assert!((x - expected).abs() <= tolerance, "{kv_type:?}: {x} for {expected}");
                }
            }
        }
    }

    #[test]
    fn rows_are_copied_written_and_read_without_any_change() {
        for kv_type in KvType::ALL {
            let (rows, _) = rows(kv_type);
            let (mut expected, mut found, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
            rows.decode(2..4, HEAD_DIM, &mut expected);
            rows.write(2..4, HEAD_DIM, &mut bytes).expect("a vector");
            assert_eq!(Some(bytes.len()), kv_type.row_bytes(HEAD_DIM).map(|n| 2 * n));
            let mut other = KvRows::new(kv_type);
            other.grow(3, HEAD_DIM);
            let mut input = &bytes[..];
            for slot in 0..2 {
                other.read_row(slot, HEAD_DIM, &mut input).expect("two rows");
            }
            other.read_row(2, HEAD_DIM, &mut input).expect_err("no third row");
            other.decode(0..2, HEAD_DIM, &mut found);
            assert_eq!(found, expected);
            assert!(other.copy_row(0, &rows, 3, HEAD_DIM));
            other.decode(0..1, HEAD_DIM, &mut found);
            assert_eq!(found, expected[HEAD_DIM..]);
        }
        let (mut halves, _) = rows(KvType::F16);
        assert!(!halves.copy_row(0, &rows(KvType::BF16).0, 0, HEAD_DIM));
    }

    #[test]
    fn types_have_the_names_that_llama_cpp_has_and_know_what_they_cannot_hold() {
        for kv_type in KvType::ALL {
            assert_eq!(KvType::parse(&kv_type.name().to_uppercase()), Some(kv_type));
        }
        assert_eq!(KvType::parse("q9"), None);
        assert_eq!(KvType::Q8_0.row_bytes(48), None);
        assert_eq!(KvType::Q8_0.row_bytes(64), Some(68));
    }

    #[test]
    fn what_is_no_number_is_not_read() {
        let mut rows = KvRows::new(KvType::F16);
        rows.grow(1, 32);
        let bytes = [0xff; 64];
        rows.read_row(0, 32, &mut &bytes[..]).expect_err("not a number");
    }
}
