//! Compression both ways: request bodies in gzip or zstd, and replies to clients that ask for it.
//!
//! tower-http does the work. This decides what is refused, what is worth compressing, when a body is inflated, and that an
//! inflating body takes turns with other requests.

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG};
use axum::http::{Extensions, HeaderMap, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::{StreamExt, TryStreamExt, stream};
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
    request.map(|body| Body::from_stream(stream::once(gather(body, limit, meter))))
}

/// Waits for the whole of a body. Ends with an error when it has more bytes than `limit`, which is
/// `limits.max_request_bytes`, or when these find no room.
async fn gather(body: Body, limit: usize, meter: Meter) -> Result<Bytes, axum::Error> {
    if body.size_hint().lower() > limit as u64 {
        return Err(meter.too_large());
    }
    let mut whole = BytesMut::new();
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.try_next().await? {
        if whole.len() + piece.len() > limit {
            return Err(meter.too_large());
        }
        meter.count(piece.len() as u64)?;
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// Has the body take turns with other tasks. A body that inflates from bytes that are here already never waits, and
/// would keep its thread to itself for as long as a limit's worth of it takes.
pub(super) async fn take_turns(request: Request) -> Request {
    request.map(|body| {
        let pieces = body.into_data_stream().then(async |piece| {
            coop::consume_budget().await;
            piece
        });
        Body::from_stream(pieces)
    })
}
