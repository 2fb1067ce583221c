//! The command line, through the binary and the built-in demo model.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::program::Server;
use crate::util::{Folder, demo_model, finish, run, spawn};

pub const GREEDY: [&str; 5] = ["-q", "--temp", "0", "-n", "8"];

/// What the demo model says to a prompt, in few words.
pub fn answer(folder: &Folder, args: &[&str]) -> String {
    let run = folder.run(&[&GREEDY, args].concat()).expect(0);
    assert_eq!(run.stderr, "");
    run.stdout
}

#[test]
fn a_prompt_is_answered_on_stdout_and_nothing_else_is_there() {
    let folder = Folder::new();
    let run = folder.run(&["-p", "Hi", "--temp", "0", "-n", "8"]).expect(0);
    assert!(!run.stdout.is_empty() && !run.stdout.ends_with('\n'), "{:?}", run.stdout);
    assert!(!run.stdout.contains("start_of_turn"), "{:?}", run.stdout);
    assert!(run.stderr.contains("DEMO MODEL"), "{:?}", run.stderr);
    assert_eq!(answer(&folder, &["-p", "Hi"]), run.stdout);
    assert_eq!(answer(&folder, &["-p", "Hi", "--silent-prompt", "--nologo", "-ngl", "0"]), run.stdout);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let folder = Folder::new();
    let text = |seed: &str, threads: &str| {
        folder.run(&["-q", "-p", "Tell me a story", "-s", seed, "-n", "40", "-t", threads]).expect(0).stdout
    };
    assert_eq!(text("7", "1"), text("7", "1"));
    assert_eq!(text("7", "1"), text("7", "2"));
    let others: Vec<String> = (8..12).map(|seed| text(&seed.to_string(), "1")).collect();
    assert!(others.iter().any(|other| *other != text("7", "1")));
}

#[test]
fn a_rendered_prompt_goes_to_the_model_as_it_is() {
    let folder = Folder::new();
    let rendered = "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n";
    let wrapped = answer(&folder, &["-p", "Hi"]);
    assert_eq!(answer(&folder, &["-p", rendered]), wrapped);
    let escaped = r"<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n";
    assert_eq!(answer(&folder, &["-e", "-p", escaped]), wrapped);
    assert_ne!(answer(&folder, &["--raw", "-p", "Hi"]), wrapped);
    let shown = folder.run(&["-q", "--temp", "0", "--special", "-p", rendered]).expect(0).stdout;
    assert!(shown.ends_with("<end_of_turn>"), "{shown:?}");
}

#[test]
fn the_prompt_is_printed_when_asked_for() {
    let folder = Folder::new();
    let raw = answer(&folder, &["--raw", "-p", "Once upon"]);
    assert_eq!(answer(&folder, &["--raw", "--echo", "-p", "Once upon"]), format!("Once upon{raw}"));
    let echoed = answer(&folder, &["--echo", "--special", "-p", "Hi"]);
    assert!(echoed.starts_with("<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"), "{echoed:?}");
}

#[test]
fn prompts_come_from_files_and_stdin_too() {
    let folder = Folder::new();
    folder.write("prompt.txt", "Hi");
    let expected = answer(&folder, &["-p", "Hi"]);
    assert_eq!(answer(&folder, &["-f", "prompt.txt"]), expected);
    let from_stdin = folder.run_with_stdin(&[&GREEDY[..], &["-f", "-"]].concat(), b"Hi").expect(0);
    assert_eq!(from_stdin.stdout, expected);
    let both = folder.run_with_stdin(&[&GREEDY[..], &["-p", "Say", "-f", "-"]].concat(), b"Hi").expect(0);
    assert_eq!(both.stdout, answer(&folder, &["-p", "Say\n\nHi"]));
    // Without `-f -` stdin is nobody's business.
    assert_eq!(folder.run_with_stdin(&[&GREEDY[..], &["-p", "Hi"]].concat(), b"\xff").expect(0).stdout, expected);
}

