//! A response as a stream of typed events.

use serde_json::{Value, json};

use super::item::{Item, Kind, part};
use super::{COMPLETED, Object, status};
use crate::chat::tools::{Call, Part, Reader};
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
    /// Where functions may be called.
    reader: Option<Reader>,
    /// All but the last have ended.
    items: Vec<Item>,
}

impl Events {
    /// A response that has just been asked for, and may have calls where it `has_tools`.
    pub fn new(object: Object, telling: Telling, has_tools: bool) -> Events {
        let reader = has_tools.then(Reader::default);
        Events { object, telling, watch: Watch::new(), n_told: 0, reader, items: Vec::new() }
    }

    /// An event, whose type stands in its data too.
    fn tell(&mut self, kind: &str, mut body: Value) -> String {
        body["type"] = json!(kind);
        body["sequence_number"] = json!(self.n_told);
        self.n_told += 1;
        named(kind, &body)
    }

    /// An event about the item that was begun last.
    fn item_event(&mut self, kind: &str, mut body: Value) -> String {
        body["item_id"] = json!(self.items.last().map(|item| &item.id));
        body["output_index"] = json!(self.items.len().saturating_sub(1));
        self.tell(kind, body)
    }

    /// An event about the one part of a message.
    fn part_event(&mut self, kind: &str, mut body: Value) -> String {
        body["content_index"] = json!(0);
        self.item_event(kind, body)
    }

    /// Begins an item, after the end of the one before.
    fn begin(&mut self, item: Item) -> Vec<String> {
        let mut events = self.close(COMPLETED);
        let added = json!({ "output_index": self.items.len(), "item": item.begun() });
        let is_message = matches!(item.kind, Kind::Message(_));
        self.items.push(item);
        events.push(self.tell("response.output_item.added", added));
        if is_message {
            events.push(self.part_event("response.content_part.added", json!({ "part": part("") })));
        }
        events
    }

    /// Ends the item that was begun last.
    fn close(&mut self, status: &str) -> Vec<String> {
        let Some(item) = self.items.last() else {
            return Vec::new();
        };
        let done = json!({ "output_index": self.items.len() - 1, "item": item.ended(status) });
        let mut events = match &item.kind {
            Kind::Message(text) => {
                let (text, part) = (text.clone(), part(text));
                vec![
                    self.part_event("response.output_text.done", json!({ "text": text, "logprobs": [] })),
                    self.part_event("response.content_part.done", json!({ "part": part })),
                ]
            }
            Kind::Call(_, call) => {
                let body = json!({ "name": call.name, "arguments": call.arguments });
                vec![self.item_event("response.function_call_arguments.done", body)]
            }
        };
        events.push(self.tell("response.output_item.done", done));
        events
    }

    /// A piece of the reply.
    fn add(&mut self, text: String, timings: Option<WireTimings>) -> Vec<String> {
        let parts = match &mut self.reader {
            Some(reader) => reader.push(&text),
            None => vec![Part::Text(text)],
        };
        parts.into_iter().flat_map(|part| self.add_part(part, timings)).collect()
    }

    fn add_part(&mut self, part: Part, timings: Option<WireTimings>) -> Vec<String> {
        let delta = |text: &str| {
            let mut body = json!({ "delta": text });
            if let Some(timings) = timings {
                body["timings"] = json!(timings);
            }
            body
        };
        match part {
            Part::Text(text) if text.is_empty() => Vec::new(),
            Part::Text(text) => {
                let is_open = matches!(self.items.last(), Some(Item { kind: Kind::Message(_), .. }));
                let mut events = if is_open { Vec::new() } else { self.begin(Item::message()) };
                let mut body = delta(&text);
                body["logprobs"] = json!([]);
                events.push(self.part_event("response.output_text.delta", body));
                if let Some(Item { kind: Kind::Message(said), .. }) = self.items.last_mut() {
                    said.push_str(&text);
                }
                events
            }
            Part::Call(name) => self.begin(Item::call(Call { name, arguments: String::new() })),
            Part::Arguments(more) => {
                if let Some(Item { kind: Kind::Call(_, call), .. }) = self.items.last_mut() {
                    call.arguments.push_str(&more);
                }
                vec![self.item_event("response.function_call_arguments.delta", delta(&more))]
            }
        }
    }
}

impl Narrator for Events {
    const DIALECT: Dialect = Dialect::OpenAi;

    fn start(&mut self) -> Vec<String> {
        let response = self.object.body.clone();
        let mut events = vec![
            self.tell("response.created", json!({ "response": response })),
            self.tell("response.in_progress", json!({ "response": response })),
        ];
        if self.reader.is_none() {
            events.extend(self.begin(Item::message()));
        }
        events
    }

    fn event(&mut self, _: usize, event: Event) -> Vec<String> {
        match event {
            Event::Prefill { done, total, cached } => {
                let progress = self.watch.prefill(done, total, cached);
                if !self.telling.return_progress {
                    return Vec::new();
                }
                let told = progress.into_iter().map(|progress| {
                    let mut body = json!({ "response": self.object.body, "prompt_progress": progress.prompt });
                    if self.telling.timings_per_token {
                        body["timings"] = json!(progress.timings);
                    }
                    self.tell("response.in_progress", body)
                });
                told.collect()
            }
            Event::Token(token) => {
                let timings = self.watch.token();
                let timings = self.telling.timings_per_token.then_some(timings);
                self.add(token.text, timings)
            }
            Event::Done(mut done) => {
                let mut events = self.add(std::mem::take(&mut done.text), None);
                let rest: Vec<Part> = self.reader.iter_mut().flat_map(Reader::finish).collect();
                events.extend(rest.into_iter().flat_map(|part| self.add_part(part, None)));
                if self.items.is_empty() {
                    events.extend(self.begin(Item::message()));
                }
                let status = status(&done);
                events.extend(self.close(status));
                let response = self.object.ended(&self.items, &done);
                let timings = WireTimings::from(&done.timings);
                let body = json!({ "response": response, "timings": timings });
                events.push(self.tell(&format!("response.{status}"), body));
                events
            }
            Event::Prompt(_) | Event::Failed(_) => Vec::new(),
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
