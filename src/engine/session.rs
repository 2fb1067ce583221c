//! One request on its way: from logits to tokens, text and the end.

use std::ops::Range;
use std::time::{Duration, Instant};

use async_channel::Sender;

use super::chain::NoToken;
use super::context::Context;
use super::lookup::Lookup;
use super::pooled::{Pooled, Pooling};
use super::sampler::{Sampler, log_probabilities};
use super::stop::StopMatcher;
use super::{Done, EngineError, Event, Limit, Pieces, Request, StopReason, Timings, Token};
use crate::grammar::Constraint;
use crate::tokenizer::{StreamDecoder, TokenId};

/// A request, queued or running. Whatever becomes of it, its receiver gets one `Done` or `Failed`.
pub(super) struct Session {
    /// Prompt and reply, as far as the context still holds them.
    tokens: Vec<TokenId>,
    n_prompt: usize,
    n_decoded: usize,
    n_cached: usize,
    limit: Limit,
    time_limit: Option<Duration>,
    /// The reply has more than one line.
    has_line: bool,
    context: Context,
    /// Where an embedding is wanted.
    pooled: Option<Pooled>,
    show_control: bool,
    n_probs: usize,
    probs_after_sampling: bool,
    prompt_probs: bool,
    pub(super) cache_prompt: bool,
    /// The slot that was asked for; when it runs, the one it runs in.
    pub(super) slot: Option<usize>,
    constraint: Option<Constraint>,
    sampler: Sampler,
    /// What the model gave, where its probabilities are wanted and the row is changed before the draw.
    raw: Vec<f32>,
    lookup: Lookup,
    /// The last token and what is guessed to follow it, while a step checks the guess.
    guess: Vec<TokenId>,
    n_drafted: usize,
    n_accepted: usize,
    n_drafts: usize,
    decoder: StreamDecoder,
    stop: StopMatcher,
    events: Sender<Event>,
    submitted: Instant,
    started: Option<Instant>,
    first_logits: Option<Instant>,
    /// The event that ends it. Sent when the session is dropped, which is after its slot is free: whoever has seen the
    /// end finds room for the next request.
    last: Option<Event>,
}

/// Whether a session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It needs another step.
    Goes,
    /// The same, after its context was shifted: of its tokens only the first so many are as before.
    Shifted(usize),
    /// It is done.
    Ended,
    /// It failed.
    Failed,
}

impl Session {
    /// A session for a checked request.
    pub(super) fn new(request: Request, context: Context, events: Sender<Event>) -> Session {
        Session {
            n_prompt: request.prompt.len(),
            tokens: request.prompt,
            n_decoded: 0,
            n_cached: 0,
            limit: request.limit,
            time_limit: request.time_limit,
            has_line: false,
            context,
            pooled: None,
            show_control: request.show_control,
            n_probs: request.n_probs,
            probs_after_sampling: request.probs_after_sampling,
            prompt_probs: request.prompt_probs,
            cache_prompt: request.cache_prompt,
            slot: request.slot,
            constraint: request.constraint,
            sampler: Sampler::new(&request.sampling),
            raw: Vec::new(),
            lookup: Lookup::new(0),
            guess: Vec::new(),
            n_drafted: 0,
            n_accepted: 0,
            n_drafts: 0,
            decoder: StreamDecoder::default(),
            stop: StopMatcher::new(&request.stop),
            events,
            submitted: Instant::now(),
            started: None,
            first_logits: None,
            last: None,
        }
    }

    /// The same for the embedding of its prompt.
    pub(super) fn with_embedding(mut self, pooling: Pooling, d_model: usize) -> Session {
        self.pooled = Some(Pooled::new(pooling, d_model));
        self
    }

    /// The same with guesses of up to `n_lookup` tokens.
    pub(super) fn with_lookup(mut self, n_lookup: usize) -> Session {
        self.lookup = Lookup::new(n_lookup);
        self
    }

