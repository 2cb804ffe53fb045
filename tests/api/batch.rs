//! `POST /v1/segment/batch`: many images in one request, each with a line of its own.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use maskclip::access::{KeyEntry, Scope};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::access::{by, entry};
use crate::fake::Action;
use crate::socket::{Socket, at_last};
use crate::support::{
    App, BOUNDARY, REQUEST_ID, Reply, multipart, png, post_multipart, red_and_blue, until, with_image,
};

const PATH: &str = "/v1/segment/batch";

/// Returns a multipart body with the fields and images, each image with a file name if it has one.
fn form(fields: &Value, images: &[(Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, image) in images {
        let name = name.map_or(String::new(), |name| format!("; filename=\"{name}\""));
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image\"{name}\r\n\r\n");
        body.extend([head.as_bytes(), image, b"\r\n"].concat());
    }
    body.extend(multipart(&[("request", fields.to_string().as_bytes())]));
    body
}

async fn post(app: &App, fields: &Value, images: &[(Option<&str>, &[u8])]) -> Reply {
    app.send(post_multipart(PATH, form(fields, images))).await
}

/// Returns the lines of an answer in the order of the images.
#[track_caller]
fn lines(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let text = std::str::from_utf8(&reply.body).unwrap();
    assert!(text.ends_with('\n'));
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["index"].as_u64());
    lines
}

/// A picture that no other has: its features are not held.
fn picture(number: u8) -> Vec<u8> {
    png(16, 8, |x| if x < 8 { [255, 0, number] } else { [0, number, 255] })
}

#[tokio::test]
async fn every_image_has_a_line_with_what_it_would_have_got_alone() {
    let app = App::start().await;
    let output = json!({"label_map": "coco-rle", "label_maps": ["polygons", "panoptic"]});
    let fields = json!({"classes": ["red", "blue"], "output": output});
    let alone = app.segment(&with_image(fields.clone())).await.ok();
    let image = red_and_blue();
    let images: [(Option<&str>, &[u8]); 3] = [(Some("a.png"), &image), (None, b"no image"), (Some("c.png"), &image)];
    let lines = lines(&post(&app, &fields, &images).await);
    assert_eq!(lines.len(), 3);
    for (line, name) in [(&lines[0], "a.png"), (&lines[2], "c.png")] {
        assert_eq!((&line["name"], &line["status"]), (&json!(name), &json!(200)));
        for field in [
            "model",
            "width",
            "height",
            "classes",
            "label_map",
            "label_maps",
            "warnings",
        ] {
            assert_eq!(line["result"][field], alone[field], "{field}");
        }
        assert_eq!(line["problem"], Value::Null);
    }
    assert_eq!(
        lines[1],
        json!({"index": 1, "status": 422, "problem": {
            "type": "/problems/undecodable-image",
            "title": "The image cannot be decoded",
            "status": 422,
            "detail": "the image is none of the formats this server reads: JPEG, PNG, WebP, GIF, BMP, TIFF",
            "instance": REQUEST_ID,
        }})
    );
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused_as_a_whole() {
    let app = App::start_with(|config| config.limits.max_batch_images = 2).await;
    let image = red_and_blue();
    let images: [(Option<&str>, &[u8]); 3] = [(None, &image), (None, &image), (None, &image)];
    let red = json!({"classes": ["red"]});
    post(&app, &red, &images).await.assert_problem(&json!({
        "type": "/problems/invalid-request",
        "title": "The request is invalid",
        "status": 422,
        "detail": "the batch has more than limits.max_batch_images = 2 images",
        "instance": REQUEST_ID,
        "path": "image",
        "limit": {"name": "limits.max_batch_images", "value": 2},
    }));
    for (reply, path) in [
        (post(&app, &red, &[]).await, "image"),
        (
            post(&app, &json!({"classes": ["red"], "image_id": "a"}), &images[..1]).await,
            "image_id",
        ),
        (
            post(&app, &json!({"classes": ["red"], "image": "a"}), &images[..1]).await,
            "image",
        ),
        (post(&app, &json!({"clases": ["red"]}), &images[..1]).await, "clases"),
        (
            post(&app, &json!({"classes": ["red"], "deadline_seconds": 0}), &images[..1]).await,
            "deadline_seconds",
        ),
        (
            post(&app, &json!({"classes": ["red"], "window": {"side": 0}}), &images[..1]).await,
            "window.side",
        ),
        (
            post(
                &app,
                &json!({"classes": ["red"], "output": {"probability_maps": ["dgo"]}}),
                &images[..1],
            )
            .await,
            "output.probability_maps[0]",
        ),
        (
            app.send(post_multipart(PATH, multipart(&[("image", &image)]))).await,
            "request",
        ),
        (
            app.send(post_multipart(PATH, multipart(&[("picture", &image)]))).await,
            "picture",
        ),
    ] {
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{:?}", reply.body);
        assert_eq!(reply.json()["path"], path);
    }
    let unknown = post(&app, &json!({"vocabulary": "none"}), &images[..1]).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let json = Request::post(PATH).header(header::CONTENT_TYPE, "application/json");
    let reply = app.send(json.body(Body::from("{}")).unwrap()).await;
    assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut picky = post_multipart(PATH, form(&red, &images[..1]));
    picky.headers_mut().insert(header::ACCEPT, "image/png".parse().unwrap());
    assert_eq!(app.send(picky).await.status, StatusCode::NOT_ACCEPTABLE);
}

#[tokio::test]
async fn an_image_whose_model_fails_does_not_fail_the_others() {
    let app = App::start_with(|config| config.engine.max_batch = 1).await;
    app.control.on_look(Action::Fail);
    let pictures: Vec<_> = (0..4).map(picture).collect();
    let images: Vec<(Option<&str>, &[u8])> = pictures.iter().map(|image| (None, image.as_slice())).collect();
    let lines = lines(&post(&app, &json!({"classes": ["red", "blue"]}), &images).await);
    let mut statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 500]);
}

