//! Packed files, through the binary.

use std::fs;

use crate::util::{Folder, demo_model, run};

/// A packed demo model, `packed`, with these default arguments.
fn packed(args: &[&str]) -> Folder {
    let folder = Folder::new();
    let model = demo_model().display().to_string();
    let args: Vec<String> = args.iter().map(|arg| format!("--arg={arg}")).collect();
    let mut command = folder.program();
    run(command.args(["pack", "-m", &model, "-o", "packed"]).args(args)).expect(0);
    folder
}

#[test]
fn a_packed_file_answers_with_the_weights_inside() {
    let folder = packed(&["-n", "8", "--temp", "0"]);
    let inside = run(folder.command(&folder.path("packed")).args(["-q", "-p", "Hi"])).expect(0);
    let beside = folder.run(&["-q", "-n", "8", "--temp", "0", "-p", "Hi"]).expect(0);
    assert_eq!(inside.stdout, beside.stdout);
    assert_eq!(inside.stderr, "");
    let shorter = run(folder.command(&folder.path("packed")).args(["-q", "-p", "Hi", "-n", "1"])).expect(0);
    assert!(shorter.stdout.len() < inside.stdout.len(), "what is typed wins");
    let opened = folder.run(&["-q", "-m", "packed", "-n", "8", "--temp", "0", "-p", "Hi"]).expect(0);
    assert_eq!(opened.stdout, inside.stdout);
}

#[test]
fn default_arguments_may_leave_a_place_for_those_typed() {
    let folder = packed(&["-q", "--temp", "0", "-n", "8", "-p", "..."]);
    let packed = folder.path("packed");
    let bare = run(folder.command(&packed).arg("Hi")).expect(0);
    assert_eq!(bare.stdout, folder.run(&["-q", "--temp", "0", "-n", "8", "-p", "Hi"]).expect(0).stdout);
    run(folder.command(&packed).args(["Hi", "--tmp"])).expect(2).says(&["--tmp"]);
}

#[test]
fn default_arguments_that_make_no_sense_are_refused_when_packing() {
    let folder = Folder::new();
    let model = demo_model().display().to_string();
    let pack = |arg: &str| folder.run(&["pack", "-m", &model, "-o", "out", arg]);
    pack("--arg=--tmp").expect(2).says(&["--tmp"]);
    pack("--arg=pack").expect(2).says(&["`--arg`"]);
    pack("--arg=--temp=-5").expect(2).says(&["--temp"]);
    assert!(!folder.path("out").exists());
}

#[test]
fn a_packed_file_packs_without_taking_its_archive_along() {
    let folder = packed(&["-c", "0"]);
    run(folder.command(&folder.path("packed")).args(["pack", "-m", "packed", "-o", "again"])).expect(0);
    let names = |file: &str| {
        let list = folder.run(&["list", file]).expect(0).stdout;
        list.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2).map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(names("packed"), ["manifest.json", ".args", "gemma2-demo-q8_0.gguf"]);
    assert_eq!(names("again"), ["manifest.json", "gemma2-demo-q8_0.gguf"]);
    assert!(
        fs::metadata(folder.path("again")).expect("a file").len()
            <= fs::metadata(folder.path("packed")).expect("a file").len()
    );
}

#[test]
fn damage_is_found_and_named() {
    let folder = packed(&[]);
    let packed = folder.path("packed");
    assert!(run(folder.command(&packed).arg("verify")).expect(0).stdout.contains("ok       `gemma2-demo-q8_0.gguf`"));
    let mut bytes = fs::read(&packed).expect("the packed file");
    let at = bytes.len() - 100_000;
    bytes[at] ^= 1;
    folder.write("damaged", &bytes);
    let verified = folder.run(&["verify", "damaged"]).expect(1).says(&["`damaged` is not as it was packed"]);
    assert!(verified.stdout.contains("DAMAGED  `gemma2-demo-q8_0.gguf`"), "{}", verified.stdout);
    bytes.truncate(at);
    folder.write("cut", &bytes);
    let told = folder.run(&["verify", "cut"]).expect(3).says(&["`cut` ends at", "was packed with"]);
    let size = fs::metadata(&packed).expect("the packed file").len();
    assert!(told.stderr.contains(&size.to_string()), "{}", told.stderr);
    folder.run(&["-m", "cut", "-p", "x"]).expect(3).says(&["`cut` ends at"]);
    folder.run(&["verify"]).expect(3).says(&["has no archive"]);
}

#[test]
fn unpacking_gives_the_weights_back() {
    let folder = packed(&[]);
    let run = folder.run(&["unpack", "packed", "-d", "parts"]).expect(0);
    assert_eq!(run.stdout.lines().count(), 2, "{}", run.stdout);
    let weights = fs::read(folder.path("parts/gemma2-demo-q8_0.gguf")).expect("the weights");
    assert!(weights == fs::read(demo_model()).expect("the demo model"));
    folder.run(&["unpack", "packed", "-d", "parts"]).expect(1).says(&["exists already", "--force"]);
    folder.run(&["unpack", "packed", "-d", "parts", "--force"]).expect(0);
}