    /// Guesses at most `room` tokens that follow, for the next step to check; returns how many. The step makes at least
    /// one token more, and none may be one too many.
    pub(super) fn guess(&mut self, room: usize, n_ctx: usize) -> usize {
        let by_limit = match self.limit {
            Limit::Tokens(n) => n.saturating_sub(self.n_decoded + 1),
            Limit::EndOfTurn => usize::MAX,
        };
        let by_context = n_ctx.saturating_sub(self.tokens.len() + 1);
        let room = if self.tells_prompt() { 0 } else { room };
        let draft = self.lookup.draft(&self.tokens, room.min(by_limit).min(by_context));
        self.guess.clear();
        if !draft.is_empty() {
            self.guess.extend(self.tokens.last());
            self.guess.extend(&draft);
        }
        draft.len()
    }

    /// What the next step needs of it to read these of its tokens, and the guess behind them.
    pub(super) fn part(&mut self, range: Range<usize>) -> (&[TokenId], Option<&mut [f64]>) {
        let sum = self.pooled.as_mut().map(|pooled| pooled.part(range.clone()));
        let tokens = if self.guess.is_empty() { &self.tokens[range] } else { &self.guess };
        (tokens, sum)
    }

    pub(super) fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    pub(super) fn n_prompt(&self) -> usize {
        self.n_prompt
    }

    pub(super) fn n_decoded(&self) -> usize {
        self.n_decoded
    }

    /// Tokens of the prompt that the cache had.
    pub(super) fn n_reused(&self) -> usize {
        self.n_cached
    }

    /// Tokens that it may still make, where it has a limit.
    pub(super) fn n_remaining(&self) -> Option<usize> {
        match self.limit {
            Limit::Tokens(n) => Some(n.saturating_sub(self.n_decoded)),
            Limit::EndOfTurn => None,
        }
    }

    /// Nobody listens any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// It has a slot, with this many tokens of its prompt in the cache.
    pub(super) fn start(&mut self, slot: usize, n_cached: usize) {
        self.slot = Some(slot);
        self.n_cached = n_cached;
        self.started = Some(Instant::now());
        self.report_prefill(n_cached);
    }

    /// This many tokens of the prompt have been read.
    pub(super) fn report_prefill(&self, done: usize) {
        self.send(Event::Prefill { done, total: self.n_prompt, cached: self.n_cached });
    }

    /// Whether its prompt may come from a cache.
    pub(super) fn reuses_cache(&self) -> bool {
        self.cache_prompt && !self.prompt_probs
    }

    /// Whether it is reading a prompt whose tokens are told with their probabilities.
    pub(super) fn tells_prompt(&self) -> bool {
        self.prompt_probs && self.n_decoded == 0
    }

    /// Rows of logits that it wants of a step that reads these of its tokens: those of the last ones.
    pub(super) fn n_logits(&self, range: &Range<usize>, n_ctx: usize) -> usize {
        if self.tells_prompt() {
            range.len()
        } else {
            usize::from(range.end == self.tokens.len() && self.wants_token(n_ctx))
        }
    }

    /// Whether it wants logits at the end of its prompt: not if it may make no token.
    fn wants_token(&self, n_ctx: usize) -> bool {
        self.end_by_length(n_ctx).is_none()
    }

