//! Compression both ways: request bodies in gzip or zstd, and replies to clients that ask for it.
//!
//! tower-http does the work. This decides what is refused, what is worth compressing, when a body is inflated, and that an
//! inflating body takes turns with other requests.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG};
use axum::http::{Extensions, HeaderMap, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use hyper::body::{Frame, SizeHint};
use tokio::task::coop;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};

use super::error::ApiError;
use super::metered::Meter;

/// The fewest bytes of a reply that is compressed: less would not save a packet.
const MIN_REPLY_BYTES: u64 = 1400;

/// Codings of request bodies.
const READ: [&[u8]; 3] = [b"gzip", b"zstd", b"identity"];

/// Compresses replies for clients that ask for it, at the fastest level: the processors are there for labelling.
pub(super) fn of_replies() -> CompressionLayer<impl Predicate> {
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(MIN_REPLY_BYTES).and(is_worth_it))
}

/// Whether a reply is of a kind that gets smaller, comes as a whole, and has no strong entity tag. Lines that come one by one
/// would wait in the compressor for each other. Such a tag stands for the very bytes,
/// and clients send it back in `If-Match`; a reply that may be compressed has a weak one.
fn is_worth_it(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let comes_in_lines = media_type.starts_with(b"application/x-ndjson");
    let is_text = media_type.starts_with(b"text/")
        || [&b"json"[..], b"yaml", b"javascript", b"svg+xml"]
            .iter()
            .any(|kind| contains(media_type, kind));
    let is_strongly_tagged = headers.get(ETAG).is_some_and(|tag| !tag.as_bytes().starts_with(b"W/"));
    is_text && !comes_in_lines && !is_strongly_tagged
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Refuses a body that is compressed in a way that is not read.
pub(super) async fn refuse_unknown_encoding(request: Request, next: Next) -> Response {
    let mut codings = request.headers().get_all(CONTENT_ENCODING).iter();
    let (first, second) = (codings.next(), codings.next());
    match first {
        Some(coding) if second.is_some() || !READ.contains(&coding.as_bytes()) => {
            let found = request.headers().get_all(CONTENT_ENCODING).iter();
            let found: Vec<_> = found.map(|coding| String::from_utf8_lossy(coding.as_bytes())).collect();
            let found = found.join(", ");
            ApiError::UnsupportedContentEncoding { found }.into_response()
        }
        _ => next.run(request).await,
    }
}

/// Takes `Accept-Encoding` from a request that allows neither coding of this server, so that the reply is not
/// compressed even if the request excludes that, too: an answer that can be read is better than a 406.
pub(super) async fn drop_hopeless_accept_encoding(mut request: Request) -> Request {
    let accepted = request.headers().get_all(ACCEPT_ENCODING).iter();
    let mut codings = accepted.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    let names_one = |coding: &[u8]| contains(coding, b"gzip") || contains(coding, b"zstd") || contains(coding, b"*");
    let excludes = |coding: &[u8]| coding.ends_with(b"=0") || coding.ends_with(b"=0.0");
    if !codings.any(|coding| names_one(coding) && !excludes(coding)) {
        request.headers_mut().remove(ACCEPT_ENCODING);
    }
    request
}

/// Has a compressed body come as a whole before it is inflated. It counts as the bytes that came, so a client that sends
/// little and stops holds little, whatever would become of it.
pub(super) async fn gather_compressed(State(limit): State<usize>, mut request: Request) -> Request {
    if !request.headers().contains_key(CONTENT_ENCODING) {
        return request;
    }
    let meter = Meter::default();
    request.extensions_mut().insert(meter.clone());
    request.map(|body| {
        Body::new(Gathered {
            body,
            limit,
            meter,
            bytes: BytesMut::new(),
            is_whole: false,
        })
    })
}

/// A body that comes in one piece.
struct Gathered {
    body: Body,
    /// `limits.max_request_bytes`.
    limit: usize,
    meter: Meter,
    bytes: BytesMut,
    is_whole: bool,
}

impl Gathered {
    /// Adds bytes that came.
    fn add(&mut self, data: &[u8]) -> Result<(), axum::Error> {
        if self.bytes.len() + data.len() > self.limit {
            return Err(self.meter.too_large());
        }
        self.meter.count(data.len() as u64)?;
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl hyper::body::Body for Gathered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let promised = self.body.size_hint().lower();
        if !self.is_whole && promised > self.limit as u64 {
            return Poll::Ready(Some(Err(self.meter.too_large())));
        }
        while !self.is_whole {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref()
                        && let Err(error) = self.add(data)
                    {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.is_whole = true,
            }
        }
        let whole = self.bytes.split().freeze();
        Poll::Ready((!whole.is_empty()).then(|| Ok(Frame::data(whole))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_whole && self.bytes.is_empty()
    }
}

/// Has the body take turns with other tasks. A body that inflates from bytes that are here already never waits, and
/// would keep its thread to itself for as long as a limit's worth of it takes.
pub(super) async fn take_turns(request: Request) -> Request {
    request.map(|body| Body::new(TurnTaking(body)))
}

/// A body each frame of which counts for tokio's cooperative scheduling.
struct TurnTaking(Body);

impl hyper::body::Body for TurnTaking {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let turn = ready!(coop::poll_proceed(context));
        let frame = Pin::new(&mut self.0).poll_frame(context);
        if frame.is_ready() {
            turn.made_progress();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
