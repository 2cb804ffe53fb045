//! Connections: how long they may wait for their clients, how many there may be, and the two versions of HTTP.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, Version};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use maskclip::config::Config;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use crate::socket::{Client, Socket, at_last};
use crate::support::{App, png, request, with_image};

/// The limit that a test provokes, and all others out of reach.
fn limits(config: &mut Config) -> &mut maskclip::api::ServerSettings {
    let server = &mut config.server;
    server.head_seconds = 3600.0;
    server.body_seconds = 3600.0;
    server.idle_seconds = 3600.0;
    server.contended_idle_seconds = 3600.0;
    server.reply_seconds = 3600.0;
    server
}

#[tokio::test]
async fn a_head_that_trickles_is_cut_off_and_others_are_answered() {
    let socket = Socket::start(|config| limits(config).head_seconds = 0.5).await;
    let mut slow = socket.connect().await.0;
    slow.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    at_last(async {
        // Every byte would restart a limit that counts from the last one.
        while slow.write_all(b"y").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(
        socket.metric(r#"maskclip_http_connections_overdue_total{limit="head_seconds"}"#),
        1
    );
    let reply = socket.connect().await.get("/health/live").await;
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let socket = Socket::start(|config| limits(config).head_seconds = 0.2).await;
    assert_eq!(socket.connect().await.rest().await, "");
    socket.until("maskclip_http_connections", 0).await;
}

#[tokio::test]
async fn a_body_that_trickles_is_408() {
    let socket = Socket::start(|config| limits(config).body_seconds = 0.2).await;
    let mut slow = socket.connect().await;
    slow.send("POST /v1/segment HTTP/1.1\r\nhost: localhost\r\nx-request-id: test-1\r\n")
        .await;
    slow.send("content-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
        .await;
    let reply = slow.reply().await;
    assert!(reply.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{reply}");
    let body = reply.split("\r\n\r\n").nth(1).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(body).unwrap(),
        json!({
            "type": "/problems/request-timeout",
            "title": "The body did not come in time",
            "status": 408,
            "detail": "the body did not come within server.body_seconds = 0.2",
            "instance": "test-1",
            "limit": {"name": "server.body_seconds", "value": 0.2},
        })
    );
}

#[tokio::test]
async fn the_limit_on_bodies_spares_the_work_that_follows() {
    let socket = Socket::start(|config| limits(config).body_seconds = 0.2).await;
    let hold = socket.control.hold_score();
    let mut client = socket.connect().await;
    client.send(segment(&with_image(json!({"classes": ["red"]})))).await;
    socket.control.entered().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    drop(hold);
    let reply = client.reply().await;
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let socket = Socket::start(|config| limits(config).idle_seconds = 0.2).await;
    let mut client = socket.connect().await;
    client.get("/health/live").await;
    assert_eq!(client.rest().await, "");
    assert_eq!(
        socket.metric(r#"maskclip_http_connections_overdue_total{limit="idle_seconds"}"#),
        1
    );
}

#[tokio::test]
async fn a_connection_may_be_idle_for_longer_than_a_head_may_take() {
    let socket = Socket::start(|config| limits(config).head_seconds = 0.5).await;
    let mut client = socket.connect().await;
    client.get("/health/live").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(client.get("/health/live").await.starts_with("HTTP/1.1 200 OK"));
    // The second head has no more time than the first.
    client.send("GET /health/live HTTP/1.1\r\n").await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_replies_is_cut_off() {
    let socket = Socket::start(|config| limits(config).reply_seconds = 0.5).await;
    let small = TcpSocket::new_v4().unwrap();
    small.set_recv_buffer_size(4096).unwrap();
    let mut deaf = Client(small.connect(socket.address).await.unwrap());
    // More than the operating system buffers.
    deaf.send("GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(20))
        .await;
    socket
        .until(r#"maskclip_http_connections_overdue_total{limit="reply_seconds"}"#, 1)
        .await;
    socket.until("maskclip_http_connections", 0).await;
}

#[tokio::test]
async fn a_reply_of_http_2_of_which_nothing_is_taken_is_broken_off_whatever_else_its_client_says() {
    let socket = Socket::start(|config| limits(config).reply_seconds = 0.5).await;
    let mut client = narrow_client(&socket).await;
    let untaken = at_last(client.send_request(long_reply())).await.unwrap();
    assert_eq!(untaken.status(), StatusCode::OK);
    socket
        .until(r#"maskclip_http_replies_ended_total{limit="reply_seconds"}"#, 1)
        .await;
    socket.until("maskclip_work_bytes", 0).await;
    // The connection goes on, and the reply does not seem whole.
    let live = Request::get("http://localhost/health/live")
        .body(String::new())
        .unwrap();
    assert_eq!(
        at_last(client.send_request(live)).await.unwrap().status(),
        StatusCode::OK
    );
    let whole = at_last(to_bytes(Body::new(untaken.into_body()), usize::MAX)).await;
    assert!(whole.is_err(), "{} bytes", whole.unwrap().len());
    let closed = r#"maskclip_http_connections_overdue_total{limit="reply_seconds"}"#;
    assert_eq!(socket.metric(closed), 0);
}

#[tokio::test]
async fn a_reply_of_which_nothing_is_taken_gives_way_to_requests_that_wait_for_its_bytes() {
    let socket = Socket::start(|config| {
        limits(config).contended_reply_seconds = 0.2;
        config.images.cache_bytes = 0;
        // A request takes 300,000 bytes, and its reply has more than 60,000.
        config.engine.work_bytes = 320 * 1024;
    })
    .await;
    let mut deaf = narrow_client(&socket).await;
    let untaken = at_last(deaf.send_request(long_reply())).await.unwrap();
    assert_eq!(untaken.status(), StatusCode::OK);
    assert!(socket.metric("maskclip_work_bytes") > 60_000, "nobody waits yet");
    let mut client = socket.connect().await;
    client.send(segment(&large_body())).await;
    let reply = client.reply().await;
    assert!(
        reply.starts_with("HTTP/1.1 200 OK"),
        "{}",
        reply.lines().next().unwrap()
    );
    let ended = r#"maskclip_http_replies_ended_total{limit="contended_reply_seconds"}"#;
    assert_eq!(socket.metric(ended), 1);
    let whole = at_last(to_bytes(Body::new(untaken.into_body()), usize::MAX)).await;
    assert!(whole.is_err(), "{} bytes", whole.unwrap().len());
}

#[tokio::test]
async fn the_answer_to_a_request_that_is_still_being_sent_arrives() {
    let socket = Socket::start(|config| {
        limits(config);
        config.limits.max_request_bytes = 1000;
    })
    .await;
    let mut client = socket.connect().await;
    let length = 8_000_000;
    client
        .send(format!("POST /v1/segment HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"))
        .await;
    let (mut reader, mut writer) = client.0.into_split();
    let sending = tokio::spawn(async move { writer.write_all(&vec![b' '; length]).await.map(|()| writer) });
    let mut reply = vec![0; 12];
    at_last(tokio::io::AsyncReadExt::read_exact(&mut reader, &mut reply))
        .await
        .unwrap();
    assert_eq!(reply, b"HTTP/1.1 413");
    at_last(sending)
        .await
        .unwrap()
        .expect("the server reads on for a while");
}

#[tokio::test]
async fn one_connection_more_than_the_limit_waits_for_its_turn() {
    let socket = Socket::start(|config| limits(config).max_connections = 1).await;
    let mut first = socket.connect().await;
    first.get("/health/live").await;
    let mut second = socket.connect().await;
    second
        .send("GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    let metrics = first.get("/metrics").await;
    assert!(metrics.contains("\nmaskclip_http_connections 1\n"), "{metrics}");
    assert!(metrics.contains("\nmaskclip_http_connections_limit 1\n"), "{metrics}");
    drop(first);
    assert!(second.reply().await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn the_connection_that_is_idle_for_longest_is_closed_for_one_that_waits() {
    let socket = Socket::start(|config| {
        let server = limits(config);
        (server.max_connections, server.contended_idle_seconds) = (3, 0.2);
    })
    .await;
    let hold = socket.control.hold_score();
    let mut busy = socket.connect().await;
    busy.send(segment(&with_image(json!({"classes": ["red"]})))).await;
    socket.control.entered().await;
    let mut idlest = socket.connect().await;
    idlest.get("/health/live").await;
    let mut idle = socket.connect().await;
    idle.get("/health/live").await;
    let mut fourth = socket.connect().await;
    let reply = fourth.get("/health/live").await;
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
    assert_eq!(idlest.rest().await, "");
    assert!(idle.get("/health/live").await.starts_with("HTTP/1.1 200 OK"));
    drop(hold);
    assert!(busy.reply().await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn http_2_is_answered_without_tls_many_requests_at_once() {
    let socket = Socket::start(|_| ()).await;
    let stream = TokioIo::new(socket.connect().await.0);
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let hold = socket.control.hold_score();
    let url = |path: &str| format!("http://localhost{path}");
    let held = Request::post(url("/v1/segment"))
        .header("content-type", "application/json")
        .body(with_image(json!({"classes": ["red"]})).to_string())
        .unwrap();
    let held = tokio::spawn(client.send_request(held));
    socket.control.entered().await;
    let other = Request::get(url("/nowhere"))
        .header("x-request-id", "test-2")
        .body(String::new())
        .unwrap();
    let other = at_last(client.send_request(other)).await.unwrap();
    assert_eq!(other.version(), Version::HTTP_2);
    assert_eq!(other.status(), StatusCode::NOT_FOUND);
    assert_eq!(other.headers()["x-request-id"], "test-2");
    assert_eq!(other.headers()["content-type"], "application/problem+json");
    drop(hold);
    assert_eq!(at_last(held).await.unwrap().unwrap().status(), StatusCode::OK);
    drop(client);
    at_last(connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_http_2_connection_is_told_to_end() {
    let socket = Socket::start(|config| limits(config).idle_seconds = 0.2).await;
    let stream = TokioIo::new(socket.connect().await.0);
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let live = Request::get("http://localhost/health/live")
        .body(String::new())
        .unwrap();
    assert_eq!(
        at_last(client.send_request(live)).await.unwrap().status(),
        StatusCode::OK
    );
    at_last(connection).await.unwrap().unwrap();
    assert!(client.is_closed());
    socket.until("maskclip_http_connections", 0).await;
}

#[tokio::test]
async fn a_request_whose_client_leaves_is_counted() {
    let socket = Socket::start(|_| ()).await;
    let hold = socket.control.hold_score();
    let mut client = socket.connect().await;
    client.send(segment(&with_image(json!({"classes": ["red"]})))).await;
    socket.control.entered().await;
    drop(client);
    let left = r#"maskclip_http_requests_total{method="POST",route="/v1/segment",status="499"}"#;
    at_last(async {
        while !socket.state.metrics.render().contains(left) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(socket.metric(left), 1);
    let seconds = r#"maskclip_http_request_seconds_count{outcome="abandoned",route="/v1/segment"}"#;
    assert_eq!(socket.metric(seconds), 1);
    drop(hold);
}

#[tokio::test]
async fn a_large_head_counts_as_part_of_the_body_that_comes() {
    let socket = Socket::start(|config| {
        limits(config);
        config.engine.body_bytes = 40 * 1024;
    })
    .await;
    let head = |wide: usize| {
        let wide = "a".repeat(wide);
        format!(
            "POST /v1/segment HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\
             x-wide: {wide}\r\n\r\n"
        )
    };
    let mut slow = socket.connect().await;
    slow.send(head(30_000)).await;
    at_last(async {
        while socket.metric("maskclip_body_bytes") < 30_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let mut other = socket.connect().await;
    other.send(head(10_000)).await;
    let reply = other.reply().await;
    assert!(
        reply.starts_with("HTTP/1.1 429 ") && reply.contains("engine.body_bytes"),
        "{reply}"
    );
    let mut small = socket.connect().await;
    small.send(head(1000) + "{\"a\": {}}").await;
    assert!(small.reply().await.starts_with("HTTP/1.1 422 "));
    drop(slow);
    socket.until("maskclip_body_bytes", 0).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_problem() {
    let app = App::start().await;
    let long = request(Method::GET, &format!("/{}", "a".repeat(8192)));
    let reply = app.send(long.body(Body::empty()).unwrap()).await;
    assert_eq!(reply.status, StatusCode::URI_TOO_LONG);
    assert_eq!(reply.json()["type"], "/problems/uri-too-long");
    let wide = request(Method::GET, "/none").header("x-wide", "a".repeat(32 * 1024));
    let reply = app.send(wide.body(Body::empty()).unwrap()).await;
    assert_eq!(reply.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(reply.json()["type"], "/problems/head-too-large");
    let many = (0..101).fold(request(Method::GET, "/none"), |head, n| {
        head.header(format!("x-{n}"), "1")
    });
    let reply = app.send(many.body(Body::empty()).unwrap()).await;
    assert_eq!(
        reply.json()["detail"],
        "the head of the request has 102 fields, at most 100 are read"
    );
}

/// The HTTP library answers this itself, without a body, as docs/http.md says.
#[tokio::test]
async fn what_is_no_http_is_refused_by_the_library() {
    let socket = Socket::start(|_| ()).await;
    let mut client = socket.connect().await;
    client.send("nonsense\r\n\r\n").await;
    let reply = client.rest().await;
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
    socket.until("maskclip_http_connections", 0).await;
}

/// Returns a client of HTTP/2 that says PING all the time, and takes a few bytes of a reply until it asks for more.
async fn narrow_client(socket: &Socket) -> SendRequest<String> {
    let stream = TokioIo::new(socket.connect().await.0);
    let (client, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(100)
        .keep_alive_interval(Duration::from_millis(20))
        .keep_alive_timeout(Duration::from_secs(3600))
        .keep_alive_while_idle(true)
        .handshake(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

/// Returns a request whose reply has more than 60,000 bytes.
fn large_body() -> Value {
    let image = BASE64_STANDARD.encode(png(300, 100, |_| [255, 0, 0]));
    json!({"image": image, "classes": ["red", "blue"], "output": {"label_map": "raw"}})
}

/// Returns the same request as one of HTTP/2.
fn long_reply() -> Request<String> {
    Request::post("http://localhost/v1/segment")
        .header("content-type", "application/json")
        .body(large_body().to_string())
        .unwrap()
}

/// Returns `POST /v1/segment` as it goes over the wire.
fn segment(body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST /v1/segment HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
