//! What the model remembers of one sequence.

use super::{Cache, Config};
use crate::ops::{Compute, LayerCache};

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
    /// Slots of a local layer.
    local_capacity: usize,
    /// First position that local layers still hold.
    local_start: usize,
}

impl KvCache {
    /// An empty cache; memory is taken as it fills.
    pub(super) fn new(compute: &Compute, config: &Config, n_ctx: usize, max_chunk: usize) -> KvCache {
        let local = n_ctx.min(config.sliding_window.saturating_add(max_chunk));
        let slots = |local_layer: &bool| if *local_layer { local } else { n_ctx };
        let layers: Vec<LayerCache> =
            config.local_layers.iter().map(|l| LayerCache::new(compute, config.n_kv_heads, slots(l))).collect();
        let capacities =
            layers.iter().zip(&config.local_layers).filter(|(_, local)| **local).map(|(l, _)| l.capacity());
        let local_capacity = capacities.min().unwrap_or(usize::MAX);
        KvCache { layers, len: 0, n_ctx, window: config.sliding_window, local_capacity, local_start: 0 }
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
}

impl Cache for KvCache {
    fn len(&self) -> usize {
        self.len
    }

    fn truncate(&mut self, n: usize) -> usize {
        if n < self.len {
            let needed = (n + 1).saturating_sub(self.window);
            self.len = if needed < self.local_start { 0 } else { n };
        }
        if self.len == 0 {
            self.local_start = 0;
        }
        self.len
    }
}
