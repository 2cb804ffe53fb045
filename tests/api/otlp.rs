//! Traces and metrics, as a collector of OpenTelemetry receives them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::routing::post;
use maskclip::access::Scope;
use maskclip::config::Config;
use maskclip::telemetry::MetricsPush;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;

use crate::access::{by, entry, key};
use crate::fake::Action;
use crate::support::{App, Reply, request, segment_json, until, with_image};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// What has been received.
#[derive(Default)]
struct Received {
    headers: Option<HeaderMap>,
    traces: Vec<ExportTraceServiceRequest>,
    metrics: Vec<ExportMetricsServiceRequest>,
}

/// A collector on a port of its own.
struct Collector {
    endpoint: String,
    received: Arc<Mutex<Received>>,
}

impl Collector {
    async fn start() -> Self {
        let received = Arc::<Mutex<Received>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new()
            .route("/v1/traces", post(post_traces))
            .route("/v1/metrics", post(post_metrics))
            .with_state(Arc::clone(&received));
        tokio::spawn(async { axum::serve(listener, routes).await });
        Self { endpoint, received }
    }

    /// Sends telemetry here.
    fn configure(&self, config: &mut Config) {
        config.telemetry.otlp.endpoint = Some(self.endpoint.parse().unwrap());
        config.telemetry.otlp.headers = [("x-key".to_owned(), "secret".to_owned())].into();
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let resources = received.traces.iter().flat_map(|message| &message.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Waits for the span of a request with this path. Spans below it have come by then.
    async fn request_span(&self, path: &str) -> Span {
        let is_it = |span: &Span| attributes(&span.attributes).get("url.path") == Some(&json!(path));
        until(async || self.spans().iter().any(is_it)).await;
        self.spans().into_iter().find(is_it).unwrap()
    }
}

async fn post_traces(State(received): State<Arc<Mutex<Received>>>, headers: HeaderMap, body: Bytes) {
    let mut received = received.lock().unwrap();
    received.headers = Some(headers);
    received.traces.push(ExportTraceServiceRequest::decode(body).unwrap());
}

async fn post_metrics(State(received): State<Arc<Mutex<Received>>>, body: Bytes) {
    let message = ExportMetricsServiceRequest::decode(body).unwrap();
    received.lock().unwrap().metrics.push(message);
}

fn attributes(pairs: &[KeyValue]) -> HashMap<String, Json> {
    let value = |pair: &KeyValue| match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => json!(text),
        Value::IntValue(number) => json!(number),
        other => panic!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

/// Sends `POST /v1/segment` for a caller that is traced.
async fn segment(app: &App, body: &Json, flags: &str) -> Reply {
    let mut request = segment_json(body);
    let parent = format!("00-{TRACE}-{CALLER}-{flags}");
    request.headers_mut().insert("traceparent", parent.parse().unwrap());
    app.send(request).await
}

#[tokio::test]
async fn a_request_is_a_span_of_its_callers_trace_with_a_span_for_each_stage() {
    let collector = Collector::start().await;
    let app = App::start_with(|config| collector.configure(config)).await;
    let reply = segment(&app, &with_image(json!({"classes": ["red", "blue"]})), "01").await;
    reply.ok();

    let request = collector.request_span("/v1/segment").await;
    assert_eq!(request.name, "POST /v1/segment");
    assert_eq!(request.kind, i32::from(SpanKind::Server));
    assert_eq!(hex::encode(&request.trace_id), TRACE);
    assert_eq!(hex::encode(&request.parent_span_id), CALLER);
    let place = format!("00-{TRACE}-{}-01", hex::encode(&request.span_id));
    assert_eq!(reply.header("traceresponse"), place);
    let expected = json!({
        "http.request.method": "POST",
        "http.route": "/v1/segment",
        "http.response.status_code": 200,
        "url.path": "/v1/segment",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "maskclip.model": "colours",
        "maskclip.classes": 2,
        "maskclip.pixels": 16 * 8,
    });
    assert_eq!(json!(attributes(&request.attributes)), expected);
    assert_eq!(request.status.unwrap_or_default().code, i32::from(StatusCode::Unset));

    let spans = collector.spans();
    let mut stages: Vec<_> = spans
        .iter()
        .filter(|span| span.parent_span_id == request.span_id)
        .collect();
    stages.sort_by_key(|span| span.end_time_unix_nano);
    let names: Vec<_> = stages.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(
        names,
        ["text", "decode", "preprocess", "queue", "model", "label_map", "encode"]
    );
    for stage in stages {
        assert_eq!(stage.trace_id, request.trace_id);
        assert!(stage.start_time_unix_nano <= stage.end_time_unix_nano, "{stage:?}");
        assert!(stage.end_time_unix_nano <= request.end_time_unix_nano, "{stage:?}");
    }

    let received = collector.received.lock().unwrap();
    let headers = received.headers.as_ref().unwrap();
    assert_eq!(
        (&headers["content-type"], &headers["x-key"]),
        (&"application/x-protobuf".parse().unwrap(), &"secret".parse().unwrap())
    );
    let resource = received.traces[0].resource_spans[0].resource.as_ref().unwrap();
    let resource = attributes(&resource.attributes);
    assert_eq!(
        (&resource["service.name"], &resource["service.version"]),
        (&json!("maskclip"), &json!(maskclip::VERSION))
    );
}

#[tokio::test]
async fn a_trace_has_the_name_of_the_key_and_not_the_key() {
    let collector = Collector::start().await;
    let app = App::start_with(|config| {
        collector.configure(config);
        config.access.keys = vec![entry("alice", &[Scope::Use])];
    });
    let app = app.await;
    let models = request(Method::GET, "/v1/models").body(Body::empty()).unwrap();
    app.send(by("alice", models)).await.ok();
    let span = collector.request_span("/v1/models").await;
    assert_eq!(attributes(&span.attributes)["maskclip.key"], "alice");
    assert!(!format!("{:?}", collector.spans()).contains(&key("alice")));
}

#[tokio::test]
async fn a_trace_says_what_went_wrong() {
    let collector = Collector::start().await;
    let app = App::start_with(|config| collector.configure(config)).await;
    app.get("/v1/vocabularies/fruit").await;
    let wrong = collector.request_span("/v1/vocabularies/fruit").await;
    assert_eq!(wrong.name, "GET /v1/vocabularies/{name}");
    assert_eq!(
        wrong.status.unwrap_or_default().code,
        i32::from(StatusCode::Unset),
        "the client was wrong"
    );
    assert_eq!(
        attributes(&wrong.attributes)["maskclip.problem"],
        "/problems/vocabulary-not-found"
    );

    app.control.on_score(Action::Panic);
    assert_eq!(
        segment(&app, &with_image(json!({"classes": ["red"]})), "01")
            .await
            .status,
        500
    );
    let failed = collector.request_span("/v1/segment").await;
    assert_eq!(failed.status.unwrap().code, i32::from(StatusCode::Error));
    let failed = attributes(&failed.attributes);
    assert_eq!(
        (&failed["error.type"], &failed["http.response.status_code"]),
        (&json!("/problems/internal"), &json!(500))
    );

    app.get("/nowhere").await;
    assert_eq!(collector.request_span("/nowhere").await.name, "GET");
}

#[tokio::test]
async fn a_trace_says_that_the_client_left() {
    let collector = Collector::start().await;
    let app = App::start_with(|config| collector.configure(config)).await;
    let body = with_image(json!({"classes": ["red"]}));
    let hold = app.control.hold_score();
    tokio::select! {
        _ = segment(&app, &body, "01") => panic!("the model is held"),
        () = app.control.entered() => {}
    }
    drop(hold);
    let left = collector.request_span("/v1/segment").await;
    assert_eq!(left.status.unwrap().code, i32::from(StatusCode::Error));
    let left = attributes(&left.attributes);
    assert_eq!(left["error.type"], "client_left");
    assert!(!left.contains_key("http.response.status_code"), "{left:?}");
}

#[tokio::test]
async fn a_caller_decides_whether_its_trace_is_sent_and_the_settings_about_others() {
    let collector = Collector::start().await;
    let app = App::start_with(|config| {
        collector.configure(config);
        config.telemetry.otlp.sample_ratio = 0.0;
    });
    let app = app.await;
    let body = with_image(json!({"classes": ["red"]}));
    app.get("/v1/models").await.ok();
    assert!(
        segment(&app, &body, "00")
            .await
            .header("traceresponse")
            .ends_with("-00")
    );
    app.get("/health/live").await.ok();
    // What comes later is received later.
    segment(&app, &body, "01").await.ok();
    collector.request_span("/v1/segment").await;
    let requests = collector
        .spans()
        .into_iter()
        .filter(|span| span.kind == i32::from(SpanKind::Server));
    assert_eq!(requests.count(), 1);
}

#[tokio::test]
async fn metrics_are_sent_again_and_again_and_at_the_end() {
    let collector = Collector::start().await;
    let app = App::start_with(|config| collector.configure(config)).await;
    let mut config = Config::for_testing();
    collector.configure(&mut config);
    config.telemetry.otlp.metrics_seconds = 0.1;
    let push = MetricsPush::start(&config.telemetry.otlp, app.metrics.clone()).unwrap();
    until(async || collector.received.lock().unwrap().metrics.len() >= 2).await;
    app.get("/v1/models").await.ok();
    tokio::task::spawn_blocking(|| push.end()).await.unwrap();

    let received = collector.received.lock().unwrap();
    let last = &received.metrics.last().unwrap().resource_metrics[0];
    assert_eq!(
        attributes(&last.resource.as_ref().unwrap().attributes)["service.name"],
        "maskclip"
    );
    let metrics = &last.scope_metrics[0].metrics;
    let requests = metrics
        .iter()
        .find(|metric| metric.name == "maskclip_http_requests_total")
        .unwrap();
    let Some(Data::Sum(sum)) = &requests.data else {
        panic!("{requests:?}")
    };
    let labels = json!({"method": "GET", "route": "/v1/models", "status": "200"});
    let point = sum
        .data_points
        .iter()
        .find(|point| json!(attributes(&point.attributes)) == labels)
        .unwrap();
    assert_eq!(format!("{:?}", point.value), "Some(AsDouble(1.0))");
}

#[tokio::test]
async fn a_collector_that_is_away_costs_no_answer() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", taken.local_addr().unwrap());
    drop(taken);
    let app = App::start_with(|config| config.telemetry.otlp.endpoint = Some(endpoint.parse().unwrap())).await;
    for _ in 0..3 {
        segment(&app, &with_image(json!({"classes": ["red"]})), "01").await.ok();
    }
}
