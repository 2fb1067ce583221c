//! `manifest.json`: what a packed file holds and how it was made, so that damage can be named.

use serde::{Deserialize, Serialize};

use super::hashes::Hashes;

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
    /// Bytes that each of [`Member::pieces`] stands for; 0 in files without them.
    #[serde(default)]
    pub piece_size: u64,
    /// Every member but this one, in the archive's order.
    pub members: Vec<Member>,
    /// The file beside this one that holds the weights, where they are not inside.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub weights_file: Option<String>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Name of the file or folder the weights came from, without its path; of several, joined by `, `.
    pub weights: String,
    /// The type that weights were quantized to, where they were.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quantize: Option<String>,
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
    /// The same of each [`Manifest::piece_size`] bytes, where there is more than one piece.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub pieces: Vec<String>,
}

impl Member {
    pub(super) fn new(name: &str, size: u64, hashes: &Hashes) -> Member {
        Member { name: name.to_owned(), size, sha256: hashes.sha256.clone(), pieces: hashes.pieces.clone() }
    }
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

    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}
