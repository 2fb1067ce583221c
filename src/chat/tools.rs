//! Functions that a model may call, in a model that has no words of its own for them.
//!
//! Gemma 2 knows two roles and nothing of functions. What it may call is told in the first user turn ([`instructions`]),
//! a call is a fenced block at the very beginning of a reply, one call on each line, and what functions returned comes
//! back the same way in the next user turn ([`result`]):
//!
//! ````text
//! ```tool_call
//! {"name": "get_weather", "arguments": {"city": "Paris"}}
//! ```
//! ````
//!
//! [`grammar`] is the language of such a block, and [`Reader`] takes one apart while it is being written.

use serde_json::{Map, Value, json};

/// How a reply that calls functions begins.
pub const MARKER: &str = "```tool_call\n";

/// How it ends.
const FENCE: &str = "```";
/// What stands on a line before the name, before the arguments and after them.
const BEFORE_NAME: &str = r#"{"name": "#;
const BEFORE_ARGUMENTS: &str = r#", "arguments": "#;
const AFTER_ARGUMENTS: &str = "}\n";

/// A function that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it is good for.
    pub description: Option<String>,
    /// JSON schema of its arguments.
    pub parameters: Value,
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// A JSON object.
    pub arguments: String,
}

impl Call {
    /// The arguments, taken apart; none where the reply was cut off within them.
    pub fn object(&self) -> Option<Map<String, Value>> {
        serde_json::from_str(&self.arguments).ok()
    }
}

/// What a model is told of the functions it may call. `is_required`: it has to call one. `one_only`: not several at once.
pub fn instructions(tools: &[Tool], is_required: bool, one_only: bool) -> String {
    let mut text = String::from("You can call these functions (with the JSON schemas of their arguments):\n");
    for tool in tools {
        let mut line = json!({ "name": tool.name });
        if let Some(description) = &tool.description {
            line["description"] = json!(description);
        }
        line["parameters"] = tool.parameters.clone();
        text.push_str(&format!("{line}\n"));
    }
    let when = match is_required {
        true => "Call what helps to answer the user.",
        false => "If a call helps to answer the user, call it; otherwise answer in plain text, without any such block.",
    };
    let how = match one_only {
        true => "A call is a reply that is nothing but this block, with one line of JSON:",
        false => "Calls are a reply that is nothing but this block, with one line of JSON for each call:",
    };
    text.push_str(&format!("{when} {how}\n{MARKER}"));
    text.push_str(&format!(
        "{BEFORE_NAME}\"FUNCTION\"{BEFORE_ARGUMENTS}{{\"ARGUMENT\": \"VALUE\"}}{AFTER_ARGUMENTS}{FENCE}\n"
    ));
    text.push_str("What the functions return comes in the next message.");
    text
}

/// A reply of earlier that called functions, as the model wrote it.
pub fn calls(calls: &[Call]) -> String {
    let line = |call: &Call| {
        let name = Value::from(call.name.as_str());
        format!("{BEFORE_NAME}{name}{BEFORE_ARGUMENTS}{}{AFTER_ARGUMENTS}", one_line(&call.arguments))
    };
    format!("{MARKER}{}{FENCE}", calls.iter().map(line).collect::<String>())
}

/// What a function returned, or how it failed, for the next user turn.
pub fn result(name: Option<&str>, content: &str, has_failed: bool) -> String {
    let mut line = json!({});
    if let Some(name) = name {
        line["name"] = json!(name);
    }
    let value = serde_json::from_str(content).unwrap_or_else(|_| Value::from(content));
    line[if has_failed { "error" } else { "result" }] = value;
    format!("```tool_result\n{line}\n{FENCE}")
}

/// JSON without line breaks; what is no JSON stays as it is.
fn one_line(text: &str) -> String {
    serde_json::from_str::<Value>(text).map_or_else(|_| text.to_owned(), |value| value.to_string())
}

