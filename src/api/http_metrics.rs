//! The metrics of HTTP: requests and their seconds by route.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec};

use crate::telemetry::MetricsRegistry;

/// What is counted of every request. A clone counts in the same place.
#[derive(Debug, Clone)]
pub(super) struct HttpMetrics {
    requests: IntCounterVec,
    request_seconds: HistogramVec,
}

impl HttpMetrics {
    /// The metrics of one router, in a registry that has none of another.
    pub(super) fn new(registry: &MetricsRegistry) -> Self {
        Self {
            requests: registry.counters(
                "maskclip_http_requests_total",
                "HTTP requests answered.",
                &["route", "method", "status"],
            ),
            request_seconds: registry.seconds(
                "maskclip_http_request_seconds",
                "Seconds from a request's head to its reply's head.",
                &["route"],
            ),
        }
    }

    /// Makes the label set of a route's status exist at 0.
    pub(super) fn declare(&self, route: &str, method: &str, status: u16) {
        self.requests.with_label_values(&[route, method, &status.to_string()]);
        self.request_seconds.with_label_values(&[route]);
    }

    /// Counts an answered request.
    pub(super) fn count(&self, route: &str, method: &str, status: u16, elapsed: Duration) {
        self.requests
            .with_label_values(&[route, method, &status.to_string()])
            .inc();
        self.request_seconds
            .with_label_values(&[route])
            .observe(elapsed.as_secs_f64());
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
}
