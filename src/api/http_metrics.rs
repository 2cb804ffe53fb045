//! The metrics of HTTP: requests and their seconds by route, and connections.

use std::time::Duration;

use axum::http::StatusCode;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge};

use super::connection_clock::Overdue;
use super::settings::ServerSettings;
use crate::telemetry::MetricsRegistry;

/// The status under which a request is counted whose client left before the answer. No answer has it.
pub(super) const CLIENT_LEFT: u16 = 499;

/// What is counted of every request. A clone counts in the same place.
#[derive(Debug, Clone)]
pub(super) struct HttpMetrics {
    requests: IntCounterVec,
    request_seconds: HistogramVec,
}

/// What came of a request, for whoever runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered as asked.
    Answered,
    /// The request was wrong: 400 to 498 but 429.
    Invalid,
    /// The server had no room or was not ready: 429, 503.
    Refused,
    /// The server failed: 500 and above but 503.
    Failed,
    /// The client left before the answer.
    Abandoned,
}

impl Outcome {
    /// Every outcome.
    const ALL: [Self; 5] = [
        Self::Answered,
        Self::Invalid,
        Self::Refused,
        Self::Failed,
        Self::Abandoned,
    ];

    /// The outcome that a status stands for.
    pub(super) fn of(status: u16) -> Self {
        const TOO_MANY_REQUESTS: u16 = StatusCode::TOO_MANY_REQUESTS.as_u16();
        const UNAVAILABLE: u16 = StatusCode::SERVICE_UNAVAILABLE.as_u16();
        match status {
            TOO_MANY_REQUESTS | UNAVAILABLE => Self::Refused,
            CLIENT_LEFT => Self::Abandoned,
            400..500 => Self::Invalid,
            500.. => Self::Failed,
            _ => Self::Answered,
        }
    }

    /// The outcome as a metric's label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

impl HttpMetrics {
    /// The metrics of one router, in a registry that has none of another.
    pub(super) fn new(registry: &MetricsRegistry) -> Self {
        Self {
            requests: registry.counters(
                "maskclip_http_requests_total",
                "HTTP requests by the status of their answer; 499 where the client left before it.",
                &["route", "method", "status"],
            ),
            request_seconds: registry.seconds(
                "maskclip_http_request_seconds",
                "Seconds from a request's head to its reply's head, by what came of the request.",
                &["route", "outcome"],
            ),
        }
    }

    /// Makes the label sets of a route's status exist at 0.
    pub(super) fn declare(&self, route: &str, method: &str, status: u16) {
        self.requests.with_label_values(&[route, method, &status.to_string()]);
        for outcome in Outcome::ALL {
            self.request_seconds.with_label_values(&[route, outcome.name()]);
        }
    }

    /// Counts a request, answered or not.
    pub(super) fn count(&self, route: &str, method: &str, status: u16, elapsed: Duration) {
        self.requests
            .with_label_values(&[route, method, &status.to_string()])
            .inc();
        self.request_seconds
            .with_label_values(&[route, Outcome::of(status).name()])
            .observe(elapsed.as_secs_f64());
    }
}

/// What is counted of the requests of each key. A clone counts in the same place.
#[derive(Debug, Clone)]
pub(super) struct KeyMetrics(IntCounterVec);

impl KeyMetrics {
    /// The metrics of one router, in a registry that has none of another.
    pub(super) fn new(registry: &MetricsRegistry) -> Self {
        Self(registry.counters(
            "maskclip_key_requests_total",
            "Requests with a key that the server knows, by the key's name and by what came of the request.",
            &["key", "outcome"],
        ))
    }

    /// The counters of a name, in the order of the outcomes. They exist from then on.
    pub(super) fn counters(&self, name: &str) -> [IntCounter; Outcome::ALL.len()] {
        Outcome::ALL.map(|outcome| self.0.with_label_values(&[name, outcome.name()]))
    }
}

/// A request with a key. Dropped without an answer, it counts as abandoned.
pub(super) struct KeyedRequest {
    counters: [IntCounter; Outcome::ALL.len()],
    outcome: Outcome,
}

impl KeyedRequest {
    /// The request of a key with this name.
    pub(super) fn new(metrics: &KeyMetrics, name: &str) -> Self {
        Self {
            counters: metrics.counters(name),
            outcome: Outcome::Abandoned,
        }
    }

