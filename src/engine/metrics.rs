//! What the engine has done since it started.

use std::time::Duration;

/// Counters since the start, and what is going on now. A plain snapshot; see [`super::Engine::metrics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Requests taken.
    pub requests: u64,
    /// Requests refused because the queue was full.
    pub rejected: u64,
    /// Requests whose receiver was dropped.
    pub cancelled: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Prompt tokens computed, without those from a cache.
    pub prompt_tokens: u64,
    /// Prompt tokens that came from a cache.
    pub cached_tokens: u64,
    /// Tokens made.
    pub decoded_tokens: u64,
    /// Sum of the requests' times for their prompts. Requests side by side each count.
    pub prefill: Duration,
    /// Sum of the requests' times for their replies.
    pub decode: Duration,
    /// Forward passes.
    pub steps: u64,
    /// Sum over the forward passes of the slots that took part.
    pub slot_steps: u64,
    /// Requests waiting now.
    pub queued: usize,
    /// Requests running now.
    pub running: usize,
}
