//! `gemma2 quantize` and `gemma2 perplexity`, through the binary.

use std::path::{Path, PathBuf};

use gemma2::gguf::Gguf;

use crate::util::{Folder, demo_model};

fn sharded_safetensors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/models/tiny-c/hf-bf16-sharded")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn safetensors_become_a_gguf_that_says_and_reads_the_same() {
    let folder = Folder::new();
    let model = sharded_safetensors();
    let out = folder.path("out.gguf");
    folder.run(&["quantize", text(&model), "out.gguf", "bf16", "-q"]).expect(0);
    let answer = |model: &str| {
        let args = ["-m", model, "--raw", "-p", "Hello wörld,\n\n  it is 42!", "--temp", "0", "-n", "12", "--special"];
        folder.run(&args).expect(0).stdout
    };
    assert_eq!(answer(text(&model)), answer(text(&out)), "BF16 weights are the same bits");
    let tokens =
        |model: &str| folder.run(&["tokenize", "-m", model, "<bos>Hello  wörld,\n\n\tit's 42! 🎉"]).expect(0).stdout;
    assert_eq!(tokens(text(&model)), tokens(text(&out)));
    let info = folder.run(&["info", "-m", text(&out)]).expect(0).stdout;
    assert!(info.contains("gguf, BF16"), "{info}");
}

#[test]
fn every_type_gives_a_model_that_runs_and_is_called_so() {
    let folder = Folder::new();
    for name in ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "Q3_K_M", "Q2_K"] {
        folder.run(&["quantize", text(&demo_model()), "out.gguf", name, "--force"]).expect(0);
        let info = folder.run(&["info", "-m", "out.gguf"]).expect(0).stdout;
        assert!(info.contains(&format!("gguf, {name}\n")), "{name}: {info}");
        let answer = folder.run(&["-m", "out.gguf", "-p", "What is the capital of France?", "--temp", "0", "-n", "8"]);
        assert!(!answer.expect(0).stdout.is_empty());
    }
}

#[test]
fn files_that_exist_are_kept_and_nothing_half_made_is_left() {
    let folder = Folder::new();
    let model = folder.write("in.gguf", std::fs::read(demo_model()).expect("the demo model"));
    folder
        .run(&["quantize", "in.gguf", "in.gguf", "Q4_0", "--force"])
        .expect(1)
        .says(&["is a file of the model itself"]);
    folder.write("out.gguf", "mine");
    folder.run(&["quantize", "in.gguf", "out.gguf", "Q4_0"]).expect(1).says(&["exists already", "--force"]);
    assert_eq!(std::fs::read(folder.path("out.gguf")).expect("a file"), b"mine");
    folder.run(&["quantize", "in.gguf", "new.gguf", "Q4_X"]).expect(2).says(&["`Q4_X`", "Q4_K_M"]);
    folder.run(&["quantize", "in.gguf", "no/such/place.gguf", "Q4_0"]).expect(1);

    // A scale that is no number, in the middle of the work.
    let mut bytes = std::fs::read(&model).expect("a file");
    let range = {
        let gguf = Gguf::parse(&bytes[..]).expect("GGUF");
        let tensor = gguf.tensors().iter().find(|t| t.name == "blk.1.ffn_down.weight").expect("a tensor");
        tensor.range.clone()
    };
    let row = 3;
    let at = range.start + row * (range.len() / 256);
    bytes[at..at + 2].copy_from_slice(&0x7e00_u16.to_le_bytes());
    std::fs::write(&model, bytes).expect("a file");
    let run = folder.run(&["quantize", "in.gguf", "new.gguf", "Q4_0"]).expect(3);
    run.says(&["`blk.1.ffn_down.weight`", "row 3", "damaged"]);
    let left = std::fs::read_dir(folder.path(".")).expect("a folder").map(|e| e.expect("an entry").file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, ["in.gguf", "out.gguf"]);
}

#[test]
fn perplexity_is_one_figure_whatever_computes_it() {
    let folder = Folder::new();
    folder.write("text", "The capital of France is Paris. The sky is blue, and two and two are four.\n".repeat(12));
    folder.run(&["quantize", text(&demo_model()), "small.gguf", "Q2_K"]).expect(0);
    let figure = |args: &[&str]| -> f64 {
        let args = [&["perplexity", "-f", "text", "-c", "32"], args].concat();
        let line = folder.run(&args).expect(0).stdout;
        let after = line.split("perplexity ").nth(1).expect("a figure");
        after.split(' ').next().and_then(|n| n.parse().ok()).expect("a number")
    };
    let all = figure(&["-m", text(&demo_model())]);
    assert!(all > 1.0 && all < 2048.0, "better than a guess among all tokens: {all}");
    assert_eq!(all, figure(&["-m", text(&demo_model()), "-t", "1", "--isa", "scalar"]), "the same arithmetic");
    assert_ne!(all, figure(&["-m", "small.gguf"]));
    assert_ne!(all, figure(&["-m", text(&demo_model()), "--chunks", "1"]));
    folder.run(&["perplexity", "-f", "text", "-c", "4096"]).expect(2).says(&["a chunk has", "-c"]);
}
