//! Requests that browsers send for pages of others, and under names that are not the server's.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use maskclip::config::Config;
use serde_json::json;

use crate::support::{App, REQUEST_ID, Reply, multipart, red_and_blue, request, segment_multipart};

/// Sends `GET path` with headers.
async fn get(app: &App, path: &str, headers: &[(&str, &str)]) -> Reply {
    ask(app, Method::GET, path, headers).await
}

async fn ask(app: &App, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = request(method, path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.send(request.body(Body::empty()).unwrap()).await
}

fn beyond_loopback(config: &mut Config) {
    config.server.listen = ([0, 0, 0, 0], 0).into();
}

#[tokio::test]
async fn on_loopback_a_name_that_was_pointed_here_gets_nothing() {
    let app = App::start().await;
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/health/live"),
        (Method::GET, "/v1/vocabularies"),
        (Method::PUT, "/v1/vocabularies/fruit"),
        (Method::DELETE, "/v1/vocabularies/fruit"),
        (Method::GET, "/nowhere"),
    ] {
        let reply = ask(&app, method, path, &[("host", "evil.test:8080")]).await;
        reply.assert_problem(&json!({
            "type": "/problems/foreign-host",
            "title": "The server has another name",
            "status": 421,
            "detail": "\"evil.test:8080\" is no name of this server (server.allowed_hosts)",
            "instance": REQUEST_ID,
        }));
    }
    let refused = r#"maskclip_http_requests_total{method="DELETE",route="/v1/vocabularies/{name}",status="421"}"#;
    assert_eq!(app.metric(refused).await, 1);
}

#[tokio::test]
async fn on_loopback_addresses_and_localhost_are_names_of_the_server() {
    let app = App::start().await;
    for host in [
        "127.0.0.1:8080",
        "[::1]:8080",
        "localhost",
        "LOCALHOST:1",
        "labels.localhost",
        "192.168.1.7:9000",
        "[::ffff:127.0.0.1]:8080",
    ] {
        assert_eq!(get(&app, "/health/live", &[("host", host)]).await.status, 200, "{host}");
    }
    for host in [
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "evillocalhost",
        "a b",
        "",
        "user@localhost@evil",
        "evil.test@127.0.0.1",
        "[::1]evil.test",
        "[evil.test]",
    ] {
        assert_eq!(get(&app, "/health/live", &[("host", host)]).await.status, 421, "{host}");
    }
    let two = [("host", "localhost"), ("host", "evil.test")];
    assert_eq!(get(&app, "/health/live", &two).await.status, 421);
    // As HTTP/2 has it, and HTTP/1.1 for proxies.
    let whole = |host: &str| request(Method::GET, &format!("http://{host}/health/live")).body(Body::empty());
    assert_eq!(app.send(whole("localhost:8080").unwrap()).await.status, 200);
    assert_eq!(app.send(whole("evil.test").unwrap()).await.status, 421);
}

#[tokio::test]
async fn loopback_is_loopback_however_its_address_is_written() {
    for listen in ["127.0.0.1:0", "127.8.9.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        let app = App::start_with(|config| config.server.listen = listen.parse().unwrap()).await;
        let foreign = get(&app, "/health/ready", &[("host", "evil.test")]).await;
        assert_eq!(foreign.status, 421, "{listen}");
        let ready = get(&app, "/health/ready", &[("host", "[::ffff:127.0.0.1]")]).await.ok();
        assert!(ready["warnings"].is_null(), "{listen}: {ready}");
    }
}

#[tokio::test]
async fn names_in_the_settings_are_the_servers_and_others_are_not_wherever_it_listens() {
    for listen in [[127, 0, 0, 1], [0, 0, 0, 0]] {
        let app = App::start_with(|config| {
            config.server.listen = (listen, 0).into();
            config.server.allowed_hosts = vec!["labels.example".to_owned()];
        });
        let app = app.await;
        for host in ["labels.example", "Labels.Example.:443", "localhost:80", "10.0.0.7"] {
            assert_eq!(get(&app, "/health/live", &[("host", host)]).await.status, 200, "{host}");
        }
        let other = get(&app, "/health/live", &[("host", "other.labels.example")]).await;
        assert_eq!(other.status, 421);
    }
    let any = App::start_with(|config| config.server.allowed_hosts = vec!["*".to_owned()]).await;
    assert_eq!(get(&any, "/health/live", &[("host", "evil.test")]).await.status, 200);
    let beyond = App::start_with(beyond_loopback).await;
    assert_eq!(get(&beyond, "/health/live", &[("host", "maskclip")]).await.status, 200);
}

