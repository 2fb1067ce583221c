//! A packed file with another program or other default arguments, its weights untouched.
//!
//! Other arguments are appended: the new `.args`, manifest and directory go behind the old directory, which counts until the
//! last record of the new one is there. Then the headers of what was replaced are marked, for readers that begin in front.
//!
//! A program cannot be exchanged in place, since half of one does not start. Then a new file is made beside the old one,
//! into which the system copies the weights (on file systems that can share data between files, nothing is copied at all),
//! and takes its name. Either way, who looks at the file at any moment, or after a power failure, finds the old one or the
//! new one.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::Bytes;
use super::args_file::{ARGS_MEMBER, ArgsFile};
use super::contents::{Content, Contents, Part, manifest_member, new_manifest};
use super::hashes::{Hasher, Hashes, PIECE_SIZE, n_pieces};
use super::locate::{Bundle, BundleError, is_weights};
use super::manifest::{MANIFEST_MEMBER, Manifest, Member, Parameters};
use super::map::MapError;
use super::new_file::free_space;
use super::pack::{OnProgress, PackError, args_part, io_error, program, write_new};
use super::zip::{END_LENGTH, Entry, Layout, NewMember, RETIRED};

/// Readers look for the last record of a directory in the last 64 KiB of a file, so that a longer tail would hide the old
/// one while it is written.
const MAX_TAIL: usize = 60_000;

/// What to change.
#[derive(Clone, Debug)]
pub struct UpgradeOptions {
    /// The packed file.
    pub file: PathBuf,
    /// The program to put in front, which may be a packed file itself; the present one if `None`.
    pub runtime: Option<PathBuf>,
    /// Default arguments; the present ones if `None`.
    pub args: Option<Vec<String>>,
}

/// A file that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// Its length now.
    pub size: u64,
    /// How it was changed.
    pub how: How,
}

/// How a file was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It was as asked for already.
    Unchanged,
    /// Only its end was written.
    InPlace,
    /// A new file has taken its place.
    NewFile,
}

/// Changes the file.
///
/// # Errors
/// See [`PackError`]; the file is what it was then.
pub fn upgrade(options: &UpgradeOptions, on_progress: &mut OnProgress<'_>) -> Result<Upgraded, PackError> {
    // Where the name is a link, the file that it leads to is replaced and not the link. Any other name stays as it was typed,
    // for messages.
    let path = match options.file.is_symlink() {
        true => std::fs::canonicalize(&options.file).map_err(cannot_read(options))?,
        false => options.file.clone(),
    };
    match change(options, &path)? {
        Change::Made(upgraded) => Ok(upgraded),
        Change::NewFile(contents) => {
            let permissions = std::fs::metadata(&path).map_err(cannot_read(options))?.permissions();
            let size = contents.total();
            write_new(&path, *contents, Some(permissions), on_progress)?;
            Ok(Upgraded { size, how: How::NewFile })
        }
    }
}

fn cannot_read(options: &UpgradeOptions) -> impl Fn(std::io::Error) -> MapError + '_ {
    |source| MapError { path: options.file.clone(), source }
}

