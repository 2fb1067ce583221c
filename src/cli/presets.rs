//! `--preset` and `--mode`: names that stand for several ordinary flags. Flags that are given win over them.

use super::args::{Args, Mode, Preset, RunArgs};
use super::error::CliError;

/// What a preset for the machine stands for. `free` is the memory that can be had, in bytes.
fn preset_words(preset: Preset, is_server: bool, free: Option<u64>) -> Vec<&'static str> {
    let mut words = match preset {
        // The whole context of a 9B needs some 3 GB beside the weights.
        Preset::Auto if free.is_some_and(|free| free > 12_000_000_000) => vec!["-c", "0"],
        Preset::Auto if free.is_some_and(|free| free > 4_000_000_000) => vec!["-c", "4096"],
        Preset::Auto => vec!["-c", "512"],
        Preset::Exact => vec!["--dtype", "f32", "-ngl", "0"],
        Preset::Speed => vec!["--dtype", "bf16", "-ngl", "999"],
        Preset::Memory => {
            vec!["--dtype", "bf16", "-c", "512", "-ub", "64", "-ctk", "q8_0", "-ctv", "q8_0", "--no-repack"]
        }
    };
    if preset == Preset::Memory && is_server {
        words.extend(["-np", "1"]);
    }
    words
}

/// What a mode of sampling stands for.
fn mode_words(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Chat => &["--temp", "1", "--top-k", "64", "--top-p", "0.95"],
        Mode::Factual => &["--temp", "0"],
        Mode::Creative => &["--temp", "1.3", "--top-k", "0", "--top-p", "0.98", "--min-p", "0.02"],
    }
}

/// The arguments with what their preset and mode stand for, and a line about each for a person.
///
/// # Errors
/// None that a table without mistakes could cause.
pub fn expand(args: RunArgs, is_server: bool, free: Option<u64>) -> Result<(RunArgs, Vec<String>), CliError> {
    let preset = args.preset.map(|preset| ("preset", preset.name(), preset_words(preset, is_server, free)));
    let mode = args.mode.map(|mode| ("mode", mode.name(), mode_words(mode).to_vec()));
    let (mut args, mut lines) = (args, Vec::new());
    for (kind, name, words) in preset.into_iter().chain(mode) {
        lines.push(format!("{kind:8} {name}: {}", words.join(" ")));
        let words: Vec<std::ffi::OsString> = words.into_iter().map(Into::into).collect();
        let meant = Args::parse_from_words(&words, "").map_err(|error| super::usage_error(&error))?;
        args = args.or(meant.run);
    }
    Ok((args, lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &[&str]) -> RunArgs {
        let words: Vec<std::ffi::OsString> = line.iter().map(Into::into).collect();
        Args::parse_from_words(&words, "0").unwrap().run
    }

    #[test]
    fn names_stand_for_flags_and_given_flags_win() {
        let (expanded, lines) =
            expand(args(&["--preset", "memory", "-c", "64", "--mode", "factual"]), true, None).unwrap();
        assert_eq!((expanded.ctx_size, expanded.ubatch_size, expanded.parallel), (Some(64), Some(64), Some(1)));
        assert_eq!(expanded.temp, Some(0.0));
        assert_eq!(
            lines,
            [
                "preset   memory: --dtype bf16 -c 512 -ub 64 -ctk q8_0 -ctv q8_0 --no-repack -np 1",
                "mode     factual: --temp 0"
            ]
        );
        let (expanded, lines) = expand(args(&["-n", "1"]), false, None).unwrap();
        assert_eq!((expanded.n_predict, lines.len()), (Some(1), 0));
    }

    #[test]
    fn every_preset_and_mode_is_made_of_flags_that_exist() {
        for preset in ["auto", "exact", "speed", "memory"] {
            for mode in ["chat", "factual", "creative"] {
                for free in [None, Some(5_000_000_000), Some(50_000_000_000)] {
                    let (_, lines) = expand(args(&["--preset", preset, "--mode", mode]), true, free).unwrap();
                    assert_eq!(lines.len(), 2);
                }
            }
        }
    }
}
