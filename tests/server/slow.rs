//! Clients that take their time, on purpose.

use std::io::{Read, Write};
use std::time::Duration;

use gemma2::server::Patience;

use super::socket::{Server, read_all, until};
use super::*;

const SHORT: Duration = Duration::from_millis(20);

fn impatient(change: impl FnOnce(&mut Patience)) -> Server {
    Server::with_options(SIZES, None, |options| change(&mut options.patience))
}

#[test]
fn headers_that_never_end_end_the_connection() {
    let server = impatient(|patience| patience.head = SHORT);
    for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow"] {
        let mut connection = server.connect();
        connection.get_mut().write_all(begun.as_bytes()).expect("to write");
        let mut rest = Vec::new();
        // Closed, or reset where it was not read.
        let _ = connection.read_to_end(&mut rest);
        let answer = String::from_utf8_lossy(&rest);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    until("all are gone", || server.state.open_connections() == 0);
}

#[test]
fn a_body_that_never_ends_is_a_408() {
    let server = impatient(|patience| patience.body = SHORT);
    for path in ["/completion", "/v1/chat/completions", "/tokenize"] {
        let mut connection = server.connect();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 99\r\n\r\n{{");
        connection.get_mut().write_all(head.as_bytes()).expect("to write");
        let answer = read_all(connection);
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("took too long"), "{answer}");
    }
}

#[test]
fn who_writes_all_of_a_body_that_is_too_large_reads_why_it_is_refused() {
    let server = impatient(|_| {});
    let body = "a".repeat(100 << 20);
    let answer = read_all(server.send("POST", "/v1/completions", &[], &body));
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("larger than"), "{answer}");
    // Who asks first need not write it.
    let mut connection = server.connect();
    let head = "POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 104857600\r\n";
    connection.get_mut().write_all(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).expect("to write");
    let answer = read_all(connection);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn a_client_that_never_reads_is_let_go() {
    let server = impatient(|patience| patience.write = SHORT);
    let mut connection = server.connect();
    // More answers than any system keeps for a program that does not read.
    let request = "GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let writer = connection.get_mut();
    writer.set_write_timeout(Some(SHORT)).expect("a timeout");
    for _ in 0..5000 {
        // The server stops reading when nobody reads its answers.
        if writer.write_all(request.as_bytes()).is_err() {
            break;
        }
    }
    until("the server lets go", || server.state.open_connections() == 0);
}

#[test]
fn heads_are_bounded() {
    let server = impatient(|_| {});
    let long = "a".repeat(300 << 10);
    for head in [
        format!("GET /{long} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n{}\r\n", "X-Many: 1\r\n".repeat(1000)),
    ] {
        let mut connection = server.connect();
        // It may stop reading in the middle.
        let _ = connection.get_mut().write_all(head.as_bytes());
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    until("all are gone", || server.state.open_connections() == 0);
}

#[test]
fn ids_of_requests_are_echoed_where_they_are_harmless() {
    let server = impatient(|_| {});
    let id_of = |given: &str| {
        let answer = read_all(server.send("GET", "/health", &[("x-request-id", given)], ""));
        answer.lines().find_map(|line| line.strip_prefix("X-Request-Id: ")).expect("an id").to_owned()
    };
    assert_eq!(id_of("my-request_1.2:3"), "my-request_1.2:3");
    for odd in ["", "two words", "quote\"", "{json}", &"a".repeat(129)] {
        let id = id_of(odd);
        assert!(id != odd && id.len() == 16, "{odd}: {id}");
    }
}
