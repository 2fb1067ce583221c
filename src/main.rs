//! The `gemma2` program: parse arguments, run, print the error and its hint, choose the exit code.

fn main() {}
