//! `pack` and `upgrade`: what was typed to what the archive's tools take.

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::args::{Args, PackArgs, RunArgs, UpgradeArgs};
use super::error::CliError;
use super::locate::{Surroundings, locate_weights};
use super::machine::physical_cores;
use super::progress::progress;
use super::quantize::{check_threads, note_double_loss, recipe};
use super::settings::Settings;
use super::terminal::Terminal;
use crate::bundle::{
    ArgsFile, How, Made, ModelInput, PackError, PackOptions, Packed, UpgradeOptions, pack, running_executable, upgrade,
};
use crate::error::bytes_for_people;
use crate::quantize::{Plan, QuantizeError, Recipe, Stop};
use crate::weights::Source;

/// Makes the file.
///
/// # Errors
/// Weights that this program cannot run, arguments that it does not take, an output that cannot be written.
pub fn run_pack(args: PackArgs, terminal: &Terminal) -> Result<(), CliError> {
    check_default_arguments(&args.arg)?;
    let recipe = args.quantize.as_deref().map(recipe).transpose()?;
    let n_threads = check_threads(args.threads)?.unwrap_or_else(physical_cores);
    if !args.name.is_empty() && args.name.len() != args.model.len() {
        let (names, models) = (args.name.len(), args.model.len());
        return Err(CliError::Usage {
            what: format!("there are {models} `-m` and {names} `--name`"),
            hint: "give each `-m` its `--name`, in the same order, or none".into(),
        });
    }
    let mut sources = Vec::new();
    for model in &args.model {
        // A model that this program cannot run is better refused now than by those who get the file.
        let source = open_source(model)?;
        source.tensors()?;
        sources.push(source);
    }
    let mut plans = Vec::new();
    if let Some(recipe) = recipe {
        for source in &sources {
            note_double_loss(source, terminal);
            plans.push(Plan::new(source, recipe)?);
        }
    }
    let write = |plan: &Plan, out: &mut dyn io::Write| {
        // The archive's own progress counts the bytes that come out of this.
        plan.write(out, n_threads, &mut |_| ControlFlow::Continue(())).map_err(|stop| match stop {
            Stop::Io(error) => error,
            Stop::Error(error) => io::Error::other(error),
        })
    };
    let writers: Vec<_> = plans.iter().map(|plan| move |out: &mut dyn io::Write| write(plan, out)).collect();
    let made = |index: usize| {
        let (plan, write) = (plans.get(index)?, writers.get(index)?);
        Some(Made { size: plan.n_bytes(), write })
    };
    let models = args.model.iter().enumerate().map(|(index, path)| ModelInput {
        path: path.clone(),
        name: args.name.get(index).cloned().or_else(|| recipe.map(|recipe| quantized_name(path, recipe))),
        made: made(index),
    });
    let options = PackOptions {
        models: models.collect(),
        output: args.output,
        args: args.arg,
        license: args.license,
        runtime: args.runtime,
        quantize: recipe.map(|recipe| recipe.to_string()),
        overwrite: args.force,
    };
    let packed = pack(&options, &mut progress("packing", terminal)?);
    terminal.status("");
    terminal.note(describe(&packed.map_err(pack_error)?, options.runtime.is_some()));
    Ok(())
}

fn open_source(path: &Path) -> Result<Source, CliError> {
    let located = locate_weights(Some(path), None, &Surroundings::default())?;
    Ok(Source::open(located.files)?)
}

/// `gemma-2-2b-it-f16.gguf` or `gemma-2-2b-it/` to `gemma-2-2b-it-Q4_K_M`.
fn quantized_name(path: &Path, recipe: Recipe) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.strip_suffix(".gguf").or_else(|| name.strip_suffix(".safetensors")).unwrap_or(&name);
    let stem = stem.split("-00001-of-").next().unwrap_or(stem);
    let stem = match stem.rsplit_once(['-', '.']) {
        Some((stem, old)) if !stem.is_empty() && Recipe::parse(old).is_some() => stem,
        _ => stem,
    };
    format!("{stem}-{recipe}")
}

