//! Replies that outlive their connection.

use std::io::{BufReader, Read};
use std::net::TcpStream;
use std::time::Duration;

use gemma2::server::ReplyLimits;

use super::socket::{Server, read_all, read_line, read_to, until};
use super::*;

const ID: &str = "0123456789abcdef-_XY";
const HEADER: (&str, &str) = ("x-reply-id", ID);

fn post(server: &Server, path: &str, body: &Value) -> BufReader<TcpStream> {
    server.send("POST", path, &[HEADER], &body.to_string())
}

fn reattach(server: &Server, offset: usize) -> BufReader<TcpStream> {
    server.send("GET", &format!("/replies/{ID}?offset={offset}"), &[], "")
}

/// One event: its number and its data.
fn read_event(connection: &mut BufReader<TcpStream>) -> (usize, String) {
    let id = loop {
        if let Some(id) = read_line(connection).strip_prefix("id: ") {
            break id.trim_end().parse().expect("a number");
        }
    };
    let data = read_line(connection);
    (id, data.trim_end().strip_prefix("data: ").expect("data after the id").to_owned())
}

/// The numbers and data of all events that remain.
fn read_events(connection: BufReader<TcpStream>) -> Vec<(usize, String)> {
    let all = read_all(connection);
    assert!(all.starts_with("HTTP/1.1 200"), "{all}");
    let mut lines = all.lines();
    let mut events = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(id) = line.strip_prefix("id: ") {
            let data = lines.next().and_then(|line| line.strip_prefix("data: ")).expect("data after the id");
            events.push((id.parse().expect("a number"), data.to_owned()));
        }
    }
    events
}