/// One slot is taken by another request. The images of the batch find no room until that is done.
#[tokio::test]
async fn an_image_that_finds_no_room_waits_for_it() {
    let app = App::start_with(|config| config.engine.queue_capacity = 2).await;
    let pictures: Vec<_> = (0..3).map(picture).collect();
    let images: Vec<(Option<&str>, &[u8])> = pictures.iter().map(|image| (None, image.as_slice())).collect();
    let hold = app.control.hold_look();
    let other = tokio::spawn({
        let app = app.clone();
        async move { app.segment(&with_image(json!({"classes": ["red"]}))).await }
    });
    app.control.entered().await;
    let batch = tokio::spawn({
        let (app, form) = (app.clone(), form(&json!({"classes": ["red", "blue"]}), &images));
        async move { app.send(post_multipart(PATH, form)).await }
    });
    let refused = r#"maskclip_refusals_total{reason="slots"}"#;
    until(async || app.metric(refused).await > 0).await;
    drop(hold);
    other.await.unwrap().ok();
    let lines = lines(&batch.await.unwrap());
    assert!(lines.iter().all(|line| line["status"] == 200), "{lines:?}");
}

#[tokio::test]
async fn an_image_that_finds_no_room_in_its_time_says_so_in_its_line() {
    let app = App::start_with(|config| config.engine.queue_capacity = 2).await;
    let hold = app.control.hold_look();
    let other = tokio::spawn({
        let app = app.clone();
        async move { app.segment(&with_image(json!({"classes": ["red"]}))).await }
    });
    app.control.entered().await;
    // One image takes the only slot that is left. A deadline of less than the second to wait for leaves the other no repeat.
    let fields = json!({"classes": ["red", "blue"], "deadline_seconds": 0.5});
    let lines = lines(&post(&app, &fields, &[(None, &picture(1)), (None, &picture(2))]).await);
    drop(hold);
    other.await.unwrap().ok();
    let full = lines
        .iter()
        .find(|line| line["status"] == 429)
        .expect("one of them found no room");
    assert_eq!(full["problem"]["limit"]["name"], "engine.queue_capacity");
    assert_eq!(full["retry_after_seconds"], 1);
    assert!(lines.iter().any(|line| line["status"] == 504), "{lines:?}");
}

#[tokio::test]
async fn each_image_counts_for_the_quota_of_its_key() {
    let app = App::start_with(|config| {
        config.access.keys = vec![KeyEntry {
            in_flight: Some(1),
            ..entry("alice", &[Scope::Use])
        }];
    })
    .await;
    let hold = app.control.hold_look();
    // One image is under way. A deadline of less than the second to wait for leaves the other no repeat.
    let fields = json!({"classes": ["red", "blue"], "deadline_seconds": 0.5});
    let form = form(&fields, &[(None, &picture(1)), (None, &picture(2))]);
    let lines = lines(&app.send(by("alice", post_multipart(PATH, form))).await);
    drop(hold);
    let refused = lines
        .iter()
        .find(|line| line["status"] == 429)
        .expect("one image is too many");
    assert_eq!(refused["problem"]["type"], "/problems/quota");
    assert_eq!(
        refused["problem"]["limit"],
        json!({"name": "access.in_flight", "value": 1})
    );
    assert!(lines.iter().any(|line| line["status"] == 504), "{lines:?}");
}

#[tokio::test]
async fn lines_come_as_images_are_done_and_a_client_that_leaves_stops_the_rest() {
    let socket = Socket::start(|config| {
        config.engine.max_batch = 1;
        config.server.reply_seconds = 0.3;
    })
    .await;
    let control = &socket.control;
    // The first two are worked on at once; the first is let through, the second holds the model.
    control.on_look(Action::Answer);
    let hold = control.hold_look();
    let pictures: Vec<_> = (0..20).map(picture).collect();
    let images: Vec<(Option<&str>, &[u8])> = pictures.iter().map(|image| (None, image.as_slice())).collect();
    let form = form(&json!({"classes": ["red", "blue"]}), &images);
    let mut client = socket.connect().await;
    client
        .send(format!(
            "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary={BOUNDARY}\r\n\
             accept-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
            form.len()
        ))
        .await;
    client.send(form).await;
    let mut first = Vec::new();
    at_last(async {
        while !first.ends_with(b"}\n") {
            first.push(client.0.read_u8().await.unwrap());
        }
    })
    .await;
    let first = String::from_utf8(first).unwrap();
    assert!(
        first.contains("\"status\":200") && !first.contains("content-encoding"),
        "{first}"
    );
    control.entered().await;
    control.entered().await;
    let before = control.looks();
    // The server makes the client wait for longer than a client may make the server wait.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(
        socket.metric(r#"maskclip_http_connections_overdue_total{limit="reply_seconds"}"#),
        0
    );
    drop(client);
    socket.until("maskclip_http_connections", 0).await;
    drop(hold);
    socket.until("maskclip_requests_in_flight", 0).await;
    assert_eq!(control.looks(), before);
}
