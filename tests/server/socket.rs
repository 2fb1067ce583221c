//! Over real sockets: streaming, clients that leave, a full queue, the end of the server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use async_channel::Sender;
use gemma2::engine::EngineError;
use gemma2::server::serve;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

/// A server on a port of its own; dropping it stops it.
pub struct Server {
    runtime: Runtime,
    pub address: SocketAddr,
    pub state: AppState,
    pub engine: Engine,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<std::io::Result<()>>>,
}

impl Server {
    pub fn start(sizes: EngineOptions, gate: Option<Receiver<()>>, grace: Duration) -> Server {
        Server::with_options(sizes, gate, |options| options.shutdown_grace = grace)
    }

    pub fn with_options(
        sizes: EngineOptions,
        gate: Option<Receiver<()>>,
        change: impl FnOnce(&mut ServerOptions),
    ) -> Server {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut options = ServerOptions::new(address);
        change(&mut options);
        let state = AppState::new(options);
        let engine = engine(sizes, gate);
        make_ready(&state, engine.clone());
        let (stop, stopped) = oneshot::channel();
        let served = runtime.spawn(serve(listener, state.clone(), async {
            let _ = stopped.await;
        }));
        Server { runtime, address, state, engine, stop: Some(stop), served: Some(served) }
    }

    pub fn gated(sizes: EngineOptions) -> (Server, Sender<()>) {
        let (open, gate) = async_channel::unbounded();
        (Server::start(sizes, Some(gate), Duration::from_secs(3)), open)
    }

    pub fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        BufReader::new(stream)
    }

    pub fn post(&self, path: &str, body: &Value) -> BufReader<TcpStream> {
        self.send("POST", path, &[], &body.to_string())
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> BufReader<TcpStream> {
        let mut connection = self.connect();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        connection.get_mut().write_all((head + body).as_bytes()).expect("to write");
        connection
    }

    fn shut_down(&mut self) {
        let _ = self.stop.take().expect("once").send(());
    }

    fn wait_for_end(&mut self) {
        let served = self.served.take().expect("once");
        self.runtime.block_on(served).expect("no panic").expect("no error");
    }
}

/// Until it is so; the engine and the server are other threads.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::yield_now();
    }
}

/// Reads up to and including the line that contains `part`.
pub fn read_to(connection: &mut BufReader<TcpStream>, part: &str) -> String {
    let mut all = String::new();
    while !all.lines().last().unwrap_or_default().contains(part) {
        all += &read_line(connection);
    }
    all
}

pub fn read_line(connection: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    let n = connection.read_line(&mut line).expect("more to read");
    assert!(n > 0, "the end came too early");
    line
}

pub fn read_all(mut connection: BufReader<TcpStream>) -> String {
    let mut all = String::new();
    connection.read_to_string(&mut all).expect("to read");
    all
}

#[test]
fn a_token_is_sent_before_the_next_one_is_made() {
    let (server, open) = Server::gated(SIZES);
    let body = json!({"prompt": [5], "stream": true, "n_predict": 3});
    let mut reply = server.post("/completion", &body);
    open.send_blocking(()).expect("the prompt");
    read_to(&mut reply, "\"content\":\"a\"");
    open.send_blocking(()).expect("a step");
    read_to(&mut reply, "\"content\":\"b\"");
    drop(open);
    read_to(&mut reply, "\"stop\":true");
}

#[test]
fn a_silent_stream_sends_comments() {
    let (server, open) = Server::gated(SIZES);
    let mut reply = server.post("/v1/chat/completions", &json!({"messages": hi(), "stream": true}));
    let start = read_to(&mut reply, "\"role\":\"assistant\"");
    assert!(start.to_lowercase().contains("x-accel-buffering: no"), "{start}");
    read_to(&mut reply, ": ");
    drop(open);
    read_to(&mut reply, "[DONE]");
}

#[test]
fn a_client_that_leaves_a_stream_frees_its_slot() {
    let (server, open) = Server::gated(SIZES);
    let body = json!({"prompt": [5], "stream": true, "ignore_eos": true});
    let mut reply = server.post("/completion", &body);
    open.send_blocking(()).expect("the prompt");
    read_to(&mut reply, "\"content\":\"a\"");
    until("it runs", || server.engine.slots().iter().any(|slot| slot.busy));
    drop(reply);
    // The server notices by itself. Only then may the engine go on: it notices at its next step.
    until("the server has let go of the reply", || server.state.open_connections() == 0);
    until("the slot is free", || {
        let _ = open.send_blocking(());
        server.engine.slots().iter().all(|slot| !slot.busy)
    });
    assert!(server.engine.metrics().decoded_tokens <= 2, "{:?}", server.engine.metrics());
    assert_eq!(server.engine.metrics().cancelled, 1);
}

