//! Makes a packed file: program, archive, weights, in one pass over the weights.

use std::collections::HashSet;
use std::fs::Permissions;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::args_file::{ARGS_MEMBER, ArgsFile};
use super::contents::{Content, Contents, Made, Part, Stop};
use super::executable::is_windows_executable;
use super::hashes::PIECE_SIZE;
use super::locate::{Bundle, BundleError, WEIGHTS_ENDING, is_weights, running_executable, with_ending};
use super::manifest::Parameters;
use super::new_file::{NewFile, free_space};
use super::sources::{file_name, named_sources};
use super::zip::ZipError;
use super::{Bytes, MapError, is_safe_name};
use crate::error::{Hint, bytes_for_people, name_for_people};

/// Windows starts no program file of this size or more.
const WINDOWS_LIMIT: u64 = 4 << 30;

/// What to pack.
#[derive(Clone)]
pub struct PackOptions<'a> {
    /// The models; the first one runs where nothing else is said.
    pub models: Vec<ModelInput<'a>>,
    /// The file to be made.
    pub output: PathBuf,
    /// Default arguments, `...` for those of the command line.
    pub args: Vec<String>,
    /// A license text to put in.
    pub license: Option<PathBuf>,
    /// The program to put in front; the running one if `None`. An archive behind it is left out.
    pub runtime: Option<PathBuf>,
    /// The type that [`ModelInput::made`] stands for, to be noted in the manifest.
    pub quantize: Option<String>,
    /// Replace an existing output.
    pub overwrite: bool,
}

/// A model to pack.
#[derive(Clone)]
pub struct ModelInput<'a> {
    /// A GGUF file, a safetensors file, a model directory, or a packed file whose weights are taken.
    pub path: PathBuf,
    /// Its name inside; what it has already if `None`.
    pub name: Option<String>,
    /// A GGUF file that is made of it, in place of its own files.
    pub made: Option<Made<'a>>,
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

/// Called every few MiB; `Break` ends the work with [`PackError::Interrupted`].
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
    /// Two models of one name.
    #[error("there are two models named `{0}`")]
    SameName(String),
    /// A name that cannot be that of a file.
    #[error("`{0}` is no name for a model")]
    BadName(String),
    /// Somebody else is at it.
    #[error("`{}` is being changed by another program", .0.display())]
    Busy(PathBuf),
    /// The file system is full.
    #[error("no space for `{}`: it needs {} and {} are free", path.display(), bytes_for_people(*needed), bytes_for_people(*free))]
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
            PackError::SameName(_) => "give each `-m` a `--name` of its own, in the same order".into(),
            PackError::BadName(_) => "a name is part of a file's name: letters, digits, `-`, `.` and the like".into(),
            PackError::NoSpace { .. } => "free some space, or write to another disk".into(),
            PackError::Busy(_) => "try again when it is done".into(),
            PackError::Io { source, .. } => return write_hint(source),
            PackError::Interrupted => return None,
        })
    }
}

/// What a failing write means for a person.
pub(super) fn write_hint(error: &std::io::Error) -> Option<String> {
    use std::io::ErrorKind::*;
    match error.kind() {
        PermissionDenied if cfg!(windows) => {
            Some("choose a directory that you may write to; a program that is running must end first".into())
        }
        PermissionDenied | ReadOnlyFilesystem => Some("choose a directory that you may write to".into()),
        NotFound => Some("make the directory first".into()),
        StorageFull => Some("free some space, or write to another disk".into()),
        _ => None,
    }
}

/// A file that was packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The program.
    pub file: PathBuf,
    /// The file with the weights beside it, where one file would be too large for Windows.
    pub weights_file: Option<PathBuf>,
    /// Bytes of both.
    pub size: u64,
}

/// Packs.
///
/// # Errors
/// See [`PackError`]; the output is untouched then.
pub fn pack(options: &PackOptions<'_>, on_progress: &mut OnProgress<'_>) -> Result<Packed, PackError> {
    pack_within(options, &Limits { piece_size: PIECE_SIZE, windows: WINDOWS_LIMIT }, on_progress)
}

