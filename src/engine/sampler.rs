//! From a row of logits to a token, as one request's settings say.
//!
//! The usual order of the stages is llama.cpp's: logit bias, penalties, top-k, typical, top-p, min-p, temperature; then one
//! draw from the request's own random stream ([`Rng`]). The same settings, seed and logits give the same token, with
//! every version of this program: a changed order or generator is a breaking change.

use super::chain::{Candidates, NoToken, Stage};
use super::rng::{Rng, random_seed};
use super::{EngineError, Sampling, Step};
use crate::tokenizer::TokenId;

/// Most biases in one request.
pub const MAX_LOGIT_BIASES: usize = 65_536;
/// Most steps in one request.
pub const MAX_STEPS: usize = 32;

impl Sampling {
    /// Refuses what has no meaning. `n_vocab` bounds the tokens of `logit_bias`.
    ///
    /// # Errors
    /// [`EngineError::BadSetting`], with the setting and its value by name.
    pub fn check(&self, n_vocab: usize) -> Result<(), EngineError> {
        let within = |name: &str, value: f32, low: f32, high: f32, range: &str| {
            // Written so that NaN fails.
            if value >= low && value <= high {
                Ok(())
            } else {
                Err(EngineError::BadSetting(format!("`{name}` is {value} and must be {range}")))
            }
        };
        let max = f32::MAX;
        within("temperature", self.temperature, 0.0, max, "0 or more")?;
        within("top_p", self.top_p, 0.0, 1.0, "from 0 to 1")?;
        within("min_p", self.min_p, 0.0, 1.0, "from 0 to 1")?;
        within("typical_p", self.typical_p, 0.0, 1.0, "from 0 to 1")?;
        let above_0 = f32::MIN_POSITIVE;
        within("repeat_penalty", self.repeat_penalty, above_0, max, "above 0")?;
        let finite = "a finite number";
        within("presence_penalty", self.presence_penalty, -max, max, finite)?;
        within("frequency_penalty", self.frequency_penalty, -max, max, finite)?;
        if self.repeat_last_n < -1 {
            return Err(EngineError::BadSetting(format!(
                "`repeat_last_n` is {} and must be -1 (the whole context), 0 (off) or a number of tokens",
                self.repeat_last_n
            )));
        }
        if self.steps.len() > MAX_STEPS {
            let n = self.steps.len();
            return Err(EngineError::BadSetting(format!("`samplers` has {n} entries and may have {MAX_STEPS}")));
        }
        if self.logit_bias.len() > MAX_LOGIT_BIASES {
            return Err(EngineError::BadSetting(format!(
                "`logit_bias` has {} entries and may have {MAX_LOGIT_BIASES}",
                self.logit_bias.len()
            )));
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= n_vocab {
                return Err(EngineError::BadSetting(format!(
                    "`logit_bias` names token {id} and the vocabulary has {n_vocab} tokens"
                )));
            }
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(EngineError::BadSetting(format!(
                    "`logit_bias` of token {id} is {bias} and must be a number or negative infinity"
                )));
            }
        }
        Ok(())
    }

    /// The stages that are on, in the order they run.
    pub fn chain(&self) -> Vec<Stage> {
        let penalties = self.repeat_last_n != 0;
        let presence_frequency =
            Stage::PresenceFrequency { presence: self.presence_penalty, frequency: self.frequency_penalty };
        let mut chain = Vec::new();
        let mut add = |is_on: bool, stage: Stage| chain.extend(is_on.then_some(stage));
        add(!self.logit_bias.is_empty(), Stage::LogitBias(self.logit_bias.clone()));
        for step in &self.steps {
            match step {
                Step::Penalties => {
                    add(penalties && self.repeat_penalty != 1.0, Stage::RepeatPenalty(self.repeat_penalty));
                    let is_on = self.presence_penalty != 0.0 || self.frequency_penalty != 0.0;
                    add(penalties && is_on, presence_frequency.clone());
                }
                Step::TopK => add(self.top_k > 0, Stage::TopK(self.top_k)),
                Step::Typical => add(self.typical_p < 1.0, Stage::Typical(self.typical_p)),
                Step::TopP => add(self.top_p < 1.0, Stage::TopP(self.top_p)),
                Step::MinP => add(self.min_p > 0.0, Stage::MinP(self.min_p)),
                Step::Temperature => {
                    add(self.temperature != 1.0 && self.temperature > 0.0, Stage::Temperature(self.temperature))
                }
            }
        }
        chain
    }

    /// Whether the best token is always the one.
    fn is_greedy(&self) -> bool {
        self.temperature == 0.0 && self.steps.contains(&Step::Temperature)
    }
}

