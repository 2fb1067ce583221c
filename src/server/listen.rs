//! A listener, its connections, and their orderly end.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{AppState, router};

/// Connections served at a time; others wait in the system's queue.
const MAX_CONNECTIONS: usize = 256;

/// A request line and all headers together.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// From a connection's start, or the last response, to the end of the next request's headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What is left to write after the engine has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves until `shutdown` is ready; then running replies get a while to end, and the engine is stopped.
///
/// # Errors
/// None at present: a failing `accept` is tried again.
pub async fn serve(listener: TcpListener, state: AppState, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let service = TowerToHyperService::new(router(state.clone()));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let permit = permits.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (accepted, permit) = accepted => match accepted {
                Ok((stream, _)) => {
                    let open = state.count_connection();
                    let connection = connection(stream, service.clone(), stopping.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop((open, permit));
                    });
                }
                // Out of file descriptors, or the peer was gone already: others may still end.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
    drop(listener);
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
    service: TowerToHyperService<axum::Router>,
    mut stopping: watch::Receiver<bool>,
) {
    // A token is a small packet that somebody waits for.
    let _ = stream.set_nodelay(true);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
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
