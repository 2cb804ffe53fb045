//! Compression both ways.

use std::convert::Infallible;
use std::io::{Read, Write};

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use maskclip::api::openapi_yaml;
use serde_json::json;

use crate::socket::Socket;
use crate::support::{App, BOUNDARY, REQUEST_ID, Reply, multipart, red_and_blue, request, with_image};

/// The largest body of these tests in bytes.
const LIMIT: usize = 10_000;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A Zstandard frame (RFC 8878, section 3.1.1) of raw blocks, or of one byte repeated in blocks of 128 KiB.
fn zstd(content: &[u8]) -> Vec<u8> {
    // One segment, its size in four bytes.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000];
    frame.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    let blocks: Vec<_> = content.chunks(128 * 1024).collect();
    for (place, block) in blocks.iter().enumerate() {
        let is_last = usize::from(place + 1 == blocks.len());
        let repeats = block.iter().all(|byte| *byte == block[0]);
        let header = block.len() << 3 | usize::from(repeats) << 1 | is_last;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(if repeats { &block[..1] } else { block });
    }
    frame
}

async fn send(app: &App, coding: &str, content_type: &str, body: Vec<u8>) -> Reply {
    let head = request(Method::POST, "/v1/segment").header(header::CONTENT_TYPE, content_type);
    let head = head.header(header::CONTENT_ENCODING, coding);
    app.send(head.body(Body::from(body)).unwrap()).await
}

#[tokio::test]
async fn a_compressed_body_is_read_in_both_forms() {
    let app = App::start().await;
    let fields = json!({"classes": ["red", "blue"]});
    let body = with_image(fields.clone()).to_string();
    let form = multipart(&[("image", &red_and_blue()), ("request", fields.to_string().as_bytes())]);
    let form_type = format!("multipart/form-data; boundary={BOUNDARY}");
    let plain = send(&app, "identity", "application/json", body.clone().into())
        .await
        .ok();
    for (coding, compress) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
        let reply = send(&app, coding, "application/json", compress(body.as_bytes()))
            .await
            .ok();
        assert_eq!(reply["label_map"], plain["label_map"], "{coding}");
        let reply = send(&app, coding, &form_type, compress(&form)).await.ok();
        assert_eq!(reply["label_map"], plain["label_map"], "{coding}");
    }
}

#[tokio::test]
async fn a_body_counts_as_what_it_is_inflated_to() {
    let app = App::start_with(|config| config.limits.max_request_bytes = LIMIT).await;
    // 20 MB in a few kilobytes: it could not be inflated and answered so soon if it were inflated as a whole.
    let bomb = vec![b' '; 20_000_000];
    for (coding, compress) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("zstd", zstd)] {
        let body = compress(&bomb);
        assert!(coding == "gzip" || body.len() < LIMIT, "{coding}: {}", body.len());
        send(&app, coding, "application/json", body)
            .await
            .assert_problem(&json!({
                "type": "/problems/request-too-large",
                "title": "The request is too large",
                "status": 413,
                "detail": "the body has more than limits.max_request_bytes = 10000 bytes",
                "instance": REQUEST_ID,
                "limit": {"name": "limits.max_request_bytes", "value": 10000},
            }));
    }
}