/// A change that was asked for.
enum Change {
    /// It is there.
    Made(Upgraded),
    /// It takes a new file with this in it, and nothing else has the old one open.
    NewFile(Box<Contents<'static>>),
}

/// Makes the change where the end of the file is enough.
fn change(options: &UpgradeOptions, path: &Path) -> Result<Change, PackError> {
    let bundle = Bundle::open(path)?.ok_or_else(|| BundleError::NoArchive(path.to_owned()))?;
    let manifest = bundle.manifest()?;
    let old_runtime = bundle.runtime().unwrap_or_else(|| Vec::new().into());
    let runtime = match &options.runtime {
        Some(runtime) => program(runtime)?,
        None => old_runtime.clone(),
    };
    let old_args = bundle.member(ARGS_MEMBER)?.unwrap_or_else(|| Vec::new().into());
    let has_args = |args: &Vec<String>| *ArgsFile::text(args).as_bytes() == *old_args;
    if *runtime == *old_runtime && options.args.as_ref().is_none_or(has_args) {
        return Ok(Change::Made(Upgraded { size: bundle.bytes.len() as u64, how: How::Unchanged }));
    }
    let file = Rc::new(File::open(path).map_err(cannot_read(options))?);
    let parts = parts(&bundle, manifest.as_ref(), options.args.as_deref(), &file)?;
    let mut parameters = match &manifest {
        Some(manifest) => manifest.parameters.clone(),
        None => parameters_of(&bundle),
    };
    if let Some(args) = &options.args {
        parameters.args.clone_from(args);
    }
    if let Some(manifest) = manifest.as_ref().filter(|_| *runtime == *old_runtime) {
        let tail = Tail::new(&bundle, manifest, &old_runtime, &parameters, &parts)?;
        if let Some(tail) = tail
            && tail.append(path, &bundle)?
        {
            return Ok(Change::Made(Upgraded { size: tail.size, how: How::InPlace }));
        }
    }
    let weights_file = manifest.and_then(|manifest| manifest.weights_file);
    let contents = Contents::place(runtime, parameters, weights_file, parts, PIECE_SIZE)?;
    Ok(Change::NewFile(Box::new(contents)))
}

/// All members but the manifest: those of the file, except that `args` replaces `.args`.
fn parts(
    bundle: &Bundle,
    manifest: Option<&Manifest>,
    args: Option<&[String]>,
    file: &Rc<File>,
) -> Result<Vec<Part<'static>>, PackError> {
    let mut parts: Vec<Part> = args.filter(|args| !args.is_empty()).map(args_part).into_iter().collect();
    for entry in bundle.archive.entries.iter().filter(|entry| !entry.is_dir()) {
        if entry.name == MANIFEST_MEMBER || (entry.name == ARGS_MEMBER && args.is_some()) {
            continue;
        }
        let bytes = bundle.data(entry)?;
        let content = match manifest.and_then(|manifest| known_hashes(entry, manifest)) {
            Some(hashes) => Content::Kept { file: file.clone(), offset: entry.offset() as u64, bytes, hashes },
            None => Content::Bytes(bytes),
        };
        parts.push(Part { name: entry.name.clone(), content, is_model: is_weights(&entry.name) });
    }
    parts.sort_by_key(|part| part.name != ARGS_MEMBER);
    Ok(parts)
}

/// What the manifest knows of a member, if that is all that a new one needs.
fn known_hashes(entry: &Entry, manifest: &Manifest) -> Option<Hashes> {
    let member = manifest.member(&entry.name).filter(|member| member.size == entry.size)?;
    let n_expected = n_pieces(entry.size, PIECE_SIZE);
    let is_complete = member.pieces.len() as u64 == n_expected
        && (n_expected == 0 || manifest.piece_size == PIECE_SIZE)
        && member.pieces.iter().chain([&member.sha256]).all(|hash| hash.len() == 64);
    is_complete.then(|| Hashes { sha256: member.sha256.clone(), pieces: member.pieces.clone(), crc32: entry.crc32 })
}

/// Of a file that another tool has made.
fn parameters_of(bundle: &Bundle) -> Parameters {
    let names: Vec<String> = bundle.models().into_iter().map(|model| model.name).collect();
    Parameters { weights: names.join(", "), ..Parameters::default() }
}

/// What goes behind the end of a file to change its small members.
struct Tail {
    bytes: Vec<u8>,
    /// Length of the file with it.
    size: u64,
    /// Where members that do not count any more have their local headers.
    retired: Vec<u64>,
}