#[test]
fn prompts_that_are_no_text_are_told() {
    let folder = Folder::new();
    folder.write("bytes", b"ok\xff");
    folder.run(&["-f", "bytes"]).expect(1).says(&["`bytes` is not UTF-8 text (byte 2)"]);
    folder.run(&["-f", "missing"]).expect(1).says(&["`missing` cannot be read"]);
    folder.run(&["-p", " "]).expect(2).says(&["the prompt is empty"]);
    folder.run_with_stdin(&["-f", "-"], b"").expect(2).says(&["the prompt is empty"]);
}

#[test]
fn a_prompt_that_does_not_fit_names_both_sizes() {
    let folder = Folder::new();
    let prompt = "word ".repeat(600);
    let run = folder.run(&["-p", &prompt]).expect(6).says(&["the context holds 512", "`-c 0`", "2048"]);
    assert_eq!(run.stdout, "");
    folder.run(&["-q", "-c", "0", "-n", "1", "-p", &prompt]).expect(0);
    let longer = "word ".repeat(3000);
    folder.run(&["-c", "0", "-p", &longer]).expect(6).says(&["the context holds 2048"]);
}

#[test]
fn a_context_above_the_model_s_maximum_is_clamped_and_told() {
    let run = Folder::new().run(&["-c", "99999", "-p", "Hi", "-n", "1"]).expect(0);
    assert!(run.stderr.contains("`-c 99999` is more than the model's 2048"), "{}", run.stderr);
}

#[test]
fn the_settings_of_sampling_change_the_text() {
    let folder = Folder::new();
    let text = answer(&folder, &["-p", "Hi"]);
    let (start, _) = text.split_at(text.len() / 2);
    let stopped = answer(&folder, &["-p", "Hi", "-r", &text[start.len()..]]);
    assert_eq!(stopped, start);
    assert_eq!(answer(&folder, &["-p", "Hi", "-n", "0"]), "");
    let first = folder.run(&["tokenize", "--no-bos", &text]).expect(0);
    let id = first.stdout.split_whitespace().next().expect("a token").to_owned();
    assert_ne!(answer(&folder, &["-p", "Hi", "--logit-bias", &format!("{id}-inf")]), text);
    assert_ne!(answer(&folder, &["-p", "Hi", "-sys", "Answer in French. Always."]), text);
    assert!(
        answer(&folder, &["-p", "Hi", "-n", "60", "--ignore-eos"]).len()
            > answer(&folder, &["-p", "Hi", "-n", "60"]).len()
    );
}

#[test]
fn statistics_are_one_line_on_stderr() {
    let run = Folder::new().run(&["-p", "Hi", "-n", "4", "--stats"]).expect(0);
    let last = run.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("prefill ") && last.contains(" · decode 4 tok "), "{last:?}");
}

