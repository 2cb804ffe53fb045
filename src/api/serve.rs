//! Serving until told to stop: accepting connections, then the way to the end.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::connection::Connections;
use super::health::NO_KEYS;
use super::lifecycle::Phase;
use super::tls::Tls;
use super::{AppState, router};

/// Time for the last answers to leave once requests are cut off.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Time in which a place may become free by itself before an idle connection is ended for it.
const BEFORE_END: Duration = Duration::from_millis(20);

/// Time for the end of an idle connection, before another is ended in its place.
const AFTER_END: Duration = Duration::from_secs(2);

/// Pause after a failure to accept, such as too few file descriptors, until some may be free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Serves on `listener`, over TLS if it is given, until `stop` resolves, then comes to an end.
///
/// `stop` gives the time for which the server says that it is not ready, but answers as before. Then the engine refuses
/// new work, the listener closes, idle connections are closed, and requests under way may finish within
/// `server.drain_seconds`. Those that do not are answered with 503. Returns when that time ends or would have ended.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    state: AppState,
    stop: impl Future<Output = Duration>,
) -> Instant {
    if state.is_open_to_the_network() {
        tracing::warn!("{NO_KEYS}");
    }
    let open = Arc::new(Semaphore::new(state.server.max_connections as usize));
    let connections = Arc::new(Connections::new(&state, tls, router(state.clone())));
    // Ended with this function.
    let mut making_room = JoinSet::new();
    making_room.spawn({
        let connections = Arc::clone(&connections);
        async move { connections.make_room().await }
    });
    let stopping = async {
        let unready = stop.await;
        if !unready.is_zero() {
            tracing::info!(
                unready_seconds = unready.as_secs_f64(),
                "not ready, but still answering"
            );
            state.lifecycle.enter(Phase::Leaving);
            tokio::time::sleep(unready).await;
        }
    };
    let mut next = None;
    tokio::select! {
        () = stopping => {}
        () = accept(&listener, &open, &connections, &mut next) => {}
    }
    tracing::info!(drain_seconds = state.server.drain_seconds, "draining");
    accept_waiting(&listener, &open, &connections, next).await;
    state.engine.drain();
    state.lifecycle.enter(Phase::Draining);
    drop(listener);
    let until = Instant::now() + Duration::from_secs_f64(state.server.drain_seconds);
    if tokio::time::timeout_at(until.into(), all_closed(&open, &state))
        .await
        .is_err()
    {
        tracing::warn!("server.drain_seconds passed with requests still under way; they are answered with 503");
        state.lifecycle.enter(Phase::CutOff);
        if tokio::time::timeout(LAST_ANSWERS, all_closed(&open, &state))
            .await
            .is_err()
        {
            tracing::warn!("connections whose clients do not take their answers are cut off");
        }
    }
    until
}

/// Accepts connections for ever, as many as there are permits. `next` is one that has none yet.
async fn accept(
    listener: &TcpListener,
    open: &Arc<Semaphore>,
    connections: &Arc<Connections>,
    next: &mut Option<(TcpStream, SocketAddr)>,
) {
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                *next = Some(accepted);
                let permit = place(open, connections).await;
                if let Some(accepted) = next.take() {
                    spawn(accepted, permit, connections);
                }
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for the place of a connection. Idle connections end for it.
async fn place(open: &Arc<Semaphore>, connections: &Connections) -> OwnedSemaphorePermit {
    let mut pause = BEFORE_END;
    loop {
        let permit = Arc::clone(open).acquire_owned();
        if let Ok(permit) = tokio::time::timeout(pause, permit).await {
            return permit.expect("nobody closes this semaphore");
        }
        pause = if connections.end_idlest() {
            AFTER_END
        } else {
            BEFORE_END
        };
    }
}

/// Accepts the connections that wait already, `next` before all. Closing the listener would reset them, though their
/// clients came in time.
async fn accept_waiting(
    listener: &TcpListener,
    open: &Arc<Semaphore>,
    connections: &Arc<Connections>,
    mut next: Option<(TcpStream, SocketAddr)>,
) {
    let now = || poll_fn(|context| Poll::Ready(listener.poll_accept(context)));
    while let Ok(permit) = Arc::clone(open).try_acquire_owned() {
        let accepted = match next.take() {
            Some(next) => next,
            None => match now().await {
                Poll::Ready(Ok(accepted)) => accepted,
                _ => return,
            },
        };
        spawn(accepted, permit, connections);
    }
}

/// Serves a connection, which keeps its permit to its end, in a task of its own.
fn spawn((socket, address): (TcpStream, SocketAddr), permit: OwnedSemaphorePermit, connections: &Arc<Connections>) {
    let connections = Arc::clone(connections);
    tokio::spawn(async move {
        connections.serve(socket, address).await;
        drop(permit);
    });
}

/// Waits until no connection is open.
async fn all_closed(open: &Semaphore, state: &AppState) {
    let all = open.acquire_many(state.server.max_connections).await;
    drop(all.expect("nobody closes this semaphore"));
}

/// Whether the client went before it was accepted.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
