//! What the model remembers of one sequence.

use std::io::{self, Read, Write};

use super::{Cache, Config};
use crate::ops::{LayerCache, Placement};

/// Keys and values of all layers for one sequence.
///
/// Global layers keep every position up to `n_ctx`. Local layers keep a ring: their window and the longest chunk beside
/// it, which is what the first query of a chunk needs. With the usual 4096-token window that is 56% of the whole at
/// 8192 tokens. The price: going back by more than a chunk behind a full window means reading the prompt again, and
/// [`Cache::truncate`] says so.
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    len: usize,
    n_ctx: usize,
    window: usize,
    head_dim: usize,
    /// For each layer: it sees its window only.
    is_local: Vec<bool>,
    /// Slots of a local layer.
    local_capacity: usize,
    /// First position that local layers still hold.
    local_start: usize,
}

impl KvCache {
    /// An empty cache; memory is taken as it fills.
    pub(super) fn new(placement: &Placement, config: &Config, n_ctx: usize, max_chunk: usize) -> KvCache {
        let local = n_ctx.min(config.sliding_window.saturating_add(max_chunk));
        let slots = |local_layer: &bool| if *local_layer { local } else { n_ctx };
        let layer = |(i, is_local)| LayerCache::new(placement.of(i), config.n_kv_heads, slots(is_local));
        let layers: Vec<LayerCache> = config.local_layers.iter().enumerate().map(layer).collect();
        let capacities =
            layers.iter().zip(&config.local_layers).filter(|(_, local)| **local).map(|(l, _)| l.capacity());
        let local_capacity = capacities.min().unwrap_or(usize::MAX);
        KvCache {
            layers,
            len: 0,
            n_ctx,
            window: config.sliding_window,
            head_dim: config.head_dim,
            is_local: config.local_layers.clone(),
            local_capacity,
            local_start: 0,
        }
    }

    /// Most tokens it holds.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Bytes of memory held now.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerCache::bytes).sum()
    }

    /// Notes that all layers have been given `n` more positions.
    pub(super) fn advance(&mut self, n: usize) {
        self.len += n;
        self.local_start = self.local_start.max(self.len.saturating_sub(self.local_capacity));
    }

    /// Whether position `n` finds its window in local layers that begin at `local_start`.
    fn has_window(&self, n: usize, local_start: usize) -> bool {
        local_start <= (n + 1).saturating_sub(self.window)
    }

    /// From now on it holds `n` tokens whose local layers begin at `local_start`, or where their ring does.
    fn settle(&mut self, n: usize, local_start: usize) {
        self.len = n;
        self.local_start = local_start.max(n.saturating_sub(self.local_capacity));
    }
}

impl Cache for KvCache {
    fn len(&self) -> usize {
        self.len
    }

    fn truncate(&mut self, n: usize) -> usize {
        if n < self.len {
            self.len = if self.has_window(n, self.local_start) { n } else { 0 };
        }
        if self.len == 0 {
            self.local_start = 0;
        }
        self.len
    }

    fn copy_prefix(&mut self, from: &KvCache, n: usize) -> bool {
        if n > from.len || n > self.n_ctx || !self.has_window(n, from.local_start) {
            return false;
        }
        for ((layer, other), is_local) in self.layers.iter_mut().zip(&from.layers).zip(&self.is_local) {
            let start = if *is_local { from.local_start } else { 0 };
            if !layer.copy_rows(other, start..n, self.head_dim) {
                return false;
            }
        }
        self.settle(n, from.local_start);
        true
    }

    /// Where the local layers begin, then the rows of each layer.
    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(self.local_start as u32).to_le_bytes())?;
        for (layer, is_local) in self.layers.iter().zip(&self.is_local) {
            let start = if *is_local { self.local_start } else { 0 };
            layer.write_rows(start..self.len, self.head_dim, out)?;
        }
        Ok(())
    }

    fn restore(&mut self, n: usize, input: &mut dyn Read) -> io::Result<()> {
        let mut local_start = [0; 4];
        input.read_exact(&mut local_start)?;
        let local_start = u32::from_le_bytes(local_start) as usize;
        if n > self.n_ctx || local_start > n || !self.has_window(n, local_start) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a layer does not hold its window"));
        }
        for (layer, is_local) in self.layers.iter_mut().zip(&self.is_local) {
            let start = if *is_local { local_start } else { 0 };
            layer.read_rows(start..n, self.head_dim, input)?;
        }
        self.settle(n, local_start);
        Ok(())
    }
}
