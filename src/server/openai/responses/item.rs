//! Items of a response's output: messages and calls.

use serde_json::{Value, json};

use crate::chat::tools::{Call, take_apart};
use crate::server::generation::draw_id;

/// An item as far as it has come.
pub struct Item {
    /// Tells it from others.
    pub id: String,
    /// What it is.
    pub kind: Kind,
}

/// What an item is.
pub enum Kind {
    /// A message of this text.
    Message(String),
    /// A call with its own id.
    Call(String, Call),
}

impl Item {
    /// A message without text.
    pub fn message() -> Item {
        Item { id: format!("msg_{}", draw_id()), kind: Kind::Message(String::new()) }
    }

    /// A call of this function.
    pub fn call(call: Call) -> Item {
        Item { id: format!("fc_{}", draw_id()), kind: Kind::Call(format!("call_{}", draw_id()), call) }
    }

    /// The items of a whole reply: one message, or calls where it `may_call` functions and did.
    pub fn all(reply: String, may_call: bool) -> Vec<Item> {
        let (text, calls) = if may_call { take_apart(&reply) } else { (reply, Vec::new()) };
        let has_message = calls.is_empty() || !text.is_empty();
        let message = has_message.then(|| Item { kind: Kind::Message(text), ..Item::message() });
        message.into_iter().chain(calls.into_iter().map(Item::call)).collect()
    }

    /// The item when nothing of its content has been told.
    pub fn begun(&self) -> Value {
        match &self.kind {
            Kind::Message(_) => self.json("in_progress", json!({ "role": "assistant", "content": [] })),
            Kind::Call(id, call) => {
                self.json("in_progress", json!({ "call_id": id, "name": call.name, "arguments": "" }))
            }
        }
    }

    /// The item at its end.
    pub fn ended(&self, status: &str) -> Value {
        match &self.kind {
            Kind::Message(text) => self.json(status, json!({ "role": "assistant", "content": [part(text)] })),
            Kind::Call(id, call) => {
                self.json(status, json!({ "call_id": id, "name": call.name, "arguments": call.arguments }))
            }
        }
    }

    fn json(&self, status: &str, mut body: Value) -> Value {
        body["id"] = json!(self.id);
        body["type"] = json!(if matches!(self.kind, Kind::Message(_)) { "message" } else { "function_call" });
        body["status"] = json!(status);
        body
    }
}

/// The one part of a message.
pub fn part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}
