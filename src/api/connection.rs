//! One connection from its first byte to its last: TLS or not, HTTP/1.1 or HTTP/2, time limits, and a graceful end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::AppState;
use super::connection_clock::{ClockedStream, ConnectionClock, Overdue, Replying};
use super::http_metrics::{CONTENDED_REPLY, ConnectionMetrics};
use super::lifecycle::{Lifecycle, Phase};
use super::reply_body::{OpenReplies, ReplyBody};
use super::request_body::RequestBody;
use super::settings::ConnectionLimits;
use super::tls::Tls;
use crate::engine::Engine;
use crate::support::lock;

/// The most bytes of a head, and of a body in one piece, that a connection buffers. hyper answers a larger head with
/// 431.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// The most fields of a head that are read. hyper answers more with 431.
const MAX_FIELDS: usize = 256;

/// The most requests under way on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// Time for the runtime to see what has come before an idle connection is closed: a request that is here counts.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// Time in which the bytes of a reply that was ended come to those who wait, before another is ended.
const BETWEEN_ENDS: Duration = Duration::from_millis(10);

/// Serves connections.
pub(super) struct Connections {
    tls: Option<Tls>,
    router: Router,
    http: auto::Builder<TokioExecutor>,
    limits: ConnectionLimits,
    /// The clocks of all connections, by their addresses.
    clocks: Mutex<BTreeMap<usize, ConnectionClock>>,
    /// The replies on all connections.
    replies: OpenReplies,
    engine: Arc<Engine>,
    lifecycle: Lifecycle,
    metrics: ConnectionMetrics,
}

