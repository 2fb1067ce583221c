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

/// Ready at the next Ctrl-C or SIGTERM.
pub async fn stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                () = interrupt() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    interrupt().await;
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
