//! Which members of an archive make a model, by their names alone: so it is the same for files of other tools.

use std::collections::HashMap;

use super::locate::{Bundle, is_weights};

/// A model among an archive's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedModel {
    /// What `--model-name` calls it: the file's name without its ending, or that of the folder.
    pub name: String,
    /// Its members in the archive's order: one GGUF file, all parts of a split one, or the files of a folder.
    pub members: Vec<String>,
}

/// Endings of files that safetensors in the same folder need.
const FOLDER_ENDINGS: &[&str] = &[".json", ".jinja"];
/// The name of a model whose files lie in no folder.
const UNNAMED: &str = "gemma2";

impl Bundle {
    /// Its models, in the archive's order.
    pub fn models(&self) -> Vec<PackedModel> {
        group(self.archive.entries.iter().map(|entry| entry.name.as_str()))
    }
}

/// In time that grows with the number of names only: an archive may have millions.
fn group<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<PackedModel> {
    let mut places: HashMap<Key<'a>, usize> = HashMap::new();
    let mut models: Vec<PackedModel> = Vec::new();
    for key in names.clone().filter(|name| is_weights(name)).map(Key::of) {
        places.entry(key).or_insert_with(|| {
            models.push(PackedModel { name: key.name().to_owned(), members: Vec::new() });
            models.len() - 1
        });
    }
    for name in names.filter(|name| is_weights(name) || belongs_to_folder(name)) {
        if let Some(&place) = places.get(&Key::of(name)) {
            models[place].members.push(name.to_owned());
        }
    }
    models
}

/// Whether safetensors in the same folder may need it.
fn belongs_to_folder(name: &str) -> bool {
    name != super::MANIFEST_MEMBER && FOLDER_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// What the members of one model have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'a> {
    /// The path of a GGUF file, without its ending and the number of its part.
    Gguf(&'a str),
    /// A folder with its `/`, or nothing.
    Folder(&'a str),
}

impl<'a> Key<'a> {
    fn of(name: &'a str) -> Key<'a> {
        match name.strip_suffix(".gguf") {
            Some(stem) => Key::Gguf(split_parts(name).map_or(stem, |(stem, _)| stem)),
            None => Key::Folder(folder(name)),
        }
    }

    fn name(self) -> &'a str {
        let path = match self {
            Key::Gguf(path) | Key::Folder(path) => path.trim_end_matches('/'),
        };
        match path.rsplit('/').next() {
            Some(name) if !name.is_empty() => name,
            _ => UNNAMED,
        }
    }
}

fn folder(name: &str) -> &str {
    name.rfind('/').map_or("", |at| &name[..=at])
}

/// Stem and number of parts of a name like `model-00002-of-00003.gguf`.
pub(super) fn split_parts(name: &str) -> Option<(&str, u32)> {
    let number = |text: &str| -> Option<u32> {
        let is_number = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| is_number)
    };
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let (part, count) = (number(part)?, number(count)?);
    (1..=count).contains(&part).then_some((stem, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_split_files_are_told_from_others() {
        assert_eq!(split_parts("a-b-00002-of-00003.gguf"), Some(("a-b", 3)));
        for name in ["a.gguf", "a-00004-of-00003.gguf", "a-2-of-3.gguf", "a-00001-of-00002.bin"] {
            assert_eq!(split_parts(name), None, "{name}");
        }
    }

    #[test]
    fn members_are_grouped_into_models_by_their_names() {
        let names = [
            "manifest.json",
            ".args",
            "b.gguf",
            "big-00001-of-00002.gguf",
            "big-00002-of-00002.gguf",
            "it/config.json",
            "it/tokenizer.json",
            "it/model.safetensors",
            "x/a.gguf",
        ];
        let models = group(names.into_iter());
        let found: Vec<(&str, usize)> = models.iter().map(|m| (m.name.as_str(), m.members.len())).collect();
        assert_eq!(found, [("b", 1), ("big", 2), ("it", 3), ("a", 1)]);
        let models = group(["manifest.json", "config.json", "a.safetensors", "b.safetensors", "LICENSE"].into_iter());
        assert_eq!(models.len(), 1);
        assert_eq!((models[0].name.as_str(), models[0].members.len()), ("gemma2", 3));
        assert!(group(["LICENSE", "x/config.json"].into_iter()).is_empty());
    }
}
