//! What happens around every request: checks of its id and head, limits in time, a span, a count, a line in the log,
//! and the body of a problem.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::request_id::RequestId;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::client_address::ClientAddress;
use super::error::ApiError;
use super::http_metrics::{CLIENT_LEFT, HttpMetrics, Outcome};
use super::lifecycle::{Lifecycle, Phase};
use super::problem::{ErrorForm, Problem, ProblemType};
use super::request_body::BodyProgress;
use crate::engine::{Caller, Engine};
use crate::support::panic_message;
use crate::telemetry::{RequestTrace, TraceParent, Traces, within};

/// The header that carries a request's id, both ways.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken from a caller, in characters.
const MAX_REQUEST_ID_CHARACTERS: usize = 128;

/// Most bytes of a path with its query.
const MAX_URI_BYTES: usize = 8 * 1024;

/// Most bytes of a head's fields, names and values.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Most bytes of a head that count as part of their connection.
const SMALL_HEAD_BYTES: u64 = 4096;

/// Bytes that each field of a head takes beside its text, about.
const FIELD_BYTES: usize = 128;

/// Most fields of a head.
const MAX_HEAD_FIELDS: usize = 100;

/// Bytes of a path that are logged.
const MAX_LOGGED_PATH_BYTES: usize = 200;

/// The label of requests that no route answers.
const UNMATCHED: &str = "unmatched";

/// The label of methods that are none of HTTP's.
const OTHER_METHOD: &str = "other";

/// The header that tells of the caller's trace.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header with what others add to it.
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The header that tells the caller of the request's place in the trace (W3C Trace Context, Level 2).
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Routes that orchestrators and Prometheus ask every few seconds.
const PROBES: [&str; 6] = [
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
];

/// Takes an id from the request that is not short and plain enough for logs, so that the request gets a new one.
pub(super) async fn drop_strange_request_id(mut request: Request) -> Request {
    let id = request.headers().get(X_REQUEST_ID);
    if id.is_some_and(|id| !is_plain(id)) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

/// Gives the request a span with its id and a trace, then writes the problem's body if there is one, counts and logs.
pub(super) async fn observe(
    State(observer): State<Observer>,
    Extension(id): Extension<RequestId>,
    route: Option<MatchedPath>,
    client: Option<Extension<ClientAddress>>,
    request: Request,
    next: Next,
) -> Response {
    let id = id.header_value().to_str().expect("a plain id is ASCII").to_owned();
    let route = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str).to_owned();
    let client = client.map(|Extension(client)| client);
    let is_probe = PROBES.contains(&&*route);
    let parent = trace_parent(request.headers());
    // A path without a route has the form of the protocol to which it would belong.
    let address = if route == UNMATCHED {
        request.uri().path()
    } else {
        &*route
    };
    let form = ErrorForm::of_path(address, method_label(request.method()));
    let trace = match is_probe {
        true => None,
        false => observer.begin_trace(parent.as_ref(), &request, &route, client),
    };
    let trace_id = trace.as_ref().map(RequestTrace::trace_id);
    let trace_id = trace_id.or_else(|| parent.as_ref().map(TraceParent::trace_id));
    let place = trace.as_ref().map(RequestTrace::place);
    let mut record = Record {
        is_probe,
        span: request_span(&id, client, &request, &route, trace_id),
        route,
        method: method_label(request.method()),
        trace,
        started: Instant::now(),
        is_answered: false,
        observer,
    };
    let answering = next.run(request).instrument(record.span.clone());
    let mut response = within(record.trace.as_ref(), answering).await;

    let problem = response.extensions_mut().remove::<Problem>().map(|problem| Problem {
        instance: Some(id),
        ..problem
    });
    record.answered(response.status().as_u16(), problem.as_ref());
    if let Some(problem) = problem {
        write_problem(&mut response, &problem, form);
    }
    if let Some(place) = place {
        let place = HeaderValue::try_from(place).expect("digits and hyphens");
        response.headers_mut().insert(TRACERESPONSE, place);
    }
    response
}

/// The span of a request, whose fields are those of its line in the log. What is empty is filled in by whoever knows
/// it.
fn request_span(
    id: &str,
    client: Option<ClientAddress>,
    request: &Request,
    route: &str,
    trace_id: Option<String>,
) -> Span {
    tracing::info_span!(
        "request",
        id,
        client = client.map(tracing::field::display),
        method = method_label(request.method()),
        route,
        path = beginning(request.uri().path()),
        trace_id,
        key = Empty,
        model = Empty,
        vocabulary = Empty,
        class_names = Empty,
        classes = Empty,
        pixels = Empty,
        decode_seconds = Empty,
        preprocess_seconds = Empty,
        text_seconds = Empty,
        queue_seconds = Empty,
        model_seconds = Empty,
        label_map_seconds = Empty,
        encode_seconds = Empty,
        stage = Empty,
    )
}

/// The caller's place in a trace. Several headers are as good as none.
fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut lines = headers.get_all(TRACEPARENT).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let state = headers.get(TRACESTATE).and_then(|state| state.to_str().ok());
    TraceParent::read(line.to_str().ok()?, state)
}

