//! The executable as a container: its mapping, the archive behind it, and how such a file is made.

mod map;

pub use map::{Bytes, MapError};
