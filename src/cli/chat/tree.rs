//! A conversation as the chat page has it too: a tree of messages. Regenerating and editing add siblings; the visible branch
//! is a choice of one child at each fork. What this program does not use of a page's chat is kept and written again.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// The key of first messages among the choices.
const ROOT: &str = "";

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The person.
    User,
    /// The model.
    Model,
}

/// A text file that goes with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its name, without folders.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Unique in the conversation.
    pub id: String,
    /// The message before it; `None` for a first one.
    pub parent: Option<String>,
    /// Who wrote it.
    pub role: Role,
    /// Its text.
    pub content: String,
    /// Milliseconds since the epoch; siblings are ordered by it, then by id.
    pub time: u64,
    /// Files sent with it.
    pub files: Vec<Attachment>,
    /// Its other fields, as the page's format has them.
    pub other: Map<String, Value>,
}

/// A conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// Every message of every branch.
    messages: Vec<Message>,
    /// Parent (or [`ROOT`]) to the chosen child. Where nothing was chosen the newest child counts.
    choices: HashMap<String, String>,
    /// The first message that is sent; older ones are left out.
    send_from: Option<String>,
}

impl Message {
    /// The text as it is sent: files in fences before what was typed, each longer than any inside.
    pub fn sent_content(&self) -> String {
        let blocks = self.files.iter().map(|file| {
            let fence = "`".repeat(longest_run(&file.text, '`').max(2) + 1);
            let text = file.text.strip_suffix('\n').unwrap_or(&file.text);
            format!("{}\n{fence}\n{text}\n{fence}", file.name)
        });
        let parts: Vec<String> = blocks.chain((!self.content.is_empty()).then(|| self.content.clone())).collect();
        parts.join("\n\n")
    }
}

impl Tree {
    /// A tree of messages that were stored. Messages whose parent is missing or that form a circle become first ones, so
    /// that nothing is out of reach.
    pub fn from_records(
        mut messages: Vec<Message>,
        choices: HashMap<String, String>,
        send_from: Option<String>,
    ) -> Tree {
        let at: HashMap<String, usize> =
            messages.iter().enumerate().map(|(index, message)| (message.id.clone(), index)).collect();
        for message in &mut messages {
            message.parent = message.parent.take().filter(|parent| at.contains_key(parent));
        }
        let mut rooted = HashSet::new();
        for start in 0..messages.len() {
            let mut trail = HashSet::new();
            let mut next = Some(start);
            while let Some(index) = next.filter(|index| !rooted.contains(index)) {
                if !trail.insert(index) {
                    messages[index].parent = None;
                    break;
                }
                next = messages[index].parent.as_ref().and_then(|parent| at.get(parent).copied());
            }
            rooted.extend(trail);
        }
        Tree { messages, choices, send_from }
    }

    /// Every message, in no particular order.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Which child is shown, by parent.
    pub fn choices(&self) -> &HashMap<String, String> {
        &self.choices
    }

    /// The first message that is sent, where older ones are left out.
    pub fn send_from(&self) -> Option<&str> {
        self.send_from.as_deref()
    }

    /// The visible branch, first message first.
    pub fn path(&self) -> Vec<&Message> {
        let mut children: HashMap<&str, Vec<&Message>> = HashMap::new();
        for message in &self.messages {
            children.entry(message.parent.as_deref().unwrap_or(ROOT)).or_default().push(message);
        }
        let (mut path, mut key) = (Vec::new(), ROOT);
        while let Some(siblings) = children.get(key) {
            let chosen = self.choices.get(key).and_then(|id| siblings.iter().find(|message| message.id == *id));
            let newest = || siblings.iter().max_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
            let Some(message) = chosen.or_else(newest) else { break };
            path.push(*message);
            key = &message.id;
        }
        path
    }

    /// What is sent of the visible branch: all of it, or from the message that was set. `keeps_first` is for chats with
    /// instructions, which the first turn carries.
    pub fn sent(&self, keeps_first: bool) -> Vec<&Message> {
        let path = self.path();
        match path.iter().position(|message| Some(message.id.as_str()) == self.send_from.as_deref()) {
            None => path,
            Some(at) => from(&path, at, keeps_first),
        }
    }

    /// Sends no more than `fits` allows: leaves out the fewest of the oldest turns that it takes. False where the last
    /// user message alone is too much; then nothing changes.
    pub fn leave_out_oldest(&mut self, keeps_first: bool, mut fits: impl FnMut(&[&Message]) -> bool) -> bool {
        let path = self.path();
        let now = path.iter().position(|message| Some(message.id.as_str()) == self.send_from.as_deref()).unwrap_or(0);
        let starts = (now + 1..path.len()).filter(|&at| path[at].role == Role::User);
        let found = starts.into_iter().find(|&at| fits(&from(&path, at, keeps_first)));
        let found = found.map(|at| path[at].id.clone());
        let is_found = found.is_some();
        if is_found {
            self.send_from = found;
        }
        is_found
    }

