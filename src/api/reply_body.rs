//! A reply's body on its way to the client: in pieces, so that what the client has taken is known, and ended where it
//! takes nothing.
//!
//! hyper asks for the next piece once it has passed on the one before. It does not say when a client takes no more, and
//! drops a body only with its stream. So whoever ends a reply takes its content away, and hyper keeps an empty shell.

use std::collections::BTreeMap;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};

use crate::support::lock;

/// Most bytes of a reply that hyper gets at once: a frame of HTTP/2.
const PIECE_BYTES: usize = 16 * 1024;

/// Replies that are not handed over as a whole, by their addresses. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenReplies(Arc<Mutex<BTreeMap<usize, Arc<OpenReply>>>>);

impl OpenReplies {
    /// Whether one of them is not made as far as its client would take it, which waits for the server.
    pub(super) fn is_one_making(&self) -> bool {
        lock(&self.0).values().any(|reply| lock(&reply.progress).is_making)
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// Since when a client takes nothing of the one of which it has taken nothing for longest. Those for which the client
    /// waits do not count, nor those that were ended.
    pub(super) fn untaken_since(&self) -> Option<Instant> {
        lock(&self.0).values().filter_map(|reply| reply.untaken_since()).min()
    }

    /// Ends those of which nothing was taken for so long. Returns how many these are.
    pub(super) fn end_untaken(&self, limit: Duration) -> u64 {
        let now = Instant::now();
        let is_overdue = |since: Instant| now.saturating_duration_since(since) >= limit;
        let overdue: Vec<_> = {
            let replies = lock(&self.0);
            let overdue = replies
                .values()
                .filter(|reply| reply.untaken_since().is_some_and(is_overdue));
            overdue.map(Arc::clone).collect()
        };
        overdue.into_iter().filter(|reply| reply.end()).count() as u64
    }

    /// Ends the one whose client is the furthest behind, if that is more than `limit`. Returns whether there was one.
    pub(super) fn end_slowest(&self, limit: Duration) -> bool {
        let now = Instant::now();
        let slowest = {
            let replies = lock(&self.0);
            let slowest = replies.values().max_by_key(|reply| reply.behind(now));
            slowest.filter(|reply| reply.behind(now) > limit).map(Arc::clone)
        };
        slowest.is_some_and(|reply| reply.end())
    }

    fn add(&self, reply: &Arc<OpenReply>) {
        lock(&self.0).insert(Arc::as_ptr(reply).addr(), Arc::clone(reply));
    }

    fn remove(&self, reply: &Arc<OpenReply>) {
        lock(&self.0).remove(&Arc::as_ptr(reply).addr());
    }
}

/// A reply that is not handed over as a whole.
#[derive(Debug)]
struct OpenReply {
    content: Mutex<Content>,
    progress: Mutex<Progress>,
    /// The time in which the client should take the whole.
    whole: Duration,
    /// The bytes of the whole, where these are known.
    bytes: Option<u64>,
}

/// What is still to be handed over.
#[derive(Debug)]
struct Content {
    body: Body,
    /// What is left of the body's last frame.
    rest: Bytes,
    is_ended: bool,
}

/// How far a client is with a reply.
#[derive(Debug)]
struct Progress {
    /// Whether the next bytes are not there yet, so that the client waits for the server.
    is_making: bool,
    is_ended: bool,
    /// When the last bytes were handed over, or there were bytes again.
    since: Instant,
    /// How far the client was behind then.
    behind: Duration,
}

impl Progress {
    fn behind(&self, now: Instant) -> Duration {
        if self.is_making || self.is_ended {
            return Duration::ZERO;
        }
        self.behind + now.saturating_duration_since(self.since)
    }

