//! The KV cache of one layer for one sequence.

use std::io::{self, Read, Write};
use std::ops::Range;

use candle_core::Tensor;

use super::gpu_cache::GpuCache;
use super::kv_rows::{KvRows, KvType};
use super::{Compute, Cpu};
use crate::kernels::KEY_BLOCK;

/// Keys (after rotation) and values of one layer for one sequence.
pub enum LayerCache {
    /// For our kernels: each head by itself, in a ring of `capacity` slots.
    Cpu {
        /// One for each KV head.
        heads: Vec<HeadCache>,
        /// Position `p` stands in slot `p % capacity`; a multiple of [`KEY_BLOCK`].
        capacity: usize,
    },
    /// For a GPU's kernels.
    Gpu(GpuCache),
    /// For candle: F32 tensors `[n_kv_heads, n, head_dim]` of keys and values; nothing is ever dropped.
    Candle(Option<(Tensor, Tensor)>),
}

/// `[slots, head_dim]` keys and values, grown in steps of [`GROWTH`] slots.
pub struct HeadCache {
    pub(super) keys: KvRows,
    pub(super) values: KvRows,
}

/// Slots by which a cache grows.
const GROWTH: usize = 256;

impl LayerCache {
    /// An empty cache for at least `n_slots` positions.
    pub fn new(compute: &Compute, n_kv_heads: usize, n_slots: usize) -> LayerCache {
        match compute {
            Compute::Cpu(Cpu { kv_types: [key_type, value_type], .. }) => LayerCache::Cpu {
                heads: (0..n_kv_heads).map(|_| HeadCache::new(*key_type, *value_type)).collect(),
                capacity: n_slots.next_multiple_of(KEY_BLOCK),
            },
            Compute::Gpu(device) => LayerCache::Gpu(GpuCache::new(device, n_kv_heads, n_slots)),
            Compute::Candle(_) => LayerCache::Candle(None),
        }
    }

    /// Positions that fit before the oldest are overwritten.
    pub fn capacity(&self) -> usize {
        match self {
            LayerCache::Cpu { capacity, .. } => *capacity,
            LayerCache::Gpu(cache) => cache.capacity(),
            LayerCache::Candle(_) => usize::MAX,
        }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        match self {
            LayerCache::Cpu { heads, .. } => heads.iter().map(|head| head.keys.bytes() + head.values.bytes()).sum(),
            LayerCache::Gpu(cache) => cache.bytes(),
            LayerCache::Candle(None) => 0,
            LayerCache::Candle(Some((k, v))) => (k.elem_count() + v.elem_count()) * size_of::<f32>(),
        }
    }

    /// Copies the rows of these positions, which `from` holds, for rows of `head_dim` values. False where they are of
    /// another kind.
    pub fn copy_rows(&mut self, from: &LayerCache, positions: Range<usize>, head_dim: usize) -> bool {
        let (heads, capacity, others, other_capacity) = match (self, from) {
            (LayerCache::Cpu { heads, capacity }, LayerCache::Cpu { heads: others, capacity: other_capacity }) => {
                (heads, capacity, others, other_capacity)
            }
            (LayerCache::Gpu(cache), LayerCache::Gpu(other)) => return cache.copy_rows(other, positions, head_dim),
            _ => return false,
        };
        for (head, other) in heads.iter_mut().zip(others) {
            for pos in positions.clone() {
                let (slot, from) = (head.slot(pos, *capacity, head_dim), pos % other_capacity);
                let is_copied = head.keys.copy_row(slot, &other.keys, from, head_dim)
                    && head.values.copy_row(slot, &other.values, from, head_dim);
                if !is_copied {
                    return false;
                }
            }
        }
        true
    }

    /// Writes the rows of these positions: of each head all keys, then all values, each in its type, little-endian.
    ///
    /// # Errors
    /// The writer's; `Unsupported` for candle's kind.
    pub fn write_rows(&self, positions: Range<usize>, head_dim: usize, out: &mut dyn Write) -> io::Result<()> {
        let (heads, capacity) = match self {
            LayerCache::Cpu { heads, capacity } => (heads, capacity),
            LayerCache::Gpu(cache) => return cache.write_rows(positions, head_dim, out),
            LayerCache::Candle(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        for rows in heads.iter().flat_map(|head| [&head.keys, &head.values]) {
            for range in ring_ranges(positions.clone(), *capacity) {
                rows.write(range, head_dim, out)?;
            }
        }
        Ok(())
    }

    /// Reads what [`LayerCache::write_rows`] wrote.
    ///
    /// # Errors
    /// The reader's; `InvalidData` where a value is no number.
    pub fn read_rows(&mut self, positions: Range<usize>, head_dim: usize, input: &mut dyn Read) -> io::Result<()> {
        let (heads, capacity) = match self {
            LayerCache::Cpu { heads, capacity } => (heads, capacity),
            LayerCache::Gpu(cache) => return cache.read_rows(positions, head_dim, input),
            LayerCache::Candle(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        for head in heads {
            for of_keys in [true, false] {
                for pos in positions.clone() {
                    let slot = head.slot(pos, *capacity, head_dim);
                    let rows = if of_keys { &mut head.keys } else { &mut head.values };
                    rows.read_row(slot, head_dim, input)?;
                }
            }
        }
        Ok(())
    }
}

impl HeadCache {
    fn new(key_type: KvType, value_type: KvType) -> HeadCache {
        HeadCache { keys: KvRows::new(key_type), values: KvRows::new(value_type) }
    }

    /// The slot of position `pos`, for which there is room now.
    pub(super) fn slot(&mut self, pos: usize, capacity: usize, head_dim: usize) -> usize {
        let slot = pos % capacity;
        if slot >= self.keys.slots(head_dim) {
            let slots = (slot + 1).next_multiple_of(GROWTH).min(capacity);
            self.keys.grow(slots, head_dim);
            self.values.grow(slots, head_dim);
        }
        slot
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
