//! Turns and shares of clients that want more than the server can do.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use maskclip::access::Scope;
use maskclip::config::Config;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::access::{by, entry};
use crate::support::{App, Reply, post_json, request, segment_json, until, with_image};

fn keys(config: &mut Config, names: &[&str]) {
    let scopes = [Scope::Use, Scope::Metrics];
    config.access.keys = names.iter().map(|name| entry(name, &scopes)).collect();
    config.engine.max_batch = 1;
}

fn image() -> Value {
    with_image(json!({"classes": ["red"]}))
}

/// Sends a client's request in a task of its own.
fn start(app: &App, name: &'static str) -> JoinHandle<Reply> {
    let app = app.clone();
    tokio::spawn(async move { app.send(by(name, segment_json(&image()))).await })
}

/// Waits until a gauge has a value.
async fn until_metric(app: &App, name: &str, value: usize) {
    let line = format!("{name} {value}\n");
    until(async || {
        let metrics = request(Method::GET, "/metrics").body(Body::empty()).unwrap();
        let reply = app.send(by("bob", metrics)).await;
        String::from_utf8(reply.body.to_vec()).unwrap().contains(&line)
    })
    .await;
}

/// Waits until the engine holds so many requests.
async fn until_held(app: &App, requests: usize) {
    until_metric(app, "maskclip_requests_in_flight", requests).await;
}

/// Others have their places at the work and wait for the model. The first request of a client has a place of its own, and
/// is next.
#[tokio::test]
async fn a_client_with_one_request_is_next_however_many_of_another_wait() {
    let places = std::thread::available_parallelism().unwrap().get().max(2);
    let app = App::start_with(|config| {
        keys(config, &["alice", "bob"]);
        config.engine.queue_capacity = 4 * (places + 8);
    })
    .await;
    let [first, second, third] = [(); 3].map(|()| app.control.hold_score());
    let running = start(&app, "alice");
    app.control.entered().await;
    let waiting: Vec<_> = (0..places + 5).map(|_| start(&app, "alice")).collect();
    until_held(&app, places + 6).await;
    // All that are at work wait for the model, so the next turn there is decided by nothing but turns.
    let queue = "maskclip_queue_depth{model=\"colours\"}";
    until_metric(&app, queue, places - 1).await;
    let of_bob = start(&app, "bob");
    until_metric(&app, queue, places).await;
    drop(first);
    app.control.entered().await;
    drop(second);
    of_bob.await.unwrap().ok();
    assert!(waiting.iter().all(|request| !request.is_finished()));
    drop(third);
    for request in waiting.into_iter().chain([running]) {
        request.await.unwrap().ok();
    }
}

#[tokio::test]
async fn a_client_leaves_places_to_the_others_and_is_told_so() {
    let app = App::start_with(|config| {
        keys(config, &["alice", "bob"]);
        config.engine.queue_capacity = 8;
    })
    .await;
    let hold = app.control.hold_score();
    let running = start(&app, "alice");
    app.control.entered().await;
    let waiting: Vec<_> = (0..3).map(|_| start(&app, "alice")).collect();
    until_held(&app, 4).await;
    let refused = app.send(by("alice", segment_json(&image()))).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers.contains_key("retry-after"));
    let problem = refused.json();
    assert_eq!(problem["type"], "/problems/overloaded");
    assert_eq!(problem["limit"], json!({"name": "engine.queue_capacity", "value": 8}));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("4 requests of this key wait or run"), "{detail}");
    let of_bob = [start(&app, "bob"), start(&app, "bob")];
    until_held(&app, 6).await;
    drop(hold);
    for request in waiting.into_iter().chain([running]).chain(of_bob) {
        request.await.unwrap().ok();
    }
}

#[tokio::test]
async fn a_client_that_is_alone_has_all_places() {
    let app = App::start_with(|config| {
        keys(config, &["bob"]);
        config.engine.queue_capacity = 4;
    })
    .await;
    let hold = app.control.hold_score();
    let running = start(&app, "bob");
    app.control.entered().await;
    let waiting: Vec<_> = (0..3).map(|_| start(&app, "bob")).collect();
    until_held(&app, 4).await;
    let refused = app.send(by("bob", post_json("/v1/images", &json!({})))).await;
    assert!(
        refused.json()["detail"]
            .as_str()
            .unwrap()
            .starts_with("the engine holds 4 requests")
    );
    drop(hold);
    for request in waiting.into_iter().chain([running]) {
        request.await.unwrap().ok();
    }
}

#[tokio::test]
async fn a_client_leaves_room_for_the_texts_of_others() {
    let app = App::start_with(|config| {
        keys(config, &["alice", "bob"]);
        config.limits.vocabulary.max_classes = 6;
        config.limits.vocabulary.max_synonyms = 1;
        config.limits.vocabulary.max_background_names = 0;
        config.engine.max_waiting_texts = 12;
    })
    .await;
    let names = |of: &str| (0..5).map(|number| format!("{of} {number}")).collect::<Vec<_>>();
    let send = |name: &'static str, classes: Vec<String>| {
        let app = app.clone();
        let body = with_image(json!({"classes": classes}));
        tokio::spawn(async move { app.send(by(name, segment_json(&body))).await })
    };
    let hold = app.control.hold_embed();
    let first = send("alice", names("first"));
    app.control.entered().await;
    let refused = send("alice", names("second")).await.unwrap();
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.json()["limit"]["name"], "engine.max_waiting_texts");
    let of_bob = send("bob", names("bob"));
    until_metric(&app, "maskclip_waiting_texts", 10).await;
    drop(hold);
    for request in [first, of_bob] {
        request.await.unwrap().ok();
    }
}
