//! Packed files from other tools, in parts, with several models, on full and on read-only disks: through the binary.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::util::{Folder, demo_model, run};

/// What another program says; `None`, with a word, where it is not installed.
fn other(folder: &Folder, line: &[&str]) -> Option<Output> {
    match Command::new(line[0]).args(&line[1..]).current_dir(folder.path("")).output() {
        Ok(output) => Some(output),
        Err(_) => {
            eprintln!("skipped: {} is not installed", line[0]);
            None
        }
    }
}

fn copy_model(folder: &Folder, name: &str) {
    fs::copy(demo_model(), folder.path(name)).expect("a copy of the model");
}

#[test]
#[cfg(unix)]
fn archives_of_other_tools_behind_the_program_are_read_in_place() {
    let folder = Folder::new();
    copy_model(&folder, "m.gguf");
    folder.write(".args", "--temp\n0\n-n\n4\n");
    let expected = folder.run(&["-q", "-m", "m.gguf", "-p", "Hi", "--temp", "0", "-n", "4"]).expect(0).stdout;
    let python = "import sys, zipfile\n\
                  with zipfile.ZipFile(sys.argv[1], 'w') as z:\n    z.write('m.gguf')\n    z.write('.args')\n";
    let tools: [(&str, &[&str]); 4] = [
        ("info-zip", &["zip", "-q", "-0", "info-zip", "m.gguf", ".args"]),
        ("info-zip-64", &["zip", "-q", "-0", "-fz", "info-zip-64", "m.gguf", ".args"]),
        ("python", &["python3", "-c", python, "python"]),
        ("7-zip", &["7z", "a", "-tzip", "-mx=0", "7-zip", "m.gguf", ".args"]),
    ];
    for (name, line) in tools {
        let Some(output) = other(&folder, line) else { continue };
        assert!(output.status.success(), "{output:?}");
        let ending = format!("{name}.zip");
        let archive = [name, &ending].into_iter().find(|name| folder.path(name).exists()).expect("an archive");
        let archive = fs::read(folder.path(archive)).expect("an archive");
        let program = fs::read(env!("CARGO_BIN_EXE_gemma2")).expect("the program");
        let packed = folder.path("packed");
        fs::write(&packed, [program, archive].concat()).expect("a packed file");
        std::fs::set_permissions(&packed, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("to allow it");
        let answer = || run(folder.command(&packed).args(["-q", "-p", "Hi"])).expect(0).stdout;
        assert_eq!(answer(), expected, "{name}, with offsets from the start of the archive");
        run(folder.command(&packed).arg("verify")).expect(0);
        if name.starts_with("info-zip") && other(&folder, &["zip", "-q", "-A", "packed"]).is_some() {
            assert_eq!(answer(), expected, "{name}, with offsets from the start of the file");
        }
        folder.run(&["upgrade", "packed", "--arg=-n", "--arg=4", "--arg=--temp", "--arg=0"]).expect(0);
        assert_eq!(answer(), expected, "{name}, upgraded");
        assert!(folder.run(&["verify", "packed"]).expect(0).stdout.contains("ok       the program"), "{name}");
    }
}

#[test]
fn other_tools_find_in_a_packed_file_what_counts() {
    let folder = Folder::new();
    copy_model(&folder, "m.gguf");
    folder.run(&["pack", "-m", "m.gguf", "-o", "packed", "--arg=-n", "--arg=4"]).expect(0);
    let python = "import sys, zipfile\nsys.stdout.write(zipfile.ZipFile('packed').read('.args').decode())\n";
    // 7-Zip looks for an archive in the first 8 MiB only, unless told otherwise.
    let tools: [(&[&str], &[&str]); 3] = [
        (&["unzip", "-tq", "packed"], &["unzip", "-p", "packed", ".args"]),
        (&["python3", "-m", "zipfile", "-t", "packed"], &["python3", "-c", python]),
        (&["7z", "t", "-tzip:s1g", "packed"], &["7z", "e", "-so", "-tzip:s1g", "packed", ".args"]),
    ];
    for args in [&["-n", "4"][..], &["-n", "7"], &["-c", "64", "-n", "9"]] {
        let given: Vec<String> = args.iter().map(|arg| format!("--arg={arg}")).collect();
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        folder.run(&[&["upgrade", "packed"], &given[..]].concat()).expect(0);
        for (test, print) in tools {
            let Some(output) = other(&folder, test) else { continue };
            let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
            assert!(output.status.success() && !text.contains("warning"), "{test:?} {args:?}: {text}");
            let printed = other(&folder, print).expect("it is there").stdout;
            assert_eq!(String::from_utf8_lossy(&printed), format!("{}\n", args.join("\n")), "{print:?}");
        }
    }
}

#[test]
#[cfg(unix)]
fn a_packed_file_looks_into_itself() {
    let folder = Folder::new();
    copy_model(&folder, "m.gguf");
    folder.run(&["pack", "-m", "m.gguf", "-o", "packed", "--arg=-n", "--arg=4"]).expect(0);
    let packed = folder.path("packed");
    let own = run(folder.command(&packed).arg("list")).expect(0).stdout;
    assert_eq!(own, folder.run(&["list", "packed"]).expect(0).stdout);
    run(folder.command(&packed).args(["unpack", "-d", "parts"])).expect(0);
    assert_eq!(fs::read(folder.path("parts/m.gguf")).expect("the model"), fs::read(demo_model()).expect("the model"));
    folder.run(&["list"]).expect(3).says(&["has no archive in it"]);
}

#[test]
fn compressed_weights_are_refused_with_what_to_do() {
    let folder = Folder::new();
    copy_model(&folder, "m.gguf");
    if other(&folder, &["zip", "-q", "small.zip", "m.gguf"]).is_some() {
        folder.run(&["-m", "small.zip", "-p", "Hi"]).expect(3).says(&["`m.gguf` is compressed", "zip -0"]);
    }
}

#[test]
fn several_models_in_one_file_are_chosen_by_name() {
    let folder = Folder::new();
    copy_model(&folder, "m.gguf");
    let tiny = format!("{}/tests/fixtures/golden/models/tiny-c/hf-bf16-sharded", env!("CARGO_MANIFEST_DIR"));
    folder.run(&["pack", "-m", "m.gguf", "-m", &tiny, "-o", "packed"]).expect(0);
    let packed = folder.path("packed");
    let args = ["-q", "--raw", "-p", "Hi", "--temp", "0", "-n", "4"];
    let inside = |more: &[&str]| run(folder.command(&packed).args(args).args(more)).expect(0).stdout;
    let alone = |model: &str| folder.run(&[&args[..], &["-m", model]].concat()).expect(0).stdout;
    assert_eq!(inside(&[]), alone("m.gguf"), "the first one, unless asked for another");
    assert_eq!(inside(&["--model-name", "hf-bf16-sharded"]), alone(&tiny));
    let beside = folder.run(&[&args[..], &["-m", "packed", "--model-name", "hf-bf16-sharded"]].concat()).expect(0);
    assert_eq!(beside.stdout, alone(&tiny));
    let tool = |args: &[&str]| run(folder.command(&packed).args(args).args(["--model-name", "hf-bf16-sharded"]));
    assert!(tool(&["info"]).expect(0).stdout.contains("format        safetensors"));
    assert_ne!(
        tool(&["tokenize", "Hello"]).expect(0).stdout,
        run(folder.command(&packed).args(["tokenize", "Hello"])).expect(0).stdout
    );
    folder.run(&["quantize", "packed", "small.gguf", "BF16", "--model-name", "hf-bf16-sharded"]).expect(0);
    assert_eq!(alone("small.gguf"), alone(&tiny));
    folder.run(&["bench", "-m", "packed", "--model-name", "x"]).expect(2).says(&["`x`"]);
    run(folder.command(&packed).args(args).args(["--model-name", "x"]))
        .expect(2)
        .says(&["`x`", "`m`, `hf-bf16-sharded`"]);
    let list = folder.run(&["list", "packed"]).expect(0).stdout;
    assert!(list.ends_with("\n  m\n  hf-bf16-sharded\n"), "{list}");
    folder.run(&["pack", "-m", "m.gguf", "-m", "m.gguf", "-o", "x"]).expect(1).says(&["two models named", "--name"]);
    folder.run(&["pack", "-m", "m.gguf", "-m", "m.gguf", "-o", "x", "--name", "a"]).expect(2).says(&["`--name`"]);
    folder.run(&["pack", "-m", "m.gguf", "-m", "m.gguf", "--name", "a", "--name", "b", "-o", "two"]).expect(0);
    folder.run(&["pack", "-m", "two", "-o", "again", "--arg=--model-name", "--arg=b"]).expect(0);
    assert_eq!(run(folder.command(&folder.path("again")).args(args)).expect(0).stdout, alone("m.gguf"));
    let again = run(folder.command(&folder.path("again")).args(["info"])).expect(0).stdout;
    assert!(again.contains("b.gguf"), "{again}");
}

#[test]
fn files_in_parts_are_used_without_joining_them() {
    let folder = Folder::new();
    copy_model(&folder, "m.gguf");
    folder.run(&["pack", "-m", "m.gguf", "-o", "packed"]).expect(0);
    let args = ["-q", "-p", "Hi", "--temp", "0", "-n", "4", "-m"];
    let expected = folder.run(&[&args[..], &["m.gguf"]].concat()).expect(0).stdout;
    for name in ["m.gguf", "packed"] {
        let whole = fs::read(folder.path(name)).expect("the file");
        for (number, part) in whole.chunks(whole.len() / 3 / 65_536 * 65_536).enumerate() {
            folder.write(&format!("{name}.cat{number}"), part);
        }
        fs::remove_file(folder.path(name)).expect("to remove the whole");
        for model in [name, &format!("{name}.cat0")] {
            assert_eq!(folder.run(&[&args[..], &[model]].concat()).expect(0).stdout, expected, "{model}");
        }
    }
    folder.run(&["verify", "packed.cat0"]).expect(0);
    folder.run(&["pack", "-m", "packed.cat0", "-o", "joined"]).expect(0);
    folder.run(&["verify", "joined"]).expect(0);
    let last = (0..).take_while(|n| folder.path(&format!("packed.cat{n}")).exists()).last().expect("a part");
    fs::remove_file(folder.path(&format!("packed.cat{last}"))).expect("to lose a part");
    folder.run(&["verify", "packed.cat0"]).expect(3).says(&["was packed with"]);
    folder.write("odd.cat0", [1; 5_000]);
    folder.write("odd.cat1", [1; 5_000]);
    folder.run(&["-m", "odd", "-p", "Hi"]).expect(3).says(&["odd.cat0", "join the parts"]);
}

/// A small file system of its own, which root can have on Linux.
struct Disk {
    folder: Folder,
}

impl Disk {
    fn new(options: &str) -> Option<Disk> {
        let folder = Folder::new();
        fs::create_dir(folder.path("disk")).expect("a folder");
        let disk = Disk { folder };
        if disk.mount(options) {
            return Some(disk);
        }
        eprintln!("skipped: no file system can be mounted here");
        None
    }

    fn mount(&self, options: &str) -> bool {
        let line = ["-t", "tmpfs", "-o", options, "tmpfs"];
        let mounted = Command::new("mount").args(line).arg(self.folder.path("disk")).output();
        cfg!(target_os = "linux") && mounted.is_ok_and(|output| output.status.success())
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path("disk")).expect("the disk").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.folder.path("disk")).status();
    }
}