/// What is counted, logged and traced of every request. Clones count in the same place.
#[derive(Debug, Clone)]
pub(super) struct Observer {
    /// Requests by route, status and time.
    pub(super) metrics: HttpMetrics,
    /// Where traces go.
    pub(super) traces: Traces,
    /// How the server's addresses begin: `http` or `https`.
    pub(super) scheme: &'static str,
    /// `server.log_class_names`: whether the log may have what requests say.
    pub(super) log_class_names: bool,
}

impl Observer {
    /// Begins the trace of a request, by OpenTelemetry's conventions for HTTP servers.
    fn begin_trace(
        &self,
        parent: Option<&TraceParent>,
        request: &Request,
        route: &str,
        client: Option<ClientAddress>,
    ) -> Option<RequestTrace> {
        if !self.traces.are_sent() {
            return None;
        }
        let method = match method_label(request.method()) {
            OTHER_METHOD => "_OTHER",
            method => method,
        };
        let version = match request.version() {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        let mut attributes = vec![
            ("http.request.method", method.into()),
            ("url.scheme", self.scheme.into()),
            ("url.path", beginning(request.uri().path()).to_owned().into()),
            ("network.protocol.version", version.into()),
        ];
        if let Some(client) = client {
            attributes.push(("client.address", client.ip().to_string().into()));
        }
        // A name has few values: no path that no route has.
        let shown = if method == "_OTHER" { "HTTP" } else { method };
        let name = if route == UNMATCHED {
            shown.to_owned()
        } else {
            attributes.push(("http.route", route.to_owned().into()));
            format!("{shown} {route}")
        };
        self.traces.begin(name, parent, attributes)
    }

    /// Returns what the log has of a problem in words. These repeat the request where the request itself is wrong.
    fn detail<'problem>(&self, problem: &'problem Problem) -> Option<&'problem str> {
        let repeats = matches!(problem.kind, ProblemType::InvalidRequest | ProblemType::Malformed);
        problem.detail.as_deref().filter(|_| self.log_class_names || !repeats)
    }
}

/// What is counted and logged of one request. Dropped without an answer, it says that the client left.
struct Record {
    observer: Observer,
    route: String,
    method: &'static str,
    is_probe: bool,
    span: Span,
    trace: Option<RequestTrace>,
    started: Instant,
    is_answered: bool,
}

impl Record {
    /// Counts the request and writes its one line. The answers to probes and scrapes are too many for the level INFO.
    fn answered(&mut self, status: u16, problem: Option<&Problem>) {
        self.is_answered = true;
        let seconds = self.count(status);
        let outcome = Outcome::of(status).name();
        let kind = problem.map(|problem| problem.kind.uri());
        self.end_trace(Some(status), kind);
        let field = problem.and_then(|problem| problem.path.as_deref());
        let limit = problem
            .and_then(|problem| problem.limit.as_ref())
            .map(|limit| limit.name);
        let detail = problem.and_then(|problem| self.observer.detail(problem));
        if self.is_probe {
            tracing::debug!(parent: &self.span, status, outcome, seconds, problem = kind, field, limit, detail, "answered");
        } else {
            tracing::info!(parent: &self.span, status, outcome, seconds, problem = kind, field, limit, detail, "answered");
        }
    }

    /// Ends the trace with what came of the request.
    fn end_trace(&mut self, status: Option<u16>, problem: Option<&'static str>) {
        let Some(trace) = self.trace.take() else { return };
        let mut attributes = Vec::new();
        if let Some(status) = status {
            attributes.push(("http.response.status_code", i64::from(status).into()));
        }
        if let Some(problem) = problem {
            attributes.push(("maskclip.problem", problem.into()));
        }
        // By the conventions, what a client did wrong is no error of the server's.
        let error = match status {
            Some(..500) => None,
            Some(_) => Some(problem.unwrap_or("500")),
            None => Some("client_left"),
        };
        trace.end(attributes, error);
    }

    /// Counts the request. Returns the seconds since its head.
    fn count(&self, status: u16) -> f64 {
        let elapsed = self.started.elapsed();
        self.observer.metrics.count(&self.route, self.method, status, elapsed);
        elapsed.as_secs_f64()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_answered {
            let seconds = self.count(CLIENT_LEFT);
            self.end_trace(None, None);
            let outcome = Outcome::of(CLIENT_LEFT).name();
            tracing::info!(parent: &self.span, status = CLIENT_LEFT, outcome, seconds, "the client left");
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
    let bytes = field_bytes(headers);
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

/// Returns the bytes of a head's fields, names and values.
fn field_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

/// Counts a large head against `engine.body_bytes` while the request's body comes: one connection of HTTP/2 may have a
/// hundred of them, which cost their client nothing more. Refuses one that finds no room.
pub(super) async fn weigh_head(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let body = request.extensions().get::<BodyProgress>();
    let is_coming = body.is_some_and(|body| !body.is_complete());
    let headers = request.headers();
    let bytes = (field_bytes(headers) + headers.len() * FIELD_BYTES) as u64;
    if !is_coming || bytes <= SMALL_HEAD_BYTES {
        return next.run(request).await;
    }
    let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
    let held = engine.body(&caller);
    if !held.try_grow(bytes) {
        return ApiError::from(engine.body_refused()).into_response();
    }
    let response = next.run(request).await;
    drop(held);
    response
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
        _ => OTHER_METHOD,
    }
}

/// Puts the problem into the response's body, in the form of the route's clients.
fn write_problem(response: &mut Response, problem: &Problem, form: ErrorForm) {
    *response.body_mut() = Body::from(form.body(problem));
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
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
