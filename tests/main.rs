//! Everything that shows through the library or the binary.

mod archives;
#[cfg(target_os = "linux")]
mod banner;
mod batch;
mod bench;
mod bundle;
mod chat;
mod cli;
mod embeddings;
mod engine;
#[cfg(unix)]
mod functions;
mod golden;
#[cfg(target_os = "linux")]
mod load;
#[cfg(unix)]
mod program;
mod prompt_cache;
mod quantize;
#[cfg(unix)]
mod recipes;
#[cfg(target_os = "linux")]
mod sandbox;
mod saved_prompts;
mod server;
#[cfg(target_os = "linux")]
mod terminal;
mod util;
