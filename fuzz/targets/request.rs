// Any body gets an answer that the API's document describes, and never a server error. The first byte picks the route and
// the encoding; the rest is the body.

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::{Method, Request, header};
use tokio::runtime::{Builder, Runtime};

use crate::support::{App, BOUNDARY};

/// Most pixels of an image and of the model's input, so that a run spends its time on bodies.
const MOST_PIXELS: u64 = 1 << 14;

pub fn run(bytes: &[u8]) {
    let Some((route, body)) = bytes.split_first() else {
        return;
    };
    let (method, path, encoding) = match route {
        b's' => (Method::POST, "/v1/segment", "application/json"),
        b'S' => (Method::POST, "/v1/segment", "multipart/form-data"),
        b'i' => (Method::POST, "/v1/images", "application/json"),
        b'I' => (Method::POST, "/v1/images", "multipart/form-data"),
        b'v' => (Method::PUT, "/v1/vocabularies/fuzzed", "application/json"),
        _ => return,
    };
    let content_type = match encoding {
        "multipart/form-data" => format!("{encoding}; boundary={BOUNDARY}"),
        _ => encoding.to_owned(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::from(body.to_vec()));
    let (runtime, app) = server();
    let reply = runtime.block_on(app.send(request.expect("the request is well formed")));
    assert!(!reply.status.is_server_error(), "{} {:?}", reply.status, reply.body);
}

/// The server under test, started once.
fn server() -> &'static (Runtime, App) {
    static SERVER: OnceLock<(Runtime, App)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a thread can run");
        let app = runtime.block_on(App::start_with(|config| {
            config.limits.input.max_image_pixels = MOST_PIXELS;
            config.limits.input.max_input_pixels = MOST_PIXELS;
            config.limits.input.max_short_side = 128;
        }));
        (runtime, app)
    })
}
