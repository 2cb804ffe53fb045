//! A request's body as it comes from the socket, and how far it has come.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Whether a request's body has come as a whole. Clones share it; it rides in the request's extensions.
#[derive(Debug, Clone, Default)]
pub(super) struct BodyProgress(Arc<AtomicBool>);

impl BodyProgress {
    /// Whether the last byte has been read.
    pub(super) fn is_complete(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request's body that tells of its end.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Incoming,
    progress: BodyProgress,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming) -> Self {
        let body = Self {
            incoming,
            progress: BodyProgress::default(),
        };
        body.tell();
        body
    }

    /// How far this body has come.
    pub(super) fn progress(&self) -> BodyProgress {
        self.progress.clone()
    }

    fn tell(&self) {
        if self.incoming.is_end_stream() {
            self.progress.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context));
        match &frame {
            // Without a length, the end is known only once it is there.
            None => self.progress.0.store(true, Ordering::Relaxed),
            Some(_) => self.tell(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
