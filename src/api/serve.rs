//! Serving until told to stop, then draining with a deadline.

use std::future::IntoFuture;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::engine::Engine;

/// Serves `router` on `listener` until `shutdown` resolves. Then the engine refuses new work, the
/// listener closes, idle connections are closed, and requests under way may finish within `drain`.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    engine: Arc<Engine>,
    shutdown: impl Future<Output = ()>,
    drain: Duration,
) -> io::Result<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        // An error means that the sender is gone, which ends the server as well.
        let _ = stopped.await;
    });
    let ended_by_signal = async {
        shutdown.await;
        tracing::info!(drain_seconds = drain.as_secs_f64(), "draining");
        engine.drain();
        // The server may have failed already; then there is nobody to tell.
        let _ = stop.send(());
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        served = server.into_future() => served,
        () = ended_by_signal => {
            tracing::warn!("server.drain_seconds passed with requests still under way; they are cut off");
            Ok(())
        }
    }
}