    /// Notes that a client has taken what it may take so much time for. Time that it does not use is lost.
    fn took(&mut self, time: Duration, now: Instant) {
        self.behind = self.behind(now).saturating_sub(time);
        self.since = now;
        self.is_making = false;
    }
}

impl OpenReply {
    fn new(body: Body, whole: Duration) -> Self {
        let bytes = body.size_hint().exact();
        let content = Content {
            body,
            rest: Bytes::new(),
            is_ended: false,
        };
        let progress = Progress {
            is_making: false,
            is_ended: false,
            since: Instant::now(),
            behind: Duration::ZERO,
        };
        Self {
            content: Mutex::new(content),
            progress: Mutex::new(progress),
            whole,
            bytes,
        }
    }

    /// Since when the client takes nothing. `None` while it waits for the server, and of a reply that was ended.
    fn untaken_since(&self) -> Option<Instant> {
        let progress = lock(&self.progress);
        (!progress.is_making && !progress.is_ended).then_some(progress.since)
    }

    /// How far the client is behind the pace at which it would take the whole in time. Where the length is not known, any
    /// piece is in time.
    fn behind(&self, now: Instant) -> Duration {
        lock(&self.progress).behind(now)
    }

    /// Drops what is left of the reply. Returns `false` if it goes on just now, and was not ended.
    fn end(&self) -> bool {
        let Ok(mut content) = self.content.try_lock() else {
            return false;
        };
        content.body = Body::empty();
        content.rest = Bytes::new();
        content.is_ended = true;
        let mut progress = lock(&self.progress);
        (progress.is_ended, progress.is_making) = (true, false);
        true
    }

    fn poll_piece(&self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // A body that panics here is not polled again.
        let piece = lock(&self.content).poll_piece(context);
        let now = Instant::now();
        let mut progress = lock(&self.progress);
        match &piece {
            Poll::Pending => progress.is_making = true,
            Poll::Ready(Some(Ok(frame))) => {
                let taken = frame.data_ref().map_or(0, Bytes::len);
                progress.took(self.time_for(taken), now);
            }
            Poll::Ready(_) => progress.took(Duration::ZERO, now),
        }
        piece
    }

    /// The time in which a client should take so many bytes.
    fn time_for(&self, taken: usize) -> Duration {
        let part = self.bytes.map_or(1.0, |bytes| taken as f64 / bytes.max(1) as f64);
        self.whole.mul_f64(part)
    }
}

impl Content {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_ended {
            return Poll::Ready(Some(Err(axum::Error::new("the client did not take the reply"))));
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        let piece = match self.rest.len() {
            ..=PIECE_BYTES => mem::take(&mut self.rest),
            _ => self.rest.split_to(PIECE_BYTES),
        };
        // A copy: hyper would keep the whole for a part of it.
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&piece)))))
    }

    fn is_end_stream(&self) -> bool {
        !self.is_ended && self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// A reply's body as hyper gets it, with something that is dropped at its end.
#[derive(Debug)]
pub(super) struct ReplyBody<G> {
    reply: Arc<OpenReply>,
    all: [OpenReplies; 2],
    _guard: G,
}

impl<G> ReplyBody<G> {
    /// A body of which the client should have taken the whole within `whole`. It is one of `all` until it is dropped.
    pub(super) fn new(body: Body, whole: Duration, all: [OpenReplies; 2], guard: G) -> Self {
        let reply = Arc::new(OpenReply::new(body, whole));
        all.iter().for_each(|replies| replies.add(&reply));
        Self {
            reply,
            all,
            _guard: guard,
        }
    }
}

impl<G: Unpin> hyper::body::Body for ReplyBody<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.reply.poll_piece(context)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.reply.content).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.reply.content).size_hint()
    }
}

impl<G> Drop for ReplyBody<G> {
    fn drop(&mut self) {
        self.all.iter().for_each(|replies| replies.remove(&self.reply));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client takes of a reply, as hyper asks for it.
    fn take(body: &mut ReplyBody<()>) -> Option<Result<usize, axum::Error>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(body).poll_frame(&mut context) {
            Poll::Ready(piece) => {
                let length = |frame: Frame<Bytes>| frame.data_ref().map_or(0, Bytes::len);
                piece.map(|piece| piece.map(length))
            }
            Poll::Pending => panic!("the whole is there"),
        }
    }

