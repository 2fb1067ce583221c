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
