//! The words of a command line, before they are parsed: flags that parsers of ours do not know, put into our own.

use std::ffi::OsString;

use clap::ArgAction;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::foreign::{self, Foreign, Refusal, Translation};

/// llamafile's flags of one dash and several letters, and their names here.
const LONG_NAMES: &[(&str, &str)] = &[
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-ngl", "--n-gpu-layers"),
    ("-np", "--parallel"),
    ("-ub", "--ubatch-size"),
    ("-sys", "--system-prompt"),
    ("-jf", "--json-schema-file"),
    ("-sp", "--special"),
    ("-sysf", "--system-prompt-file"),
    ("-tb", "--threads-batch"),
    ("-nr", "--no-repack"),
    ("-a", "--alias"),
];

/// Replaces flags of several letters and those that are not ours, but not in the place of a value: `-p -np` is a prompt.
///
/// # Errors
/// A flag of llamafile's that cannot be had.
pub(super) fn our_words(words: &[OsString], command: &clap::Command) -> Result<(Vec<OsString>, Foreign), clap::Error> {
    let with_value = flags_with_value(command);
    let is_tool = words
        .first()
        .and_then(|word| word.to_str())
        .is_some_and(|word| command.get_subcommands().any(|tool| tool.get_name() == word));
    let mut translation = Translation::default();
    let mut n_skipped = 0;
    let mut is_value = false;
    let mut is_literal = false;
    let mut out = Vec::with_capacity(words.len());
    for (at, word) in words.iter().enumerate() {
        if n_skipped > 0 {
            n_skipped -= 1;
            continue;
        }
        let text = word.to_str().unwrap_or_default();
        if is_value || is_literal {
            out.push(word.clone());
            is_value = false;
            continue;
        }
        is_literal = text == "--";
        if !is_tool && let Some((ours, n_used)) = translation.read(text, &words[at + 1..]).map_err(refusal)? {
            out.extend(ours);
            n_skipped = n_used;
            continue;
        }
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (text, None),
        };
        let word = match (LONG_NAMES.iter().find(|(short, _)| *short == flag), value) {
            (Some((_, long)), Some(value)) => format!("{long}={value}").into(),
            (Some((_, long)), None) => long.into(),
            // A long flag that is unknown leads to an error that names it.
            (None, _) if foreign::is_short(flag) => format!("-{text}").into(),
            (None, _) => word.clone(),
        };
        is_value = word.to_str().is_some_and(|word| with_value.iter().any(|flag| flag == word));
        out.push(word);
    }
    let (mode, foreign) = translation.finish();
    out.extend(mode.map(OsString::from));
    Ok((out, foreign))
}

/// In the form of the parser's own errors.
fn refusal(refusal: Refusal) -> clap::Error {
    let mut error = clap::Error::raw(ErrorKind::UnknownArgument, refusal.what);
    error.insert(ContextKind::Custom, ContextValue::String(refusal.hint.to_owned()));
    error
}

fn flags_with_value(command: &clap::Command) -> Vec<String> {
    let mut flags = Vec::new();
    for command in std::iter::once(command).chain(command.get_subcommands()) {
        for arg in command.get_arguments() {
            if !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
                continue;
            }
            flags.extend(arg.get_short().map(|short| format!("-{short}")));
            flags.extend(arg.get_long_and_visible_aliases().unwrap_or_default().iter().map(|long| format!("--{long}")));
        }
    }
    flags
}
