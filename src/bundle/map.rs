//! Read-only mapped files, shared by reference and cut into slices without copying.
#![allow(unsafe_code)] // Mapping a file is the one thing here that needs it.

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Hint;

#[cfg(unix)]
mod joined;

/// A range of a mapped file (or of an owned buffer), cheap to clone: the mapping lives as long as any slice of it.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
}

enum Owner {
    Mapped(memmap2::Mmap),
    /// Parts of a file, one behind the other.
    #[cfg(unix)]
    Joined(joined::Mapping),
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
            std::io::ErrorKind::InvalidInput => Some("join the parts: `cat FILE.cat* > FILE`".into()),
            std::io::ErrorKind::PermissionDenied if cfg!(unix) => {
                Some(format!("allow it with `chmod u+r '{}'`", self.path.display()))
            }
            _ => None,
        }
    }
}

impl Bytes {
    /// Maps the whole file read-only. An empty file gives empty bytes. A file that was cut into `FILE.cat0`, `FILE.cat1` and
    /// so on, as those too large for a server are, is mapped as if it were in one piece; `path` is its own name or that of
    /// the first part.
    pub fn open(path: &Path) -> Result<Bytes, MapError> {
        match parts_of(path) {
            Some(parts) => joined::map(&parts),
            None => Bytes::open_one(path),
        }
    }

    fn open_one(path: &Path) -> Result<Bytes, MapError> {
        let error = |source| MapError { path: path.to_owned(), source };
        let is_directory = || error(std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a directory"));
        // Windows opens no directory and says that this was forbidden.
        let opened =
            std::fs::File::open(path).map_err(|source| if path.is_dir() { is_directory() } else { error(source) });
        let file = opened?;
        let meta = file.metadata().map_err(error)?;
        if meta.is_dir() {
            return Err(is_directory());
        }
        if meta.len() == 0 {
            return Ok(Bytes::from(Vec::new()));
        }
        // SAFETY: the mapping is read-only and private to this process. Should another process truncate the file
        // while it is mapped, reads past the new end raise SIGBUS; every program that maps its weights accepts this.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(error)?;
        // What is not in memory yet then comes in large pages, where system and file system have them. Their addresses cost
        // less to find.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let range = 0..map.len();
        Ok(Bytes { owner: Arc::new(Owner::Mapped(map)), range })
    }

    /// Bytes inside the program itself, not copied.
    pub fn from_static(bytes: &'static [u8]) -> Bytes {
        Bytes { owner: Arc::new(Owner::Static(bytes)), range: 0..bytes.len() }
    }

    /// A copy in memory of its own, on a page boundary as mapped files are: no file is read again for it. `on_piece` is
    /// called after each piece of `piece` bytes and the rest, with its size.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn copied(&self, piece: usize, on_piece: &mut dyn FnMut(usize)) -> std::io::Result<Bytes> {
        Bytes::filled(self.len(), |map| {
            for (to, from) in map.chunks_mut(piece.max(1)).zip(self.chunks(piece.max(1))) {
                to.copy_from_slice(from);
                on_piece(from.len());
            }
        })
    }

