//! A file that appears under its name only when it is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::large_pages::LargePages;

/// A temporary file beside the output; it is gone unless it becomes the output.
///
/// On Linux it has no name until then where the file system can do that, so that not even a process that is killed
/// leaves it behind.
pub struct NewFile {
    file: File,
    /// Its present name, if it has one.
    path: Option<PathBuf>,
}

impl NewFile {
    /// Creates it. On Unix it may be executed where `is_program`.
    pub fn create(output: &Path, is_program: bool) -> io::Result<NewFile> {
        let mode = if is_program { 0o777 } else { 0o666 };
        if let Some(file) = unnamed(directory(output), mode) {
            return Ok(NewFile { file, path: None });
        }
        let path = temporary_path(output);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        let file = options.open(&path)?;
        Ok(NewFile { file, path: Some(path) })
    }

    /// To write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// To write to from the beginning, a large page at a time, in which Linux then keeps the file; to be flushed at the end.
    pub fn in_large_pages(&self) -> impl Write {
        LargePages::new(&self.file, 0)
    }

    /// Gives it the output's name, in one step.
    pub fn rename_to(mut self, output: &Path) -> io::Result<()> {
        if self.path.is_none() {
            // A new name needs no detour, after which a kill could leave something.
            if give_name(&self.file, output).is_ok() {
                sync_directory(output);
                return Ok(());
            }
            let path = temporary_path(output);
            // Of another process with this number, long ago.
            let _ = std::fs::remove_file(&path);
            give_name(&self.file, &path)?;
            self.path = Some(path);
        }
        if let Some(path) = &self.path {
            std::fs::rename(path, output)?;
            self.path = None;
            sync_directory(output);
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Nothing better can be done about a failure here than to leave the file.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn directory(output: &Path) -> &Path {
    output.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// So that the new name survives a power failure too. Where a directory cannot be synced nothing is lost yet.
fn sync_directory(output: &Path) {
    let _ = File::open(directory(output)).and_then(|directory| directory.sync_all());
}

fn temporary_path(output: &Path) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// `None` where the file system or the system has no such files, or where its directory cannot be written to, which the
/// next attempt then reports.
#[cfg(target_os = "linux")]
fn unnamed(directory: &Path, mode: u32) -> Option<File> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    // Needed for a name later.
    if !Path::new("/proc/self/fd").exists() {
        return None;
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    openat(CWD, directory, flags, Mode::from_raw_mode(mode)).ok().map(File::from)
}

#[cfg(target_os = "linux")]
fn give_name(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd;
    let open_file = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, open_file, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn unnamed(_directory: &Path, _mode: u32) -> Option<File> {
    None
}

#[cfg(not(target_os = "linux"))]
fn give_name(_file: &File, _path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Bytes free where `output` goes; `None` where the system does not say.
pub fn free_space(output: &Path) -> Option<u64> {
    free_in(directory(output))
}

#[cfg(unix)]
fn free_in(directory: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(directory).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(windows)]
fn free_in(directory: &Path) -> Option<u64> {
    fs4::available_space(directory).ok()
}

#[cfg(not(any(unix, windows)))]
fn free_in(_directory: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_never_before() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let n_files = || std::fs::read_dir(folder.path()).unwrap().count();
        let begun = NewFile::create(&output, false).unwrap();
        begun.file().write_all(b"half").unwrap();
        assert!(!output.exists());
        drop(begun);
        assert_eq!(n_files(), 0);
        for content in ["first", "second"] {
            let new = NewFile::create(&output, false).unwrap();
            new.file().write_all(content.as_bytes()).unwrap();
            new.rename_to(&output).unwrap();
            assert_eq!(std::fs::read_to_string(&output).unwrap(), content);
            assert_eq!(n_files(), 1);
        }
    }
}
