//! Where the log goes: with `-v` to stderr as text, with `--log-file` into a file as JSON, a line for each event.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::error::CliError;

/// Starts the log, where one is wanted. The file is appended to.
///
/// # Errors
/// A file that cannot be written.
pub fn start(is_verbose: bool, file: Option<&Path>) -> Result<(), CliError> {
    let file = file.map(|path| {
        File::options().append(true).create(true).open(path).map_err(|error| CliError::Usage {
            what: format!("`--log-file {}` cannot be written: {error}", path.display()),
            hint: "name a file in a folder that is there and that this user may write".into(),
        })
    });
    // Not those of libraries.
    let is_ours = || filter_fn(|event| event.target().starts_with("gemma2"));
    let to_file = file.transpose()?.map(|file| {
        let lines = fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(Mutex::new(file));
        lines.with_filter(is_ours())
    });
    let to_stderr = is_verbose.then(|| {
        let lines = fmt::layer().with_ansi(false).with_target(false).with_writer(io::stderr);
        lines.with_filter(is_ours())
    });
    if to_file.is_none() && to_stderr.is_none() {
        return Ok(());
    }
    // There is no other; a second server in one process keeps the first one's.
    let _ = tracing_subscriber::registry().with(to_file).with(to_stderr).try_init();
    Ok(())
}
