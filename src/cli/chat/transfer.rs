//! Chats in the page's own format (`web/src/export.js`), so that a chat moves between both, and as Markdown.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::tree::{Attachment, Message, Role, Tree, new_id, now_ms};

const FORMAT: &str = "gemma2-chat";
const VERSION: u64 = 1;
/// As the page's: larger than any chat a person could type, so that a wrong file fails at once.
pub const LARGEST_FILE: u64 = 200 << 20;

/// A chat as a file holds it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// The messages.
    pub tree: Tree,
    /// What the chat changes of the settings, under the page's names.
    pub settings: Map<String, Value>,
    /// The other fields of the page's conversation: id, title, …; empty for a chat that has not been saved yet.
    pub other: Map<String, Value>,
}

/// Why a file is no chat.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// No JSON.
    #[error("it is no JSON: {0}")]
    NotJson(String),
    /// JSON of something else.
    #[error("it is no chat of gemma2 (`\"format\": \"gemma2-chat\"` is missing)")]
    NotOurs,
    /// Made by a later version.
    #[error("it is of version {0}; this program reads version {VERSION}")]
    TooNew(u64),
    /// Something in it has the wrong form.
    #[error("it is damaged: {0}")]
    Broken(String),
    /// A raw text of the page, which has no messages.
    #[error("its chats are raw texts, which have no turns")]
    OnlyTexts,
}

/// The chat of a file that was changed last, and how many others there are.
///
/// # Errors
/// A file that the page would refuse too.
pub fn read(text: &str) -> Result<(Chat, usize), TransferError> {
    let file: Value = serde_json::from_str(text).map_err(|error| TransferError::NotJson(error.to_string()))?;
    let version = match (file["format"].as_str(), file["version"].as_u64()) {
        (Some(FORMAT), Some(version)) => version,
        _ => return Err(TransferError::NotOurs),
    };
    if version > VERSION {
        return Err(TransferError::TooNew(version));
    }
    let broken = |what: &str| TransferError::Broken(what.into());
    let chats = file["chats"].as_array().ok_or_else(|| broken("`chats` is no list"))?;
    let mut read = chats.iter().map(read_chat).collect::<Result<Vec<_>, _>>()?;
    if read.is_empty() {
        return Err(broken("`chats` is empty"));
    }
    read.retain(|chat| !chat.other.contains_key("text"));
    let n_others = chats.len().saturating_sub(1);
    let updated = |chat: &Chat| chat.other.get("updated").and_then(Value::as_u64).unwrap_or_default();
    let chat = read.into_iter().max_by_key(updated).ok_or(TransferError::OnlyTexts)?;
    Ok((chat, n_others))
}

fn read_chat(chat: &Value) -> Result<Chat, TransferError> {
    let broken = |what: &str| TransferError::Broken(what.into());
    let from = chat["conversation"].as_object().ok_or_else(|| broken("a chat has no `conversation`"))?;
    let is_named =
        |object: &Map<String, Value>| object.get("id").and_then(Value::as_str).is_some_and(|id| !id.is_empty());
    if !is_named(from) || !from.get("title").is_some_and(Value::is_string) {
        return Err(broken("a conversation has no `id` and `title`"));
    }
    let list = chat["messages"].as_array().ok_or_else(|| broken("`messages` is no list"))?;
    let messages = list.iter().map(read_message).collect::<Option<Vec<_>>>();
    let messages = messages.ok_or_else(|| broken("a message has the wrong form"))?;
    let ids: HashSet<&str> = messages.iter().map(|message| message.id.as_str()).collect();
    if ids.len() < messages.len() {
        return Err(broken("two messages have the same `id`"));
    }
    let mut other = from.clone();
    let choices = match other.remove("choices") {
        Some(Value::Object(choices)) => choices
            .into_iter()
            .filter_map(|(parent, child)| Some((parent, child.as_str()?.to_owned())))
            .collect::<HashMap<_, _>>(),
        _ => HashMap::new(),
    };
    let send_from = other.remove("sendFrom").and_then(|id| id.as_str().map(str::to_owned));
    let settings = match other.remove("settings") {
        Some(Value::Object(settings)) => settings,
        _ => Map::new(),
    };
    Ok(Chat { tree: Tree::from_records(messages, choices, send_from), settings, other })
}

