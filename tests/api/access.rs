//! Keys and what they open.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use maskclip::access::{KeyDigest, KeyEntry, Scope};
use maskclip::config::Config;
use serde_json::json;
use strum::VariantArray;

use crate::support::{App, DOCUMENT, Reply, post_json, request, segment_json, with_image};

/// What every operation needs: nothing, or a key with one of the scopes. A new operation is entered here.
const OPERATIONS: &[(&str, &str, &[Scope])] = &[
    ("POST", "/v1/segment", &[Scope::Use]),
    ("POST", "/v1/segment/batch", &[Scope::Use]),
    ("POST", "/v1/classify", &[Scope::Use]),
    ("POST", "/v1/embeddings", &[Scope::Use]),
    ("POST", "/v1/images", &[Scope::Use]),
    ("GET", "/v1/images/{id}", &[Scope::Use]),
    ("DELETE", "/v1/images/{id}", &[Scope::Use]),
    ("POST", "/v1/images/{id}/similar", &[Scope::Use]),
    ("GET", "/v1/vocabularies", &[Scope::Use, Scope::Vocabularies]),
    ("GET", "/v1/vocabularies/{name}", &[Scope::Use, Scope::Vocabularies]),
    (
        "GET",
        "/v1/vocabularies/{name}/status",
        &[Scope::Use, Scope::Vocabularies],
    ),
    ("PUT", "/v1/vocabularies/{name}", &[Scope::Vocabularies]),
    ("DELETE", "/v1/vocabularies/{name}", &[Scope::Vocabularies]),
    ("GET", "/v1/models", &[Scope::Use, Scope::Models]),
    ("GET", "/metrics", &[Scope::Metrics]),
    ("GET", "/v2", &[Scope::Use, Scope::Models]),
    ("GET", "/v2/health/live", &[]),
    ("GET", "/v2/health/ready", &[]),
    ("GET", "/v2/models/{model}", &[Scope::Use, Scope::Models]),
    ("GET", "/v2/models/{model}/ready", &[Scope::Use, Scope::Models]),
    (
        "GET",
        "/v2/models/{model}/versions/{version}",
        &[Scope::Use, Scope::Models],
    ),
    (
        "GET",
        "/v2/models/{model}/versions/{version}/ready",
        &[Scope::Use, Scope::Models],
    ),
    ("POST", "/v2/models/{model}/infer", &[Scope::Use]),
    ("POST", "/v2/models/{model}/versions/{version}/infer", &[Scope::Use]),
    ("POST", "/v2/repository/index", &[Scope::Use, Scope::Models]),
    ("GET", "/health", &[]),
    ("POST", "/setup", &[Scope::Use]),
    ("POST", "/predict", &[Scope::Use]),
    ("POST", "/webhook", &[Scope::Use]),
    ("GET", "/health/live", &[]),
    ("GET", "/health/ready", &[]),
    ("GET", "/openapi.yaml", &[]),
    ("GET", "/docs", &[]),
    ("GET", "/", &[]),
    ("POST", "/", &[Scope::Use]),
];

/// The page's and the documentation's files, which the document does not list and nobody needs a key for.
const FILES: &[(&str, &str, &[Scope])] = &[
    ("GET", "/docs/", &[]),
    ("GET", "/docs/{*file}", &[]),
    ("GET", "/assets/{*path}", &[]),
];

/// The key of a name, as its client sends it.
pub fn key(name: &str) -> String {
    format!("maskclip_key-of-{name}")
}

/// The entry of a name's key in the settings.
pub fn entry(name: &str, scopes: &[Scope]) -> KeyEntry {
    KeyEntry {
        name: name.to_owned(),
        sha256: KeyDigest::of(key(name).as_bytes()),
        scopes: scopes.to_vec(),
        requests_per_second: None,
        in_flight: None,
    }
}

/// Puts a client's key into a request.
pub fn by(name: &str, mut request: Request<Body>) -> Request<Body> {
    let value = format!("Bearer {}", key(name));
    let headers = request.headers_mut();
    headers.insert(header::AUTHORIZATION, value.parse().unwrap());
    request
}

/// Settings in which every scope has a client of its name.
fn a_key_for_each_scope(config: &mut Config) {
    let keys = Scope::VARIANTS.iter().map(|scope| entry(scope.name(), &[*scope]));
    config.access.keys = keys.collect();
}

/// The request of an operation without a body.
fn operation(method: &str, path: &str) -> Request<Body> {
    let path = path.replace("{name}", "none").replace("{id}", "none");
    let path = path.replace("{model}", "none").replace("{version}", "1");
    let path = path.replace("{*file}", "none").replace("{*path}", "none");
    let method: Method = method.parse().unwrap();
    request(method, &path).body(Body::empty()).unwrap()
}

