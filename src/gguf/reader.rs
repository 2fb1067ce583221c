//! Bytes to header and tensor table.

use std::collections::HashSet;
use std::ops::{Deref, Range};

use super::metadata::{Entry, Metadata, ValueType};
use super::{GgmlType, GgufError};
use crate::error::name_for_people;

/// Tensors start at multiples of this, where the file does not say otherwise (`general.alignment`).
pub const DEFAULT_ALIGNMENT: usize = 32;

/// ggml's limit on dimensions.
const MAX_DIMS: u32 = 4;

/// A parsed GGUF file. `B` is what holds the bytes: a slice, a vector, a mapped file.
#[derive(Clone, Debug)]
pub struct Gguf<B> {
    bytes: B,
    version: u32,
    alignment: usize,
    data_start: usize,
    entries: Vec<Entry>,
    tensors: Vec<Tensor>,
}

/// One row of the tensor table, checked: `range` lies inside the file and has exactly the bytes that shape and type need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Row-major shape, outermost dimension first (the file stores it the other way round). At most four dimensions, none zero.
    pub shape: Vec<usize>,
    /// How its values are stored; rows (the last dimension) are whole blocks.
    pub ggml_type: GgmlType,
    /// Where its bytes lie, from the file's start.
    pub range: Range<usize>,
}

impl<B: Deref<Target = [u8]>> Gguf<B> {
    /// Parses header and tensor table. Touches the header's bytes only, and allocates at most a few times the header's size.
    pub fn parse(bytes: B) -> Result<Gguf<B>, GgufError> {
        let header = Header::parse(&bytes)?;
        Ok(Gguf {
            bytes,
            version: header.version,
            alignment: header.alignment,
            data_start: header.data_start,
            entries: header.entries,
            tensors: header.tensors,
        })
    }

    /// Keys and values.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata { bytes: &self.bytes, entries: &self.entries }
    }

    /// All tensors in the file's order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor with this name. Looks at one after the other.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The bytes of a tensor of this file.
    pub fn tensor_bytes(&self, tensor: &Tensor) -> &[u8] {
        self.bytes.get(tensor.range.clone()).unwrap_or(&[])
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &B {
        &self.bytes
    }

    /// 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What tensor offsets are multiples of.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Where the header ends and tensor data starts, from the file's start.
    pub fn data_start(&self) -> usize {
        self.data_start
    }
}

struct Header {
    version: u32,
    alignment: usize,
    data_start: usize,
    entries: Vec<Entry>,
    tensors: Vec<Tensor>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
        let mut cursor = Cursor::new(bytes);
        if !bytes.starts_with(b"GGUF") {
            return Err(GgufError::NotGguf { looks_like: looks_like(bytes) });
        }
        cursor.take(4)?;
        let version = cursor.u32()?;
        if version != 0 && version & 0xffff == 0 {
            return Err(GgufError::BigEndian);
        }
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version { version });
        }
        let n_tensors = cursor.u64()?;
        let n_keys = cursor.u64()?;
        let entries = read_entries(&mut cursor, n_keys)?;
        let alignment = read_alignment(Metadata { bytes, entries: &entries })?;
        let rows = read_tensor_table(&mut cursor, n_tensors)?;
        let (data_start, tensors) = place_tensors(rows, cursor.at(), alignment, bytes.len())?;
        Ok(Header { version, alignment, data_start, entries, tensors })
    }
}

fn read_entries(cursor: &mut Cursor, n_keys: u64) -> Result<Vec<Entry>, GgufError> {
    // The smallest entry is an empty key with a one-byte value. Vectors grow as entries really come, never by the count.
    cursor.can_hold(n_keys, 8 + 4 + 1)?;
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..n_keys {
        let key = cursor.string()?;
        let key_end = cursor.at();
        if std::str::from_utf8(key).is_err() {
            let what = format!("the key `{}` is not UTF-8", name_for_people(key));
            return Err(GgufError::Damaged { what });
        }
        if !seen.insert(key) {
            return Err(GgufError::DuplicateKey { key: name_for_people(key) });
        }
        let value_type = cursor.value_type()?;
        let start = cursor.at();
        cursor.value(value_type, 0)?;
        entries.push(Entry { key: key_end - key.len()..key_end, value_type, value: start..cursor.at() });
    }
    Ok(entries)
}

fn read_alignment(metadata: Metadata) -> Result<usize, GgufError> {
    let Some(alignment) = metadata.u64("general.alignment")? else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    match usize::try_from(alignment) {
        Ok(alignment) if alignment.is_power_of_two() => Ok(alignment),
        _ => Err(GgufError::Damaged { what: format!("`general.alignment` is {alignment}, which is no power of two") }),
    }
}

/// A tensor whose offset still counts from the start of the data.
struct Row {
    tensor: Tensor,
    offset: u64,
    n_bytes: usize,
}