fn read_message(message: &Value) -> Option<Message> {
    let mut other = message.as_object()?.clone();
    let mut text = |name: &str| match other.remove(name)? {
        Value::String(text) => Some(text),
        _ => None,
    };
    let (id, role, content) = (text("id")?, text("role")?, text("content")?);
    let parent = match other.remove("parent")? {
        Value::Null => None,
        Value::String(parent) => Some(parent),
        _ => return None,
    };
    let files = match other.remove("files") {
        Some(Value::Array(files)) => files.iter().filter_map(read_file).collect(),
        _ => Vec::new(),
    };
    let role = match role.as_str() {
        "user" => Role::User,
        "assistant" => Role::Model,
        _ => return None,
    };
    let time = other.remove("time").and_then(|time| time.as_f64()).map_or(0, |time| time.max(0.0) as u64);
    // The chat's own id is written again with it.
    other.remove("conversation");
    (!id.is_empty()).then_some(Message { id, parent, role, content, time, files, other })
}

fn read_file(file: &Value) -> Option<Attachment> {
    Some(Attachment { name: file["name"].as_str()?.to_owned(), text: file["text"].as_str()?.to_owned() })
}

/// A chat as JSON that [`read`] and the page's import take. Gives a new chat its id and title.
pub fn write(chat: &mut Chat) -> String {
    let now = now_ms();
    let first = chat.tree.path().first().map(|message| message.content.clone());
    let other = &mut chat.other;
    other.entry("id").or_insert_with(|| new_id(now).into());
    if other.get("title").and_then(Value::as_str).is_none_or(str::is_empty) {
        other.insert("title".into(), title(&first.unwrap_or_default()).into());
    }
    other.entry("created").or_insert_with(|| now.into());
    other.insert("updated".into(), now.into());
    let mut conversation = other.clone();
    conversation.insert("choices".into(), json!(chat.tree.choices()));
    conversation.insert("settings".into(), Value::Object(chat.settings.clone()));
    if let Some(id) = chat.tree.send_from() {
        conversation.insert("sendFrom".into(), id.into());
    }
    let id = conversation.get("id").cloned().unwrap_or_default();
    let mut messages: Vec<&Message> = chat.tree.messages().iter().collect();
    messages.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    let messages: Vec<Value> = messages.into_iter().map(|message| message_value(message, &id)).collect();
    let file = json!({
        "format": FORMAT,
        "version": VERSION,
        "chats": [{ "conversation": conversation, "messages": messages }],
    });
    format!("{file:#}\n")
}

fn message_value(message: &Message, conversation: &Value) -> Value {
    let mut object = message.other.clone();
    let role = match message.role {
        Role::User => "user",
        Role::Model => "assistant",
    };
    object.insert("id".into(), message.id.clone().into());
    object.insert("conversation".into(), conversation.clone());
    object.insert("parent".into(), message.parent.clone().into());
    object.insert("role".into(), role.into());
    object.insert("content".into(), message.content.clone().into());
    object.insert("time".into(), message.time.into());
    object.entry("status").or_insert_with(|| "complete".into());
    if !message.files.is_empty() {
        let files: Vec<Value> =
            message.files.iter().map(|file| json!({ "name": file.name, "text": file.text })).collect();
        object.insert("files".into(), files.into());
    }
    Value::Object(object)
}

/// The first line of the first message, at most 60 characters, as the page does it.
fn title(first: &str) -> String {
    let line = first.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    if line.chars().count() <= 60 {
        return line.to_owned();
    }
    line.chars().take(59).chain(['…']).collect()
}

