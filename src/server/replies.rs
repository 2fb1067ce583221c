//! Replies that outlive their connection.
//!
//! A `POST` that carries the header `x-reply-id: ID` belongs to the server and not to its socket: the reply goes on when
//! the connection breaks, and what comes of it is kept for a while.
//!
//! - `GET /replies/ID?offset=N` gives the reply from its event `N` on, first what is there and then what comes. The
//!   events of a stream are numbered from 1 in their `id:` field, so `N` is the last `id` that was seen, which an
//!   `EventSource` sends by itself as `Last-Event-ID`. Without either the reply begins at its start.
//! - `POST /replies/ID/stop` ends it. What it has is kept.
//! - `x-reply-state` in the response says how it stood when the response began: `running`, `finished` or `stopped`.
//! - An `ID` is 16 to 64 letters, digits, `-` and `_`. Whoever knows it may read and stop the reply, behind the same
//!   checks of host, origin and key as everything else; the client makes it unguessable.
//!
//! A reply is whatever the handler answers, in any of the APIs, streamed or not. What is kept is bounded in bytes for each
//! reply (its oldest events go first), in bytes for all (those that ended first go first), in number and in time. A
//! request that is refused keeps nothing. Requests without the header end with their connection.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::AppState;
use super::error::ApiError;
use super::sse::KEEP_ALIVE;

const REPLY_ID: HeaderName = HeaderName::from_static("x-reply-id");
const REPLY_STATE: HeaderName = HeaderName::from_static("x-reply-state");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct ReplyLimits {
    /// Bytes of one reply; its oldest events are dropped first.
    pub reply_bytes: usize,
    /// Bytes of all replies together.
    pub total_bytes: usize,
    /// Replies, running and ended.
    pub n_replies: usize,
    /// How long a reply is kept after its end.
    pub keep: Duration,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        ReplyLimits { reply_bytes: 8 << 20, total_bytes: 64 << 20, n_replies: 256, keep: Duration::from_secs(30 * 60) }
    }
}

/// The routes.
pub fn routes() -> Router<AppState> {
    Router::new().route("/replies/{id}", get(reattach)).route("/replies/{id}/stop", post(stop))
}

/// Runs requests that carry an id apart from their connection, all others as they are.
pub async fn keep(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(id) = request.headers().get(REPLY_ID) else {
        return next.run(request).await;
    };
    let kept = match parse_id(id).and_then(|id| state.replies().open(id)) {
        Ok(kept) => kept,
        Err(error) => return error.into_response(),
    };
    tokio::spawn(run(Arc::clone(state.replies()), Arc::clone(&kept), request, next));
    attach(kept, 0).await.unwrap_or_else(IntoResponse::into_response)
}

#[derive(Deserialize)]
struct ReattachQuery {
    offset: Option<usize>,
}

/// `GET /replies/{id}`
async fn reattach(
    State(state): State<AppState>,
    Path(id): Path<String>,
    query: Result<Query<ReattachQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(ReattachQuery { offset }) =
        query.map_err(|_| ApiError::invalid(Some("offset".to_owned()), "`offset` must be a number of events"))?;
    let last_seen = match headers.get(LAST_EVENT_ID) {
        None => None,
        Some(value) => Some(value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            ApiError::invalid(Some(LAST_EVENT_ID.to_string()), "`last-event-id` must be the id of an event")
        })?),
    };
    let kept = state.replies().get(&id)?;
    attach(kept, offset.or(last_seen).unwrap_or(0)).await
}

#[derive(Serialize)]
struct Stopped {
    id: String,
    state: &'static str,
    /// How many events there are.
    events: usize,
}

/// `POST /replies/{id}/stop`
async fn stop(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<Stopped>, ApiError> {
    let kept = state.replies().get(&id)?;
    kept.end(Ending::Stopped);
    let record = kept.record.borrow();
    Ok(Json(Stopped { id, state: record.state(), events: record.n_events() }))
}

fn parse_id(value: &HeaderValue) -> Result<&str, ApiError> {
    let is_plain = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    value.to_str().ok().filter(|id| (16..=64).contains(&id.len()) && is_plain(id)).ok_or_else(|| {
        ApiError::invalid(
            Some(REPLY_ID.to_string()),
            "`x-reply-id` must be 16 to 64 letters, digits, `-` and `_` that nobody can guess",
        )
    })
}

/// Runs the handler to its end, or until the reply is stopped, which drops the handler's response and so cancels what it
/// stands for.
async fn run(replies: Arc<Replies>, kept: Arc<Kept>, request: Request, next: Next) {
    // Also when the handler panics.
    let _finished = Finished { replies: &replies, kept: &kept };
    let reply = async {
        let (head, body) = next.run(request).await.into_parts();
        let is_refused = !head.status.is_success();
        let head = Head::new(head);
        let is_stream = head.is_stream;
        kept.record.send_modify(|record| record.head = Some(head));
        let mut body = body.into_data_stream();
        while let Some(Ok(piece)) = body.next().await {
            // Comments only say that the stream is alive; each reader gets its own.
            if !(is_stream && piece.starts_with(b":")) {
                replies.push(&kept, piece);
            }
        }
        if is_refused {
            replies.forget(&kept);
        }
    };
    let mut record = kept.record.subscribe();
    let stopped = async {
        let _ = record.wait_for(|record| record.ending.is_some()).await;
    };
    tokio::select! {
        () = reply => {}
        () = stopped => {}
    }
}

struct Finished<'a> {
    replies: &'a Arc<Replies>,
    kept: &'a Kept,
}

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.kept.end(Ending::Finished);
        self.replies.see_to_sweeping();
    }
}

