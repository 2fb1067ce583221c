//! gemma2.