/// The visible branch as Markdown, with a head that says which model wrote it and how.
pub fn markdown(chat: &Chat, date: &str) -> String {
    let path = chat.tree.path();
    let first = path.first().map_or("", |message| message.content.as_str());
    let named = chat.other.get("title").and_then(Value::as_str).filter(|title| !title.is_empty());
    let mut out = format!("---\ntitle: {}\ndate: {date}\n", json!(named.map_or_else(|| title(first), str::to_owned)));
    let last = path.iter().rfind(|message| message.role == Role::Model);
    if let Some(model) = last.and_then(|message| message.other.get("model")) {
        out += &format!("model: {model}\n");
    }
    for (name, value) in last.and_then(|message| message.other.get("params")?.as_object()).into_iter().flatten() {
        out += &format!("{name}: {value}\n");
    }
    out += "---\n";
    for message in path {
        let is_demo = message.other.get("demo") == Some(&Value::Bool(true));
        let speaker = match message.role {
            Role::User => "You",
            Role::Model if is_demo => "Gemma (demo)",
            Role::Model => "Gemma",
        };
        out += &format!("\n## {speaker}\n\n{}\n", message.sent_content().trim());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by the page's exporter: `web/test/chat-fixture.mjs`.
    const FROM_THE_PAGE: &str = include_str!("../../../tests/fixtures/chat/page.json");

    #[test]
    fn a_chat_of_the_page_is_read_with_all_its_branches() {
        let (chat, n_others) = read(FROM_THE_PAGE).unwrap();
        assert_eq!(n_others, 1);
        let path = chat.tree.path();
        let texts: Vec<&str> = path.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(texts, ["Hello, who are you?\n", "I am **Gemma**. 😀", "Say it again", "I am Gemma."]);
        assert_eq!(chat.tree.messages().len(), 5, "the other reply is there too");
        assert_eq!(path[0].files, [Attachment { name: "notes.txt".into(), text: "one\ntwo\n".into() }]);
        assert_eq!(chat.settings["temperature"], 0.5);
        assert_eq!(chat.settings["system"], "Be brief.");
    }

    #[test]
    fn what_was_read_is_written_again_without_a_loss() {
        let (mut chat, _) = read(FROM_THE_PAGE).unwrap();
        let original: Value = serde_json::from_str(FROM_THE_PAGE).unwrap();
        let mut written: Value = serde_json::from_str(&write(&mut chat)).unwrap();
        let mut expected = original["chats"][0].clone();
        for file in [&mut expected, &mut written["chats"][0]] {
            file["conversation"]["updated"] = 0.into();
        }
        assert_eq!(written["chats"][0], expected);
        assert_eq!(read(&write(&mut chat)).unwrap().0, chat);
    }

    #[test]
    fn a_file_that_is_no_chat_is_refused_with_the_reason() {
        let check = |change: fn(&mut Value), expected: &str| {
            let mut file: Value = serde_json::from_str(FROM_THE_PAGE).unwrap();
            change(&mut file);
            let error = read(&file.to_string()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|file| file["format"] = "other".into(), "no chat of gemma2");
        check(|file| file["version"] = 2.into(), "version 2");
        check(|file| file["chats"] = json!({}), "no list");
        check(|file| file["chats"] = json!([]), "empty");
        check(|file| file["chats"][0]["messages"][1]["role"] = "system".into(), "wrong form");
        check(|file| file["chats"][0]["messages"][1]["content"] = 5.into(), "wrong form");
        check(
            |file| file["chats"][0]["messages"][1]["id"] = file["chats"][0]["messages"][0]["id"].clone(),
            "same `id`",
        );
        check(|file| file["chats"][0]["conversation"]["id"] = Value::Null, "`id` and `title`");
        for text in ["", "[1", "null", "[]", "5"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn markdown_has_a_head_and_says_who_spoke() {
        let (chat, _) = read(FROM_THE_PAGE).unwrap();
        let text = markdown(&chat, "2026-01-02");
        let head =
            "---\ntitle: \"Hello, who are you?\"\ndate: 2026-01-02\nmodel: \"Demo\"\nseed: 4\ntemperature: 0.5\n---\n";
        assert!(text.starts_with(head), "{text}");
        assert!(text.contains("\n## You\n\nnotes.txt\n```\none\ntwo\n```\n\nHello, who are you?\n"), "{text}");
        assert!(text.ends_with("\n## Gemma (demo)\n\nI am Gemma.\n"), "{text}");
    }

    #[test]
    fn titles_are_the_first_line() {
        assert_eq!(title("\n Hello \nyou"), "Hello");
        let long = title(&"ä".repeat(80));
        assert_eq!((long.chars().count(), long.ends_with('…')), (60, true));
    }
}
