//! Hugging Face's `tokenizer.json`, as far as Gemma uses it.
//!
//! The file is general: normalizers, pre-tokenizers and models of many kinds. Here its settings must be Gemma's, and
//! all others are refused, since they would give other ids without a word.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::encode::SPACE_MARK;
use super::special::CutList;
use super::vocab::{Ranks, SpecialIds, Vocab, VocabParts, parse_byte_piece, push_with_spaces};
use super::{TokenId, TokenizerError};
use crate::error::name_for_people;
use crate::weights::TokenType;

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow, default)]
    added_tokens: Vec<AddedToken<'a>>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken<'a> {
    id: TokenId,
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    dropout: Option<f64>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: TokenTable,
    merges: MergeList,
}

/// Reads and checks the file.
pub(super) fn read(json: &[u8], ids: &SpecialIds) -> Result<Vocab, TokenizerError> {
    // Checked as a whole, which is faster than string by string.
    let json = std::str::from_utf8(json).map_err(serde_json::Error::custom)?;
    let file: File = serde_json::from_str(json)?;
    check_form(&file).map_err(TokenizerError::NotGemma)?;
    let File { added_tokens, model, .. } = file;

    let mut parts = VocabParts::default();
    let mut cut_texts = Vec::with_capacity(added_tokens.len());
    for (piece, id) in model.vocab.iter() {
        let stated = match parse_byte_piece(piece) {
            Some(_) if model.byte_fallback => TokenType::Byte,
            _ => TokenType::Normal,
        };
        let kind = parts.push(id as usize, piece, stated, ids)?;
        // A plain space in a piece meets nothing: texts have spaces for U+2581 only.
        parts.set_merged(id, kind == TokenType::Normal && !piece.contains(&b' '));
        if kind == TokenType::Control
            && let Ok(text) = std::str::from_utf8(piece)
        {
            cut_texts.push((text, id, true));
        }
        if let Some(unknown) = &model.unk_token
            && unknown.as_bytes() == piece
        {
            parts.unknown = Some(id);
        }
    }
    for token in &added_tokens {
        let stated = match token.special {
            true => TokenType::Control,
            false => TokenType::UserDefined,
        };
        // Space runs are user-defined and made by merging too: the text has spaces where their content has U+2581.
        let was_merged = parts.is_merged.get(token.id as usize) == Some(&true);
        let kind = parts.push(token.id as usize, token.content.as_bytes(), stated, ids)?;
        let is_control = kind == TokenType::Control;
        parts.set_merged(token.id, was_merged && !is_control);
        cut_texts.push((token.content.as_ref(), token.id, is_control));
    }
    parts.cuts = CutList::new(cut_texts.into_iter());
    parts.fuse_unknown = model.fuse_unk;
    let no_merges = Ranks::ByHalves { starts: Vec::new(), merges: Vec::new() };
    let mut vocab = Vocab::new(parts, no_merges, ids)?;
    let ranks = model.merges.ranks(&vocab);
    vocab.set_ranks(ranks);
    Ok(vocab)
}

/// Whether the settings are Gemma's; if not, which one is another.
fn check_form(file: &File) -> Result<(), String> {
    let model = &file.model;
    let gemma = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK});
    if file.normalizer != gemma {
        return Err("its normalizer does something else than writing U+2581 for spaces".into());
    }
    // After the normalizer there is no space left, so splitting at spaces does nothing; Gemma's file does have it.
    let pre_tokenizer = &file.pre_tokenizer;
    let splits_at_spaces = pre_tokenizer["type"] == "Split" && pre_tokenizer["pattern"] == json!({"String": " "});
    if !pre_tokenizer.is_null() && !splits_at_spaces {
        return Err(format!("it has a pre-tokenizer, `{}`", type_of(pre_tokenizer)));
    }
    // Gemma's template puts `<bos>` in front, which is done here for both file formats.
    let post_processor = &file.post_processor;
    if !post_processor.is_null() && post_processor["type"] != "TemplateProcessing" {
        return Err(format!("it has a post-processor, `{}`", type_of(post_processor)));
    }
    if model.kind != "BPE" {
        return Err(format!("its model is `{}`, not `BPE`", name_for_people(model.kind.as_bytes())));
    }
    let is_set = |affix: &Option<String>| affix.as_ref().is_some_and(|affix| !affix.is_empty());
    for (name, differs) in [
        ("dropout", model.dropout.is_some_and(|p| p != 0.0)),
        ("ignore_merges", model.ignore_merges),
        ("continuing_subword_prefix", is_set(&model.continuing_subword_prefix)),
        ("end_of_word_suffix", is_set(&model.end_of_word_suffix)),
    ] {
        if differs {
            return Err(format!("its model has `{name}` set"));
        }
    }
    for token in &file.added_tokens {
        let meets_normalizer = token.normalized && (token.content.contains(' ') || token.content.contains(SPACE_MARK));
        if token.single_word || token.lstrip || token.rstrip || meets_normalizer {
            return Err(format!(
                "the added token `{}` has `single_word`, `lstrip`, `rstrip` or `normalized` set",
                name_for_people(token.content.as_bytes())
            ));
        }
    }
    Ok(())
}