/// A file that passes for a program and is small, so that a small disk holds it.
fn small_program(folder: &Folder) {
    let mut program = vec![0; 2_000];
    program[..6].copy_from_slice(b"\x7fELF\x02\x01");
    program[40..42].copy_from_slice(&2_000u16.to_le_bytes());
    folder.write("program", &program);
    program.extend([1; 3_000]);
    folder.write("newer", program);
}

#[test]
fn a_full_disk_is_told_and_what_was_there_stays() {
    let model_size = fs::metadata(demo_model()).expect("the demo model").len();
    let Some(disk) = Disk::new(&format!("size={}", model_size + 200_000)) else { return };
    let folder = &disk.folder;
    small_program(folder);
    let model = demo_model().display().to_string();
    let pack = |output: &str| folder.run(&["pack", "-m", &model, "-o", output, "--runtime", "program"]);
    pack("disk/packed").expect(0);
    pack("disk/second").expect(1).says(&["no space for `disk/second`", "are free"]);
    folder.run(&["quantize", &model, "disk/small.gguf", "Q4_0"]).expect(1).says(&["no space"]);
    // There is no way to know beforehand whether the file system shares the weights.
    folder.run(&["upgrade", "disk/packed", "--runtime", "newer"]).expect(1).says(&["no space"]);
    // As much as there is room for.
    let _ = fs::write(folder.path("disk/filler"), vec![1; 1_000_000]);
    // More than what is left of the file's last page.
    let long = format!("--arg={}", "x".repeat(9_000));
    folder.run(&["upgrade", "disk/packed", "--arg=-r", &long]).expect(1).says(&["no space"]);
    folder.run(&["unpack", "disk/packed", "-d", "disk"]).expect(1).says(&["no space in `disk`"]);
    folder.run(&["unpack", "disk/packed", "-d", "disk", "--force"]).expect(1).says(&["free some space"]);
    assert_eq!(disk.files(), ["filler", "packed"]);
    folder.run(&["verify", "disk/packed"]).expect(0);
    fs::remove_file(folder.path("disk/filler")).expect("to remove it");
    let told = folder.run(&["upgrade", "disk/packed", "--arg=-n", "--arg=1"]).expect(0);
    assert!(told.stderr.contains("changed in place"), "no room for a second file is needed: {}", told.stderr);
    folder.run(&["verify", "disk/packed"]).expect(0);
}

