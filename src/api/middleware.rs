//! What happens around every request: checks of its id and head, limits in time, a span, a count, a line in the log,
//! and the body of a problem.

use std::any::Any;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{ConnectInfo, Extension, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::request_id::RequestId;
use tracing::{Instrument, Span};

use super::error::ApiError;
use super::http_metrics::{CLIENT_LEFT, HttpMetrics};
use super::lifecycle::{Lifecycle, Phase};
use super::problem::{PROBLEM_JSON, Problem};
use super::request_body::BodyProgress;
use crate::support::panic_message;

/// The header that carries a request's id, both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken from a caller, in characters.
const MAX_REQUEST_ID_CHARACTERS: usize = 128;

/// Most bytes of a path with its query.
const MAX_URI_BYTES: usize = 8 * 1024;

/// Most bytes of a head's fields, names and values.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Most fields of a head.
const MAX_HEAD_FIELDS: usize = 100;

/// Bytes of a path that are logged.
const MAX_LOGGED_PATH_BYTES: usize = 200;

/// Routes that orchestrators and Prometheus ask every few seconds.
const PROBES: [&str; 3] = ["/health/live", "/health/ready", "/metrics"];

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
    client: Option<Extension<ConnectInfo<SocketAddr>>>,
    request: Request,
    next: Next,
) -> Response {
    let id = id.header_value().to_str().expect("a plain id is ASCII").to_owned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!(
        "request",
        id,
        client = client.map(|Extension(ConnectInfo(address))| tracing::field::display(address)),
        method = method_label(request.method()),
        route,
        path = beginning(request.uri().path()),
        key = tracing::field::Empty,
        model = tracing::field::Empty,
        stage = tracing::field::Empty,
    );
    let mut record = Record {
        metrics,
        is_probe: PROBES.contains(&&*route),
        route,
        method: method_label(request.method()),
        span: span.clone(),
        started: Instant::now(),
        is_answered: false,
    };
    let mut response = next.run(request).instrument(span).await;

    let problem = response.extensions_mut().remove::<Problem>().map(|problem| Problem {
        instance: Some(id),
        ..problem
    });
    record.answered(response.status().as_u16(), problem.as_ref());
    if let Some(problem) = problem {
        write_problem(&mut response, &problem);
    }
    response
}

/// What is counted and logged of one request. Dropped without an answer, it says that the client left.
struct Record {
    metrics: HttpMetrics,
    route: String,
    method: &'static str,
    is_probe: bool,
    span: Span,
    started: Instant,
    is_answered: bool,
}

impl Record {
    /// Counts the request and writes its one line. The answers to probes and scrapes are too many for the level INFO.
    fn answered(&mut self, status: u16, problem: Option<&Problem>) {
        self.is_answered = true;
        let seconds = self.count(status);
        let kind = problem.map(|problem| problem.kind.uri());
        let detail = problem.and_then(|problem| problem.detail.as_deref());
        if self.is_probe {
            tracing::debug!(parent: &self.span, status, seconds, problem = kind, detail, "answered");
        } else {
            tracing::info!(parent: &self.span, status, seconds, problem = kind, detail, "answered");
        }
    }

    /// Counts the request. Returns the seconds since its head.
    fn count(&self, status: u16) -> f64 {
        let elapsed = self.started.elapsed();
        self.metrics.count(&self.route, self.method, status, elapsed);
        elapsed.as_secs_f64()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_answered {
            let seconds = self.count(CLIENT_LEFT);
            tracing::info!(parent: &self.span, status = CLIENT_LEFT, seconds, "the client left");
        }
    }
}

/// The beginning of a path, which is as long as the client likes.
fn beginning(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_LOGGED_PATH_BYTES)]
}

/// Refuses a head that is larger than any client of this API has reason for. hyper refuses what is larger still,
/// without a body.
pub(super) async fn limit_head(request: Request, next: Next) -> Response {
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let headers = request.headers();
    let fields = headers.len();
    let bytes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let error = if path > MAX_URI_BYTES {
        ApiError::UriTooLong {
            found: path,
            limit: MAX_URI_BYTES,
        }
    } else if fields > MAX_HEAD_FIELDS {
        ApiError::HeadTooLarge {
            found: fields,
            unit: "fields",
            limit: MAX_HEAD_FIELDS,
        }
    } else if bytes > MAX_HEAD_BYTES {
        ApiError::HeadTooLarge {
            found: bytes,
            unit: "bytes",
            limit: MAX_HEAD_BYTES,
        }
    } else {
        return next.run(request).await;
    };
    error.into_response()
}

/// The times at which a request is answered in place of its handler.
#[derive(Debug, Clone)]
pub(super) struct Times {
    /// `server.body_seconds`.
    pub(super) body_seconds: f64,
    /// Tells when requests under way are cut off.
    pub(super) lifecycle: Lifecycle,
}

impl Times {
    /// Resolves when the body has not come in time.
    async fn body_overdue(&self, body: Option<BodyProgress>) {
        if let Some(body) = body.filter(|body| !body.is_complete()) {
            tokio::time::sleep(Duration::from_secs_f64(self.body_seconds)).await;
            if !body.is_complete() {
                return;
            }
        }
        std::future::pending().await
    }
}

/// Gives the handler up when the request's body does not come in time, and when the server ends.
pub(super) async fn limit_time(State(times): State<Times>, request: Request, next: Next) -> Response {
    let body = request.extensions().get::<BodyProgress>().cloned();
    tokio::select! {
        biased;
        response = next.run(request) => response,
        () = times.body_overdue(body) => {
            let limit = times.body_seconds;
            ApiError::RequestTimeout { limit }.into_response()
        }
        () = times.lifecycle.reached(Phase::CutOff) => {
            ApiError::CutOff.into_response()
        }
    }
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
fn write_problem(response: &mut Response, problem: &Problem) {
    let body = serde_json::to_vec(problem).expect("a problem is plain strings and numbers");
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