/// Drops ended replies when they are old enough, until there are none.
async fn sweep(replies: Weak<Replies>) {
    while let Some(due) = replies.upgrade().and_then(|replies| replies.drop_old()) {
        sleep_until(due).await;
    }
}

/// A response that tells the reply from event `offset` on.
///
/// # Errors
/// 400 beyond the events there are, 410 where events are gone, or where the reply was stopped before it began.
async fn attach(kept: Arc<Kept>, offset: usize) -> Result<Response, ApiError> {
    let mut updates = kept.record.subscribe();
    let (head, state) = {
        let record = updates.wait_for(|record| record.head.is_some() || record.ending.is_some()).await;
        let record = record.map_err(|_| ApiError::gone("the reply is gone"))?;
        if offset < record.n_dropped {
            return Err(ApiError::gone(format!("the first {} events of the reply are gone", record.n_dropped)));
        }
        if offset > record.n_events() {
            let message = format!("`offset` is {offset} and the reply has {} events so far", record.n_events());
            return Err(ApiError::invalid(Some("offset".to_owned()), message));
        }
        let head = record.head.clone().ok_or_else(|| ApiError::gone("the reply was stopped before it began"))?;
        (head, record.state())
    };
    let reader = Reader { _kept: kept, updates, at: offset, is_stream: head.is_stream };
    let pieces = stream::unfold(reader, async |mut reader| Some((reader.next().await?, reader)));
    let mut response = head.response(Body::from_stream(pieces));
    response.headers_mut().insert(REPLY_STATE, HeaderValue::from_static(state));
    Ok(response)
}

/// One connection to a reply.
struct Reader {
    /// Holds the sender of `updates`.
    _kept: Arc<Kept>,
    updates: watch::Receiver<Record>,
    /// Events told so far.
    at: usize,
    is_stream: bool,
}

impl Reader {
    /// The next event with its number, or a comment where none comes for a while; `None` at the end.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let at = self.at;
            let is_news = |record: &Record| record.n_events() > at || record.ending.is_some();
            let Ok(record) = timeout(KEEP_ALIVE, self.updates.wait_for(is_news)).await else {
                if self.is_stream {
                    return Some(Ok(Bytes::from_static(b": waiting\n\n")));
                }
                continue;
            };
            let record = record.ok()?;
            if at < record.n_dropped {
                return Some(Err(io::Error::other("the reader is too slow: the next event is gone")));
            }
            let piece = record.pieces.get(at - record.n_dropped)?;
            let piece = match self.is_stream {
                true => Bytes::from([format!("id: {}\n", at + 1).as_bytes(), piece].concat()),
                false => piece.clone(),
            };
            self.at += 1;
            return Some(Ok(piece));
        }
    }
}

/// A reply and whoever waits for more of it.
struct Kept {
    id: String,
    record: watch::Sender<Record>,
}

