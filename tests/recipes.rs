//! The README's recipes for shells, as a shell runs them.

use std::process::Stdio;

use serde_json::Value;

use crate::cli::{GREEDY, answer};
use crate::util::{Folder, Run, run};

/// Runs a script in which `gemma2` is the program.
fn shell(folder: &Folder, script: &str) -> Run {
    let program = env!("CARGO_BIN_EXE_gemma2");
    let script = format!("gemma2() {{ '{program}' {} \"$@\"; }}\n{script}", GREEDY.join(" "));
    let mut command = folder.command(std::path::Path::new("sh"));
    run(command.args(["-c", &script]).stdin(Stdio::null())).expect(0)
}

#[test]
fn a_file_is_summarized() {
    let folder = Folder::new();
    folder.write("notes.txt", "Cats say meow. Dogs say woof.\n");
    let expected = answer(&folder, &["-p", "Summarize this in one sentence.\n\nCats say meow. Dogs say woof.\n"]);
    let piped = shell(&folder, "cat notes.txt | gemma2 -c 0 -p 'Summarize this in one sentence.' -f -");
    assert_eq!(piped.stdout, expected);
    assert_eq!(shell(&folder, "gemma2 -c 0 -p 'Summarize this in one sentence.' -f notes.txt").stdout, expected);
}

#[test]
fn a_loop_over_lines_keeps_its_stdin() {
    let folder = Folder::new();
    folder.write("countries.txt", "France\nItaly\nSpain\n");
    let script = "while read -r country; do\n\
                    printf '%s: %s\\n' \"$country\" \"$(gemma2 -p \"What is the capital of $country?\")\"\n\
                  done < countries.txt";
    let lines = shell(&folder, script).stdout;
    let countries: Vec<&str> = lines.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
    assert_eq!(countries, ["France", "Italy", "Spain"], "{lines}");
}

#[test]
fn the_first_line_can_be_taken() {
    let folder = Folder::new();
    let first = answer(&folder, &["-p", "Hi"]).lines().next().unwrap_or_default().to_owned();
    assert_eq!(shell(&folder, "gemma2 -p Hi | head -1").stdout.trim_end(), first);
}

#[test]
fn a_grammar_makes_answers_that_a_script_can_use() {
    let folder = Folder::new();
    let script = r#"if [ "$(gemma2 -p 'Is the sky blue?' --grammar 'root ::= "yes" | "no"')" = yes ]; then echo A; else echo B; fi"#;
    assert!(["A\n", "B\n"].contains(&shell(&folder, script).stdout.as_str()));
    folder.write("scan1.txt", "Cats say meow.");
    let script = "for file in scan*.txt; do\n\
                    name=$(gemma2 -c 0 -p 'Name this file.' -f \"$file\" --grammar 'root ::= [a-z] [a-z] [a-z] [a-z]')\n\
                    mv \"$file\" \"$name.txt\"\n\
                  done";
    shell(&folder, script);
    let names = std::fs::read_dir(folder.path(".")).expect("the folder").flatten();
    let names: Vec<String> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert!(names.iter().any(|name| name.len() == 8 && name.ends_with(".txt")), "{names:?}");
    let schema = r#"{"type": "object", "properties": {"name": {"enum": ["Anna", "Bob"]}}, "required": ["name"]}"#;
    let json = shell(&folder, &format!("gemma2 -n 200 -p 'My name is Anna. What is my name?' -j '{schema}'")).stdout;
    let object: Value = serde_json::from_str(&json).expect("JSON");
    assert!(object["name"] == "Anna" || object["name"] == "Bob", "{json}");
}

#[test]
fn one_object_says_all_about_an_answer() {
    let folder = Folder::new();
    let text = answer(&folder, &["-p", "Hi"]);
    let printed = answer(&folder, &["-p", "Hi", "--json", "-s", "7"]);
    assert_eq!(printed.lines().count(), 1);
    let object: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((&object["content"], &object["stop_type"]), (&Value::from(text), &Value::from("limit")));
    assert_eq!((&object["seed"], &object["tokens_predicted"]), (&Value::from(7), &Value::from(8)));
    assert_eq!(
        (&object["model"], &object["finish_reason"]),
        (&Value::from("gemma2-demo-q8_0"), &Value::from("length"))
    );
    let stopped: Value = serde_json::from_str(&answer(&folder, &["-p", "Hi", "--json", "-r", "e"])).expect("JSON");
    assert_eq!((&stopped["stop_type"], &stopped["stopping_word"]), (&Value::from("word"), &Value::from("e")));
    assert_eq!(stopped["finish_reason"], "stop");
    let echoed: Value = serde_json::from_str(&answer(&folder, &["-p", "Hi", "--json", "--echo"])).expect("JSON");
    assert_eq!(echoed["prompt"], "Hi\n");
}

#[test]
fn a_stream_has_an_object_for_each_token() {
    let folder = Folder::new();
    let text = answer(&folder, &["-p", "Hi"]);
    let printed = answer(&folder, &["-p", "Hi", "--stream-json"]);
    let objects: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (end, tokens) = objects.split_last().expect("an end");
    let joined: String = tokens.iter().filter_map(|token| token["content"].as_str()).collect();
    assert_eq!(joined, text);
    assert_eq!(tokens.iter().filter(|token| token["tokens"].as_array().is_some_and(|ids| ids.len() == 1)).count(), 8);
    assert_eq!((&end["stop"], &end["content"]), (&Value::from(true), &Value::from("")));
    folder.run(&["-p", "Hi", "--json", "--stream-json"]).expect(2).says(&["--json"]);
    folder.run(&["--chat", "--json"]).expect(2).says(&["`--json` needs a prompt"]);
}
