//! Request ids and metrics.

use axum::body::Body;
use axum::http::Method;
use maskclip::access::Scope;
use serde_json::json;

use crate::access::{by, entry};
use crate::socket::Socket;
use crate::support::{App, request, with_image};

#[tokio::test]
async fn a_callers_request_id_comes_back() {
    let app = App::start().await;
    let get = request(Method::GET, "/health/live").header("x-request-id", "job-17");
    assert_eq!(
        app.send(get.body(Body::empty()).unwrap()).await.header("x-request-id"),
        "job-17"
    );
}

#[tokio::test]
async fn a_request_id_that_could_confuse_a_log_is_replaced_in_header_and_problem() {
    let app = App::start().await;
    let get = request(Method::GET, "/none").header("x-request-id", "a\" b");
    let reply = app.send(get.body(Body::empty()).unwrap()).await;
    let id = reply.header("x-request-id");
    assert_ne!(id, "a\" b");
    assert_eq!(reply.json()["instance"], id);
}

#[tokio::test]
async fn requests_are_counted_by_route_method_and_status() {
    let app = App::start().await;
    app.segment(&with_image(json!({"classes": ["red"]}))).await.ok();
    app.segment(&json!({})).await;
    app.get("/v1/vocabularies/fruit").await;
    app.get("/v1/vocabularies/trees").await;
    app.get("/anything").await;
    app.send(
        request(Method::from_bytes(b"MAKEUP").unwrap(), "/metrics")
            .body(Body::empty())
            .unwrap(),
    )
    .await;
    let metrics = app.get("/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    for (labels, count) in [
        (r#"method="POST",route="/v1/segment",status="200""#, 1),
        (r#"method="POST",route="/v1/segment",status="422""#, 1),
        (r#"method="GET",route="/v1/vocabularies/{name}",status="404""#, 2),
        (r#"method="GET",route="unmatched",status="404""#, 1),
        (r#"method="other",route="/metrics",status="405""#, 1),
    ] {
        let line = format!("maskclip_http_requests_total{{{labels}}} {count}\n");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn every_documented_status_of_a_route_is_counted_from_the_start() {
    let app = App::start().await;
    let text = String::from_utf8(app.get("/metrics").await.body.to_vec()).unwrap();
    for status in [200, 400, 404, 406, 413, 415, 422, 429, 500, 503, 504] {
        let line = format!(r#"maskclip_http_requests_total{{method="POST",route="/v1/segment",status="{status}"}} 0"#);
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn the_dashboard_asks_for_metrics_that_there_are() {
    let socket = Socket::start(|_| ()).await;
    let of_connections = socket.connect().await.get("/metrics").await;
    let app = App::start_with(|config| config.access.keys = vec![entry("alice", &[Scope::Metrics])]).await;
    let get = || by("alice", request(Method::GET, "/metrics").body(Body::empty()).unwrap());
    app.send(get()).await;
    let of_keys = String::from_utf8(app.send(get()).await.body.to_vec()).unwrap();
    let metrics = of_connections + &of_keys;
    let dashboard = include_str!("../../docker/grafana/dashboards/maskclip.json");
    let words = dashboard.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let asked = words.filter(|word| word.starts_with("maskclip_") || word.starts_with("process_"));
    // The sum of the settings' memory is no part of the app: `serve` adds it, and a test of its own reads it.
    let asked = asked.filter(|word| !word.starts_with("maskclip_memory_"));
    // The book lists all metrics from the code, with those of a shared state, which the app has none of.
    let metrics = metrics
        + &include_str!("../../docs/metrics.md")
            .replace("| `", "# TYPE ")
            .replace("` |", " ");
    let mut count = 0;
    for name in asked {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        let is_there = |name: &str| metrics.contains(&format!("# TYPE {name} "));
        assert!(is_there(name) || family.is_some_and(is_there), "{name}");
        count += 1;
    }
    assert!(count > 20, "only {count} metrics are found in the dashboard");
}
