//! `-p` and `-f`: one prompt, one answer on stdout, and nothing else there.

use std::sync::Arc;

use super::error::CliError;
use super::json::{JsonLines, print_end};
use super::load::Opened;
use super::loading::Loading;
use super::prompt;
use super::prompt_cache;
use super::reply::{Plain, Reply, Sink, answer, stats};
use super::settings::{Generation, OneShot, Output, Settings, Shape};
use super::terminal::{Terminal, print};
use crate::engine::{Request, StopReason};
use crate::error::{Hint, without_controls};
use crate::grammar::{Constraint, Grammars};
use crate::tokenizer::{TokenId, Tokenizer};

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
    if terminal.is_very_verbose {
        let exact: String = prompt.tokens.iter().map(|id| String::from_utf8_lossy(tokenizer.piece(*id))).collect();
        terminal.tell(format!("prompt   {n_prompt} tokens:\n{}", without_controls(&exact)));
    }
    let constraint = constraint(generation, &tokenizer)?;
    let n_parallel = opened.check_memory(&settings.compute, terminal)?;
    let model = opened.id();
    let engine = opened.start(tokenizer, n_parallel, &settings.compute, Loading::new(terminal))?;
    let echo = one_shot.echo.then_some(prompt.echo.as_str());
    let (mut plain, mut json) = (Plain, JsonLines { is_streaming: one_shot.output == Output::StreamJson });
    let is_json = one_shot.output != Output::Text;
    let sink: &mut dyn Sink = if is_json { &mut json } else { &mut plain };
    if let Some(echo) = echo.filter(|_| !is_json) {
        print(echo)?;
    }
    let mut request = request(prompt.tokens, generation);
    request.constraint = constraint;
    let reply = match &one_shot.prompt_cache {
        Some(file) => match prompt_cache::read_prompt(&engine, &request, file, terminal) {
            Ok(read) if !read.is_interrupted => {
                answer(&engine, request, sink, terminal).map(|reply| reply.after(&read))
            }
            other => other,
        },
        None => answer(&engine, request, sink, terminal),
    };
    if is_json {
        if let Ok(reply) = &reply {
            print_end(reply, &model, echo, json.is_streaming)?;
        }
    } else if terminal.stdout_is_terminal {
        print("\n")?;
    }
    let reply = reply?;
    terminal.detail(format!("stopped  {:?}, seed {}", reply.reason, reply.seed));
    if settings.show_stats || terminal.is_very_verbose {
        terminal.note(stats(&reply.timings));
    }
    if let Some(warning) = cut_warning(&reply, generation) {
        terminal.note(format!("warning: {warning}"));
    }
    match reply.is_interrupted {
        true => Err(CliError::Interrupted),
        false => Ok(()),
    }
}

/// What is to be said of a reply that had a form to keep and was cut before its end.
pub fn cut_warning(reply: &Reply, generation: &Generation) -> Option<String> {
    let flag = generation.shape.as_ref().filter(|_| !reply.is_interrupted)?.flag;
    let (by, hint) = match reply.reason {
        StopReason::TokenLimit => ("`-n`", "a larger `-n`"),
        StopReason::ContextFull => ("the context", "`-c 0`"),
        _ => return None,
    };
    Some(format!(
        "{by} has cut the answer before it was what `{flag}` asks for; {hint} or bounds in the form itself help"
    ))
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
