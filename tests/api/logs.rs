//! The one line that the log has of each request.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Method;
use serde_json::{Value, json};

use crate::fake::Action;
use crate::support::{App, request, segment_json, with_image};

thread_local! {
    /// What the test of this thread logs, if it wants to know.
    static LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Starts to log as `telemetry.log_format: json` does, each thread for itself. There is one subscriber for all tests:
/// with several, tracing may take a line for one that nobody wants.
static LOGGING: LazyLock<()> = LazyLock::new(|| {
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_span_list(false);
    subscriber.with_writer(|| OfThread).init();
});

/// Writes to the lines of its thread.
struct OfThread;

impl Write for OfThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.as_mut().map(|lines| lines.extend(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of this test, whose requests are all handled on its thread.
struct Log;

impl Log {
    fn start() -> Self {
        LazyLock::force(&LOGGING);
        LINES.set(Some(Vec::new()));
        Self
    }

    fn text(&self) -> String {
        LINES.with_borrow(|lines| String::from_utf8(lines.clone().unwrap()).unwrap())
    }

    /// Returns the line of the request with this id.
    #[track_caller]
    fn line(&self, id: &str) -> Value {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let mut of_request = lines.filter(|line: &Value| line["span"]["id"] == id && line["status"].is_number());
        let line = of_request.next().unwrap_or_else(|| panic!("{id} is not in\n{text}"));
        assert_eq!(of_request.next(), None, "{id} has one line");
        line
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        LINES.set(None);
    }
}

/// Sends `POST /v1/segment` under an id.
async fn segment(app: &App, id: &str, body: &Value) -> u16 {
    let mut request = segment_json(body);
    request.headers_mut().insert("x-request-id", id.parse().unwrap());
    app.send(request).await.status.as_u16()
}

#[tokio::test]
async fn a_line_says_what_was_asked_and_how_long_each_stage_took() {
    let log = Log::start();
    let app = App::start().await;
    let body = with_image(json!({"classes": ["red", "blue"]}));
    assert_eq!(segment(&app, "job-1", &body).await, 200);
    let line = log.line("job-1");
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&json!("answered"), &json!(200)),
        "{line}"
    );
    assert!(line["seconds"].as_f64().unwrap() > 0.0, "{line}");
    let span = &line["span"];
    assert_eq!(span["path"], "/v1/segment");
    assert_eq!(span["model"], "colours");
    assert_eq!(
        (&span["classes"], &span["pixels"]),
        (&json!(2), &json!(16 * 8)),
        "{line}"
    );
    for stage in ["decode", "preprocess", "text", "queue", "model", "label_map", "encode"] {
        assert!(span[format!("{stage}_seconds")].is_number(), "{stage} in {line}");
    }
    assert_eq!(span["stage"], Value::Null);
}

#[tokio::test]
async fn each_outcome_has_its_line() {
    let log = Log::start();
    let app = App::start().await;
    let body = with_image(json!({"classes": ["red"]}));

    assert_eq!(
        segment(
            &app,
            "invalid",
            &with_image(json!({"classes": ["red"], "short_side": 9999}))
        )
        .await,
        422
    );
    let line = log.line("invalid");
    assert_eq!(line["outcome"], "invalid");
    assert_eq!(line["problem"], "/problems/invalid-request");
    assert_eq!(line["field"], "short_side");
    assert_eq!(line["limit"], "limits.max_short_side");

    app.control.on_score(Action::Panic);
    assert_eq!(segment(&app, "failed", &body).await, 500);
    let line = log.line("failed");
    assert_eq!(
        (&line["outcome"], &line["problem"]),
        (&json!("failed"), &json!("/problems/internal"))
    );
    assert!(
        line["span"]["decode_seconds"].is_number() && line["span"]["model_seconds"].is_null(),
        "{line}"
    );
    app.control.entered().await;
    app.engine.ready().await.unwrap();

    let hold = app.control.hold_score();
    tokio::select! {
        _ = segment(&app, "abandoned", &body) => panic!("the model is held"),
        () = app.control.entered() => {}
    }
    drop(hold);
    let line = log.line("abandoned");
    assert_eq!((&line["outcome"], &line["status"]), (&json!("abandoned"), &json!(499)));
    assert_eq!(line["message"], "the client left");

    app.engine.drain();
    assert_eq!(segment(&app, "refused", &body).await, 503);
    let line = log.line("refused");
    assert_eq!(
        (&line["outcome"], &line["problem"]),
        (&json!("refused"), &json!("/problems/unavailable"))
    );
    assert!(line["detail"].is_string(), "{line}");
}

#[tokio::test]
async fn names_of_classes_are_in_the_log_only_where_the_settings_say_so() {
    for log_class_names in [false, true] {
        let log = Log::start();
        let app = App::start_with(|config| config.server.log_class_names = log_class_names).await;
        let classes = json!(["secret tumour", {"name": "hidden", "synonyms": ["x"]}]);
        assert_eq!(
            segment(&app, "job-1", &with_image(json!({"classes": classes}))).await,
            200
        );
        assert_eq!(
            segment(&app, "job-2", &with_image(json!({"classes": ["long ".repeat(50)]}))).await,
            422
        );
        assert_eq!(
            segment(&app, "job-3", &with_image(json!({"vocabulary": "fruit"}))).await,
            404
        );
        let names = &log.line("job-1")["span"]["class_names"];
        let text = log.text();
        if log_class_names {
            assert_eq!(names, "secret tumour, hidden");
            assert!(
                log.line("job-2")["detail"].as_str().unwrap().contains("long long"),
                "{text}"
            );
        } else {
            assert!(
                !["secret", "hidden", "long long"].iter().any(|word| text.contains(word)),
                "{text}"
            );
        }
        assert_eq!(log.line("job-3")["span"]["vocabulary"], "fruit");
    }
}

#[tokio::test]
async fn a_line_names_the_client_and_the_trace() {
    let log = Log::start();
    let app = App::start_with(|config| config.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]).await;
    for (id, peer) in [("by-proxy", "10.0.0.1:5000"), ("direct", "203.0.113.9:5000")] {
        let peer: SocketAddr = peer.parse().unwrap();
        let models = request(Method::GET, "/v1/models")
            .header("x-request-id", id)
            .header("x-forwarded-for", "127.0.0.1, 203.0.113.7")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .extension(ConnectInfo(peer));
        app.send(models.body(Body::empty()).unwrap()).await.ok();
    }
    assert_eq!(log.line("by-proxy")["span"]["client"], "203.0.113.7");
    assert_eq!(log.line("direct")["span"]["client"], "203.0.113.9:5000");
    assert_eq!(
        log.line("direct")["span"]["trace_id"],
        "4bf92f3577b34da6a3ce929d0e0e4736"
    );
}