/// Returns whether an answer is other than it should be, which is `refusal`, or anything but a refusal.
fn differs(reply: &Reply, refusal: Option<StatusCode>) -> bool {
    let refusals = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
    let found = refusals.contains(&reply.status).then_some(reply.status);
    found != refusal
}

#[test]
fn the_table_of_operations_is_the_documents() {
    let mut documented = Vec::new();
    for (path, operations) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let security = operation["security"].as_array();
            let security = security.unwrap_or_else(|| panic!("{method} {path} does not say what it needs"));
            let scopes = security
                .iter()
                .flat_map(|requirement| requirement["ApiKey"].as_array().unwrap());
            let mut scopes: Vec<String> = scopes.map(|scope| scope.as_str().unwrap().to_owned()).collect();
            scopes.sort();
            documented.push((method.to_uppercase(), path.clone(), scopes));
        }
    }
    let table = OPERATIONS.iter().map(|(method, path, scopes)| {
        let mut scopes: Vec<String> = scopes.iter().map(|scope| scope.name().to_owned()).collect();
        scopes.sort();
        ((*method).to_owned(), (*path).to_owned(), scopes)
    });
    let mut table: Vec<_> = table.collect();
    table.sort();
    documented.sort();
    assert_eq!(documented, table);
    let scheme = &DOCUMENT["components"]["securitySchemes"]["ApiKey"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&json!("http"), &json!("bearer")));
}

/// What the router answers to, whoever has added it: each of its paths by each method.
#[tokio::test]
async fn the_table_has_every_route_of_the_router() {
    let app = App::start().await;
    let mut answered = Vec::new();
    for path in app.routes() {
        for method in [
            "GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "OTHER",
        ] {
            let reply = app.send(operation(method, &path)).await;
            if reply.status != StatusCode::METHOD_NOT_ALLOWED {
                answered.push((method.to_owned(), path.clone()));
            }
        }
    }
    let table = OPERATIONS.iter().chain(FILES);
    let table = table.map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()));
    let mut table: Vec<_> = table.collect();
    table.sort();
    answered.sort();
    assert_eq!(answered, table);
}