#[tokio::test]
async fn an_upload_for_a_page_of_another_origin_is_not_executed() {
    for beyond in [false, true] {
        let app = App::start_with(|config| {
            if beyond {
                beyond_loopback(config);
            }
        });
        let app = app.await;
        let body = multipart(&[("image", &red_and_blue()), ("request", br#"{"classes": ["red"]}"#)]);
        let mut upload = segment_multipart(body.clone());
        upload.headers_mut().insert("host", "localhost".parse().unwrap());
        upload
            .headers_mut()
            .insert("origin", "https://evil.test".parse().unwrap());
        app.send(upload).await.assert_problem(&json!({
            "type": "/problems/foreign-origin",
            "title": "Pages of this origin may not use the server",
            "status": 403,
            "detail": "a page of https://evil.test may not use this server (server.cors_origins)",
            "instance": REQUEST_ID,
        }));
        assert_eq!(
            app.metric(r#"maskclip_stage_seconds_count{model="colours",stage="model"}"#)
                .await,
            0
        );
    }
}

#[tokio::test]
async fn the_servers_own_page_may_ask_and_pages_of_others_may_not() {
    let app = App::start().await;
    let host = ("host", "localhost:8080");
    for (headers, status) in [
        (vec![host, ("origin", "http://localhost:8080")], 200),
        // A proxy that ends TLS.
        (vec![host, ("origin", "https://localhost:8080")], 200),
        // A proxy that rewrites the host: the browser says that the page is the server's.
        (
            vec![
                host,
                ("origin", "https://labels.example"),
                ("sec-fetch-site", "same-origin"),
            ],
            200,
        ),
        (vec![host, ("origin", "http://localhost:3000")], 403),
        (
            vec![
                host,
                ("origin", "http://localhost:3000"),
                ("sec-fetch-site", "same-site"),
            ],
            403,
        ),
        (
            vec![
                host,
                ("origin", "http://localhost:8080"),
                ("sec-fetch-site", "cross-site"),
            ],
            403,
        ),
        (vec![host, ("origin", "null")], 403),
        (vec![("origin", "http://localhost:8080")], 403),
        // Whoever follows a link comes to the page; an image or a script of another page does not.
        (
            vec![host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
            200,
        ),
        (
            vec![host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
            403,
        ),
        (
            vec![host, ("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "cors")],
            200,
        ),
        (
            vec![host, ("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
            200,
        ),
        (vec![host], 200),
    ] {
        assert_eq!(get(&app, "/v1/models", &headers).await.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn pages_of_the_origins_in_the_settings_may_ask_and_read() {
    let allowed = ("origin", "https://labels.example");
    let app = App::start_with(|config| config.server.cors_origins = vec![allowed.1.to_owned()]).await;
    let preflight = [
        allowed,
        ("host", "localhost:8080"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "authorization,if-match"),
    ];
    let reply = ask(&app, Method::OPTIONS, "/v1/vocabularies/fruit", &preflight).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("access-control-allow-origin"), allowed.1);
    assert_eq!(reply.header("access-control-allow-methods"), "GET,HEAD,POST,PUT,DELETE");
    assert_eq!(reply.header("access-control-allow-headers"), "authorization,if-match");
    assert!(!reply.headers.contains_key("access-control-allow-credentials"));

    // An error can be read, too.
    let reply = get(&app, "/v1/vocabularies/trees", &[allowed, ("host", "localhost")]).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(reply.header("access-control-allow-origin"), allowed.1);
    assert!(reply.header("access-control-expose-headers").contains("x-request-id"));

    let other = [("origin", "https://other.example"), ("host", "localhost")];
    let reply = get(&app, "/v1/models", &other).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(!reply.headers.contains_key("access-control-allow-origin"));

    let any = App::start_with(|config| config.server.cors_origins = vec!["*".to_owned()]).await;
    assert_eq!(
        get(&any, "/v1/models", &other)
            .await
            .header("access-control-allow-origin"),
        "*"
    );
}

#[tokio::test]
async fn without_origins_in_the_settings_no_answer_invites_other_pages() {
    let app = App::start().await;
    let reply = get(
        &app,
        "/v1/models",
        &[("host", "localhost"), ("origin", "http://localhost")],
    )
    .await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(
        !reply
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("access-control"))
    );
}

#[tokio::test]
async fn every_answer_forbids_browsers_what_it_does_not_need() {
    let app = App::start().await;
    for path in [
        "/",
        "/docs",
        "/docs/",
        "/assets/app.js",
        "/v1/models",
        "/nowhere",
        "/health/live",
    ] {
        let reply = app.get(path).await;
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(reply.header("x-frame-options"), "DENY", "{path}");
        assert_eq!(reply.header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(reply.header("cross-origin-resource-policy"), "same-origin", "{path}");
        let policy = reply.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; "), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        let scripts = policy.split("; ").find(|part| part.starts_with("script-src"));
        assert!(
            scripts.is_none_or(|part| part == "script-src 'self'"),
            "{path}: {policy}"
        );
    }
    let page = app.get("/").await;
    assert!(!page.header("content-security-policy").contains("unsafe"));
}
