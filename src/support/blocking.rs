//! Work that would hold up the threads that answer requests.

use std::panic::resume_unwind;

/// Runs work that computes for milliseconds or waits for a disk on a thread of tokio's blocking pool, and returns its result.
/// The work goes on to its end when the caller gives up.
///
/// # Panics
/// When the work does, with the same payload.
pub(crate) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Nobody cancels such a task, so the error is a panic.
        Err(error) => resume_unwind(error.into_panic()),
    }
}