/// Operations by keys: none, one that the server does not know, and one for each scope.
#[tokio::test]
async fn each_key_opens_what_its_scope_says_and_nothing_else() {
    let app = App::start_with(a_key_for_each_scope).await;
    let mut wrong = Vec::new();
    for (method, path, scopes) in OPERATIONS.iter().chain(FILES) {
        let needs_key = (!scopes.is_empty()).then_some(StatusCode::UNAUTHORIZED);
        let without = app.send(operation(method, path)).await;
        let unknown = app.send(by("nobody", operation(method, path))).await;
        for (column, reply) in [("no key", without), ("an unknown key", unknown)] {
            if differs(&reply, needs_key) {
                wrong.push(format!("{method} {path} with {column}: {}", reply.status));
            }
        }
        for scope in Scope::VARIANTS {
            let is_closed = !scopes.is_empty() && !scopes.contains(scope);
            let reply = app.send(by(scope.name(), operation(method, path))).await;
            if differs(&reply, is_closed.then_some(StatusCode::FORBIDDEN)) {
                wrong.push(format!("{method} {path} with {scope}: {}", reply.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn without_keys_in_the_settings_every_operation_is_open_and_keys_are_not_looked_at() {
    let app = App::start().await;
    for (method, path, _) in OPERATIONS {
        for request in [operation(method, path), by("nobody", operation(method, path))] {
            let reply = app.send(request).await;
            assert!(!differs(&reply, None), "{method} {path}: {}", reply.status);
        }
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_missing() {
    let app = App::start_with(a_key_for_each_scope).await;
    let refused = app.get("/v1/models").await;
    refused.assert_problem(&json!({
        "type": "/problems/unauthorized", "title": "A key is needed", "status": 401, "instance": "test-1",
        "detail": "this server answers here only with a key: send Authorization: Bearer KEY",
    }));
    assert_eq!(refused.header("www-authenticate"), r#"Bearer realm="maskclip""#);

    let unknown = app.send(by("nobody", operation("GET", "/v1/models"))).await;
    unknown.assert_problem(&json!({
        "type": "/problems/unauthorized", "title": "A key is needed", "status": 401, "instance": "test-1",
        "detail": "the server does not know this key",
    }));
    assert_eq!(
        unknown.header("www-authenticate"),
        r#"Bearer realm="maskclip", error="invalid_token""#
    );

    let closed = app.send(by("metrics", operation("GET", "/v1/models"))).await;
    closed.assert_problem(&json!({
        "type": "/problems/forbidden", "title": "The key does not open this", "status": 403, "instance": "test-1",
        "detail": "the key metrics needs the scope use or models",
    }));
    let challenge = r#"Bearer realm="maskclip", error="insufficient_scope", scope="use models""#;
    assert_eq!(closed.header("www-authenticate"), challenge);
}

#[tokio::test]
async fn a_refused_request_changes_nothing() {
    let app = App::start_with(a_key_for_each_scope).await;
    let put = || {
        let put = request(Method::PUT, "/v1/vocabularies/fruit").header(header::CONTENT_TYPE, "application/json");
        put.body(Body::from(r#"{"classes": ["red"]}"#)).unwrap()
    };
    let look = || by("use", operation("GET", "/v1/vocabularies/fruit"));
    for refused in [put(), by("nobody", put()), by("use", put())] {
        app.send(refused).await;
        assert_eq!(app.send(look()).await.status, StatusCode::NOT_FOUND);
    }
    assert!(app.send(by("vocabularies", put())).await.status.is_success());
    let delete = || operation("DELETE", "/v1/vocabularies/fruit");
    for refused in [delete(), by("nobody", delete()), by("use", delete())] {
        app.send(refused).await;
        assert_eq!(app.send(look()).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_page_and_the_documentation_are_open_with_all_their_files() {
    let app = App::start_with(a_key_for_each_scope).await;
    for path in ["/", "/assets/app.js", "/docs/", "/docs/swagger-initializer.js"] {
        assert_eq!(app.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(app.get("/v1/nothing").await.status, StatusCode::NOT_FOUND);
    assert_eq!(
        app.send(operation("PATCH", "/v1/segment")).await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let head = app.send(operation("HEAD", "/metrics")).await;
    assert_eq!(head.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn routes_need_the_same_keys_under_a_path() {
    let app = App::start_with(|config| {
        a_key_for_each_scope(config);
        config.server.base_path = "/clip".to_owned();
    })
    .await;
    assert_eq!(app.get("/clip").await.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(app.get("/clip/").await.status, StatusCode::OK);
    assert_eq!(app.get("/clip/v1/models").await.status, StatusCode::UNAUTHORIZED);
    app.send(by("use", operation("GET", "/clip/v1/models"))).await.ok();
    let closed = app.send(by("use", operation("GET", "/clip/metrics"))).await;
    assert_eq!(closed.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn requests_are_counted_by_the_name_of_their_key_and_the_key_is_nowhere() {
    let app = App::start_with(a_key_for_each_scope).await;
    let image = with_image(json!({"classes": ["red"]}));
    app.send(by("use", segment_json(&image))).await.ok();
    app.send(by("use", operation("GET", "/metrics"))).await;
    let metrics = app.send(by("metrics", operation("GET", "/metrics"))).await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    for (key, outcome, count) in [("use", "answered", 1), ("use", "invalid", 1), ("models", "answered", 0)] {
        let line = format!("maskclip_key_requests_total{{key=\"{key}\",outcome=\"{outcome}\"}} {count}\n");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("key-of"), "{text}");
}

#[tokio::test]
async fn readiness_warns_of_a_server_that_the_network_may_use_without_a_key() {
    let anywhere = |config: &mut Config| config.server.listen = ([0, 0, 0, 0], 0).into();
    let warnings = async |change: &dyn Fn(&mut Config)| {
        let app = App::start_with(change).await;
        app.get("/health/ready").await.ok()["warnings"].clone()
    };
    let open = warnings(&anywhere).await;
    assert_eq!(open[0]["code"], "no-keys");
    assert!(
        open[0]["message"].as_str().unwrap().contains("access.keys_file"),
        "{open}"
    );
    assert!(warnings(&|_| ()).await.is_null());
    let with_keys = |config: &mut Config| {
        anywhere(config);
        a_key_for_each_scope(config);
    };
    assert!(warnings(&with_keys).await.is_null());
}

/// Settings with two clients that may do the same.
fn alice_and_bob(config: &mut Config) {
    let scopes = [Scope::Use, Scope::Vocabularies, Scope::Metrics];
    config.access.keys = vec![entry("alice", &scopes), entry("bob", &scopes)];
}

#[tokio::test]
async fn an_image_is_found_and_dropped_by_the_client_that_left_it_alone() {
    let app = App::start_with(alice_and_bob).await;
    let image = json!({"image": with_image(json!({}))["image"]});
    let held = app.send(by("alice", post_json("/v1/images", &image))).await;
    assert_eq!(held.status, StatusCode::CREATED);
    let id = held.json()["image_id"].as_str().unwrap().to_owned();
    let ask = |name| by(name, segment_json(&json!({"image_id": id, "classes": ["red"]})));
    let drop = |name| by(name, operation("DELETE", &format!("/v1/images/{id}")));
    // Every route that an id is given to, with the fields that it needs.
    let with_id = |id: &str| {
        let body = json!({"x": 1, "y": 1}).to_string();
        let of_path = OPERATIONS.iter().filter(|(_, path, _)| path.contains("{id}"));
        let of_path = of_path.map(|(method, path, _)| {
            let method: Method = method.parse().unwrap();
            let request = request(method, &path.replace("{id}", id)).header(header::CONTENT_TYPE, "application/json");
            request.body(Body::from(body.clone())).unwrap()
        });
        let in_body = ["/v1/segment", "/v1/classify"];
        let in_body = in_body.map(|path| post_json(path, &json!({"image_id": id, "classes": ["red"]})));
        of_path.chain(in_body).collect::<Vec<_>>()
    };
    assert_eq!(with_id(&id).len(), 5);
    for (refused, of_none) in with_id(&id).into_iter().zip(with_id("none")) {
        let reply = app.send(by("bob", refused)).await;
        let as_if_there_were_none = app.send(by("alice", of_none)).await;
        assert_eq!(reply.json(), as_if_there_were_none.json());
        assert_eq!(reply.json()["type"], "/problems/image-not-held");
    }
    app.send(ask("alice")).await.ok();
    assert_eq!(app.send(drop("alice")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(app.send(ask("alice")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nobody_learns_from_features_that_another_client_has_sent_the_image() {
    let app = App::start_with(alice_and_bob).await;
    let image = with_image(json!({"classes": ["red"]}));
    let mut cached = Vec::new();
    for name in ["alice", "alice", "bob", "bob"] {
        let looks = app.control.looks();
        let reply = app.send(by(name, segment_json(&image))).await.ok();
        cached.push(reply["features_cached"].as_bool().unwrap());
        // The time that the answer takes must not tell either.
        assert_eq!(app.control.looks() == looks, reply["features_cached"], "{name}");
    }
    assert_eq!(cached, [false, true, false, true]);

    // Dropping an image drops what its client has of it, and nothing of the other's.
    let image_alone = json!({"image": image["image"]});
    let held = app.send(by("alice", post_json("/v1/images", &image_alone))).await;
    let path = format!("/v1/images/{}", held.json()["image_id"].as_str().unwrap());
    app.send(by("alice", operation("DELETE", &path))).await;
    for (name, is_cached) in [("alice", false), ("bob", true)] {
        let reply = app.send(by(name, segment_json(&image))).await.ok();
        assert_eq!(reply["features_cached"], is_cached, "{name}");
    }
}

#[tokio::test]
async fn recent_lists_are_those_of_the_same_client() {
    let app = App::start_with(alice_and_bob).await;
    for (name, class) in [("alice", "red"), ("bob", "blue"), ("bob", "green")] {
        let image = with_image(json!({"classes": [class]}));
        app.send(by(name, segment_json(&image))).await.ok();
    }
    for (name, expected) in [("alice", vec!["red"]), ("bob", vec!["green", "blue"])] {
        let list = app
            .send(by(name, operation("GET", "/v1/vocabularies?kind=recent")))
            .await
            .ok();
        let lists = list["vocabularies"].as_array().unwrap().clone();
        let first = lists.iter().map(|list| list["first_names"][0].as_str().unwrap());
        assert_eq!(first.collect::<Vec<_>>(), expected, "{name}");
    }
}

#[tokio::test]
async fn two_keys_of_one_name_are_one_client() {
    let app = App::start_with(|config| {
        let second = KeyEntry {
            name: "alice".to_owned(),
            ..entry("alice-again", &[Scope::Use])
        };
        config.access.keys = vec![entry("alice", &[Scope::Use]), second];
    })
    .await;
    let image = with_image(json!({"classes": ["red"]}));
    app.send(by("alice", segment_json(&image))).await.ok();
    let reply = app.send(by("alice-again", segment_json(&image))).await.ok();
    assert_eq!(reply["features_cached"], true);
}

#[tokio::test]
async fn a_client_that_sends_too_often_is_told_when_to_come_back_and_others_do_not_notice() {
    let app = App::start_with(|config| {
        alice_and_bob(config);
        config.access.keys[0].requests_per_second = Some(0.01);
    })
    .await;
    let models = |name| by(name, operation("GET", "/v1/models"));
    app.send(models("alice")).await.ok();
    let refused = app.send(models("alice")).await;
    refused.assert_problem(&json!({
        "type": "/problems/quota", "title": "The key's quota is used up", "status": 429, "instance": "test-1",
        "detail": "this client may send 0.01 requests a second (access.requests_per_second, or the line of its key)",
        "limit": {"name": "access.requests_per_second", "value": 0.01},
    }));
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((50..=100).contains(&seconds), "{seconds}");
    for _ in 0..3 {
        app.send(models("bob")).await.ok();
    }
    app.get("/health/ready").await.ok();
    let refusals = app.send(by("bob", operation("GET", "/metrics"))).await;
    let text = String::from_utf8(refusals.body.to_vec()).unwrap();
    assert!(
        text.contains("maskclip_key_requests_total{key=\"alice\",outcome=\"refused\"} 1\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_has_as_many_requests_under_way_as_it_may() {
    let app = App::start_with(|config| {
        alice_and_bob(config);
        config.access.in_flight = 1;
    })
    .await;
    let hold = app.control.hold_score();
    let image = with_image(json!({"classes": ["red"]}));
    let first = tokio::spawn({
        let (app, image) = (app.clone(), image.clone());
        async move { app.send(by("alice", segment_json(&image))).await }
    });
    app.control.entered().await;
    let refused = app.send(by("alice", operation("GET", "/v1/models"))).await;
    assert_eq!(refused.json()["limit"], json!({"name": "access.in_flight", "value": 1}));
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (StatusCode::TOO_MANY_REQUESTS, "1")
    );
    app.send(by("bob", operation("GET", "/v1/models"))).await.ok();
    drop(hold);
    first.await.unwrap().ok();
    app.send(by("alice", operation("GET", "/v1/models"))).await.ok();
}

#[tokio::test]
async fn named_vocabularies_are_common_unless_each_key_has_its_own() {
    let put = |name, class| {
        let put = request(Method::PUT, "/v1/vocabularies/fruit").header(header::CONTENT_TYPE, "application/json");
        by(
            name,
            put.body(Body::from(json!({"classes": [class]}).to_string())).unwrap(),
        )
    };
    let look = |name| by(name, operation("GET", "/v1/vocabularies/fruit"));
    let common = App::start_with(alice_and_bob).await;
    common.send(put("alice", "red")).await;
    assert_eq!(common.send(look("bob")).await.ok()["classes"], json!(["red"]));

    let app = App::start_with(|config| {
        alice_and_bob(config);
        config.vocabulary.per_key = true;
    })
    .await;
    app.send(put("alice", "red")).await;
    assert_eq!(app.send(look("bob")).await.status, StatusCode::NOT_FOUND);
    app.send(put("bob", "blue")).await;
    for (name, class) in [("alice", "red"), ("bob", "blue")] {
        let seen = app.send(look(name)).await.ok();
        assert_eq!((&seen["name"], &seen["classes"]), (&json!("fruit"), &json!([class])));
        let list = app.send(by(name, operation("GET", "/v1/vocabularies"))).await.ok();
        let own = list["vocabularies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["shipped"] == false);
        assert_eq!(own.map(|entry| &entry["name"]).collect::<Vec<_>>(), ["fruit"]);
        let reply = app
            .send(by(name, segment_json(&with_image(json!({"vocabulary": "fruit"})))))
            .await
            .ok();
        assert_eq!(reply["classes"][0]["name"], class);
        let shipped = app.send(by(name, operation("GET", "/v1/vocabularies/voc-20"))).await;
        assert_eq!(shipped.status, StatusCode::OK);
        // An error is about the name that was asked for.
        for method in ["GET", "DELETE"] {
            let missing = app
                .send(by(name, operation(method, "/v1/vocabularies/nuts")))
                .await
                .json();
            assert_eq!(missing["detail"], "no vocabulary is called \"nuts\"");
        }
        let missing = segment_json(&with_image(json!({"vocabulary": "nuts"})));
        let missing = app.send(by(name, missing)).await.json();
        assert_eq!(missing["detail"], "no vocabulary is called \"nuts\"");
    }
    // Another's space cannot be named.
    for name in ["alice%2Ffruit", "bob%2Falice%2Ffruit", "..%2Falice%2Ffruit"] {
        let reply = app
            .send(by("bob", operation("GET", &format!("/v1/vocabularies/{name}"))))
            .await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{name}");
    }
    let drop = by("bob", operation("DELETE", "/v1/vocabularies/fruit"));
    assert_eq!(app.send(drop).await.status, StatusCode::NO_CONTENT);
    app.send(look("alice")).await.ok();
}
