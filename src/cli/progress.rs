//! How far a long piece of work is, at which rate, and how long it still takes.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::error::CliError;
use super::signals;
use super::terminal::Terminal;
use crate::bundle::Progress;
use crate::error::{bytes_for_people, name_for_people};

/// Between two lines on the terminal.
const INTERVAL: Duration = Duration::from_millis(200);

/// A callback that shows progress on a terminal, and says whether Ctrl-C ended the work.
///
/// # Errors
/// Signals that cannot be handled.
pub fn progress<'a>(
    verb: &'static str,
    terminal: &'a Terminal,
) -> Result<impl FnMut(Progress<'_>) -> ControlFlow<()> + 'a, CliError> {
    let interrupted = signals::interrupt_flag()?;
    let start = Instant::now();
    let mut shown: Option<Duration> = None;
    Ok(move |progress: Progress<'_>| {
        let elapsed = start.elapsed();
        if shown.is_none_or(|shown| elapsed - shown >= INTERVAL) {
            shown = Some(elapsed);
            terminal.status(&line(verb, &progress, elapsed.as_secs_f64()));
        }
        match interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })
}

/// `packing  42 %  1.10 GB of 2.61 GB  310.0 MB/s  5 s left  model.gguf`
fn line(verb: &str, progress: &Progress<'_>, seconds: f64) -> String {
    let percent = progress.done * 100 / progress.total.max(1);
    let rate = progress.done as f64 / seconds.max(1e-3);
    let left = progress.total.saturating_sub(progress.done) as f64 / rate.max(1.0);
    let member = if progress.member.is_empty() { "the program" } else { progress.member };
    format!(
        "{verb} {percent:3} %  {} of {}  {}/s  {left:.0} s left  {}",
        bytes_for_people(progress.done),
        bytes_for_people(progress.total),
        bytes_for_people(rate as u64),
        name_for_people(member.as_bytes())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rate_and_time_left() {
        let half = Progress { member: "m.gguf", done: 1_000_000_000, total: 2_000_000_000 };
        assert_eq!(line("packing", &half, 4.0), "packing  50 %  1.00 GB of 2.00 GB  250.0 MB/s  4 s left  m.gguf");
        let nothing = Progress { member: "", done: 0, total: 0 };
        assert!(line("packing", &nothing, 0.0).ends_with("the program"));
    }
}
