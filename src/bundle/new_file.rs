//! A file that appears under its name only when it is whole.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// A temporary file beside the output; it is removed unless it becomes the output.
pub struct NewFile {
    file: File,
    path: Option<PathBuf>,
}

impl NewFile {
    /// Creates it. On Unix it may be executed where `is_program`.
    pub fn create(output: &Path, is_program: bool) -> io::Result<NewFile> {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let path = output.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, if is_program { 0o777 } else { 0o666 });
        #[cfg(not(unix))]
        let _ = is_program;
        let file = options.open(&path)?;
        Ok(NewFile { file, path: Some(path) })
    }

    /// To write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives it the output's name, in one step.
    pub fn rename_to(mut self, output: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            std::fs::rename(path, output)?;
            self.path = None;
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

/// Bytes free where `output` goes; `None` where the system does not say.
#[cfg(unix)]
pub fn free_space(output: &Path) -> Option<u64> {
    let parent = output.parent().filter(|p| *p != Path::new(""));
    let stat = rustix::fs::statvfs(parent.unwrap_or(Path::new("."))).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Bytes free where `output` goes; `None` where the system does not say.
#[cfg(not(unix))]
pub fn free_space(_output: &Path) -> Option<u64> {
    None
}
