//! The way from the first signal to the end of the server.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::socket::{Client, Socket, at_last};
use crate::support::with_image;

/// Sends `POST /v1/segment`.
async fn send_segment(client: &mut Client) {
    let body = with_image(json!({"classes": ["red"]})).to_string();
    let head = "POST /v1/segment HTTP/1.1\r\nhost: localhost\r\nx-request-id: test-1\r\ncontent-type: application/json";
    let length = body.len();
    client
        .send(format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}"))
        .await;
}

#[tokio::test]
async fn a_server_that_leaves_is_not_ready_and_answers_all_the_same() {
    let mut socket = Socket::start(|_| ()).await;
    let mut kept = socket.connect().await;
    assert!(!kept.get("/health/ready").await.contains("connection: close"));
    socket.stop(Duration::from_secs(3600));
    socket.state.lifecycle.reached(maskclip::api::Phase::Leaving).await;

    let ready = kept.get("/health/ready").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("the server is going down"), "{ready}");
    assert!(ready.contains("connection: close\r\n"), "{ready}");
    assert_eq!(kept.rest().await, "", "the connection ends with the answer");

    let mut new = socket.connect().await;
    send_segment(&mut new).await;
    let reply = new.reply().await;
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
}

#[tokio::test]
async fn what_is_under_way_is_answered_after_the_listener_closed() {
    let mut socket = Socket::start(|_| ()).await;
    let mut idle = socket.connect().await;
    idle.get("/health/live").await;
    let mut silent = socket.connect().await;
    let hold = socket.control.hold_score();
    let mut client = socket.connect().await;
    send_segment(&mut client).await;
    socket.control.entered().await;

    socket.stop(Duration::ZERO);
    at_last(async {
        while TcpStream::connect(socket.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(idle.rest().await, "");
    assert_eq!(silent.rest().await, "");
    drop(hold);
    let reply = client.reply().await;
    assert!(reply.starts_with("HTTP/1.1 200 OK"), "{reply}");
    assert!(reply.contains("connection: close\r\n"), "{reply}");
    socket.ended().await;
}

#[tokio::test]
async fn what_outlasts_the_drain_is_503() {
    let mut socket = Socket::start(|config| config.server.drain_seconds = 0.2).await;
    let hold = socket.control.hold_score();
    let mut client = socket.connect().await;
    send_segment(&mut client).await;
    let mut slow = socket.connect().await;
    slow.send("PUT /v1/vocabularies/fruit HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n")
        .await;
    socket.control.entered().await;
    socket.until("maskclip_http_connections", 2).await;
    socket.stop(Duration::ZERO);
    let reply = client.reply().await;
    assert!(reply.starts_with("HTTP/1.1 503"), "{reply}");
    let body = reply.split("\r\n\r\n").nth(1).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(body).unwrap(),
        json!({
            "type": "/problems/unavailable",
            "title": "The server is not ready",
            "status": 503,
            "detail": "the server went down before the request was done (server.drain_seconds)",
            "instance": "test-1",
        })
    );
    assert!(slow.reply().await.starts_with("HTTP/1.1 503"));
    socket.ended().await;
    drop(hold);
}

#[tokio::test]
async fn a_server_without_connections_ends_at_once() {
    let mut socket = Socket::start(|config| config.server.drain_seconds = 3600.0).await;
    socket.stop(Duration::ZERO);
    socket.ended().await;
}