/// Sizes that tests make smaller.
pub(super) struct Limits {
    /// Bytes that have a hash of their own.
    pub piece_size: u64,
    /// Bytes from which on a program for Windows is a file of its own.
    pub windows: u64,
}

pub(super) fn pack_within(
    options: &PackOptions<'_>,
    limits: &Limits,
    on_progress: &mut OnProgress<'_>,
) -> Result<Packed, PackError> {
    let output = &options.output;
    check_output(output, options)?;
    let runtime = runtime(options)?;
    let parts = gather(options)?;
    let parameters = parameters(options);
    let is_windows = is_windows_executable(&runtime);
    let contents = Contents::place(runtime.clone(), parameters.clone(), None, parts, limits.piece_size)?;
    if is_windows && contents.total() >= limits.windows {
        drop(contents);
        return pack_beside(options, runtime, parameters, limits, on_progress);
    }
    let size = contents.total();
    check_space(output, size)?;
    write_new(output, contents, None, on_progress)?;
    Ok(Packed { file: output.clone(), weights_file: None, size })
}

/// `OUT.exe` and `OUT.weights`.
fn pack_beside(
    options: &PackOptions<'_>,
    runtime: Bytes,
    parameters: Parameters,
    limits: &Limits,
    on_progress: &mut OnProgress<'_>,
) -> Result<Packed, PackError> {
    let is_exe = options.output.extension().is_some_and(|e| e.eq_ignore_ascii_case("exe"));
    let stem = if is_exe { options.output.with_extension("") } else { options.output.clone() };
    let (program, weights) = (with_ending(&stem, "exe"), with_ending(&stem, WEIGHTS_ENDING));
    for output in [&program, &weights] {
        check_output(output, options)?;
    }
    let (large, small): (Vec<Part>, Vec<Part>) = gather(options)?.into_iter().partition(|part| part.is_model);
    let nothing = Bytes::from(Vec::new());
    let beside = Contents::place(nothing, parameters.clone(), None, large, limits.piece_size)?;
    let front = Contents::place(runtime, parameters, Some(file_name(&weights)), small, limits.piece_size)?;
    let size = beside.total() + front.total();
    check_space(&weights, size)?;
    // The weights first: a program that is there finds them.
    write_new(&weights, beside, None, on_progress)?;
    write_new(&program, front, None, on_progress)?;
    Ok(Packed { file: program, weights_file: Some(weights), size })
}

/// Refuses what must not be overwritten.
fn check_output(output: &Path, options: &PackOptions<'_>) -> Result<(), PackError> {
    if output.is_dir() || output.file_name().is_none() {
        let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
        return Err(io_error(output)(source));
    }
    if output.exists() {
        refuse_inputs(output, options)?;
        if !options.overwrite {
            return Err(PackError::Exists(output.to_owned()));
        }
    }
    Ok(())
}

/// Writes to a temporary file, which takes the output's name when it is whole, with these permissions or the usual ones.
///
/// Takes the contents, for what they lie in may be the file that is replaced, and Windows replaces none that is mapped.
pub(super) fn write_new(
    output: &Path,
    contents: Contents<'_>,
    permissions: Option<Permissions>,
    on_progress: &mut OnProgress<'_>,
) -> Result<(), PackError> {
    let temporary = NewFile::create(output, true).map_err(io_error(output))?;
    contents.write(temporary.file(), on_progress).map_err(|stop| match stop {
        Stop::Interrupted => PackError::Interrupted,
        Stop::Io(source) if source.kind() == std::io::ErrorKind::StorageFull => PackError::NoSpace {
            path: output.to_owned(),
            needed: contents.total(),
            free: free_space(output).unwrap_or(0),
        },
        Stop::Io(source) => io_error(output)(source),
    })?;
    if let Some(permissions) = permissions {
        temporary.file().set_permissions(permissions).map_err(io_error(output))?;
    }
    drop(contents);
    temporary.rename_to(output).map_err(io_error(output))
}

pub(super) fn io_error(path: &Path) -> impl Fn(std::io::Error) -> PackError + '_ {
    |source| PackError::Io { path: path.to_owned(), source }
}

