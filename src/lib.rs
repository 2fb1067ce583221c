//! gemma2: a llamafile for Gemma 2. One executable holds program, weights and chat page.
//!
//! # Bird's-eye view
//!
//! ```text
//! executable ─ bundle ─ bytes (mapped) ─ gguf | safetensors ─ weights::Source ─ model::Model
//!                                            │
//!                                            └ tokenizer, chat template
//! typed text / messages ─ chat ─ token ids ─ engine (one thread: scheduler, sessions, sampler) ─ events ─ cli | server ─ page
//!                                            │
//!                                     model::forward ─ ops ─ kernels | gpu
//! ```
//!
//! There is one decode loop with four callers (one-shot, terminal chat, HTTP, bench), one forward pass, and one
//! table of kernels for every instruction set.
//!
//! # Code map, in reading order
//!
//! | module | what it does | may use |
//! |---|---|---|
//! | [`error`] | the [`error::Hint`] trait and the one function that renders an error for a person | |
//! | [`bundle`] | the executable as a container: mapping, ZIP64 archive, packing, upgrading | |
//! | [`gguf`], [`safetensors`] | bytes to metadata and a tensor table | |
//! | [`kernels`] | arithmetic on slices, one file for each instruction set; `scalar.rs` is the definition | |
//! | [`gpu`] | the same arithmetic on a GPU, NVIDIA's or Apple's: its memory and our kernels, through what its system has | kernels |
//! | [`weights`] | one tensor source over both file formats; names, shapes and norm convention settled | gguf, safetensors, bundle, kernels |
//! | [`tokenizer`] | text to token ids and back | weights |
//! | [`chat`] | messages to token ids; the only place that knows the turn markers | tokenizer |
//! | [`grammar`] | GBNF, JSON schemas and Lark to the tokens that may come next | tokenizer |
//! | [`quantize`] | tensors to blocks to a new GGUF file | weights, gguf, kernels, tokenizer, bundle |
//! | [`ops`] | shapes and threads over kernels, here or on a GPU: linear, norm, rope, attention | kernels, gpu |
//! | [`model`] | Gemma 2 as the paper states it | ops, weights |
//! | [`engine`] | requests in, events out: scheduler, sessions, sampler, stop strings | model, tokenizer, grammar |
//! | [`bench`](mod@bench) | the workloads behind `gemma2 bench` and `gemma2 perplexity` | engine, model, kernels, gpu |
//! | [`server`] | the HTTP APIs and the embedded page | engine, chat, tokenizer, grammar |
//! | [`cli`] | what was typed, what it means, and the terminal | everything |
//!
//! All may use `error`. `tests/tidy.rs` holds this table against every `use crate::…`.
//!
//! # Invariants
//!
//! - `kernels` sees slices and numbers: no candle, no threads, no I/O.
//! - `model` names no device and no file format; `gguf` and `safetensors` know no model; only `bundle` knows there is a ZIP.
//! - `engine` speaks token ids and settings: no JSON, no terminal, no tokio.
//! - Only `server` has wire types. Only `cli` prints and exits; `main` alone maps errors to exit codes.
//! - No build file sets `target-cpu`: the binary must run on a machine that is not this one.
//! - `unsafe` lives in `kernels`, in `gpu/driver.rs` and `gpu/metal`, in `bundle/map.rs` (with `map/joined.rs`) and, for one
//!   question to Windows, in `cli/console.rs` only.
//! - Whether a program can use a GPU is decided in `gpu` alone (the features `cuda` and `metal`); everything else is the same
//!   code.

pub mod bench;
pub mod bundle;
pub mod chat;
pub mod cli;
pub mod engine;
pub mod error;
pub mod gguf;
pub mod gpu;
pub mod grammar;
pub mod kernels;
pub mod model;
pub mod ops;
pub mod quantize;
pub mod safetensors;
pub mod server;
pub mod tokenizer;
pub mod weights;
