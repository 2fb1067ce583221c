//! Arithmetic on slices, one file for each instruction set; `scalar.rs` is the definition.

mod blocks;

pub use blocks::Format;