/// Under a pseudo-terminal, which `script` gives where it is installed.
#[test]
#[cfg(target_os = "linux")]
fn on_a_terminal_the_answer_is_whole_and_ends_its_line() {
    let folder = Folder::new();
    let expected = answer(&folder, &["-p", "Hi"]);
    let program = env!("CARGO_BIN_EXE_gemma2");
    let line = format!("'{program}' {} -p Hi --stats", GREEDY[1..].join(" "));
    let mut script = folder.command(std::path::Path::new("script"));
    let Ok(output) = script.args(["-qec", &line, "/dev/null"]).output() else {
        eprintln!("skipped: `script` is not installed");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(text.contains(&format!("\n{expected}\nprefill ")), "{text:?}");
    assert!(output.status.success());
}

#[test]
fn mistakes_on_the_command_line_are_explained() {
    let folder = Folder::new();
    folder.run(&["--tmp", "1"]).expect(2).says(&["--tmp", "did you mean `--temp`"]);
    folder.run(&["packs"]).expect(2).says(&["packs", "did you mean `pack`"]);
    folder.run(&["What is Rust?"]).expect(2).says(&["`What is Rust?` is no tool", "-p"]);
    folder.run(&["gemma-2.gguf"]).expect(2).says(&["`gemma2 -m gemma-2.gguf`"]);
    folder.run(&["bench", "-fa", "1"]).expect(2).says(&["`-fa` is no flag of this tool"]);
    folder
        .run(&["-hf", "google/gemma-2-2b-it"])
        .expect(2)
        .says(&["`-hf google/gemma-2-2b-it`: this program downloads"]);
    folder.run(&["--chat", "-p", "x"]).expect(2).says(&["`-sys TEXT` gives it instructions"]);
    folder.run(&["--temp", "warm"]).expect(2).says(&["warm", "--temp", "it is no number"]);
    folder.run(&["--port", "-1"]).expect(2).says(&["`-1` for `--port <N>`"]);
    folder.run(&["--port", "99999"]).expect(2).says(&["99999 is not in 0..=65535"]);
    folder.run(&["-p", "x", "--port", "1"]).expect(2).says(&["`--port` is for the server"]);
    folder.run(&["--gpu", "intel"]).expect(2).says(&["intel", "auto, disable"]);
    folder.run(&["--isa", "z80"]).expect(2).says(&["z80", "scalar"]);
}

#[test]
fn recipes_for_llamafile_work_as_they_are_written() {
    let folder = Folder::new();
    let expected = answer(&folder, &["-p", "Hi"]);
    let text = |args: &[&str]| folder.run(&[&["--temp", "0", "-n", "8"], args].concat()).expect(0).stdout;
    assert_eq!(
        text(&["--cli", "-p", "Hi", "-ngl", "999", "-fa", "on", "--log-disable", "--no-display-prompt"]),
        expected
    );
    assert_eq!(
        text(&["-cnv", "-st", "-p", "Hi", "-t", "1", "-tb", "2", "-b", "64", "-ub", "32", "--no-warmup"]),
        expected
    );
    assert_eq!(text(&["-no-cnv", "-p", "Once upon"]), answer(&folder, &["--raw", "-p", "Once upon"]));
    let piped = folder.run_with_stdin(&[&GREEDY[..], &["-f", "/dev/stdin", "-c", "0", "--simple-io"]].concat(), b"Hi");
    assert_eq!(piped.expect(0).stdout, expected);
    let prompt = r"<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n";
    assert_eq!(text(&["-e", "-p", prompt, "-r", r"```\n", "--silent-prompt"]), expected);
    folder.write("system.txt", "Answer in French. Always.\n");
    let system = answer(&folder, &["-p", "Hi", "-sys", "Answer in French. Always."]);
    assert_eq!(text(&["-p", "Hi", "-sysf", "system.txt"]), system);
    let noted = folder.run(&["-p", "Hi", "-n", "1", "--prio", "2", "-fa", "off"]).expect(0).stderr;
    assert!(noted.contains("note: `--prio 2` changes nothing: ") && noted.contains("note: `-fa off`"), "{noted}");
    folder.run(&["-p", "Hi", "--mirostat", "2"]).expect(2).says(&["`--mirostat 2`", "`--min-p`"]);
    folder.run(&["--cli"]).expect(2).says(&["`--cli` needs a prompt"]);
    assert_eq!(text(&["--unsecure", "-p", "Hi"]), expected, "there is no sandbox outside a server");
    assert_eq!(text(&["--no-penalize-nl", "--tfs", "1", "-p", "Hi"]), expected);
    folder.run(&["--server", "-p", "Hi"]).expect(2).says(&["requests to a server bring their own prompts"]);
    folder
        .run(&["--listen", "0.0.0.0:8080"])
        .expect(2)
        .says(&["`--listen 0.0.0.0:8080`: the server's address", "`--host HOST --port PORT`"]);
    assert!(folder.run(&["help", "llamafile"]).expect(0).stdout.contains("\n-fa --flash-attn\n"));
}

#[test]
fn with_vv_the_exact_prompt_and_the_settings_are_told() {
    let run = Folder::new().run(&["-p", "Hi", "-n", "1", "-vv", "--top-k", "7"]).expect(0);
    for says in
        ["<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "top-k 7", "decode 1 tok", "weights  "]
    {
        assert!(run.stderr.contains(says), "{says}: {}", run.stderr);
    }
}

#[test]
fn a_cut_answer_that_had_a_form_to_keep_is_told() {
    let folder = Folder::new();
    let letters = ["-p", "Hi", "--temp", "0", "--grammar", "root ::= [a-z]{40}"];
    let cut = folder.run(&[&letters[..], &["-n", "2"]].concat()).expect(0);
    assert!(
        cut.stderr.contains("warning: `-n` has cut the answer") && cut.stderr.contains("`--grammar`"),
        "{}",
        cut.stderr
    );
    let whole = folder.run(&["-p", "Hi", "--grammar", "root ::= \"yes\"", "-n", "20"]).expect(0);
    assert!(!whole.stderr.contains("warning"), "{}", whole.stderr);
}

#[test]
fn a_wish_for_a_gpu_is_a_warning() {
    let run = Folder::new().run(&["-p", "Hi", "-n", "1", "-ngl", "999"]).expect(0);
    assert!(run.stderr.contains("warning: `-ngl`"), "{}", run.stderr);
}

#[test]
fn help_and_version_are_results() {
    let folder = Folder::new();
    for flag in ["--help", "-h"] {
        let run = folder.run(&[flag]).expect(0);
        assert!(run.stdout.starts_with("gemma2: ") && run.stderr.is_empty());
    }
    assert!(folder.run(&["--help-all"]).expect(0).stdout.contains("--presence-penalty"));
    assert!(folder.run(&["pack", "--help"]).expect(0).stdout.contains("--license"));
    assert!(folder.run(&["--version"]).expect(0).stdout.starts_with(concat!("gemma2 ", env!("CARGO_PKG_VERSION"))));
    assert!(folder.run(&["completions", "bash"]).expect(0).stdout.contains("--top-k"));
    let fish = folder.run(&["completions", "fish"]).expect(0).stdout;
    assert!(fish.contains("    set -e cmd[1]\n    string match -q -- '-*'"), "{fish}");
}

#[test]
fn help_has_topics() {
    let folder = Folder::new();
    assert_eq!(folder.run(&["help"]).expect(0).stdout, folder.run(&["--help"]).expect(0).stdout);
    assert!(folder.run(&["help", "sampling"]).expect(0).stdout.contains("--top-k"));
    assert!(folder.run(&["help", "pack"]).expect(0).stdout.contains("--license"));
    assert!(folder.run(&["help", "man"]).expect(0).stdout.starts_with(".TH GEMMA2 1"));
    folder.run(&["help", "smapling"]).expect(2).says(&["did you mean `gemma2 help sampling`?"]);
}

#[test]
fn the_doctor_finds_this_machine_well() {
    let run = Folder::new().run(&["doctor", "--seconds", "0"]).expect(0);
    assert!(run.stdout.lines().all(|line| line.starts_with("ok ") || line.starts_with("advice ")), "{}", run.stdout);
    for check in ["known answers, scalar", "<bos>", "chat template", "soft caps", "sliding window"] {
        assert!(run.stdout.contains(check), "{check}: {}", run.stdout);
    }
}

#[test]
fn info_tells_what_a_model_needs() {
    let folder = Folder::new();
    let info = |n_ctx: &str| folder.run(&["info", "-c", n_ctx]).expect(0).stdout;
    let memory = |text: &str| text.lines().find(|line| line.starts_with("memory ")).map(str::to_owned);
    let (small, whole) = (info("512"), info("0"));
    assert!(small.contains("context       512 of 2048") && whole.contains("context       2048 of 2048"), "{small}");
    assert_ne!(memory(&small), memory(&whole));
    assert!(small.contains("device        CPU") && small.contains("GPU           none"), "{small}");
}

#[test]
fn presets_and_modes_print_the_flags_they_stand_for() {
    let folder = Folder::new();
    let run = folder.run(&["-p", "Hi", "-n", "8", "--mode", "factual", "--preset", "memory", "-c", "256"]).expect(0);
    assert!(run.stderr.contains("mode     factual: --temp 0\n"), "{}", run.stderr);
    assert!(
        run.stderr.contains("preset   memory: --dtype bf16 -c 512 -ub 64 -ctk q8_0 -ctv q8_0 --no-repack\n"),
        "{}",
        run.stderr
    );
    assert_eq!(run.stdout, answer(&folder, &["-p", "Hi", "-ctk", "q8_0", "-ctv", "q8_0"]));
    folder.run(&["-p", "Hi", "--preset", "fast"]).expect(2).says(&["auto, exact, speed, memory"]);
}

#[test]
fn safetensors_can_be_taken_as_another_type() {
    let folder = Folder::new();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden/models/tiny-c/hf-bf16-sharded");
    let text = |more: &[&str]| answer(&folder, &[&["-m", model, "--raw", "-p", "Hello"], more].concat());
    // Nothing is lost from BF16 to F32, and products are made in F32 anyway.
    assert_eq!(text(&["--dtype", "f32"]), text(&[]));
    assert_eq!(text(&["--dtype", "bf16"]), text(&[]));
    folder.run(&["-p", "Hi", "--dtype", "f32"]).expect(2).says(&["`--dtype` is for safetensors", "gemma2 quantize"]);
}

#[test]
fn models_that_are_none_are_explained() {
    let folder = Folder::new();
    folder.write("gemma-2-2b-it-Q6_K.gguf", "GGUF");
    folder.write("text.gguf", "This is no model, but it is long enough to look like a file.");
    folder.run(&["-m", "gemma-2-2b-Q6_K.gguf", "-p", "x"]).expect(3).says(&["gemma-2-2b-it-Q6_K.gguf"]);
    folder.run(&["-m", "gemma-2-2b-it-Q6_K.gguf", "-p", "x"]).expect(3).says(&["gemma-2-2b-it-Q6_K.gguf"]);
    folder.run(&["-m", "text.gguf", "-p", "x"]).expect(3).says(&["text.gguf"]);
    std::fs::write(folder.path("empty.zip"), b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0").expect("a file");
    folder.run(&["-m", "empty.zip", "-p", "x"]).expect(3).says(&["empty.zip"]);
    folder.run(&["-m", ".", "-p", "x"]).expect(3).says(&["gemma-2-2b-it-Q6_K.gguf"]);
    let mut cut = std::fs::read(demo_model()).expect("the demo model");
    cut.truncate(1_500_000);
    folder.write("cut.gguf", cut);
    folder.run(&["-m", "cut.gguf", "-p", "x"]).expect(3).says(&["cut.gguf"]);
}

#[test]
fn weights_are_found_by_variable_and_beside_the_program() {
    let folder = Folder::new();
    let program = folder.install("gemma2-here");
    let file_of = |run: crate::util::Run| {
        let line = run.expect(0).stdout.lines().find(|line| line.starts_with("file ")).map(str::to_owned);
        line.unwrap_or_default()
    };
    assert!(file_of(run(folder.command(&program).arg("info"))).ends_with("gemma2-demo-q8_0.gguf"));
    std::fs::copy(demo_model(), folder.path("beside.gguf")).expect("a copy");
    assert!(file_of(run(folder.command(&program).arg("info"))).ends_with("beside.gguf"));
    let variable = folder.path("variable.gguf");
    std::fs::copy(demo_model(), &variable).expect("a copy");
    run(folder.command(&program).arg("info")).expect(3).says(&[
        "  1  beside.gguf\n  2  variable.gguf\n",
        &format!("gemma2 -m {}", folder.path("beside.gguf").display()),
    ]);
    let found = run(folder.command(&program).arg("info").env("GEMMA2_MODEL", &variable));
    assert!(file_of(found).ends_with("variable.gguf"));
}

#[test]
fn weights_can_be_read_into_memory() {
    let folder = Folder::new();
    let text = answer(&folder, &["-p", "Hi"]);
    assert_eq!(answer(&folder, &["-p", "Hi", "--no-mmap"]), text);
    assert_eq!(answer(&folder, &["-p", "Hi", "--repack"]), text);
    // Locking may be more than this user may; then it is said, and the text is the same.
    let locked = folder.run(&["-p", "Hi", "--temp", "0", "-n", "8", "--mlock"]).expect(0);
    assert_eq!(locked.stdout, text);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = Folder::new();
    let mut child = spawn(folder.program().args(["-q", "-c", "0", "-n", "-2", "-p", "Hi"]));
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut [0; 4]).expect("a little text");
    drop(stdout);
    let run = finish(child);
    assert_eq!((run.status, run.stderr.as_str()), (Some(141), ""));
}

#[test]
#[cfg(unix)]
fn ctrl_c_keeps_the_text_so_far() {
    let folder = Folder::new();
    let mut child = spawn(folder.program().args(["-q", "-c", "0", "-n", "-2", "-p", "Hi"]));
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut [0; 4]).expect("a little text");
    crate::util::signal(&child, "INT");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("whole characters");
    let run = finish(child);
    assert_eq!((run.status, run.stderr.as_str()), (Some(130), ""));
}

/// A server on a free port, and its URL.
#[cfg(unix)]
fn serve(folder: &Folder, args: &[&str]) -> (std::process::Child, String) {
    let mut child = spawn(folder.program().args(["--server", "--port", "0"]).args(args));
    let mut url = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
    stdout.read_line(&mut url).expect("the URL");
    child.stdout = Some(stdout.into_inner());
    (child, url.trim().to_owned())
}

#[cfg(unix)]
fn get(url: &str, path: &str, header: &str) -> String {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).expect("the server");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{header}Connection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
#[cfg(unix)]
fn a_server_prints_its_url_answers_and_stops_when_told() {
    let folder = Folder::new();
    let (child, url) = serve(&folder, &["--api-key", "secret", "--temp", "0.25", "--alias", "my-gemma"]);
    assert!(url.starts_with("http://127.0.0.1:") && url.ends_with('/'), "{url}");
    let health = get(&url, "/health", "");
    assert!(health.contains("200 OK") && health.contains("my-gemma"), "{health}");
    assert!(get(&url, "/v1/models", "").contains("401"));
    assert!(get(&url, "/v1/models", "Authorization: Bearer secret\r\n").contains("my-gemma"));
    assert!(get(&url, "/props", "Authorization: Bearer secret\r\n").contains("0.25"));
    crate::util::signal(&child, "TERM");
    let run = finish(child).expect(0);
    assert_eq!(run.stdout, "", "the URL is the only line");
    assert!(run.stderr.contains("model    gemma2-demo") && run.stderr.ends_with("stopped\n"), "{}", run.stderr);
}

#[test]
#[cfg(unix)]
fn a_port_that_is_taken_is_an_error() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its number").port().to_string();
    folder.run(&["--server", "--port", &port]).expect(4).says(&[&port, "is in use", "--port"]);
    folder.run(&["--server", "--host", "192.0.2.1", "--port", "0"]).expect(4).says(&["192.0.2.1"]);
}

