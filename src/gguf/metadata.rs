//! Keys and values of a GGUF header, read where they lie.

use std::ops::Range;

use super::GgufError;
use super::reader::Cursor;
use crate::error::name_for_people;

/// The type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the specification's.
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// The type with this number in files.
    pub fn from_id(id: u32) -> Option<ValueType> {
        ValueType::ALL.get(id as usize).copied()
    }

    /// Its number in files.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of one value; `None` for strings and arrays.
    pub fn fixed_bytes(self) -> Option<usize> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::String | ValueType::Array => None,
        }
    }
}

/// One value; strings and arrays are views into the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // The names are the specification's.
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Supposed to be UTF-8, which is checked by [`Metadata::string`] only.
    String(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value<'_> {
    /// The number, where the value is an integer of any type that is not negative.
    fn as_u64(self) -> Option<u64> {
        match self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    fn describe(self) -> String {
        match self {
            Value::U8(v) => v.to_string(),
            Value::I8(v) => v.to_string(),
            Value::U16(v) => v.to_string(),
            Value::I16(v) => v.to_string(),
            Value::U32(v) => v.to_string(),
            Value::I32(v) => v.to_string(),
            Value::U64(v) => v.to_string(),
            Value::I64(v) => v.to_string(),
            Value::F32(v) => format!("the float {v}"),
            Value::F64(v) => format!("the float {v}"),
            Value::Bool(v) => v.to_string(),
            Value::String(_) => "a string".into(),
            Value::Array(array) => format!("an array of {:?}", array.element),
        }
    }
}

/// An array where it lies: `len` elements of one type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The type of each element.
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order, arrays of arrays included.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        let (element, len) = (self.element, self.len);
        (0..len).map_while(move |_| cursor.value(element, 0).ok())
    }
}

/// Iterator over the strings of an array, as bytes; cheap, nothing is copied.
#[derive(Clone, Default)]
pub struct Strings<'a> {
    cursor: Cursor<'a>,
    n_left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.n_left = self.n_left.checked_sub(1)?;
        // Parsing has walked all strings, so this fails only where the file was changed since.
        self.cursor.string().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.n_left, Some(self.n_left))
    }
}

impl ExactSizeIterator for Strings<'_> {}

/// Where a key and its value lie in the file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: Range<usize>,
    pub value_type: ValueType,
    /// The payload, without the type's number.
    pub value: Range<usize>,
}

/// All keys and values. Typed accessors give `Ok(None)` for a key that is not there and an error for a value of a type that does
/// not fit, so that a mistyped value is never taken for an absent one.
#[derive(Clone, Copy)]
pub struct Metadata<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) entries: &'a [Entry],
}

