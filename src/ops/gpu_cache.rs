//! The KV cache of one layer for one sequence, on a GPU.

use std::io::{self, Read, Write};
use std::ops::Range;

use candle_core::{Error, Result};

use super::Device;
use super::kv_rows::{KvRows, KvType};
use super::layer_cache::ring_ranges;
use crate::gpu::{Buffer, Cells, Gpu, GpuError, LayerSpan};
use crate::kernels::KEY_BLOCK;

/// Keys and values, each `[slots, n_kv_heads, head_dim]` in its type; position `p` stands in slot `p % capacity`.
pub struct GpuCache {
    gpu: Gpu,
    kv_types: [KvType; 2],
    n_kv_heads: usize,
    capacity: usize,
    /// Slots for which there is memory.
    slots: usize,
    /// None as long as there are no slots.
    keys_and_values: Option<[Buffer; 2]>,
}

/// Slots for which memory is taken first; then it is doubled.
const FIRST_SLOTS: usize = 256;

impl GpuCache {
    pub(super) fn new(device: &Device, n_kv_heads: usize, n_slots: usize) -> GpuCache {
        GpuCache {
            gpu: device.gpu.clone(),
            kv_types: device.kv_types,
            n_kv_heads,
            capacity: n_slots.next_multiple_of(KEY_BLOCK),
            slots: 0,
            keys_and_values: None,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys_and_values.iter().flatten().map(Buffer::len).sum()
    }

    /// Rows of a step, for which there is room now, that are positions from `pos` on.
    pub(super) fn span(&mut self, gpu: &Gpu, rows: Range<usize>, pos: usize, head_dim: usize) -> Result<LayerSpan<'_>> {
        self.grow(gpu, pos + rows.len(), head_dim).map_err(Error::wrap)?;
        let Some([keys, values]) = &self.keys_and_values else { candle_core::bail!("a cache of no slots") };
        let [key_type, value_type] = self.kv_types;
        let cells =
            |buffer, kv_type| Cells { buffer, code: code(kv_type), slot_bytes: self.slot_bytes(kv_type, head_dim) };
        let (keys, values) = (cells(keys, key_type), cells(values, value_type));
        Ok(LayerSpan { rows, pos, capacity: self.capacity, keys, values })
    }

    /// As [`super::LayerCache::copy_rows`]. False also where the device refuses.
    pub(super) fn copy_rows(&mut self, from: &GpuCache, positions: Range<usize>, head_dim: usize) -> bool {
        if self.kv_types != from.kv_types || self.n_kv_heads != from.n_kv_heads {
            return false;
        }
        let gpu = self.gpu.clone();
        self.grow(&gpu, positions.end, head_dim)
            .and_then(|()| {
                // Both rings may wrap, each at its own place.
                let mut pos = positions.start;
                for slots in ring_ranges(positions.clone(), from.capacity) {
                    let mut from_slot = slots.start;
                    for to in ring_ranges(pos..pos + slots.len(), self.capacity) {
                        self.copy_slots(from, from_slot, to.clone(), head_dim)?;
                        from_slot += to.len();
                    }
                    pos += slots.len();
                }
                Ok(())
            })
            .is_ok()
    }

    /// As [`super::LayerCache::write_rows`].
    pub(super) fn write_rows(&self, positions: Range<usize>, head_dim: usize, out: &mut dyn Write) -> io::Result<()> {
        // On the device a slot has all heads, in the file a head has all positions.
        let both = self.read_slots(&positions, head_dim).map_err(io::Error::other)?;
        for head in 0..self.n_kv_heads {
            for (rows, kv_type) in both.iter().zip(self.kv_types) {
                let len = kv_type.row_bytes(head_dim).unwrap_or_default();
                for slot in rows.chunks_exact(self.n_kv_heads * len) {
                    out.write_all(&slot[head * len..][..len])?;
                }
            }
        }
        Ok(())
    }

