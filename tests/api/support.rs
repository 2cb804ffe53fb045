//! An application under test, requests to it, and what is true of every answer.

use std::io::Cursor;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maskclip::api::{AppState, openapi_yaml, router};
use maskclip::config::Config;
use maskclip::engine::{Engine, Readiness};
use maskclip::labeller::ServedModel;
use maskclip::telemetry::MetricsRegistry;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fake::Control;

/// The id that every request of these tests carries.
pub const REQUEST_ID: &str = "test-1";

/// What separates the parts of multipart bodies here.
pub const BOUNDARY: &str = "frontier";

/// A server without a socket.
#[derive(Clone)]
pub struct App {
    router: Router,
    pub engine: Arc<Engine>,
    /// Of the first model.
    pub control: Control,
}

impl App {
    /// With the default settings, ready.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// With other settings, ready.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let app = Self::launch(Control::default(), change);
        app.engine.ready().await.expect("the fake loads");
        app
    }

    /// Perhaps not ready yet.
    pub fn launch(control: Control, change: impl FnOnce(&mut Config)) -> Self {
        let models = vec![control.model()];
        Self::launch_models(models, control, change)
    }

    /// Several models, the first of which obeys the control; perhaps not ready yet.
    pub fn launch_models(models: Vec<ServedModel>, control: Control, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::for_testing();
        change(&mut config);
        let metrics = MetricsRegistry::new();
        let engine = Engine::start(config.engine_settings(), models, None, &metrics);
        let state = AppState {
            engine: Arc::clone(&engine),
            metrics,
            max_request_bytes: config.limits.max_request_bytes,
        };
        Self {
            router: router(state),
            engine,
            control,
        }
    }

    /// Waits until the engine is in the state, which it is on its way to.
    pub async fn until(&self, readiness: Readiness) {
        let reached = async {
            while self.engine.readiness() != readiness {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached)
            .await
            .expect("the engine gets there");
    }

    /// Sends a request and checks what is true of every answer: it carries the request's id, the
    /// document knows its status, and an error is a problem.
    pub async fn send(&self, request: impl Into<Request<Body>>) -> Reply {
        let mut request = request.into();
        request
            .headers_mut()
            .entry("x-request-id")
            .or_insert(REQUEST_ID.parse().unwrap());
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("the router never fails");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX)
            .await
            .expect("bodies of these tests are complete");
        let reply = Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        };
        assert!(reply.headers.contains_key("x-request-id"));
        assert_documented(&method, &path, reply.status);
        reply
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    /// The value of a metric, named with its labels as `/metrics` shows them.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = String::from_utf8(self.get("/metrics").await.body.to_vec()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("{name} is missing from\n{text}"))
            .parse()
            .unwrap()
    }

    /// `POST /v1/segment` with JSON.
    pub async fn segment(&self, body: &Value) -> Reply {
        self.send(segment_json(body)).await
    }
}

/// A request to be completed.
pub fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path)
}

/// `POST /v1/segment` with JSON.
pub fn segment_json(body: &Value) -> Request<Body> {
    post_json("/v1/segment", body)
}

/// `POST path` with JSON.
pub fn post_json(path: &str, body: &Value) -> Request<Body> {
    let builder = request(Method::POST, path).header(header::CONTENT_TYPE, "application/json");
    builder.body(Body::from(body.to_string())).unwrap()
}

/// `POST /v1/segment` with a multipart body as it is on the wire.
pub fn segment_multipart(body: impl Into<Body>) -> Request<Body> {
    post_multipart("/v1/segment", body)
}

/// `POST path` with a multipart body as it is on the wire.
pub fn post_multipart(path: &str, body: impl Into<Body>) -> Request<Body> {
    request(Method::POST, path)
        .header(
            header::CONTENT_TYPE,
            format!("multipart/form-data; boundary={BOUNDARY}"),
        )
        .body(body.into())
        .unwrap()
}

/// A multipart body of named parts.
pub fn multipart(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in parts {
        body.extend(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").bytes());
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").bytes());
    body
}

/// `{"image": red_and_blue(), ...fields}`.
pub fn with_image(fields: Value) -> Value {
    let mut body = json!({"image": BASE64_STANDARD.encode(red_and_blue())});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    body
}

/// A PNG of 16 x 8 pixels, the left half red, the right half blue.
pub fn red_and_blue() -> Vec<u8> {
    png(16, 8, |x| if x < 8 { [255, 0, 0] } else { [0, 0, 255] })
}

/// A PNG whose columns have the colours.
pub fn png(width: u32, height: u32, colour: impl Fn(u32) -> [u8; 3]) -> Vec<u8> {
    let pixels = image::RgbImage::from_fn(width, height, |x, _| image::Rgb(colour(x)));
    let mut bytes = Vec::new();
    pixels
        .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)
        .unwrap();
    bytes
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// A header's text.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing"))
            .to_str()
            .unwrap()
    }

    /// The JSON of an answer with status 200.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        self.json()
    }

    /// Asserts the whole problem.
    #[track_caller]
    pub fn assert_problem(&self, expected: &Value) {
        assert_eq!(self.json(), *expected);
        assert_eq!(self.status.as_u16(), expected["status"]);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("x-request-id"), expected["instance"]);
    }
}

/// The OpenAPI document as the server hands it out.
pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_saphyr::from_str(&openapi_yaml()).expect("the document is YAML"));

/// Fails when the document describes the operation, but not with this status.
#[track_caller]
fn assert_documented(method: &Method, path: &str, status: StatusCode) {
    let template = if path.starts_with("/v1/vocabularies/") {
        "/v1/vocabularies/{name}"
    } else if path.starts_with("/v1/images/") {
        "/v1/images/{id}"
    } else {
        path
    };
    let operation = &DOCUMENT["paths"][template][method.as_str().to_lowercase()];
    if operation.is_object() {
        let documented = &operation["responses"][status.as_str()];
        assert!(
            documented.is_object(),
            "openapi.yaml does not say that {method} {template} answers {status}"
        );
    }
}