/// What went wrong while the weights were made is told as `quantize` tells it.
fn pack_error(error: PackError) -> CliError {
    match error {
        PackError::Io { path, source } => match source.downcast::<QuantizeError>() {
            Ok(error) => CliError::Quantize(error),
            Err(source) => CliError::Pack(PackError::Io { path, source }),
        },
        error => CliError::Pack(error),
    }
}

fn describe(packed: &Packed, is_for_elsewhere: bool) -> String {
    let (file, size) = (packed.file.display(), bytes_for_people(packed.size));
    match &packed.weights_file {
        Some(weights) => format!(
            "`{file}` and `{}` have {size}: Windows starts no program of 4 GiB or more, so the weights are a file of \
             their own; keep both in one folder",
            weights.display()
        ),
        None if is_for_elsewhere => format!("`{file}` has {size}: program and weights in one file"),
        None => format!("`{file}` has {size}: run it, or look into it with `gemma2 list {file}`"),
    }
}

/// Changes a packed file.
///
/// # Errors
/// A file that is not packed, arguments that the program does not take, a folder that cannot be written to.
pub fn run_upgrade(args: UpgradeArgs, terminal: &Terminal) -> Result<(), CliError> {
    check_default_arguments(&args.arg)?;
    let new_args = (args.no_args || !args.arg.is_empty()).then_some(args.arg);
    let runtime = match args.runtime {
        None if new_args.is_none() => Some(running_executable()?),
        runtime => runtime,
    };
    let options = UpgradeOptions { file: args.file, runtime, args: new_args };
    let upgraded = upgrade(&options, &mut progress("upgrading", terminal)?);
    terminal.status("");
    let upgraded = upgraded.map_err(pack_error)?;
    let (file, size) = (options.file.display(), bytes_for_people(upgraded.size));
    terminal.note(match upgraded.how {
        How::Unchanged => format!("`{file}` is so already"),
        How::InPlace => format!("`{file}` has {size}: changed in place"),
        How::NewFile => format!("`{file}` has {size}"),
    });
    Ok(())
}

/// Default arguments that the packed program would refuse are refused now.
fn check_default_arguments(words: &[String]) -> Result<(), CliError> {
    let wrong =
        |what: String| CliError::Usage { what: format!("`--arg`: {what}"), hint: "write --arg=-c --arg=0".into() };
    let file = ArgsFile::parse(ArgsFile::text(words).as_bytes()).map_err(|error| wrong(error.to_string()))?;
    // `-p ...` needs the argument that is still to come.
    let candidates = [file.defaults(), file.place(&["0".into()])];
    let mut first_error = None;
    for words in candidates {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        match Args::parse_from_words(&words, "") {
            Ok(args) if args.tool.is_none() && !args.help_all => {
                return match Settings::resolve(RunArgs::default(), args.run) {
                    Ok(_) => Ok(()),
                    Err(error) => Err(wrong(error.to_string())),
                };
            }
            Ok(_) => first_error = first_error.or(Some("tools are no default arguments".to_owned())),
            Err(error) => first_error = first_error.or(Some(super::usage_text(&error))),
        }
    }
    Err(wrong(first_error.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantized_model_is_named_after_its_new_type() {
        let check = |path: &str, expected: &str| {
            assert_eq!(quantized_name(Path::new(path), Recipe::Q4_K_M), expected, "{path}");
        };
        check("no/such/gemma-2-2b-it-f16.gguf", "gemma-2-2b-it-Q4_K_M");
        check("no/such/gemma-2-2b-it.BF16.gguf", "gemma-2-2b-it-Q4_K_M");
        check("no/such/gemma-2-2b-it/", "gemma-2-2b-it-Q4_K_M");
        check("no/such/m-00001-of-00003.gguf", "m-Q4_K_M");
        check("no/such/f16.gguf", "f16-Q4_K_M");
    }
}
