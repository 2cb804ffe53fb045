//! What happens around every request: an id, a span, a count, and the body of a problem.

use std::any::Any;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::error::ApiError;
use super::http_metrics::HttpMetrics;
use super::problem::{PROBLEM_JSON, Problem};
use crate::support::panic_message;

/// The header that carries a request's id, both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken from a caller, in characters.
const MAX_REQUEST_ID_CHARACTERS: usize = 128;

/// Gives the request an id and a span, then writes the problem's body if there is one, counts and logs.
pub(super) async fn observe(
    State(metrics): State<HttpMetrics>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", id, %method, route);

    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        write_problem(
            &mut response,
            Problem {
                instance: Some(id.clone()),
                ..problem
            },
        );
    }
    let value = HeaderValue::from_str(&id).expect("request ids are printable ASCII");
    response.headers_mut().insert(X_REQUEST_ID, value);

    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    metrics.count(&route, method_label(&method), status, elapsed);
    tracing::info!(parent: &span, status, seconds = elapsed.as_secs_f64(), "answered");
    response
}

/// The caller's id when it is short and plain enough for logs, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(X_REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| (1..=MAX_REQUEST_ID_CHARACTERS).contains(&id.len()))
        .filter(|id| {
            id.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        })
        .map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned)
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

    fn id_for(value: &str) -> String {
        request_id(&HeaderMap::from_iter([(X_REQUEST_ID, value.parse().unwrap())]))
    }

    #[test]
    fn a_plain_id_is_taken_from_the_caller() {
        assert_eq!(id_for("job-17_a.b"), "job-17_a.b");
        assert_eq!(id_for(&"x".repeat(128)), "x".repeat(128));
    }

    #[test]
    fn an_id_that_could_confuse_a_log_is_replaced() {
        for value in ["", "a b", "a\"b", "a;b", "a/b", &"x".repeat(129)] {
            let id = id_for(value);
            assert_ne!(id, value);
            assert_eq!(id.len(), 36, "{id} is a UUID");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