    /// Adds a message at the end of the visible branch.
    pub fn push(&mut self, role: Role, content: String, files: Vec<Attachment>, other: Map<String, Value>) {
        let parent = self.path().last().map(|message| message.id.clone());
        self.add(parent, role, content, files, other);
    }

    /// Adds a sibling of a message of the visible branch, and shows it.
    pub fn push_beside(
        &mut self,
        id: &str,
        role: Role,
        content: String,
        files: Vec<Attachment>,
        other: Map<String, Value>,
    ) {
        let parent = self.messages.iter().find(|message| message.id == id).and_then(|message| message.parent.clone());
        self.add(parent, role, content, files, other);
    }

    /// The message, to be changed.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Message> {
        self.messages.iter_mut().find(|message| message.id == id)
    }

    /// Siblings of a message, itself included.
    pub fn n_alternatives(&self, id: &str) -> usize {
        let parent = self.messages.iter().find(|message| message.id == id).map(|message| &message.parent);
        self.messages.iter().filter(|message| Some(&message.parent) == parent).count()
    }

    /// The last message of the visible branch by `role`.
    pub fn last(&self, role: Role) -> Option<&Message> {
        self.path().into_iter().rfind(|message| message.role == role)
    }

    /// Removes a message and what is below it.
    pub fn remove(&mut self, id: &str) {
        let mut gone: HashSet<String> = HashSet::from([id.to_owned()]);
        loop {
            let before = gone.len();
            for message in &self.messages {
                if message.parent.as_ref().is_some_and(|parent| gone.contains(parent)) {
                    gone.insert(message.id.clone());
                }
            }
            if gone.len() == before {
                break;
            }
        }
        self.messages.retain(|message| !gone.contains(&message.id));
        self.choices.retain(|parent, child| !gone.contains(parent) && !gone.contains(child));
        self.send_from = self.send_from.take().filter(|id| !gone.contains(id));
    }

    /// Takes back the last user message with its alternatives and all that follows; its text and files. `None` where
    /// there is none.
    pub fn undo(&mut self) -> Option<(String, Vec<Attachment>)> {
        let last = self.last(Role::User)?;
        let (parent, taken) = (last.parent.clone(), (last.content.clone(), last.files.clone()));
        let siblings: Vec<String> =
            self.messages.iter().filter(|message| message.parent == parent).map(|message| message.id.clone()).collect();
        siblings.iter().for_each(|id| self.remove(id));
        Some(taken)
    }

    fn add(
        &mut self,
        parent: Option<String>,
        role: Role,
        content: String,
        files: Vec<Attachment>,
        other: Map<String, Value>,
    ) {
        // Siblings made in one millisecond keep their order.
        let newest = self.messages.iter().map(|message| message.time).max();
        let time = now_ms().max(newest.map_or(0, |time| time.saturating_add(1)));
        let id = new_id(time);
        self.choices.insert(parent.clone().unwrap_or_else(|| ROOT.into()), id.clone());
        self.messages.push(Message { id, parent, role, content, time, files, other });
    }
}

/// The path from `at` on; with the first turn where that carries the instructions.
fn from<'a>(path: &[&'a Message], at: usize, keeps_first: bool) -> Vec<&'a Message> {
    let second = path.iter().skip(1).position(|message| message.role == Role::User).map_or(0, |index| index + 1);
    let first = if keeps_first { second.min(at) } else { 0 };
    path[..first].iter().chain(&path[at..]).copied().collect()
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// 24 characters that nobody else uses, made as the page makes them: later ones sort later.
pub fn new_id(time_ms: u64) -> String {
    let mut random = [0; 8];
    // Without randomness the time alone has to do; within a tree it is never the same twice.
    let _ = getrandom::fill(&mut random);
    let mut digits = Vec::new();
    let mut rest = time_ms;
    while rest > 0 || digits.len() < 8 {
        digits.push(char::from_digit((rest % 36) as u32, 36).unwrap_or('0'));
        rest /= 36;
    }
    let time: String = digits.into_iter().rev().collect();
    random.iter().fold(time, |id, byte| format!("{id}{byte:02x}"))
}

