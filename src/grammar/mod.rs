//! Grammars and JSON schemas: which tokens may come next, so that a reply can only be what was asked for.
//!
//! A [`Source`] is compiled by the [`Grammars`] of a vocabulary into a [`Constraint`], which the engine asks before each
//! token. The work is done by `llguidance`: a lexer of regex derivatives under an Earley parser, walked over a trie of the
//! vocabulary. GBNF, llama.cpp's language, is translated into its language first (`gbnf`).
//!
//! - The trie of a vocabulary is built with the first grammar and kept: a start without grammars pays nothing.
//! - End tokens may come exactly where the grammar may stop; other control tokens never.
//! - Objects of a JSON schema have the properties that it names, and others only where it says so (`closed`).
//! - Grammars come from anywhere. Size, nesting, states and work per step have limits, and a grammar is compiled on a
//!   thread of its own whose stack bears the deepest that these let through.

mod closed;
mod constraint;
mod gbnf;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::error::Hint;
use crate::tokenizer::Tokenizer;
use vocabulary::Vocabulary;

pub use closed::close;
pub use constraint::{Constraint, ConstraintError};

/// Most bytes of a grammar or a schema.
pub const MAX_BYTES: usize = 256 << 10;

/// Compiled grammars that are kept: clients send the same one with every request.
const MAX_KEPT: usize = 8;
/// Of the thread that compiles: rules that name each other in a chain are descended into one by one.
const STACK_BYTES: usize = 256 << 20;
/// Most characters of a message about a grammar.
const MAX_MESSAGE: usize = 300;
/// Whitespace between two tokens of JSON: a space, or a line break with indentation. A model that likes blank lines could
/// otherwise go on with them forever.
const JSON_WHITESPACE: &str = r"[ ]|\n[ \t]{0,20}";
/// Where a schema says how JSON is to be written.
const OPTIONS: &str = "x-guidance";
/// Texts of which all tokens are known to be possible at once within most strings of JSON and like them. The shorter ones
/// are for strings of limited length. Each takes some 20 MB, and a part of the time of the first grammar.
const SLICES: [&str; 2] = [r#"[^"\\\x00-\x1F\x7F]{1,10}"#, r#"[^"\\\x00-\x1F\x7F]{1,30}"#];

/// A grammar as somebody wrote it.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A JSON schema: the reply is a JSON value that it describes.
    JsonSchema(Value),
    /// llama.cpp's grammar language.
    Gbnf(String),
    /// llguidance's variant of Lark.
    Lark(String),
    /// A regular expression that the whole reply matches.
    Regex(String),
}

impl Source {
    /// Any JSON object.
    pub fn json_object() -> Source {
        Source::JsonSchema(json!({ "type": "object" }))
    }

    /// A grammar as `--grammar` and llama.cpp's field `grammar` take it: Lark if it begins with `%llguidance`, else GBNF.
    pub fn from_text(text: &str) -> Source {
        match text.trim_start().starts_with("%llguidance") {
            true => Source::Lark(unforced(text)),
            false => Source::Gbnf(text.to_owned()),
        }
    }

    fn n_bytes(&self) -> usize {
        match self {
            Source::JsonSchema(schema) => schema.to_string().len(),
            Source::Gbnf(text) | Source::Lark(text) | Source::Regex(text) => text.len(),
        }
    }
}

/// A grammar that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It is longer than [`MAX_BYTES`].
    #[error("it has {0} bytes, and the most allowed is {MAX_BYTES}")]
    TooLong(usize),
    /// Something is wrong at one place of it.
    #[error("line {line}, column {column}: {what}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What is wrong.
        what: String,
    },
    /// Something is wrong with it as a whole.
    #[error("{0}")]
    Invalid(String),
    /// No text of this vocabulary can satisfy it.
    #[error("it allows no text at all")]
    Impossible,
    /// The vocabulary is such that no grammar can be used with it.
    #[error("this model's vocabulary cannot be used with grammars: {0}")]
    Vocabulary(String),
}

impl Hint for GrammarError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            GrammarError::TooLong(_) => "make it shorter",
            GrammarError::Impossible => "look for rules that contradict each other",
            GrammarError::Syntax { .. } | GrammarError::Invalid(_) => "correct the grammar or the schema",
            GrammarError::Vocabulary(_) => return None,
        };
        Some(hint.into())
    }
}

/// Compiles grammars for one vocabulary. Shared by all who make requests to one engine.
pub struct Grammars {
    vocabulary: Box<dyn Fn() -> Result<Vocabulary, GrammarError> + Send + Sync>,
    compiler: OnceLock<Result<Arc<Compiler>, GrammarError>>,
    /// The newest last. Held while a grammar is compiled: one at a time keeps hostile ones from taking every core.
    kept: Mutex<VecDeque<(Source, Constraint)>>,
}

/// What is made once for a vocabulary.
struct Compiler {
    factory: ParserFactory,
    /// Text and end tokens.
    usable: Arc<SimpleVob>,
}