/// The sampler of one request.
#[derive(Clone, Debug)]
pub struct Sampler {
    chain: Vec<Stage>,
    greedy: bool,
    /// `None` is the whole context.
    last_n: Option<usize>,
    seed: u64,
    rng: Rng,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for checked settings (see [`Sampling::check`]); draws a seed if they name none.
    pub fn new(sampling: &Sampling) -> Sampler {
        let seed = sampling.seed.unwrap_or_else(random_seed);
        Sampler {
            chain: sampling.chain(),
            greedy: sampling.is_greedy(),
            last_n: usize::try_from(sampling.repeat_last_n).ok(),
            seed,
            rng: Rng::new(seed),
            candidates: Candidates::keeping(sampling.min_keep),
        }
    }

    /// The seed of its random stream.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether it may change the rows it draws from.
    pub fn edits_rows(&self) -> bool {
        let edits = |stage: &Stage| {
            matches!(stage, Stage::LogitBias(_) | Stage::RepeatPenalty(_) | Stage::PresenceFrequency { .. })
        };
        self.chain.iter().any(edits)
    }

    /// Draws the next token. `row` holds the logits of the whole vocabulary and is changed by biases and penalties;
    /// `history` is prompt and reply so far. Temperature 0 takes the best token, the lowest id of equals, whatever the
    /// other filters say.
    ///
    /// # Errors
    /// A logit that is NaN or positive infinity; no token left.
    pub fn sample(&mut self, row: &mut [f32], history: &[TokenId]) -> Result<TokenId, NoToken> {
        let seen = match self.last_n {
            Some(n) => &history[history.len().saturating_sub(n)..],
            None => history,
        };
        if self.greedy {
            return self.candidates.best(&self.chain, row, seen);
        }
        self.candidates.run(&self.chain, row, seen)?;
        let target = self.rng.next_f64() * self.candidates.total();
        self.candidates.at(target).ok_or(NoToken::AllBanned)
    }

    /// Natural log of the probabilities of the last draw, which was `id` from `row` as [`Sampler::sample`] left it: of
    /// `id`, and of the best `n` tokens, best first. At temperature 0 all of it is on `id`.
    pub fn last_draw(&self, row: &[f32], id: TokenId, n: usize) -> (f32, Vec<(TokenId, f32)>) {
        if self.greedy {
            let mut best = Vec::new();
            super::chain::best_of_row(row, n, &mut best);
            let log_probability = |token| if token == id { 0.0 } else { f32::NEG_INFINITY };
            return (0.0, best.iter().map(|c| (c.id, log_probability(c.id))).collect());
        }
        let total = self.candidates.total();
        let mut all: Vec<(TokenId, f32)> =
            self.candidates.list().iter().map(|c| (c.id, (f64::from(c.weight) / total).ln() as f32)).collect();
        let own = all.iter().find(|(token, _)| *token == id).map_or(f32::NEG_INFINITY, |(_, p)| *p);
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(n);
        (own, all)
    }
}

/// Natural log of the probabilities of `row` under the model itself: of `id`, and of the best `n` tokens, best first.
pub fn log_probabilities(row: &[f32], id: TokenId, n: usize) -> (f32, Vec<(TokenId, f32)>) {
    let mut best = Vec::new();
    super::chain::best_of_row(row, n.max(1), &mut best);
    let max = best.first().map_or(f32::NEG_INFINITY, |c| c.logit);
    let log_total = f64::from(max) + super::row::exp_sum(row, max).ln();
    let log_probability = |logit: f32| (f64::from(logit) - log_total) as f32;
    best.truncate(n);
    let top = best.iter().map(|c| (c.id, log_probability(c.logit)));
    let own = row.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    (log_probability(own), top.collect())
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
