use std::fs::{self, File};
use std::io::Write;

use super::*;
use crate::bundle::{unpack, verify};
use crate::error::render;

/// A folder with a small program, weights and a license.
pub(crate) struct Setup {
    directory: tempfile::TempDir,
}

impl Setup {
    pub fn new() -> Setup {
        let setup = Setup { directory: tempfile::tempdir().unwrap() };
        // A 64-bit ELF header whose section table, of no entries, ends at 1000.
        let mut program = vec![7; 1000];
        program[..64].fill(0);
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        program[40..42].copy_from_slice(&1000u16.to_le_bytes());
        fs::write(setup.path("program"), program).unwrap();
        fs::write(setup.path("m.gguf"), [b"GGUF", &[5; 200_000][..]].concat()).unwrap();
        fs::write(setup.path("LICENSE"), "be nice\n").unwrap();
        setup
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn options(&self) -> PackOptions<'static> {
        PackOptions {
            models: vec![model(self.path("m.gguf"))],
            output: self.path("out"),
            args: vec!["-c".into(), "0".into(), "...".into()],
            license: Some(self.path("LICENSE")),
            runtime: Some(self.path("program")),
            quantize: None,
            overwrite: false,
        }
    }

    pub fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The model at a path, as it is.
pub(crate) fn model(path: PathBuf) -> ModelInput<'static> {
    ModelInput { path, name: None, made: None }
}

