//! A packed file to its parts again.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::locate::{Bundle, BundleError};
use super::new_file::{NewFile, free_space};
use super::pack::{OnProgress, Progress, write_hint};
use super::{Bytes, is_safe_name};
use crate::error::{Hint, bytes_for_people};

/// Bytes between two calls of the progress callback.
const CHUNK: usize = 4 << 20;

/// Members that were not written, or not checked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive or a compressed member.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A name that leads outside the directory.
    #[error("member `{0}` would be written outside the directory")]
    UnsafeName(String),
    /// The file exists.
    #[error("`{}` exists already", .0.display())]
    Exists(PathBuf),
    /// A member's path goes through a symbolic link or a file.
    #[error("`{}` is no directory", .0.display())]
    NoDirectory(PathBuf),
    /// Writing failed.
    #[error("`{}` cannot be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file system has not that much room.
    #[error("no space in `{}`: the members need {} and {} are free", path.display(), bytes_for_people(*needed), bytes_for_people(*free))]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// Bytes of all members.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The callback said so.
    #[error("interrupted")]
    Interrupted,
}

impl Hint for UnpackError {
    fn hint(&self) -> Option<String> {
        match self {
            UnpackError::Bundle(error) => error.hint(),
            UnpackError::Exists(_) => Some("choose another `-d`, or replace files with `--force`".into()),
            UnpackError::UnsafeName(_) => Some("this archive was made to do harm".into()),
            UnpackError::NoDirectory(_) => Some("choose an empty directory for `-d`".into()),
            UnpackError::Io { source, .. } => write_hint(source),
            UnpackError::NoSpace { .. } => Some("free some space, or choose another disk for `-d`".into()),
            UnpackError::Interrupted => None,
        }
    }
}

/// Writes every member below `directory`, which is made if need be, and returns the files' paths.
///
/// All names and members are checked before the first byte is written. A file has its name when it is whole.
///
/// # Errors
/// An unsafe name, a compressed member, an existing file without `overwrite`, a failing write.
pub fn unpack(
    bundle: &Bundle,
    directory: &Path,
    overwrite: bool,
    on_progress: &mut OnProgress<'_>,
) -> Result<Vec<PathBuf>, UnpackError> {
    let mut files = Vec::new();
    for entry in &bundle.archive.entries {
        let name = entry.name.trim_end_matches('/');
        if !is_safe_name(name) {
            return Err(UnpackError::UnsafeName(entry.name.clone()));
        }
        if entry.is_dir() {
            continue;
        }
        let path = directory.join(name);
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(UnpackError::Exists(path));
        }
        files.push((entry, bundle.data(entry)?, path));
    }
    let mut progress = Progress { member: "", done: 0, total: files.iter().map(|(entry, ..)| entry.size).sum() };
    std::fs::create_dir_all(directory).map_err(io_error(directory))?;
    // Of files that are replaced it is not known how much their ends give back.
    if let Some(free) = free_space(&directory.join("_")).filter(|free| !overwrite && *free < progress.total) {
        return Err(UnpackError::NoSpace { path: directory.to_owned(), needed: progress.total, free });
    }
    for (entry, bytes, path) in &files {
        make_parents(directory, &entry.name)?;
        // Looked at again: to some file systems `A` and `a` are one name.
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(UnpackError::Exists(path.clone()));
        }
        let written = write_new(path, bytes, &mut |n_bytes| {
            progress.done += n_bytes;
            let member = &entry.name;
            on_progress(Progress { member, ..progress }).is_continue()
        });
        if !written.map_err(io_error(path))? {
            return Err(UnpackError::Interrupted);
        }
    }
    Ok(files.into_iter().map(|(_, _, path)| path).collect())
}

fn io_error(path: &Path) -> impl Fn(std::io::Error) -> UnpackError + '_ {
    |source| UnpackError::Io { path: path.to_owned(), source }
}

/// Makes the directories of a member one by one, so that none of them is a symbolic link leading elsewhere.
fn make_parents(directory: &Path, name: &str) -> Result<(), UnpackError> {
    let mut path = directory.to_owned();
    let Some((parents, _)) = name.rsplit_once('/') else {
        return Ok(());
    };
    for part in parents.split('/') {
        path.push(part);
        match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(UnpackError::NoDirectory(path)),
            Err(_) => std::fs::create_dir(&path).map_err(io_error(&path))?,
        }
    }
    Ok(())
}

/// `false` where `go_on` said to stop. A symbolic link at `path` is replaced, and not followed.
fn write_new(path: &Path, bytes: &Bytes, go_on: &mut dyn FnMut(u64) -> bool) -> std::io::Result<bool> {
    let new = NewFile::create(path, false)?;
    for start in (0..bytes.len()).step_by(CHUNK) {
        let Some(chunk) = bytes.slice(start..bytes.len().min(start + CHUNK)) else { break };
        new.file().write_all(&chunk)?;
        chunk.release();
        if !go_on(chunk.len() as u64) {
            return Ok(false);
        }
    }
    new.rename_to(path)?;
    Ok(true)
}
