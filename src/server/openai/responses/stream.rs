//! A response as a stream of typed events.

use serde_json::{Value, json};

use super::{Object, part, status};
use crate::engine::Event;
use crate::server::error::{ApiError, Dialect};
use crate::server::generation::Telling;
use crate::server::sse::{Narrator, named};
use crate::server::wire::{Watch, WireTimings};

/// The events, numbered.
pub struct Events {
    object: Object,
    telling: Telling,
    watch: Watch,
    /// Events told so far.
    n_told: usize,
    text: String,
}

impl Events {
    /// A response that has just been asked for.
    pub fn new(object: Object, telling: Telling) -> Events {
        Events { object, telling, watch: Watch::new(), n_told: 0, text: String::new() }
    }

    /// An event, whose type stands in its data too.
    fn tell(&mut self, kind: &str, mut body: Value) -> String {
        body["type"] = json!(kind);
        body["sequence_number"] = json!(self.n_told);
        self.n_told += 1;
        named(kind, &body)
    }

    /// An event about the one part of the message.
    fn part_event(&mut self, kind: &str, mut body: Value) -> String {
        body["item_id"] = json!(self.object.item_id);
        body["output_index"] = json!(0);
        body["content_index"] = json!(0);
        self.tell(kind, body)
    }

    /// More text; nothing where there is none.
    fn delta(&mut self, text: String, timings: Option<WireTimings>) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        self.text.push_str(&text);
        let mut body = json!({ "delta": text, "logprobs": [] });
        if let Some(timings) = timings {
            body["timings"] = json!(timings);
        }
        Some(self.part_event("response.output_text.delta", body))
    }
}

impl Narrator for Events {
    const DIALECT: Dialect = Dialect::OpenAi;

    fn start(&mut self) -> Vec<String> {
        let response = self.object.body.clone();
        let item = self.object.item("in_progress", &[]);
        vec![
            self.tell("response.created", json!({ "response": response })),
            self.tell("response.in_progress", json!({ "response": response })),
            self.tell("response.output_item.added", json!({ "output_index": 0, "item": item })),
            self.part_event("response.content_part.added", json!({ "part": part("") })),
        ]
    }

    fn event(&mut self, _: usize, event: Event) -> Vec<String> {
        match event {
            Event::Prefill { done, total, cached } => {
                let progress = self.watch.prefill(done, total, cached);
                if !self.telling.return_progress {
                    return Vec::new();
                }
                let told = progress.into_iter().map(|progress| {
                    let body = json!({ "response": self.object.body, "prompt_progress": progress });
                    self.tell("response.in_progress", body)
                });
                told.collect()
            }
            Event::Token(token) => {
                let timings = self.watch.token();
                let timings = self.telling.timings_per_token.then_some(timings);
                self.delta(token.text, timings).into_iter().collect()
            }
            Event::Done(mut done) => {
                let mut events = Vec::from_iter(self.delta(std::mem::take(&mut done.text), None));
                let text = std::mem::take(&mut self.text);
                let status = status(&done);
                let item = self.object.item(status, &[part(&text)]);
                let response = self.object.ended(&text, &done);
                let timings = WireTimings::from(&done.timings);
                events.extend([
                    self.part_event("response.output_text.done", json!({ "text": text, "logprobs": [] })),
                    self.part_event("response.content_part.done", json!({ "part": part(&text) })),
                    self.tell("response.output_item.done", json!({ "output_index": 0, "item": item })),
                    self.tell(&format!("response.{status}"), json!({ "response": response, "timings": timings })),
                ]);
                events
            }
            Event::Failed(_) => Vec::new(),
        }
    }

    fn end(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn failed(&mut self, error: &ApiError) -> Vec<String> {
        let mut response = self.object.body.clone();
        let told = error.body(Self::DIALECT);
        response["status"] = json!("failed");
        response["error"] = json!({ "code": "server_error", "message": told["error"]["message"] });
        vec![self.tell("response.failed", json!({ "response": response }))]
    }
}