#[test]
fn the_tokens_of_a_text_are_listed() {
    let folder = Folder::new();
    let parsed = folder.run(&["tokenize", "<end_of_turn>"]).expect(0).stdout;
    let lines: Vec<&str> = parsed.lines().map(str::trim).collect();
    assert_eq!(lines, ["2  \"<bos>\"", "107  \"<end_of_turn>\""]);
    let literal = folder.run_with_stdin(&["tokenize", "--literal", "--no-bos"], b"<end_of_turn>").expect(0).stdout;
    assert!(literal.lines().count() > 3, "{literal}");
}

#[test]
fn a_folder_for_slots_that_is_not_there_is_told_before_anything_is_loaded() {
    let folder = Folder::new();
    folder.write("file", "x");
    for (path, words) in [("absent", "`--slot-save-path absent`"), ("file", "is not a folder")] {
        folder.run(&["--server", "--port", "0", "--slot-save-path", path]).expect(2).says(&[words]);
    }
    folder.run(&["-p", "Hi", "--slot-save-path", "."]).expect(2).says(&["--slot-save-path", "for the server"]);
}

#[test]
fn answers_follow_a_grammar_or_a_schema() {
    let folder = Folder::new();
    let yes_no = r#"root ::= "yes" | "no""#;
    let said = answer(&folder, &["-p", "Hi", "--grammar", yes_no]);
    assert!(said == "yes" || said == "no", "{said:?}");
    folder.write("yes.gbnf", yes_no);
    assert_eq!(answer(&folder, &["-p", "Hi", "--grammar-file", "yes.gbnf"]), said);
    assert_eq!(answer(&folder, &["-p", "Hi", "--regex", "(yes|no)"]), said);
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 5}},
        "required": ["n"], "additionalProperties": false}"#;
    folder.write("schema.json", schema);
    let line = ["-q", "-p", "A number", "-n", "300", "-s", "3"];
    for flags in
        [["-j", schema], ["--json-schema", schema], ["-jf", "schema.json"], ["--json-schema-file", "schema.json"]]
    {
        let text = folder.run(&[&line[..], &flags].concat()).expect(0).stdout;
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(value["n"].as_u64().is_some_and(|n| (1..=5).contains(&n)), "{text}");
    }
    let chat = folder.run_with_stdin(&["-q", "--chat", "--grammar", yes_no], b"Hi\nAnd now?\n").expect(0).stdout;
    assert!(chat.lines().count() == 2 && chat.lines().all(|line| line == "yes" || line == "no"), "{chat:?}");
}

