use std::fs;

use super::*;
use crate::bundle::{unpack, verify};
use crate::error::render;

/// A folder with a small program, weights and a license.
struct Setup {
    directory: tempfile::TempDir,
}

impl Setup {
    fn new() -> Setup {
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

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn options(&self) -> PackOptions {
        PackOptions {
            weights: self.path("m.gguf"),
            output: self.path("out"),
            args: vec!["-c".into(), "0".into(), "...".into()],
            license: Some(self.path("LICENSE")),
            runtime: Some(self.path("program")),
            overwrite: false,
        }
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn quiet(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn pack_quietly(options: &PackOptions) -> Result<u64, PackError> {
    pack(options, &mut quiet)
}

fn open(path: &Path) -> Bundle {
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
        weights: setup.path("out"),
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
    let model = setup.path("model");
    fs::create_dir(&model).unwrap();
    let files = ["config.json", "tokenizer.json", "a.safetensors", "b.safetensors", "README.md"];
    for file in files {
        fs::write(model.join(file), "{}").unwrap();
    }
    let pack_model = |name: &str| {
        let options = PackOptions {
            weights: model.join(name),
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
    fs::write(model.join(index), r#"{"weight_map":{"x":"b.safetensors"}}"#).unwrap();
    assert_eq!(members(""), format!("config.json tokenizer.json {index} b.safetensors"));
    fs::write(model.join(index), r#"{"weight_map":{"x":"../m.gguf"}}"#).unwrap();
    assert!(pack_model("").is_err());
    fs::remove_file(model.join(index)).unwrap();
    fs::remove_file(model.join("tokenizer.json")).unwrap();
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
    let options = PackOptions { weights: setup.path("s-00001-of-00002.gguf"), ..setup.options() };
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
#[cfg(unix)]
fn a_program_for_windows_stays_below_4_gib() {
    let setup = Setup::new();
    let file = File::create(setup.path("large.gguf")).unwrap();
    (&file).write_all(b"GGUF").unwrap();
    file.set_len(WINDOWS_LIMIT).unwrap();
    fs::write(setup.path("program.exe"), [b"MZ", &[0; 100][..]].concat()).unwrap();
    let options =
        PackOptions { weights: setup.path("large.gguf"), runtime: Some(setup.path("program.exe")), ..setup.options() };
    let error = pack_quietly(&options).unwrap_err();
    assert!(matches!(error, PackError::WindowsLimit(_)), "{error}");
    assert!(error.hint().unwrap().contains("`-m`"));
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
    let options = PackOptions { weights: setup.path("large.gguf"), ..setup.options() };
    let error = pack_quietly(&options).unwrap_err();
    assert!(matches!(error, PackError::NoSpace { .. }), "{error}");
    assert!(!setup.path("out").exists());
}

#[test]
fn inputs_that_are_no_weights_or_no_program_are_named() {
    let setup = Setup::new();
    let mut options = setup.options();
    options.weights = setup.path("LICENSE");
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
