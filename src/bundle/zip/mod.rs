//! The ZIP archive behind an executable: bytes to records ([`read`]) and records to bytes ([`write`](mod@write)).
//!
//! Only what a bundle needs: stored members, ZIP64, offsets from the start of the file. Source: PKWARE's APPNOTE 6.3.10;
//! section numbers in comments are its.

pub mod read;
pub mod write;

pub use read::{Archive, Entry};
pub use write::{Layout, NewMember};

use crate::error::Hint;

/// Local file header, 4.3.7.
pub(crate) const LOCAL_SIGNATURE: u32 = 0x0403_4b50;
/// In place of its first byte, in a header that no directory leads to any more. Programs that read an archive from its
/// front, as 7-Zip does, would otherwise take the member for one that counts.
pub(crate) const RETIRED: u8 = b'p';
/// Central directory file header, 4.3.12.
const CENTRAL_SIGNATURE: u32 = 0x0201_4b50;
/// End of central directory record, 4.3.16.
const END_SIGNATURE: u32 = 0x0605_4b50;
/// ZIP64 end of central directory record, 4.3.14.
const END64_SIGNATURE: u32 = 0x0606_4b50;
/// ZIP64 end of central directory locator, 4.3.15.
const LOCATOR64_SIGNATURE: u32 = 0x0706_4b50;

/// Length of a local header before name and extra field.
const LOCAL_LENGTH: usize = 30;
/// Length of a central header before name, extra field and comment.
const CENTRAL_LENGTH: usize = 46;
/// Length of the end record before its comment: the last bytes of an archive that has none.
pub(crate) const END_LENGTH: usize = 22;
/// Length of the ZIP64 end record, without extensible data.
const END64_LENGTH: usize = 56;
/// Length of the ZIP64 locator.
const LOCATOR64_LENGTH: usize = 20;

/// Extra field with 64-bit sizes and offsets, 4.5.3.
const EXTRA_ZIP64: u16 = 0x0001;
/// Extra field that only aligns the data behind it; the id and layout are those of Android's zipalign.
const EXTRA_ALIGNMENT: u16 = 0xd935;

/// Weight members start on such a boundary, the largest page size in use, so that they can be mapped on their own.
pub const WEIGHT_ALIGNMENT: u64 = 64 * 1024;

/// An archive that cannot be read, or one that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZipError {
    /// A record that contradicts the file or another record.
    #[error("the archive is damaged: {0}")]
    Damaged(String),
    /// Two members have one name.
    #[error("the archive has two members named `{0}`")]
    Duplicate(String),
    /// Not stored.
    #[error("member `{0}` is compressed")]
    Compressed(String),
    /// Encrypted.
    #[error("member `{0}` is encrypted")]
    Encrypted(String),
    /// Parts on several disks.
    #[error("the archive is split over several files")]
    Split,
    /// More than the format can express.
    #[error("{0}")]
    TooLarge(String),
}

impl Hint for ZipError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            ZipError::Damaged(_) => "the file was changed or its download is incomplete; get it again".into(),
            ZipError::Duplicate(_) => "pack the file again".into(),
            ZipError::Compressed(_) => {
                "store it uncompressed (`zip -0`), or unpack the archive with `unzip` and use `-m`".into()
            }
            ZipError::Encrypted(_) => "unpack the archive with `unzip` and use `-m` with the file in it".into(),
            ZipError::Split => "join the parts first (`zip -s 0`)".into(),
            ZipError::TooLarge(_) => return None,
        })
    }
}

/// Whether a member's local header is at the start of `bytes`, which may be retired.
pub(crate) fn is_local_header(bytes: &[u8]) -> bool {
    let mut signature = LOCAL_SIGNATURE.to_le_bytes();
    let counts = bytes.starts_with(&signature);
    signature[0] = RETIRED;
    counts || bytes.starts_with(&signature)
}

fn damaged(what: impl Into<String>) -> ZipError {
    ZipError::Damaged(what.into())
}

/// Little-endian integers at an offset of a slice, `None` past its end.
trait Fields {
    fn u16_at(&self, at: usize) -> Option<u16>;
    fn u32_at(&self, at: usize) -> Option<u32>;
    fn u64_at(&self, at: usize) -> Option<u64>;
}

impl Fields for [u8] {
    fn u16_at(&self, at: usize) -> Option<u16> {
        let bytes = self.get(at..at.checked_add(2)?)?;
        Some(u16::from_le_bytes(bytes.try_into().ok()?))
    }
    fn u32_at(&self, at: usize) -> Option<u32> {
        let bytes = self.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }
    fn u64_at(&self, at: usize) -> Option<u64> {
        let bytes = self.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}

#[cfg(test)]
pub(crate) mod tests;
