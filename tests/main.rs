//! Everything that shows through the library or the binary.

mod golden;
mod server;
