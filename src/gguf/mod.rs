//! GGUF, ggml's file format: metadata and a table of tensors, read from bytes without copying either.
//!
//! The format is described in ggml's `docs/gguf.md`. Versions 2 and 3 (little-endian) are read. A vocabulary has 256,000
//! strings, so arrays are never turned into vectors: [`Metadata`] checks each value once while parsing and then reads from
//! the same bytes. The tensor table is checked so far that slicing the file by [`Tensor::range`] cannot fail.
//!
//! [`Writer`] is the other direction: tests, `quantize` and `pack` make files with it.

mod error;
mod ggml_type;
mod metadata;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use error::GgufError;
pub use ggml_type::GgmlType;
pub use metadata::{Array, Metadata, Strings, Value, ValueType};
pub use reader::{DEFAULT_ALIGNMENT, Gguf, Tensor};
pub use writer::{TensorSink, Writer};
