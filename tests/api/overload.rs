//! What happens to a busy server: who gets the next turn, what is given up with its client, and which bounds are named.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::fake::{Action, Control};
use crate::support::{
    App, BOUNDARY, REQUEST_ID, Reply, multipart, png, post_json, red_and_blue, request, segment_json,
    segment_multipart, with_image,
};

/// Returns the name of a class that takes a whole chunk of texts.
fn long_name(number: usize) -> String {
    format!("{number:0195}")
}

/// Starts a request in a task of its own.
fn started(app: &App, fields: Value) -> JoinHandle<Reply> {
    let app = app.clone();
    tokio::spawn(async move { app.segment(&with_image(fields)).await })
}

/// Waits until a metric has a value.
async fn until(app: &App, metric: &str, value: u64) {
    let reached = async {
        while app.metric(metric).await != value {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), reached).await;
    assert!(waited.is_ok(), "{metric} does not become {value}");
}

/// Ends a request as a client does that leaves.
async fn leave(request: JoinHandle<Reply>) {
    request.abort();
    assert!(request.await.is_err_and(|error| error.is_cancelled()));
}

async fn put(app: &App, name: &str, body: &Value) -> Reply {
    let put =
        request(Method::PUT, &format!("/v1/vocabularies/{name}")).header(header::CONTENT_TYPE, "application/json");
    app.send(put.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn more_new_texts_than_may_wait_are_429_for_requests_and_vocabularies_alike() {
    let app = App::start_with(|config| config.engine.max_waiting_texts = 3).await;
    let hold = app.control.hold_embed();
    let first = started(&app, json!({"classes": ["red", "green"]}));
    app.control.entered().await;
    let expected = json!({
        "type": "/problems/overloaded",
        "title": "The server is overloaded",
        "status": 429,
        "detail": "2 new texts find 2 waiting to be embedded; together they are more than engine.max_waiting_texts = 3",
        "instance": REQUEST_ID,
        "limit": {"name": "engine.max_waiting_texts", "value": 3},
    });
    let refused = app.segment(&with_image(json!({"classes": ["blue", "grey"]}))).await;
    refused.assert_problem(&expected);
    assert_eq!(refused.header("retry-after"), "1");
    put(&app, "paint", &json!({"classes": ["blue", "grey"]}))
        .await
        .assert_problem(&expected);
    assert_eq!(app.get("/v1/vocabularies/paint").await.status, StatusCode::NOT_FOUND);
    assert_eq!(app.metric("maskclip_waiting_texts").await, 2);
    drop(hold);
    first.await.unwrap().ok();
    app.segment(&with_image(json!({"classes": ["blue", "grey"]})))
        .await
        .ok();
    assert_eq!(app.metric("maskclip_waiting_texts").await, 0);
}

#[tokio::test]
async fn texts_of_a_client_that_left_are_not_embedded() {
    let app = App::start().await;
    let warm = app.control.embeds();
    let hold = app.control.hold_embed();
    let names: Vec<String> = (0..5).map(long_name).collect();
    let gone = started(&app, json!({"classes": names}));
    app.control.entered().await;
    leave(gone).await;
    drop(hold);
    app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
    until(&app, "maskclip_waiting_texts", 0).await;
    assert_eq!(app.control.embeds(), warm + 2);
    // The chunk that was in the model is kept.
    app.segment(&with_image(json!({"classes": [long_name(0)]}))).await.ok();
    assert_eq!(app.control.embeds(), warm + 2);
}

#[tokio::test]
async fn an_image_waits_for_one_chunk_of_texts_at_most() {
    let app = App::start().await;
    app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
    let holds = [(); 2].map(|()| app.control.hold_embed());
    let long = started(&app, json!({"classes": [long_name(0), long_name(1), long_name(2)]}));
    app.control.entered().await;
    let image = png(16, 8, |_| [0, 255, 0]);
    let short = tokio::spawn({
        let app = app.clone();
        let body = json!({"image": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, image), "classes": ["red", "blue"]});
        async move { app.send(segment_json(&body)).await }
    });
    until(&app, "maskclip_queue_depth{model=\"colours\"}", 1).await;
    let [first, second] = holds;
    drop(first);
    // The second chunk is held for as long as the image is not answered.
    short.await.unwrap().ok();
    drop(second);
    long.await.unwrap().ok();
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_waiting_work_along() {
    let app = App::start_with(|config| config.engine.queue_capacity = 2).await;
    app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
    let looks = app.control.looks();
    let hold = app.control.hold_score();
    let running = started(&app, json!({"classes": ["red", "blue"]}));
    app.control.entered().await;
    let waiting = started(&app, json!({"classes": ["red", "blue"], "short_side": 12}));
    until(&app, "maskclip_queue_depth{model=\"colours\"}", 1).await;
    assert_eq!(app.metric("maskclip_requests_in_flight").await, 2);
    leave(waiting).await;
    // Its job waits still and holds no slot.
    assert_eq!(app.metric("maskclip_requests_in_flight").await, 1);
    leave(running).await;
    assert_eq!(
        app.metric("maskclip_requests_in_flight").await,
        1,
        "its work is running"
    );
    drop(hold);
    app.segment(&with_image(json!({"classes": ["red"]}))).await.ok();
    assert_eq!(
        app.control.looks(),
        looks,
        "nobody looked at the image that nobody waits for"
    );
}

#[tokio::test]
async fn running_work_of_a_client_that_left_ends_at_its_next_step() {
    let app = App::start().await;
    let steps: [fn(&Control, Action); 3] = [Control::on_look, Control::on_score, Control::on_refine];
    for (stops, on_step) in (1..).zip(steps) {
        on_step(&app.control, Action::WorkUntilStopped);
        let gone = started(&app, json!({"classes": ["red", "blue"], "refinement": "pamr"}));
        app.control.entered().await;
        leave(gone).await;
        app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
        assert_eq!(app.control.stops(), stops);
    }
}

/// Returns a request whose JSON body arrives as the test sends it.
fn slow(fields: Value) -> (axum::http::Request<Body>, mpsc::Sender<Bytes>, Bytes) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((Ok::<_, Infallible>(piece), receiver))
    });
    let builder = request(Method::POST, "/v1/segment").header(header::CONTENT_TYPE, "application/json");
    let body = with_image(fields).to_string().into();
    (builder.body(Body::from_stream(pieces)).unwrap(), sender, body)
}