impl Connections {
    pub(super) fn new(state: &AppState, tls: Option<Tls>, router: Router) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        // The clock of a connection has its own limit for heads.
        http.http1()
            .header_read_timeout(None)
            .max_buf_size(MAX_BUFFER_BYTES)
            .max_headers(MAX_FIELDS);
        http.http2()
            .max_header_list_size(MAX_BUFFER_BYTES as u32)
            .max_concurrent_streams(MAX_STREAMS);
        Self {
            tls,
            router,
            http,
            limits: state.server.connection_limits(),
            clocks: Mutex::default(),
            replies: OpenReplies::default(),
            engine: Arc::clone(&state.engine),
            lifecycle: state.lifecycle.clone(),
            metrics: ConnectionMetrics::new(&state.metrics, &state.server),
        }
    }

    /// Ends replies whose clients fall behind while requests wait for the bytes that these hold, one after the other, for
    /// ever.
    pub(super) async fn make_room(&self) {
        loop {
            self.engine.work_is_wanted().await;
            if self.replies.end_slowest(self.limits.contended_reply) {
                tracing::debug!("a reply was ended whose client fell behind while others wait");
                self.metrics.replies_ended(CONTENDED_REPLY, 1);
            }
            tokio::time::sleep(BETWEEN_ENDS).await;
        }
    }

    /// Ends the connection that is idle for longest, if that is longer than `server.contended_idle_seconds`. Returns
    /// whether there is one.
    pub(super) fn end_idlest(&self) -> bool {
        let clocks = self.clocks();
        let idle = clocks.values().filter_map(|clock| Some((clock.idle_since()?, clock)));
        let idlest = idle.min_by_key(|(since, _)| *since);
        let overdue = idlest.filter(|(since, _)| since.elapsed() >= self.limits.contended_idle);
        if let Some((_, clock)) = overdue {
            clock.end_if_idle();
        }
        overdue.is_some()
    }

    /// Makes a connection known by its clock, until the guard is dropped.
    fn know(&self, clock: &ConnectionClock) -> Known<'_> {
        let key = clock.key();
        self.clocks().insert(key, clock.clone());
        Known { connections: self, key }
    }

    fn clocks(&self) -> MutexGuard<'_, BTreeMap<usize, ConnectionClock>> {
        lock(&self.clocks)
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(&self, socket: TcpStream, address: SocketAddr) {
        let _open = self.metrics.open();
        // A reply goes out as soon as it is written.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(client = %address, %error, "TCP_NODELAY cannot be set");
        }
        let clock = ConnectionClock::start(Instant::now());
        let _known = self.know(&clock);
        let stream = ClockedStream::new(socket, clock.clone());
        match &self.tls {
            None => self.serve_http(stream, address, &clock).await,
            Some(tls) => {
                if let Some(stream) = self.shake_hands(tls, stream, address, &clock).await {
                    self.serve_http(stream, address, &clock).await;
                }
            }
        }
    }

    /// Returns what the client and the server say to each other in TLS. `None` if they did not come to that.
    async fn shake_hands(
        &self,
        tls: &Tls,
        stream: ClockedStream,
        address: SocketAddr,
        clock: &ConnectionClock,
    ) -> Option<TlsStream<ClockedStream>> {
        tokio::select! {
            biased;
            shaken = tls.accept(stream) => {
                let failed = |error: &io::Error| {
                    tracing::debug!(client = %address, %error, "no TLS came about");
                    self.metrics.no_tls();
                };
                shaken.inspect_err(failed).ok()
            }
            overdue = clock.overdue(&self.limits) => {
                tracing::debug!(client = %address, limit = overdue.name(), "the connection waited for too long");
                self.metrics.overdue(overdue);
                None
            }
        }
    }

    /// Serves HTTP to its end.
    async fn serve_http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        address: SocketAddr,
        clock: &ConnectionClock,
    ) {
        let io = TokioIo::new(stream);
        let service = service_fn(|request| self.answer(request, address, clock));
        let mut connection = pin!(self.http.serve_connection(io, service));
        let mut draining = pin!(async {
            self.lifecycle.reached(Phase::Draining).await;
            tokio::time::sleep(LAST_LOOK).await;
        });
        let mut is_ending = false;
        loop {
            tokio::select! {
                // A request that has come counts before the time that it took.
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(client = %address, error = &*error, "the connection failed");
                    }
                    return;
                }
                overdue = clock.overdue(&self.limits) => {
                    if overdue == Overdue::Reply && let Some(ended) = clock.end_untaken(&self.limits) {
                        tracing::debug!(client = %address, ended, "replies were ended of which nothing was taken");
                        self.metrics.replies_ended(overdue.name(), ended);
                        continue;
                    }
                    tracing::debug!(client = %address, limit = overdue.name(), "the connection waited for too long");
                    self.metrics.overdue(overdue);
                    if is_ending || overdue != Overdue::Idle {
                        return;
                    }
                }
                () = draining.as_mut(), if !is_ending => {}
            }
            is_ending = true;
            clock.expect_end();
            connection.as_mut().graceful_shutdown();
        }
    }

    /// Has the router answer a request.
    fn answer(
        &self,
        request: Request<Incoming>,
        address: SocketAddr,
        clock: &ConnectionClock,
    ) -> impl Future<Output = Result<Response<ReplyBody<Replying>>, Infallible>> + use<> {
        let version = request.version();
        let mut request = request.map(RequestBody::new);
        let progress = request.body().progress();
        let handling = clock.handling(version, progress.clone());
        request.extensions_mut().insert(progress);
        request.extensions_mut().insert(ConnectInfo(address));
        let answered = TowerToHyperService::new(self.router.clone()).call(request.map(Body::new));
        let (lifecycle, limits, replies) = (self.lifecycle.clone(), self.limits, self.replies.clone());
        async move {
            let mut response = answered.await?;
            // HTTP/2 has no such field: the end of its connections is a frame.
            if version < Version::HTTP_2 && lifecycle.phase() > Phase::Serving {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok(handling.reply(response, &limits, &replies))
        }
    }
}

/// A connection that can be ended for another.
struct Known<'connections> {
    connections: &'connections Connections,
    key: usize,
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.connections.clocks().remove(&self.key);
    }
}
