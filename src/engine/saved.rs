//! A saved prompt: its tokens, and what the model remembers of them.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `gemma2kv` |
//! | 4 | version, 1 |
//! | 32 | fingerprint of the model |
//! | 4 | number of tokens |
//! | 4 each | the tokens |
//! | … | the cache, as the model writes it ([`Cache::save`]) |
//! | 4 | CRC-32 of all before |
//!
//! Numbers are little-endian. A file is taken for hostile: nothing of it counts before all of it has been read and
//! checked, and it takes no more memory than a slot has anyway.

use std::io::{self, BufReader, BufWriter, Read, Write};

use super::slots::{SlotChange, SlotError};
use crate::model::{Cache, LanguageModel};
use crate::tokenizer::TokenId;

const MAGIC: &[u8; 8] = b"gemma2kv";
const VERSION: u32 = 1;
/// Reads and writes are gathered into pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// Writes `tokens` and the cache that holds them.
pub(super) fn save<C: Cache>(
    out: impl Write,
    fingerprint: [u8; 32],
    tokens: &[TokenId],
    cache: &C,
) -> Result<SlotChange, SlotError> {
    let mut out = Counted::new(BufWriter::with_capacity(PIECE, out));
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&fingerprint)?;
    let n_tokens = u32::try_from(tokens.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    out.write_all(&n_tokens.to_le_bytes())?;
    for token in tokens {
        out.write_all(&token.to_le_bytes())?;
    }
    cache.save(&mut out)?;
    let crc = out.crc.clone().finalize();
    out.write_all(&crc.to_le_bytes())?;
    out.inner.flush()?;
    Ok(SlotChange { n_tokens: tokens.len(), n_bytes: out.n_bytes })
}

/// Reads what [`save`] wrote: the tokens, and a cache of `n_ctx` tokens that holds them.
pub(super) fn restore<M: LanguageModel>(
    input: impl Read,
    model: &M,
    n_ctx: usize,
) -> Result<(Vec<TokenId>, M::Cache, SlotChange), SlotError> {
    let mut input = Counted::new(BufReader::with_capacity(PIECE, input));
    let mut magic = [0; MAGIC.len()];
    match input.read_exact(&mut magic) {
        Ok(()) if magic == *MAGIC => {}
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
        _ => return Err(SlotError::NotSaved),
    }
    let version = number(&mut input)?;
    if version != VERSION {
        return Err(SlotError::Version(version));
    }
    let mut fingerprint = [0; 32];
    input.read_exact(&mut fingerprint).map_err(damaged)?;
    if fingerprint != model.fingerprint() {
        return Err(SlotError::OtherModel);
    }
    let n_tokens = number(&mut input)? as usize;
    if n_tokens > n_ctx {
        return Err(SlotError::TooLong { n_tokens, n_ctx });
    }
    let mut tokens = Vec::with_capacity(n_tokens);
    for _ in 0..n_tokens {
        let token = number(&mut input)?;
        if token as usize >= model.n_vocab() {
            return Err(SlotError::Damaged(format!("token {token} is not one of the vocabulary")));
        }
        tokens.push(token);
    }
    let mut cache = model.new_cache(n_ctx);
    cache.restore(n_tokens, &mut input).map_err(damaged)?;
    let crc = input.crc.clone().finalize();
    if number(&mut input)? != crc {
        return Err(SlotError::Damaged("its checksum is wrong".into()));
    }
    if input.read(&mut [0])? != 0 {
        return Err(SlotError::Damaged("something follows its end".into()));
    }
    if cache.len() != n_tokens {
        return Err(SlotError::Damaged(format!("{} of its {n_tokens} tokens were restored", cache.len())));
    }
    Ok((tokens, cache, SlotChange { n_tokens, n_bytes: input.n_bytes }))
}

fn number(input: &mut impl Read) -> Result<u32, SlotError> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes).map_err(damaged)?;
    Ok(u32::from_le_bytes(bytes))
}

fn damaged(error: io::Error) -> SlotError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SlotError::Damaged("it ends too early".into()),
        io::ErrorKind::InvalidData => SlotError::Damaged(error.to_string()),
        _ => SlotError::Io(error),
    }
}

/// Counts and sums up what passes.
struct Counted<T> {
    inner: T,
    crc: crc32fast::Hasher,
    n_bytes: u64,
}

impl<T> Counted<T> {
    fn new(inner: T) -> Counted<T> {
        Counted { inner, crc: crc32fast::Hasher::new(), n_bytes: 0 }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.n_bytes += bytes.len() as u64;
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.count(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.count(&bytes[..n]);
        Ok(n)
    }
}
