//! Program and members, placed and written: what `pack` and `upgrade` have in common.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::rc::Rc;

use super::Bytes;
use super::hashes::{Hasher, Hashes};
use super::large_pages::{LARGE_PAGE, LargePages};
use super::locate::is_weights;
use super::manifest::{Hashed, MANIFEST_MEMBER, Manifest, Member, Parameters};
use super::pack::{OnProgress, Progress};
use super::zip::{Layout, NewMember, ZipError};

/// Bytes between two calls of the progress callback.
const CHUNK: usize = 2 * LARGE_PAGE;
/// Bytes that the system is asked to copy at once.
const KEEP_CHUNK: u64 = 64 << 20;

/// A member to be written.
pub(super) struct Part<'a> {
    pub name: String,
    pub content: Content<'a>,
    /// One of a model's files, not of the program's.
    pub is_model: bool,
}

impl Part<'_> {
    /// One of the program's own files.
    pub fn small(name: String, bytes: Bytes) -> Self {
        Part { name, content: Content::Bytes(bytes), is_model: false }
    }
}

/// Where a member's bytes come from.
pub(super) enum Content<'a> {
    /// Mapped, or in memory.
    Bytes(Bytes),
    /// Bytes of an existing packed file, which are handed on without being looked at.
    Kept { file: Rc<File>, offset: u64, bytes: Bytes, hashes: Hashes },
    /// Made while they are written.
    Made(Made<'a>),
}

/// Bytes that are made while they are written.
#[derive(Clone, Copy)]
pub struct Made<'a> {
    /// How many there will be.
    pub size: u64,
    /// Writes exactly so many.
    pub write: &'a MakeBytes<'a>,
}

/// Writes to what it is given, and passes its errors on.
pub type MakeBytes<'a> = dyn Fn(&mut dyn Write) -> io::Result<()> + 'a;

impl Content<'_> {
    pub fn size(&self) -> u64 {
        match self {
            Content::Bytes(bytes) | Content::Kept { bytes, .. } => bytes.len() as u64,
            Content::Made(made) => made.size,
        }
    }
}

/// Everything that goes into the file, placed.
pub(super) struct Contents<'a> {
    runtime: Bytes,
    /// Hashes of what is still to be written are known afterwards, and have a fixed length.
    manifest: Manifest,
    /// The members behind the manifest.
    parts: Vec<Part<'a>>,
    layout: Layout,
}

/// Why writing ends early.
pub(super) enum Stop {
    Interrupted,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

impl<'a> Contents<'a> {
    /// Places the members behind the program. The manifest tells the length of the file, which depends on that of the
    /// manifest: repeated until it fits. It does, because a longer number never makes the file shorter.
    pub fn place(
        runtime: Bytes,
        parameters: Parameters,
        weights_file: Option<String>,
        parts: Vec<Part<'a>>,
        piece_size: u64,
    ) -> Result<Contents<'a>, ZipError> {
        let mut manifest = new_manifest(&runtime, parameters, weights_file, &parts, piece_size);
        loop {
            let mut members = vec![manifest_member(&manifest)];
            members.extend(parts.iter().map(|part| NewMember {
                name: part.name.clone(),
                size: part.content.size(),
                is_aligned: is_weights(&part.name),
            }));
            let layout = Layout::new(runtime.len() as u64, &members)?;
            if layout.total() == manifest.file_size {
                return Ok(Contents { runtime, manifest, parts, layout });
            }
            manifest.file_size = layout.total();
        }
    }

    /// Length of the whole file.
    pub fn total(&self) -> u64 {
        self.layout.total()
    }

    /// Writes all of it to an empty file, and sees to it that it is on the disk.
    pub fn write(&self, file: &File, on_progress: &mut OnProgress<'_>) -> Result<(), Stop> {
        file.set_len(self.layout.total())?;
        let mut manifest = self.manifest.clone();
        let piece_size = manifest.piece_size;
        let mut out = Out { file, on_progress, done: 0, total: self.layout.total(), is_interrupted: false };
        let mut crc32s = vec![0];
        manifest.runtime.sha256 = out.copy("", 0, &self.runtime, piece_size)?.sha256;
        for (index, part) in self.parts.iter().enumerate() {
            let at = self.layout.data_offset(index + 1);
            let hashes = match &part.content {
                Content::Bytes(bytes) => out.copy(&part.name, at, bytes, piece_size)?,
                Content::Made(made) => out.make(&part.name, at, *made, piece_size)?,
                Content::Kept { file, offset, bytes, hashes } => {
                    out.keep(&part.name, at, file, *offset, bytes)?;
                    hashes.clone()
                }
            };
            manifest.members[index] = Member::new(&part.name, part.content.size(), &hashes);
            crc32s.push(hashes.crc32);
        }
        let bytes = Bytes::from(manifest.to_bytes());
        crc32s[0] = out.copy(MANIFEST_MEMBER, self.layout.data_offset(0), &bytes, piece_size)?.crc32;
        let mut file = file;
        for (index, &crc32) in crc32s.iter().enumerate() {
            file.seek(SeekFrom::Start(self.layout.header_offset(index)))?;
            file.write_all(&self.layout.local_header(index, crc32))?;
        }
        file.seek(SeekFrom::Start(self.layout.directory_offset()))?;
        file.write_all(&self.layout.directory(&crc32s))?;
        file.sync_all()?;
        Ok(())
    }
}

