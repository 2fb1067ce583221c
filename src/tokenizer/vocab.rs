//! The table behind both directions: pieces by id, ids by piece, and which merge comes first.

use std::hash::{BuildHasher, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::encode::SPACE_MARK;
use super::special::CutList;
use super::{TokenId, TokenizerError};
use crate::weights::TokenType;

/// No Gemma has more than 256,000 tokens; an id from a damaged file must not size a table.
pub const MAX_TOKENS: usize = 1 << 20;
/// The longest piece of Gemma 2 has 93 bytes. A bound keeps encoding linear in the text, whatever the file says.
pub const MAX_PIECE_BYTES: usize = 4096;

/// A token as GGUF metadata describes it.
#[derive(Clone, Copy, Debug)]
pub struct SentencePieceToken<'a> {
    /// With U+2581 for spaces if it is normal, with plain spaces if it is user-defined, `<0x41>` if it is a byte.
    pub piece: &'a [u8],
    /// Pieces with a higher score are made first.
    pub score: f32,
    /// What it is.
    pub kind: TokenType,
}

/// A token as GGUF metadata is to describe it: see [`SentencePieceToken`].
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedToken {
    /// See [`SentencePieceToken::piece`].
    pub piece: Vec<u8>,
    /// See [`SentencePieceToken::score`].
    pub score: f32,
    /// What it is.
    pub kind: TokenType,
}

/// What a model file says beside the tokens. What it does not say is found by the tokens' text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Starts every prompt.
    pub bos: Option<TokenId>,
    /// Ends a text.
    pub eos: Option<TokenId>,
    /// Stands for text that cannot be expressed.
    pub unknown: Option<TokenId>,
    /// All tokens that end a reply, beside `eos` and `<end_of_turn>`: the list in `generation_config.json`, or
    /// GGUF's `tokenizer.ggml.eot_token_id`.
    pub ends: Vec<TokenId>,
    /// A space is put before a text. Never for a Gemma 2, and then decoding does not take it away again.
    pub add_space_prefix: bool,
}

/// The control tokens of Gemma. They count as such even where a converter has marked them as text.
const CONTROL_TEXTS: [&[u8]; 6] = [b"<pad>", b"<eos>", b"<bos>", b"<unk>", b"<start_of_turn>", b"<end_of_turn>"];

/// A vocabulary. Pieces have plain spaces here, never U+2581.
pub(super) struct Vocab {
    pieces: Pieces,
    kinds: Vec<TokenType>,
    /// Tokens that merging can give, keyed by their piece.
    by_piece: HashTable<TokenId>,
    hasher: DefaultHashBuilder,
    ranks: Ranks,
    cuts: CutList,
    /// Token of each byte.
    bytes: [Option<TokenId>; 256],
    unknown: Option<TokenId>,
    fuse_unknown: bool,
    add_space_prefix: bool,
    /// Bit `256 * a + b`: some piece has byte `a` followed by byte `b`.
    neighbors: Vec<u64>,
    /// Bytes of the longest piece in `by_piece`.
    longest: usize,
}

/// Bytes of all tokens in one place; a token is a range of it.
#[derive(Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// (start, length); ids that a file leaves out are empty.
    spans: Vec<(u32, u32)>,
}

/// What decides which merge comes first; the lowest rank wins.
pub(super) enum Ranks {
    /// SentencePiece: by the piece that a merge gives.
    ByPiece(Vec<u32>),
    /// `tokenizer.json`: by the two halves. A piece's merges are `merges[starts[id]..starts[id + 1]]`, each with the
    /// length of the left half, sorted by it, and the rank.
    ByHalves { starts: Vec<u32>, merges: Vec<(u32, u32)> },
}

impl Pieces {
    /// Stores the bytes of token `id`, with spaces for U+2581.
    pub fn set(&mut self, id: usize, piece: &[u8]) -> Result<(), TokenizerError> {
        if id >= MAX_TOKENS {
            return Err(TokenizerError::Implausible(format!(
                "it has a token {id}, and the most allowed is {MAX_TOKENS}"
            )));
        }
        if piece.len() > MAX_PIECE_BYTES {
            return Err(TokenizerError::Implausible(format!(
                "token {id} has {} bytes, and the most allowed is {MAX_PIECE_BYTES}",
                piece.len()
            )));
        }
        let start = self.bytes.len();
        push_with_spaces(&mut self.bytes, piece);
        if self.bytes.len() > u32::MAX as usize {
            return Err(TokenizerError::Implausible("its tokens have more than 4 GiB".into()));
        }
        if id >= self.spans.len() {
            self.spans.resize(id + 1, (0, 0));
        }
        self.spans[id] = (start as u32, (self.bytes.len() - start) as u32);
        Ok(())
    }

