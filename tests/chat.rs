//! `--chat` through pipes: one line a turn, only replies on stdout.

use serde_json::Value;

use crate::cli::answer;
use crate::util::{Folder, Run};

/// A chat of these lines, with short replies that are always the same.
fn chat(folder: &Folder, lines: &str) -> Run {
    folder.run_with_stdin(&["-q", "--chat", "--temp", "0", "-n", "8"], lines.as_bytes()).expect(0)
}

fn page_chat() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chat/page.json")
}

#[test]
fn a_piped_chat_answers_line_by_line() {
    let folder = Folder::new();
    let one = answer(&folder, &["-p", "Hi"]);
    assert_eq!(chat(&folder, "Hi\n").stdout, format!("{one}\n"));
    let run = chat(&folder, "Hi\n/clear\nHi\n/exit\nnever\n");
    assert_eq!((run.stdout, run.stderr.as_str()), (format!("{one}\n{one}\n"), ""));
    let unknown = chat(&folder, "/nonsense\n/regenerate\n");
    assert!(unknown.stdout.is_empty(), "{unknown:?}");
    assert!(unknown.stderr.contains("`/nonsense` is no command") && unknown.stderr.contains("did you mean /regen?"));
}

#[test]
fn a_chat_that_outgrows_the_context_says_what_it_leaves_out() {
    let folder = Folder::new();
    let long = "word ".repeat(60);
    let lines = format!("{long}\n{long}\n{long}\n");
    let run = folder.run_with_stdin(&["--chat", "-c", "128", "-n", "4"], lines.as_bytes()).expect(0);
    assert!(run.stderr.contains("left out"), "{}", run.stderr);
    assert_eq!(run.stdout.lines().count(), 3, "{}", run.stdout);
    let too_long = folder.run_with_stdin(&["--chat", "-c", "64", "-n", "4"], lines.as_bytes()).expect(0);
    assert!(too_long.stderr.contains("the context holds 64") && too_long.stdout.is_empty(), "{too_long:?}");
}

#[test]
fn replies_are_regenerated_edited_taken_back_and_continued() {
    let folder = Folder::new();
    let one = answer(&folder, &["-p", "Hi"]);
    // Greedy: an alternative says the same, and an edited message is asked alone.
    assert_eq!(
        chat(&folder, "Hello\n/undo\nHi\n/regen\n").stdout.lines().skip(1).collect::<Vec<_>>().join("\n"),
        format!("{one}\n{one}")
    );
    assert!(chat(&folder, "Hello\n/edit Hi\n").stdout.ends_with(&format!("\n{one}\n")));
    // Eight tokens and the next eight are sixteen at once.
    let sixteen = folder.run(&["-q", "--temp", "0", "-n", "16", "-p", "Hi"]).expect(0).stdout;
    let run = chat(&folder, "Hi\n/continue\n/save a.json\n");
    assert_eq!(run.stdout, format!("{one}\n{}\n", &sixteen[one.len()..]));
    let saved = saved(&folder, "a.json");
    assert_eq!(saved["chats"][0]["messages"][1]["content"], sixteen);
    for (line, says) in
        [("/regen", "no reply"), ("/undo", "nothing to take back"), ("/continue", "no reply"), ("/edit", "no message")]
    {
        let run = chat(&folder, &format!("{line}\n"));
        assert!(run.stderr.contains(says) && run.stdout.is_empty(), "{line}: {run:?}");
    }
}

#[test]
fn a_fixed_seed_gives_the_same_session_and_other_alternatives() {
    let folder = Folder::new();
    let run = |lines: &str| {
        let args = ["-q", "--chat", "-n", "12", "--temp", "2"];
        folder.run_with_stdin(&args, lines.as_bytes()).expect(0).stdout
    };
    let lines = "/seed 5\nTell me a story\n/regen\n/regen\n";
    let texts = run(lines);
    assert_eq!(run(lines), texts);
    let replies: std::collections::HashSet<&str> = texts.lines().collect();
    assert!(replies.len() > 1, "{texts}");
}