fn longest_run(text: &str, of: char) -> usize {
    text.split(|c| c != of).map(str::len).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(turns: &[&str]) -> Tree {
        let mut tree = Tree::default();
        for (index, text) in turns.iter().enumerate() {
            let role = if index % 2 == 0 { Role::User } else { Role::Model };
            tree.push(role, (*text).into(), Vec::new(), Map::new());
        }
        tree
    }

    fn texts<'a>(path: &[&'a Message]) -> Vec<&'a str> {
        path.iter().map(|message| message.content.as_str()).collect()
    }

    #[test]
    fn a_regenerated_reply_and_an_edited_message_are_siblings() {
        let mut tree = tree(&["a", "b", "c", "d"]);
        let last = tree.last(Role::Model).unwrap().id.clone();
        tree.push_beside(&last, Role::Model, "D".into(), Vec::new(), Map::new());
        assert_eq!(texts(&tree.path()), ["a", "b", "c", "D"]);
        assert_eq!(tree.n_alternatives(&last), 2);
        let c = tree.last(Role::User).unwrap().id.clone();
        tree.push_beside(&c, Role::User, "C".into(), Vec::new(), Map::new());
        assert_eq!(texts(&tree.path()), ["a", "b", "C"]);
        assert_eq!(tree.messages().len(), 6, "nothing was removed");
        tree.choices.insert(tree.path()[1].id.clone(), c);
        assert_eq!(texts(&tree.path()), ["a", "b", "c", "D"], "each fork remembers what was chosen");
    }

    #[test]
    fn undo_takes_the_last_message_and_all_that_follows_it() {
        let mut tree = tree(&["a", "b", "c", "d"]);
        let c = tree.last(Role::User).unwrap().id.clone();
        tree.push_beside(&c, Role::User, "C".into(), Vec::new(), Map::new());
        assert_eq!(tree.undo().unwrap().0, "C");
        assert_eq!(texts(&tree.path()), ["a", "b"]);
        assert_eq!(tree.messages().len(), 2);
        assert_eq!(tree.undo().unwrap().0, "a");
        assert_eq!((tree.undo(), tree.messages().len()), (None, 0));
    }

    #[test]
    fn the_oldest_turns_are_left_out_and_stay_in_the_tree() {
        let mut tree = tree(&["a", "b", "c", "d", "e"]);
        assert!(tree.leave_out_oldest(false, |sent| sent.len() <= 3));
        assert_eq!(texts(&tree.sent(false)), ["c", "d", "e"]);
        assert_eq!(
            texts(&tree.sent(true)),
            ["a", "b", "c", "d", "e"][..2].iter().chain(&["c", "d", "e"]).copied().collect::<Vec<_>>()
        );
        assert_eq!(tree.path().len(), 5);
        assert!(tree.leave_out_oldest(false, |sent| sent.len() <= 1));
        assert_eq!(texts(&tree.sent(false)), ["e"]);
        assert!(!tree.leave_out_oldest(false, |_| false));
    }

    #[test]
    fn files_are_sent_in_fences_longer_than_any_inside() {
        let file = |text: &str| Attachment { name: "a.md".into(), text: text.into() };
        let message =
            |content: &str, files| Message { content: content.into(), files, ..tree(&["x"]).messages()[0].clone() };
        assert_eq!(message("Why?", vec![file("x\n")]).sent_content(), "a.md\n```\nx\n```\n\nWhy?");
        assert_eq!(message("", vec![file("```\n````")]).sent_content(), "a.md\n`````\n```\n````\n`````");
        assert_eq!(message("plain", Vec::new()).sent_content(), "plain");
    }

    #[test]
    fn ids_sort_by_time_as_the_page_s_do() {
        let (a, b) = (new_id(1_700_000_000_000), new_id(1_700_000_000_001));
        assert!(a < b && a.len() == 24, "{a} {b}");
    }

    proptest! {
        #[test]
        fn any_records_make_a_tree_in_which_each_message_reaches_the_start(
            parents in prop::collection::vec(prop::option::of(0usize..12), 0..10)
        ) {
            let record = |(index, parent): (usize, &Option<usize>)| Message {
                id: index.to_string(),
                parent: parent.map(|parent| parent.to_string()),
                role: Role::User,
                content: String::new(),
                time: 0,
                files: Vec::new(),
                other: Map::new(),
            };
            let tree = Tree::from_records(parents.iter().enumerate().map(record).collect(), HashMap::new(), None);
            prop_assert_eq!(tree.messages().len(), parents.len());
            for message in tree.messages() {
                let (mut at, mut steps) = (message, 0);
                while let Some(parent) = &at.parent {
                    at = tree.messages().iter().find(|other| other.id == *parent).unwrap();
                    steps += 1;
                    prop_assert!(steps <= parents.len());
                }
            }
            prop_assert!(tree.path().len() <= parents.len());
        }
    }
}