impl Kept {
    /// The first ending counts.
    fn end(&self, ending: Ending) {
        self.record.send_if_modified(|record| {
            let ends = record.ending.is_none();
            if ends {
                record.ending = Some((ending, Instant::now()));
            }
            ends
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Finished,
    Stopped,
}

/// What has come of a reply so far.
#[derive(Default)]
struct Record {
    head: Option<Head>,
    /// The handler's frames: an event of a stream each.
    pieces: VecDeque<Bytes>,
    /// Pieces before the first of `pieces`.
    n_dropped: usize,
    n_bytes: usize,
    ending: Option<(Ending, Instant)>,
}

impl Record {
    fn n_events(&self) -> usize {
        self.n_dropped + self.pieces.len()
    }

    fn state(&self) -> &'static str {
        match self.ending {
            None => "running",
            Some((Ending::Finished, _)) => "finished",
            Some((Ending::Stopped, _)) => "stopped",
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(piece) = self.pieces.pop_front() {
            self.n_dropped += 1;
            self.n_bytes -= piece.len();
        }
    }
}

/// The head of the handler's response.
#[derive(Clone)]
struct Head {
    status: StatusCode,
    headers: HeaderMap,
    error: Option<ApiError>,
    is_stream: bool,
}

impl Head {
    fn new(parts: axum::http::response::Parts) -> Head {
        let mut headers = parts.headers;
        // A reader gets a part of it.
        headers.remove(header::CONTENT_LENGTH);
        let content_type = headers.get(header::CONTENT_TYPE);
        let is_stream = content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        Head { status: parts.status, headers, error: parts.extensions.get().cloned(), is_stream }
    }

    fn response(self, body: Body) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        if let Some(error) = self.error {
            response.extensions_mut().insert(error);
        }
        response
    }
}

/// All replies that run under an id or have ended not long ago.
pub(super) struct Replies {
    limits: ReplyLimits,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    replies: HashMap<String, Arc<Kept>>,
    n_bytes: usize,
    /// A task waits for the next reply to grow too old.
    is_swept: bool,
}

impl Replies {
    pub(super) fn new(limits: ReplyLimits) -> Replies {
        Replies { limits, shelf: Mutex::default() }
    }

    /// How many there are, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        let shelf = self.lock();
        (shelf.replies.len(), shelf.n_bytes)
    }

    /// Begins a reply.
    fn open(&self, id: &str) -> Result<Arc<Kept>, ApiError> {
        let mut shelf = self.lock();
        if shelf.replies.contains_key(id) {
            return Err(ApiError::conflict(format!("there is a reply `{id}` already"), format!("`GET /replies/{id}`")));
        }
        while shelf.replies.len() >= self.limits.n_replies {
            if !shelf.remove_first_ended() {
                return Err(ApiError::unavailable("too many replies are running"));
            }
        }
        let kept = Arc::new(Kept { id: id.to_owned(), record: watch::Sender::default() });
        shelf.replies.insert(id.to_owned(), Arc::clone(&kept));
        Ok(kept)
    }

    fn get(&self, id: &str) -> Result<Arc<Kept>, ApiError> {
        let found = self.lock().replies.get(id).cloned();
        found.ok_or_else(|| ApiError::not_found("there is no such reply here, or not any more"))
    }

    /// Adds a piece, and makes room for it: ended replies go first, then what this one began with.
    fn push(&self, kept: &Kept, piece: Bytes) {
        let mut shelf = self.lock();
        kept.record.send_modify(|record| {
            // Stopped, and perhaps removed already.
            if record.ending.is_some() {
                return;
            }
            record.n_bytes += piece.len();
            shelf.n_bytes += piece.len();
            record.pieces.push_back(piece);
            while record.n_bytes > self.limits.reply_bytes && record.pieces.len() > 1 {
                shelf.n_bytes -= record.pieces[0].len();
                record.drop_oldest();
            }
        });
        while shelf.n_bytes > self.limits.total_bytes && shelf.remove_first_ended() {}
        if shelf.n_bytes > self.limits.total_bytes {
            kept.record.send_modify(|record| {
                while shelf.n_bytes > self.limits.total_bytes && record.pieces.len() > 1 {
                    shelf.n_bytes -= record.pieces[0].len();
                    record.drop_oldest();
                }
            });
        }
    }

    fn forget(&self, kept: &Arc<Kept>) {
        let mut shelf = self.lock();
        if shelf.replies.get(&kept.id).is_some_and(|found| Arc::ptr_eq(found, kept)) {
            shelf.remove(&kept.id);
        }
    }

    /// A reply has ended: one task drops all of them in time.
    fn see_to_sweeping(self: &Arc<Self>) {
        // While a runtime is being dropped nobody can be asked for the task; then nobody will miss it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let was_swept = std::mem::replace(&mut self.lock().is_swept, true);
        if !was_swept {
            runtime.spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Drops what is too old; when the next one will be, if there is one.
    fn drop_old(&self) -> Option<Instant> {
        let mut shelf = self.lock();
        let now = Instant::now();
        while let Some((id, ended)) = shelf.first_ended() {
            let due = ended + self.limits.keep;
            if due > now {
                return Some(due);
            }
            shelf.remove(&id);
        }
        shelf.is_swept = false;
        None
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        // Nothing under the lock panics.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn first_ended(&self) -> Option<(String, Instant)> {
        let ended = self.replies.iter().filter_map(|(id, kept)| Some((id, kept.record.borrow().ending?.1)));
        ended.min_by_key(|(_, at)| *at).map(|(id, at)| (id.clone(), at))
    }

    fn remove_first_ended(&mut self) -> bool {
        self.first_ended().is_some_and(|(id, _)| self.remove(&id))
    }

    fn remove(&mut self, id: &str) -> bool {
        let removed = self.replies.remove(id);
        if let Some(kept) = &removed {
            self.n_bytes -= kept.record.borrow().n_bytes;
        }
        removed.is_some()
    }
}
