//! Files mapped one behind the other, as if they were one.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Bytes, MapError, Owner};

/// Reserved addresses, filled with mappings of files from start to end.
pub struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

// SAFETY: the mapping is read-only and belongs to this value alone; an address means the same in every thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; there is no way to write through it.
unsafe impl Sync for Mapping {}

/// Maps the parts. Each but the last must end on a page boundary, as those of round sizes do.
///
/// # Errors
/// A part that cannot be read; of the kind `InvalidInput` one that ends within a page.
pub fn map(parts: &[PathBuf]) -> Result<Bytes, MapError> {
    let mut files = Vec::new();
    let mut total = 0usize;
    for (number, path) in parts.iter().enumerate() {
        let error = |source| MapError { path: path.clone(), source };
        let file = File::open(path).map_err(error)?;
        let size = file.metadata().map_err(error)?.len();
        let size = usize::try_from(size).map_err(|_| error(io::ErrorKind::FileTooLarge.into()))?;
        if number + 1 < parts.len() && (size == 0 || !size.is_multiple_of(page_size())) {
            let message = format!("it is a part whose length of {size} bytes is no multiple of a page");
            return Err(error(io::Error::new(io::ErrorKind::InvalidInput, message)));
        }
        total = total.checked_add(size).ok_or_else(|| error(io::ErrorKind::FileTooLarge.into()))?;
        files.push((path, file, size));
    }
    if total == 0 {
        return Ok(Bytes::from(Vec::new()));
    }
    let first = parts.first().map_or(Path::new(""), PathBuf::as_path);
    let mapping = Mapping::reserve(total).map_err(|source| MapError { path: first.to_owned(), source })?;
    let mut at = 0;
    for (path, file, size) in files {
        mapping.fill(at, &file, size).map_err(|source| MapError { path: path.clone(), source })?;
        at += size;
    }
    Ok(Bytes { owner: Arc::new(Owner::Joined(mapping)), range: 0..total })
}

impl Mapping {
    /// Takes addresses that nobody can read yet.
    fn reserve(length: usize) -> io::Result<Mapping> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: without a fixed address the system chooses one where nothing is.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { start, length })
    }

    /// Maps `size` bytes of a file at offset `at`, a multiple of the page size.
    fn fill(&self, at: usize, file: &File, size: usize) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        assert!(at.checked_add(size).is_some_and(|end| end <= self.length), "parts lie inside what was reserved");
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: the addresses are inside what was reserved for this value (checked above), so that the fixed place
        // replaces nothing of anybody else's. The same holds for a truncated file as for any other mapping.
        let placed = unsafe { libc::mmap(self.start.byte_add(at), size, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
        if placed == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Gives the pages back that lie wholly inside `range`; they are read from the files again when needed.
    pub fn release(&self, range: Range<usize>) {
        let (start, end) = (range.start.next_multiple_of(page_size()), range.end / page_size() * page_size());
        if start < end && end <= self.length {
            // SAFETY: the pages are this value's own, read-only and of files. Should the system refuse, nothing changes.
            let _ = unsafe { libc::madvise(self.start.byte_add(start), end - start, libc::MADV_DONTNEED) };
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `map` hands a mapping on only when all of it has been filled with readable pages, and they stay until
        // this value is dropped.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this value's own, and nobody can hold a slice of it any more.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

fn page_size() -> usize {
    // SAFETY: a question without side effects.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1)
}
