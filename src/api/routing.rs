//! What a proxy in front of several replicas needs to send an image's next request to the replica that has its features:
//! a header that names the image, and one that names the replica that answered.
//!
//! The server reads neither. A client sends the former back, and the proxy hashes it (docs/replicas.md).

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

/// The header with the SHA-256 of the image that a request was about, in lower-case hexadecimal digits.
pub(super) const X_MASKCLIP_IMAGE: HeaderName = HeaderName::from_static("x-maskclip-image");

/// The header with `server.replica`.
pub(super) const X_MASKCLIP_REPLICA: HeaderName = HeaderName::from_static("x-maskclip-replica");

/// Says in a response which image it is about.
pub(super) fn with_image(mut response: Response, sha256: Option<&str>) -> Response {
    if let Some(sha256) = sha256 {
        let value = HeaderValue::from_str(sha256).expect("hexadecimal digits");
        response.headers_mut().insert(X_MASKCLIP_IMAGE, value);
    }
    response
}

/// Returns the value of the header that names the replica.
pub(super) fn replica(name: Option<&str>) -> Option<HeaderValue> {
    name.map(|name| HeaderValue::from_str(name).expect("the settings are checked"))
}

/// Says in every response which replica answered, if it has a name.
pub(super) async fn name_replica(State(replica): State<Option<HeaderValue>>, mut response: Response) -> Response {
    if let Some(replica) = replica {
        response.headers_mut().insert(X_MASKCLIP_REPLICA, replica);
    }
    response
}
