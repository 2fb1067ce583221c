//! The real program as a server, with the demo model.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::util::{Folder, signal, spawn};

/// A server with the demo model.
pub struct Server {
    pub child: Child,
    pub address: String,
    pub folder: Folder,
}

impl Server {
    /// On this port, `0` for any.
    pub fn start(port: &str, args: &[&str]) -> Server {
        let folder = Folder::new();
        let mut child = spawn(folder.program().args(["--server", "--port", port]).args(args));
        let mut url = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        stdout.read_line(&mut url).expect("the URL");
        child.stdout = Some(stdout.into_inner());
        let address = url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        assert!(!address.is_empty(), "the server did not start");
        Server { child, address, folder }
    }

    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all((head + body).as_bytes()).expect("to write");
        BufReader::new(stream)
    }

    pub fn get(&self, path: &str) -> String {
        let mut answer = String::new();
        self.send("GET", path, "", "").read_to_string(&mut answer).expect("an answer");
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    }

    pub fn gauge(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics");
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {metrics}"))
    }

    pub fn wait_until_idle(&self) {
        let start = Instant::now();
        loop {
            let slots: Value = serde_json::from_str(&self.get("/slots")).expect("JSON");
            let busy = slots.as_array().expect("a list").iter().any(|slot| slot["is_processing"] == true);
            if !busy && self.gauge("llamacpp:requests_deferred") == 0.0 {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "slots are still taken: {slots}");
            std::thread::yield_now();
        }
    }

    /// SIGTERM, and an orderly end. Returns what it said on stderr.
    pub fn stop(mut self) -> String {
        signal(&self.child, "TERM");
        let mut stderr = String::new();
        self.child.stderr.take().expect("stderr").read_to_string(&mut stderr).expect("UTF-8");
        assert_eq!(self.child.wait().expect("its end").code(), Some(0), "{stderr}");
        stderr
    }

    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where a test has failed nobody has stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
