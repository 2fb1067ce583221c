//! Replies as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;

use super::error::Dialect;
use super::generation::Replies;
use crate::engine::Event;

/// A silent stream says so this often: a page can tell a long prompt from a dead server.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// How one API words a stream. Every string is the data of one frame.
pub trait Narrator: Send + 'static {
    /// For errors in the middle.
    const DIALECT: Dialect;
    /// Frames that come at once.
    fn start(&mut self) -> Vec<String>;
    /// Frames for one event of reply `index`.
    fn event(&mut self, index: usize, event: Event) -> Vec<String>;
    /// Frames after the last reply.
    fn end(&mut self) -> Vec<String>;
}

/// The response; dropping it, as happens when the client is gone, drops the replies and so cancels them.
pub fn respond<N: Narrator>(replies: Replies, mut narrator: N) -> Response {
    let story = Story { waiting: narrator.start().into(), replies: Some(replies), narrator };
    let frames = stream::unfold(story, async |mut story| {
        let data = story.next().await?;
        Some((Ok::<_, Infallible>(Frame::default().data(data)), story))
    });
    let mut response =
        Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("reading")).into_response();
    // Proxies that collect output would turn a stream into a lump.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// The data of a frame.
pub fn frame(body: &impl Serialize) -> String {
    // Bodies are plain data: strings, numbers, lists.
    serde_json::to_string(body)
        .unwrap_or_else(|error| super::error::ApiError::internal(error.to_string()).body(Dialect::OpenAi).to_string())
}

struct Story<N> {
    waiting: VecDeque<String>,
    /// `None` after the end or an error.
    replies: Option<Replies>,
    narrator: N,
}

impl<N: Narrator> Story<N> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.waiting.pop_front() {
                return Some(data);
            }
            match self.replies.as_mut()?.next().await {
                Some(Ok((index, event))) => self.waiting.extend(self.narrator.event(index, event)),
                Some(Err(error)) => {
                    self.replies = None;
                    self.waiting.push_back(error.body(N::DIALECT).to_string());
                }
                None => {
                    self.replies = None;
                    self.waiting.extend(self.narrator.end());
                }
            }
        }
    }
}
