//! The flags, through the binary.

use std::process::Command;

use crate::util::{Folder, run};
use crate::{VENDOR, emulator};

/// The program where the emulated driver is the system's.
fn program(folder: &Folder) -> Command {
    let mut command = folder.program();
    command.env("LD_LIBRARY_PATH", emulator());
    command
}

const GREEDY: [&str; 6] = ["-p", "What is 7 + 8?", "--temp", "0", "-n", "8"];

#[test]
fn a_reply_is_the_same_wherever_the_layers_are_and_v_tells_where() {
    let folder = Folder::new();
    let on_cpu = folder.run(&GREEDY).expect(0).stdout;
    for (n, told) in [
        ("999", "layers and the output head on emulated GPU"),
        ("3", "2 of"),
        ("1", "GPU      the output head on emulated GPU"),
    ] {
        let on_gpu = run(program(&folder).args(GREEDY).args(["-v", "-ngl", n])).expect(0);
        assert_eq!(on_gpu.stdout, on_cpu, "-ngl {n}");
        assert!(on_gpu.stderr.contains(told), "{}", on_gpu.stderr);
    }
    let named = run(program(&folder).args(GREEDY).args(["-v", "--gpu", VENDOR.name])).expect(0);
    assert!(named.stdout == on_cpu && named.stderr.contains("output head on emulated GPU"), "{}", named.stderr);
    for off in [&["--gpu", "disable", "-ngl", "9"][..], &[]] {
        let told = run(program(&folder).args(GREEDY).arg("-v").args(off)).expect(0).stderr;
        assert!(!told.contains("emulated GPU"), "{told}");
    }
}

#[test]
fn what_does_not_fit_stays_on_the_cpu_and_is_told() {
    let folder = Folder::new();
    let on_cpu = folder.run(&GREEDY).expect(0).stdout;
    let with_memory = |bytes: f64| -> String {
        let mut command = program(&folder);
        command.env("EMULATED_GPU_MEMORY", format!("{bytes:.0}"));
        let run = run(command.args(GREEDY).args(["-ngl", "999"])).expect(0);
        assert_eq!(run.stdout, on_cpu, "{bytes} bytes");
        run.stderr.lines().find(|line| line.contains("`-ngl`")).unwrap_or_default().to_owned()
    };
    let nothing = with_memory(64e6);
    let (_, reserve) = nothing.split_once("nothing of the model is put on emulated GPU").expect(&nothing);
    let reserve = reserve.split("may need ").nth(1).and_then(|text| text.strip_suffix(" MB")).expect(&nothing);
    let reserve = reserve.parse::<f64>().expect(&nothing) * 1e6;
    // The weights alone are 3 MB.
    let some = with_memory(reserve + 2e6);
    assert!(
        some.contains("layers and the output head on emulated GPU") && some.contains("the CPU computes the rest"),
        "{some}"
    );
    assert_eq!(with_memory(1e9), "");
}

#[test]
fn without_a_gpu_it_goes_on_with_the_cpu_and_says_why() {
    let folder = Folder::new();
    let on_cpu = folder.run(&GREEDY).expect(0).stdout;
    // No library of that name that can be loaded, a driver without a device, and one that is broken.
    let nowhere = folder.write(VENDOR.library, "no library");
    let mut absent = folder.program();
    absent.env("LD_LIBRARY_PATH", nowhere.parent().expect("a folder"));
    let mut empty = program(&folder);
    empty.env("EMULATED_GPU_ABSENT", "1");
    let mut broken = program(&folder);
    broken.env("EMULATED_GPU_BROKEN", "1");
    for (mut command, why) in [absent, empty, broken].into_iter().zip(VENDOR.failures) {
        let run_without = run(command.args(GREEDY).args(["-ngl", "999"])).expect(0);
        assert_eq!(run_without.stdout, on_cpu);
        let expected = format!("`-ngl`: {why}; going on with the CPU");
        assert_eq!(
            run_without.stderr.lines().filter(|line| line.contains(&expected)).count(),
            1,
            "{}",
            run_without.stderr
        );
        // Who names a GPU wants it.
        let refusal = format!("`--gpu {}` is not possible", VENDOR.name);
        run(command.args(["--gpu", VENDOR.name])).expect(2).says(&[&refusal, why]);
    }
    let refusal = format!("`--gpu {}` is not possible", VENDOR.other);
    run(program(&folder).args(GREEDY).args(["--gpu", VENDOR.other])).expect(2).says(&[&refusal, "no code for"]);
}

