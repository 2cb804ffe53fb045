//! Bodies that no honest client would send.

use axum::body::Body;
use axum::http::{Method, header};
use serde_json::{Value, json};

use crate::support::{App, BOUNDARY, multipart, red_and_blue, request, segment_multipart};

/// Returns the status and the `path` of the answer to a multipart body.
async fn answer(app: &App, body: Vec<u8>) -> (u16, Value) {
    let reply = app.send(segment_multipart(body)).await;
    (reply.status.as_u16(), reply.json()["path"].clone())
}

#[tokio::test]
async fn parts_that_are_missing_unknown_or_twice_are_422_by_name() {
    let app = App::start().await;
    let image = red_and_blue();
    let image = ("image", image.as_slice());
    let fields = ("request", br#"{"classes": ["red"]}"#.as_slice());
    for (parts, path) in [
        (vec![], "request"),
        (vec![fields], "image"),
        (vec![image], "request"),
        (vec![image, fields, image], "image"),
        (vec![image, fields, fields], "request"),
        (vec![image, fields, ("mask", b"")], "mask"),
        (
            vec![image, ("request", br#"{"image": "aGk=", "classes": ["red"]}"#)],
            "image",
        ),
        (vec![image, ("request", br#"{"classes": [{}]}"#)], "classes[0].name"),
    ] {
        assert_eq!(answer(&app, multipart(&parts)).await, (422, json!(path)));
    }
}

#[tokio::test]
async fn a_part_without_a_name_is_422() {
    let app = App::start().await;
    let body = format!("--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n--{BOUNDARY}--\r\n");
    assert_eq!(answer(&app, body.into_bytes()).await, (422, json!("")));
}

#[tokio::test]
async fn broken_multipart_is_400() {
    let app = App::start().await;
    let whole = multipart(&[("image", &red_and_blue()), ("request", br#"{"classes": ["red"]}"#)]);
    let broken: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("no boundary", b"image=1".to_vec()),
        ("cut short", whole[..whole.len() - BOUNDARY.len() - 8].to_vec()),
        (
            "headers without end",
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image\"").into_bytes(),
        ),
        (
            "a header that is none",
            format!("--{BOUNDARY}\r\n\0\x01: \x02\r\n\r\nx\r\n--{BOUNDARY}--\r\n").into_bytes(),
        ),
    ];
    for (what, body) in broken {
        let reply = app.send(segment_multipart(body)).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["type"]),
            (400, &json!("/problems/malformed")),
            "{what}"
        );
    }
}

#[tokio::test]
async fn multipart_without_a_boundary_in_its_header_is_400() {
    let app = App::start().await;
    let post = request(Method::POST, "/v1/segment").header(header::CONTENT_TYPE, "multipart/form-data");
    let reply = app.send(post.body(Body::from("x")).unwrap()).await;
    assert_eq!(reply.json()["type"], "/problems/malformed");
}

#[tokio::test]
async fn a_request_part_that_is_not_json_or_not_utf_8_is_400() {
    let app = App::start().await;
    for fields in [b"classes=red".as_slice(), b"{\"classes\": [\"\xff\"]}", b"", b"{} {}"] {
        let body = multipart(&[("image", &red_and_blue()), ("request", fields)]);
        assert_eq!(answer(&app, body).await, (400, Value::Null), "{fields:?}");
    }
}

#[tokio::test]
async fn json_nested_deeper_than_any_request_is_400() {
    let app = App::start().await;
    let post = request(Method::POST, "/v1/segment").header(header::CONTENT_TYPE, "application/json");
    let body = format!("{{\"classes\": {}", "[".repeat(100_000));
    let reply = app.send(post.body(Body::from(body)).unwrap()).await;
    assert!(matches!(reply.status.as_u16(), 400 | 422), "{:?}", reply.body);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_400() {
    let app = App::start().await;
    for content_type in [
        "application/json".to_owned(),
        format!("multipart/form-data; boundary={BOUNDARY}"),
    ] {
        let pieces = [
            Ok("{\"image\": "),
            Err(std::io::Error::other("the connection was reset")),
        ];
        let body = Body::from_stream(futures_util::stream::iter(pieces));
        let post = request(Method::POST, "/v1/segment").header(header::CONTENT_TYPE, &content_type);
        let reply = app.send(post.body(body).unwrap()).await;
        assert_eq!(reply.json()["type"], "/problems/malformed", "{content_type}");
    }
}
