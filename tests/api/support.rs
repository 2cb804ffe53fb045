//! An application under test, requests to it, and the checks that every answer must pass.

use std::io::Cursor;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maskclip::access::Access;
use maskclip::api::{AppState, Lifecycle, openapi_yaml, router};
use maskclip::config::Config;
use maskclip::engine::{Engine, ModelState, Readiness};
use maskclip::labeller::ServedModel;
use maskclip::telemetry::{MetricsRegistry, Traces};
use maskclip::vocabulary::DiskStore;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fake::Control;

/// The id that every request of these tests carries.
pub const REQUEST_ID: &str = "test-1";

/// The boundary between the parts of multipart bodies.
pub const BOUNDARY: &str = "frontier";

/// A server without a socket.
#[derive(Clone)]
pub struct App {
    router: Router,
    pub engine: Arc<Engine>,
    pub metrics: MetricsRegistry,
    /// The control of the first model.
    pub control: Control,
}

impl App {
    /// Starts a server with the default settings and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// Starts a server with changed settings and waits until it is ready.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let app = Self::launch(Control::default(), change);
        app.engine.ready().await.expect("the fake loads");
        app
    }

    /// Starts a server without waiting until it is ready.
    pub fn launch(control: Control, change: impl FnOnce(&mut Config)) -> Self {
        let models = vec![control.model()];
        Self::launch_models(models, control, change)
    }

    /// Starts a server with several models without waiting. The first model obeys the control.
    pub fn launch_models(models: Vec<ServedModel>, control: Control, change: impl FnOnce(&mut Config)) -> Self {
        Self::launch_on(None, models, control, change)
    }

    /// Starts a server on a store on disk and waits until it is ready.
    pub async fn start_on(disk: Arc<DiskStore>, change: impl FnOnce(&mut Config)) -> Self {
        let control = Control::default();
        let app = Self::launch_on(Some(disk), vec![control.model()], control, change);
        app.engine.ready().await.expect("the fake loads");
        app
    }

    fn launch_on(
        disk: Option<Arc<DiskStore>>,
        models: Vec<ServedModel>,
        control: Control,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let state = state(disk, models, change);
        Self {
            engine: Arc::clone(&state.engine),
            metrics: state.metrics.clone(),
            router: router(state),
            control,
        }
    }

    /// Returns the paths of all routes, as the router has them. The router tells them in its text for debugging alone.
    pub fn routes(&self) -> Vec<String> {
        let text = format!("{:?}", self.router);
        let path = |entry: &str| {
            let (_, path) = entry.split_once("): \"")?;
            let (path, _) = path.split_once('"')?;
            Some(path.to_owned())
        };
        let paths = text.split("RouteId(").skip(1).filter_map(path);
        // What answers where no route is.
        let mut paths: Vec<_> = paths.filter(|path| !path.contains("__private__")).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// Waits until the engine has reached the state.
    pub async fn until(&self, readiness: Readiness) {
        until(async || self.engine.readiness() == readiness).await;
    }

    /// Waits until the model has reached the state.
    pub async fn until_model(&self, name: &str, state: ModelState) {
        let is_reached = || {
            let models = self.engine.model_states();
            models.iter().any(|model| model.name == name && model.state == state)
        };
        until(async || is_reached()).await;
    }

    /// Sends a request. Checks that the answer carries the request's id, that the document describes its status, and
    /// that an error is a problem.
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
            .expect("the router sends the whole body");
        let reply = Reply {
            status: parts.status,
            headers: parts.headers,
            body,
        };
        assert!(reply.headers.contains_key("x-request-id"));
        assert_documented(&method, &path, reply.status);
        reply
    }

    /// Sends `GET path`.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path).body(Body::empty()).unwrap()).await
    }

    /// Returns the value of a metric, named with its labels as in `/metrics`.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = String::from_utf8(self.get("/metrics").await.body.to_vec()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("{name} is missing from\n{text}"))
            .parse()
            .unwrap()
    }

    /// Sends `POST /v1/segment` with a JSON body.
    pub async fn segment(&self, body: &Value) -> Reply {
        self.send(segment_json(body)).await
    }
}

