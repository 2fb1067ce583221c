//! `perplexity`: how well a model predicts a text.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::args::{PerplexityArgs, RunArgs};
use super::error::CliError;
use super::loading::Loading;
use super::prompt::read_text;
use super::settings::{DEFAULT_N_CTX, Settings};
use super::signals;
use super::terminal::{Terminal, print};
use super::tools::open_model;
use crate::bench::perplexity;
use crate::tokenizer::Special;

/// Tokens read at a time: each that is scored has a row of logits.
const MAX_STEP: usize = 128;

/// Reads the text and prints one line.
///
/// # Errors
/// A text shorter than a chunk, a model that cannot be opened.
pub fn run_perplexity(args: &PerplexityArgs, terminal: &Terminal) -> Result<(), CliError> {
    let text = read_text(&args.file)?;
    let run_args = RunArgs {
        threads: args.threads,
        isa: args.isa.clone(),
        cache_type_k: args.cache_type_k,
        cache_type_v: args.cache_type_v,
        n_gpu_layers: args.n_gpu_layers,
        gpu: args.gpu,
        ..RunArgs::default()
    };
    let settings = Settings::resolve(run_args, RunArgs::default())?;
    settings.warnings.iter().for_each(|warning| terminal.note(warning));
    let compute = settings.compute;
    let n_ctx = args.ctx_size.unwrap_or(DEFAULT_N_CTX);
    let opened = open_model(args.model.as_deref(), args.model_name.as_deref(), n_ctx, terminal)?;
    let n_ctx = opened.n_ctx;
    if n_ctx < 4 {
        return Err(CliError::usage(format!("`-c {n_ctx}` is too small a chunk; it must be at least 4")));
    }
    let tokenizer = opened.tokenizer()?;
    let tokens = tokenizer.with_bos(tokenizer.encode(&text, Special::Literal));
    if tokens.len() < n_ctx {
        return Err(CliError::Usage {
            what: format!("the text has {} tokens and a chunk has {n_ctx}", tokens.len()),
            hint: "take a longer text, or smaller chunks with `-c`".into(),
        });
    }
    let (id, quantization) = (opened.id(), opened.source.quantization().to_owned());
    let model = opened.model(&compute, 1, &mut Loading::new(terminal))?.model;
    let interrupted = signals::interrupt_flag()?;
    let n_step = MAX_STEP.min(compute.n_ubatch);
    let found = perplexity(&model, &tokens, n_ctx, n_step, &mut |so_far, n_chunks| {
        let most = args.chunks.unwrap_or(n_chunks).min(n_chunks);
        terminal.status(&format!("chunk {} of {most}: perplexity {:.4}", so_far.n_chunks, so_far.perplexity));
        match interrupted.load(Ordering::Relaxed) || so_far.n_chunks >= most {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    terminal.status("");
    if interrupted.load(Ordering::Relaxed) {
        return Err(CliError::Interrupted);
    }
    let Some(found) = found? else { return Ok(()) };
    print(&format!(
        "{id} ({quantization}): perplexity {:.4} ± {:.4}, {} chunks of {n_ctx} tokens, {} tokens scored\n",
        found.perplexity, found.standard_error, found.n_chunks, found.n_scored
    ))
}
