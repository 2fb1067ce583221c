//! The executable as a container: its mapping, the archive behind it, and how such a file is made.
//!
//! ```text
//! program ─ manifest.json ─ .args ─ license ─ config.json … ─ (64 KiB boundary) weights ─ directory of the archive
//! ```
//!
//! [`Bundle::open`] finds the archive of any file, [`Bundle::of_running_executable`] that of the program itself;
//! members are slices of the mapping. [`pack()`], [`upgrade()`], [`unpack()`] and [`verify()`] are the tools. Only this
//! module knows that there is a ZIP.

mod args_file;
mod contents;
mod executable;
mod hashes;
mod large_pages;
mod locate;
mod manifest;
mod map;
mod models;
mod new_file;
mod pack;
mod sources;
mod unpack;
mod upgrade;
mod verify;
pub mod zip;

pub use args_file::{ARGS_MEMBER, ArgsError, ArgsFile};
pub use contents::{Made, MakeBytes};
pub use locate::{Bundle, BundleError, executable_path, is_weights, running_executable};
pub use manifest::{Hashed, MANIFEST_MEMBER, Manifest, Member, Parameters};
pub use map::{Bytes, MapError};
pub use models::PackedModel;
pub use new_file::{NewFile, free_space};
pub use pack::{ModelInput, OnProgress, PackError, PackOptions, Packed, Progress, pack};
pub use unpack::{UnpackError, unpack};
pub use upgrade::{How, UpgradeOptions, Upgraded, upgrade};
pub use verify::{Verification, verify};

/// Whether a member's name, put behind a directory, stays inside it on every system: relative, `/` only, no `..`, no
/// drive letter, no control character.
pub fn is_safe_name(name: &str) -> bool {
    let is_safe_part = |part: &str| !matches!(part, "" | "." | "..");
    name.split('/').all(is_safe_part) && !name.contains(['\\', ':']) && !name.chars().any(char::is_control)
}