#[test]
fn settings_and_instructions_change_what_follows() {
    let folder = Folder::new();
    let run = chat(
        &folder,
        "/system Answer in French. Always.\nHi\n/system\n/system off\n/prompt\n/set\n/set tmp 1\n/set n-predict 2\n/stats\n",
    );
    assert_eq!(run.stdout, format!("{}\n", answer(&folder, &["-p", "Hi", "-sys", "Answer in French. Always."])));
    assert!(run.stderr.contains("Answer in French. Always.\n"), "{}", run.stderr);
    assert!(
        run.stderr.contains("<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n\n("),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("top-k              64") && run.stderr.contains("did you mean `temp`?"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("decode 8 tok"), "{}", run.stderr);
    let short = chat(&folder, "/set n-predict 2\nHi\n/stats\n");
    assert!(short.stderr.contains("decode 2 tok"), "{}", short.stderr);
}

#[test]
fn files_go_with_the_next_message() {
    let folder = Folder::new();
    folder.write("notes.txt", "one\ntwo\n");
    folder.write("bytes", b"a\xff");
    let run =
        chat(&folder, "/file notes.txt\nWhy?\n/prompt\nAnd?\n/prompt\n/file bytes\n/file /dev/zero\n/file missing\n");
    assert!(run.stderr.contains("notes.txt: ") && run.stderr.contains("goes with your next message"), "{}", run.stderr);
    assert!(run.stderr.contains("user\nnotes.txt\n```\none\ntwo\n```\n\nWhy?<end_of_turn>"), "{}", run.stderr);
    assert!(run.stderr.contains("user\nAnd?<end_of_turn>"), "{}", run.stderr);
    for says in ["`bytes` is not UTF-8", "`/dev/zero` is no file", "`missing` cannot be read"] {
        assert!(run.stderr.contains(says), "{says}: {}", run.stderr);
    }
}

#[test]
fn the_tokens_and_the_context_are_counted() {
    let folder = Folder::new();
    let run = chat(&folder, "/tokens Hello\n/context\nHi\n/context\n");
    let listed = folder.run(&["tokenize", "--no-bos", "--literal", "Hello"]).expect(0).stdout;
    assert!(run.stderr.starts_with(&listed), "{}", run.stderr);
    assert!(run.stderr.contains("   0 of 512 tokens\nstart with `-c 0` to use all 2048 tokens"), "{}", run.stderr);
    let prompt =
        folder.run(&["tokenize", "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"]).expect(0).stdout;
    let used = prompt.lines().count() + 8;
    assert!(run.stderr.contains(&format!("   {used} of 512 tokens")), "{used}: {}", run.stderr);
}

#[test]
fn the_person_can_write_the_replies() {
    let folder = Folder::new();
    let run = chat(&folder, "/manual on\nHi\nHello to you.\nHow are you?\n\n/prompt\n/manual off\n");
    assert_eq!(run.stdout.lines().count(), 1, "an empty line lets the model write: {}", run.stdout);
    assert!(
        run.stderr.contains("model\nHello to you.<end_of_turn>\n<start_of_turn>user\nHow are you?"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_saved_chat_is_loaded_again_and_goes_on() {
    let folder = Folder::new();
    let whole = chat(&folder, "Hi\nAnd then?\n");
    chat(&folder, "/set top-k 5\n/system\nHi\n/regen\n/save my chat.json\n/save chat.md\n");
    let file = saved(&folder, "my chat.json");
    assert_eq!((&file["format"], &file["version"]), (&Value::from("gemma2-chat"), &Value::from(1)));
    let chat_saved = &file["chats"][0];
    assert_eq!(chat_saved["conversation"]["title"], "Hi");
    assert_eq!(chat_saved["conversation"]["settings"]["topK"], 5);
    let messages = chat_saved["messages"].as_array().expect("messages");
    assert_eq!(messages.len(), 3, "both replies are there");
    assert_eq!((&messages[2]["role"], &messages[2]["demo"]), (&Value::from("assistant"), &Value::from(true)));
    assert_eq!((&messages[2]["status"], &messages[2]["cutBy"]), (&Value::from("cut"), &Value::from("token_limit")));
    let again = chat(&folder, "/load my chat.json\nAnd then?\n/set\n");
    assert_eq!(Some(again.stdout.trim_end()), whole.stdout.trim_end().lines().nth(1));
    assert!(again.stderr.contains("top-k              5"), "{}", again.stderr);
    let markdown = std::fs::read_to_string(folder.path("chat.md")).expect("the file");
    assert!(markdown.starts_with("---\ntitle: \"Hi\"\n") && markdown.contains("\n## Gemma (demo)\n"), "{markdown}");
}

#[test]
fn a_chat_of_the_page_goes_on_in_the_terminal_and_back() {
    let folder = Folder::new();
    let run = chat(&folder, &format!("/load {}\n/prompt\n/set\nGo on\n/save back.json\n", page_chat()));
    assert!(run.stderr.contains("newest of 2 chats"), "{}", run.stderr);
    assert!(
        run.stderr.contains("user\nBe brief.\n\nnotes.txt\n```\none\ntwo\n```\n\nHello, who are you?<end_of_turn>"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("temp               0.5") && run.stderr.contains("top-k              40"),
        "{}",
        run.stderr
    );
    let back = saved(&folder, "back.json");
    let original: Value = serde_json::from_str(&std::fs::read_to_string(page_chat()).expect("the file")).expect("JSON");
    let old = original["chats"][0]["messages"].as_array().expect("messages");
    let new = back["chats"][0]["messages"].as_array().expect("messages");
    assert_eq!((&new[..5], new.len()), (&old[..], 7), "nothing is lost");
    assert_eq!(back["chats"][0]["conversation"]["pinned"], true);
}

#[test]
fn files_that_are_no_chats_are_neither_loaded_nor_overwritten() {
    let folder = Folder::new();
    folder.write("other.json", "{\"a\": 1}");
    folder.write("text.txt", "precious");
    let run = chat(&folder, "/load other.json\n/load missing.json\nHi\n/save text.txt\n/save other.json\n/save .\n");
    for says in
        ["`other.json` cannot be loaded: it is no chat", "`missing.json` cannot be read", "`text.txt` is there already"]
    {
        assert!(run.stderr.contains(says), "{says}: {}", run.stderr);
    }
    assert_eq!(std::fs::read_to_string(folder.path("text.txt")).expect("the file"), "precious");
    assert_eq!(std::fs::read_to_string(folder.path("other.json")).expect("the file"), "{\"a\": 1}");
}

fn saved(folder: &Folder, name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.path(name)).expect("the file")).expect("JSON")
}