#[test]
fn a_client_that_leaves_while_it_waits_frees_its_slot() {
    let (server, open) = Server::gated(SIZES);
    let waiting = server.post("/completion", &json!({"prompt": [5], "ignore_eos": true}));
    open.send_blocking(()).expect("the prompt");
    until("it runs", || server.engine.slots().iter().any(|slot| slot.busy));
    drop(waiting);
    until("the server has let go of the reply", || server.state.open_connections() == 0);
    until("the slot is free", || {
        let _ = open.send_blocking(());
        server.engine.slots().iter().all(|slot| !slot.busy)
    });
    assert_eq!(server.engine.metrics().cancelled, 1);
}

#[test]
fn a_full_queue_is_a_503_with_a_time_to_try_again() {
    let sizes = EngineOptions { n_parallel: 1, max_queue: 1, ..SIZES };
    let (server, open) = Server::gated(sizes);
    let body = json!({"prompt": [5], "n_predict": 2});
    let first = server.post("/completion", &body);
    open.send_blocking(()).expect("the prompt");
    until("it runs", || server.engine.slots()[0].busy);
    let second = server.post("/completion", &body);
    until("it waits", || server.engine.metrics().queued == 1);
    let refused = read_all(server.post("/completion", &body));
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.to_lowercase().contains("retry-after: 1"), "{refused}");
    assert!(refused.contains("unavailable_error"), "{refused}");
    drop(open);
    for reply in [first, second] {
        assert!(read_all(reply).starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn shutting_down_lets_running_replies_end() {
    let (mut server, open) = Server::gated(SIZES);
    let mut reply = server.post("/completion", &json!({"prompt": [5], "stream": true}));
    open.send_blocking(()).expect("the prompt");
    read_to(&mut reply, "\"content\":\"a\"");
    server.shut_down();
    until("nobody is let in", || TcpStream::connect(server.address).is_err());
    drop(open);
    let rest = read_to(&mut reply, "\"stop\":true");
    assert!(rest.contains("\"content\":\"z\""), "the whole reply: {rest}");
    server.wait_for_end();
}

#[test]
fn shutting_down_ends_replies_that_take_too_long() {
    let text = json!({"prompt": [5], "stream": true});
    let raw = json!({"prompt": "-", "raw": true});
    let responses = json!({"input": "-", "stream": true});
    let messages = json!({"messages": hi(), "stream": true});
    for (path, body, begun, error) in [
        ("/v1/completions", text, "\"text\":\"a\"", "data: {\"error\":{"),
        ("/v1/responses", responses, "\"delta\":\"a\"", "data: {\"response\":{"),
        ("/v1/messages", messages, "\"text\":\"a\"", "data: {\"type\":\"error\","),
        ("/api/generate", raw, "\"response\":\"a\"", "{\"error\":\""),
    ] {
        let (open, gate) = async_channel::unbounded();
        let mut server = Server::start(EngineOptions { n_ubatch: N_CTX, ..SIZES }, Some(gate), Duration::ZERO);
        let mut stream = server.post(path, &body);
        open.send_blocking(()).expect("the prompt");
        read_to(&mut stream, begun);
        let whole = server.post("/completion", &json!({"prompt": [5]}));
        until("both run", || server.engine.metrics().requests == 2);
        server.shut_down();
        let probe = || server.engine.submit(gemma2::engine::Request::new(vec![5]));
        until("the engine is told", || matches!(probe(), Err(EngineError::Stopped)));
        drop(open);
        let rest = read_all(stream);
        let last = rest.lines().rfind(|line| !line.is_empty() && !line.starts_with('0'));
        assert!(last.is_some_and(|line| line.starts_with(error)), "{rest}");
        assert!(rest.contains("shutting down") && !rest.contains("[DONE]"), "{rest}");
        let whole = read_all(whole);
        assert!(whole.starts_with("HTTP/1.1 503") && whole.contains("shutting down"), "{whole}");
        server.wait_for_end();
    }
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let mut server = Server::start(SIZES, None, Duration::from_secs(3));
    let mut idle = server.connect();
    let head = format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    idle.get_mut().write_all(head.as_bytes()).expect("to write");
    let head = read_to(&mut idle, "Content-Length");
    let length = head.trim_end().rsplit(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("a length");
    while !read_line(&mut idle).trim().is_empty() {}
    let mut body = vec![0; length];
    idle.read_exact(&mut body).expect("the body");
    assert!(String::from_utf8_lossy(&body).contains("\"status\":\"ok\""));
    server.shut_down();
    server.wait_for_end();
}
