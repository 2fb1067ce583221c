//! Read-only mapped files, shared by reference and cut into slices without copying.
#![allow(unsafe_code)] // Mapping a file is the one thing here that needs it.

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Hint;

/// A range of a mapped file (or of an owned buffer), cheap to clone: the mapping lives as long as any slice of it.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
}

enum Owner {
    Mapped(memmap2::Mmap),
    /// A copy in memory of its own, behind which there is no file.
    Copied(memmap2::Mmap),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

/// The file could not be opened or mapped.
#[derive(Debug, thiserror::Error)]
#[error("`{}` cannot be read", path.display())]
pub struct MapError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

impl Hint for MapError {
    fn hint(&self) -> Option<String> {
        match self.source.kind() {
            std::io::ErrorKind::NotFound => Some("check the path".into()),
            std::io::ErrorKind::IsADirectory => Some("give a file in it".into()),
            std::io::ErrorKind::PermissionDenied if cfg!(unix) => {
                Some(format!("allow it with `chmod u+r '{}'`", self.path.display()))
            }
            _ => None,
        }
    }
}

impl Bytes {
    /// Maps the whole file read-only. An empty file gives empty bytes.
    pub fn open(path: &Path) -> Result<Bytes, MapError> {
        let error = |source| MapError { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(error)?;
        let meta = file.metadata().map_err(error)?;
        if meta.is_dir() {
            return Err(error(std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a directory")));
        }
        if meta.len() == 0 {
            return Ok(Bytes::from(Vec::new()));
        }
        // SAFETY: the mapping is read-only and private to this process. Should another process truncate the file
        // while it is mapped, reads past the new end raise SIGBUS; every program that maps its weights accepts this.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(error)?;
        let range = 0..map.len();
        Ok(Bytes { owner: Arc::new(Owner::Mapped(map)), range })
    }

    /// Bytes inside the program itself, not copied.
    pub fn from_static(bytes: &'static [u8]) -> Bytes {
        Bytes { owner: Arc::new(Owner::Static(bytes)), range: 0..bytes.len() }
    }

    /// A copy in memory of its own, on a page boundary as mapped files are: no file is read again for it.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn copied(&self) -> std::io::Result<Bytes> {
        if self.is_empty() {
            return Ok(Bytes::from(Vec::new()));
        }
        let mut map = memmap2::MmapMut::map_anon(self.len())?;
        map.copy_from_slice(self);
        let map = map.make_read_only()?;
        let range = 0..map.len();
        Ok(Bytes { owner: Arc::new(Owner::Copied(map)), range })
    }

    /// Keeps the whole mapping that these bytes are a part of from being swapped out.
    ///
    /// # Errors
    /// The system's limit for locked memory, or a system that cannot do it.
    pub fn lock(&self) -> std::io::Result<()> {
        match &*self.owner {
            #[cfg(unix)]
            Owner::Mapped(map) | Owner::Copied(map) => map.lock(),
            _ => Err(std::io::Error::from(std::io::ErrorKind::Unsupported)),
        }
    }

    /// Tells the system that these bytes are not read again soon. Memory that holds mapped pages becomes free for
    /// others; the bytes stay what they are.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Owner::Mapped(map) = &*self.owner {
            // SAFETY: the mapping is of a file and read-only, so that pages thrown away are read from the file again.
            // Should the system refuse, nothing changes.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.range.start, self.range.len())
            };
        }
    }

    /// The part `range` of these bytes, or `None` where it does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Bytes { owner: self.owner.clone(), range: start..start + range.len() })
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &*self.owner {
            Owner::Mapped(map) | Owner::Copied(map) => map,
            Owner::Owned(vec) => vec,
            Owner::Static(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(vec: Vec<u8>) -> Bytes {
        let range = 0..vec.len();
        Bytes { owner: Arc::new(Owner::Owned(vec)), range }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({:?})", self.range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_read_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        let hint = |path: &Path| Bytes::open(path).unwrap_err().hint();
        assert_eq!(hint(folder.path()).as_deref(), Some("give a file in it"));
        assert_eq!(hint(&folder.path().join("x")).as_deref(), Some("check the path"));
        let source = std::io::ErrorKind::PermissionDenied.into();
        let error = MapError { path: "a.gguf".into(), source };
        if cfg!(unix) {
            assert_eq!(error.hint().as_deref(), Some("allow it with `chmod u+r 'a.gguf'`"));
        }
    }

    #[test]
    fn copies_and_static_bytes_are_the_same_bytes() {
        let bytes = Bytes::from_static(b"some weights");
        assert_eq!(&bytes.slice(5..12).unwrap()[..], b"weights");
        let copy = bytes.slice(5..12).unwrap().copied().unwrap();
        assert_eq!(&copy[..], b"weights");
        assert_eq!(copy.as_ptr() as usize % 4096, 0);
        assert!(bytes.slice(5..13).is_none());
        assert!(Bytes::from(Vec::new()).copied().unwrap().is_empty());
    }
}