    /// Counts the request by the status of its answer.
    pub(super) fn answered(mut self, status: StatusCode) {
        self.outcome = Outcome::of(status.as_u16());
    }
}

impl Drop for KeyedRequest {
    fn drop(&mut self) {
        self.counters[self.outcome as usize].inc();
    }
}

/// The limit of replies whose clients fall behind while others wait, as a metric's label.
pub(super) const CONTENDED_REPLY: &str = "contended_reply_seconds";

/// What is counted of connections.
#[derive(Debug)]
pub(super) struct ConnectionMetrics {
    open: IntGauge,
    overdue: IntCounterVec,
    replies_ended: IntCounterVec,
    no_tls: IntCounter,
}

impl ConnectionMetrics {
    /// The metrics of one listener, in a registry that has none of another.
    pub(super) fn new(registry: &MetricsRegistry, settings: &ServerSettings) -> Self {
        let limit = registry.gauge(
            "maskclip_http_connections_limit",
            "Connections that may be open at once (server.max_connections).",
        );
        limit.set(settings.max_connections.into());
        let overdue = registry.counters(
            "maskclip_http_connections_overdue_total",
            "Connections closed because the client took longer than a limit of the section server.",
            &["limit"],
        );
        for limit in [Overdue::Head, Overdue::Idle, Overdue::Reply] {
            overdue.with_label_values(&[limit.name()]);
        }
        let replies_ended = registry.counters(
            "maskclip_http_replies_ended_total",
            "Replies broken off, with their connection going on, because the client took too little for a limit of the section server.",
            &["limit"],
        );
        for limit in [Overdue::Reply.name(), CONTENDED_REPLY] {
            replies_ended.with_label_values(&[limit]);
        }
        Self {
            open: registry.gauge("maskclip_http_connections", "Open connections."),
            overdue,
            replies_ended,
            no_tls: registry.counter(
                "maskclip_tls_handshake_failures_total",
                "Connections on which the client and the server did not come to TLS.",
            ),
        }
    }

    /// Counts a connection until the guard is dropped.
    pub(super) fn open(&self) -> OpenConnection {
        self.open.inc();
        OpenConnection(self.open.clone())
    }

    /// Counts a connection on which no TLS came about.
    pub(super) fn no_tls(&self) {
        self.no_tls.inc();
    }

    /// Counts replies that were ended by a limit.
    pub(super) fn replies_ended(&self, limit: &str, replies: u64) {
        self.replies_ended.with_label_values(&[limit]).inc_by(replies);
    }

    /// Counts a connection that waited for too long.
    pub(super) fn overdue(&self, overdue: Overdue) {
        self.overdue.with_label_values(&[overdue.name()]).inc();
    }
}

/// A connection that is open.
#[derive(Debug)]
pub(super) struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_method_and_status() {
        let registry = MetricsRegistry::new();
        let metrics = HttpMetrics::new(&registry);
        metrics.declare("/v1/segment", "POST", 429);
        metrics.count("/v1/segment", "POST", 200, Duration::from_millis(3));
        let text = registry.render();
        assert!(text.contains(r#"maskclip_http_requests_total{method="POST",route="/v1/segment",status="200"} 1"#));
        assert!(text.contains(r#"maskclip_http_requests_total{method="POST",route="/v1/segment",status="429"} 0"#));
    }

    #[test]
    fn requests_of_a_key_are_counted_by_their_outcome_and_the_client_that_leaves_is_one() {
        let registry = MetricsRegistry::new();
        let metrics = KeyMetrics::new(&registry);
        KeyedRequest::new(&metrics, "alice").answered(StatusCode::OK);
        KeyedRequest::new(&metrics, "alice").answered(StatusCode::FORBIDDEN);
        drop(KeyedRequest::new(&metrics, "alice"));
        let text = registry.render();
        for (outcome, count) in [("answered", 1), ("invalid", 1), ("refused", 0), ("abandoned", 1)] {
            let line = format!(r#"maskclip_key_requests_total{{key="alice",outcome="{outcome}"}} {count}"#);
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn seconds_tell_the_answered_from_the_refused() {
        let registry = MetricsRegistry::new();
        let metrics = HttpMetrics::new(&registry);
        for status in [200, 304, 404, 422, 429, 503, 429, 504, 500, 507, CLIENT_LEFT] {
            metrics.count("/v1/segment", "POST", status, Duration::from_millis(3));
        }
        let text = registry.render();
        for (outcome, count) in [
            ("answered", 2),
            ("invalid", 2),
            ("refused", 3),
            ("failed", 3),
            ("abandoned", 1),
        ] {
            let line =
                format!(r#"maskclip_http_request_seconds_count{{outcome="{outcome}",route="/v1/segment"}} {count}"#);
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
