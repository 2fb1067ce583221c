//! One line for each request: who asked for what, how it ended and how long it took, under an id that the client gets too.
//!
//! A line never holds what people keep secret: no headers, no bodies, no query, and of a path only its route, since
//! whoever knows a reply's id may read the reply.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tracing::{Instrument, info, info_span};

/// Sent by clients that number their requests, and in every response.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What `tracing` knows these lines by.
pub const TARGET: &str = "gemma2::http";

/// Everything passes here first.
pub async fn log(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut line = Line {
        id: id.to_str().unwrap_or_default().to_owned(),
        method: request.method().clone(),
        route: route.unwrap_or_else(|| "page".into()),
        status: None,
        start: Instant::now(),
        n_bytes: 0,
        is_whole: false,
    };
    let span = info_span!(target: TARGET, "request", id = line.id);
    let response = next.run(request).instrument(span).await;
    line.status = Some(response.status());
    let mut response = response.map(|body| Body::new(Logged { body, line }));
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The client's own id where it is harmless in a log and a header, otherwise a fresh one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_plain = |id: &str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    let given = headers.get(REQUEST_ID).filter(|id| id.to_str().is_ok_and(is_plain));
    given.cloned().unwrap_or_else(|| {
        let fresh = super::generation::draw_id();
        HeaderValue::try_from(fresh).unwrap_or(HeaderValue::from_static("none"))
    })
}

/// Written when it is dropped, which is when the response is.
struct Line {
    id: String,
    method: Method,
    route: String,
    /// None where the client left before the answer began.
    status: Option<StatusCode>,
    start: Instant,
    n_bytes: u64,
    /// The body was sent to its end.
    is_whole: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(
            target: TARGET,
            id = self.id,
            method = %self.method,
            route = self.route,
            status = self.status.map(|status| status.as_u16()),
            ms,
            bytes = self.n_bytes,
            end = if self.is_whole { "sent" } else { "cut" },
            "request"
        );
    }
}

/// A body that counts.
struct Logged {
    body: Body,
    line: Line,
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.line.n_bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Poll::Ready(None) => self.line.is_whole = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // A body of known length is not asked for its end.
        self.line.is_whole |= self.body.is_end_stream();
    }
}