#[test]
fn info_lists_devices_and_bench_measures_them() {
    let folder = Folder::new();
    let info = run(program(&folder).arg("info")).expect(0).stdout;
    let device = format!("GPU           emulated GPU (4.29 GB, {})", VENDOR.generation);
    assert!(info.contains(&device), "{info}");
    let rows = |args: &[&str]| -> Vec<serde_json::Value> {
        let all = ["bench", "-p", "9", "-n", "4", "-r", "1", "-o", "json"];
        let mut command = program(&folder);
        serde_json::from_str(&run(command.args(all).args(args)).expect(0).stdout).expect("JSON")
    };
    let (on_gpu, on_cpu) = (rows(&["-ngl", "999"]), rows(&[]));
    for (on_gpu, on_cpu) in on_gpu.iter().zip(&on_cpu) {
        assert_eq!((&on_gpu["gpu_info"], &on_cpu["gpu_info"]), (&"emulated GPU".into(), &serde_json::Value::Null));
        assert_eq!(on_gpu["read_bandwidth"], on_gpu["gpu_copy_bandwidth"]);
        assert_eq!(on_gpu["logits_hash"], on_cpu["logits_hash"], "equal arithmetic");
        assert_eq!(on_gpu["token_hash"], on_cpu["token_hash"]);
    }
}

#[cfg(gpu = "cuda")]
#[test]
fn devices_without_matrix_units_have_the_cpu_s_bits_in_every_format() {
    let folder = Folder::new();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden/models");
    for model in ["tiny-a/gguf/tiny-a.MIX.gguf", "tiny-c/hf-bf16-sharded"] {
        let hashes = |mut command: Command, more: &[&str]| -> Vec<String> {
            let model = format!("{root}/{model}");
            command.args(["bench", "-p", "20", "-n", "4", "-r", "1", "-o", "json", "-m", &model]).args(more);
            let rows: Vec<serde_json::Value> = serde_json::from_str(&run(&mut command).expect(0).stdout).expect("JSON");
            rows.iter().map(|row| row["logits_hash"].to_string()).collect()
        };
        let mut old = program(&folder);
        old.env("EMULATED_GPU_MAJOR", "7");
        assert_eq!(hashes(old, &["--gpu", "nvidia"]), hashes(folder.program(), &[]), "{model}");
    }
}

#[test]
fn what_a_prompt_left_in_its_file_is_read_by_gpu_and_cpu_alike() {
    let folder = Folder::new();
    let on_cpu = folder.run(&GREEDY).expect(0).stdout;
    for (first, then) in [("999", "0"), ("0", "999")] {
        let file = folder.path(&format!("prompt-{first}"));
        let file = file.to_str().expect("a path");
        for n in [first, then] {
            let found = run(program(&folder).args(GREEDY).args(["-v", "--prompt-cache", file, "-ngl", n])).expect(0);
            assert_eq!(found.stdout, on_cpu, "-ngl {n} after {first}");
            assert_eq!(found.stderr.contains(" tokens of `"), n == then, "{}", found.stderr);
        }
    }
}

/// What the emulated device counts, by name, over a whole run.
#[cfg(gpu = "cuda")]
fn counts(stderr: &str) -> std::collections::HashMap<String, i64> {
    let line = stderr.lines().find_map(|line| line.strip_prefix("emulated GPU: ")).expect(stderr);
    let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty() && *word != "of").collect();
    let pair = |pair: &[&str]| (pair[1].to_owned(), pair[0].parse().expect("a number"));
    // "2 replays of 9 launches": those are told apart from the launches that were not recorded.
    let (direct, rest) = words.split_at(2);
    rest.chunks(2).map(pair).chain([("direct".to_owned(), direct[0].parse().expect("a number"))]).collect()
}

#[cfg(gpu = "cuda")]
#[test]
fn a_token_is_one_recording_two_uploads_and_one_download() {
    let folder = Folder::new();
    let run_for = |n: &str| {
        let mut command = program(&folder);
        command.env("EMULATED_GPU_COUNTS", "1");
        let args = ["-p", "Say nothing", "--temp", "0", "--ignore-eos", "--lookup", "0", "-ngl", "999", "-n", n];
        counts(&run(command.args(args)).expect(0).stderr)
    };
    let (few, many) = (run_for("4"), run_for("9"));
    let more = |name: &str| many[name] - few[name];
    assert_eq!(few["recordings"], 1);
    assert_eq!((more("direct"), more("recordings"), more("replays")), (0, 0, 5));
    // The device is waited for where something is downloaded, and where memory is given back, which an end may cut short.
    assert_eq!((more("uploads"), more("downloads"), more("copies")), (10, 5, 0));
    // Nine kernels in each of four layers, and three for the logits.
    assert_eq!(more("launches"), 5 * (9 * 4 + 3));
}