    fn open(bytes: usize, whole: Duration) -> (ReplyBody<()>, OpenReplies) {
        let all = OpenReplies::default();
        let registries = [all.clone(), OpenReplies::default()];
        (ReplyBody::new(Body::from(vec![0; bytes]), whole, registries, ()), all)
    }

    #[test]
    fn a_reply_comes_in_pieces_and_has_the_length_of_the_whole() {
        let (mut body, all) = open(2 * PIECE_BYTES + 1, Duration::from_secs(30));
        assert_eq!(body.size_hint().exact(), Some(2 * PIECE_BYTES as u64 + 1));
        for expected in [PIECE_BYTES, PIECE_BYTES, 1] {
            assert!(!body.is_end_stream());
            assert_eq!(take(&mut body).and_then(Result::ok), Some(expected));
        }
        assert!(body.is_end_stream() && take(&mut body).is_none());
        drop(body);
        assert_eq!(all.untaken_since(), None);
    }

    #[test]
    fn a_reply_of_which_nothing_is_taken_is_ended_and_gives_its_bytes_back() {
        let (mut body, all) = open(3 * PIECE_BYTES, Duration::from_secs(30));
        assert_eq!(take(&mut body).and_then(Result::ok), Some(PIECE_BYTES));
        assert_eq!(all.end_untaken(Duration::from_secs(3600)), 0);
        assert!(all.untaken_since().is_some());
        assert_eq!(all.end_untaken(Duration::ZERO), 1);
        assert_eq!((all.end_untaken(Duration::ZERO), all.untaken_since()), (0, None));
        assert!(take(&mut body).is_some_and(|piece| piece.is_err()) && !body.is_end_stream());
    }

    #[test]
    fn who_takes_the_whole_in_time_is_never_behind_and_who_trickles_is() {
        let start = Instant::now();
        let second = |number: u64| start + Duration::from_secs(number);
        let mut progress = Progress {
            is_making: false,
            is_ended: false,
            since: start,
            behind: Duration::ZERO,
        };
        // Two seconds' worth every second, and nothing is saved up by that.
        for number in 1..=10 {
            progress.took(Duration::from_secs(2), second(number));
            assert_eq!(progress.behind(second(number)), Duration::ZERO);
        }
        assert_eq!(progress.behind(second(13)), Duration::from_secs(3));
        // A second's worth every three seconds.
        for number in [13, 16, 19] {
            progress.took(Duration::from_secs(1), second(number));
        }
        assert_eq!(progress.behind(second(19)), Duration::from_secs(6));
        progress.is_making = true;
        assert_eq!(progress.behind(second(99)), Duration::ZERO);
    }

    #[test]
    fn the_slowest_goes_first_and_nobody_who_keeps_up() {
        let all = OpenReplies::default();
        let open = |whole| {
            let registries = [all.clone(), OpenReplies::default()];
            ReplyBody::new(Body::from(vec![0; 4 * PIECE_BYTES]), whole, registries, ())
        };
        let (mut slow, mut fast) = (open(Duration::ZERO), open(Duration::from_secs(3600)));
        lock(&fast.reply.progress).behind = Duration::from_secs(60);
        lock(&slow.reply.progress).behind = Duration::from_secs(60);
        let _ = (take(&mut slow), take(&mut fast));
        assert!(!all.end_slowest(Duration::from_secs(3600)));
        assert!(all.end_slowest(Duration::from_secs(50)));
        assert!(!all.end_slowest(Duration::from_secs(50)));
        assert!(take(&mut slow).is_some_and(|piece| piece.is_err()));
        assert_eq!(take(&mut fast).and_then(Result::ok), Some(PIECE_BYTES));
    }
}
