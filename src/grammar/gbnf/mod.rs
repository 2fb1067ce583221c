//! GBNF, llama.cpp's grammar language, in llguidance's language.
//!
//! The one reads a text character by character; the other in *terminals*, each as long as it can get. `read.rs` makes
//! rules of the text and `lark.rs` writes them down as terminals wherever that cannot change what the grammar allows,
//! which `facts.rs`, `overlap.rs` and `split.rs` decide.

mod characters;
mod facts;
mod lark;
mod overlap;
mod read;
mod split;

#[cfg(test)]
mod tests;

use super::GrammarError;

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Expr {
    /// These characters one after the other; may be none.
    Literal(String),
    /// One of these characters.
    Class(characters::CharSet),
    /// Another rule, by its place in the list.
    Rule(usize),
    /// One after the other.
    Sequence(Vec<Expr>),
    /// One of these.
    Choice(Vec<Expr>),
    /// At least `min` and at most `max` times.
    Repeat {
        inner: Box<Expr>,
        min: u32,
        /// None: as often as it may be.
        max: Option<u32>,
    },
}

/// A rule and where its name was written.
#[derive(Clone, Debug)]
struct Rule {
    name: String,
    body: Expr,
    line: usize,
    column: usize,
}

/// Rules that name each other by their place in the list.
#[derive(Clone, Debug)]
struct Grammar {
    rules: Vec<Rule>,
    root: usize,
}

impl Rule {
    fn error(&self, what: String) -> GrammarError {
        GrammarError::Syntax { line: self.line, column: self.column, what }
    }
}

/// Translates a grammar whose rule `root` is the whole text.
///
/// # Errors
/// Mistakes with their line and column, rules that are missing or can never come to an end, too many rules.
pub(super) fn to_lark(text: &str) -> Result<String, GrammarError> {
    let grammar = read::read(text)?;
    read::check(&grammar)?;
    Ok(lark::write(&grammar))
}
