//! Where the weights come from: the flag, the environment, this file, its folder, the demo model.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::demo::{DEMO_NAME, demo_model};
use super::error::CliError;
use crate::bundle::{Bundle, BundleError, Bytes, PackedModel, executable_path};
use crate::error::name_for_people;
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
    /// The program's own file, in whose folder weights may lie.
    pub program: Option<PathBuf>,
}

impl Surroundings {
    /// The real ones.
    ///
    /// # Errors
    /// An archive behind the program that is damaged or incomplete.
    pub fn detect() -> Result<Surroundings, CliError> {
        Ok(Surroundings {
            model_variable: std::env::var_os("GEMMA2_MODEL").filter(|value| !value.is_empty()),
            bundle: Bundle::of_running_executable()?,
            program: executable_path().ok(),
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

/// Finds the weights. `typed` is `-m` of the command line, `default` that of `.args`. Either may name a member; a file of
/// that name goes before it where it was typed, and behind it in `.args`.
///
/// # Errors
/// A path without a model, several models beside the program.
pub fn locate_weights(
    typed: Option<&Path>,
    default: Option<&Path>,
    surroundings: &Surroundings,
) -> Result<Located, CliError> {
    locate_model(typed, default, None, surroundings)
}

/// The same, and of a file with several models the one called `name` (`--model-name`), else the first.
///
/// # Errors
/// The same, and a name that there is not.
pub fn locate_model(
    typed: Option<&Path>,
    default: Option<&Path>,
    name: Option<&str>,
    surroundings: &Surroundings,
) -> Result<Located, CliError> {
    let bundle = surroundings.bundle.as_ref();
    if let Some(path) = typed {
        // A member only where it cannot be anything else: what is typed means the world outside first.
        let member = Some(path).filter(|path| !path.exists()).and_then(|path| member_named(path, bundle));
        return match (member, bundle) {
            (Some(_), Some(bundle)) => Ok(Located { files: files_of(bundle, member, name)?, place: Place::ThisFile }),
            _ => at_path(path, name),
        };
    }
    let member = default.and_then(|path| member_named(path, bundle));
    if let (Some(path), None) = (default, member) {
        return at_path(path, name);
    }
    if let Some(path) = &surroundings.model_variable {
        return at_path(Path::new(path), name);
    }
    if let Some(bundle) = bundle.filter(|bundle| bundle.has_weights()) {
        let files = files_of(bundle, member, name)?;
        return Ok(Located { files, place: Place::ThisFile });
    }
    if let Some(program) = &surroundings.program
        && let Some(beside) = Bundle::beside(program, bundle)?
    {
        return Ok(Located { files: files_of(&beside, None, name)?, place: Place::Path });
    }
    let beside = surroundings.program.as_deref().and_then(Path::parent).map(ggufs_in).unwrap_or_default();
    match beside.as_slice() {
        [] => {
            let demo = NamedBytes { name: DEMO_NAME.into(), bytes: demo_model() };
            let files = Files::from_members(vec![demo])?;
            check_only_name(&files, name)?;
            Ok(Located { files, place: Place::Demo })
        }
        [path] => at_path(path, name),
        several => Err(CliError::SeveralModels(several.iter().map(|path| path.display().to_string()).collect())),
    }
}

/// The model at a path: what [`Files::from_path`] knows, archives, and both in parts (`FILE.cat0`, `FILE.cat1`).
fn at_path(path: &Path, name: Option<&str>) -> Result<Located, CliError> {
    let files = match mapped(path)? {
        Some((bytes, is_in_parts)) => match bundle_in(path, &bytes)? {
            Some(bundle) if !bundle.has_weights() => return Err(no_weights(path)),
            Some(bundle) => {
                return Ok(Located { files: files_of(&bundle, None, name)?, place: Place::Path });
            }
            None if is_in_parts => {
                let shown = path.display().to_string();
                let name = shown.strip_suffix(".cat0").unwrap_or(&shown).to_owned();
                Files::Gguf(vec![NamedBytes { name, bytes }])
            }
            None => Files::from_path(path)?,
        },
        None => Files::from_path(path)?,
    };
    check_only_name(&files, name)?;
    Ok(Located { files, place: Place::Path })
}

/// The file's bytes, and whether they are those of several files; `None` for what [`Files::from_path`] explains better.
fn mapped(path: &Path) -> Result<Option<(Bytes, bool)>, CliError> {
    if path.is_dir() {
        return Ok(None);
    }
    let is_in_parts = !path.exists() || path.to_string_lossy().ends_with(".cat0");
    match Bytes::open(path) {
        Ok(bytes) => Ok(Some((bytes, is_in_parts))),
        Err(error) if is_in_parts && error.source.kind() != ErrorKind::NotFound => Err(WeightsError::Map(error).into()),
        Err(_) => Ok(None),
    }
}

/// The archive in these bytes; a GGUF file is none whatever it ends in.
fn bundle_in(path: &Path, bytes: &Bytes) -> Result<Option<Bundle>, CliError> {
    if bytes.starts_with(b"GGUF") {
        return Ok(None);
    }
    Ok(Bundle::from_bytes(path, bytes.clone())?)
}

/// The files of one model: the one called `name`, the one with `member` in it, else the first.
fn files_of(bundle: &Bundle, member: Option<&str>, name: Option<&str>) -> Result<Files, CliError> {
    let models = bundle.models();
    let chosen = match (name, member) {
        (Some(name), _) => {
            models.iter().find(|model| model.name == name).map(Some).ok_or_else(|| no_model(name, &models))?
        }
        (None, Some(member)) => models.iter().find(|model| model.members.iter().any(|other| other == member)),
        (None, None) => models.first().filter(|_| models.len() > 1),
    };
    let members = match chosen {
        Some(model) => {
            let data = |name: &String| Ok(bundle.member(name)?.map(|bytes| (name.clone(), bytes)));
            let members: Result<Vec<Option<_>>, BundleError> = model.members.iter().map(data).collect();
            members?.into_iter().flatten().collect()
        }
        // Whatever belongs to the only model, in whatever folders.
        None => bundle.members_ending_in(MODEL_ENDINGS)?,
    };
    let named = |(name, bytes)| NamedBytes { name, bytes };
    Ok(Files::from_members(members.into_iter().map(named).collect())?)
}

fn no_weights(path: &Path) -> CliError {
    CliError::Weights(Box::new(WeightsError::NoModel {
        file: path.display().to_string(),
        what: "it is an archive without a `.gguf` or `.safetensors` file in it",
    }))
}

fn no_model(name: &str, models: &[PackedModel]) -> CliError {
    let names: Vec<String> =
        models.iter().map(|model| format!("`{}`", name_for_people(model.name.as_bytes()))).collect();
    CliError::Usage {
        what: format!("`--model-name`: there is no model `{}` in this file", name_for_people(name.as_bytes())),
        hint: format!("there is {}", names.join(", ")),
    }
}

/// A file with one model has one name to choose from.
fn check_only_name(files: &Files, name: Option<&str>) -> Result<(), CliError> {
    let Some(name) = name else { return Ok(()) };
    let own = match files {
        Files::Gguf(parts) => parts.first().map_or("", NamedBytes::base_name),
        Files::HuggingFace(files) => &files.name,
    };
    let own = own.strip_suffix(".gguf").unwrap_or(own);
    let own = own.split("-00001-of-").next().unwrap_or(own);
    if own == name {
        return Ok(());
    }
    Err(no_model(name, &[PackedModel { name: own.to_owned(), members: Vec::new() }]))
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
            program: Some(beside.path().join("gemma2")),
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
        surroundings.program = None;
        assert_eq!(find(None, None, &surroundings), (DEMO_NAME.into(), Place::Demo));
    }

    #[test]
    fn the_model_may_be_a_member_as_in_a_llamafile() {
        let surroundings = Surroundings { bundle: Some(bundle(&["a.gguf", "b.gguf"])), ..Surroundings::default() };
        for name in ["b.gguf", "/zip/b.gguf"] {
            for (typed, default) in [(None, Some(Path::new(name))), (Some(Path::new(name)), None)] {
                let located = locate_weights(typed, default, &surroundings).unwrap();
                assert_eq!((first_file(&located).as_str(), located.place), ("b.gguf", Place::ThisFile));
            }
        }
        let folder = folder(&["b.gguf"]);
        let surroundings = Surroundings {
            bundle: Some(bundle(&[&*folder.path().join("b.gguf").to_string_lossy()])),
            ..Surroundings::default()
        };
        let outside = locate_weights(Some(&folder.path().join("b.gguf")), None, &surroundings).unwrap();
        assert_eq!(outside.place, Place::Path, "a file that is there is meant");
    }

    #[test]
    fn of_several_models_in_a_file_the_first_is_taken_or_the_one_asked_for() {
        let names = ["b.gguf", "a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "it/config.json", "it/tokenizer.json"];
        let names = [&names[..], &["it/model.safetensors"]].concat();
        let surroundings = Surroundings { bundle: Some(bundle(&names)), ..Surroundings::default() };
        let find = |name| locate_model(None, None, name, &surroundings).map(|located| first_file(&located));
        assert_eq!(find(None).unwrap(), "b.gguf");
        assert_eq!(find(Some("b")).unwrap(), "b.gguf");
        assert_eq!(find(Some("a")).unwrap(), "a-00001-of-00002.gguf");
        assert_eq!(find(Some("it")).unwrap(), "config.json");
        let error = find(Some("c")).unwrap_err();
        let text = crate::error::render(&error);
        assert!(text.contains("no model `c`") && text.contains("`b`, `a`, `it`"), "{text}");
        let folder = folder(&["only.gguf"]);
        let at = |name| locate_model(Some(&folder.path().join("only.gguf")), None, Some(name), &surroundings);
        assert!(at("only").is_ok());
        assert!(crate::error::render(&at("b").unwrap_err()).contains("there is `only`"));
    }

    #[test]
    fn weights_may_lie_in_an_archive_beside_the_program() {
        let folder = folder(&[]);
        let file = crate::bundle::zip::tests::file_with_archive(0, &[("inside.gguf", b"GGUF")]);
        fs::write(folder.path().join("gemma.weights"), file).unwrap();
        for program in ["gemma.exe", "gemma.EXE", "gemma"] {
            let program = Some(folder.path().join(program));
            let surroundings = Surroundings { program, ..Surroundings::default() };
            let located = locate_weights(None, None, &surroundings).unwrap();
            assert_eq!(first_file(&located), "inside.gguf");
        }
    }

    #[test]
    fn weights_in_parts_are_one_file() {
        let folder = folder(&[]);
        let path = |name: &str| folder.path().join(name);
        let mut gguf = b"GGUF".to_vec();
        gguf.resize(65_536 + 100, 1);
        let archive = crate::bundle::zip::tests::file_with_archive(500, &[("inside.gguf", &gguf)]);
        for (name, content) in [("m.gguf", &gguf), ("packed", &archive)] {
            for (number, part) in content.chunks(65_536).enumerate() {
                fs::write(path(&format!("{name}.cat{number}")), part).unwrap();
            }
        }
        let find = |name: &str| first_file(&locate_weights(Some(&path(name)), None, &Surroundings::default()).unwrap());
        for (name, expected) in [("m.gguf", "m.gguf"), ("packed", "inside.gguf")] {
            assert_eq!(find(name), expected);
            assert_eq!(find(&format!("{name}.cat0")), expected);
        }
    }

    #[test]
    fn several_models_beside_the_program_are_listed() {
        let folder = folder(&["b.gguf", "a.gguf", "s-00001-of-00002.gguf", "s-00002-of-00002.gguf"]);
        let program = Some(folder.path().join("gemma2"));
        let surroundings = Surroundings { program, ..Surroundings::default() };
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
