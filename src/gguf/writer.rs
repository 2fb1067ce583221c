//! Makes GGUF files: metadata and the tensor table first, then the tensors' bytes as a stream.

use std::io::{self, Write};
use std::ops::Deref;

use super::metadata::ValueType;
use super::reader::DEFAULT_ALIGNMENT;
use super::{GgmlType, Gguf};

/// Collects a header. Keys and tensors are written in the order in which they were added.
///
/// ```
/// use gemma2::gguf::{GgmlType, Gguf, Writer};
/// let mut writer = Writer::new();
/// writer.string("general.architecture", "gemma2");
/// writer.tensor("x", &[2, 2], GgmlType::F32).unwrap();
/// let mut sink = writer.start(Vec::new()).unwrap();
/// sink.write(&[0; 16]).unwrap();
/// let file = sink.finish().unwrap();
/// assert_eq!(Gguf::parse(&file[..]).unwrap().tensors()[0].shape, [2, 2]);
/// ```
#[derive(Clone, Debug)]
pub struct Writer {
    alignment: usize,
    n_keys: u64,
    keys: Vec<u8>,
    tensors: Vec<Planned>,
}

#[derive(Clone, Debug)]
struct Planned {
    name: String,
    shape: Vec<usize>,
    ggml_type: GgmlType,
    n_bytes: usize,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer::new()
    }
}

impl Writer {
    /// An empty file of version 3.
    pub fn new() -> Writer {
        Writer { alignment: DEFAULT_ALIGNMENT, n_keys: 0, keys: Vec::new(), tensors: Vec::new() }
    }

    /// Starts tensors at multiples of `alignment`, a power of two, and says so in the metadata.
    pub fn alignment(&mut self, alignment: u32) -> &mut Writer {
        assert!(alignment.is_power_of_two(), "GGUF wants a power of two, not {alignment}");
        self.alignment = alignment as usize;
        self.u32("general.alignment", alignment)
    }

    /// Adds a string.
    pub fn string(&mut self, key: &str, value: &str) -> &mut Writer {
        self.key(key, ValueType::String);
        push_string(&mut self.keys, value.as_bytes());
        self
    }