#[test]
fn grammars_that_cannot_be_used_are_usage_errors_before_the_model_is_asked() {
    let folder = Folder::new();
    let run = |flags: &[&str]| folder.run(&[&["-p", "Hi"], flags].concat());
    run(&["--grammar", "root ::= \"a\"\nb"]).expect(2).says(&["`--grammar` cannot be used: line 2, column 2", "hint:"]);
    run(&["--regex", "(a"]).expect(2).says(&["`--regex` cannot be used", "hint:"]);
    run(&["--regex", "a", "-j", "{}"]).expect(2).says(&["--regex", "--json-schema"]);
    run(&["-j", "{"]).expect(2).says(&["`--json-schema` is not JSON", "hint:"]);
    run(&["-j", "{\"type\": \"thing\"}"]).expect(2).says(&["`--json-schema` cannot be used", "hint:"]);
    run(&["--grammar-file", "nowhere.gbnf"]).expect(1).says(&["`nowhere.gbnf` cannot be read"]);
    run(&["-j", "{}", "--grammar", "root ::= \"a\""]).expect(2).says(&["--json-schema", "--grammar"]);
    folder.run(&["--server", "-j", "{}"]).expect(2).says(&["`-j` needs a prompt"]);
}

#[test]
fn a_server_has_the_name_and_the_usual_length_of_replies_that_its_flags_say() {
    let server = Server::start("0", &["--alias", "gpt-4o-mini", "-n", "3", "--metrics", "--context-shift"]);
    let get = |path: &str| serde_json::from_str::<Value>(&server.get(path)).expect("JSON");
    assert_eq!(get("/v1/models")["data"][0]["id"], "gpt-4o-mini");
    assert_eq!(get("/props")["default_generation_settings"]["params"]["n_predict"], 3);
    for (asked, expected) in [("", 3), (r#","n_predict":2"#, 2), (r#","n_predict":9"#, 9)] {
        let body = format!(r#"{{"prompt":"Hi","ignore_eos":true{asked}}}"#);
        let mut stream = server.send("POST", "/completion", "", &body);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
        assert_eq!((&body["model"], &body["tokens_predicted"]), (&json!("gpt-4o-mini"), &json!(expected)), "{asked}");
    }
    let folder = Folder::new();
    folder.run(&["--server", "-n", "-2"]).expect(2).says(&["`-n -2` needs a prompt"]);
    folder.run(&["--server", "--alias", "two words"]).expect(2).says(&["`--alias` takes"]);
}

/// Elsewhere there is one address of the loopback.
#[cfg(target_os = "linux")]
#[test]
fn a_server_on_several_addresses_shows_what_its_flags_leave() {
    let flags = ["--host", "127.0.0.1,127.0.0.2", "--no-slots", "--no-webui", "-a", "b,a", "--tags", "x"];
    let mut server = Server::start("0", &flags);
    let models: Value = serde_json::from_str(&server.get("/v1/models")).expect("JSON");
    let model = &models["data"][0];
    assert_eq!((&model["id"], &model["aliases"], &model["tags"]), (&json!("a"), &json!(["a", "b"]), &json!(["x"])));
    assert!(server.get("/slots").contains("--no-slots"));
    let first = server.address.clone();
    let port = first.rsplit(':').next().expect("a port");
    server.address = format!("127.0.0.2:{port}");
    assert!(server.get("/health").contains("\"ok\""));
    assert!(server.get("/").contains("only its APIs"));
    let folder = Folder::new();
    folder.run(&["--server", "--host", "127.0.0.1,192.0.2.1", "--port", "0"]).expect(4).says(&["192.0.2.1"]);
    folder.run(&["--server", "--pooling", "often"]).expect(2).says(&["--pooling"]);
    folder.run(&["--server", "--tags", "a,,b"]).expect(2).says(&["`--tags` takes"]);
}
