//! Weights that are being read or copied, as people see it: a bar on a terminal, for a server lines elsewhere.

use std::time::{Duration, Instant};

use super::terminal::Terminal;

/// How long loading may take before it is shown that something happens.
const PATIENCE: Duration = Duration::from_millis(300);
/// Where this variable is set, each quarter of a server's weights waits for a line on stdin, so that tests can look at what
/// people see meanwhile.
const STEPS_VARIABLE: &str = "GEMMA2_LOAD_STEPS";
/// Between two states of the bar.
const INTERVAL: Duration = Duration::from_millis(100);

/// Shows how far loading is, and erases that at the end.
pub struct Loading<'a> {
    terminal: &'a Terminal,
    /// Told the share that is done, from 0 to 1.
    tell: Option<Box<dyn FnMut(f32) + 'a>>,
    is_for_long: bool,
    start: Instant,
    shown: Option<Instant>,
    n_quarters: u64,
    waits_for_steps: bool,
}

impl<'a> Loading<'a> {
    /// For a model that answers here.
    pub fn new(terminal: &'a Terminal) -> Loading<'a> {
        Loading {
            terminal,
            tell: None,
            is_for_long: false,
            start: Instant::now(),
            shown: None,
            n_quarters: 0,
            waits_for_steps: false,
        }
    }

    /// For one that answers so much that preparing its weights is worth a moment.
    pub fn for_long(terminal: &'a Terminal) -> Loading<'a> {
        Loading { tell: None, is_for_long: true, ..Loading::new(terminal) }
    }

    /// For a server, which is watched from elsewhere too.
    pub fn of_server(terminal: &'a Terminal, tell: impl FnMut(f32) + 'a) -> Loading<'a> {
        let waits_for_steps = std::env::var_os(STEPS_VARIABLE).is_some();
        Loading { tell: Some(Box::new(tell)), waits_for_steps, ..Loading::for_long(terminal) }
    }

    /// The terminal.
    pub fn terminal(&self) -> &'a Terminal {
        self.terminal
    }

    /// Whether all weights are read, and prepared, before anything begins.
    pub fn is_for_long(&self) -> bool {
        self.is_for_long
    }

    fn is_server(&self) -> bool {
        self.tell.is_some()
    }

    /// Bytes done and all bytes.
    pub fn update(&mut self, done: u64, total: u64) {
        if let Some(tell) = &mut self.tell {
            tell(done as f32 / total.max(1) as f32);
        }
        let n_quarters = done * 4 / total.max(1);
        let is_next_quarter = n_quarters > self.n_quarters;
        self.n_quarters = n_quarters;
        if self.terminal.has_cursor && self.terminal.has_color {
            self.draw(done, total);
        } else if self.is_server() && is_next_quarter {
            self.terminal.note(format!("loading {} %", n_quarters * 25));
        }
        if self.waits_for_steps && is_next_quarter {
            // At its end there is nothing to wait for.
            let _ = std::io::stdin().read_line(&mut String::new());
        }
    }

    /// Before anything else is said.
    pub fn erase(&mut self) {
        if self.shown.take().is_some() {
            self.terminal.status("");
        }
    }

    fn draw(&mut self, done: u64, total: u64) {
        let elapsed = self.start.elapsed();
        let is_early = !self.is_server() && elapsed < PATIENCE;
        if is_early || self.shown.is_some_and(|shown| shown.elapsed() < INTERVAL) {
            return;
        }
        self.shown = Some(Instant::now());
        let bar = self.terminal.bar(done, total);
        self.terminal.status(&format!("loading  {bar}   {}", rest(done, total, elapsed.as_secs_f64())));
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.erase();
    }
}

/// `1.5 of 2.2 GB   1 s left`
fn rest(done: u64, total: u64, seconds: f64) -> String {
    let (unit, name) = if total < 1_000_000_000 { (1e6, "MB") } else { (1e9, "GB") };
    let left = seconds * total.saturating_sub(done) as f64 / done.max(1) as f64;
    format!("{:.1} of {:.1} {name}   {:.0} s left", done as f64 / unit, total as f64 / unit, left.ceil())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_told_in_bytes_and_seconds() {
        assert_eq!(rest(1_500_000_000, 2_150_000_000, 2.0), "1.5 of 2.1 GB   1 s left");
        assert_eq!(rest(3_000_000, 3_000_000, 2.0), "3.0 of 3.0 MB   0 s left");
        assert_eq!(rest(0, 0, 0.0), "0.0 of 0.0 MB   0 s left");
    }

    #[test]
    fn a_server_hears_how_far_it_is() {
        let mut shares = Vec::new();
        let terminal = Terminal { is_quiet: true, ..Terminal::detect() };
        let mut loading = Loading::of_server(&terminal, |share| shares.push(share));
        for done in [0, 1, 4] {
            loading.update(done, 4);
        }
        drop(loading);
        assert_eq!(shares, [0.0, 0.25, 1.0]);
    }
}
