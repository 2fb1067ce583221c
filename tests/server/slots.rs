//! `id_slot`, and `POST /slots/{id}`.

use super::*;

struct Saving {
    state: AppState,
    folder: tempfile::TempDir,
}

fn saving() -> Saving {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = options();
    options.slot_save_path = Some(folder.path().to_owned());
    Saving { state: ready(options), folder }
}

impl Saving {
    async fn act(&self, slot: &str, action: &str, filename: &str) -> Answer {
        post(&self.state, &format!("/slots/{slot}?action={action}"), &json!({"filename": filename})).await
    }

    async fn complete(&self, slot: i64) -> Value {
        let body = json!({"prompt": "abcdefgh", "n_predict": 4, "id_slot": slot});
        post(&self.state, "/completion", &body).await.ok()
    }
}

#[tokio::test]
async fn a_completion_runs_in_the_slot_it_names_and_says_so() {
    let server = saving();
    for slot in [1, 0, 1] {
        assert_eq!(server.complete(slot).await["id_slot"], slot);
    }
    assert!([0, 1].contains(&server.complete(-1).await["id_slot"].as_i64().expect("a number")));
    let stream = json!({"prompt": "w", "id_slot": 1, "stream": true});
    let frames = post(&server.state, "/completion", &stream).await.frames();
    assert!(frames.iter().all(|frame| frame["id_slot"] == 1), "{frames:?}");
    for slot in [json!(2), json!(-2), json!("1")] {
        let error = post(&server.state, "/completion", &json!({"prompt": "a", "id_slot": slot})).await.error(400);
        assert_eq!(error["param"], "id_slot");
    }
}

#[tokio::test]
async fn a_slot_is_saved_restored_into_another_and_erased() {
    let server = saving();
    let first = server.complete(1).await;
    let n_prompt = first["tokens_evaluated"].as_u64().expect("a count");
    assert_eq!(first["timings"]["prompt_n"], n_prompt);
    // The last token of the reply was never read.
    let n_held = n_prompt + 4 - 1;
    let saved = server.act("1", "save", "one.bin").await.ok();
    assert_eq!(
        (&saved["id_slot"], &saved["filename"], &saved["n_saved"]),
        (&json!(1), &json!("one.bin"), &json!(n_held))
    );
    assert!(saved["timings"]["save_ms"].is_f64());
    let files: Vec<_> = std::fs::read_dir(server.folder.path()).expect("the folder").collect();
    assert_eq!(files.len(), 1, "nothing else is left there: {files:?}");
    let size = std::fs::metadata(server.folder.path().join("one.bin")).expect("the file").len();
    assert_eq!(saved["n_written"], size);

    let restored = server.act("0", "restore", "one.bin").await.ok();
    assert_eq!((&restored["n_restored"], &restored["n_read"]), (&json!(n_held), &json!(size)));
    assert!(restored["timings"]["restore_ms"].is_f64());
    let again = server.complete(0).await;
    assert_eq!((&again["timings"]["prompt_n"], &again["content"]), (&json!(1), &first["content"]));

    let erased = post_text(&server.state, "/slots/1?action=erase", "").await.ok();
    assert_eq!((&erased["id_slot"], &erased["n_erased"]), (&json!(1), &json!(n_held)));
    assert_eq!(server.complete(1).await["timings"]["prompt_n"], n_prompt);
}

#[tokio::test]
async fn names_lead_nowhere_else() {
    let server = saving();
    server.complete(0).await;
    let outside = server.folder.path().parent().expect("a folder").join("outside.bin");
    for name in ["../outside.bin", "/tmp/outside.bin", "a/b", "a\\b", "..", ".", "", ".hidden", "c:x", "a\0b", "ä"] {
        for action in ["save", "restore"] {
            assert_eq!(server.act("0", action, name).await.error(400)["param"], "filename", "{name}");
        }
    }
    assert!(!outside.exists());
    assert_eq!(server.act("0", "save", &"x".repeat(129)).await.status, 400);
    post(&server.state, "/slots/0?action=save", &json!({})).await.error(400);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/passwd", server.folder.path().join("link")).expect("a link");
        server.act("0", "restore", "link").await.error(404);
    }
    server.act("0", "restore", "absent").await.error(404);
    std::fs::create_dir(server.folder.path().join("folder")).expect("a folder");
    server.act("0", "restore", "folder").await.error(404);
}

#[tokio::test]
async fn a_file_that_was_not_saved_here_is_refused_with_a_hint() {
    let server = saving();
    std::fs::write(server.folder.path().join("notes"), "no saved prompt").expect("to write");
    let error = server.act("0", "restore", "notes").await.error(400);
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("save")), "{error}");
    server.complete(0).await;
    server.act("0", "save", "good").await.ok();
    let mut bytes = std::fs::read(server.folder.path().join("good")).expect("the file");
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    std::fs::write(server.folder.path().join("bad"), bytes).expect("to write");
    let error = server.act("0", "restore", "bad").await.error(400);
    assert!(error["message"].as_str().is_some_and(|message| message.contains("damaged")), "{error}");
    assert_eq!(server.complete(0).await["timings"]["prompt_n"], 1, "the slot is as before");
}

#[tokio::test]
async fn actions_and_slots_that_are_not_there_are_told() {
    let server = saving();
    server.act("2", "save", "x").await.error(400);
    server.act("x", "save", "x").await.error(400);
    assert_eq!(server.act("0", "jump", "x").await.error(400)["param"], "action");
    assert_eq!(post(&server.state, "/slots/0", &json!({"filename": "x"})).await.error(400)["param"], "action");
    let plain = ready(options());
    let answer = post(&plain, "/slots/0?action=save", &json!({"filename": "x"})).await;
    let error = answer.error(501);
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("--slot-save-path")), "{error}");
}
