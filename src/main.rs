//! The `gemma2` program: parse arguments, run, print the error and its hint, choose the exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use gemma2::cli;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match cli::run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_quiet() {
                cli::report(&error, !words.is_empty());
            }
            ExitCode::from(error.exit_status())
        }
    }
}
