//! What happens around every request: a check of its id, a span, a count, and the body of a problem.

use std::any::Any;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Extension, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::request_id::RequestId;
use tracing::Instrument;

use super::error::ApiError;
use super::http_metrics::HttpMetrics;
use super::problem::{PROBLEM_JSON, Problem};
use crate::support::panic_message;

/// The header that carries a request's id, both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken from a caller, in characters.
const MAX_REQUEST_ID_CHARACTERS: usize = 128;

/// Takes an id from the request that is not short and plain enough for logs, so that the request gets a new one.
pub(super) async fn drop_strange_request_id(mut request: Request) -> Request {
    let id = request.headers().get(X_REQUEST_ID);
    if id.is_some_and(|id| !is_plain(id)) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

/// Gives the request a span with its id, then writes the problem's body if there is one, counts and logs.
pub(super) async fn observe(
    State(metrics): State<HttpMetrics>,
    Extension(id): Extension<RequestId>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = id.header_value().to_str().expect("a plain id is ASCII").to_owned();
    let method = request.method().clone();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", id, %method, route);

    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        write_problem(
            &mut response,
            Problem {
                instance: Some(id),
                ..problem
            },
        );
    }

    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    metrics.count(&route, method_label(&method), status, elapsed);
    tracing::info!(parent: &span, status, seconds = elapsed.as_secs_f64(), "answered");
    response
}

/// Whether an id is short and plain enough for logs.
fn is_plain(id: &HeaderValue) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (1..=MAX_REQUEST_ID_CHARACTERS).contains(&id.len()) && id.as_bytes().iter().all(is_plain)
}

/// The method as a metric's label: callers cannot make up new ones.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Puts the problem into the response's body.
fn write_problem(response: &mut Response, problem: Problem) {
    let body = serde_json::to_vec(&problem).expect("a problem is plain strings and numbers");
    *response.body_mut() = Body::from(body);
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
}

/// The answer when a handler panicked.
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    ApiError::Internal(format!("a handler panicked: {}", panic_message(&*panic))).into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_confuse_a_log_is_not_plain() {
        for id in ["job-17_a.b", &"x".repeat(128)] {
            assert!(is_plain(&id.parse().unwrap()), "{id}");
        }
        for id in ["", "a b", "a\"b", "a;b", "a/b", "\u{e9}", &"x".repeat(129)] {
            assert!(!is_plain(&id.parse().unwrap()), "{id}");
        }
    }
}
