//! How an error reaches a person: what went wrong, then what to do.

use std::fmt::Write as _;

/// An error that knows the next step.
///
/// Every error type of a module implements this; [`render`] joins both halves for a terminal and the server does the
/// same for JSON. `Display` says WHAT (with the file, key, tensor or flag by name, values in backticks, no full stop);
/// `hint` says WHAT TO DO.
pub trait Hint: std::error::Error {
    /// The command or action that helps, if there is one.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// `error: WHAT` and, on a second line, `hint: WHAT TO DO`. Ends without a newline.
pub fn render(error: &dyn Hint) -> String {
    let mut out = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !out.contains(&cause_text) {
            let _ = write!(out, ": {cause_text}");
        }
        source = cause.source();
    }
    if let Some(hint) = error.hint() {
        let _ = write!(out, "\nhint: {hint}");
    }
    out
}
