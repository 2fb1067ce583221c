//! Makes a packed file: program, archive, weights, in one pass over the weights.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::args_file::{ARGS_MEMBER, ArgsFile};
use super::executable::is_windows_executable;
use super::locate::{Bundle, BundleError, is_weights, running_executable};
use super::manifest::{Hashed, MANIFEST_MEMBER, Manifest, Member, Parameters, hex};
use super::new_file::{NewFile, free_space};
use super::sources::{Source, file_name, weight_sources};
use super::zip::{Layout, NewMember, ZipError};
use super::{Bytes, MapError};
use crate::error::Hint;

/// Windows starts no program file of this size or more.
const WINDOWS_LIMIT: u64 = 4 << 30;
/// Bytes between two calls of the progress callback.
const CHUNK: usize = 4 << 20;

/// What to pack.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// A GGUF file, a safetensors file, a model directory, or a packed file whose weights are taken.
    pub weights: PathBuf,
    /// The file to be made.
    pub output: PathBuf,
    /// Default arguments, `...` for those of the command line.
    pub args: Vec<String>,
    /// A license text to put in.
    pub license: Option<PathBuf>,
    /// The program to put in front; the running one if `None`. An archive behind it is left out.
    pub runtime: Option<PathBuf>,
    /// Replace an existing output.
    pub overwrite: bool,
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The member at hand; empty for the program.
    pub member: &'a str,
    /// Bytes done of all.
    pub done: u64,
    /// All bytes.
    pub total: u64,
}

/// Called about every 4 MiB; `Break` ends the work with [`PackError::Interrupted`].
pub type OnProgress<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'a;

/// A file that was not packed. No half-made output is left.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// An input.
    #[error(transparent)]
    Map(#[from] MapError),
    /// An input that is a packed file.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The archive to be written.
    #[error(transparent)]
    Zip(#[from] ZipError),
    /// The path does not mean weights.
    #[error("`{}` cannot be packed: {reason}", path.display())]
    NoWeights {
        /// What was named.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The runtime is no program.
    #[error("`{}` is no program", .0.display())]
    NoProgram(PathBuf),
    /// The output exists.
    #[error("`{}` exists already", .0.display())]
    Exists(PathBuf),
    /// The output is one of the inputs.
    #[error("`{}` is both input and output", .0.display())]
    SameFile(PathBuf),
    /// Too large for Windows.
    #[error("the packed file would have {0} bytes, and Windows starts no program of 4 GiB or more")]
    WindowsLimit(u64),
    /// The file system is full.
    #[error("no space for `{}`: it needs {needed} bytes and {free} are free", path.display())]
    NoSpace {
        /// The output.
        path: PathBuf,
        /// Its length.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// Writing failed.
    #[error("`{}` cannot be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The callback said so.
    #[error("interrupted")]
    Interrupted,
}

impl Hint for PackError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            PackError::Map(error) => return error.hint(),
            PackError::Bundle(error) => return error.hint(),
            PackError::Zip(error) => return error.hint(),
            PackError::NoWeights { .. } => {
                "give a .gguf file, or a directory with config.json, tokenizer.json and *.safetensors".into()
            }
            PackError::NoProgram(_) => "`--runtime` takes a gemma2 executable, for this system or another".into(),
            PackError::Exists(_) => "choose another `-o`, or replace it with `--force`".into(),
            PackError::SameFile(_) => "choose another `-o`".into(),
            PackError::WindowsLimit(_) => {
                "keep program and weights apart there and start it with `-m`, or use a smaller quantization".into()
            }
            PackError::NoSpace { .. } => "free some space, or choose another `-o`".into(),
            PackError::Io { .. } | PackError::Interrupted => return None,
        })
    }
}

/// Packs and returns the length of the new file.
///
/// # Errors
/// See [`PackError`]; the output is untouched then.
pub fn pack(options: &PackOptions, on_progress: &mut OnProgress<'_>) -> Result<u64, PackError> {
    let output = &options.output;
    if output.is_dir() || output.file_name().is_none() {
        let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
        return Err(io_error(output)(source));
    }
    if output.exists() {
        refuse_inputs(options)?;
        if !options.overwrite {
            return Err(PackError::Exists(output.clone()));
        }
    }
    let runtime = runtime(options)?;
    let contents = Contents::gather(options, runtime)?;
    if is_windows_executable(&contents.runtime) && contents.layout.total() >= WINDOWS_LIMIT {
        return Err(PackError::WindowsLimit(contents.layout.total()));
    }
    check_space(output, contents.layout.total())?;
    let temporary = NewFile::create(output, true).map_err(io_error(output))?;
    contents.write(temporary.file(), on_progress).map_err(|stop| match stop {
        Stop::Interrupted => PackError::Interrupted,
        Stop::Io(source) if source.kind() == std::io::ErrorKind::StorageFull => PackError::NoSpace {
            path: output.clone(),
            needed: contents.layout.total(),
            free: free_space(output).unwrap_or(0),
        },
        Stop::Io(source) => io_error(output)(source),
    })?;
    temporary.rename_to(output).map_err(io_error(output))?;
    Ok(contents.layout.total())
}

fn io_error(path: &Path) -> impl Fn(std::io::Error) -> PackError + '_ {
    |source| PackError::Io { path: path.to_owned(), source }
}