#[tokio::test]
async fn a_body_that_comes_slowly_holds_no_slot() {
    let app = App::start_with(|config| config.engine.queue_capacity = 1).await;
    let (request, sender, body) = slow(json!({"classes": ["red", "blue"]}));
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.send(request).await }
    });
    sender.send(body.slice(..10)).await.unwrap();
    until(&app, "maskclip_body_bytes", 1024).await;
    app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
    sender.send(body.slice(10..)).await.unwrap();
    drop(sender);
    waiting.await.unwrap().ok();
    assert_eq!(app.metric("maskclip_body_bytes").await, 0);
}

#[tokio::test]
async fn a_full_engine_refuses_before_it_reads_the_body() {
    let app = App::start_with(|config| config.engine.queue_capacity = 1).await;
    let hold = app.control.hold_score();
    let running = started(&app, json!({"classes": ["red"]}));
    app.control.entered().await;
    // Its body never comes.
    let (request, _sender, _) = slow(json!({}));
    let refused = app.send(request).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(app.metric("maskclip_refusals_total{reason=\"slots\"}").await, 1);
    assert_eq!(app.metric("maskclip_requests_capacity").await, 1);
    drop(hold);
    running.await.unwrap().ok();
    app.engine.drain();
    let (request, _sender, _) = slow(json!({}));
    assert_eq!(app.send(request).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(app.metric("maskclip_refusals_total{reason=\"draining\"}").await, 1);
}

#[tokio::test]
async fn the_deadline_counts_from_the_arrival_of_the_head() {
    let app = App::start().await;
    let (request, sender, body) = slow(json!({"classes": ["red"], "deadline_seconds": 0.05}));
    let late = tokio::spawn({
        let app = app.clone();
        async move { app.send(request).await }
    });
    // The wait for the channel's room shows that the head has arrived.
    sender.send(body.slice(..10)).await.unwrap();
    until(&app, "maskclip_body_bytes", 1024).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    sender.send(body.slice(10..)).await.unwrap();
    drop(sender);
    assert_eq!(late.await.unwrap().status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn bodies_have_room_for_their_bytes_or_are_429() {
    let app = App::start_with(|config| config.engine.body_bytes = 2048).await;
    let expected = json!({
        "type": "/problems/overloaded",
        "title": "The server is overloaded",
        "status": 429,
        "detail": "the bodies of all requests together would have more than engine.body_bytes = 2048 bytes",
        "instance": REQUEST_ID,
        "limit": {"name": "engine.body_bytes", "value": 2048},
    });
    // JSON counts twice while it is read. The form has more bytes and counts once.
    let names: Vec<String> = (0..6).map(long_name).collect();
    let long = with_image(json!({"classes": names}));
    app.segment(&long).await.assert_problem(&expected);
    put(&app, "paint", &json!({"classes": [long.to_string()]}))
        .await
        .assert_problem(&expected);
    let form = |bytes: usize| {
        let classes = json!({"classes": ["red", "blue"]}).to_string();
        let image = [red_and_blue(), vec![0; bytes]].concat();
        multipart(&[("image", &image), ("request", classes.as_bytes())])
    };
    app.send(segment_multipart(form(1000))).await.ok();
    app.send(segment_multipart(form(2048))).await.assert_problem(&expected);
    // A promised length is refused before the body comes.
    let promised = request(Method::POST, "/v1/segment")
        .header(
            header::CONTENT_TYPE,
            format!("multipart/form-data; boundary={BOUNDARY}"),
        )
        .header(header::CONTENT_LENGTH, 2049)
        .body(Body::from_stream(futures_util::stream::pending::<
            Result<Bytes, Infallible>,
        >()));
    app.send(promised.unwrap()).await.assert_problem(&expected);
    assert_eq!(app.metric("maskclip_body_bytes").await, 0);
    assert_eq!(app.metric("maskclip_refusals_total{reason=\"body_bytes\"}").await, 4);
}

#[tokio::test]
async fn requests_wait_for_their_bytes_and_give_them_back_with_the_reply() {
    // A request of these tests takes 3584 bytes.
    let app = App::start_with(|config| {
        config.engine.work_bytes = 7 * 1024;
        config.images.cache_bytes = 0;
    })
    .await;
    let hold = app.control.hold_score();
    let first = started(&app, json!({"classes": ["red", "blue"]}));
    app.control.entered().await;
    assert_eq!(app.metric("maskclip_work_bytes").await, 4096);
    let late = app
        .segment(&with_image(
            json!({"classes": ["red", "blue"], "deadline_seconds": 0.05}),
        ))
        .await;
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(late.json()["detail"].as_str().unwrap().ends_with("in stage queue"));
    let second = started(&app, json!({"classes": ["red", "blue"]}));
    until(&app, "maskclip_requests_in_flight", 2).await;
    assert_eq!(app.control.looks(), 2, "the warm-up and the first");
    drop(hold);
    let first = first.await.unwrap();
    first.ok();
    second.await.unwrap().ok();
    assert_eq!(
        app.metric("maskclip_work_bytes").await,
        (first.body.len() as u64).div_ceil(1024) * 1024,
        "the first reply is not sent yet"
    );
    drop(first);
    assert_eq!(app.metric("maskclip_work_bytes").await, 0);
}

#[tokio::test]
async fn every_reply_that_grows_with_its_request_holds_its_bytes_until_it_is_sent() {
    let app = App::start().await;
    let image = BASE64_STANDARD.encode(red_and_blue());
    let texts: Vec<String> = (0..40).map(|number| format!("text {number}")).collect();
    let labels = json!({"inputs": image, "parameters": {"candidate_labels": ["red", "blue"]}});
    for (path, body) in [
        ("/v1/segment", with_image(json!({"classes": ["red", "blue"]}))),
        ("/v1/classify", with_image(json!({"classes": ["red", "blue"]}))),
        ("/v1/embeddings", json!({"input": texts})),
        ("/v1/embeddings", json!({"input": {"image": image}})),
        ("/?classes=red,blue", json!({"inputs": image})),
        ("/", labels),
    ] {
        let reply = app.send(post_json(path, &body)).await;
        let bytes = reply.body.len() as u64;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        assert_eq!(
            app.metric("maskclip_work_bytes").await,
            bytes.div_ceil(1024) * 1024,
            "{path}"
        );
        drop(reply);
        assert_eq!(app.metric("maskclip_work_bytes").await, 0, "{path}");
    }
}

/// A long reply of texts alone waits for its bytes as images do, and a short one does not.
#[tokio::test]
async fn embeddings_of_many_texts_wait_for_their_bytes() {
    let app = App::start_with(|config| config.engine.work_bytes = 149 * 1024).await;
    let texts: Vec<String> = (0..250).map(|number| format!("text {number}")).collect();
    let first = app
        .send(post_json(
            "/v1/segment",
            &with_image(json!({"classes": ["red", "blue"]})),
        ))
        .await;
    assert!(app.metric("maskclip_work_bytes").await > 0);
    let late = json!({"input": texts, "deadline_seconds": 0.05});
    let late = app.send(post_json("/v1/embeddings", &late)).await;
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    app.send(post_json("/v1/embeddings", &json!({"input": "red"})))
        .await
        .ok();
    drop(first);
    app.send(post_json("/v1/embeddings", &json!({"input": texts})))
        .await
        .ok();
}

#[tokio::test]
async fn a_request_that_alone_takes_too_many_bytes_is_422() {
    let app = App::start_with(|config| config.engine.work_bytes = 3 * 1024).await;
    let reply = app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await;
    reply.assert_problem(&json!({
        "type": "/problems/invalid-request",
        "title": "The request is invalid",
        "status": 422,
        "detail": "the request takes up to 3648 bytes, more than engine.work_bytes = 3072; a smaller image, fewer classes or \
                   another form of the label map take less",
        "instance": REQUEST_ID,
        "path": "image",
        "limit": {"name": "engine.work_bytes", "value": 3072},
    }));
    app.segment(&with_image(json!({"classes": ["red", "blue"], "short_side": 4})))
        .await
        .ok();
}

/// Embeds a class that nobody knows yet, slowly, until the times of the model are known.
async fn measure_texts(app: &App, at_least: Duration) {
    for number in 0..3 {
        let hold = app.control.hold_embed();
        let request = started(
            app,
            json!({"classes": [format!("measured {number}")], "templates": "simple"}),
        );
        app.control.entered().await;
        tokio::time::sleep(at_least).await;
        drop(hold);
        request.await.unwrap().ok();
    }
}

#[tokio::test]
async fn new_texts_that_take_longer_than_the_deadline_are_refused_at_once() {
    let app = App::start().await;
    let names: Vec<String> = (0..1000).map(|number| format!("name {number}")).collect();
    let fields = json!({"classes": names, "templates": "simple", "deadline_seconds": 10});
    measure_texts(&app, Duration::from_millis(50)).await;
    let embeds = app.control.embeds();
    let reply = app.segment(&with_image(fields)).await;
    let problem = reply.json();
    assert_eq!(
        (reply.status, &problem["type"], &problem["path"]),
        (
            StatusCode::TOO_MANY_REQUESTS,
            &json!("/problems/overloaded"),
            &json!("deadline_seconds")
        )
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("embedding 1000 new texts takes about "), "{detail}");
    assert!(detail.contains("define a vocabulary"), "{detail}");
    assert!(!reply.headers.contains_key("retry-after"), "waiting does not help");
    assert_eq!(app.metric("maskclip_refusals_total{reason=\"deadline\"}").await, 1);
    assert_eq!(app.control.embeds(), embeds);
    // Known texts take no time, whatever was measured.
    app.segment(&with_image(json!({"classes": ["measured 0"], "templates": "simple"})))
        .await
        .ok();
}

#[tokio::test]
async fn a_request_behind_more_work_than_its_deadline_leaves_is_refused_with_an_estimate() {
    let app = App::start_with(|config| config.images.cache_bytes = 0).await;
    let body = || json!({"classes": ["red", "blue"]});
    app.segment(&with_image(body())).await.ok();
    for _ in 0..20 {
        let hold = app.control.hold_score();
        let request = started(&app, body());
        app.control.entered().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(hold);
        request.await.unwrap().ok();
    }
    let hold = app.control.hold_score();
    let running = started(&app, body());
    app.control.entered().await;
    let waiting: Vec<_> = (0..8).map(|_| started(&app, body())).collect();
    until(&app, "maskclip_queue_depth{model=\"colours\"}", 8).await;
    // Eight images of at least 20 ms lie ahead, and the deadline is shorter.
    let refused = app
        .segment(&with_image(
            json!({"classes": ["red", "blue"], "deadline_seconds": 0.1}),
        ))
        .await;
    if refused.status == StatusCode::TOO_MANY_REQUESTS {
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.starts_with("the work ahead of this request takes about "),
            "{detail}"
        );
        assert_eq!(refused.header("retry-after"), "1");
    } else {
        // The deadline passed on the way there, as it may on a starved machine.
        assert_eq!(refused.status, StatusCode::GATEWAY_TIMEOUT);
    }
    drop(hold);
    running.await.unwrap().ok();
    for request in waiting {
        request.await.unwrap().ok();
    }
}

#[tokio::test]
async fn a_request_whose_refinement_takes_longer_than_its_deadline_is_refused_at_once() {
    let app = App::start().await;
    for _ in 0..3 {
        let hold = app.control.hold_refine();
        let request = started(&app, json!({"classes": ["red", "blue"], "refinement": "pamr"}));
        app.control.entered().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(hold);
        request.await.unwrap().ok();
    }
    let image = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, png(400, 400, |_| [0, 255, 0]));
    let names: Vec<String> = (0..50).map(|number| format!("name {number}")).collect();
    let body =
        |refinement: &str| json!({"image": image, "classes": names, "refinement": refinement, "deadline_seconds": 10});
    let refinements = app.control.refinements();
    let reply = app.send(segment_json(&body("pamr"))).await;
    let problem = reply.json();
    assert_eq!(
        (reply.status, &problem["type"], &problem["path"]),
        (
            StatusCode::TOO_MANY_REQUESTS,
            &json!("/problems/overloaded"),
            &json!("deadline_seconds")
        )
    );
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("the model takes about "), "{detail}");
    assert!(!reply.headers.contains_key("retry-after"), "waiting does not help");
    assert_eq!(app.metric("maskclip_refusals_total{reason=\"deadline\"}").await, 1);
    assert_eq!(app.control.refinements(), refinements);
    // What has been measured of refinements says nothing of requests without one.
    app.send(segment_json(&body("none"))).await.ok();
}

#[tokio::test]
async fn what_a_message_repeats_of_a_request_is_cut() {
    let app = App::start().await;
    let long = "\u{1}".repeat(1 << 20);
    for fields in [
        json!({"classes": ["red"], "model": long}),
        json!({"vocabulary": long}),
        json!({"classes": ["red"], "protocol": long}),
        json!({"classes": ["red"], "attention": long}),
        json!({"classes": [long]}),
        json!({"classes": ["red"], (long.as_str()): 1}),
        json!({"classes": ["red"], "output": {(long.as_str()): 1}}),
    ] {
        let reply = app.segment(&with_image(fields)).await;
        assert!(reply.status.is_client_error(), "{}", reply.status);
        assert!(reply.body.len() < 20_000, "{} bytes", reply.body.len());
    }
    let part = multipart(&[(&"a".repeat(10_000), b"")]);
    let reply = app.send(segment_multipart(part)).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(reply.body.len() < 1000, "{:?}", reply.body);
    let path = app.get(&format!("/{}", "a".repeat(5000))).await;
    assert!(path.status == StatusCode::NOT_FOUND && path.body.len() < 1000);
}