/// Waits until a condition holds. Fails if it takes much longer than on a busy machine.
#[track_caller]
pub fn until(holds: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let reached = async move {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    async {
        tokio::time::timeout(Duration::from_secs(30), reached)
            .await
            .expect("the condition holds in time");
    }
}

/// Starts an engine with these models. Returns it as the router takes it.
pub fn state(disk: Option<Arc<DiskStore>>, models: Vec<ServedModel>, change: impl FnOnce(&mut Config)) -> AppState {
    let mut config = Config::for_testing();
    change(&mut config);
    let metrics = MetricsRegistry::new();
    let engine = Engine::start(config.engine_settings(), models, disk, &metrics);
    engine.keep_embedded();
    AppState {
        engine,
        metrics,
        traces: Traces::start(&config.telemetry.otlp),
        max_request_bytes: config.limits.max_request_bytes,
        max_json_values: config.limits.max_json_values,
        max_label_config_bytes: config.limits.max_label_config_bytes,
        max_batch_images: config.limits.max_batch_images,
        access: Arc::new(Access::open(config.access).expect("the keys are valid")),
        server: config.server,
        lifecycle: Lifecycle::new(),
    }
}

/// Returns a request without a body.
pub fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path)
}

/// Returns `POST /v1/segment` with a JSON body.
pub fn segment_json(body: &Value) -> Request<Body> {
    post_json("/v1/segment", body)
}

/// Returns `POST path` with a JSON body.
pub fn post_json(path: &str, body: &Value) -> Request<Body> {
    let builder = request(Method::POST, path).header(header::CONTENT_TYPE, "application/json");
    builder.body(Body::from(body.to_string())).unwrap()
}

/// Returns `POST /v1/segment` with a multipart body in its form on the wire.
pub fn segment_multipart(body: impl Into<Body>) -> Request<Body> {
    post_multipart("/v1/segment", body)
}

/// Returns `POST path` with a multipart body in its form on the wire.
pub fn post_multipart(path: &str, body: impl Into<Body>) -> Request<Body> {
    request(Method::POST, path)
        .header(
            header::CONTENT_TYPE,
            format!("multipart/form-data; boundary={BOUNDARY}"),
        )
        .body(body.into())
        .unwrap()
}

/// Returns a multipart body of named parts.
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

/// Returns `{"image": red_and_blue(), ...fields}`.
pub fn with_image(fields: Value) -> Value {
    let mut body = json!({"image": BASE64_STANDARD.encode(red_and_blue())});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    body
}

/// Returns a PNG of 16 x 8 pixels with a red left half and a blue right half.
pub fn red_and_blue() -> Vec<u8> {
    png(16, 8, |x| if x < 8 { [255, 0, 0] } else { [0, 0, 255] })
}

/// Returns a PNG in which `colour` gives the colour of each column.
pub fn png(width: u32, height: u32, colour: impl Fn(u32) -> [u8; 3]) -> Vec<u8> {
    let pixels = image::RgbImage::from_fn(width, height, |x, _| image::Rgb(colour(x)));
    let mut bytes = Vec::new();
    pixels
        .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)
        .unwrap();
    bytes
}

/// An answer with its whole body.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// Returns the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// Returns the text of a header.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("{name} is missing"))
            .to_str()
            .unwrap()
    }

    /// Returns the JSON of an answer, which must have the status 200.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{:?}", self.body);
        self.json()
    }

    /// Asserts that the answer is exactly this problem.
    #[track_caller]
    pub fn assert_problem(&self, expected: &Value) {
        assert_eq!(self.json(), *expected);
        assert_eq!(self.status.as_u16(), expected["status"]);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("x-request-id"), expected["instance"]);
    }
}

/// The OpenAPI document that the server serves.
pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_saphyr::from_str(&openapi_yaml()).expect("the document is YAML"));

/// Fails if the document describes the operation without this status.
#[track_caller]
fn assert_documented(method: &Method, path: &str, status: StatusCode) {
    let template = if path.starts_with("/v1/vocabularies/") && path.ends_with("/status") {
        "/v1/vocabularies/{name}/status"
    } else if path.starts_with("/v1/vocabularies/") {
        "/v1/vocabularies/{name}"
    } else if path.starts_with("/v1/images/") && path.ends_with("/similar") {
        "/v1/images/{id}/similar"
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