fn refuse_inputs(options: &PackOptions) -> Result<(), PackError> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let own = running_executable().ok();
    let runtime = options.runtime.as_ref().or(own.as_ref());
    let inputs = [Some(&options.weights), options.license.as_ref(), runtime];
    for input in inputs.into_iter().flatten() {
        if real(input).is_some() && real(input) == real(&options.output) {
            return Err(PackError::SameFile(options.output.clone()));
        }
    }
    Ok(())
}

/// The program that goes in front, without what is appended to it.
fn runtime(options: &PackOptions) -> Result<Bytes, PackError> {
    let path = match &options.runtime {
        Some(path) => path.clone(),
        None => running_executable()?,
    };
    let bytes = Bytes::open(&path)?;
    let starts: [&[u8]; 4] = [b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"];
    if !starts.iter().any(|start| bytes.starts_with(start)) {
        return Err(PackError::NoProgram(path));
    }
    let bundle = Bundle::from_bytes(&path, bytes.clone())?;
    Ok(bundle.and_then(|bundle| bundle.runtime()).unwrap_or(bytes))
}

/// Everything that goes into the file, placed.
struct Contents {
    runtime: Bytes,
    /// Without hashes: those are known after writing, and have a fixed length.
    manifest: Manifest,
    /// The members behind the manifest.
    sources: Vec<Source>,
    layout: Layout,
}

enum Stop {
    Interrupted,
    Io(std::io::Error),
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Stop {
        Stop::Io(error)
    }
}

impl Contents {
    fn gather(options: &PackOptions, runtime: Bytes) -> Result<Contents, PackError> {
        let mut sources = Vec::new();
        if !options.args.is_empty() {
            let text = ArgsFile::text(&options.args);
            sources.push(Source { name: ARGS_MEMBER.into(), bytes: Bytes::from(text.into_bytes()) });
        }
        if let Some(path) = &options.license {
            sources.push(Source { name: file_name(path), bytes: Bytes::open(path)? });
        }
        sources.extend(weight_sources(&options.weights)?);
        let no_hash = "0".repeat(64);
        let manifest = Manifest {
            format: 1,
            tool: concat!("gemma2 ", env!("CARGO_PKG_VERSION")).into(),
            file_size: 0,
            runtime: Hashed { size: runtime.len() as u64, sha256: no_hash.clone() },
            parameters: Parameters {
                weights: file_name(&options.weights),
                args: options.args.clone(),
                license: options.license.as_deref().map(file_name),
            },
            members: sources
                .iter()
                .map(|source| Member {
                    name: source.name.clone(),
                    size: source.bytes.len() as u64,
                    sha256: no_hash.clone(),
                })
                .collect(),
        };
        Contents::place(runtime, manifest, sources)
    }

    /// The manifest tells the length of the file, which depends on that of the manifest: repeat until it fits. It
    /// does, because a longer number never makes the file shorter.
    fn place(runtime: Bytes, mut manifest: Manifest, sources: Vec<Source>) -> Result<Contents, PackError> {
        loop {
            let mut members = vec![NewMember {
                name: MANIFEST_MEMBER.into(),
                size: manifest.to_bytes().len() as u64,
                is_aligned: false,
            }];
            members.extend(sources.iter().map(|source| NewMember {
                name: source.name.clone(),
                size: source.bytes.len() as u64,
                is_aligned: is_weights(&source.name),
            }));
            let layout = Layout::new(runtime.len() as u64, &members)?;
            if layout.total() == manifest.file_size {
                return Ok(Contents { runtime, manifest, sources, layout });
            }
            manifest.file_size = layout.total();
        }
    }

    fn write(&self, file: &File, on_progress: &mut OnProgress<'_>) -> Result<(), Stop> {
        file.set_len(self.layout.total())?;
        let mut copy = Copy { file, on_progress, done: 0, total: self.layout.total() };
        let mut manifest = self.manifest.clone();
        let mut crc32s = vec![0];
        (manifest.runtime.sha256, _) = copy.write("", 0, &self.runtime)?;
        for (index, source) in self.sources.iter().enumerate() {
            let at = self.layout.data_offset(index + 1);
            let (sha256, crc32) = copy.write(&source.name, at, &source.bytes)?;
            manifest.members[index].sha256 = sha256;
            crc32s.push(crc32);
        }
        let manifest = manifest.to_bytes();
        let at = self.layout.data_offset(0);
        (_, crc32s[0]) = copy.write(MANIFEST_MEMBER, at, &manifest)?;
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

/// Writes and hashes in chunks.
struct Copy<'a, 'b> {
    file: &'a File,
    on_progress: &'a mut OnProgress<'b>,
    done: u64,
    total: u64,
}

impl Copy<'_, '_> {
    fn write(&mut self, name: &str, at: u64, bytes: &[u8]) -> Result<(String, u32), Stop> {
        let (mut sha256, mut crc32) = (Sha256::new(), crc32fast::Hasher::new());
        self.file.seek(SeekFrom::Start(at))?;
        for chunk in bytes.chunks(CHUNK) {
            sha256.update(chunk);
            crc32.update(chunk);
            self.file.write_all(chunk)?;
            self.done += chunk.len() as u64;
            let progress = Progress { member: name, done: self.done, total: self.total };
            if (self.on_progress)(progress).is_break() {
                return Err(Stop::Interrupted);
            }
        }
        Ok((hex(sha256), crc32.finalize()))
    }
}

fn check_space(output: &Path, needed: u64) -> Result<(), PackError> {
    match free_space(output) {
        Some(free) if free < needed => Err(PackError::NoSpace { path: output.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
