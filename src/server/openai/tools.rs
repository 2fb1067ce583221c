//! Calls in replies, whole and in pieces.

use serde::Serialize;

use crate::chat::tools::{Call, Part, Reader};
use crate::server::generation::draw_id;

/// A call in a response, or a part of one in a stream.
#[derive(Clone, Debug, Serialize)]
pub struct WireCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: WireFunction,
}

#[derive(Clone, Debug, Serialize)]
struct WireFunction {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl WireCall {
    fn start(name: String) -> WireCall {
        WireCall {
            index: None,
            id: Some(format!("call_{}", draw_id())),
            kind: Some("function"),
            function: WireFunction { name: Some(name), arguments: String::new() },
        }
    }

    /// A whole one.
    pub fn of(call: Call) -> WireCall {
        let mut wire = WireCall::start(call.name);
        wire.function.arguments = call.arguments;
        wire
    }

    fn more(arguments: String) -> WireCall {
        WireCall { index: None, id: None, kind: None, function: WireFunction { name: None, arguments } }
    }
}

/// Takes one reply apart as it comes.
#[derive(Clone, Debug, Default)]
pub struct CallReader {
    reader: Reader,
    n_calls: usize,
}

/// A piece of a reply.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Text.
    Text(String),
    /// A call begins or goes on.
    Call(WireCall),
}

impl CallReader {
    /// What a piece of text turned out to be.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        let parts = self.reader.push(text);
        self.pieces(parts)
    }

    /// What was held back.
    pub fn finish(&mut self) -> Vec<Piece> {
        let parts = self.reader.finish();
        self.pieces(parts)
    }

    /// Whether there was a call.
    pub fn has_calls(&self) -> bool {
        self.n_calls > 0
    }

    fn pieces(&mut self, parts: Vec<Part>) -> Vec<Piece> {
        let piece = |part| {
            let mut call = match part {
                Part::Text(text) => return Piece::Text(text),
                Part::Call(name) => {
                    self.n_calls += 1;
                    WireCall::start(name)
                }
                Part::Arguments(more) => WireCall::more(more),
            };
            call.index = Some(self.n_calls.saturating_sub(1));
            Piece::Call(call)
        };
        parts.into_iter().map(piece).collect()
    }
}
