//! A file to its members: the running executable, a packed file, a llamafile.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::args_file::{ARGS_MEMBER, ArgsError, ArgsFile};
use super::executable::executable_end;
use super::manifest::{MANIFEST_MEMBER, Manifest};
use super::zip::{self, Archive, Entry, ZipError};
use super::{Bytes, MapError, is_safe_name};
use crate::error::Hint;

/// Ending of the file beside a program that holds its weights.
pub(super) const WEIGHTS_ENDING: &str = "weights";

/// A mapped file with an archive at its end.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The file, for messages.
    pub path: PathBuf,
    /// The whole file.
    pub bytes: Bytes,
    /// Its archive.
    pub archive: Archive,
}

/// A bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file itself.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The archive.
    #[error("`{}`: {source}", path.display())]
    Zip {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ZipError,
    },
    /// `.args`.
    #[error("`{}`: {source}", path.display())]
    Args {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ArgsError,
    },
    /// There is a beginning of an archive but no end.
    #[error("`{}` ends at {size} bytes but was packed with {expected}; it is incomplete", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        size: u64,
        /// The length its manifest tells.
        expected: u64,
    },
    /// The same where the length was changed since and is not known any more.
    #[error("`{}` ends before its archive does; it is incomplete", .0.display())]
    NoEnd(PathBuf),
    /// The file with the weights, which the program's manifest names.
    #[error("`{}` is missing: it holds the weights", .0.display())]
    NoWeightsFile(PathBuf),
    /// No archive at all.
    #[error("`{}` has no archive in it", .0.display())]
    NoArchive(PathBuf),
    /// The program does not know its own file.
    #[error("the running program's own file is unknown")]
    NoExecutable(#[source] std::io::Error),
}

impl Hint for BundleError {
    fn hint(&self) -> Option<String> {
        match self {
            BundleError::Map(error) => error.hint(),
            BundleError::Zip { source, .. } => source.hint(),
            BundleError::Args { source, .. } => source.hint(),
            BundleError::Truncated { .. } | BundleError::NoEnd(_) => Some("download or copy the file again".into()),
            BundleError::NoWeightsFile(_) => Some("keep the program and its `.weights` file in one folder".into()),
            BundleError::NoArchive(_) => Some("files made by `gemma2 pack` and llamafiles have one".into()),
            BundleError::NoExecutable(_) => None,
        }
    }
}

impl Bundle {
    /// Maps `path` and finds the archive at its end; `None` where it has none.
    ///
    /// # Errors
    /// A file that cannot be read, a damaged archive, a packed file that is incomplete.
    pub fn open(path: &Path) -> Result<Option<Bundle>, BundleError> {
        Bundle::from_bytes(path, Bytes::open(path)?)
    }

    /// The same for a file that is mapped already; `path` is for messages.
    pub fn from_bytes(path: &Path, bytes: Bytes) -> Result<Option<Bundle>, BundleError> {
        let found = Archive::find(&bytes).map_err(|source| BundleError::Zip { path: path.to_owned(), source })?;
        let Some(archive) = found else {
            return match packed_size(&bytes) {
                Some(expected) if expected > bytes.len() as u64 => {
                    Err(BundleError::Truncated { path: path.to_owned(), size: bytes.len() as u64, expected })
                }
                Some(_) => Err(BundleError::NoEnd(path.to_owned())),
                None => Ok(None),
            };
        };
        Ok(Some(Bundle { path: path.to_owned(), bytes, archive }))
    }

    /// The archive behind the running program; `None` where it has none.
    pub fn of_running_executable() -> Result<Option<Bundle>, BundleError> {
        Bundle::open(&running_executable()?)
    }

