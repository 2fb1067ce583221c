//! Replies as streams: server-sent events, or lines of JSON (NDJSON).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::time::timeout;

use super::error::{ApiError, Dialect};
use super::generation::Replies;
use crate::engine::Event;

/// A silent stream of events says so this often: a page can tell a long prompt from a dead server.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A comment, which readers of events pass over.
const SIGN_OF_LIFE: &str = ": reading\n\n";

/// The last event of OpenAI's streams.
pub const DONE: &str = "data: [DONE]\n\n";

/// What tells one frame from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events, as [`frame`] and [`named`] make them.
    Events,
    /// Objects on a line each, as [`line()`] makes them. There is no sign of life: clients parse every line.
    Lines,
}

impl Framing {
    /// The content type of such a stream.
    pub const fn content_type(self) -> &'static str {
        match self {
            Framing::Events => "text/event-stream",
            Framing::Lines => "application/x-ndjson",
        }
    }
}

/// How one API words a stream. Every string is a whole frame.
pub trait Narrator: Send + 'static {
    /// For errors in the middle.
    const DIALECT: Dialect;
    /// What the frames look like.
    const FRAMING: Framing = Framing::Events;
    /// Frames that come at once.
    fn start(&mut self) -> Vec<String>;
    /// Frames for one event of reply `index`.
    fn event(&mut self, index: usize, event: Event) -> Vec<String>;
    /// Frames after the last reply.
    fn end(&mut self) -> Vec<String>;
    /// Frames for an error in the middle, instead of all that would have followed.
    fn failed(&mut self, error: &ApiError) -> Vec<String> {
        vec![frame(&error.body(Self::DIALECT))]
    }
}

/// The response; dropping it, as happens when the client is gone, drops the replies and so cancels them.
pub fn respond<N: Narrator>(replies: Replies, mut narrator: N) -> Response {
    let story = Story { waiting: narrator.start().into(), replies: Some(replies), narrator };
    let frames = stream::unfold(story, async |mut story| {
        let frame = match N::FRAMING {
            Framing::Lines => story.next().await?,
            Framing::Events => {
                let next = timeout(KEEP_ALIVE, story.next()).await;
                next.unwrap_or_else(|_| Some(SIGN_OF_LIFE.to_owned()))?
            }
        };
        Some((Ok::<_, Infallible>(frame), story))
    });
    let mut response = Body::from_stream(frames).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(N::FRAMING.content_type()));
    // Proxies that collect output would turn a stream into a lump.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// An event.
pub fn frame(body: &impl Serialize) -> String {
    format!("data: {}\n\n", json(body))
}

/// An event with a name.
pub fn named(name: &str, body: &impl Serialize) -> String {
    format!("event: {name}\ndata: {}\n\n", json(body))
}

/// A line.
pub fn line(body: &impl Serialize) -> String {
    format!("{}\n", json(body))
}

/// On one line: JSON escapes line breaks in strings.
fn json(body: &impl Serialize) -> String {
    // Bodies are plain data: strings, numbers, lists.
    serde_json::to_string(body)
        .unwrap_or_else(|error| ApiError::internal(error.to_string()).body(Dialect::OpenAi).to_string())
}

struct Story<N> {
    waiting: VecDeque<String>,
    /// `None` after the end or an error.
    replies: Option<Replies>,
    narrator: N,
}

impl<N: Narrator> Story<N> {
    /// The next frame. Nothing is lost where this is dropped while it waits.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                return Some(frame);
            }
            match self.replies.as_mut()?.next().await {
                Some(Ok((index, event))) => self.waiting.extend(self.narrator.event(index, event)),
                Some(Err(error)) => {
                    self.replies = None;
                    self.waiting.extend(self.narrator.failed(&error));
                }
                None => {
                    self.replies = None;
                    self.waiting.extend(self.narrator.end());
                }
            }
        }
    }
}
