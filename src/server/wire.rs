//! Wire types that several APIs share: timings and progress, how a reply ended, tokens and their probabilities.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::engine::{StopReason, Timings, Token};
use crate::tokenizer::{TokenId, Tokenizer};

/// llama.cpp's `timings`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WireTimings {
    cache_n: usize,
    prompt_n: usize,
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    predicted_n: usize,
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
    /// Tokens guessed ahead, where there are any.
    #[serde(skip_serializing_if = "is_zero")]
    draft_n: usize,
    #[serde(skip_serializing_if = "is_zero")]
    draft_n_accepted: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl From<&Timings> for WireTimings {
    fn from(timings: &Timings) -> WireTimings {
        let prompt_n = timings.computed_tokens();
        let steps = timings.decode_steps() as f64;
        let prompt_ms = timings.prefill.as_secs_f64() * 1e3;
        let predicted_ms = timings.decode.as_secs_f64() * 1e3;
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        WireTimings {
            cache_n: timings.cached_tokens,
            prompt_n,
            prompt_ms,
            prompt_per_token_ms: ratio(prompt_ms, prompt_n as f64),
            prompt_per_second: ratio(prompt_n as f64 * 1e3, prompt_ms),
            predicted_n: timings.decoded_tokens,
            predicted_ms,
            predicted_per_token_ms: ratio(predicted_ms, steps),
            predicted_per_second: ratio(steps * 1e3, predicted_ms),
            draft_n: timings.drafted_tokens,
            draft_n_accepted: timings.accepted_tokens,
        }
    }
}

/// llama.cpp's `prompt_progress`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PromptProgress {
    total: usize,
    cache: usize,
    processed: usize,
    time_ms: u64,
}

/// A step of the prompt.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// How far reading is.
    pub prompt: PromptProgress,
    /// How long it took until then.
    pub timings: WireTimings,
}

/// Watches a running reply, for what is told before its end.
#[derive(Clone, Debug)]
pub struct Watch {
    started: Instant,
    first_token: Option<Instant>,
    /// A step of the prompt has been told.
    is_read: bool,
    timings: Timings,
}

impl Watch {
    /// A reply that has just been submitted.
    pub fn new() -> Watch {
        Watch { started: Instant::now(), first_token: None, is_read: false, timings: Timings::default() }
    }

    /// A step of the prompt. Before the first one it is told where reading began: after what the cache had.
    pub fn prefill(&mut self, done: usize, total: usize, cached: usize) -> Vec<Progress> {
        self.timings.prompt_tokens = total;
        self.timings.cached_tokens = cached;
        let is_first = !std::mem::replace(&mut self.is_read, true);
        if is_first {
            // Until now it waited for a slot.
            self.started = Instant::now();
        }
        self.timings.prefill = if done > cached { self.started.elapsed() } else { Duration::ZERO };
        let at = |processed, prefill: Duration| {
            let time_ms = u64::try_from(prefill.as_millis()).unwrap_or(u64::MAX);
            let timings = Timings { prompt_tokens: processed, cached_tokens: cached, prefill, ..Timings::default() };
            Progress {
                prompt: PromptProgress { total, cache: cached, processed, time_ms },
                timings: WireTimings::from(&timings),
            }
        };
        let start = (is_first && done > cached).then(|| at(cached, Duration::ZERO));
        start.into_iter().chain([at(done, self.timings.prefill)]).collect()
    }

    /// A token.
    pub fn token(&mut self) -> WireTimings {
        let first = *self.first_token.get_or_insert_with(Instant::now);
        if self.timings.decoded_tokens == 0 {
            self.timings.prefill = first - self.started;
        }
        self.timings.decoded_tokens += 1;
        self.timings.decode = first.elapsed();
        WireTimings::from(&self.timings)
    }

    /// Tokens so far.
    pub fn n_decoded(&self) -> usize {
        self.timings.decoded_tokens
    }

    /// Tokens of the prompt, as far as known.
    pub fn n_prompt(&self) -> usize {
        self.timings.prompt_tokens
    }
}