    /// The archive in the file beside `program` that holds its weights: `NAME.weights` beside `NAME` or `NAME.exe`, or
    /// whatever name its own archive tells. `None` where there is no such file.
    ///
    /// # Errors
    /// A file that is named and missing; one that is no archive.
    pub fn beside(program: &Path, own: Option<&Bundle>) -> Result<Option<Bundle>, BundleError> {
        let is_exe = program.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("exe"));
        let stem = if is_exe { program.with_extension("") } else { program.to_owned() };
        let manifest = own.map(Bundle::manifest).transpose()?.flatten();
        let told = manifest.and_then(|manifest| manifest.weights_file).filter(|name| is_safe_name(name));
        let told = told.map(|name| program.with_file_name(name));
        let usual = with_ending(&stem, WEIGHTS_ENDING);
        let found = [Some(&usual), told.as_ref()].into_iter().flatten().find(|path| path.is_file());
        match (found, &told) {
            (Some(path), _) => Bundle::open(path)?.ok_or_else(|| BundleError::NoArchive(path.clone())).map(Some),
            (None, Some(missing)) => Err(BundleError::NoWeightsFile(missing.clone())),
            (None, None) => Ok(None),
        }
    }

    /// The bytes of a member in place, `None` where there is no such member.
    ///
    /// # Errors
    /// A compressed or encrypted member.
    pub fn member(&self, name: &str) -> Result<Option<Bytes>, BundleError> {
        match self.archive.entry(name) {
            Some(entry) => self.data(entry).map(Some),
            None => Ok(None),
        }
    }

    /// The bytes of a member in place.
    ///
    /// # Errors
    /// A compressed or encrypted member.
    pub fn data(&self, entry: &Entry) -> Result<Bytes, BundleError> {
        let range = entry.range().map_err(|source| self.zip_error(source))?;
        let outside = || ZipError::Damaged(format!("`{}` lies outside the file", entry.name));
        self.bytes.slice(range).ok_or_else(|| self.zip_error(outside()))
    }

    /// All members whose names end in one of `endings`, by name, in place.
    ///
    /// # Errors
    /// One of them is compressed or encrypted.
    pub fn members_ending_in(&self, endings: &[&str]) -> Result<Vec<(String, Bytes)>, BundleError> {
        let mut members = Vec::new();
        for entry in &self.archive.entries {
            if endings.iter().any(|ending| entry.name.ends_with(ending)) {
                members.push((entry.name.clone(), self.data(entry)?));
            }
        }
        members.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(members)
    }

    /// Whether it holds weights.
    pub fn has_weights(&self) -> bool {
        self.archive.entries.iter().any(|e| is_weights(&e.name))
    }

    /// Its `.args`; empty where it has none.
    pub fn args(&self) -> Result<ArgsFile, BundleError> {
        let Some(bytes) = self.member(ARGS_MEMBER)? else {
            return Ok(ArgsFile::default());
        };
        ArgsFile::parse(&bytes).map_err(|source| BundleError::Args { path: self.path.clone(), source })
    }

    /// Its `manifest.json`; `None` where it has none that this program understands.
    pub fn manifest(&self) -> Result<Option<Manifest>, BundleError> {
        let member = self.member(MANIFEST_MEMBER)?;
        Ok(member.and_then(|bytes| Manifest::parse(&bytes)))
    }

    /// The executable before the archive.
    pub fn runtime(&self) -> Option<Bytes> {
        // Members that were replaced in place are still there but not in the directory, so that the first one that
        // counts can start later than the archive does.
        let told = self.manifest().ok().flatten().and_then(|manifest| usize::try_from(manifest.runtime.size).ok());
        let is_start = |&at: &usize| at <= self.archive.start && self.bytes.get(at..).is_some_and(zip::is_local_header);
        self.bytes.slice(0..told.filter(is_start).unwrap_or(self.archive.start))
    }

    fn zip_error(&self, source: ZipError) -> BundleError {
        BundleError::Zip { path: self.path.clone(), source }
    }
}

/// `stem.ending`, also where the stem has a dot in it.
pub(super) fn with_ending(stem: &Path, ending: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Whether a member or file of this name holds weights.
pub fn is_weights(name: &str) -> bool {
    name.ends_with(".gguf") || name.ends_with(".safetensors")
}

/// The running program's own file. On Linux the file that runs, even if it was renamed or replaced since.
pub fn running_executable() -> Result<PathBuf, BundleError> {
    if cfg!(target_os = "linux") {
        let own = PathBuf::from("/proc/self/exe");
        if own.exists() {
            return Ok(own);
        }
    }
    executable_path()
}

/// Where the running program's file was found when it started.
pub fn executable_path() -> Result<PathBuf, BundleError> {
    // In a root directory of its own there may be no /proc, which tells it: then by the name that it was called by.
    let by_name = || found_by_name(&std::env::args_os().next()?, std::env::var_os("PATH").as_deref());
    std::env::current_exe().or_else(|error| by_name().ok_or(error)).map_err(BundleError::NoExecutable)
}

/// The file that a shell starts for this word.
fn found_by_name(word: &OsStr, search_path: Option<&OsStr>) -> Option<PathBuf> {
    let is_file = |path: PathBuf| std::path::absolute(path).ok().filter(|path| path.is_file());
    if Path::new(word).components().count() > 1 {
        return is_file(PathBuf::from(word));
    }
    std::env::split_paths(search_path?).find_map(|folder| is_file(folder.join(word)))
}

/// The length a packed file was made with, where `file` has its program, if any, and its first member, the manifest.
fn packed_size(file: &[u8]) -> Option<u64> {
    let start = executable_end(file).unwrap_or(0);
    let archive = file.get(start..)?;
    let (name_length, extra_length) = (u16_at(archive, 26)?, u16_at(archive, 28)?);
    let is_manifest = zip::is_local_header(archive)
        && archive.get(30..)?.starts_with(MANIFEST_MEMBER.as_bytes())
        && name_length == MANIFEST_MEMBER.len();
    if !is_manifest {
        return None;
    }
    let size = u32::from_le_bytes(archive.get(18..22)?.try_into().ok()?) as usize;
    let data = archive.get(30 + name_length + extra_length..)?;
    Some(Manifest::parse(data.get(..size)?)?.file_size)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_le_bytes(field.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("gemma2");
        std::fs::write(&program, "").unwrap();
        let search = std::env::join_paths([Path::new("/nowhere"), folder.path()]).unwrap();
        let find = |word: &OsStr| found_by_name(word, Some(&search));
        assert_eq!(find(OsStr::new("gemma2")), Some(program.clone()));
        assert_eq!(find(program.as_os_str()), Some(program.clone()));
        assert_eq!(find(OsStr::new("gemma3")), None);
        assert_eq!(find(OsStr::new("./gemma2")), None, "with a folder in its name it is not searched for");
    }
}
