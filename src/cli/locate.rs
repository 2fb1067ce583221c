//! Where the weights come from: the flag, the environment, this file, its folder, the demo model.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::demo::{DEMO_NAME, demo_model};
use super::error::CliError;
use crate::bundle::{Bundle, Bytes, MapError};
use crate::weights::{Files, NamedBytes, WeightsError};

/// Files of an archive that can belong to a model.
const MODEL_ENDINGS: &[&str] = &[".gguf", ".safetensors", ".json", ".jinja"];

/// What surrounds the program, gathered once so that tests can invent it.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// `GEMMA2_MODEL`.
    pub model_variable: Option<OsString>,
    /// The archive behind the running program.
    pub bundle: Option<Bundle>,
    /// The folder that the program lies in.
    pub program_directory: Option<PathBuf>,
}

impl Surroundings {
    /// The real ones.
    ///
    /// # Errors
    /// An archive behind the program that is damaged or incomplete.
    pub fn detect() -> Result<Surroundings, CliError> {
        let program = std::env::current_exe().ok();
        Ok(Surroundings {
            model_variable: std::env::var_os("GEMMA2_MODEL").filter(|value| !value.is_empty()),
            bundle: Bundle::of_running_executable()?,
            program_directory: program.and_then(|path| path.parent().map(Path::to_owned)),
        })
    }
}

/// Which of the places the weights were found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file or directory, named by flag or variable or found beside the program.
    Path,
    /// The archive behind the program.
    ThisFile,
    /// The built-in demo model.
    Demo,
}

/// A model's files, mapped.
#[derive(Debug)]
pub struct Located {
    /// The files.
    pub files: Files,
    /// Where they were found.
    pub place: Place,
}

/// Finds the weights. `typed` is `-m` of the command line, `default` that of `.args`, which may name a member.
///
/// # Errors
/// A path without a model, several models beside the program.
pub fn locate_weights(
    typed: Option<&Path>,
    default: Option<&Path>,
    surroundings: &Surroundings,
) -> Result<Located, CliError> {
    if let Some(path) = typed {
        return at_path(path);
    }
    let bundle = surroundings.bundle.as_ref();
    let member = default.and_then(|path| member_named(path, bundle));
    if let (Some(path), None) = (default, member) {
        return at_path(path);
    }
    if let Some(path) = &surroundings.model_variable {
        return at_path(Path::new(path));
    }
    if let Some(bundle) = bundle.filter(|bundle| bundle.has_weights()) {
        let files = files_of(bundle, member)?;
        return Ok(Located { files, place: Place::ThisFile });
    }
    let beside = surroundings.program_directory.as_deref().map(ggufs_in).unwrap_or_default();
    match beside.as_slice() {
        [] => {
            let demo = NamedBytes { name: DEMO_NAME.into(), bytes: demo_model() };
            let files = Files::from_members(vec![demo])?;
            Ok(Located { files, place: Place::Demo })
        }
        [path] => at_path(path),
        several => Err(CliError::SeveralModels(several.iter().map(|path| path.display().to_string()).collect())),
    }
}

/// The model at a path: what [`Files::from_path`] knows, and archives.
fn at_path(path: &Path) -> Result<Located, CliError> {
    let files = match archive_at(path)? {
        Some(bundle) => files_of(&bundle, None)?,
        None => Files::from_path(path)?,
    };
    Ok(Located { files, place: Place::Path })
}

/// The archive at a path; `None` for anything that is better explained as weights.
fn archive_at(path: &Path) -> Result<Option<Bundle>, CliError> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = Bytes::open(path).map_err(|error: MapError| WeightsError::Map(error))?;
    if bytes.starts_with(b"GGUF") {
        return Ok(None);
    }
    Ok(Bundle::from_bytes(path, bytes)?)
}

fn files_of(bundle: &Bundle, only: Option<&str>) -> Result<Files, CliError> {
    let endings = match only {
        Some(name) => &[name][..],
        None => MODEL_ENDINGS,
    };
    let members = bundle.members_ending_in(endings)?;
    let named = |(name, bytes)| NamedBytes { name, bytes };
    Ok(Files::from_members(members.into_iter().map(named).collect())?)
}

/// The member that a path in `.args` means; `/zip/` in front is llamafile's way to write it.
fn member_named<'a>(path: &Path, bundle: Option<&'a Bundle>) -> Option<&'a str> {
    let name = path.to_str()?;
    let name = name.strip_prefix("/zip/").unwrap_or(name);
    bundle?.archive.entry(name).map(|entry| entry.name.as_str())
}

