//! A listener, its connections, and their orderly end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::select_all;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use super::{AppState, Patience, router};

/// Connections served at a time; others wait in the system's queue.
const MAX_CONNECTIONS: usize = 512;

/// Connections from one other machine. This machine's own may be those of a proxy, which stand for many clients.
const MAX_CONNECTIONS_OF_ONE: usize = 128;

/// A request line and all headers together, about: the buffer may end up twice as large.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// What is left to write after the engine has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves until `shutdown` is ready; then running replies get a while to end, and the engine is stopped.
///
/// # Errors
/// None at present: a failing `accept` is tried again.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    serve_all(vec![listener], state, shutdown).await
}

/// The same on several addresses, of which there is at least one.
///
/// # Errors
/// As [`serve`].
pub async fn serve_all(
    listeners: Vec<TcpListener>,
    state: AppState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let service = TowerToHyperService::new(router(state.clone()));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopping) = watch::channel(false);
    let peers = Peers::default();
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let permit = permits.clone().acquire_owned().await;
            let (accepted, ..) = select_all(listeners.iter().map(|one| Box::pin(one.accept()))).await;
            (accepted, permit)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (accepted, permit) = accepted => match accepted {
                Ok((stream, peer)) => {
                    let Some(place) = peers.place(peer.ip()) else {
                        continue;
                    };
                    let open = state.count_connection();
                    let connection = connection(stream, state.options().patience, service.clone(), stopping.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop((open, place, permit));
                    });
                }
                // Out of file descriptors, or the peer was gone already: others may still end.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
    drop(listeners);
    stop.send_replace(true);
    let grace = state.options().shutdown_grace;
    let all_ended = timeout(grace, drain(&mut connections)).await.is_ok();
    if let Ok(ready) = state.ready() {
        let _ = tokio::task::spawn_blocking(move || ready.engine.shutdown()).await;
    }
    if !all_ended {
        let _ = timeout(LAST_WORDS, drain(&mut connections)).await;
    }
    Ok(())
}

async fn drain(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    patience: Patience,
    service: TowerToHyperService<axum::Router>,
    mut stopping: watch::Receiver<bool>,
) {
    // A token is a small packet that somebody waits for.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(patience.write));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            // There are clients that look for `Content-Type` and do not find `content-type`.
            .title_case_headers(true)
            .header_read_timeout(patience.head)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(Box::pin(stream)), service)
    );
    let stop = async {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    tokio::select! {
        _ = &mut connection => return,
        () = stop => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// How many connections each other machine has.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Peers {
    /// A place for one more connection of `peer`, given back when it is dropped; `None` if it has enough.
    fn place(&self, peer: IpAddr) -> Option<Place> {
        if !peer.is_loopback() {
            let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(peer).or_default();
            if *count >= MAX_CONNECTIONS_OF_ONE {
                return None;
            }
            *count += 1;
        }
        Some(Place { peers: self.clone(), peer })
    }
}

struct Place {
    peers: Peers,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.peer) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_other_machine_does_not_take_all_places() {
        let peers = Peers::default();
        let (greedy, modest) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut places: Vec<_> = (0..MAX_CONNECTIONS_OF_ONE).filter_map(|_| peers.place(greedy)).collect();
        assert_eq!(places.len(), MAX_CONNECTIONS_OF_ONE);
        assert!(peers.place(greedy).is_none());
        assert!(peers.place(modest).is_some());
        places.pop();
        assert!(peers.place(greedy).is_some());
        drop(places);
        assert!(peers.0.lock().expect("no panic").is_empty());
        let own: Vec<_> = (0..MAX_CONNECTIONS).filter_map(|_| peers.place(IpAddr::from([127, 0, 0, 1]))).collect();
        assert_eq!(own.len(), MAX_CONNECTIONS, "a proxy on this machine");
    }
}