/// The language of a block of calls, in llguidance's Lark. With `or`, a JSON schema with its options, also that of JSON in
/// place of a block.
pub fn grammar(tools: &[Tool], one_only: bool, or: Option<&Value>) -> String {
    let marker = Value::from(MARKER);
    let before_name = Value::from(BEFORE_NAME);
    let more = if one_only { String::new() } else { format!(" ({before_name} call)*") };
    let names: Vec<String> = (0..tools.len()).map(|at| format!("call{at}")).collect();
    let mut text = match or {
        // Whitespace may be anything, so no text is to be taken for granted.
        Some(schema) => {
            format!("%llguidance {{\"no_forcing\": true}}\nstart: calls | json\njson: %json {schema}\n")
        }
        None => String::from("%llguidance {}\nstart: calls\n"),
    };
    text.push_str(&format!("calls: {marker} {before_name} call{more} \"{FENCE}\"\n"));
    text.push_str(&format!("call: {}\n", names.join(" | ")));
    for (at, tool) in tools.iter().enumerate() {
        let head = Value::from(format!("{}{BEFORE_ARGUMENTS}", Value::from(tool.name.as_str())));
        let tail = Value::from(AFTER_ARGUMENTS);
        text.push_str(&format!(
            "call{at}: {head} args{at} {tail}\nargs{at}: %json {}\n",
            on_one_line(&tool.parameters)
        ));
    }
    text
}

/// The schema, of JSON that has blanks for whitespace.
fn on_one_line(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(map) = &mut schema {
        map.insert("x-guidance".into(), json!({ "whitespace_pattern": " ", "coerce_one_of": true }));
    }
    schema
}

/// What a piece of a reply turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text for the user.
    Text(String),
    /// A call of this function begins.
    Call(String),
    /// More of the arguments of the call that began last.
    Arguments(String),
}

/// The text and the calls of a whole reply.
pub fn take_apart(reply: &str) -> (String, Vec<Call>) {
    let mut reader = Reader::default();
    let mut parts = reader.push(reply);
    parts.extend(reader.finish());
    let (mut text, mut calls) = (String::new(), Vec::<Call>::new());
    for part in parts {
        match (part, calls.last_mut()) {
            (Part::Text(more), _) => text.push_str(&more),
            (Part::Call(name), _) => calls.push(Call { name, arguments: String::new() }),
            (Part::Arguments(more), Some(call)) => call.arguments.push_str(&more),
            (Part::Arguments(_), None) => {}
        }
    }
    (text, calls)
}

/// Takes a reply apart while it is written.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    state: State,
    /// What is not understood yet.
    held: String,
    has_calls: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing yet but perhaps the start of the marker.
    #[default]
    Start,
    /// No call.
    Text,
    /// At the start of a line of the block.
    Line,
    /// Within the arguments.
    Arguments,
    /// After the block.
    End,
}

impl Reader {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Vec<Part> {
        self.held.push_str(piece);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// What was held back, when nothing follows.
    pub fn finish(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Line if !self.has_calls => vec![Part::Text(format!("{MARKER}{held}"))],
            _ if held.is_empty() => Vec::new(),
            State::Start | State::Text => vec![Part::Text(held)],
            State::Arguments => vec![Part::Arguments(held)],
            State::Line | State::End => Vec::new(),
        }
    }

