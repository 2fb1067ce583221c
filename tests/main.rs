//! Everything that shows through the library or the binary.

mod batch;
mod bench;
mod bundle;
mod cli;
mod embeddings;
mod engine;
mod golden;
#[cfg(target_os = "linux")]
mod load;
#[cfg(unix)]
mod program;
mod quantize;
mod saved_prompts;
#[cfg(target_os = "linux")]
mod sandbox;
mod server;
mod util;