#[test]
fn packing_refuses_what_it_must_not_overwrite_or_cannot_run() {
    let folder = Folder::new();
    let model = folder.path("m.gguf");
    fs::copy(demo_model(), &model).expect("a copy");
    folder.write("out", "mine");
    folder.run(&["pack", "-m", "m.gguf", "-o", "out"]).expect(1).says(&["`out` exists already", "--force"]);
    folder.run(&["pack", "-m", "m.gguf", "-o", "m.gguf", "--force"]).expect(1).says(&["both input and output"]);
    folder.run(&["pack", "-m", "missing.gguf", "-o", "new"]).expect(3).says(&["m.gguf"]);
    folder.write("broken.gguf", "GGUF");
    folder.run(&["pack", "-m", "broken.gguf", "-o", "new"]).expect(3).says(&["broken.gguf"]);
    folder.run(&["pack", "-m", "m.gguf", "-o", "new", "--runtime", "m.gguf"]).expect(1).says(&["is no program"]);
    let names: Vec<_> = fs::read_dir(folder.path("")).expect("the folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(fs::read(folder.path("out")).expect("the file"), b"mine");
}

#[test]
fn a_packed_file_keeps_its_license_and_the_archive_is_one_for_everybody() {
    let folder = Folder::new();
    folder.write("TERMS.txt", "be nice\n");
    let model = demo_model().display().to_string();
    folder.run(&["pack", "-m", &model, "-o", "packed", "--license", "TERMS.txt"]).expect(0);
    for (program, args) in
        [("unzip", vec!["-p", "packed", "TERMS.txt"]), ("python3", vec!["-m", "zipfile", "-t", "packed"])]
    {
        match std::process::Command::new(program).args(&args).current_dir(folder.path("")).output() {
            Ok(output) => {
                assert!(output.status.success(), "{output:?}");
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(text.contains("be nice") || text.contains("Done testing"), "{text}");
                assert!(output.stderr.is_empty(), "{output:?}");
            }
            Err(_) => eprintln!("skipped: {program} is not installed"),
        }
    }
}

#[test]
fn weights_are_quantized_on_their_way_into_the_file() {
    let folder = Folder::new();
    let model = demo_model().display().to_string();
    folder.run(&["pack", "-m", &model, "-o", "packed", "--quantize", "q4_0", "-t", "1"]).expect(0);
    folder.run(&["quantize", &model, "alone.gguf", "Q4_0"]).expect(0);
    folder.run(&["unpack", "packed", "-d", "parts"]).expect(0);
    let inside = fs::read(folder.path("parts/gemma2-demo-Q4_0.gguf")).expect("the weights");
    assert!(inside == fs::read(folder.path("alone.gguf")).expect("the other file"), "the same bytes as `quantize`");
    run(folder.command(&folder.path("packed")).args(["-q", "-p", "Hi", "-n", "4"])).expect(0);
    run(folder.command(&folder.path("packed")).arg("verify")).expect(0);
    folder.run(&["pack", "-m", &model, "-o", "again", "--quantize", "Q4_0", "-t", "2"]).expect(0);
    let [first, second] = ["packed", "again"].map(|name| fs::read(folder.path(name)).expect("a packed file"));
    assert!(first == second, "the same input gives the same bytes on any number of threads");
    let directory = format!("{}/tests/fixtures/golden/models/tiny-c/hf-bf16-sharded", env!("CARGO_MANIFEST_DIR"));
    folder.run(&["pack", "-m", &directory, "-o", "tiny", "--quantize", "Q8_0", "--name", "tiny"]).expect(0);
    assert!(folder.run(&["list", "tiny"]).expect(0).stdout.contains("tiny.gguf"));
    run(folder.command(&folder.path("tiny")).args(["-q", "--raw", "-p", "Hi", "-n", "2"])).expect(0);
    folder.run(&["pack", "-m", &model, "-o", "new", "--quantize", "Q4_X"]).expect(2).says(&["`Q4_X`", "Q4_K_M"]);
}

#[test]
fn a_model_that_cannot_be_quantized_leaves_nothing() {
    let folder = Folder::new();
    let mut bytes = fs::read(demo_model()).expect("the demo model");
    let at = {
        let gguf = gemma2::gguf::Gguf::parse(&bytes[..]).expect("GGUF");
        let tensor = gguf.tensors().iter().find(|t| t.name == "blk.1.ffn_down.weight").expect("a tensor");
        tensor.range.start
    };
    bytes[at..at + 2].copy_from_slice(&0x7e00_u16.to_le_bytes());
    folder.write("in.gguf", bytes);
    let told = folder.run(&["pack", "-m", "in.gguf", "-o", "out", "--quantize", "Q4_0"]).expect(3);
    told.says(&["`blk.1.ffn_down.weight`", "damaged"]);
    assert_eq!(files(&folder), ["in.gguf"]);
}

fn files(folder: &Folder) -> Vec<String> {
    let entries = fs::read_dir(folder.path("")).expect("the folder").flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn an_upgrade_changes_arguments_or_the_program_and_nothing_else() {
    let folder = packed(&["-n", "8", "--temp", "0"]);
    let packed = folder.path("packed");
    let answer = |args: &[&str]| run(folder.command(&packed).args(["-q", "-p", "Hi"]).args(args)).expect(0).stdout;
    let eight = answer(&[]);
    let told = folder.run(&["upgrade", "packed", "--arg=-n", "--arg=1", "--arg=--temp", "--arg=0"]).expect(0);
    assert!(told.stderr.contains("changed in place"), "{}", told.stderr);
    assert_eq!(answer(&[]), answer(&["-n", "1"]));
    assert_eq!(answer(&["-n", "8"]), eight);
    // Other programs see the new members and no second ones.
    for (program, args) in [("unzip", ["-tq", "packed"].as_slice()), ("python3", &["-m", "zipfile", "-t", "packed"])] {
        match std::process::Command::new(program).args(args).current_dir(folder.path("")).output() {
            Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{output:?}"),
            Err(_) => eprintln!("skipped: {program} is not installed"),
        }
    }
    // Another program: the same one, a little longer.
    let mut longer = fs::read(env!("CARGO_BIN_EXE_gemma2")).expect("the program");
    longer.extend([0; 100_000]);
    folder.write("longer", longer);
    folder.run(&["upgrade", "packed", "--runtime", "longer"]).expect(0);
    assert_eq!(answer(&[]), answer(&["-n", "1"]), "arguments stay");
    run(folder.command(&packed).arg("verify")).expect(0);
    folder.run(&["upgrade", "packed", "--no-args"]).expect(0);
    assert!(!folder.run(&["list", "packed"]).expect(0).stdout.contains(".args"));
    let told = folder.run(&["upgrade", "packed"]).expect(0);
    assert!(told.stderr.contains("`packed` has"), "without flags this program is put in front: {}", told.stderr);
    assert!(folder.run(&["upgrade", "packed"]).expect(0).stderr.contains("is so already"));
    folder.run(&["upgrade", "packed", "--arg=--tmp"]).expect(2).says(&["--tmp"]);
    folder.run(&["upgrade", "longer", "--no-args"]).expect(3).says(&["has no archive"]);
    assert_eq!(files(&folder), ["longer", "packed"]);
}

/// A file that runs cannot be written to: it is replaced, and what runs goes on with the old one.
#[test]
#[cfg(target_os = "linux")]
fn a_running_file_upgrades_itself() {
    let folder = packed(&["-n", "8"]);
    let packed = folder.path("packed");
    run(folder.command(&packed).args(["upgrade", "packed", "--arg=-n", "--arg=2"])).expect(0);
    run(folder.command(&packed).arg("verify")).expect(0);
    assert!(folder.run(&["unpack", "packed", "-d", "parts"]).expect(0).stdout.contains(".args"));
    assert_eq!(fs::read_to_string(folder.path("parts/.args")).expect("arguments"), "-n\n2\n");
}

/// Killed at whatever moment: the old file or the new one is there, whole, and nothing else.
#[test]
#[cfg(unix)]
fn a_kill_at_any_moment_leaves_the_old_file_or_the_new_one() {
    let folder = packed(&["-n", "8"]);
    let model = demo_model().display().to_string();
    let whole = |file: &str| folder.run(&["verify", file]).expect(0);
    let mut longer = fs::read(env!("CARGO_BIN_EXE_gemma2")).expect("the program");
    longer.extend([0; 70_000]);
    folder.write("longer", longer);
    let upgrade_program = ["upgrade", "packed", "--runtime", "longer"];
    let upgrade_args = ["upgrade", "packed", "--arg=-n", "--arg=4"];
    let pack = ["pack", "-m", &model, "-o", "packed", "--force", "--runtime", "longer"];
    let pack_new = ["pack", "-m", &model, "-o", "new"];
    for (args, n_kills) in [(&upgrade_program[..], 12), (&upgrade_args, 12), (&pack, 12), (&pack_new, 12)] {
        let start = std::time::Instant::now();
        folder.run(args).expect(0);
        let whole_time = start.elapsed();
        for number in 0..n_kills {
            let _ = fs::remove_file(folder.path("new"));
            folder.run(&["upgrade", "packed", "--arg=-n", "--arg=8"]).expect(0);
            run(folder.program().args(["upgrade", "packed"])).expect(0);
            let mut child = crate::util::spawn(folder.program().args(args));
            let deadline = whole_time * number / n_kills;
            let start = std::time::Instant::now();
            while start.elapsed() < deadline && child.try_wait().expect("a state").is_none() {
                std::thread::yield_now();
            }
            child.kill().expect("a kill");
            child.wait().expect("its end");
            whole("packed");
            if folder.path("new").exists() {
                whole("new");
            }
        }
    }
    let _ = fs::remove_file(folder.path("new"));
    let left: Vec<String> = files(&folder).into_iter().filter(|name| !name.ends_with(".tmp")).collect();
    assert_eq!(left, ["longer", "packed"]);
}