/// The `type` of a part of the file, for messages.
fn type_of(part: &Value) -> String {
    name_for_people(part["type"].as_str().unwrap_or("?").as_bytes())
}

/// `vocab`: pieces and ids in the order of the file, without a `String` for each.
#[derive(Default)]
struct TokenTable {
    bytes: Vec<u8>,
    /// (end of the piece in `bytes`, id)
    tokens: Vec<(usize, TokenId)>,
}

impl TokenTable {
    fn iter(&self) -> impl Iterator<Item = (&[u8], TokenId)> {
        let mut start = 0;
        self.tokens.iter().map(move |&(end, id)| {
            let piece = &self.bytes[start..end];
            start = end;
            (piece, id)
        })
    }
}

/// `merges`, best first; each is the two halves joined, with spaces for U+2581.
#[derive(Default)]
struct MergeList {
    bytes: Vec<u8>,
    /// (bytes of the left half, bytes of both)
    lengths: Vec<(u32, u32)>,
}

impl MergeList {
    fn push(&mut self, left: &[u8], right: &[u8]) -> Result<(), String> {
        let start = self.bytes.len();
        push_with_spaces(&mut self.bytes, left);
        let n_left = self.bytes.len() - start;
        push_with_spaces(&mut self.bytes, right);
        let n_joined = self.bytes.len() - start;
        match (u32::try_from(n_left), u32::try_from(n_joined)) {
            (Ok(n_left), Ok(n_joined)) => self.lengths.push((n_left, n_joined)),
            _ => return Err("a merge is too long".into()),
        }
        Ok(())
    }

    /// Groups the merges by the token they give. Those that give none, or a control token, never happen.
    fn ranks(&self, vocab: &Vocab) -> Ranks {
        let mut given = Vec::with_capacity(self.lengths.len());
        let mut starts = vec![0u32; vocab.n_vocab() + 1];
        // In real files the merges that give the same token stand side by side.
        let mut last: (&[u8], Option<TokenId>) = (&[], None);
        let mut start = 0;
        for &(_, n_joined) in &self.lengths {
            let joined = &self.bytes[start..start + n_joined as usize];
            start += n_joined as usize;
            if last.0 != joined {
                last = (joined, vocab.by_piece(joined));
            }
            given.push(last.1);
            if let Some(id) = last.1 {
                starts[id as usize + 1] += 1;
            }
        }
        for id in 1..starts.len() {
            starts[id] += starts[id - 1];
        }
        let mut merges = vec![(0, 0); starts.last().map_or(0, |&n| n as usize)];
        let mut next = starts.clone();
        for (rank, (id, &(n_left, _))) in given.into_iter().zip(&self.lengths).enumerate() {
            if let Some(id) = id {
                let slot = &mut next[id as usize];
                merges[*slot as usize] = (n_left, rank as u32);
                *slot += 1;
            }
        }
        for range in starts.windows(2) {
            merges[range[0] as usize..range[1] as usize].sort_unstable();
        }
        Ranks::ByHalves { starts, merges }
    }
}

impl<'de> Deserialize<'de> for TokenTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TokenTable, D::Error> {
        struct TableVisitor;
        impl<'de> Visitor<'de> for TableVisitor {
            type Value = TokenTable;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tokens and ids")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TokenTable, A::Error> {
                let mut table = TokenTable::default();
                while map.next_key_seed(AppendString(&mut table.bytes))?.is_some() {
                    table.tokens.push((table.bytes.len(), map.next_value()?));
                }
                Ok(table)
            }
        }
        deserializer.deserialize_map(TableVisitor)
    }
}

impl<'de> Deserialize<'de> for MergeList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MergeList, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = MergeList;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of merges")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<MergeList, A::Error> {
                let mut list = MergeList::default();
                while seq.next_element_seed(AppendMerge(&mut list))?.is_some() {}
                Ok(list)
            }
        }
        deserializer.deserialize_seq(ListVisitor)
    }
}

/// Appends a string's bytes.
struct AppendString<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for AppendString<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for AppendString<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a token")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Appends a merge: `"left right"` in older files, `["left", "right"]` in newer ones.
struct AppendMerge<'a>(&'a mut MergeList);

impl<'de> DeserializeSeed<'de> for AppendMerge<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AppendMerge<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a merge of two tokens")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let (left, right) = text
            .split_once(' ')
            .filter(|(_, right)| !right.contains(' '))
            .ok_or_else(|| E::custom("a merge is not two tokens with a space between"))?;
        self.0.push(left.as_bytes(), right.as_bytes()).map_err(E::custom)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut half = || -> Result<Cow<'de, str>, A::Error> {
            let half: Option<Borrowed<'de>> = seq.next_element()?;
            half.map(|half| half.0).ok_or_else(|| A::Error::custom("a merge is not two tokens"))
        };
        let (left, right) = (half()?, half()?);
        if seq.next_element::<serde::de::IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("a merge is not two tokens"));
        }
        self.0.push(left.as_bytes(), right.as_bytes()).map_err(A::Error::custom)
    }
}

/// A string that is copied only where it has escapes.
#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
