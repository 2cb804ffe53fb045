//! Bodies within their budget: each piece of a request's body is counted before it is kept, and a reply's bytes are
//! given back when they have been sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Serialize;

use crate::engine::HeldBytes;

/// What the pieces of a request's body count against, and why they went no further. Clones share it. It rides in the
/// extensions of a request whose body comes in another form than the one that is read.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter(Arc<Metered>);

#[derive(Debug, Default)]
struct Metered {
    held: OnceLock<HeldBytes>,
    is_refused: AtomicBool,
    is_too_large: AtomicBool,
}

impl Meter {
    /// Returns whether the body was cut off because its bytes found no room.
    pub(super) fn is_refused(&self) -> bool {
        self.0.is_refused.load(Ordering::Relaxed)
    }

    /// Returns whether the body was cut off before it was inflated, because it had too many bytes already.
    pub(super) fn is_too_large(&self) -> bool {
        self.0.is_too_large.load(Ordering::Relaxed)
    }

    /// Notes that the body has too many bytes. Returns an error to end it with.
    pub(super) fn too_large(&self) -> axum::Error {
        self.0.is_too_large.store(true, Ordering::Relaxed);
        axum::Error::new("the body is too large")
    }

    /// Counts bytes, once it is known against what.
    ///
    /// # Errors
    /// An error to end the body with where there is no room for them.
    pub(super) fn count(&self, bytes: u64) -> Result<(), axum::Error> {
        if self.0.held.get().is_none_or(|held| held.try_grow(bytes)) {
            return Ok(());
        }
        self.0.is_refused.store(true, Ordering::Relaxed);
        Err(axum::Error::new("there is no room for the body"))
    }
}

/// Returns the request with a body whose bytes are added to `held` as they arrive, each of them `copies` times. A body
/// that finds no room ends with an error.
pub(super) fn metered(request: Request, held: &HeldBytes, copies: u64) -> (Request, Meter) {
    let meter = request.extensions().get::<Meter>().cloned().unwrap_or_default();
    // A request has one handler, which reads its body once.
    let _ = meter.0.held.set(held.clone());
    let counted = meter.clone();
    let request = request.map(|body| {
        let pieces = body.into_data_stream().map(move |piece| {
            let piece = piece?;
            counted.count(copies.saturating_mul(piece.len() as u64))?;
            Ok::<_, axum::Error>(piece)
        });
        Body::from_stream(pieces)
    });
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

/// Returns a reply in JSON that gives back what it holds once it has been sent or dropped. A long one takes long enough to
/// hold up other requests, and belongs on the blocking pool.
pub(super) fn held_json(reply: &impl Serialize, held: HeldBytes) -> Response {
    let reply = serde_json::to_vec(reply).expect("a reply is plain data with finite numbers");
    ([(header::CONTENT_TYPE, "application/json")], held_bytes(reply, held)).into_response()
}

/// Returns bytes for a reply that give back what they hold once they have been sent or dropped.
pub(super) fn held_bytes(bytes: Vec<u8>, held: HeldBytes) -> Bytes {
    held.resize_to(bytes.len() as u64);
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