    /// As [`super::LayerCache::read_rows`].
    pub(super) fn read_rows(
        &mut self,
        positions: Range<usize>,
        head_dim: usize,
        input: &mut dyn Read,
    ) -> io::Result<()> {
        let n = positions.len();
        let lens = self.kv_types.map(|kv_type| self.n_kv_heads * kv_type.row_bytes(head_dim).unwrap_or_default());
        let mut both = lens.map(|len| vec![0; n * len]);
        for head in 0..self.n_kv_heads {
            for ((rows, kv_type), len) in both.iter_mut().zip(self.kv_types).zip(lens) {
                // Through the host's rows, which take nothing that is no number.
                let mut row = KvRows::new(kv_type);
                row.grow(1, head_dim);
                let head_bytes = len / self.n_kv_heads;
                for slot in rows.chunks_exact_mut(len) {
                    row.read_row(0, head_dim, input)?;
                    row.write(0..1, head_dim, &mut &mut slot[head * head_bytes..][..head_bytes])?;
                }
            }
        }
        self.write_slots(&positions, head_dim, &both).map_err(io::Error::other)
    }

    fn grow(&mut self, gpu: &Gpu, end: usize, head_dim: usize) -> std::result::Result<(), GpuError> {
        let needed = end.min(self.capacity);
        if needed <= self.slots {
            return Ok(());
        }
        let slots = needed.max(self.slots * 2).next_multiple_of(FIRST_SLOTS).min(self.capacity);
        let buffer = |kv_type: KvType| gpu.buffer(slots * self.slot_bytes(kv_type, head_dim));
        let new = [buffer(self.kv_types[0])?, buffer(self.kv_types[1])?];
        for (new, old) in new.iter().zip(self.keys_and_values.iter().flatten()) {
            new.copy_from(0, old, 0..old.len())?;
        }
        self.keys_and_values = Some(new);
        self.slots = slots;
        Ok(())
    }

    fn slot_bytes(&self, kv_type: KvType, head_dim: usize) -> usize {
        self.n_kv_heads * kv_type.row_bytes(head_dim).unwrap_or_default()
    }

    fn copy_slots(
        &self,
        from: &GpuCache,
        from_slot: usize,
        to: Range<usize>,
        head_dim: usize,
    ) -> std::result::Result<(), GpuError> {
        let buffers = self.keys_and_values.iter().flatten().zip(from.keys_and_values.iter().flatten());
        for ((buffer, other), kv_type) in buffers.zip(self.kv_types) {
            let len = self.slot_bytes(kv_type, head_dim);
            buffer.copy_from(to.start * len, other, from_slot * len..(from_slot + to.len()) * len)?;
        }
        Ok(())
    }

    /// All keys of these positions, and all values.
    fn read_slots(&self, positions: &Range<usize>, head_dim: usize) -> std::result::Result<[Vec<u8>; 2], GpuError> {
        let mut both = [Vec::new(), Vec::new()];
        let buffers = self.keys_and_values.iter().flatten();
        for ((buffer, rows), kv_type) in buffers.zip(&mut both).zip(self.kv_types) {
            let len = self.slot_bytes(kv_type, head_dim);
            for slots in ring_ranges(positions.clone(), self.capacity) {
                let start = rows.len();
                rows.resize(start + slots.len() * len, 0);
                buffer.read(slots.start * len, &mut rows[start..])?;
            }
        }
        Ok(both)
    }

    fn write_slots(
        &mut self,
        positions: &Range<usize>,
        head_dim: usize,
        both: &[Vec<u8>; 2],
    ) -> std::result::Result<(), GpuError> {
        let gpu = self.gpu.clone();
        self.grow(&gpu, positions.end, head_dim)?;
        for ((buffer, rows), kv_type) in self.keys_and_values.iter().flatten().zip(both).zip(self.kv_types) {
            let len = self.slot_bytes(kv_type, head_dim);
            let mut rows = &rows[..];
            for slots in ring_ranges(positions.clone(), self.capacity) {
                let (part, rest) = rows.split_at(slots.len() * len);
                buffer.write(slots.start * len, part)?;
                rows = rest;
            }
        }
        Ok(())
    }
}

/// The kernels' number of a type (`KvType` in attention.cu).
fn code(kv_type: KvType) -> u32 {
    match kv_type {
        KvType::F32 => 0,
        KvType::F16 => 1,
        KvType::BF16 => 2,
        KvType::Q8_0 => 3,
    }
}