/// The text of a stream's data, in either API.
fn text<'a>(data: impl IntoIterator<Item = &'a str>) -> String {
    let frames = data.into_iter().filter(|data| *data != "[DONE]");
    let frames = frames.map(|data| serde_json::from_str::<Value>(data).expect("JSON"));
    let piece = |frame: Value| {
        let chat = frame["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
        chat + frame["content"].as_str().unwrap_or_default()
    };
    frames.map(piece).collect()
}

/// Both of the routes that the page uses.
fn streams() -> [(&'static str, Value); 2] {
    let sampling = json!({"stream": true, "seed": 7, "temperature": 1.5, "return_progress": true});
    let with = |name: &str, value: Value| {
        let mut body = sampling.clone();
        body[name] = value;
        body
    };
    [("/v1/chat/completions", with("messages", hi())), ("/completion", with("prompt", json!("Hi")))]
}

#[test]
fn a_reply_that_is_cut_at_every_event_is_the_undisturbed_one() {
    for (path, body) in streams() {
        let undisturbed = {
            let server = Server::start(SIZES, None, Duration::ZERO);
            let all = read_all(server.post(path, &body));
            text(all.lines().filter_map(|line| line.strip_prefix("data: ")))
        };
        assert!(undisturbed.len() > 10, "{undisturbed}");
        let (server, open) = Server::gated(SIZES);
        let mut connection = post(&server, path, &body);
        let mut pieces = Vec::new();
        // Each connection is cut after one event. No step is made that was not asked for, so the reply is never ahead by more.
        loop {
            open.send_blocking(()).expect("a step");
            let (id, data) = read_event(&mut connection);
            assert_eq!(id, pieces.len() + 1);
            let parsed: Value = serde_json::from_str(&data).unwrap_or_default();
            let is_end = data == "[DONE]" || parsed["stop"] == true;
            pieces.push((id, data));
            drop(connection);
            if is_end {
                break;
            }
            connection = reattach(&server, pieces.len());
        }
        assert_eq!(text(pieces.iter().map(|(_, data)| data.as_str())), undisturbed, "{path}");
        assert_eq!(read_events(reattach(&server, 0)), pieces, "{path}: what is kept is what was sent");
        for cut in 0..=pieces.len() {
            assert_eq!(read_events(reattach(&server, cut)), pieces[cut..], "{path} from {cut}");
        }
        assert_eq!(server.engine.metrics().cancelled, 0);
    }
}

#[test]
fn a_reply_goes_on_while_nobody_listens() {
    for (path, body) in streams() {
        let (server, open) = Server::gated(SIZES);
        let mut connection = post(&server, path, &body);
        open.send_blocking(()).expect("the prompt");
        let (seen, _) = read_event(&mut connection);
        drop(connection);
        until("the connection is gone", || server.state.open_connections() == 0);
        drop(open);
        until("the reply is made", || server.engine.slots().iter().all(|slot| !slot.busy));
        let rest = read_events(reattach(&server, seen));
        assert_eq!(rest[0].0, seen + 1);
        assert_eq!(server.engine.metrics().cancelled, 0);
        assert!(text(rest.iter().map(|(_, data)| data.as_str())).ends_with('z'), "{rest:?}");
    }
}

#[test]
fn an_event_source_goes_on_by_itself() {
    let server = Server::start(SIZES, None, Duration::ZERO);
    let all = read_events(post(&server, "/completion", &json!({"prompt": "Hi", "stream": true})));
    let path = format!("/replies/{ID}");
    assert_eq!(read_events(server.send("GET", &path, &[("last-event-id", "3")], "")), all[3..]);
    let wrong = read_all(server.send("GET", &path, &[("last-event-id", "x")], ""));
    assert!(wrong.starts_with("HTTP/1.1 400"), "{wrong}");
}

#[test]
fn a_silent_reply_sends_comments_to_those_who_came_later() {
    let (server, open) = Server::gated(SIZES);
    let first = post(&server, "/completion", &json!({"prompt": "Hi", "stream": true}));
    // The reply is there before its first event is.
    until("it runs", || server.engine.metrics().requests == 1);
    let mut late = reattach(&server, 0);
    read_to(&mut late, ": waiting");
    drop(open);
    assert_eq!(read_events(first).len(), read_all(late).matches("data: ").count());
}

#[test]
fn a_stopped_reply_frees_its_slot_and_keeps_its_text() {
    let (server, open) = Server::gated(SIZES);
    let mut connection = post(&server, "/completion", &json!({"prompt": "Hi", "stream": true, "ignore_eos": true}));
    open.send_blocking(()).expect("the prompt");
    let first = read_event(&mut connection);
    let stop = || {
        let answer = read_all(server.send("POST", &format!("/replies/{ID}/stop"), &[], ""));
        let body = answer.split("\r\n\r\n").nth(1).expect("a body");
        serde_json::from_str::<Value>(body).expect("JSON")
    };
    assert_eq!(stop(), json!({"id": ID, "state": "stopped", "events": 1}));
    assert_eq!(read_all(connection).matches("data:").count(), 0, "the stream ends");
    until("the slot is free", || {
        let _ = open.send_blocking(());
        server.engine.slots().iter().all(|slot| !slot.busy)
    });
    assert_eq!(server.engine.metrics().cancelled, 1);
    let mut kept = reattach(&server, 0);
    assert!(read_to(&mut kept, "X-Reply-State").contains("stopped"));
    assert_eq!(read_event(&mut kept), first);
    assert_eq!(read_all(kept).matches("data:").count(), 0);
    assert_eq!(stop()["state"], "stopped", "twice is once");
}

#[test]
fn a_whole_answer_is_kept_too() {
    let (server, open) = Server::gated(SIZES);
    let waiting = post(&server, "/v1/chat/completions", &json!({"messages": hi()}));
    open.send_blocking(()).expect("the prompt");
    until("it runs", || server.engine.slots().iter().any(|slot| slot.busy));
    drop(waiting);
    until("the connection is gone", || server.state.open_connections() == 0);
    let again = reattach(&server, 0);
    drop(open);
    let answer = read_all(again);
    assert!(answer.contains(ALPHABET) && answer.to_lowercase().contains("content-type: application/json"), "{answer}");
}

/// For what needs no socket.
async fn send(state: &AppState, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut request = request(method, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    call(state, request.body(Body::from(body.to_string())).expect("a request")).await
}

fn a_stream() -> Value {
    json!({"prompt": "Hi", "stream": true})
}

async fn begin(state: &AppState, id: &str) -> Answer {
    send(state, "POST", "/completion", &[("x-reply-id", id)], &a_stream()).await
}

#[tokio::test]
async fn ids_are_checked() {
    let state = ready(options());
    for id in ["", "short", "0123456789abcde", "0123456789abcdef/", "0123456789 abcdef", &"a".repeat(65)] {
        let error = begin(&state, id).await.error(400);
        assert_eq!(error["param"], "x-reply-id", "{id}");
    }
    begin(&state, &"a".repeat(64)).await.frames_with_ids();
    begin(&state, ID).await.frames_with_ids();
    let error = begin(&state, ID).await.error(409);
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains(ID)));
    get(&state, "/replies/0123456789abcdef").await.error(404);
    send(&state, "POST", "/replies/0123456789abcdef/stop", &[], &json!({})).await.error(404);
    get(&state, &format!("/replies/{ID}?offset=1000")).await.error(400);
    assert_eq!(get(&state, &format!("/replies/{ID}?offset=x")).await.status, StatusCode::BAD_REQUEST);
}

impl Answer {
    fn frames_with_ids(&self) -> usize {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        let ids: Vec<usize> = self.text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
        assert!(ids.iter().copied().eq(1..=ids.len()), "{ids:?}");
        ids.len()
    }
}

#[tokio::test]
async fn a_refused_request_leaves_its_id_free() {
    let state = ready(options());
    let refused = send(&state, "POST", "/v1/completions", &[HEADER], &json!({"prompt": 5})).await;
    assert_eq!(refused.error(400)["code"], "invalid_type", "in the words of its own API");
    assert!(begin(&state, ID).await.frames_with_ids() > 10);
}

#[tokio::test]
async fn lines_of_json_are_kept_too() {
    let state = ready(options());
    let whole = send(&state, "POST", "/api/generate", &[HEADER], &json!({"prompt": "Hi"})).await;
    let again = send(&state, "GET", &format!("/replies/{ID}?offset=1"), &[], &json!({})).await;
    assert_eq!(again.header("content-type"), "application/x-ndjson");
    assert_eq!(again.text, whole.text.split_once('\n').expect("lines").1);
}

#[tokio::test]
async fn other_pages_and_strangers_reach_no_reply() {
    let mut options = options();
    options.api_keys = vec!["one".into()];
    let state = ready(options);
    let key = ("authorization", "Bearer one");
    send(&state, "POST", "/completion", &[HEADER, key], &a_stream()).await.frames_with_ids();
    let (path, stop) = (format!("/replies/{ID}"), format!("/replies/{ID}/stop"));
    let evil = ("origin", "https://evil.example");
    send(&state, "GET", &path, &[], &json!({})).await.error(401);
    send(&state, "POST", &stop, &[], &json!({})).await.error(401);
    send(&state, "POST", &stop, &[key, evil], &json!({})).await.error(403);
    let read = send(&state, "GET", &path, &[key, evil], &json!({})).await;
    assert_eq!(read.header("access-control-allow-origin"), "", "cannot be read there");
}

fn limited(limits: ReplyLimits) -> AppState {
    let mut options = options();
    options.replies = limits;
    ready(options)
}

#[tokio::test]
async fn the_oldest_events_of_a_long_reply_are_dropped() {
    let n_events = begin(&ready(options()), ID).await.frames_with_ids();
    let state = limited(ReplyLimits { reply_bytes: 1500, ..ReplyLimits::default() });
    let begin = request("POST", "/completion").header(HEADER.0, ID).body(Body::from(a_stream().to_string()));
    // Nobody reads this response, and nobody needs to.
    drop(router(state.clone()).oneshot(begin.expect("a request")).await);
    let path = |offset: usize| format!("/replies/{ID}?offset={offset}");
    let last = loop {
        // 400 until there are as many.
        let last = get(&state, &path(n_events - 1)).await;
        if last.status == StatusCode::OK {
            break last;
        }
        tokio::task::yield_now().await;
    };
    get(&state, &path(0)).await.error(410);
    assert!(last.text.starts_with(&format!("id: {n_events}\n")), "{}", last.text);
    assert_eq!(get(&state, &path(n_events)).await.text, "");
}

#[tokio::test]
async fn replies_that_ended_first_make_room() {
    let bytes = begin(&ready(options()), ID).await.text.len();
    let state = limited(ReplyLimits { total_bytes: bytes * 5 / 2, ..ReplyLimits::default() });
    let ids = ["first-0123456789", "second-0123456789", "third-0123456789"];
    for id in ids {
        begin(&state, id).await.frames_with_ids();
    }
    get(&state, &format!("/replies/{}", ids[0])).await.error(404);
    for id in &ids[1..] {
        assert_eq!(get(&state, &format!("/replies/{id}")).await.status, StatusCode::OK, "{id}");
    }
    let state = limited(ReplyLimits { n_replies: 1, ..ReplyLimits::default() });
    for id in ids {
        begin(&state, id).await.frames_with_ids();
    }
    get(&state, &format!("/replies/{}", ids[1])).await.error(404);
}

#[test]
fn a_reply_is_kept_for_a_while_only() {
    let limits = ReplyLimits { keep: Duration::ZERO, ..ReplyLimits::default() };
    let server = Server::with_options(SIZES, None, |options| options.replies = limits);
    let mut all = String::new();
    post(&server, "/completion", &a_stream()).read_to_string(&mut all).expect("the reply");
    assert!(all.contains("\"stop\":true"), "{all}");
    until("it is forgotten", || read_all(reattach(&server, 0)).starts_with("HTTP/1.1 404"));
}

#[test]
fn running_replies_are_bounded_in_number() {
    let limits = ReplyLimits { n_replies: 1, ..ReplyLimits::default() };
    let (open, gate) = async_channel::unbounded();
    let server = Server::with_options(SIZES, Some(gate), |options| options.replies = limits);
    let running = post(&server, "/completion", &a_stream());
    until("it runs", || server.engine.metrics().requests == 1);
    let refused = server.send("POST", "/completion", &[("x-reply-id", "another-0123456789")], &a_stream().to_string());
    assert!(read_all(refused).starts_with("HTTP/1.1 503"));
    drop(open);
    read_events(running);
}
