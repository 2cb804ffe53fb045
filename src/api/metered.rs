//! Bodies within their budget: each piece of a request's body is counted before it is kept, and a reply's bytes are
//! given back when they have been sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;

use crate::engine::HeldBytes;

/// Tells whether a metered body found no room.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter(Arc<AtomicBool>);

impl Meter {
    /// Returns whether the body was cut off because its bytes found no room.
    pub(super) fn is_refused(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Returns the request with a body whose bytes are added to `held` as they arrive, each of them `copies` times. A body
/// that finds no room ends with an error.
pub(super) fn metered(request: Request, held: &HeldBytes, copies: u64) -> (Request, Meter) {
    let meter = Meter::default();
    let body = |inner| {
        Body::new(MeteredBody {
            inner,
            held: held.clone(),
            copies,
            meter: meter.clone(),
        })
    };
    let request = request.map(body);
    (request, meter)
}

/// Returns the length that the head of a request promises for its body.
pub(super) fn promised_bytes(request: &Request) -> Option<u64> {
    request
        .headers()
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

struct MeteredBody {
    inner: Body,
    held: HeldBytes,
    copies: u64,
    meter: Meter,
}

impl HttpBody for MeteredBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !self.held.try_grow(self.copies.saturating_mul(data.len() as u64))
        {
            self.meter.0.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(axum::Error::new("there is no room for the body"))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Returns a reply in JSON that gives back what it holds once it has been sent or dropped. A long one takes long enough to
/// hold up other requests, and belongs on the blocking pool.
pub(super) fn held_json(reply: &impl Serialize, held: HeldBytes) -> Response {
    let reply = serde_json::to_vec(reply).expect("a reply is plain data with finite numbers");
    ([(header::CONTENT_TYPE, "application/json")], held_bytes(reply, held)).into_response()
}

/// Returns bytes for a reply that give back what they hold once they have been sent or dropped.
pub(super) fn held_bytes(bytes: Vec<u8>, held: HeldBytes) -> Bytes {
    held.shrink_to(bytes.len() as u64);
    Bytes::from_owner(HeldReply { bytes, _held: held })
}

struct HeldReply {
    bytes: Vec<u8>,
    _held: HeldBytes,
}

impl AsRef<[u8]> for HeldReply {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
