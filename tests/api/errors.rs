//! Provokes every error status of the contract and asserts its whole body.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use maskclip::engine::{Engine, Readiness};
use serde_json::json;

use crate::fake::{Action, Control};
use crate::support::{
    App, REQUEST_ID, multipart, png, post_json, red_and_blue, request, segment_json, segment_multipart, with_image,
};

#[tokio::test]
async fn broken_json_is_400() {
    let app = App::start().await;
    let body = request(Method::POST, "/v1/segment").header(header::CONTENT_TYPE, "application/json");
    let reply = app.send(body.body(Body::from("{\"classes\": [")).unwrap()).await;
    reply.assert_problem(&json!({
        "type": "/problems/malformed",
        "title": "The request is malformed",
        "status": 400,
        "detail": "the request is not valid JSON: it ends within a list at line 1 column 13",
        "instance": REQUEST_ID,
    }));
}

#[tokio::test]
async fn broken_json_is_400_inside_a_field_of_several_forms_too() {
    let app = App::start().await;
    for field in ["classes\": [{", "background\": {", "key_smoothing\": {", "window\": {"] {
        let body = request(Method::POST, "/v1/segment").header(header::CONTENT_TYPE, "application/json");
        let reply = app.send(body.body(Body::from(format!("{{\"{field}"))).unwrap()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{field}");
        assert_eq!(reply.json()["type"], "/problems/malformed", "{field}");
    }
}

#[tokio::test]
async fn broken_base64_is_400() {
    let app = App::start().await;
    app.segment(&json!({"image": "a!", "classes": ["red"]}))
        .await
        .assert_problem(&json!({
            "type": "/problems/malformed",
            "title": "The request is malformed",
            "status": 400,
            "detail": "image is not base64: its character 2 is '!'",
            "instance": REQUEST_ID,
        }));
}

#[tokio::test]
async fn a_path_that_is_not_utf_8_is_400() {
    let app = App::start().await;
    app.get("/v1/vocabularies/%ff").await.assert_problem(&json!({
        "type": "/problems/malformed",
        "title": "The request is malformed",
        "status": 400,
        "detail": "the name in the address is not UTF-8",
        "instance": REQUEST_ID,
    }));
}

#[tokio::test]
async fn a_path_without_a_route_is_404() {
    let app = App::start().await;
    for path in [
        "/v3/segment",
        "/docs/none.js",
        "/assets/none.js",
        "/assets/../Cargo.toml",
    ] {
        app.get(path).await.assert_problem(&json!({
            "type": "/problems/route-not-found",
            "title": "Nothing is served here",
            "status": 404,
            "detail": format!("nothing is served at {path}; GET /docs lists the routes"),
            "instance": REQUEST_ID,
        }));
    }
}

#[tokio::test]
async fn an_unknown_vocabulary_is_404_by_its_address_and_in_a_request() {
    let app = App::start().await;
    let expected = json!({
        "type": "/problems/vocabulary-not-found",
        "title": "No such vocabulary",
        "status": 404,
        "detail": "no vocabulary is called \"fruit\"",
        "instance": REQUEST_ID,
    });
    app.get("/v1/vocabularies/fruit").await.assert_problem(&expected);
    app.segment(&with_image(json!({"vocabulary": "fruit"})))
        .await
        .assert_problem(&expected);
}

#[tokio::test]
async fn a_method_that_is_not_answered_is_405_and_the_others_are_listed() {
    let app = App::start().await;
    let reply = app.get("/v1/segment").await;
    reply.assert_problem(&json!({
        "type": "/problems/method-not-allowed",
        "title": "The route does not answer this method",
        "status": 405,
        "detail": "GET is not answered here; the Allow header lists the methods that are",
        "instance": REQUEST_ID,
    }));
    assert_eq!(reply.header("allow"), "POST");
    let reply = app
        .send(request(Method::POST, "/v1/models").body(Body::empty()).unwrap())
        .await;
    assert_eq!(
        (reply.status, reply.header("allow")),
        (StatusCode::METHOD_NOT_ALLOWED, "GET,HEAD")
    );
}

#[tokio::test]
async fn an_accept_header_that_excludes_every_form_is_406() {
    let app = App::start().await;
    let mut post = segment_json(&with_image(json!({"classes": ["red"]})));
    post.headers_mut().insert(header::ACCEPT, "text/html".parse().unwrap());
    app.send(post).await.assert_problem(&json!({
        "type": "/problems/not-acceptable",
        "title": "No acceptable form of the answer",
        "status": 406,
        "detail": "the Accept header excludes all that this route can answer with: application/json, image/png",
        "instance": REQUEST_ID,
    }));
}

#[tokio::test]
async fn a_body_with_too_many_bytes_is_413_in_both_encodings() {
    let app = App::start_with(|config| config.limits.max_request_bytes = 300).await;
    let expected = json!({
        "type": "/problems/request-too-large",
        "title": "The request is too large",
        "status": 413,
        "detail": "the body has more than limits.max_request_bytes = 300 bytes",
        "instance": REQUEST_ID,
        "limit": {"name": "limits.max_request_bytes", "value": 300},
    });
    app.segment(&json!({"image": "a".repeat(300)}))
        .await
        .assert_problem(&expected);
    let form = multipart(&[("image", &[0; 300]), ("request", b"{}")]);
    app.send(segment_multipart(form)).await.assert_problem(&expected);
}

#[tokio::test]
async fn json_of_too_many_values_is_422_on_every_route_before_they_are_made() {
    let app = App::start_with(|config| config.limits.max_json_values = 50).await;
    let many = vec![json!([]); 60];
    for path in [
        "/v1/segment",
        "/v1/classify",
        "/v1/embeddings",
        "/v1/images",
        "/predict",
        "/setup",
        "/webhook",
        "/v2/models/colours/infer",
        "/",
    ] {
        let reply = app.send(post_json(path, &json!({"many": many}))).await;
        assert_eq!(
            reply.status,
            StatusCode::UNPROCESSABLE_ENTITY,
            "{path}: {}",
            reply.json()
        );
        let text = reply.json().to_string();
        assert!(
            text.contains("more than limits.max_json_values = 50 values"),
            "{path}: {text}"
        );
    }
    let image = red_and_blue();
    let request = json!({"classes": vec!["red"; 60]}).to_string();
    let form = segment_multipart(multipart(&[("image", &image), ("request", request.as_bytes())]));
    let limit = json!({"name": "limits.max_json_values", "value": 50});
    assert_eq!(app.send(form).await.json()["limit"], limit);
    // What stands in texts is no value.
    let few = with_image(json!({"classes": ["red", ",".repeat(60)]}));
    assert_eq!(app.segment(&few).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_image_with_too_many_pixels_is_413() {
    let app = App::start_with(|config| config.limits.input.max_image_pixels = 127).await;
    app.segment(&with_image(json!({"classes": ["red"]})))
        .await
        .assert_problem(&json!({
            "type": "/problems/image-too-large",
            "title": "The image has too many pixels",
            "status": 413,
            "detail": "the image has 16 x 8 pixels, more than limits.max_image_pixels = 127",
            "instance": REQUEST_ID,
            "limit": {"name": "limits.max_image_pixels", "value": 127},
        }));
}

#[tokio::test]
async fn a_media_type_that_is_not_read_is_415() {
    let app = App::start().await;
    let text = request(Method::POST, "/v1/segment").header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
    app.send(text.body(Body::from("{}")).unwrap()).await.assert_problem(&json!({
        "type": "/problems/unsupported-media-type",
        "title": "The media type is not read here",
        "status": 415,
        "detail": "this route reads application/json or multipart/form-data, but the Content-Type is \"text/plain\"",
        "instance": REQUEST_ID,
    }));
    let none = request(Method::PUT, "/v1/vocabularies/fruit")
        .body(Body::from("{}"))
        .unwrap();
    app.send(none).await.assert_problem(&json!({
        "type": "/problems/unsupported-media-type",
        "title": "The media type is not read here",
        "status": 415,
        "detail": "this route reads application/json, but the Content-Type is missing",
        "instance": REQUEST_ID,
    }));
}

#[tokio::test]
async fn an_unknown_field_is_422_with_its_path() {
    let app = App::start().await;
    let body = with_image(json!({"classes": ["red", {"name": "blue", "synonym": ["azure"]}]}));
    let reply = app.segment(&body).await;
    reply.assert_problem(&json!({
        "type": "/problems/invalid-request",
        "title": "The request is invalid",
        "status": 422,
        "detail": "there is no field classes[1].synonym; there are name, synonyms",
        "instance": REQUEST_ID,
        "path": "classes[1].synonym",
    }));
}

#[tokio::test]
async fn an_undecodable_image_is_422() {
    let app = App::start().await;
    app.segment(&json!({"image": "aGVsbG8=", "classes": ["red"]}))
        .await
        .assert_problem(&json!({
            "type": "/problems/undecodable-image",
            "title": "The image cannot be decoded",
            "status": 422,
            "detail": "the image is none of the formats this server reads: JPEG, PNG, WebP, GIF, BMP, TIFF",
            "instance": REQUEST_ID,
        }));
    let mut cut_short = png(16, 8, |_| [255, 0, 0]);
    cut_short.truncate(40);
    let form = multipart(&[("image", &cut_short), ("request", br#"{"classes": ["red"]}"#)]);
    let reply = app.send(segment_multipart(form)).await;
    assert_eq!(reply.json()["type"], "/problems/undecodable-image");
}

#[tokio::test]
async fn a_model_that_is_not_loaded_is_422() {
    let app = App::start().await;
    app.segment(&with_image(json!({"classes": ["red"], "model": "ViT-L/14"})))
        .await
        .assert_problem(&json!({
            "type": "/problems/unknown-model",
            "title": "The model is not loaded",
            "status": 422,
            "detail": "no model is called \"ViT-L/14\"; there is colours",
            "instance": REQUEST_ID,
            "path": "model",
        }));
}

#[tokio::test]
async fn an_attention_the_model_does_not_have_is_422() {
    let app = App::start().await;
    let body = with_image(json!({"classes": ["red"], "attention": "maskclip-no-residual"}));
    app.segment(&body).await.assert_problem(&json!({
        "type": "/problems/unsupported-by-model",
        "title": "The model cannot do this",
        "status": 422,
        "detail": "the model colours (fake) cannot compute the attention maskclip-no-residual; it can: clip, maskclip, sc-clip, resclip",
        "instance": REQUEST_ID,
    }));
}

#[tokio::test]
async fn an_attention_that_is_not_defined_on_the_image_is_422() {
    let app = App::start().await;
    let body = with_image(json!({"classes": ["red"], "attention": "sc-clip"}));
    app.segment(&body).await.assert_problem(&json!({
        "type": "/problems/invalid-request",
        "title": "The request is invalid",
        "status": 422,
        "detail": "the attention sc-clip looks at a square of at least 31 patches, not at 2 rows of 4; a square image, or a \
                   larger short_side, makes one",
        "instance": REQUEST_ID,
        "path": "attention",
    }));
}

#[tokio::test]
async fn one_request_more_than_the_queue_holds_is_429() {
    let app = App::start_with(|config| config.engine.queue_capacity = 1).await;
    let hold = app.control.hold_score();
    let body = with_image(json!({"classes": ["red", "blue"]}));
    let first = tokio::spawn({
        let (app, body) = (app.clone(), body.clone());
        async move { app.segment(&body).await }
    });
    app.control.entered().await;

    let second = app.segment(&body).await;
    second.assert_problem(&json!({
        "type": "/problems/overloaded",
        "title": "The server is overloaded",
        "status": 429,
        "detail": "the engine holds 1 requests already, as many as engine.queue_capacity allows",
        "instance": REQUEST_ID,
        "limit": {"name": "engine.queue_capacity", "value": 1},
    }));
    assert_eq!(second.header("retry-after"), "1");

    drop(hold);
    first.await.unwrap().ok();
}

#[tokio::test]
async fn a_failing_model_is_500_without_detail_and_the_next_request_is_answered() {
    let app = App::start().await;
    let body = with_image(json!({"classes": ["red", "blue"]}));
    app.control.on_score(Action::Fail);
    app.segment(&body).await.assert_problem(&internal_error());
    app.segment(&body).await.ok();
}

#[tokio::test]
async fn a_number_that_json_does_not_have_is_500() {
    let app = App::start().await;
    app.control.on_score(Action::NotANumber);
    app.segment(&with_image(json!({"classes": ["red", "blue"]})))
        .await
        .assert_problem(&internal_error());
}

#[tokio::test]
async fn a_panicking_model_is_500_and_the_server_is_not_ready_until_it_is_loaded_anew() {
    let app = App::start().await;
    let body = with_image(json!({"classes": ["red", "blue"]}));
    app.control.on_score(Action::Panic);
    let reload = app.control.hold_load();
    app.segment(&body).await.assert_problem(&internal_error());

    app.get("/health/ready")
        .await
        .assert_problem(&not_ready("a model failed and is being loaded again", "recovering"));
    let waits = tokio::spawn({
        let (app, body) = (app.clone(), body.clone());
        async move { app.segment(&body).await }
    });
    while app.metric(r#"maskclip_queue_depth{model="colours"}"#).await == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    drop(reload);
    waits.await.unwrap().ok();
    app.until(Readiness::Ready).await;
}

/// Records the engine's readiness when a future is woken, on the thread that wakes it.
struct Witness {
    engine: Arc<Engine>,
    seen: Arc<Mutex<Vec<Readiness>>>,
    task: Waker,
}

impl Wake for Witness {
    fn wake(self: Arc<Self>) {
        self.seen.lock().unwrap().push(self.engine.readiness());
        self.task.wake_by_ref();
    }
}

/// The answer wakes its request on the worker's own thread. There the engine must not be ready any more.
#[tokio::test]
async fn readiness_is_right_at_the_moment_a_panic_is_answered() {
    for on_call in [Control::on_look, Control::on_score] {
        let app = App::start().await;
        let (release, released) = mpsc::channel();
        on_call(&app.control, Action::PanicAfter(released));
        let _reload = app.control.hold_load();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let body = with_image(json!({"classes": ["red"]}));
        let mut request = std::pin::pin!(app.segment(&body));
        let request = poll_fn(|context| {
            let witness = Witness {
                engine: Arc::clone(&app.engine),
                seen: Arc::clone(&seen),
                task: context.waker().clone(),
            };
            request
                .as_mut()
                .poll(&mut Context::from_waker(&Waker::from(Arc::new(witness))))
        });
        let let_it_panic = async {
            app.control.entered().await;
            // The request is polled once more. From then on it waits only for the answer.
            tokio::task::yield_now().await;
            seen.lock().unwrap().clear();
            drop(release);
        };
        let (reply, ()) = tokio::join!(biased; request, let_it_panic);
        reply.assert_problem(&internal_error());
        assert_eq!(*seen.lock().unwrap(), [Readiness::Recovering]);
    }
}

/// Whoever gets the reply to a look, a score or an embedding must find readiness and metrics up to date. The reload
/// waits behind a hold, so that neither can have changed back.
#[tokio::test]
async fn a_worker_counts_as_gone_before_the_answer_to_the_panic_is_sent() {
    let app = App::start().await;
    let on_call = [Control::on_look, Control::on_score, Control::on_embed];
    for round in 0..300 {
        on_call[round % 3](&app.control, Action::Panic);
        let reload = app.control.hold_load();
        // A word that no earlier round has embedded.
        let body = with_image(json!({"classes": [format!("word {round}")]}));
        let reply = app.segment(&body).await;
        assert_eq!(app.engine.readiness(), Readiness::Recovering, "in round {round}");
        let live = app.metric(r#"maskclip_workers_live{model="colours"}"#).await;
        assert_eq!(live, 0, "in round {round}");
        reply.assert_problem(&internal_error());
        drop(reload);
        app.until(Readiness::Ready).await;
    }
}

#[tokio::test]
async fn before_the_model_is_loaded_requests_are_503() {
    let control = Control::default();
    let load = control.hold_load();
    let app = App::launch(control, |_| ());
    let body = with_image(json!({"classes": ["red"]}));
    app.get("/health/ready")
        .await
        .assert_problem(&not_ready("a model is being loaded", "starting"));
    app.segment(&body).await.assert_problem(&json!({
        "type": "/problems/model-unavailable",
        "title": "The model is not ready",
        "status": 503,
        "detail": "the model colours is being loaded",
        "instance": REQUEST_ID,
    }));
    drop(load);
    app.engine.ready().await.unwrap();
    app.segment(&body).await.ok();
}

#[tokio::test]
async fn while_the_server_goes_down_new_requests_are_503_and_those_under_way_are_answered() {
    let app = App::start().await;
    let hold = app.control.hold_score();
    let body = with_image(json!({"classes": ["red"]}));
    let first = tokio::spawn({
        let (app, body) = (app.clone(), body.clone());
        async move { app.segment(&body).await }
    });
    app.control.entered().await;

    app.engine.drain();
    app.get("/health/ready")
        .await
        .assert_problem(&not_ready("the server is going down", "ready"));
    app.segment(&body)
        .await
        .assert_problem(&unavailable("the server is going down"));

    drop(hold);
    first.await.unwrap().ok();
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_model_is_504() {
    let app = App::start().await;
    // A first request without a hold, so that no other stage takes long.
    app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
    let hold = app.control.hold_score();
    let reply = app
        .segment(&with_image(
            json!({"classes": ["red", "blue"], "deadline_seconds": 0.5}),
        ))
        .await;
    drop(hold);
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.starts_with("the deadline passed after ") && detail.ends_with("s in stage model"),
        "{detail}"
    );
    reply.assert_problem(&json!({
        "type": "/problems/deadline-exceeded",
        "title": "The deadline passed",
        "status": 504,
        "detail": detail,
        "instance": REQUEST_ID,
    }));
    assert_eq!(reply.header("retry-after"), "1");
}

#[tokio::test]
async fn texts_that_outlive_a_deadline_are_kept_so_that_a_repeat_succeeds() {
    let app = App::start().await;
    let hold = app.control.hold_embed();
    let late = tokio::spawn({
        let app = app.clone();
        async move {
            let body = with_image(json!({"classes": ["red", "blue"], "deadline_seconds": 0.5}));
            let mut late = 0;
            while app.segment(&body).await.status == StatusCode::GATEWAY_TIMEOUT {
                late += 1;
            }
            late
        }
    });
    app.control.entered().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    // A second embedding of the texts would fail.
    app.control.on_embed(Action::Fail);
    drop(hold);
    assert!(late.await.unwrap() > 0);
    app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
}

fn internal_error() -> serde_json::Value {
    json!({"type": "/problems/internal", "title": "Internal error", "status": 500, "instance": REQUEST_ID})
}

fn unavailable(detail: &str) -> serde_json::Value {
    json!({
        "type": "/problems/unavailable",
        "title": "The server is not ready",
        "status": 503,
        "detail": detail,
        "instance": REQUEST_ID,
    })
}

/// The problem of a readiness probe, with the status of the one model.
fn not_ready(detail: &str, model: &str) -> serde_json::Value {
    let mut problem = unavailable(detail);
    problem["models"] = json!([{"name": "colours", "status": model}]);
    problem
}

#[tokio::test]
async fn an_array_does_not_stand_for_an_object() {
    let app = App::start().await;
    for (method, path, body, at) in [
        (Method::POST, "/v1/segment", "[\"aGk=\"]", None),
        (Method::POST, "/v1/images", "[\"aGk=\"]", None),
        (Method::PUT, "/v1/vocabularies/fruit", "[[\"apple\"]]", None),
        (
            Method::PUT,
            "/v1/vocabularies/fruit",
            "{\"classes\": [[\"apple\", []]]}",
            Some("classes[0]"),
        ),
        (
            Method::PUT,
            "/v1/vocabularies/fruit",
            "{\"classes\": [\"apple\"], \"options\": [null]}",
            Some("options"),
        ),
        (Method::POST, "/v1/segment", "{\"output\": [\"png\"]}", Some("output")),
    ] {
        let head = request(method, path).header(header::CONTENT_TYPE, "application/json");
        let reply = app.send(head.body(Body::from(body)).unwrap()).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(reply.json().get("path").and_then(|path| path.as_str()), at, "{body}");
    }
}