/// Why a reply ended, in our own words.
pub fn stop_reason(reason: &StopReason) -> &'static str {
    match reason {
        StopReason::EndOfTurn => "end_of_turn",
        StopReason::StopString(_) => "stop_string",
        StopReason::TokenLimit => "token_limit",
        StopReason::ContextFull => "context_full",
        StopReason::Shutdown => "shutdown",
    }
}

/// The stop string that was found, or nothing.
pub fn stopping_word(reason: &StopReason) -> &str {
    match reason {
        StopReason::StopString(word) => word,
        _ => "",
    }
}

/// A token with its probability, as OpenAI's chat API and llama.cpp tell it: its logarithm, or with llama.cpp's
/// `post_sampling_probs` itself.
#[derive(Clone, Debug, Serialize)]
pub struct WireProbability {
    id: TokenId,
    token: String,
    bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprob: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prob: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<WireProbability>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_probs: Option<Vec<WireProbability>>,
}

impl WireProbability {
    /// `token` and its best `n_top` alternatives.
    pub fn new(token: &Token, n_top: usize, tokenizer: &Tokenizer) -> WireProbability {
        let mut wire = Self::single(token.id, token.logprob.unwrap_or(0.0), tokenizer);
        let top = token.top.iter().take(n_top);
        wire.top_logprobs = Some(top.map(|(id, p)| Self::single(*id, *p, tokenizer)).collect());
        wire
    }

    fn single(id: TokenId, logprob: f32, tokenizer: &Tokenizer) -> WireProbability {
        let bytes = tokenizer.piece(id).to_vec();
        WireProbability {
            id,
            token: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
            logprob: Some(finite(logprob)),
            prob: None,
            top_logprobs: None,
            top_probs: None,
        }
    }

    /// The same without logarithms.
    pub fn of_the_draw(mut self) -> WireProbability {
        self.prob = self.logprob.take().map(|p| if p > -9999.0 { p.exp() } else { 0.0 });
        let top = self.top_logprobs.take();
        self.top_probs = top.map(|top| top.into_iter().map(WireProbability::of_the_draw).collect());
        self
    }
}

/// JSON has no infinity; OpenAI writes -9999.
pub fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

/// A token and what it stands for: text, or bytes where they are no text by themselves.
#[derive(Clone, Debug, Serialize)]
pub struct WirePiece {
    id: TokenId,
    piece: Piece,
    control: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

impl WirePiece {
    /// The piece of `id`.
    pub fn new(id: TokenId, tokenizer: &Tokenizer) -> WirePiece {
        let bytes = tokenizer.piece(id).to_vec();
        WirePiece {
            id,
            piece: String::from_utf8(bytes).map_or_else(|error| Piece::Bytes(error.into_bytes()), Piece::Text),
            control: tokenizer.is_control(id),
        }
    }
}

/// Base64 with its usual alphabet and padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { letter.into() } else { '=' });
        }
    }
    text
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    since_1970().as_secs()
}

/// The time since 1970, without leap seconds.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A point in time as RFC 3339 writes it: `2024-02-29T12:00:00.000000000Z`.
pub fn rfc3339(since_1970: Duration) -> String {
    const DAY: u64 = 24 * 60 * 60;
    // In 400 years, 100, 4 and 1; years begin in March, so that a leap day is the last of its year.
    const DAYS: [u64; 4] = [146_097, 36_524, 1_461, 365];
    let days = since_1970.as_secs() / DAY + 719_468;
    let in_era = days % DAYS[0];
    let year_of_era = (in_era - in_era / (DAYS[2] - 1) + in_era / DAYS[1] - in_era / (DAYS[0] - 1)) / DAYS[3];
    let in_year = in_era - (year_of_era * DAYS[3] + year_of_era / 4 - year_of_era / 100);
    // Five months from March or August have 153 days.
    let since_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * since_march + 2) / 5 + 1;
    let month = (since_march + 2) % 12 + 1;
    let year = days / DAYS[0] * 400 + year_of_era + u64::from(month <= 2);
    let second = since_1970.as_secs() % DAY;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let nanosecond = since_1970.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanosecond:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (1_735_689_600, "2025-01-01T00:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), format!("{date}.000000000Z"));
        }
        assert_eq!(rfc3339(Duration::new(1, 5)), "1970-01-01T00:00:01.000000005Z");
    }

    #[test]
    fn base64_has_the_test_vectors_of_its_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }
}