impl Tail {
    /// `None` where more than that would have to be written.
    fn new(
        bundle: &Bundle,
        old: &Manifest,
        runtime: &Bytes,
        parameters: &Parameters,
        parts: &[Part<'_>],
    ) -> Result<Option<Tail>, PackError> {
        let (new, kept): (Vec<&Part>, Vec<&Part>) = parts.iter().partition(|part| part.name == ARGS_MEMBER);
        let mut manifest = new_manifest(runtime, parameters.clone(), old.weights_file.clone(), parts, PIECE_SIZE);
        manifest.runtime = old.runtime.clone();
        let (mut entries, mut crc32s, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for part in kept {
            let (Content::Kept { hashes, .. }, Some(entry)) = (&part.content, bundle.archive.entry(&part.name)) else {
                return Ok(None);
            };
            entries.push(entry);
            crc32s.push(hashes.crc32);
        }
        for (index, part) in new.into_iter().enumerate() {
            let Content::Bytes(bytes) = &part.content else {
                return Ok(None);
            };
            let mut hasher = Hasher::new(PIECE_SIZE);
            hasher.update(bytes);
            let hashes = hasher.finish();
            manifest.members[index] = Member::new(&part.name, bytes.len() as u64, &hashes);
            crc32s.insert(index, hashes.crc32);
            added.push((part.name.clone(), bytes.clone()));
        }
        let is_kept = |entry: &Entry| entries.iter().any(|kept| kept.name == entry.name);
        let retired = bundle.archive.entries.iter().filter(|entry| !is_kept(entry));
        let retired = retired.map(|entry| entry.header_offset() as u64).collect();
        let end = bundle.archive.end as u64;
        let layout = loop {
            let mut members = vec![manifest_member(&manifest)];
            members.extend(added.iter().map(|(name, bytes)| NewMember {
                name: name.clone(),
                size: bytes.len() as u64,
                is_aligned: false,
            }));
            let layout = Layout::appended(end, &members, &entries)?;
            if layout.total() == manifest.file_size {
                break layout;
            }
            manifest.file_size = layout.total();
        };
        if layout.total() - end > MAX_TAIL as u64 {
            return Ok(None);
        }
        let manifest = Bytes::from(manifest.to_bytes());
        crc32s.insert(0, crc32fast::hash(&manifest));
        let data = std::iter::once(&manifest).chain(added.iter().map(|(_, bytes)| bytes));
        let mut bytes = Vec::new();
        for (index, data) in data.enumerate() {
            bytes.resize((layout.header_offset(index) - end) as usize, 0);
            bytes.extend(layout.local_header(index, crc32s[index]));
            bytes.extend_from_slice(data);
        }
        bytes.extend(layout.directory(&crc32s));
        Ok(Some(Tail { bytes, size: layout.total(), retired }))
    }

    /// Appends it; `false` where the file may not be written to, as while it runs.
    fn append(&self, path: &Path, bundle: &Bundle) -> Result<bool, PackError> {
        let Ok(mut file) = OpenOptions::new().write(true).open(path) else {
            return Ok(false);
        };
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
            return Err(PackError::Busy(path.to_owned()));
        }
        let is_same = file.metadata().is_ok_and(|metadata| metadata.len() == bundle.bytes.len() as u64);
        if !is_same {
            return Err(PackError::Busy(path.to_owned()));
        }
        let end = bundle.archive.end as u64;
        let (records, last) = self.bytes.split_at(self.bytes.len() - END_LENGTH);
        // Away with what an interrupted change has left. Windows cuts off nothing of a file that is mapped.
        if bundle.bytes.len() as u64 != end && file.set_len(end).is_err() {
            return Ok(false);
        }
        let mut write = || {
            file.seek(SeekFrom::Start(end))?;
            file.write_all(records)?;
            // Everything that the last record leads to is on the disk before that record is.
            file.sync_data()?;
            file.write_all(last)?;
            file.sync_all()
        };
        write().map_err(|source| {
            let _ = file.set_len(end);
            let needed = self.bytes.len() as u64;
            match source.kind() {
                std::io::ErrorKind::StorageFull => {
                    PackError::NoSpace { path: path.to_owned(), needed, free: free_space(path).unwrap_or(0) }
                }
                _ => io_error(path)(source),
            }
        })?;
        for &header in &self.retired {
            // The change is made, and for this program means the same without these marks.
            let _ = file.seek(SeekFrom::Start(header)).and_then(|_| file.write_all(&[RETIRED]));
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
