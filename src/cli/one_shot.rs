//! `-p` and `-f`: one prompt, one answer on stdout, and nothing else there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::CliError;
use super::load::Opened;
use super::prompt;
use super::prompt_cache;
use super::settings::{Generation, OneShot, Settings, Shape};
use super::signals;
use super::terminal::{Terminal, print};
use crate::engine::{Engine, Event, Events, Request, StopReason, Timings};
use crate::error::Hint;
use crate::grammar::{Constraint, Grammars};
use crate::tokenizer::{TokenId, Tokenizer};

/// How long reading a prompt may take before it is shown that something happens.
const PATIENCE: Duration = Duration::from_millis(300);

/// Answers the prompt. Its text was read before the model was opened.
///
/// # Errors
/// A prompt that does not fit, before the weights are touched; what the engine says; Ctrl-C; a closed pipe.
pub fn run(
    settings: &Settings,
    one_shot: &OneShot,
    text: &str,
    opened: Opened,
    terminal: &Terminal,
) -> Result<(), CliError> {
    let generation = &settings.generation;
    let tokenizer = opened.tokenizer()?;
    let template = opened.template()?;
    let system_prompt = generation.system_prompt.as_deref();
    let show_control = generation.show_control;
    let prompt = prompt::encode(text, one_shot.is_raw, system_prompt, template.as_ref(), &tokenizer, show_control)?;
    let (n_prompt, n_ctx) = (prompt.tokens.len(), opened.n_ctx);
    if n_prompt >= n_ctx {
        let n_ctx_train = opened.source.config().n_ctx_train;
        return Err(CliError::PromptTooLong { n_prompt, n_ctx, n_ctx_train });
    }
    let constraint = constraint(generation, &tokenizer)?;
    let n_parallel = opened.check_memory(&settings.compute, terminal)?;
    let engine = opened.start(tokenizer, n_parallel, &settings.compute, terminal)?;
    if one_shot.echo {
        print(&prompt.echo)?;
    }
    let mut request = request(prompt.tokens, generation);
    request.constraint = constraint;
    let reply = match &one_shot.prompt_cache {
        Some(file) => match prompt_cache::read_prompt(&engine, &request, file, terminal) {
            Ok(read) if !read.is_interrupted => answer(&engine, request, terminal).map(|reply| reply.after(&read)),
            other => other,
        },
        None => answer(&engine, request, terminal),
    };
    if terminal.stdout_is_terminal {
        print("\n")?;
    }
    let reply = reply?;
    terminal.detail(format!("stopped  {:?}, seed {}", reply.reason, reply.seed));
    if settings.show_stats {
        terminal.note(stats(&reply.timings));
    }
    match reply.is_interrupted {
        true => Err(CliError::Interrupted),
        false => Ok(()),
    }
}

/// A request with the settings of the command line.
pub fn request(tokens: Vec<TokenId>, generation: &Generation) -> Request {
    let mut request = Request::new(tokens);
    request.sampling = generation.sampling.clone();
    request.limit = generation.limit;
    request.overflow = generation.overflow;
    request.ignore_eos = generation.ignore_eos;
    request.stop = generation.stop.clone();
    request.show_control = generation.show_control;
    request
}

/// What replies have to look like.
///
/// # Errors
/// [`CliError::Usage`] for a grammar or a schema that cannot be used.
pub fn constraint(generation: &Generation, tokenizer: &Arc<Tokenizer>) -> Result<Option<Constraint>, CliError> {
    let Some(Shape { source, flag }) = &generation.shape else {
        return Ok(None);
    };
    let compiled = Grammars::new(tokenizer.clone()).compile(source);
    compiled.map(Some).map_err(|error| CliError::Usage {
        what: format!("`{flag}` cannot be used: {error}"),
        hint: error.hint().unwrap_or_else(|| "leave it out".into()),
    })
}

/// What became of a request.
pub struct Reply {
    /// The text that was printed.
    pub text: String,
    /// Why it ended.
    pub reason: StopReason,
    /// The seed that was used.
    pub seed: u64,
    /// Counts and durations; of an interrupted reply they are empty.
    pub timings: Timings,
    /// Ctrl-C ended it.
    pub is_interrupted: bool,
}

impl Reply {
    /// The same where the prompt was read by a request before.
    fn after(mut self, read: &Reply) -> Reply {
        self.timings.cached_tokens = read.timings.cached_tokens;
        self.timings.prefill += read.timings.prefill;
        self
    }
}

/// Prints the reply on stdout as it is made, until it ends or Ctrl-C.
///
/// # Errors
/// What the engine says; stdout that cannot be written.
pub fn answer(engine: &Engine, request: Request, terminal: &Terminal) -> Result<Reply, CliError> {
    let events = engine.submit(request)?;
    let runtime = signals::small_runtime()?;
    runtime.block_on(async {
        let interrupt = std::pin::pin!(signals::interrupt());
        print_events(&events, interrupt, terminal).await
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

async fn print_events(
    events: &Events,
    mut interrupt: std::pin::Pin<&mut impl Future<Output = ()>>,
    terminal: &Terminal,
) -> Result<Reply, CliError> {
    let start = Instant::now();
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
                return Ok(reply);
            }
            event = events.recv() => event,
        };
        let text = match event {
            Ok(Event::Prefill { done, total, .. }) => {
                if start.elapsed() >= PATIENCE && done < total {
                    status.show(&format!("reading the prompt: {done} of {total} tokens"));
                }
                continue;
            }
            Ok(Event::Token(token)) => token.text,
            Ok(Event::Done(done)) => {
                (reply.reason, reply.seed, reply.timings) = (done.reason, done.seed, done.timings);
                show(&done.text, &mut status, &mut reply.text)?;
                return Ok(reply);
            }
            Ok(Event::Failed(error)) => return Err(error.into()),
            // The engine ended without a word.
            Err(_) => return Err(crate::engine::EngineError::Stopped.into()),
        };
        show(&text, &mut status, &mut reply.text)?;
    }
}

fn show(text: &str, status: &mut StatusLine<'_>, all: &mut String) -> Result<(), CliError> {
    status.erase();
    if text.is_empty() {
        return Ok(());
    }
    all.push_str(text);
    print(text)
}

/// `prefill 812 tok 410/s (88 cached) · decode 96 tok 14.2/s · 8.7 s`
pub fn stats(timings: &Timings) -> String {
    let rate = |n: usize, time: Duration| match time.as_secs_f64() {
        0.0 => "-".to_owned(),
        seconds => {
            let rate = n as f64 / seconds;
            if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
        }
    };
    let n_read = timings.prompt_tokens.saturating_sub(timings.cached_tokens);
    let cached = match timings.cached_tokens {
        0 => String::new(),
        n => format!(" ({n} cached)"),
    };
    format!(
        "prefill {n_read} tok {}/s{cached} · decode {} tok {}/s · {:.1} s",
        rate(n_read, timings.prefill),
        timings.decoded_tokens,
        rate(timings.decoded_tokens, timings.decode),
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
        assert_eq!(stats(&timings), "prefill 812 tok 406/s (88 cached) · decode 96 tok 14.2/s · 8.8 s");
        assert_eq!(stats(&Timings::default()), "prefill 0 tok -/s · decode 0 tok -/s · 0.0 s");
    }
}
