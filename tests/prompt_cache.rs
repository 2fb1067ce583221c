//! `--prompt-cache`, through the binary.

use crate::util::{Folder, Run, demo_model};

const PROMPT: &str = "Once upon a time there was a lighthouse by the sea, and in it lived an old keeper who";

fn run(folder: &Folder, args: &[&str]) -> Run {
    let usual = ["--raw", "-n", "12", "-s", "5", "--stats", "--prompt-cache", "story.cache"];
    folder.run(&[&usual, args].concat())
}

/// Tokens read and tokens cached, as the statistics say.
fn counts(run: &Run) -> (usize, usize) {
    let line = run.stderr.lines().find(|line| line.starts_with("prefill ")).expect("statistics");
    let words: Vec<&str> = line.split([' ', '(']).collect();
    let cached =
        words.iter().position(|word| *word == "cached)").map_or(0, |at| words[at - 1].parse().expect("a number"));
    (words[1].parse().expect("a number"), cached)
}

#[test]
fn a_second_run_with_the_same_beginning_reads_only_what_is_new() {
    let folder = Folder::new();
    let plain = folder.run(&["--raw", "-n", "12", "-s", "5", "-p", PROMPT]).expect(0);
    let first = run(&folder, &["-p", PROMPT]).expect(0);
    let (n_prompt, n_cached) = counts(&first);
    assert!(n_prompt > 10 && n_cached == 0, "{}", first.stderr);
    assert_eq!(first.stdout, plain.stdout);
    let kept = std::fs::read(folder.path("story.cache")).expect("the file");
    let second = run(&folder, &["-p", PROMPT]).expect(0);
    assert_eq!(counts(&second), (1, n_prompt - 1), "{}", second.stderr);
    assert_eq!(second.stdout, plain.stdout);
    assert_eq!(std::fs::read(folder.path("story.cache")).expect("the file"), kept, "nothing new, nothing written");

    let longer = format!("{PROMPT} walked along the shore");
    let more = run(&folder, &["-p", &longer]).expect(0);
    let (n_read, n_cached) = counts(&more);
    assert!(n_cached >= n_prompt - 2 && n_read < 10, "{}", more.stderr);
    let fresh = folder.run(&["--raw", "-n", "12", "-s", "5", "-p", &longer]).expect(0);
    assert_eq!(more.stdout, fresh.stdout);
    assert_ne!(std::fs::read(folder.path("story.cache")).expect("the file"), kept, "the longer one is kept");
}

#[test]
fn a_prompt_of_another_model_or_a_damaged_one_is_told_and_replaced() {
    let folder = Folder::new();
    let model = demo_model();
    let other = model.with_file_name("../../tests/fixtures/demo/gemma2-demo-q4_k_m.gguf");
    let (model, other) = (model.to_str().expect("a path"), other.to_str().expect("a path"));
    run(&folder, &["-m", model, "-p", PROMPT]).expect(0);
    let foreign = run(&folder, &["-m", other, "-p", PROMPT]).expect(0);
    assert!(foreign.stderr.contains("`story.cache`: this prompt was saved for another model"), "{}", foreign.stderr);
    assert_eq!(counts(&foreign).1, 0);
    assert!(counts(&run(&folder, &["-m", other, "-p", PROMPT]).expect(0)).1 > 0);
    let mut bytes = std::fs::read(folder.path("story.cache")).expect("the file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    folder.write("story.cache", &bytes);
    let damaged = run(&folder, &["-m", other, "-p", PROMPT]).expect(0);
    assert!(damaged.stderr.contains("damaged") && counts(&damaged).1 == 0, "{}", damaged.stderr);
    let whole = run(&folder, &["-m", other, "-p", PROMPT]).expect(0);
    assert_eq!((counts(&whole).0, &whole.stdout), (1, &damaged.stdout));
}

#[test]
fn a_file_of_another_kind_is_left_alone() {
    let folder = Folder::new();
    folder.write("story.cache", "a letter that nobody has a copy of");
    run(&folder, &["-p", PROMPT]).expect(2).says(&["story.cache", "another kind"]);
    assert_eq!(std::fs::read(folder.path("story.cache")).expect("it"), b"a letter that nobody has a copy of");
    folder.write("story.cache", "");
    run(&folder, &["-p", PROMPT]).expect(0);
    assert!(std::fs::metadata(folder.path("story.cache")).expect("it").len() > 100, "an empty one is filled");
}

#[test]
fn a_chat_goes_on_without_reading_it_again() {
    let folder = Folder::new();
    let chat = |typed: &str| {
        let args = ["--chat", "--temp", "0", "-n", "8", "--stats", "--prompt-cache", "chat.cache"];
        folder.run_with_stdin(&args, typed.as_bytes()).expect(0)
    };
    let first = chat("Tell me a long story about an old keeper and his lighthouse by the sea.\n/save chat.json\n");
    assert_eq!(counts(&first).1, 0, "{}", first.stderr);
    let more = chat("/load chat.json\nAnd then?\n");
    let (n_read, n_cached) = counts(&more);
    assert!(n_cached > n_read, "{}", more.stderr);
    let plain = folder.run_with_stdin(&["--chat", "--temp", "0", "-n", "8"], b"/load chat.json\nAnd then?\n").expect(0);
    assert_eq!(more.stdout, plain.stdout);
}

#[test]
fn a_prompt_that_cannot_be_kept_is_answered_all_the_same() {
    let folder = Folder::new();
    let answer = folder.run(&["--raw", "-n", "3", "-p", PROMPT, "--prompt-cache", "no/such/folder/x"]).expect(0);
    assert!(answer.stderr.contains("warning: the prompt cannot be kept in `no/such/folder/x`"), "{}", answer.stderr);
    assert!(!answer.stdout.is_empty());
}