    fn get(&self, id: TokenId) -> &[u8] {
        match self.spans.get(id as usize) {
            Some(&(start, len)) => &self.bytes[start as usize..(start + len) as usize],
            None => &[],
        }
    }
}

/// Appends `piece` with a space for each U+2581.
pub(super) fn push_with_spaces(bytes: &mut Vec<u8>, piece: &[u8]) {
    let mark = SPACE_MARK.as_bytes();
    let mut rest = piece;
    while let Some(at) = rest.iter().position(|&b| b == mark[0]) {
        bytes.extend_from_slice(&rest[..at]);
        if rest[at..].starts_with(mark) {
            bytes.push(b' ');
            rest = &rest[at + mark.len()..];
        } else {
            bytes.push(rest[at]);
            rest = &rest[at + 1..];
        }
    }
    bytes.extend_from_slice(rest);
}

/// The byte that `<0x41>` stands for.
pub(super) fn parse_byte_piece(piece: &[u8]) -> Option<u8> {
    let digits = piece.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digits = std::str::from_utf8(digits).ok()?;
    if digits.len() != 2 || digits.starts_with('+') {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// Ranks in the opposite order of scores; equal scores give equal ranks, and what is not a number comes last.
fn rank_of_score(score: f32) -> u32 {
    if score.is_nan() {
        return u32::MAX;
    }
    let bits = (score + 0.0).to_bits(); // makes -0 and 0 the same
    let ascending = if score.is_sign_negative() && score != 0.0 { !bits } else { bits | 1 << 31 };
    !ascending
}

impl Vocab {
    /// See [`super::Tokenizer::from_sentencepiece`].
    pub fn from_sentencepiece<'a>(
        tokens: impl Iterator<Item = SentencePieceToken<'a>>,
        ids: &SpecialIds,
    ) -> Result<Vocab, TokenizerError> {
        let mut parts = VocabParts::default();
        let mut ranks = Vec::new();
        let mut cut_texts = Vec::new();
        for (id, token) in tokens.enumerate() {
            let kind = parts.push(id, token.piece, token.kind, ids)?;
            // Cut-out tokens are looked for in the text as it was written, so these keep a U+2581.
            if matches!(kind, TokenType::Control | TokenType::Unknown | TokenType::UserDefined)
                && let Ok(text) = std::str::from_utf8(token.piece)
            {
                cut_texts.push((text, id as TokenId, kind != TokenType::UserDefined));
            }
            // A plain space in a normal piece meets nothing: texts have spaces for U+2581 only.
            let is_merged = kind == TokenType::Normal && !token.piece.contains(&b' ');
            parts.set_merged(id as TokenId, is_merged);
            ranks.push(rank_of_score(token.score));
        }
        parts.cuts = CutList::new(cut_texts.into_iter());
        parts.fuse_unknown = true;
        Vocab::new(parts, Ranks::ByPiece(ranks), ids)
    }

    /// Puts the tables together and checks that every text can be encoded.
    pub fn new(parts: VocabParts, ranks: Ranks, ids: &SpecialIds) -> Result<Vocab, TokenizerError> {
        let VocabParts { pieces, kinds, is_merged, cuts, mut bytes, unknown, fuse_unknown } = parts;
        let n_vocab = kinds.len();
        if n_vocab == 0 {
            return Err(TokenizerError::Empty);
        }
        let named = [("bos", ids.bos), ("eos", ids.eos), ("unknown", ids.unknown.or(unknown))];
        let ends = ids.ends.iter().map(|&id| ("end", Some(id)));
        for (name, id) in named.into_iter().chain(ends) {
            if let Some(id) = id.filter(|&id| id as usize >= n_vocab) {
                return Err(TokenizerError::IdOutOfRange { name, id, n_vocab });
            }
        }

        let mut vocab = Vocab {
            pieces,
            kinds,
            by_piece: HashTable::with_capacity(n_vocab),
            hasher: DefaultHashBuilder::default(),
            ranks,
            cuts,
            bytes: [None; 256],
            unknown: ids.unknown.or(unknown),
            fuse_unknown,
            add_space_prefix: ids.add_space_prefix,
            neighbors: vec![0; 256 * 256 / 64],
            longest: 0,
        };
        for id in 0..n_vocab as TokenId {
            if is_merged[id as usize] {
                vocab.insert(id);
            }
        }
        // Some files have a byte as an ordinary piece only, as `tokenizer.json` has the tab.
        for byte in 0..128u8 {
            let token = &mut bytes[usize::from(byte)];
            *token = token.or_else(|| vocab.by_piece(&[byte]));
        }
        vocab.bytes = bytes;
        if vocab.unknown.is_none() && vocab.bytes.contains(&None) {
            return Err(TokenizerError::Missing("unknown token, and not all byte tokens"));
        }
        Ok(vocab)
    }

    fn insert(&mut self, id: TokenId) {
        let piece = self.pieces.get(id);
        if piece.is_empty() {
            return;
        }
        for pair in piece.windows(2) {
            let bit = usize::from(pair[0]) * 256 + usize::from(pair[1]);
            self.neighbors[bit / 64] |= 1 << (bit % 64);
        }
        self.longest = self.longest.max(piece.len());
        let pieces = &self.pieces;
        let hash = hash(&self.hasher, piece);
        match self.by_piece.find_mut(hash, |&other| pieces.get(other) == piece) {
            Some(other) => *other = id,
            None => {
                self.by_piece.insert_unique(hash, id, |&id| self::hash(&self.hasher, pieces.get(id)));
            }
        }
    }

    /// Replaces what decides which merge comes first: merges are listed by pieces, so the table comes before them.
    pub fn set_ranks(&mut self, ranks: Ranks) {
        self.ranks = ranks;
    }

    /// See [`super::Tokenizer::to_sentencepiece`].
    pub fn to_sentencepiece(&self) -> Result<Vec<OwnedToken>, TokenizerError> {
        let scores = self.scores()?;
        let token = |(id, score): (usize, f32)| {
            let piece = self.pieces.get(id as TokenId);
            let kind = match self.kinds[id] {
                _ if self.unknown == Some(id as TokenId) => TokenType::Unknown,
                kind => kind,
            };
            let piece = match kind {
                TokenType::Byte => format!("<0x{:02X}>", piece.first().unwrap_or(&0)).into_bytes(),
                TokenType::Normal => String::from_utf8_lossy(piece).replace(' ', SPACE_MARK).into_bytes(),
                _ => piece.to_vec(),
            };
            OwnedToken { piece, score, kind }
        };
        Ok(scores.into_iter().enumerate().map(token).collect())
    }

    /// Scores with which SentencePiece merges in the same order: minus the number of pieces whose merges come before.
    fn scores(&self) -> Result<Vec<f32>, TokenizerError> {
        let n_vocab = self.n_vocab();
        let ranges: Vec<(u32, u32, usize)> = match &self.ranks {
            Ranks::ByPiece(ranks) => ranks.iter().enumerate().map(|(id, &rank)| (rank, rank, id)).collect(),
            Ranks::ByHalves { starts, merges } => {
                let range = |id: usize| {
                    let merges = merges.get(*starts.get(id)? as usize..*starts.get(id + 1)? as usize)?;
                    let ranks = || merges.iter().map(|(_, rank)| *rank);
                    Some((ranks().min()?, ranks().max()?, id))
                };
                (0..n_vocab).filter_map(range).collect()
            }
        };
        // Tokens that are cut out of the text before merging have no place in the order.
        let mut ordered = ranges;
        ordered.retain(|(.., id)| self.kinds[*id] == TokenType::Normal);
        ordered.sort_unstable();
        if ordered.windows(2).any(|pair| pair[0].1 > pair[1].0) {
            let what = "its merges are not ordered by the token they give, which GGUF cannot express";
            return Err(TokenizerError::NotGemma(what.into()));
        }
        // What no merge gives comes last; nothing asks for its score.
        let mut scores = vec![-(ordered.len() as f32); n_vocab];
        for (number, (.., id)) in ordered.into_iter().enumerate() {
            scores[id] = -(number as f32);
        }
        for (score, kind) in scores.iter_mut().zip(&self.kinds) {
            if *kind != TokenType::Normal {
                *score = 0.0;
            }
        }
        Ok(scores)
    }

    pub fn n_vocab(&self) -> usize {
        self.kinds.len()
    }

    pub fn kind(&self, id: TokenId) -> Option<TokenType> {
        self.kinds.get(id as usize).copied()
    }

    pub fn piece(&self, id: TokenId) -> &[u8] {
        self.pieces.get(id)
    }

    pub fn cuts(&self) -> &CutList {
        &self.cuts
    }

    pub fn control_by_text(&self, text: &[u8]) -> Option<TokenId> {
        self.cuts.control_by_text(text)
    }

    pub fn unknown(&self) -> Option<TokenId> {
        self.unknown
    }

    /// A run of unknown characters is one unknown token.
    pub fn fuse_unknown(&self) -> bool {
        self.fuse_unknown
    }

    pub fn add_space_prefix(&self) -> bool {
        self.add_space_prefix
    }

    /// Whether any piece has these two bytes side by side.
    pub fn may_join(&self, left: u8, right: u8) -> bool {
        let bit = usize::from(left) * 256 + usize::from(right);
        self.neighbors[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// The token that merging can give for exactly these bytes.
    pub fn by_piece(&self, piece: &[u8]) -> Option<TokenId> {
        if piece.len() > self.longest {
            return None;
        }
        self.by_piece.find(hash(&self.hasher, piece), |&id| self.pieces.get(id) == piece).copied()
    }

    /// Rank and result of merging the first `n_left` bytes of `joined` with the others.
    pub fn merge(&self, joined: &[u8], n_left: usize) -> Option<(u32, TokenId)> {
        let id = self.by_piece(joined)?;
        let rank = match &self.ranks {
            Ranks::ByPiece(ranks) => *ranks.get(id as usize)?,
            Ranks::ByHalves { starts, merges } => {
                let range = *starts.get(id as usize)?..*starts.get(id as usize + 1)?;
                let merges = merges.get(range.start as usize..range.end as usize)?;
                let after = merges.partition_point(|&(len, _)| len as usize <= n_left);
                let &(len, rank) = merges[..after].last()?;
                if len as usize != n_left {
                    return None;
                }
                rank
            }
        };
        Some((rank, id))
    }

    /// Appends the byte tokens of a character, if there are all of them.
    pub fn push_bytes(&self, bytes: &[u8], ids: &mut Vec<TokenId>) -> bool {
        let n_before = ids.len();
        ids.extend(bytes.iter().map_while(|&b| self.bytes[usize::from(b)]));
        let is_complete = ids.len() == n_before + bytes.len();
        if !is_complete {
            ids.truncate(n_before);
        }
        is_complete
    }
}

fn hash(hasher: &DefaultHashBuilder, piece: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(piece);
    hasher.finish()
}

/// What both file formats collect before the tables are built.
pub(super) struct VocabParts {
    pub pieces: Pieces,
    pub kinds: Vec<TokenType>,
    /// Whether merging can give the token.
    pub is_merged: Vec<bool>,
    pub cuts: CutList,
    pub bytes: [Option<TokenId>; 256],
    pub unknown: Option<TokenId>,
    pub fuse_unknown: bool,
}

impl Default for VocabParts {
    fn default() -> VocabParts {
        VocabParts {
            pieces: Pieces::default(),
            kinds: Vec::new(),
            is_merged: Vec::new(),
            cuts: CutList::default(),
            bytes: [None; 256],
            unknown: None,
            fuse_unknown: false,
        }
    }
}

impl VocabParts {
    /// Stores one token and returns what it is, which is not always what the file says.
    pub fn push(
        &mut self,
        id: usize,
        piece: &[u8],
        stated: TokenType,
        ids: &SpecialIds,
    ) -> Result<TokenType, TokenizerError> {
        let named = [ids.bos, ids.eos].contains(&Some(id as TokenId));
        let kind = match stated {
            TokenType::Unknown => TokenType::Unknown,
            _ if named || CONTROL_TEXTS.contains(&piece) => TokenType::Control,
            _ => stated,
        };
        let byte = parse_byte_piece(piece).filter(|_| kind == TokenType::Byte);
        match byte {
            Some(byte) => {
                self.bytes[usize::from(byte)] = Some(id as TokenId);
                self.pieces.set(id, &[byte])?;
            }
            None => self.pieces.set(id, piece)?,
        }
        if kind == TokenType::Unknown {
            self.unknown.get_or_insert(id as TokenId);
        }
        if id >= self.kinds.len() {
            self.kinds.resize(id + 1, TokenType::Unused);
        }
        self.kinds[id] = kind;
        Ok(kind)
    }

    /// Says whether merging can give the token, which must have been pushed.
    pub fn set_merged(&mut self, id: TokenId, is_merged: bool) {
        self.is_merged.resize(self.kinds.len(), false);
        self.is_merged[id as usize] = is_merged;
    }
}