#[test]
fn read_only_media_can_be_used_and_are_not_written_to() {
    let Some(disk) = Disk::new("size=400m") else { return };
    let folder = &disk.folder;
    let model = demo_model().display().to_string();
    folder.run(&["pack", "-m", &model, "-o", "disk/packed", "--arg=-n", "--arg=4"]).expect(0);
    assert!(disk.mount_again_read_only());
    let packed = folder.path("disk/packed");
    run(folder.command(&packed).args(["-q", "-p", "Hi"])).expect(0);
    run(folder.command(&packed).arg("verify")).expect(0);
    folder.run(&["unpack", "disk/packed", "-d", "parts"]).expect(0);
    for args in [
        &["--no-args"][..],
        &["--runtime", Path::new(env!("CARGO_BIN_EXE_gemma2")).to_str().expect("UTF-8"), "--no-args"],
    ] {
        let told = folder.run(&[&["upgrade", "disk/packed"], args].concat()).expect(1);
        told.says(&["disk/packed` cannot be written", "a directory that you may write to"]);
    }
    folder.run(&["pack", "-m", &model, "-o", "disk/second"]).expect(1).says(&["cannot be written"]);
    folder.run(&["unpack", "disk/packed", "-d", "disk/parts"]).expect(1).says(&["cannot be written"]);
    assert_eq!(disk.files(), ["packed"]);
}

impl Disk {
    fn mount_again_read_only(&self) -> bool {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(self.folder.path("disk")).status();
        status.is_ok_and(|status| status.success())
    }
}