fn refuse_inputs(output: &Path, options: &PackOptions<'_>) -> Result<(), PackError> {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let own = running_executable().ok();
    let runtime = options.runtime.as_ref().or(own.as_ref());
    let models = options.models.iter().map(|model| &model.path);
    for input in models.chain(options.license.as_ref()).chain(runtime) {
        if real(input).is_some() && real(input) == real(output) {
            return Err(PackError::SameFile(output.to_owned()));
        }
    }
    Ok(())
}

fn runtime(options: &PackOptions<'_>) -> Result<Bytes, PackError> {
    match &options.runtime {
        Some(path) => program(path),
        None => program(&running_executable()?),
    }
}

/// The program in a file, without what is appended to it.
pub(super) fn program(path: &Path) -> Result<Bytes, PackError> {
    let bytes = Bytes::open(path)?;
    let starts: [&[u8]; 4] = [b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"];
    if !starts.iter().any(|start| bytes.starts_with(start)) {
        return Err(PackError::NoProgram(path.to_owned()));
    }
    let bundle = Bundle::from_bytes(path, bytes.clone())?;
    Ok(bundle.and_then(|bundle| bundle.runtime()).unwrap_or(bytes))
}

fn parameters(options: &PackOptions<'_>) -> Parameters {
    let weights: Vec<String> = options.models.iter().map(|model| file_name(&model.path)).collect();
    Parameters {
        weights: weights.join(", "),
        quantize: options.quantize.clone(),
        args: options.args.clone(),
        license: options.license.as_deref().map(file_name),
    }
}

/// All members but the manifest.
fn gather<'a>(options: &PackOptions<'a>) -> Result<Vec<Part<'a>>, PackError> {
    let mut parts = Vec::new();
    if !options.args.is_empty() {
        parts.push(args_part(&options.args));
    }
    if let Some(path) = &options.license {
        parts.push(Part::small(file_name(path), Bytes::open(path)?));
    }
    for model in &options.models {
        parts.extend(model_parts(model, options.models.len() > 1)?);
    }
    let mut names = HashSet::new();
    for part in &parts {
        if !names.insert(&part.name) {
            return Err(PackError::SameName(name_for_people(part.name.as_bytes())));
        }
    }
    // Small members before all weights, so that the start of the file tells the most.
    parts.sort_by_key(|part| is_weights(&part.name));
    Ok(parts)
}

/// `.args` as a member.
pub(super) fn args_part<'a>(args: &[String]) -> Part<'a> {
    Part::small(ARGS_MEMBER.into(), Bytes::from(ArgsFile::text(args).into_bytes()))
}

fn model_parts<'a>(model: &ModelInput<'a>, is_one_of_several: bool) -> Result<Vec<Part<'a>>, PackError> {
    if let Some(name) = &model.name
        && (!is_safe_name(name) || name.contains('/'))
    {
        return Err(PackError::BadName(name_for_people(name.as_bytes())));
    }
    if let Some(made) = model.made {
        let stem = file_name(&model.path);
        let name = model.name.as_deref().unwrap_or(stem.strip_suffix(".gguf").unwrap_or(&stem));
        return Ok(vec![Part { name: format!("{name}.gguf"), content: Content::Made(made), is_model: true }]);
    }
    let mut name = model.name.clone();
    if name.is_none() && is_one_of_several && model.path.is_dir() {
        // "." has no name of its own.
        let path = model.path.canonicalize().unwrap_or_else(|_| model.path.clone());
        let is_folder = !named_sources(&path, None)?.iter().any(|source| source.name.ends_with(".gguf"));
        name = is_folder.then(|| file_name(&path));
    }
    let sources = named_sources(&model.path, name.as_deref())?;
    let to_part = |source: super::sources::Source| Part {
        name: source.name,
        content: Content::Bytes(source.bytes),
        is_model: true,
    };
    Ok(sources.into_iter().map(to_part).collect())
}

pub(super) fn check_space(output: &Path, needed: u64) -> Result<(), PackError> {
    match free_space(output) {
        Some(free) if free < needed => Err(PackError::NoSpace { path: output.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests;
