//! What the engine has done since it started.

use std::time::Duration;

use super::Timings;

/// Counters since the start, and what is going on now. A plain snapshot; see [`super::Engine::metrics`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
    /// Tokens guessed ahead by requests that have ended.
    pub drafted_tokens: u64,
    /// Those of them that came true.
    pub accepted_tokens: u64,
    /// Steps that checked such guesses.
    pub drafts: u64,
    /// Most tokens of a prompt and its reply together, of requests that have ended.
    pub longest: u64,
    /// Forward passes.
    pub steps: u64,
    /// Sum over the forward passes of the slots that took part.
    pub slot_steps: u64,
    /// Times that a full context was shifted.
    pub context_shifts: u64,
    /// Requests that found a part of their prompt in a cache.
    pub cache_hits: u64,
    /// How long requests waited and how fast they were answered.
    pub waits: Waits,
    /// Requests waiting now.
    pub queued: usize,
    /// Requests running now.
    pub running: usize,
}

/// What the senders of requests feel, as histograms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waits {
    /// Seconds in the queue.
    pub queue: Histogram,
    /// Seconds from the request to its first token.
    pub first_token: Histogram,
    /// Tokens per second after the first, of replies that have two.
    pub tokens_per_second: Histogram,
}

impl Default for Waits {
    fn default() -> Waits {
        const SECONDS: [f64; N_BOUNDS] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        const PER_SECOND: [f64; N_BOUNDS] =
            [1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1000.0];
        Waits {
            queue: Histogram::new(SECONDS),
            first_token: Histogram::new(SECONDS),
            tokens_per_second: Histogram::new(PER_SECOND),
        }
    }
}

impl Waits {
    /// A request has left its slot.
    pub(super) fn record(&mut self, timings: &Timings) {
        self.queue.record(timings.queued.as_secs_f64());
        if timings.decoded_tokens > 0 {
            self.first_token.record((timings.queued + timings.prefill).as_secs_f64());
        }
        if timings.decode_steps() > 0 && !timings.decode.is_zero() {
            self.tokens_per_second.record(timings.decode_steps() as f64 / timings.decode.as_secs_f64());
        }
    }
}

const N_BOUNDS: usize = 13;

/// How many values lie between each two of a row of bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Histogram {
    bounds: [f64; N_BOUNDS],
    /// Values up to each bound that are above the one before; the last ones are above all.
    counts: [u64; N_BOUNDS + 1],
    sum: f64,
}

impl Histogram {
    /// An empty one. `bounds` rise.
    pub fn new(bounds: [f64; N_BOUNDS]) -> Histogram {
        Histogram { bounds, counts: [0; N_BOUNDS + 1], sum: 0.0 }
    }

    /// Counts a value.
    pub fn record(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }

    /// Each bound with the number of all values up to it, as Prometheus has it; the last bound is infinity.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.into_iter().chain([f64::INFINITY]);
        bounds.zip(self.counts).scan(0, |total, (bound, count)| {
            *total += count;
            Some((bound, *total))
        })
    }

    /// The sum of all values.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_up_to_and_with_their_bound() {
        let mut histogram = Histogram::new(std::array::from_fn(|i| (i + 1) as f64));
        for value in [0.0, 1.0, 1.5, 13.0, 14.0] {
            histogram.record(value);
        }
        let counts: Vec<u64> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!((counts[0], counts[1], counts[11], counts[12], counts[13]), (2, 3, 3, 4, 5));
        assert_eq!(histogram.sum(), 29.5);
        assert!(histogram.cumulative().last().is_some_and(|(bound, _)| bound == f64::INFINITY));
    }

    #[test]
    fn a_request_without_a_token_has_waited_only() {
        let mut waits = Waits::default();
        waits.record(&Timings {
            queued: Duration::from_secs(2),
            prefill: Duration::from_secs(1),
            ..Timings::default()
        });
        let total = |histogram: &Histogram| histogram.cumulative().last().map(|(_, count)| count);
        assert_eq!((waits.queue.sum(), total(&waits.first_token)), (2.0, Some(0)));
        let timings = Timings { decoded_tokens: 5, decode: Duration::from_secs(2), ..Timings::default() };
        waits.record(&timings);
        assert_eq!((total(&waits.first_token), waits.tokens_per_second.sum()), (Some(1), 2.0));
    }
}
