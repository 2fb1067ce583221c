//! The KV cache of one layer for one sequence.

use std::io::{self, Read, Write};
use std::ops::Range;

use candle_core::Tensor;
use half::f16;

use super::Compute;
use crate::kernels::KEY_BLOCK;

/// Keys (after rotation) and values of one layer for one sequence.
pub enum LayerCache {
    /// For our kernels: F16, each head by itself, in a ring of `capacity` slots.
    Cpu {
        /// One for each KV head.
        heads: Vec<HeadCache>,
        /// Position `p` stands in slot `p % capacity`; a multiple of [`KEY_BLOCK`].
        capacity: usize,
    },
    /// For candle: F32 tensors `[n_kv_heads, n, head_dim]` of keys and values; nothing is ever dropped.
    Candle(Option<(Tensor, Tensor)>),
}

/// `[slots, head_dim]` keys and values, grown in steps of [`GROWTH`] slots.
#[derive(Default)]
pub struct HeadCache {
    keys: Vec<f16>,
    values: Vec<f16>,
}

/// Slots by which a cache grows.
const GROWTH: usize = 256;

impl LayerCache {
    /// An empty cache for at least `n_slots` positions.
    pub fn new(compute: &Compute, n_kv_heads: usize, n_slots: usize) -> LayerCache {
        match compute {
            Compute::Cpu(_) => LayerCache::Cpu {
                heads: (0..n_kv_heads).map(|_| HeadCache::default()).collect(),
                capacity: n_slots.next_multiple_of(KEY_BLOCK),
            },
            Compute::Candle(_) => LayerCache::Candle(None),
        }
    }

    /// Positions that fit before the oldest are overwritten.
    pub fn capacity(&self) -> usize {
        match self {
            LayerCache::Cpu { capacity, .. } => *capacity,
            LayerCache::Candle(_) => usize::MAX,
        }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        match self {
            LayerCache::Cpu { heads, .. } => {
                heads.iter().map(|h| (h.keys.capacity() + h.values.capacity()) * size_of::<f16>()).sum()
            }
            LayerCache::Candle(None) => 0,
            LayerCache::Candle(Some((k, v))) => (k.elem_count() + v.elem_count()) * size_of::<f32>(),
        }
    }

    /// Copies the rows of these positions, which `from` holds, for rows of `head_dim` values. False where they are of
    /// another kind.
    pub fn copy_rows(&mut self, from: &LayerCache, positions: Range<usize>, head_dim: usize) -> bool {
        let (LayerCache::Cpu { heads, capacity }, LayerCache::Cpu { heads: others, capacity: other_capacity }) =
            (self, from)
        else {
            return false;
        };
        for (head, other) in heads.iter_mut().zip(others) {
            for pos in positions.clone() {
                let at = pos % other_capacity * head_dim;
                let (key, value) = head.slot(pos, *capacity, head_dim);
                key.copy_from_slice(&other.keys[at..at + head_dim]);
                value.copy_from_slice(&other.values[at..at + head_dim]);
            }
        }
        true
    }

    /// Writes the rows of these positions: of each head all keys, then all values, F16, little-endian.
    ///
    /// # Errors
    /// The writer's; `Unsupported` for candle's kind.
    pub fn write_rows(&self, positions: Range<usize>, head_dim: usize, out: &mut dyn Write) -> io::Result<()> {
        let LayerCache::Cpu { heads, capacity } = self else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let mut bytes = Vec::new();
        for rows in heads.iter().flat_map(|head| [&head.keys, &head.values]) {
            for range in ring_ranges(positions.clone(), *capacity) {
                bytes.clear();
                let values = &rows[range.start * head_dim..range.end * head_dim];
                bytes.extend(values.iter().flat_map(|value| value.to_bits().to_le_bytes()));
                out.write_all(&bytes)?;
            }
        }
        Ok(())
    }

    /// Reads what [`LayerCache::write_rows`] wrote.
    ///
    /// # Errors
    /// The reader's; `InvalidData` where a value is no number.
    pub fn read_rows(&mut self, positions: Range<usize>, head_dim: usize, input: &mut dyn Read) -> io::Result<()> {
        let LayerCache::Cpu { heads, capacity } = self else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let mut bytes = vec![0; head_dim * size_of::<f16>()];
        for head in heads {
            for of_keys in [true, false] {
                for pos in positions.clone() {
                    input.read_exact(&mut bytes)?;
                    let (keys, values) = head.slot(pos, *capacity, head_dim);
                    let row = if of_keys { keys } else { values };
                    for (value, bytes) in row.iter_mut().zip(bytes.as_chunks().0) {
                        *value = f16::from_le_bytes(*bytes);
                        if !value.is_finite() {
                            return Err(io::Error::new(io::ErrorKind::InvalidData, "a value is no number"));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

impl HeadCache {
    /// Makes room for position `pos`, then gives the slot's key and value.
    pub(super) fn slot(&mut self, pos: usize, capacity: usize, head_dim: usize) -> (&mut [f16], &mut [f16]) {
        let slot = pos % capacity;
        if (slot + 1) * head_dim > self.keys.len() {
            let slots = (slot + 1).next_multiple_of(GROWTH).min(capacity);
            let len = slots * head_dim;
            for buffer in [&mut self.keys, &mut self.values] {
                buffer.reserve_exact(len - buffer.len());
                buffer.resize(len, f16::ZERO);
            }
        }
        let range = slot * head_dim..(slot + 1) * head_dim;
        (&mut self.keys[range.clone()], &mut self.values[range])
    }

    /// Keys and values of these slots.
    pub(super) fn rows(&self, slots: Range<usize>, head_dim: usize) -> (&[f16], &[f16]) {
        let range = slots.start * head_dim..slots.end * head_dim;
        (&self.keys[range.clone()], &self.values[range])
    }
}

/// The slots of a range of positions in a ring, in order of position: one range, or two where the ring wraps. It wraps at
/// a multiple of [`KEY_BLOCK`], so that a query's result has the same bits in every cache.
pub(super) fn ring_ranges(positions: Range<usize>, capacity: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = positions.start;
    std::iter::from_fn(move || {
        let slot = at % capacity;
        let len = (positions.end - at).min(capacity - slot);
        at += len;
        (len > 0).then_some(slot..slot + len)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_ring_cover_the_positions_in_order() {
        for capacity in [32, 64, 96] {
            for (start, len) in (0..200).flat_map(|start| [0, 1, 31, 32].map(|len| (start, len))) {
                let mut at = start;
                for range in ring_ranges(start..start + len, capacity) {
                    assert_eq!(at % capacity, range.start);
                    assert!(!range.is_empty() && range.end <= capacity);
                    at += range.len();
                }
                assert_eq!(at, start + len);
            }
        }
    }
}
