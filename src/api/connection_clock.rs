//! How long a connection has waited for its client, and a socket that tells.
//!
//! hyper's own limit on heads runs while a connection is idle, too, and does not run before the version of HTTP is
//! known. It has no limit for a client that takes nothing of a reply. So one clock tells these kinds of waiting apart.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::http::Version;
use axum::response::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Sleep;

use super::reply_body::{OpenReplies, ReplyBody};
use super::request_body::BodyProgress;
use super::settings::ConnectionLimits;
use crate::support::lock;

/// The longest time for which the rest of a request is read that was answered before its end. A client that still sends
/// must be able to read the answer, and would lose it if the socket were closed at once.
const LINGER: Duration = Duration::from_secs(2);

/// What a connection has waited for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The rest of a request's head: `server.head_seconds`.
    Head,
    /// Another request: `server.idle_seconds`.
    Idle,
    /// The client to take bytes of a reply: `server.reply_seconds`.
    Reply,
}

impl Overdue {
    /// The reason as a metric's label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Head => "head_seconds",
            Self::Idle => "idle_seconds",
            Self::Reply => "reply_seconds",
        }
    }
}

/// The clock of one connection. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct ConnectionClock(Arc<Clock>);

#[derive(Debug)]
struct Clock {
    waiting: Mutex<Waiting>,
    /// Tells that the connection should end.
    unwanted: Notify,
}

/// What a connection waits for.
#[derive(Debug)]
struct Waiting {
    /// Requests whose handler runs.
    handling: usize,
    /// Replies that are not handed over to hyper as a whole.
    replies: OpenReplies,
    /// Whether a request has come by HTTP/2, in which the head of a request is a matter of frames.
    http2: bool,
    /// Whether the connection should end if it is idle, because others wait for its place.
    unwanted: bool,
    /// Whether the first byte of a head has come, or must come because the connection is new.
    head: bool,
    /// When the present kind of waiting began.
    since: Instant,
    /// When the socket was found to take no more bytes.
    blocked: Option<Instant>,
    /// How far the body of the last request has come.
    body: Option<BodyProgress>,
}

impl ConnectionClock {
    /// The clock of a connection that has just been accepted.
    pub(super) fn start(now: Instant) -> Self {
        let waiting = Mutex::new(Waiting {
            handling: 0,
            replies: OpenReplies::default(),
            http2: false,
            unwanted: false,
            head: true,
            since: now,
            blocked: None,
            body: None,
        });
        Self(Arc::new(Clock {
            waiting,
            unwanted: Notify::new(),
        }))
    }

