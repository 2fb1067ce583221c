//! What the running program can no longer do, seen from outside.

use serde_json::{Value, json};

use crate::program::Server;

/// A field of the status of each thread of the server.
fn of_all_threads(server: &Server, field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.child.id())).expect("threads");
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.expect("a thread").path().join("status")).ok());
    let value = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::trim));
        line.unwrap_or_default().to_owned()
    };
    statuses.map(value).collect()
}

fn props(server: &Server) -> Value {
    serde_json::from_str(&server.get("/props")).expect("JSON")
}

#[test]
fn a_running_server_has_given_up_files_connections_and_programs() {
    let server = Server::start("0", &["-v", "--log-file", "log.jsonl"]);
    // The URL comes before the fence.
    let start = std::time::Instant::now();
    while props(&server)["sandbox"].is_null() {
        assert!(start.elapsed().as_secs() < 20, "no sandbox");
        std::thread::yield_now();
    }
    let sandbox = props(&server)["sandbox"].clone();
    assert_eq!((&sandbox["seccomp"], &sandbox["leaks"]), (&json!(true), &json!([])), "{sandbox}");
    let has_landlock = std::fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|lsm| lsm.contains("landlock"));
    assert!(sandbox["landlock"] == true || !has_landlock, "{sandbox}");
    for (field, expected) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
        let values = of_all_threads(&server, field);
        assert!(values.len() > 3 && values.iter().all(|value| value == expected), "{field}: {values:?}");
    }
    // It still does what it is for.
    let mut stream = server.send("POST", "/completion", "X-Request-Id: mine\r\n", r#"{"prompt":"Hi","n_predict":8}"#);
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).expect("an answer");
    assert!(answer.contains("200 OK") && answer.contains("X-Request-Id: mine"), "{answer}");
    assert!(server.get("/").contains("<!doctype html>"), "the page");
    let log = std::fs::read_to_string(server.folder.path("log.jsonl")).expect("the log");
    let line = log.lines().find(|line| line.contains("/completion")).unwrap_or_else(|| panic!("not in: {log}"));
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(json!([line["id"], line["method"], line["status"], line["end"]]), json!(["mine", "POST", 200, "sent"]));
    let stderr = server.stop();
    assert!(stderr.contains("sandbox  ") && stderr.contains("seccomp"), "{stderr}");
    assert!(!stderr.contains("warning"), "{stderr}");
}

#[test]
fn what_people_keep_secret_is_in_no_log() {
    let server = Server::start("0", &["-v", "--log-file", "log.jsonl", "--api-key", "hush-key"]);
    let ask = |path: &str, key: &str, body: &str| {
        let mut answer = String::new();
        let headers = format!("Authorization: Bearer {key}\r\nX-Note: hush-header\r\n");
        std::io::Read::read_to_string(&mut server.send("POST", path, &headers, body), &mut answer).expect("an answer");
        answer
    };
    let body = r#"{"messages":[{"role":"user","content":"hush-prompt"}],"max_tokens":2}"#;
    assert!(ask("/v1/chat/completions?q=hush-query", "hush-key", body).contains("200 OK"));
    assert!(ask("/v1/chat/completions", "hush-wrong", body).contains("401"));
    assert!(ask("/v1/chat/completions", "hush-key", r#"{"model":5,"hush":"#).contains("400"));
    assert!(ask("/hush-path", "hush-key", body).contains("404"));
    let log = std::fs::read_to_string(server.folder.path("log.jsonl")).expect("the log");
    let stderr = server.stop();
    assert!(log.matches("/v1/chat/completions").count() >= 3, "{log}");
    assert!(!log.contains("hush") && !stderr.contains("hush"), "{log}{stderr}");
}

#[test]
fn a_name_that_is_allowed_leads_to_the_server() {
    let server = Server::start("0", &["--allow-host", "llm.example.org"]);
    let ask = |host: &str| {
        let mut stream = std::net::TcpStream::connect(&server.address).expect("a connection");
        let head = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        std::io::Write::write_all(&mut stream, head.as_bytes()).expect("to write");
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).expect("an answer");
        answer
    };
    assert!(ask("llm.example.org").contains("200 OK"));
    let refused = ask("evil.example");
    assert!(refused.contains("403") && refused.contains("--allow-host evil.example"), "{refused}");
}

#[test]
fn slots_are_saved_in_their_folder_behind_the_fence() {
    let folder = crate::util::Folder::new();
    let path = folder.path("slots");
    std::fs::create_dir(&path).expect("a folder");
    let server = Server::start("0", &["--slot-save-path", path.to_str().expect("a path")]);
    let start = std::time::Instant::now();
    while props(&server)["sandbox"].is_null() {
        assert!(start.elapsed().as_secs() < 20, "no sandbox");
        std::thread::yield_now();
    }
    let post = |path: &str, body: &str| {
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut server.send("POST", path, "", body), &mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        assert!(head.contains("200 OK"), "{answer}");
        serde_json::from_str::<Value>(body).expect("JSON")
    };
    let prompt = r#"{"prompt":"Tell me a story about the sea","n_predict":4,"id_slot":0}"#;
    let n_read = post("/completion", prompt)["timings"]["prompt_n"].as_u64().expect("a count");
    assert!(n_read > 3);
    let saved = post("/slots/0?action=save", r#"{"filename":"sea.bin"}"#);
    let size = std::fs::metadata(path.join("sea.bin")).expect("the file").len();
    assert_eq!(saved["n_written"], size);
    post("/slots/1?action=restore", r#"{"filename":"sea.bin"}"#);
    let again = post("/completion", &prompt.replace("\"id_slot\":0", "\"id_slot\":1"));
    assert_eq!(again["timings"]["prompt_n"], 1);
    server.stop();
}

#[test]
fn the_sandbox_can_be_left_out() {
    let server = Server::start("0", &["--no-sandbox"]);
    assert_eq!(props(&server)["sandbox"], Value::Null);
    let own = std::fs::read_to_string("/proc/self/status").expect("a status");
    let own = own.lines().find_map(|line| line.strip_prefix("Seccomp:")).expect("a line").trim().to_owned();
    assert!(of_all_threads(&server, "Seccomp").iter().all(|value| *value == own));
    server.stop();
}