impl<'a> Metadata<'a> {
    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
        let this = *self;
        this.entries.iter().filter_map(move |entry| {
            let key = std::str::from_utf8(this.bytes.get(entry.key.clone())?).ok()?;
            Some((key, this.value_of(entry)?))
        })
    }

    /// Keys with type and payload as stored, for copying them into another file.
    pub(super) fn raw(&self) -> impl Iterator<Item = (&'a [u8], ValueType, &'a [u8])> + use<'a> {
        let this = *self;
        this.entries.iter().filter_map(move |entry| {
            let key = this.bytes.get(entry.key.clone())?;
            Some((key, entry.value_type, this.bytes.get(entry.value.clone())?))
        })
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        let entry = self.entries.iter().find(|entry| self.bytes.get(entry.key.clone()) == Some(key.as_bytes()))?;
        self.value_of(entry)
    }

    /// A string, which must be UTF-8.
    pub fn string(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        let expected = "a string of UTF-8";
        self.typed(key, expected, |value| match value {
            Value::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// An integer of any width that is not negative.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a whole number", Value::as_u64)
    }

    /// A number: a float, or an integer that stands for one.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a number", |value| match value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            other => other.as_u64().map(|v| v as f32),
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// An array of strings, as bytes.
    pub fn strings(&self, key: &str) -> Result<Option<Strings<'a>>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(array) if array.element == ValueType::String => {
                Some(Strings { cursor: Cursor::new(array.bytes), n_left: array.len })
            }
            _ => None,
        })
    }

    /// An array of floats.
    pub fn f32s(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = f32> + Clone + use<'a>>, GgufError> {
        self.typed(key, "an array of F32", |value| match value {
            Value::Array(array) if array.element == ValueType::F32 => {
                Some(array.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            }
            _ => None,
        })
    }

    /// An array of 32-bit integers. Unsigned ones are taken too; what does not fit becomes `i32::MAX`.
    pub fn i32s(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = i32> + Clone + use<'a>>, GgufError> {
        self.typed(key, "an array of I32", |value| match value {
            Value::Array(array) => {
                let unsigned = match array.element {
                    ValueType::I32 => false,
                    ValueType::U32 => true,
                    _ => return None,
                };
                Some(array.bytes.chunks_exact(4).map(move |b| {
                    let bits = [b[0], b[1], b[2], b[3]];
                    if unsigned {
                        i32::try_from(u32::from_le_bytes(bits)).unwrap_or(i32::MAX)
                    } else {
                        i32::from_le_bytes(bits)
                    }
                }))
            }
            _ => None,
        })
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => {
                Err(GgufError::WrongType { key: name_for_people(key.as_bytes()), expected, found: value.describe() })
            }
        }
    }

    fn value_of(&self, entry: &Entry) -> Option<Value<'a>> {
        let payload = self.bytes.get(entry.value.clone())?;
        Cursor::new(payload).value_view(entry.value_type)
    }
}

/// Arrays of arrays beyond this depth are refused: reading them is recursive, and no tool writes them.
const MAX_ARRAY_DEPTH: usize = 4;

impl<'a> Cursor<'a> {
    /// Reads one value and checks it as far as it goes: every string of an array lies inside the file, nesting is bounded.
    pub(super) fn value(&mut self, value_type: ValueType, depth: usize) -> Result<Value<'a>, GgufError> {
        Ok(match value_type {
            ValueType::U8 => Value::U8(self.array::<1>()?[0]),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            ValueType::U32 => Value::U32(self.u32()?),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            ValueType::Bool => Value::Bool(self.array::<1>()?[0] != 0),
            ValueType::U64 => Value::U64(self.u64()?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            ValueType::String => Value::String(self.string()?),
            ValueType::Array => {
                let (element, len) = self.array_header()?;
                if depth >= MAX_ARRAY_DEPTH {
                    let what = format!("arrays are nested more than {MAX_ARRAY_DEPTH} deep");
                    return Err(GgufError::Damaged { what });
                }
                let start = self.at();
                match element.fixed_bytes() {
                    Some(size) => {
                        let n_bytes = len.checked_mul(size).ok_or_else(|| self.ends_here())?;
                        self.take(n_bytes)?;
                    }
                    None => {
                        // Each element takes at least 8 bytes, so a false length ends at the file's end.
                        for _ in 0..len {
                            self.value(element, depth + 1)?;
                        }
                    }
                }
                Value::Array(Array { element, len, bytes: self.since(start) })
            }
        })
    }

    /// A value that [`Cursor::value`] has checked before, from exactly its payload: arrays are not walked again.
    fn value_view(&mut self, value_type: ValueType) -> Option<Value<'a>> {
        if value_type != ValueType::Array {
            return self.value(value_type, 0).ok();
        }
        let (element, len) = self.array_header().ok()?;
        let bytes = self.rest();
        if let Some(size) = element.fixed_bytes()
            && len.checked_mul(size) != Some(bytes.len())
        {
            return None;
        }
        Some(Value::Array(Array { element, len, bytes }))
    }

    fn array_header(&mut self) -> Result<(ValueType, usize), GgufError> {
        let element = self.value_type()?;
        let len = self.u64()?;
        let len = usize::try_from(len).map_err(|_| self.ends_here())?;
        Ok((element, len))
    }
}
