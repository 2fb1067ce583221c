//! `quantize`: weights into a smaller file, with progress.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::args::QuantizeArgs;
use super::error::CliError;
use super::locate::{Surroundings, locate_model};
use super::machine::physical_cores;
use super::signals;
use super::terminal::Terminal;
use crate::error::{bytes_for_people, name_for_people};
use crate::quantize::{Progress, QuantizeOptions, Recipe, quantize};
use crate::weights::Source;

/// Makes the file.
///
/// # Errors
/// A type that does not exist, weights that are no Gemma 2, an output that cannot be written.
pub fn run_quantize(args: QuantizeArgs, terminal: &Terminal) -> Result<(), CliError> {
    let recipe = recipe(&args.recipe)?;
    let n_threads = check_threads(args.threads)?.unwrap_or_else(physical_cores);
    let located = locate_model(Some(&args.input), None, args.model_name.as_deref(), &Surroundings::default())?;
    let source = Source::open(located.files)?;
    note_double_loss(&source, terminal);
    let options = QuantizeOptions { output: args.output, recipe, overwrite: args.force, n_threads };
    let interrupted = signals::interrupt_flag()?;
    let start = Instant::now();
    let mut shown = None;
    let made = quantize(&source, &options, &mut |progress| {
        let second = start.elapsed().as_secs();
        if shown != Some(second) {
            shown = Some(second);
            terminal.status(&line(&progress, start.elapsed().as_secs_f64()));
        }
        if interrupted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    terminal.status("");
    let size = made?;
    let (before, after) = (bytes_for_people(source.weight_bytes()), bytes_for_people(size));
    let seconds = start.elapsed().as_secs_f64();
    terminal.note(format!("`{}` is {recipe}: {before} became {after} in {seconds:.0} s", options.output.display()));
    Ok(())
}

/// The type of that name.
///
/// # Errors
/// There is none.
pub fn recipe(name: &str) -> Result<Recipe, CliError> {
    Recipe::parse(name).ok_or_else(|| {
        let names: Vec<String> = Recipe::all().map(|recipe| recipe.to_string()).collect();
        CliError::Usage {
            what: format!("there is no type `{}`", name_for_people(name.as_bytes())),
            hint: format!("take one of {}", names.join(", ")),
        }
    })
}

/// # Errors
/// No thread at all.
pub fn check_threads(threads: Option<usize>) -> Result<Option<usize>, CliError> {
    match threads {
        Some(0) => Err(CliError::usage("`-t` is 0 and must be at least 1")),
        threads => Ok(threads),
    }
}

/// Says so where weights are quantized that were before.
pub fn note_double_loss(source: &Source, terminal: &Terminal) {
    let from = source.quantization();
    if !matches!(from, "F32" | "F16" | "BF16") {
        terminal.note(format!("note: the weights are {from} already; the new ones have the errors of both"));
    }
}

/// ` 42 %  31 M weights/s  58 s left  blk.7.ffn_up.weight`
fn line(progress: &Progress<'_>, seconds: f64) -> String {
    let percent = progress.done * 100 / progress.total.max(1);
    let rate = progress.done as f64 / seconds.max(1e-3);
    let left = progress.total.saturating_sub(progress.done) as f64 / rate.max(1.0);
    let tensor = name_for_people(progress.tensor.as_bytes());
    format!("quantizing {percent:3} %  {:.0} M weights/s  {left:.0} s left  {tensor}", rate / 1e6)
}
