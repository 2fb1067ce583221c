//! `manifest.json`: what a packed file holds and how it was made, so that damage can be named.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The member's name. It is the first member, so that even the start of an incomplete download has it.
pub const MANIFEST_MEMBER: &str = "manifest.json";

/// Contents of `manifest.json`. The same input gives the same bytes: no time, no path, no host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: 1.
    pub format: u32,
    /// Program and version that made the file, as in `gemma2 0.1.0`.
    pub tool: String,
    /// Length of the whole file in bytes.
    pub file_size: u64,
    /// The executable before the archive.
    pub runtime: Hashed,
    /// How the file was asked for.
    pub parameters: Parameters,
    /// Every member but this one, in the archive's order.
    pub members: Vec<Member>,
}

/// A run of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashed {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// Creation parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Name of the file or folder the weights came from, without its path.
    pub weights: String,
    /// Default arguments, each `--arg`.
    pub args: Vec<String>,
    /// Name of the license member, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub license: Option<String>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name in the archive.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads the member's bytes; `None` where they are no manifest of a format this program knows.
    pub fn parse(bytes: &[u8]) -> Option<Manifest> {
        let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
        (manifest.format == 1).then_some(manifest)
    }

    /// The member's bytes: indented JSON and a newline.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers only: serializing them cannot fail.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// Lower-case hexadecimal of a finished hash.
pub(super) fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}