/// A little becomes much, and whoever keeps back its end would take the room of all others.
#[tokio::test]
async fn a_compressed_body_counts_as_what_has_come_until_it_is_whole() {
    let app = Socket::start(|config| config.engine.body_bytes = 1 << 20).await;
    let body = gzip(&vec![b' '; 4 << 20]);
    let (most, rest) = body.split_at(body.len() - 8);
    let mut slow = app.connect().await;
    slow.send(format!(
        "POST /v1/segment HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    ))
    .await;
    slow.send(most).await;
    app.until("maskclip_body_bytes", most.len().div_ceil(1024) as u64 * 1024)
        .await;
    slow.send(rest).await;
    let reply = slow.reply().await;
    assert!(reply.starts_with("HTTP/1.1 429 "), "{reply}");
    assert!(reply.contains("engine.body_bytes"), "{reply}");
    app.until("maskclip_body_bytes", 0).await;
}

#[tokio::test]
async fn a_compressed_body_itself_has_the_limits_of_bodies() {
    // Noise does not get smaller.
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(20_000)
    .collect();
    let body = gzip(&noise);
    assert!(body.len() > LIMIT);
    let chunks = |body: &[u8]| {
        let chunks: Vec<_> = body
            .chunks(1000)
            .map(|chunk| Ok::<_, Infallible>(chunk.to_vec()))
            .collect();
        let head = request(Method::POST, "/v1/segment").header(header::CONTENT_TYPE, "application/json");
        let head = head.header(header::CONTENT_ENCODING, "gzip");
        head.body(Body::from_stream(futures_util::stream::iter(chunks)))
            .unwrap()
    };
    let app = App::start_with(|config| config.limits.max_request_bytes = LIMIT).await;
    assert_eq!(app.send(chunks(&body)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let app = App::start_with(|config| config.engine.body_bytes = 9 * 1024).await;
    let reply = app.send(chunks(&body)).await;
    assert_eq!(reply.json()["limit"]["name"], "engine.body_bytes");
    assert_eq!(app.metric("maskclip_body_bytes").await, 0);
}

#[tokio::test]
async fn a_body_that_does_not_inflate_is_400() {
    let app = App::start().await;
    let cut = gzip(with_image(json!({"classes": ["red"]})).to_string().as_bytes());
    for body in [b"{\"classes\": []}".to_vec(), cut[..cut.len() / 2].to_vec()] {
        let reply = send(&app, "gzip", "application/json", body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{:?}", reply.body);
        assert_eq!(reply.json()["type"], "/problems/malformed");
    }
}

#[tokio::test]
async fn a_coding_that_is_not_read_is_415() {
    let app = App::start().await;
    for coding in ["br", "gzip, zstd", "compress"] {
        send(&app, coding, "application/json", b"{}".to_vec()).await.assert_problem(&json!({
            "type": "/problems/unsupported-content-encoding",
            "title": "The content encoding is not read",
            "status": 415,
            "detail": format!("the Content-Encoding is {coding:?}; read are gzip, zstd and identity, one of them alone"),
            "instance": REQUEST_ID,
        }));
    }
}

/// Sends `GET path` with `Accept-Encoding`.
async fn get(app: &App, path: &str, accepted: &str) -> Reply {
    let head = request(Method::GET, path).header(header::ACCEPT_ENCODING, accepted);
    app.send(head.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_long_text_is_compressed_for_who_asks() {
    let app = App::start().await;
    let reply = get(&app, "/openapi.yaml", "gzip, deflate").await;
    assert_eq!(reply.header("content-encoding"), "gzip");
    assert_eq!(reply.header("vary"), "accept-encoding");
    let mut text = String::new();
    GzDecoder::new(&reply.body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, openapi_yaml());
    assert_eq!(
        get(&app, "/openapi.yaml", "zstd, gzip")
            .await
            .header("content-encoding"),
        "zstd"
    );

    for accepted in ["identity", "br", "gzip;q=0", "identity;q=0", "*;q=0"] {
        let reply = get(&app, "/openapi.yaml", accepted).await;
        assert_eq!(reply.status, StatusCode::OK, "{accepted}");
        assert!(!reply.headers.contains_key("content-encoding"), "{accepted}");
        assert_eq!(reply.body, openapi_yaml(), "{accepted}");
    }
    // Whoever does not ask learns that the answer depends on it all the same.
    let plain = app.get("/openapi.yaml").await;
    assert_eq!(plain.header("vary"), "accept-encoding");
    assert_eq!(plain.body, openapi_yaml());
}

#[tokio::test]
async fn what_would_not_get_smaller_is_sent_as_it_is() {
    let app = App::start().await;
    let short = get(&app, "/health/live", "gzip").await;
    assert!(!short.headers.contains_key("content-encoding"));
    let scene = get(&app, "/assets/examples/picnic.png", "gzip").await;
    assert_eq!(scene.status, StatusCode::OK);
    assert!(!scene.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn a_tag_that_clients_send_back_to_change_something_stays_strong() {
    let app = App::start().await;
    let classes: Vec<_> = (0..500).map(|n| format!("class number {n}")).collect();
    let put = request(Method::PUT, "/v1/vocabularies/long").header(header::CONTENT_TYPE, "application/json");
    let put = put.body(Body::from(json!({"classes": classes}).to_string())).unwrap();
    assert!(app.send(put).await.status.is_success());
    let reply = get(&app, "/v1/vocabularies/long", "gzip").await;
    assert!(reply.header("etag").starts_with('"'));
    assert!(!reply.headers.contains_key("content-encoding"));

    let page = get(&app, "/", "gzip").await;
    assert!(page.header("etag").starts_with("W/\""));
    assert_eq!(page.header("content-encoding"), "gzip");
    let again = request(Method::GET, "/").header(header::IF_NONE_MATCH, page.header("etag"));
    assert_eq!(
        app.send(again.body(Body::empty()).unwrap()).await.status,
        StatusCode::NOT_MODIFIED
    );
}