    /// Goes on by one step, if what is held is enough for it.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state {
            State::Start if self.held.len() < MARKER.len() && MARKER.starts_with(&self.held) => false,
            State::Start => {
                let is_block = self.held.starts_with(MARKER);
                self.state = if is_block { State::Line } else { State::Text };
                if is_block {
                    self.held.drain(..MARKER.len());
                }
                true
            }
            State::Text => {
                if !self.held.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut self.held)));
                }
                false
            }
            State::Line => {
                if self.held.starts_with(FENCE) {
                    self.state = State::End;
                    return true;
                }
                let held = self.held.as_str();
                if ![FENCE, BEFORE_NAME].iter().any(|known| known.starts_with(held) || held.starts_with(known)) {
                    // A block of the same name that somebody may want to read.
                    if !self.has_calls {
                        self.held.insert_str(0, MARKER);
                    }
                    self.state = State::Text;
                    return true;
                }
                let Some((name, length)) = head(held) else {
                    return false;
                };
                self.held.drain(..length);
                self.has_calls = true;
                self.state = State::Arguments;
                parts.push(Part::Call(name));
                true
            }
            State::Arguments => match self.held.find('\n') {
                Some(end) => {
                    let arguments = self.held[..end].strip_suffix('}').unwrap_or(&self.held[..end]);
                    if !arguments.is_empty() {
                        parts.push(Part::Arguments(arguments.to_owned()));
                    }
                    self.held.drain(..=end);
                    self.state = State::Line;
                    true
                }
                None => {
                    // The line's own brace must not be taken for the arguments' last.
                    let certain = self.held.strip_suffix('}').unwrap_or(&self.held).len();
                    if certain > 0 {
                        parts.push(Part::Arguments(self.held.drain(..certain).collect()));
                    }
                    false
                }
            },
            State::End => {
                self.held.clear();
                false
            }
        }
    }
}

/// The name in the beginning of a line, and the length of that beginning; none while it is not whole.
fn head(line: &str) -> Option<(String, usize)> {
    let rest = line.strip_prefix(BEFORE_NAME)?;
    let (name, rest) = rest.split_once(BEFORE_ARGUMENTS)?;
    let name = serde_json::from_str(name).ok()?;
    Some((name, line.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, n_bytes: usize) -> Vec<Part> {
        let mut reader = Reader::default();
        let mut parts: Vec<Part> = Vec::new();
        let pieces = text.as_bytes().chunks(n_bytes).map(|piece| std::str::from_utf8(piece).expect("ASCII"));
        for part in pieces.flat_map(|piece| reader.push(piece)).collect::<Vec<_>>().into_iter().chain(reader.finish()) {
            match (parts.last_mut(), part) {
                (Some(Part::Text(before)), Part::Text(more)) => before.push_str(&more),
                (Some(Part::Arguments(before)), Part::Arguments(more)) => before.push_str(&more),
                (_, part) => parts.push(part),
            }
        }
        parts
    }

    #[test]
    fn a_block_of_calls_is_read_however_it_is_cut() {
        let wanted = [
            Call { name: "get_weather".into(), arguments: r#"{"city": "Paris", "more": {"a": {}}}"#.into() },
            Call { name: "now".into(), arguments: "{}".into() },
        ];
        let text = calls(&wanted);
        for n_bytes in [1, 2, 3, 7, 20, 1000] {
            let mut found: Vec<Call> = Vec::new();
            for part in read(&text, n_bytes) {
                match part {
                    Part::Call(name) => found.push(Call { name, arguments: String::new() }),
                    Part::Arguments(more) => found.last_mut().expect("a call").arguments.push_str(&more),
                    Part::Text(text) => panic!("{text}"),
                }
            }
            let one_line = |call: &Call| Call { arguments: one_line(&call.arguments), ..call.clone() };
            assert_eq!(found, wanted.iter().map(one_line).collect::<Vec<_>>());
        }
    }

    #[test]
    fn other_replies_are_text_from_their_first_character() {
        let texts = [
            "Hello",
            "",
            "```rust\nfn main() {}\n```",
            "``",
            "```tool_call",
            "See:\n```tool_call\n",
            MARKER,
            "```tool_call\nf(1)\n```",
            "```tool_call\n{\"name\": \"f",
        ];
        for text in texts {
            for n_bytes in [1, 5, 100] {
                let want: Vec<Part> = Some(Part::Text(text.into())).into_iter().filter(|_| !text.is_empty()).collect();
                assert_eq!(read(text, n_bytes), want);
            }
        }
        let mut reader = Reader::default();
        assert_eq!(reader.push("``x"), [Part::Text("``x".into())], "not held back");
    }

    #[test]
    fn a_call_that_is_cut_off_keeps_what_there_is() {
        let text = "```tool_call\n{\"name\": \"f\", \"arguments\": {\"a\": 1";
        assert_eq!(read(text, 4), [Part::Call("f".into()), Part::Arguments("{\"a\": 1".into())]);
    }
}
