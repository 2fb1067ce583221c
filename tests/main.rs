//! Everything that shows through the library or the binary.

mod bench;
mod bundle;
mod cli;
mod engine;
mod golden;
mod server;
mod util;