    /// Adds a 32-bit integer, the type that counts, sizes and token ids usually have.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Writer {
        self.raw(key, ValueType::U32, &value.to_le_bytes())
    }

    /// Adds a 64-bit integer.
    pub fn u64(&mut self, key: &str, value: u64) -> &mut Writer {
        self.raw(key, ValueType::U64, &value.to_le_bytes())
    }

    /// Adds a float.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Writer {
        self.raw(key, ValueType::F32, &value.to_le_bytes())
    }

    /// Adds a truth value.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Writer {
        self.raw(key, ValueType::Bool, &[value.into()])
    }

    /// Adds an array of strings.
    pub fn strings<S: AsRef<[u8]>>(&mut self, key: &str, values: &[S]) -> &mut Writer {
        self.array(key, ValueType::String, values.len());
        for value in values {
            push_string(&mut self.keys, value.as_ref());
        }
        self
    }

    /// Adds an array of floats.
    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Writer {
        self.array(key, ValueType::F32, values.len());
        self.keys.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    /// Adds an array of integers.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Writer {
        self.array(key, ValueType::I32, values.len());
        self.keys.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    /// Adds a value of any type by its stored form, which is the caller's to get right.
    pub fn raw(&mut self, key: &str, value_type: ValueType, payload: &[u8]) -> &mut Writer {
        self.key(key, value_type);
        self.keys.extend_from_slice(payload);
        self
    }

    /// Copies the metadata of another file as it is, but for the keys that `keep` turns down. `general.alignment` is never
    /// copied, since this file aligns its own tensors.
    pub fn copy_metadata<B: Deref<Target = [u8]>>(
        &mut self,
        from: &Gguf<B>,
        keep: impl Fn(&str) -> bool,
    ) -> &mut Writer {
        for (key, value_type, payload) in from.metadata().raw() {
            let Ok(key) = std::str::from_utf8(key) else {
                continue;
            };
            if key != "general.alignment" && keep(key) {
                self.raw(key, value_type, payload);
            }
        }
        self
    }

    /// Adds a tensor: row-major shape, outermost dimension first. Its bytes follow after [`Writer::start`], in this order.
    /// Errors where the shape overflows or rows are not whole blocks. Gives the number of bytes that the tensor will need.
    pub fn tensor(&mut self, name: &str, shape: &[usize], ggml_type: GgmlType) -> io::Result<usize> {
        let bad = || {
            let message = format!("a tensor `{name}` of shape {shape:?} cannot be {ggml_type}");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        };
        if !shape.last().unwrap_or(&1).is_multiple_of(ggml_type.block_len()) {
            return Err(bad());
        }
        let n_values = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let n_bytes =
            n_values.and_then(|n| (n / ggml_type.block_len()).checked_mul(ggml_type.block_bytes())).ok_or_else(bad)?;
        self.tensors.push(Planned { name: name.to_owned(), shape: shape.to_vec(), ggml_type, n_bytes });
        Ok(n_bytes)
    }

    /// Length of the whole file in bytes.
    pub fn n_bytes(&self) -> u64 {
        let (header, tensors) = self.header();
        header.len() as u64 + tensors as u64
    }

    /// Writes the header, and gives the sink for the tensors' bytes.
    pub fn start<W: Write>(self, mut out: W) -> io::Result<TensorSink<W>> {
        out.write_all(&self.header().0)?;
        Ok(TensorSink {
            out,
            alignment: self.alignment,
            sizes: self.tensors.into_iter().map(|tensor| tensor.n_bytes).collect(),
            at_tensor: 0,
            n_written: 0,
        })
    }

    /// The header with its padding, and the number of bytes behind it.
    fn header(&self) -> (Vec<u8>, usize) {
        let mut header = Vec::with_capacity(self.keys.len() + 64 * self.tensors.len() + 64);
        header.extend_from_slice(b"GGUF");
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&self.n_keys.to_le_bytes());
        header.extend_from_slice(&self.keys);
        let mut offset = 0;
        for tensor in &self.tensors {
            push_string(&mut header, tensor.name.as_bytes());
            header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for &n in tensor.shape.iter().rev() {
                header.extend_from_slice(&(n as u64).to_le_bytes());
            }
            header.extend_from_slice(&tensor.ggml_type.id().to_le_bytes());
            header.extend_from_slice(&(offset as u64).to_le_bytes());
            offset = (offset + tensor.n_bytes).next_multiple_of(self.alignment);
        }
        header.resize(header.len().next_multiple_of(self.alignment), 0);
        (header, offset)
    }

    fn key(&mut self, key: &str, value_type: ValueType) {
        self.n_keys += 1;
        push_string(&mut self.keys, key.as_bytes());
        self.keys.extend_from_slice(&value_type.id().to_le_bytes());
    }

    fn array(&mut self, key: &str, element: ValueType, len: usize) {
        self.key(key, ValueType::Array);
        self.keys.extend_from_slice(&element.id().to_le_bytes());
        self.keys.extend_from_slice(&(len as u64).to_le_bytes());
    }
}

/// Takes the tensors' bytes in order, in pieces of any size that do not cross from one tensor into the next.
#[derive(Debug)]
pub struct TensorSink<W> {
    out: W,
    alignment: usize,
    sizes: Vec<usize>,
    at_tensor: usize,
    n_written: usize,
}

impl<W: Write> TensorSink<W> {
    /// Appends bytes to the current tensor; when it is complete, the next one begins.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size = self.sizes.get(self.at_tensor).copied().unwrap_or(0);
        if bytes.len() > size - self.n_written {
            let message = format!("tensor number {} gets more than its {size} bytes", self.at_tensor);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.out.write_all(bytes)?;
        self.n_written += bytes.len();
        if self.n_written == size && self.at_tensor < self.sizes.len() {
            let n_padding = size.next_multiple_of(self.alignment) - size;
            for _ in 0..n_padding {
                self.out.write_all(&[0])?;
            }
            self.at_tensor += 1;
            self.n_written = 0;
        }
        Ok(())
    }

    /// Ends the file. Errors where bytes are missing.
    pub fn finish(mut self) -> io::Result<W> {
        if self.at_tensor != self.sizes.len() {
            let message = format!("tensor number {} of {} is not complete", self.at_tensor, self.sizes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn push_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}