fn read_tensor_table(cursor: &mut Cursor, n_tensors: u64) -> Result<Vec<Row>, GgufError> {
    cursor.can_hold(n_tensors, 8 + 4 + 4 + 8)?;
    let mut rows = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..n_tensors {
        let name_bytes = cursor.string()?;
        let Ok(name) = std::str::from_utf8(name_bytes) else {
            let what = format!("the tensor name `{}` is not UTF-8", name_for_people(name_bytes));
            return Err(GgufError::Damaged { what });
        };
        let shown = || name_for_people(name_bytes);
        if !seen.insert(name) {
            return Err(GgufError::DuplicateTensor { name: shown() });
        }
        let bad = |what: String| GgufError::BadTensor { name: shown(), what };

        let n_dims = cursor.u32()?;
        if n_dims > MAX_DIMS {
            return Err(bad(format!("it has {n_dims} dimensions, and {MAX_DIMS} are the most")));
        }
        let mut shape = Vec::with_capacity(n_dims as usize);
        for _ in 0..n_dims {
            match usize::try_from(cursor.u64()?) {
                Ok(0) => return Err(bad("one of its dimensions is 0".into())),
                Ok(n) => shape.push(n),
                Err(_) => return Err(bad("its shape overflows".into())),
            }
        }
        shape.reverse();

        let id = cursor.u32()?;
        let ggml_type = GgmlType::from_id(id).ok_or_else(|| GgufError::UnknownType { name: shown(), id })?;
        let n_cols = shape.last().copied().unwrap_or(1);
        if !n_cols.is_multiple_of(ggml_type.block_len()) {
            return Err(bad(format!(
                "rows of {n_cols} are not whole blocks of {} as {ggml_type} needs",
                ggml_type.block_len()
            )));
        }
        let n_bytes = shape
            .iter()
            .try_fold(1usize, |product, &n| product.checked_mul(n))
            .and_then(|n| (n / ggml_type.block_len()).checked_mul(ggml_type.block_bytes()))
            .ok_or_else(|| bad(format!("its shape {shape:?} overflows")))?;
        let offset = cursor.u64()?;
        rows.push(Row { tensor: Tensor { name: name.to_owned(), shape, ggml_type, range: 0..0 }, offset, n_bytes });
    }
    Ok(rows)
}

/// Turns offsets into ranges of the file, and checks them against its size.
fn place_tensors(
    rows: Vec<Row>,
    header_end: usize,
    alignment: usize,
    file_size: usize,
) -> Result<(usize, Vec<Tensor>), GgufError> {
    let overflow = |name: &str| GgufError::BadTensor {
        name: name_for_people(name.as_bytes()),
        what: "its offset overflows".into(),
    };
    let Some(data_start) = header_end.checked_next_multiple_of(alignment) else {
        let what = format!("`general.alignment` is {alignment}");
        return Err(GgufError::Damaged { what });
    };
    let mut needed = 0;
    let mut tensors = Vec::with_capacity(rows.len());
    for row in rows {
        let mut tensor = row.tensor;
        if !row.offset.is_multiple_of(alignment as u64) {
            return Err(GgufError::BadTensor {
                name: name_for_people(tensor.name.as_bytes()),
                what: format!("its offset {} is no multiple of the alignment {alignment}", row.offset),
            });
        }
        let start = usize::try_from(row.offset)
            .ok()
            .and_then(|offset| offset.checked_add(data_start))
            .ok_or_else(|| overflow(&tensor.name))?;
        let end = start.checked_add(row.n_bytes).ok_or_else(|| overflow(&tensor.name))?;
        needed = needed.max(end);
        tensor.range = start..end;
        tensors.push(tensor);
    }
    if needed > file_size {
        return Err(GgufError::EndsInTensors { actual: file_size as u64, needed: needed as u64 });
    }
    Ok((data_start, tensors))
}

/// What a file without GGUF's first bytes seems to be: people mix these up.
fn looks_like(bytes: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 11] = [
        (b"lmgg", "it is an old GGML file"),
        (b"tjgg", "it is an old GGML (GGJT) file"),
        (b"fmgg", "it is an old GGML (GGMF) file"),
        (b"version https://git-lfs", "it is a Git LFS pointer, not the file that it stands for"),
        (b"<!", "it is a web page"),
        (b"<html", "it is a web page"),
        (b"PK\x03\x04", "it is a ZIP archive"),
        (b"\x7fELF", "it is a program without a model in it"),
        (b"MZ", "it is a program without a model in it"),
        (b"\x80\x02", "it is a Python pickle (PyTorch) file"),
        (b"\x1f\x8b", "it is compressed (gzip)"),
    ];
    if bytes.is_empty() {
        return "it is empty".into();
    }
    for (start, meaning) in KNOWN {
        if bytes.starts_with(start) {
            return meaning.into();
        }
    }
    if bytes.get(8) == Some(&b'{') {
        return "it seems to be a safetensors file".into();
    }
    let start = &bytes[..bytes.len().min(4)];
    format!("it starts with `{}`", start.escape_ascii())
}

/// Reads little-endian values; every read checks that the bytes are there.
#[derive(Clone, Default)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or(&[])
    }

    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or(&[])
    }

    pub(super) fn ends_here(&self) -> GgufError {
        GgufError::EndsInHeader { size: self.bytes.len() }
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], GgufError> {
        let taken =
            self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| self.ends_here())?;
        self.at += n;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.ends_here())
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], GgufError> {
        let n = self.u64()?;
        let n = usize::try_from(n).map_err(|_| self.ends_here())?;
        self.take(n)
    }

    pub(super) fn value_type(&mut self) -> Result<ValueType, GgufError> {
        let id = self.u32()?;
        ValueType::from_id(id).ok_or_else(|| GgufError::Damaged {
            what: format!("a value has type number {id}, which GGUF does not have"),
        })
    }

    /// Whether `count` things of at least `min_bytes` each can still come.
    fn can_hold(&self, count: u64, min_bytes: u64) -> Result<(), GgufError> {
        if count > self.rest().len() as u64 / min_bytes {
            return Err(self.ends_here());
        }
        Ok(())
    }
}