/// GGUF files in a folder, sorted; of a split model only the first part.
fn ggufs_in(directory: &Path) -> Vec<PathBuf> {
    let is_candidate = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".gguf") && (!name.contains("-of-") || name.contains("-00001-of-")) && path.is_file()
    };
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_candidate).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A folder with a file for each name, its content starting like GGUF.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), b"GGUF").unwrap();
        }
        folder
    }

    fn bundle(names: &[&str]) -> Bundle {
        let members: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &b"GGUF"[..])).collect();
        let file = crate::bundle::zip::tests::file_with_archive(0, &members);
        Bundle::from_bytes(Path::new("self"), file.into()).unwrap().unwrap()
    }

    fn first_file(located: &Located) -> String {
        match &located.files {
            Files::Gguf(parts) => parts[0].base_name().to_owned(),
            Files::HuggingFace(files) => files.config.base_name().to_owned(),
        }
    }

    #[test]
    fn the_first_place_with_weights_wins() {
        let folder = folder(&["typed.gguf", "variable.gguf", "default.gguf"]);
        let path = |name: &str| folder.path().join(name);
        let beside = super::tests::folder(&["beside.gguf"]);
        let mut surroundings = Surroundings {
            model_variable: Some(path("variable.gguf").into()),
            bundle: Some(bundle(&["inside.gguf"])),
            program_directory: Some(beside.path().to_owned()),
        };
        let (typed, default) = (path("typed.gguf"), path("default.gguf"));
        let find = |typed, default, surroundings: &Surroundings| {
            let located = locate_weights(typed, default, surroundings).unwrap();
            (first_file(&located), located.place)
        };
        let (typed, default) = (Some(typed.as_path()), Some(default.as_path()));
        assert_eq!(find(typed, default, &surroundings), ("typed.gguf".into(), Place::Path));
        assert_eq!(find(None, default, &surroundings), ("default.gguf".into(), Place::Path));
        assert_eq!(find(None, None, &surroundings), ("variable.gguf".into(), Place::Path));
        surroundings.model_variable = None;
        assert_eq!(find(None, None, &surroundings), ("inside.gguf".into(), Place::ThisFile));
        surroundings.bundle = Some(bundle(&[".args"]));
        assert_eq!(find(None, None, &surroundings), ("beside.gguf".into(), Place::Path));
        surroundings.program_directory = None;
        assert_eq!(find(None, None, &surroundings), (DEMO_NAME.into(), Place::Demo));
    }

    #[test]
    fn a_default_model_may_be_a_member_as_in_a_llamafile() {
        let surroundings = Surroundings { bundle: Some(bundle(&["a.gguf", "b.gguf"])), ..Surroundings::default() };
        for name in ["b.gguf", "/zip/b.gguf"] {
            let located = locate_weights(None, Some(Path::new(name)), &surroundings).unwrap();
            assert_eq!((first_file(&located).as_str(), located.place), ("b.gguf", Place::ThisFile));
        }
        assert!(locate_weights(None, None, &surroundings).is_err());
    }

    #[test]
    fn several_models_beside_the_program_are_listed() {
        let folder = folder(&["b.gguf", "a.gguf", "s-00001-of-00002.gguf", "s-00002-of-00002.gguf"]);
        let program_directory = Some(folder.path().to_owned());
        let surroundings = Surroundings { program_directory, ..Surroundings::default() };
        let error = locate_weights(None, None, &surroundings).unwrap_err();
        let CliError::SeveralModels(names) = &error else { panic!("{error}") };
        assert_eq!(names.len(), 3);
        assert_eq!(error.exit_status(), 3);
        assert!(crate::error::render(&error).contains("a.gguf"), "{error}");
    }

    #[test]
    fn a_packed_file_is_opened_by_its_path() {
        let folder = folder(&[]);
        let path = folder.path().join("packed.llamafile");
        let file = crate::bundle::zip::tests::file_with_archive(500, &[("inside.gguf", b"GGUF"), (".args", b"-c\n")]);
        fs::write(&path, file).unwrap();
        let located = locate_weights(Some(&path), None, &Surroundings::default()).unwrap();
        assert_eq!(first_file(&located), "inside.gguf");
    }

    #[test]
    fn a_missing_file_is_answered_with_the_names_nearby() {
        let folder = folder(&["gemma-2-2b-it-Q6_K.gguf"]);
        let path = folder.path().join("gemma-2-2b-Q6_K.gguf");
        let error = locate_weights(Some(&path), None, &Surroundings::default()).unwrap_err();
        assert_eq!(error.exit_status(), 3);
        let text = crate::error::render(&error);
        assert!(text.contains("gemma-2-2b-it-Q6_K.gguf"), "{text}");
    }
}
