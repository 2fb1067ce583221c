//! The real program with many clients at once: some vanish, and once the program itself is killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;

use serde_json::{Value, json};

use crate::program::Server;

const N_STREAMS: usize = 100;
/// So many that slots and queue together take all streams.
const SIZES: [&str; 4] = ["-c", "256", "-np", "40"];
/// What may differ in resident memory after the same load again: the allocator's caches of its threads.
const SLACK_KIB: u64 = 32 << 10;

/// One of a few requests, so that many streams must give the same text.
fn request(kind: usize) -> String {
    let body = json!({
        "prompt": format!("<start_of_turn>user\nQuestion {kind}: what is it?<end_of_turn>\n<start_of_turn>model\n"),
        "seed": 1000 + kind,
        "temperature": 1.2,
        "n_predict": 24,
        "ignore_eos": true,
        "stream": true,
    });
    body.to_string()
}

const N_KINDS: usize = 10;

/// The text of a stream up to its end, or up to `cut` pieces.
fn read_text(stream: &mut BufReader<TcpStream>, cut: Option<usize>) -> String {
    let mut text = String::new();
    let mut n_pieces = 0;
    let mut line = String::new();
    while Some(n_pieces) != cut {
        line.clear();
        assert!(stream.read_line(&mut line).expect("a line") > 0, "the stream ended too early, after: {text}");
        let Some(data) = line.strip_prefix("data: ") else {
            assert!(!line.starts_with("HTTP/1.1 ") || line.starts_with("HTTP/1.1 200"), "{line}");
            continue;
        };
        let part: Value = serde_json::from_str(data).expect("JSON");
        text += part["content"].as_str().unwrap_or_else(|| panic!("no content in {part}"));
        n_pieces += 1;
        if part["stop"] == true {
            assert_eq!(cut, None, "a reply to be cut is long enough");
            break;
        }
    }
    text
}

/// All streams at once; every second one is dropped somewhere in the middle.
fn load(server: &Server, undisturbed: &BTreeMap<usize, String>) {
    let all_sent = Barrier::new(N_STREAMS);
    std::thread::scope(|scope| {
        for number in 0..N_STREAMS {
            let all_sent = &all_sent;
            scope.spawn(move || {
                let kind = number % N_KINDS;
                let mut stream = server.send("POST", "/completion", "", &request(kind));
                all_sent.wait();
                // Which half is dropped does not follow from the kind; where, from the number.
                if (number / N_KINDS + kind).is_multiple_of(2) {
                    let text = read_text(&mut stream, Some(1 + number * 7 % 20));
                    assert!(undisturbed[&kind].starts_with(&text), "{number}: {text}");
                } else {
                    assert_eq!(read_text(&mut stream, None), undisturbed[&kind], "{number}");
                }
            });
        }
    });
    server.wait_until_idle();
}

#[test]
fn a_hundred_streams_of_which_half_are_dropped_leave_no_trace() {
    let server = Server::start("0", &SIZES);
    let alone = |kind| read_text(&mut server.send("POST", "/completion", "", &request(kind)), None);
    let undisturbed: BTreeMap<usize, String> = (0..N_KINDS).map(|kind| (kind, alone(kind))).collect();
    assert!(undisturbed.values().all(|text| text.len() > 20), "{undisturbed:?}");
    // The allocator keeps some of what was freed, for each thread: the first rounds find out how much.
    load(&server, &undisturbed);
    load(&server, &undisturbed);
    let after_two = server.resident_kib();
    load(&server, &undisturbed);
    load(&server, &undisturbed);
    let after_four = server.resident_kib();
    assert!(after_four <= after_two + SLACK_KIB, "{after_two} KiB after two rounds, {after_four} after four");
    let total = server.gauge("gemma2:requests_total");
    assert_eq!(total, (N_KINDS + 4 * N_STREAMS) as f64);
    assert!(server.gauge("gemma2:requests_cancelled_total") > 0.0);
    for name in ["gemma2:requests_failed_total", "gemma2:requests_rejected_total", "llamacpp:requests_processing"] {
        assert_eq!(server.gauge(name), 0.0, "{name}");
    }
    server.stop();
}

/// Neither a length that is told nor one that is not makes the program keep what it will not take: it reads all, and forgets it.
#[test]
fn bodies_of_a_hundred_megabytes_are_refused_and_leave_no_trace() {
    let server = Server::start("0", &SIZES);
    let undisturbed = read_text(&mut server.send("POST", "/completion", "", &request(0)), None);
    let piece = vec![b' '; 1 << 20];
    let send = |is_told: bool| {
        let mut stream = TcpStream::connect(&server.address).expect("a connection");
        let length = if is_told { "Content-Length: 104857600" } else { "Transfer-Encoding: chunked" };
        let head =
            format!("POST /completion HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{length}\r\n\r\n", server.address);
        stream.write_all(head.as_bytes()).expect("to write");
        for _ in 0..100 {
            let parts: &[&[u8]] = if is_told { &[&piece] } else { &[b"100000\r\n", &piece, b"\r\n"] };
            parts.iter().for_each(|part| stream.write_all(part).expect("to write"));
        }
        if !is_told {
            stream.write_all(b"0\r\n\r\n").expect("to write");
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        answer.len()
    };
    let round = || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || send(n % 2 == 0))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
        })
    };
    round();
    let after_one = server.resident_kib();
    round();
    let after_two = server.resident_kib();
    // The allocator gives back what was freed, but not at once: a round less than one body, where it sent 800 MB.
    assert!(after_two <= after_one + 2 * SLACK_KIB, "{after_one} KiB after one round, {after_two} after two");
    assert!(after_one < 1 << 20, "{after_one} KiB");
    assert_eq!(read_text(&mut server.send("POST", "/completion", "", &request(0)), None), undisturbed);
    server.stop();
}

#[test]
fn a_server_that_is_killed_in_the_middle_of_streams_starts_again() {
    let mut server = Server::start("0", &SIZES);
    let undisturbed = read_text(&mut server.send("POST", "/completion", "", &request(0)), None);
    let id = "X-Reply-Id: 0123456789abcdef\r\n";
    let mut streams: Vec<_> = (0..8)
        .map(|number| server.send("POST", "/completion", if number == 0 { id } else { "" }, &request(number)))
        .collect();
    let begun = read_text(&mut streams[0], Some(2));
    server.child.kill().expect("to kill");
    server.child.wait().expect("its end");
    for stream in &mut streams {
        // Ends or breaks off; does not hang.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let port = server.address.rsplit(':').next().expect("a port").to_owned();
    let again = Server::start(&port, &SIZES);
    assert_eq!(again.address, server.address);
    let forgotten = again.get("/replies/0123456789abcdef");
    assert!(forgotten.contains("no such reply"), "{forgotten}");
    let text = read_text(&mut again.send("POST", "/completion", "", &request(0)), None);
    assert_eq!(text, undisturbed);
    assert!(text.starts_with(&begun));
    again.stop();
}