pub(crate) fn quiet(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Pieces of 64 KiB, so that small files have some.
const SMALL: Limits = Limits { piece_size: 1 << 16, windows: 300_000 };

fn pack_quietly(options: &PackOptions) -> Result<u64, PackError> {
    pack(options, &mut quiet).map(|packed| packed.size)
}

pub(crate) fn open(path: &Path) -> Bundle {
    Bundle::open(path).unwrap().unwrap()
}

fn names(bundle: &Bundle) -> Vec<&str> {
    let entries = bundle.archive.entries.iter();
    entries.map(|entry| entry.name.as_str()).collect()
}

#[test]
fn a_packed_file_is_the_program_and_all_members() {
    let setup = Setup::new();
    let size = pack_quietly(&setup.options()).unwrap();
    let bundle = open(&setup.path("out"));
    assert_eq!(bundle.bytes.len() as u64, size);
    assert_eq!(names(&bundle), ["manifest.json", ".args", "LICENSE", "m.gguf"]);
    assert_eq!(bundle.runtime().unwrap()[..], fs::read(setup.path("program")).unwrap());
    let weights = bundle.member("m.gguf").unwrap().unwrap();
    assert_eq!(weights[..], fs::read(setup.path("m.gguf")).unwrap());
    assert_eq!(bundle.archive.entry("m.gguf").unwrap().offset() % 65_536, 0);
    assert!(bundle.has_weights());
    assert_eq!(bundle.args().unwrap().before, ["-c", "0"]);
    let manifest = bundle.manifest().unwrap().unwrap();
    assert_eq!(manifest.file_size, size);
    assert_eq!(manifest.parameters.license.as_deref(), Some("LICENSE"));
    let verification = verify(&bundle, &mut quiet).unwrap();
    assert_eq!(verification.problems, Vec::<String>::new());
    assert_eq!(verification.intact.len(), 5);
}

#[test]
#[cfg(unix)]
fn a_packed_file_may_be_run() {
    use std::os::unix::fs::PermissionsExt;
    let setup = Setup::new();
    pack_quietly(&setup.options()).unwrap();
    let mode = fs::metadata(setup.path("out")).unwrap().permissions().mode();
    assert_eq!(mode & 0o500, 0o500);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let setup = Setup::new();
    pack_quietly(&setup.options()).unwrap();
    let first = fs::read(setup.path("out")).unwrap();
    let options = PackOptions { overwrite: true, ..setup.options() };
    pack_quietly(&options).unwrap();
    assert!(first == fs::read(setup.path("out")).unwrap());
}

#[test]
fn packing_a_packed_file_replaces_its_archive() {
    let setup = Setup::new();
    pack_quietly(&setup.options()).unwrap();
    let options = PackOptions {
        models: vec![model(setup.path("out"))],
        runtime: Some(setup.path("out")),
        output: setup.path("again"),
        args: Vec::new(),
        license: None,
        ..setup.options()
    };
    pack_quietly(&options).unwrap();
    let bundle = open(&setup.path("again"));
    assert_eq!(names(&bundle), ["manifest.json", "m.gguf"]);
    assert_eq!(bundle.archive.start, 1000);
}

#[test]
fn existing_and_input_files_are_not_overwritten() {
    let setup = Setup::new();
    fs::write(setup.path("out"), "mine").unwrap();
    let error = pack_quietly(&setup.options()).unwrap_err();
    assert!(matches!(error, PackError::Exists(_)), "{error}");
    assert_eq!(fs::read(setup.path("out")).unwrap(), b"mine");
    for input in ["m.gguf", "LICENSE", "program"] {
        let options = PackOptions { output: setup.path(input), overwrite: true, ..setup.options() };
        let error = pack_quietly(&options).unwrap_err();
        assert!(matches!(error, PackError::SameFile(_)), "{input}: {error}");
    }
    assert_eq!(setup.names(), ["LICENSE", "m.gguf", "out", "program"]);
}

#[test]
fn an_interrupted_pack_leaves_nothing() {
    let setup = Setup::new();
    for stop_at in 0..4 {
        let mut calls = 0;
        let error = pack(&setup.options(), &mut |_| {
            calls += 1;
            match calls > stop_at {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        assert!(matches!(error, Err(PackError::Interrupted)));
        assert_eq!(setup.names(), ["LICENSE", "m.gguf", "program"]);
    }
}

#[test]
fn model_directories_are_packed_with_their_files() {
    let setup = Setup::new();
    let directory = setup.path("model");
    fs::create_dir(&directory).unwrap();
    let files = ["config.json", "tokenizer.json", "a.safetensors", "b.safetensors", "README.md"];
    for file in files {
        fs::write(directory.join(file), "{}").unwrap();
    }
    let pack_model = |name: &str| {
        let options = PackOptions {
            models: vec![model(directory.join(name))],
            overwrite: true,
            args: Vec::new(),
            license: None,
            ..setup.options()
        };
        pack_quietly(&options).map(|_| open(&setup.path("out")))
    };
    let members = |name: &str| {
        let bundle = pack_model(name).unwrap();
        names(&bundle)[1..].join(" ")
    };
    let both = "config.json tokenizer.json a.safetensors b.safetensors";
    assert_eq!(members(""), both);
    assert_eq!(members("b.safetensors"), "config.json tokenizer.json b.safetensors");
    let index = "model.safetensors.index.json";
    fs::write(directory.join(index), r#"{"weight_map":{"x":"b.safetensors"}}"#).unwrap();
    assert_eq!(members(""), format!("config.json tokenizer.json {index} b.safetensors"));
    fs::write(directory.join(index), r#"{"weight_map":{"x":"../m.gguf"}}"#).unwrap();
    assert!(pack_model("").is_err());
    fs::remove_file(directory.join(index)).unwrap();
    fs::remove_file(directory.join("tokenizer.json")).unwrap();
    let error = pack_model("").unwrap_err();
    assert!(error.to_string().contains("`tokenizer.json` is missing"), "{error}");
}

#[test]
fn all_parts_of_a_split_file_are_packed() {
    let setup = Setup::new();
    for part in 1..=2 {
        let name = format!("s-0000{part}-of-00002.gguf");
        fs::write(setup.path(&name), [b"GGUF".to_vec(), vec![part; 10]].concat()).unwrap();
    }
    let options = PackOptions { models: vec![model(setup.path("s-00001-of-00002.gguf"))], ..setup.options() };
    pack_quietly(&options).unwrap();
    let weights = open(&setup.path("out")).members_ending_in(&[".gguf"]).unwrap();
    let names: Vec<&str> = weights.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["s-00001-of-00002.gguf", "s-00002-of-00002.gguf"]);
    fs::remove_file(setup.path("s-00002-of-00002.gguf")).unwrap();
    let options = PackOptions { overwrite: true, ..options };
    let error = render(&pack_quietly(&options).unwrap_err());
    assert!(error.contains("s-00002-of-00002.gguf"), "{error}");
}

#[test]
fn a_program_for_windows_stays_small_and_has_its_weights_beside_it() {
    let setup = Setup::new();
    fs::write(setup.path("program.exe"), [b"MZ", &[0; 100][..]].concat()).unwrap();
    fs::write(setup.path("large.gguf"), [b"GGUF", &[5; 400_000][..]].concat()).unwrap();
    for (output, model_name, is_beside) in
        [("small", "m.gguf", false), ("it.Q6_K", "large.gguf", true), ("other.exe", "large.gguf", true)]
    {
        let options = PackOptions {
            models: vec![model(setup.path(model_name))],
            runtime: Some(setup.path("program.exe")),
            output: setup.path(output),
            ..setup.options()
        };
        let packed = pack_within(&options, &SMALL, &mut quiet).unwrap();
        let stem = output.strip_suffix(".exe").unwrap_or(output);
        let beside = is_beside.then(|| setup.path(&format!("{stem}.weights")));
        assert_eq!(packed.weights_file, beside);
        let Some(beside) = beside else { continue };
        assert_eq!(packed.file, setup.path(&format!("{stem}.exe")));
        let (program, weights) = (open(&packed.file), open(&beside));
        assert_eq!(names(&program), ["manifest.json", ".args", "LICENSE"]);
        assert_eq!(names(&weights), ["manifest.json", "large.gguf"]);
        assert_eq!(program.manifest().unwrap().unwrap().weights_file, Some(format!("{stem}.weights")));
        assert_eq!(weights.archive.entry("large.gguf").unwrap().offset() % 65_536, 0);
        for bundle in [&program, &weights] {
            assert_eq!(verify(bundle, &mut quiet).unwrap().problems, Vec::<String>::new());
        }
        let found = Bundle::beside(&packed.file, Some(&open(&packed.file))).unwrap().unwrap();
        assert_eq!(found.path, beside);
        let renamed = setup.path("renamed.exe");
        fs::rename(&packed.file, &renamed).unwrap();
        let found = Bundle::beside(&renamed, Some(&open(&renamed))).unwrap().unwrap();
        assert_eq!(found.path, beside, "by the name that it was packed under");
        fs::rename(&beside, setup.path("away")).unwrap();
        let error = Bundle::beside(&renamed, Some(&open(&renamed))).unwrap_err();
        assert!(render(&error).contains(&format!("{stem}.weights` is missing")), "{error}");
        fs::rename(setup.path("away"), setup.path("renamed.weights")).unwrap();
        assert!(Bundle::beside(&renamed, None).unwrap().is_some(), "by its own name");
        fs::rename(setup.path("renamed.weights"), &beside).unwrap();
        let again = pack_within(&options, &SMALL, &mut quiet);
        assert!(matches!(again, Err(PackError::Exists(_))), "an existing file is kept");
    }
}

#[test]
#[cfg(unix)]
fn a_full_file_system_is_told_before_writing() {
    let setup = Setup::new();
    let file = File::create(setup.path("large.gguf")).unwrap();
    (&file).write_all(b"GGUF").unwrap();
    // More than any disk has; sparse where the file system allows a file of this length at all.
    if file.set_len(1 << 43).is_err() {
        eprintln!("skipped: no sparse file of 8 TiB here");
        return;
    }
    let options = PackOptions { models: vec![model(setup.path("large.gguf"))], ..setup.options() };
    let error = pack_quietly(&options).unwrap_err();
    assert!(matches!(error, PackError::NoSpace { .. }), "{error}");
    assert!(!setup.path("out").exists());
}

#[test]
fn inputs_that_are_no_weights_or_no_program_are_named() {
    let setup = Setup::new();
    let mut options = setup.options();
    options.models = vec![model(setup.path("LICENSE"))];
    let error = render(&pack_quietly(&options).unwrap_err());
    assert!(error.contains("LICENSE` cannot be packed") && error.contains("hint:"), "{error}");
    options = setup.options();
    options.runtime = Some(setup.path("LICENSE"));
    let error = pack_quietly(&options).unwrap_err();
    assert!(matches!(error, PackError::NoProgram(_)), "{error}");
}

#[test]
fn damage_is_reported_with_the_members_name() {
    let setup = Setup::new();
    pack_quietly(&setup.options()).unwrap();
    let intact = fs::read(setup.path("out")).unwrap();
    let bundle = open(&setup.path("out"));
    let at = |name: &str| bundle.archive.entry(name).unwrap().offset();
    let cases = [
        (at("m.gguf") + 150_000, "`m.gguf` is not what was packed"),
        (at("LICENSE") + 1, "`LICENSE` is not what was packed"),
        (500, "the program is not what was packed"),
    ];
    for (at, expected) in cases {
        let mut damaged = intact.clone();
        damaged[at] ^= 1;
        fs::write(setup.path("damaged"), damaged).unwrap();
        let verification = verify(&open(&setup.path("damaged")), &mut quiet).unwrap();
        assert_eq!(verification.problems, [expected]);
    }
}

#[test]
fn the_first_damaged_piece_is_named() {
    let setup = Setup::new();
    pack_within(&setup.options(), &SMALL, &mut quiet).unwrap();
    let manifest = open(&setup.path("out")).manifest().unwrap().unwrap();
    let n_pieces: Vec<usize> = manifest.members.iter().map(|member| member.pieces.len()).collect();
    assert_eq!(n_pieces, [0, 0, 4]);
    let mut damaged = fs::read(setup.path("out")).unwrap();
    let at = open(&setup.path("out")).archive.entry("m.gguf").unwrap().offset();
    damaged[at + 70_000] ^= 1;
    damaged[at + 200_003] ^= 1;
    fs::write(setup.path("damaged"), damaged).unwrap();
    let verification = verify(&open(&setup.path("damaged")), &mut quiet).unwrap();
    let expected = format!(
        "`m.gguf` is not what was packed: 2 of 4 pieces differ, the first is its bytes 65536 to 131072 (from {} in the file)",
        at + 65_536
    );
    assert_eq!(verification.problems, [expected]);
    assert_eq!(verification.intact.len(), 4);
    let stopped = verify(&open(&setup.path("out")), &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(crate::bundle::UnpackError::Interrupted)));
}

#[test]
fn several_models_are_packed_under_their_names() {
    let setup = Setup::new();
    let directory = setup.path("it");
    fs::create_dir(&directory).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::write(directory.join(file), "{}").unwrap();
    }
    let named =
        |path: &str, name: Option<&str>| ModelInput { name: name.map(str::to_owned), ..model(setup.path(path)) };
    let pack_both = |models: Vec<ModelInput<'static>>| {
        let options = PackOptions { models, args: Vec::new(), license: None, overwrite: true, ..setup.options() };
        pack_quietly(&options).map(|_| open(&setup.path("out")))
    };
    let bundle = pack_both(vec![named("m.gguf", None), named("it", None)]).unwrap();
    assert_eq!(names(&bundle)[1..], ["it/config.json", "it/tokenizer.json", "m.gguf", "it/model.safetensors"]);
    let models: Vec<String> = bundle.models().into_iter().map(|model| model.name).collect();
    assert_eq!(models, ["m", "it"], "in the order in which they were given");
    let bundle = pack_both(vec![named("m.gguf", Some("a")), named("m.gguf", Some("b"))]).unwrap();
    assert_eq!(names(&bundle)[1..], ["a.gguf", "b.gguf"]);
    let bundle = pack_both(vec![named("it", Some("one"))]).unwrap();
    assert_eq!(names(&bundle)[3], "one/model.safetensors");
    let error = pack_both(vec![named("m.gguf", None), named("m.gguf", None)]).map(|_| ()).unwrap_err();
    assert!(render(&error).contains("two models named `m.gguf`") && render(&error).contains("--name"), "{error}");
    for name in ["", "..", "a/b", "a\\b", "a\nb"] {
        let error = pack_both(vec![named("m.gguf", Some(name))]).map(|_| ()).unwrap_err();
        assert!(matches!(error, PackError::BadName(_)), "{name:?}");
    }
}

#[test]
fn weights_that_are_made_while_packing_have_their_hashes_and_their_size() {
    let setup = Setup::new();
    let content = [b"GGUF", &[9; 300_000][..]].concat();
    let write = |out: &mut dyn Write| content.chunks(7_000).try_for_each(|chunk| out.write_all(chunk));
    let pack_made = |size: usize| {
        let made = Some(Made { size: size as u64, write: &write });
        let models = vec![ModelInput { made, name: Some("made".into()), ..model(setup.path("m.gguf")) }];
        let options = PackOptions { models, quantize: Some("Q4_0".into()), overwrite: true, ..setup.options() };
        pack_within(&options, &SMALL, &mut quiet)
    };
    pack_made(content.len()).unwrap();
    let bundle = open(&setup.path("out"));
    assert_eq!(bundle.member("made.gguf").unwrap().unwrap()[..], content);
    assert_eq!(verify(&bundle, &mut quiet).unwrap().problems, Vec::<String>::new());
    assert_eq!(bundle.manifest().unwrap().unwrap().parameters.quantize.as_deref(), Some("Q4_0"));
    for wrong in [content.len() - 1, content.len() + 1] {
        assert!(matches!(pack_made(wrong), Err(PackError::Io { .. })), "{wrong}");
    }
    assert!(fs::read(setup.path("out")).unwrap() == bundle.bytes[..], "the old file is still there");
}

#[test]
fn a_truncated_download_tells_the_expected_size() {
    let setup = Setup::new();
    let size = pack_quietly(&setup.options()).unwrap();
    let intact = fs::read(setup.path("out")).unwrap();
    fs::write(setup.path("cut"), &intact[..100_000]).unwrap();
    let error = Bundle::open(&setup.path("cut")).unwrap_err();
    let text = render(&error);
    assert!(text.contains("ends at 100000 bytes"), "{text}");
    assert!(text.contains(&format!("packed with {size}")), "{text}");
    assert!(text.contains("hint: download or copy the file again"), "{text}");
    assert!(Bundle::open(&setup.path("program")).unwrap().is_none());
}

#[test]
fn truncations_of_a_packed_file_never_panic() {
    let setup = Setup::new();
    fs::write(setup.path("m.gguf"), b"GGUF").unwrap();
    pack_quietly(&setup.options()).unwrap();
    let intact = fs::read(setup.path("out")).unwrap();
    let cuts = (0..3_000).chain(intact.len() - 600..intact.len());
    for length in cuts {
        let bytes = Bytes::from(intact[..length].to_vec());
        if let Ok(Some(bundle)) = Bundle::from_bytes(Path::new("x"), bytes) {
            let _ = verify(&bundle, &mut quiet);
        }
    }
}

#[test]
fn unpacking_gives_the_members_and_overwrites_nothing() {
    let setup = Setup::new();
    pack_quietly(&setup.options()).unwrap();
    let bundle = open(&setup.path("out"));
    let to = setup.path("parts");
    let files = unpack(&bundle, &to, false, &mut quiet).unwrap();
    assert_eq!(files.len(), 4);
    assert_eq!(fs::read(to.join("LICENSE")).unwrap(), b"be nice\n");
    fs::write(to.join("LICENSE"), "changed").unwrap();
    assert!(unpack(&bundle, &to, false, &mut quiet).is_err());
    assert_eq!(fs::read(to.join("LICENSE")).unwrap(), b"changed");
    unpack(&bundle, &to, true, &mut quiet).unwrap();
    assert_eq!(fs::read(to.join("LICENSE")).unwrap(), b"be nice\n");
}

fn bundle_with(name: &str) -> Bundle {
    let file = crate::bundle::zip::tests::file_with_archive(0, &[("ok", b"1"), (name, b"evil")]);
    Bundle::from_bytes(Path::new("x"), file.into()).unwrap().unwrap()
}

#[test]
fn unpacking_never_leaves_its_directory() {
    let setup = Setup::new();
    let to = setup.path("inner");
    for name in ["../evil", "/evil", "a/../../evil", "..", "a//b", "C:evil", "..\\evil", "a\0b", ""] {
        let result = unpack(&bundle_with(name), &to, true, &mut quiet);
        let unsafe_name = matches!(result, Err(crate::bundle::UnpackError::UnsafeName(_)));
        assert!(unsafe_name, "{name:?}");
    }
    assert_eq!(setup.names(), ["LICENSE", "m.gguf", "program"]);
}

#[test]
#[cfg(unix)]
fn unpacking_follows_no_symbolic_link() {
    use std::os::unix::fs::symlink;
    let setup = Setup::new();
    let to = setup.path("inner");
    fs::create_dir(&to).unwrap();
    symlink(setup.directory.path(), to.join("link")).unwrap();
    symlink(setup.path("LICENSE"), to.join("file")).unwrap();
    assert!(unpack(&bundle_with("link/evil"), &to, true, &mut quiet).is_err());
    unpack(&bundle_with("file"), &to, true, &mut quiet).unwrap();
    assert_eq!(fs::read(setup.path("LICENSE")).unwrap(), b"be nice\n");
    assert_eq!(fs::read(to.join("file")).unwrap(), b"evil");
    assert_eq!(setup.names(), ["LICENSE", "inner", "m.gguf", "program"]);
}

#[test]
fn a_foreign_archive_is_verified_by_its_own_checksums() {
    let file = crate::bundle::zip::tests::file_with_archive(0, &[("a.gguf", b"GGUF1")]);
    let open = |file: Vec<u8>| Bundle::from_bytes(Path::new("x"), file.into()).unwrap().unwrap();
    let result = verify(&open(file.clone()), &mut quiet).unwrap();
    assert!(!result.has_manifest && result.problems.is_empty());
    let mut damaged = file;
    damaged[65_536 + 4] = b'2';
    let result = verify(&open(damaged), &mut quiet).unwrap();
    assert_eq!(result.problems, ["`a.gguf` is not what was packed"]);
}