/// A manifest in which sizes and known hashes are right, and the file's length is 0.
pub(super) fn new_manifest(
    runtime: &Bytes,
    parameters: Parameters,
    weights_file: Option<String>,
    parts: &[Part<'_>],
    piece_size: u64,
) -> Manifest {
    let members = parts.iter().map(|part| {
        let size = part.content.size();
        match &part.content {
            Content::Kept { hashes, .. } => Member::new(&part.name, size, hashes),
            _ => Member::new(&part.name, size, &Hashes::unknown(size, piece_size)),
        }
    });
    Manifest {
        format: 1,
        tool: concat!("gemma2 ", env!("CARGO_PKG_VERSION")).into(),
        file_size: 0,
        runtime: Hashed { size: runtime.len() as u64, sha256: Hashes::unknown(0, piece_size).sha256 },
        parameters,
        piece_size,
        members: members.collect(),
        weights_file,
    }
}

pub(super) fn manifest_member(manifest: &Manifest) -> NewMember {
    NewMember { name: MANIFEST_MEMBER.into(), size: manifest.to_bytes().len() as u64, is_aligned: false }
}

/// Writes, and tells how far it is.
struct Out<'a, 'b> {
    file: &'a File,
    on_progress: &'a mut OnProgress<'b>,
    done: u64,
    total: u64,
    is_interrupted: bool,
}

impl Out<'_, '_> {
    /// Copies and hashes.
    fn copy(&mut self, name: &str, at: u64, bytes: &Bytes, piece_size: u64) -> Result<Hashes, Stop> {
        let mut hasher = Hasher::new(piece_size);
        self.file.seek(SeekFrom::Start(at))?;
        let mut start = 0;
        // Up to the end of a large page of the file, see `LargePages`.
        let mut end = CHUNK - (at % CHUNK as u64) as usize;
        while let Some(chunk) = bytes.slice(start..bytes.len().min(end)).filter(|chunk| !chunk.is_empty()) {
            hasher.update(&chunk);
            self.file.write_all(&chunk)?;
            self.report(name, chunk.len() as u64)?;
            // What has been read would otherwise count as this program's memory.
            chunk.release();
            (start, end) = (start + chunk.len(), end + CHUNK);
        }
        Ok(hasher.finish())
    }

    /// Hashes while the bytes are made.
    fn make(&mut self, name: &str, at: u64, made: Made<'_>, piece_size: u64) -> Result<Hashes, Stop> {
        self.file.seek(SeekFrom::Start(at))?;
        let sink = Sink { out: self, name, hasher: Hasher::new(piece_size), left: made.size };
        let mut pages = LargePages::new(sink, at);
        let result = (made.write)(&mut pages).and_then(|()| pages.flush());
        let Sink { hasher, left, out, .. } = pages.into_inner();
        if out.is_interrupted {
            return Err(Stop::Interrupted);
        }
        result?;
        if left > 0 {
            return Err(Stop::Io(io::Error::new(io::ErrorKind::InvalidData, format!("{left} bytes were not made"))));
        }
        Ok(hasher.finish())
    }

    /// Has the system copy. Where the file system can, both files then share the bytes on disk.
    fn keep(&mut self, name: &str, at: u64, from: &File, offset: u64, bytes: &Bytes) -> Result<(), Stop> {
        let size = bytes.len() as u64;
        let mut done = 0;
        while done < size {
            let wanted = (size - done).min(KEEP_CHUNK);
            let n_bytes = match copy_range(from, offset + done, self.file, at + done, wanted) {
                Ok(0) => self.write_chunk(bytes, done, at + done)?,
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(error.into()),
                // Two file systems, or one that cannot do it: an ordinary copy tells what is really wrong, if anything is.
                Err(_) => self.write_chunk(bytes, done, at + done)?,
                Ok(n_bytes) => n_bytes,
            };
            done += n_bytes;
            self.report(name, n_bytes)?;
        }
        Ok(())
    }

    fn write_chunk(&mut self, bytes: &Bytes, start: u64, at: u64) -> io::Result<u64> {
        // It lies inside the mapping, so that it fits.
        let start = start as usize;
        let Some(chunk) = bytes.slice(start..bytes.len().min(start + CHUNK)) else { return Ok(0) };
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(&chunk)?;
        chunk.release();
        Ok(chunk.len() as u64)
    }

    fn report(&mut self, name: &str, n_bytes: u64) -> Result<(), Stop> {
        self.done += n_bytes;
        let progress = Progress { member: name, done: self.done, total: self.total };
        self.is_interrupted |= (self.on_progress)(progress).is_break();
        if self.is_interrupted { Err(Stop::Interrupted) } else { Ok(()) }
    }
}

/// Takes the bytes of a [`Made`].
struct Sink<'s, 'a, 'b> {
    out: &'s mut Out<'a, 'b>,
    name: &'s str,
    hasher: Hasher,
    left: u64,
}

impl Write for Sink<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_bytes = self.out.file.write(bytes)?;
        self.left = self.left.checked_sub(n_bytes as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "there are more bytes than there was said to be")
        })?;
        self.hasher.update(&bytes[..n_bytes]);
        match self.out.report(self.name, n_bytes as u64) {
            Ok(()) => Ok(n_bytes),
            Err(Stop::Io(error)) => Err(error),
            // Not the kind `Interrupted`, after which writing is tried again.
            Err(Stop::Interrupted) => Err(io::Error::other("interrupted")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.file.flush()
    }
}

/// Copies inside the system, without a detour through this program; `Ok(0)` where there is no such call.
#[cfg(target_os = "linux")]
fn copy_range(from: &File, mut from_at: u64, to: &File, mut to_at: u64, n_bytes: u64) -> io::Result<u64> {
    let n_bytes = usize::try_from(n_bytes).unwrap_or(usize::MAX);
    let copied = rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), n_bytes)?;
    Ok(copied as u64)
}

#[cfg(not(target_os = "linux"))]
fn copy_range(_from: &File, _from_at: u64, _to: &File, _to_at: u64, _n_bytes: u64) -> io::Result<u64> {
    Ok(0)
}