    /// `len` bytes that `fill` writes, in memory of their own and on a page boundary as mapped files are; in large pages
    /// where the system has them, whose addresses cost less to find.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> std::io::Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::from(Vec::new()));
        }
        let mut map = memmap2::MmapMut::map_anon(len)?;
        #[cfg(target_os = "linux")]
        // Should the system refuse, the pages are small ones.
        let _ = map.advise(memmap2::Advice::HugePage);
        fill(&mut map);
        let map = map.make_read_only()?;
        let range = 0..map.len();
        Ok(Bytes { owner: Arc::new(Owner::Copied(map)), range })
    }

    /// Reads these bytes into memory, as far as there is room: what is mapped is otherwise read when it is first needed.
    pub fn read(&self) {
        #[cfg(unix)]
        if let Owner::Mapped(map) = &*self.owner {
            // All at once, where the system can; should it refuse, the pages come one by one below.
            let _ = map.advise_range(memmap2::Advice::WillNeed, self.range.start, self.range.len());
        }
        const PAGE: usize = 4096;
        let sum = self.iter().step_by(PAGE).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        std::hint::black_box(sum);
    }

    /// Keeps these bytes from being swapped out.
    ///
    /// # Errors
    /// The system's limit for locked memory, or a system that cannot do it.
    pub fn lock(&self) -> std::io::Result<()> {
        #[cfg(unix)]
        {
            let bytes: &[u8] = self;
            // SAFETY: the bytes are readable as long as the owner lives, and locking changes none of them. The system
            // takes the whole pages that they lie in.
            match unsafe { libc::mlock(bytes.as_ptr().cast(), bytes.len()) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        }
        #[cfg(not(unix))]
        Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
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
        #[cfg(unix)]
        if let Owner::Joined(mapping) = &*self.owner {
            mapping.release(self.range.clone());
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
            #[cfg(unix)]
            Owner::Joined(mapping) => mapping,
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

/// The parts of a file that was cut into pieces, in order; `None` for any other file.
fn parts_of(path: &Path) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let whole = match name.strip_suffix(".cat0") {
        Some(whole) => path.with_file_name(whole),
        None if path.exists() => return None,
        None => path.to_owned(),
    };
    let part = |number: usize| {
        let mut name = whole.clone().into_os_string();
        name.push(format!(".cat{number}"));
        PathBuf::from(name)
    };
    let parts: Vec<PathBuf> = (0..).map(part).take_while(|part| part.is_file()).collect();
    (!parts.is_empty()).then_some(parts)
}

#[cfg(not(unix))]
mod joined {
    //! Files cannot be mapped one behind the other here: parts are copied into memory.

    use std::path::PathBuf;

    use super::{Bytes, MapError};

    pub fn map(parts: &[PathBuf]) -> Result<Bytes, MapError> {
        let opened: Vec<Bytes> = parts.iter().map(|part| Bytes::open_one(part)).collect::<Result<_, _>>()?;
        let copy = |map: &mut [u8]| {
            let mut rest = map;
            for part in &opened {
                let (to, behind) = rest.split_at_mut(part.len());
                to.copy_from_slice(part);
                rest = behind;
            }
        };
        let path = parts.first().cloned().unwrap_or_default();
        Bytes::filled(opened.iter().map(|part| part.len()).sum(), copy).map_err(|source| MapError { path, source })
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
    fn a_file_in_parts_is_read_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let whole: Vec<u8> = (0..70_000u32).map(|n| (n % 251) as u8).collect();
        for (number, part) in whole.chunks(32_768).enumerate() {
            std::fs::write(path(&format!("m.gguf.cat{number}")), part).unwrap();
        }
        for name in ["m.gguf", "m.gguf.cat0"] {
            let bytes = Bytes::open(&path(name)).unwrap();
            assert!(bytes[..] == whole, "{name}");
            assert_eq!(&bytes.slice(32_760..32_780).unwrap()[..], &whole[32_760..32_780]);
            bytes.release();
            assert!(bytes[..] == whole, "pages that were given back are read again");
        }
        assert_eq!(Bytes::open(&path("m.gguf.cat1")).unwrap().len(), 32_768, "another part stands for itself");
        std::fs::write(path("m.gguf"), "whole").unwrap();
        assert_eq!(&Bytes::open(&path("m.gguf")).unwrap()[..], b"whole");
    }

    #[test]
    #[cfg(unix)]
    fn parts_that_end_within_a_page_cannot_be_mapped_and_this_is_said() {
        let folder = tempfile::tempdir().unwrap();
        for (name, size) in [("m.cat0", 5_000), ("m.cat1", 5_000)] {
            std::fs::write(folder.path().join(name), vec![1; size]).unwrap();
        }
        let error = Bytes::open(&folder.path().join("m")).unwrap_err();
        let text = crate::error::render(&error);
        assert!(text.contains("m.cat0") && text.contains("hint: join the parts"), "{text}");
    }

    #[test]
    fn copies_and_static_bytes_are_the_same_bytes() {
        let bytes = Bytes::from_static(b"some weights");
        assert_eq!(&bytes.slice(5..12).unwrap()[..], b"weights");
        let mut sizes = Vec::new();
        let copy = bytes.slice(5..12).unwrap().copied(4, &mut |n| sizes.push(n)).unwrap();
        assert_eq!(sizes, [4, 3]);
        assert_eq!(&copy[..], b"weights");
        assert_eq!(copy.as_ptr() as usize % 4096, 0);
        assert!(bytes.slice(5..13).is_none());
        assert!(Bytes::from(Vec::new()).copied(4, &mut |_| ()).unwrap().is_empty());
    }
}
