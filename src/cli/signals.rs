//! Ctrl-C and SIGTERM.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::CliError;

/// A runtime for one thread that waits for events and signals together.
///
/// # Errors
/// The system refuses.
pub fn small_runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::System(format!("the asynchronous runtime does not start: {error}")))
}

/// Ready at the next Ctrl-C. Never where the system cannot tell.
pub async fn interrupt() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Ready at the next Ctrl-C or SIGTERM. On Windows, where nothing is like SIGTERM, when the console closes or the system
/// does, or at Ctrl-Break.
pub async fn stop() {
    tokio::select! {
        () = interrupt() => {}
        () = terminate() => {}
    }
}

#[cfg(unix)]
async fn terminate() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => _ = terminate.recv().await,
        Err(_) => std::future::pending().await,
    }
}

#[cfg(windows)]
async fn terminate() {
    use tokio::signal::windows::{ctrl_break, ctrl_close, ctrl_shutdown};
    let (Ok(mut by_key), Ok(mut close), Ok(mut shutdown)) = (ctrl_break(), ctrl_close(), ctrl_shutdown()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = by_key.recv() => {}
        _ = close.recv() => {}
        _ = shutdown.recv() => {}
    }
}

/// A flag that Ctrl-C raises, for loops that look at it.
///
/// # Errors
/// The system refuses a thread.
pub fn interrupt_flag() -> Result<Arc<AtomicBool>, CliError> {
    let flag = Arc::new(AtomicBool::new(false));
    let runtime = small_runtime()?;
    let raised = flag.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(interrupt());
            raised.store(true, Ordering::Relaxed);
        })
        .map_err(|error| CliError::System(format!("no thread for signals: {error}")))?;
    Ok(flag)
}