impl Grammars {
    /// For the vocabulary of `tokenizer`; nothing is built yet.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Grammars {
        Grammars::of(move || Vocabulary::of_tokenizer(&tokenizer))
    }

    fn of(vocabulary: impl Fn() -> Result<Vocabulary, GrammarError> + Send + Sync + 'static) -> Grammars {
        Grammars { vocabulary: Box::new(vocabulary), compiler: OnceLock::new(), kept: Mutex::new(VecDeque::new()) }
    }

    /// For tests: a vocabulary of these pieces, where empty ones are no text.
    #[cfg(test)]
    pub(crate) fn of_pieces(pieces: Vec<Vec<u8>>, ends: Vec<crate::tokenizer::TokenId>) -> Grammars {
        Grammars::of(move || Vocabulary::of_pieces(&pieces, &ends))
    }

    /// Compiles a grammar. Takes milliseconds to a second, the first time of a large vocabulary longer: not for a thread
    /// that serves others.
    ///
    /// # Errors
    /// A grammar that is wrong, too large, or that no text can satisfy.
    pub fn compile(&self, source: &Source) -> Result<Constraint, GrammarError> {
        let n_bytes = source.n_bytes();
        if n_bytes > MAX_BYTES {
            return Err(GrammarError::TooLong(n_bytes));
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, constraint)) = kept.iter().find(|(known, _)| known == source) {
            return Ok(constraint.fresh());
        }
        let compiler = self.compiler.get_or_init(|| Compiler::new((self.vocabulary)()?).map(Arc::new)).clone()?;
        let constraint = compiler.compile_with_room(source.clone())?;
        if kept.len() >= MAX_KEPT {
            kept.pop_front();
        }
        let fresh = constraint.fresh();
        kept.push_back((source.clone(), constraint));
        Ok(fresh)
    }
}

impl Compiler {
    fn new(vocabulary: Vocabulary) -> Result<Compiler, GrammarError> {
        let usable = Arc::new(vocabulary.usable());
        let env: TokEnv = Arc::new(vocabulary);
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &SLICES.map(String::from))
            .map_err(|error| GrammarError::Vocabulary(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            // One or two kilobytes each.
            max_lexer_states: 30_000,
            // Its errors would otherwise contain the whole grammar and a backtrace.
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Compiler { factory, usable })
    }

    /// On a thread with a stack that is deep enough.
    fn compile_with_room(self: &Arc<Self>, source: Source) -> Result<Constraint, GrammarError> {
        let compiler = self.clone();
        let thread = std::thread::Builder::new()
            .name("grammar".into())
            .stack_size(STACK_BYTES)
            .spawn(move || compiler.compile(source))
            .map_err(|error| GrammarError::Invalid(format!("there is no thread to compile it on: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(GrammarError::Invalid("it is too complex".into())))
    }

    fn compile(&self, source: Source) -> Result<Constraint, GrammarError> {
        let grammar = match source {
            // A separator or whitespace of one's own may be anything, as in Lark.
            Source::JsonSchema(schema) if schema.get(OPTIONS).is_some() => {
                TopLevelGrammar::from_lark(unforced(&format!("start: %json {schema}")))
            }
            Source::JsonSchema(schema) => TopLevelGrammar::from_json_schema(with_options(schema)?),
            Source::Gbnf(text) => TopLevelGrammar::from_lark(gbnf::to_lark(&text)?),
            Source::Lark(text) => TopLevelGrammar::from_lark(text),
            Source::Regex(regex) => TopLevelGrammar::from_regex(&regex),
        };
        let parser = self.factory.create_parser(grammar).map_err(|error| explained(&error.to_string()))?;
        let mut constraint = Constraint::new(Matcher::new(Ok(parser)), self.usable.clone());
        match constraint.allowed() {
            Ok(_) => Ok(constraint),
            Err(ConstraintError::DeadEnd) => Err(GrammarError::Impossible),
            Err(ConstraintError::TooComplex(what)) => Err(GrammarError::Invalid(what)),
        }
    }
}

/// The schema as `%json` in a Lark grammar takes it, for the JSON that [`Source::JsonSchema`] allows.
///
/// # Errors
/// A schema that is no object.
pub fn json_in_lark(schema: &Value) -> Result<Value, GrammarError> {
    match schema.get(OPTIONS) {
        Some(_) => Ok(schema.clone()),
        None => with_options(schema.clone()),
    }
}

/// Adds how JSON is to be written.
fn with_options(schema: Value) -> Result<Value, GrammarError> {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Object(map) => Value::Object(map),
        _ => return Err(GrammarError::Invalid("a JSON schema is a JSON object".into())),
    };
    close(&mut schema);
    let options = JsonCompileOptions {
        whitespace_pattern: Some(JSON_WHITESPACE.into()),
        // Alternatives that exclude each other cannot be told from others; what fits one of them is taken.
        coerce_one_of: true,
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    Ok(schema)
}

/// A Lark grammar of which no text is taken for granted where there is one way to go on. After `/a+/`, followed by `"a"`, that
/// way would never end.
fn unforced(lark: &str) -> String {
    format!("{lark}\n%llguidance {{\"no_forcing\": true}}\n")
}

/// The first line of a message, which may quote a whole grammar.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim();
    match line.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// llguidance's message: its first line, with the place in it if there is one (`at 3(5): …` or `3(5): …`).
fn explained(message: &str) -> GrammarError {
    if message.starts_with("panic") {
        return GrammarError::Invalid("it is too complex, or uses something that is not supported".into());
    }
    let line = first_line(message);
    let line = line.as_str();
    let place = line.strip_prefix("at ").unwrap_or(line).split_once("): ").and_then(|(place, what)| {
        let (line, column) = place.split_once('(')?;
        Some(GrammarError::Syntax { line: line.parse().ok()?, column: column.parse().ok()?, what: what.to_owned() })
    });
    place.unwrap_or_else(|| GrammarError::Invalid(line.to_owned()))
}
