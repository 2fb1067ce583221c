//! A reply as it is made: where its text goes, Ctrl-C, and the progress of a long prompt.

use std::time::{Duration, Instant};

use super::error::CliError;
use super::signals;
use super::terminal::{Terminal, print};
use crate::engine::{Engine, EngineError, Event, Events, Request, StopReason, Timings, Token};

/// How long reading a prompt may take before it is shown that something happens.
const PATIENCE: Duration = Duration::from_millis(300);

/// What became of a request.
pub struct Reply {
    /// All of its text.
    pub text: String,
    /// Why it ended; of an interrupted one it means nothing.
    pub reason: StopReason,
    /// The seed that was used; 0 for an interrupted one.
    pub seed: u64,
    /// Counts and durations.
    pub timings: Timings,
    /// Ctrl-C ended it.
    pub is_interrupted: bool,
}

impl Reply {
    /// The same where the prompt was read by a request before.
    pub fn after(mut self, read: &Reply) -> Reply {
        self.timings.cached_tokens = read.timings.cached_tokens;
        self.timings.prefill += read.timings.prefill;
        self
    }
}

/// Where a reply goes.
pub trait Sink {
    /// A stretch of text that is not empty, or a token; the last stretch may come without a token.
    ///
    /// # Errors
    /// stdout that cannot be written.
    fn write(&mut self, text: &str, token: Option<&Token>) -> Result<(), CliError>;
}

/// stdout, as it is.
pub struct Plain;

impl Sink for Plain {
    fn write(&mut self, text: &str, _: Option<&Token>) -> Result<(), CliError> {
        if text.is_empty() { Ok(()) } else { print(text) }
    }
}

/// Hands the reply to the sink as it is made, until it ends or Ctrl-C.
///
/// # Errors
/// What the engine says; stdout that cannot be written.
pub fn answer(engine: &Engine, request: Request, sink: &mut dyn Sink, terminal: &Terminal) -> Result<Reply, CliError> {
    let events = engine.submit(request)?;
    let runtime = signals::small_runtime()?;
    runtime.block_on(async {
        let interrupt = std::pin::pin!(signals::interrupt());
        follow(&events, interrupt, sink, terminal).await
    })
}

/// A line on stderr that is erased before anything else is printed, and only then: stdout may be the same screen.
struct StatusLine<'a> {
    terminal: &'a Terminal,
    is_shown: bool,
}

impl StatusLine<'_> {
    fn show(&mut self, text: &str) {
        self.terminal.status(text);
        self.is_shown = true;
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            self.terminal.status("");
        }
    }
}

impl Drop for StatusLine<'_> {
    fn drop(&mut self) {
        self.erase();
    }
}

async fn follow(
    events: &Events,
    mut interrupt: std::pin::Pin<&mut impl Future<Output = ()>>,
    sink: &mut dyn Sink,
    terminal: &Terminal,
) -> Result<Reply, CliError> {
    let start = Instant::now();
    let mut first_token = None;
    let mut status = StatusLine { terminal, is_shown: false };
    let mut reply = Reply {
        text: String::new(),
        reason: StopReason::Shutdown,
        seed: 0,
        timings: Timings::default(),
        is_interrupted: false,
    };
    loop {
        let event = tokio::select! {
            biased;
            () = &mut interrupt => {
                reply.is_interrupted = true;
                // As far as can be told from here.
                let first_token = first_token.unwrap_or_else(Instant::now);
                reply.timings.prefill = first_token - start;
                reply.timings.decode = first_token.elapsed();
                return Ok(reply);
            }
            event = events.recv() => event,
        };
        match event {
            Ok(Event::Prefill { done, total, cached }) => {
                (reply.timings.prompt_tokens, reply.timings.cached_tokens) = (total, cached);
                if start.elapsed() >= PATIENCE && done < total {
                    let bar = terminal.bar(done as u64, total as u64);
                    status.show(&format!("reading  {bar}   {done} of {total} tokens"));
                }
            }
            Ok(Event::Prompt(_)) => {}
            Ok(Event::Token(token)) => {
                first_token.get_or_insert_with(Instant::now);
                reply.timings.decoded_tokens += 1;
                status.erase();
                reply.text.push_str(&token.text);
                sink.write(&token.text, Some(&token))?;
            }
            Ok(Event::Done(done)) => {
                status.erase();
                (reply.reason, reply.seed, reply.timings) = (done.reason, done.seed, done.timings);
                if !done.text.is_empty() {
                    reply.text.push_str(&done.text);
                    sink.write(&done.text, None)?;
                }
                return Ok(reply);
            }
            Ok(Event::Failed(error)) => return Err(error.into()),
            // The engine ended without a word.
            Err(_) => return Err(EngineError::Stopped.into()),
        }
    }
}

/// `prefill 812 tok 410/s (88 cached) · decode 96 tok 14.2/s · 8.7 s`
pub fn stats(timings: &Timings) -> String {
    let rate = |n: usize, time: Duration| match time.as_secs_f64() {
        0.0 => "-".to_owned(),
        _ if n == 0 => "-".to_owned(),
        seconds => {
            let rate = n as f64 / seconds;
            if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
        }
    };
    let n_read = timings.computed_tokens();
    let cached = match timings.cached_tokens {
        0 => String::new(),
        n => format!(" ({n} cached)"),
    };
    format!(
        "prefill {n_read} tok {}/s{cached} · decode {} tok {}/s · {:.1} s",
        rate(n_read, timings.prefill),
        timings.decoded_tokens,
        rate(timings.decode_steps(), timings.decode),
        (timings.prefill + timings.decode).as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_one_line() {
        let timings = Timings {
            prompt_tokens: 900,
            cached_tokens: 88,
            queued: Duration::ZERO,
            prefill: Duration::from_secs(2),
            decoded_tokens: 96,
            decode: Duration::from_millis(6_761),
            ..Timings::default()
        };
        assert_eq!(stats(&timings), "prefill 812 tok 406/s (88 cached) · decode 96 tok 14.1/s · 8.8 s");
        assert_eq!(stats(&Timings::default()), "prefill 0 tok -/s · decode 0 tok -/s · 0.0 s");
    }
}