    /// Tells the tokens of the prompt whose probabilities a step has brought, where they are wanted. `rows` are the logits
    /// behind these of its tokens. Returns the rows to draw from.
    ///
    /// # Errors
    /// Logits that are no numbers.
    pub(super) fn tell_prompt<'a>(
        &mut self,
        range: Range<usize>,
        rows: &'a mut [f32],
        n_row: usize,
        n_vocab: usize,
        n_ctx: usize,
    ) -> Result<&'a mut [f32], EngineError> {
        if !self.tells_prompt() {
            return Ok(rows);
        }
        let is_read = range.end == self.n_prompt;
        let n_told = range.len() - usize::from(is_read);
        let (told, rest) = rows.split_at_mut(n_told * n_row);
        let mut tokens = Vec::with_capacity(n_told + 1);
        if range.start == 0 {
            tokens.push(Token { id: self.tokens[0], text: String::new(), logprob: None, top: Vec::new() });
        }
        let followers = &self.tokens[range.start + 1..][..n_told];
        for (row, &id) in told.chunks_exact(n_row).zip(followers) {
            let (logprob, top) = log_probabilities(&row[..n_vocab], id, self.n_probs);
            if logprob.is_nan() {
                return Err(EngineError::Model("it gave logits that are not finite numbers".into()));
            }
            tokens.push(Token { id, text: String::new(), logprob: Some(logprob), top });
        }
        self.send(Event::Prompt(tokens));
        Ok(if is_read && self.wants_token(n_ctx) { rest } else { &mut [] })
    }

    /// The prompt has been read and no token is wanted.
    pub(super) fn end_without_token(&mut self, n_ctx: usize) -> Next {
        self.first_logits = Some(Instant::now());
        let reason = self.end_by_length(n_ctx);
        self.finish(reason.unwrap_or(StopReason::TokenLimit))
    }

    /// Draws tokens from rows of logits, which are changed: one from the first row, and from each further row, which is
    /// that of a guessed token, as long as the guess is what was drawn. `n_row` logits are in a row, of which the first
    /// `n_vocab` are those of tokens.
    pub(super) fn take_rows(
        &mut self,
        rows: &mut [f32],
        n_row: usize,
        n_vocab: usize,
        pieces: &dyn Pieces,
        n_ctx: usize,
    ) -> Next {
        let mut next = Next::Goes;
        let guess = std::mem::take(&mut self.guess);
        let mut n_accepted = 0;
        for (place, row) in rows.chunks_exact_mut(n_row).enumerate() {
            next = self.take_logits(&mut row[..n_vocab], pieces, n_ctx);
            if next != Next::Goes || self.tokens.last() != guess.get(place + 1) {
                break;
            }
            n_accepted += 1;
        }
        if let Some(n_draft) = guess.len().checked_sub(1) {
            self.lookup.learn(n_draft, n_accepted);
            self.n_drafted += n_draft;
            self.n_accepted += n_accepted;
            self.n_drafts += 1;
        }
        if matches!(next, Next::Shifted(_)) {
            self.lookup.forget();
        }
        next
    }

    /// Draws the next token from `row`, the logits of the vocabulary, which is changed.
    fn take_logits(&mut self, row: &mut [f32], pieces: &dyn Pieces, n_ctx: usize) -> Next {
        self.first_logits.get_or_insert_with(Instant::now);
        let wants_raw = self.n_probs > 0 && !self.probs_after_sampling;
        let is_changed = self.constraint.is_some() || self.sampler.edits_rows();
        self.raw.clear();
        self.raw.extend_from_slice(if wants_raw && is_changed { row } else { &[] });
        if let Some(constraint) = &mut self.constraint
            && let Err(error) = constraint.mask(row)
        {
            return self.fail(error.into());
        }
        let id = match self.sampler.sample(row, &self.tokens) {
            Ok(id) => id,
            Err(why) => return self.fail(no_token(why)),
        };
        self.tokens.push(id);
        self.n_decoded += 1;
        let ends = pieces.is_end(id);
        if ends && !self.show_control {
            if self.prompt_probs {
                let (logprob, top) = self.probabilities(row, id);
                self.send(Event::Token(Token { id, text: String::new(), logprob, top }));
            }
            return self.finish(StopReason::EndOfTurn);
        }
        let is_complete = match &mut self.constraint {
            Some(constraint) if !ends => match constraint.commit(id) {
                Ok(()) => constraint.is_complete(),
                Err(error) => return self.fail(error.into()),
            },
            _ => false,
        };
        let shown = self.show_control || !pieces.is_control(id);
        let text = if shown { self.decoder.push(pieces.piece(id)) } else { String::new() };
        self.has_line |= text.contains('\n');
        let matched = self.stop.push(&text);
        let (logprob, top) = self.probabilities(row, id);
        self.send(Event::Token(Token { id, text: matched.text, logprob, top }));
        if let Some(stop) = matched.stop {
            self.end(StopReason::StopString(stop), String::new())
        } else if ends || is_complete {
            self.finish(StopReason::EndOfTurn)
        } else if let Some(reason) = self.end_by_length(n_ctx) {
            self.finish(reason)
        } else {
            self.context.shift(&mut self.tokens, n_ctx).map_or(Next::Goes, Next::Shifted)
        }
    }

    /// What is told of the draw of `id` from `row`: its log-probability and the best tokens.
    fn probabilities(&self, row: &[f32], id: TokenId) -> (Option<f32>, Vec<(TokenId, f32)>) {
        if self.n_probs == 0 {
            return (None, Vec::new());
        }
        let (logprob, top) = match (self.probs_after_sampling, self.raw.as_slice()) {
            (true, _) => self.sampler.last_draw(row, id, self.n_probs),
            // The row is as the model gave it.
            (false, []) => log_probabilities(row, id, self.n_probs),
            (false, raw) => log_probabilities(raw, id, self.n_probs),
        };
        (Some(logprob), top)
    }

    /// Ends it with the text held back.
    pub(super) fn finish(&mut self, reason: StopReason) -> Next {
        let matched = self.stop.push(&self.decoder.finish());
        match matched.stop {
            Some(stop) => self.end(StopReason::StopString(stop), matched.text),
            None => {
                let text = matched.text + &self.stop.finish();
                self.end(reason, text)
            }
        }
    }

    /// Ends it with an error.
    pub(super) fn fail(&mut self, error: EngineError) -> Next {
        self.last = Some(Event::Failed(error));
        Next::Failed
    }

    /// Its counts and durations so far.
    pub(super) fn timings(&self) -> Timings {
        let now = Instant::now();
        let between = |from: Option<Instant>, to: Option<Instant>| match from {
            Some(from) => to.unwrap_or(now).duration_since(from),
            None => Duration::ZERO,
        };
        Timings {
            prompt_tokens: self.n_prompt,
            cached_tokens: self.n_cached,
            queued: between(Some(self.submitted), self.started),
            prefill: between(self.started, self.first_logits),
            decoded_tokens: self.n_decoded,
            decode: between(self.first_logits, None),
            drafted_tokens: self.n_drafted,
            accepted_tokens: self.n_accepted,
            drafts: self.n_drafts,
        }
    }

    fn end(&mut self, reason: StopReason, text: String) -> Next {
        let (seed, timings, n_dropped) = (self.sampler.seed(), self.timings(), self.context.n_dropped());
        let embedding = self.pooled.take().map(|pooled| pooled.finish(self.n_prompt)).unwrap_or_default();
        let slot = self.slot.filter(|_| self.started.is_some());
        let done = Done { reason, text, seed, slot, embedding, n_dropped, timings };
        self.last = Some(Event::Done(Box::new(done)));
        Next::Ended
    }

    fn end_by_length(&self, n_ctx: usize) -> Option<StopReason> {
        match self.limit {
            Limit::Tokens(n) if self.n_decoded >= n => Some(StopReason::TokenLimit),
            _ if self.is_late() => Some(StopReason::TokenLimit),
            Limit::EndOfTurn if self.context.is_endless(self.n_prompt, self.n_decoded) => Some(StopReason::ContextFull),
            _ if !self.context.has_room(self.tokens.len(), n_ctx) => Some(StopReason::ContextFull),
            _ => None,
        }
    }

    /// Whether the time is over, in which the first line may always be ended.
    fn is_late(&self) -> bool {
        let since = self.first_logits.filter(|_| self.has_line);
        self.time_limit.zip(since).is_some_and(|(limit, since)| since.elapsed() >= limit)
    }

    fn send(&self, event: Event) {
        // The channel is unbounded, so this fails only when the receiver is gone, which the next step notices.
        let _ = self.events.try_send(event);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let last = self.last.take();
        self.send(last.unwrap_or(Event::Failed(EngineError::Stopped)));
    }
}

fn no_token(why: NoToken) -> EngineError {
    match why {
        NoToken::NotFinite(id) => EngineError::Model(format!("it gave token {id} a logit that is not a finite number")),
        NoToken::AllImpossible => EngineError::Model("it gave every token a logit of negative infinity".into()),
        NoToken::AllBanned => EngineError::BadSetting("`logit_bias` leaves no token that could be chosen".into()),
    }
}