    /// A number that no other connection has that is open.
    pub(super) fn key(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.0.waiting)
    }

    /// When the connection will have waited for too long, and for what. `None` while the client waits for the server.
    fn deadline(&self, limits: &ConnectionLimits) -> Option<(Instant, Overdue)> {
        let waiting = self.lock();
        if let Some(blocked) = waiting.blocked {
            Some((blocked + limits.reply, Overdue::Reply))
        } else if let Some(since) = waiting.replies.untaken_since() {
            // Whatever else goes over the connection: a stream of HTTP/2 may stand still by itself.
            Some((since + limits.reply, Overdue::Reply))
        } else if waiting.handling > 0 || waiting.replies.is_one_making() {
            None
        } else if waiting.head && !waiting.http2 {
            Some((waiting.since + limits.head, Overdue::Head))
        } else if waiting.unwanted {
            Some((waiting.since, Overdue::Idle))
        } else {
            Some((waiting.since + limits.idle, Overdue::Idle))
        }
    }

    /// Since when the connection is idle, if it is and is not about to end.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let waiting = self.lock();
        let is_busy = waiting.handling > 0 || !waiting.replies.is_empty() || waiting.blocked.is_some();
        let is_head_due = waiting.head && !waiting.http2;
        (!is_busy && !is_head_due && !waiting.unwanted).then_some(waiting.since)
    }

    /// Has the connection end at once, unless a request has come meanwhile.
    pub(super) fn end_if_idle(&self) {
        self.lock().unwanted = true;
        self.0.unwanted.notify_one();
    }

    /// Resolves when the connection has waited for too long.
    ///
    /// This wakes at once when the connection is not wanted any more. Nothing wakes it when the kind of waiting changes: it
    /// looks again after the shortest of the limits, since a deadline that comes up meanwhile lies behind that.
    pub(super) async fn overdue(&self, limits: &ConnectionLimits) -> Overdue {
        let look_again = limits.head.min(limits.idle).min(limits.reply);
        loop {
            let now = Instant::now();
            let mut next = now + look_again;
            if let Some((deadline, overdue)) = self.deadline(limits) {
                if deadline <= now {
                    return overdue;
                }
                next = next.min(deadline);
            }
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                () = self.0.unwanted.notified() => {}
            }
        }
    }

    /// Counts a request whose head has come, until the guard is dropped.
    pub(super) fn handling(&self, version: Version, body: BodyProgress) -> Handling {
        let mut waiting = self.lock();
        waiting.handling += 1;
        waiting.unwanted = false;
        waiting.head = false;
        waiting.http2 |= version == Version::HTTP_2;
        waiting.body = Some(body);
        Handling(self.clone())
    }

    /// Leaves the connection, which was told to end, `server.head_seconds` for that. A request that was on its way is
    /// still handled.
    pub(super) fn expect_end(&self) {
        let mut waiting = self.lock();
        waiting.head = true;
        waiting.http2 = false;
        waiting.since = Instant::now();
    }

    /// Ends the replies of which the client has taken nothing in time, where others may go on beside them: by HTTP/2, as
    /// long as the socket takes bytes. Returns how many these are, or `None` where the connection must end with them.
    pub(super) fn end_untaken(&self, limits: &ConnectionLimits) -> Option<u64> {
        let (replies, is_apart) = {
            let waiting = self.lock();
            (waiting.replies.clone(), waiting.http2 && waiting.blocked.is_none())
        };
        is_apart.then(|| replies.end_untaken(limits.reply))
    }

    /// Whether the client still sends the body of a request that is answered.
    fn is_body_unread(&self) -> bool {
        self.lock().body.as_ref().is_some_and(|body| !body.is_complete())
    }

    fn bytes_came(&self) {
        let mut waiting = self.lock();
        if !waiting.head && waiting.handling == 0 && waiting.replies.is_empty() {
            waiting.head = true;
            waiting.since = Instant::now();
        }
    }

    fn bytes_went(&self) {
        self.lock().blocked = None;
    }

    fn blocked(&self) {
        self.lock().blocked.get_or_insert_with(Instant::now);
    }
}

/// A request whose handler runs.
#[derive(Debug)]
pub(super) struct Handling(ConnectionClock);

impl Handling {
    /// Counts the reply, also as one of `all`, until its body is handed over.
    pub(super) fn reply(
        self,
        response: Response,
        limits: &ConnectionLimits,
        all: &OpenReplies,
    ) -> Response<ReplyBody<Replying>> {
        let of_connection = self.0.lock().replies.clone();
        let replying = Replying(self.0.clone());
        response.map(|body| ReplyBody::new(body, limits.reply, [of_connection, all.clone()], replying))
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.handling -= 1;
        waiting.since = Instant::now();
    }
}

/// A reply under way. At its end the connection may be idle.
#[derive(Debug)]
pub(super) struct Replying(ConnectionClock);

impl Drop for Replying {
    fn drop(&mut self) {
        self.0.lock().since = Instant::now();
    }
}

/// A socket that tells the clock of bytes that come and go. Shutting it down reads the rest of a request for a short
/// time.
pub(super) struct ClockedStream {
    socket: TcpStream,
    clock: ConnectionClock,
    /// Ends the wait for the client once the writing side is shut down.
    linger: Option<Pin<Box<Sleep>>>,
}

impl ClockedStream {
    pub(super) fn new(socket: TcpStream, clock: ConnectionClock) -> Self {
        Self {
            socket,
            clock,
            linger: None,
        }
    }

    fn has_lingered(&mut self, context: &mut Context<'_>) -> bool {
        let linger = self.linger.as_mut();
        linger.is_some_and(|linger| linger.as_mut().poll(context).is_ready())
    }

    fn told<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &written {
            Poll::Ready(Ok(_)) => self.clock.bytes_went(),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.clock.blocked(),
        }
        written
    }
}

impl AsyncRead for ClockedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.clock.bytes_came();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClockedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.told(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.told(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.socket).poll_shutdown(context))?;
            let linger = if self.clock.is_body_unread() {
                LINGER
            } else {
                Duration::ZERO
            };
            self.linger = Some(Box::pin(tokio::time::sleep(linger)));
        }
        let mut rest = [0; 16 * 1024];
        while !self.has_lingered(context) {
            let mut rest = ReadBuf::new(&mut rest);
            match Pin::new(&mut self.socket).poll_read(context, &mut rest) {
                Poll::Ready(Ok(())) if !rest.filled().is_empty() => {}
                // The client has ended, one way or the other.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}
