//! `POST /`: the requests of Hugging Face's inference client.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::{App, Reply, post_json, red_and_blue, request};

/// The image as the body, without a content type.
fn bytes(path: &str) -> Request<Body> {
    request(Method::POST, path).body(red_and_blue().into()).unwrap()
}

/// The image inside of JSON.
fn with_parameters(path: &str, parameters: Value) -> Request<Body> {
    let image = BASE64_STANDARD.encode(red_and_blue());
    post_json(path, &json!({"inputs": image, "parameters": parameters}))
}

/// The samples of a grey PNG as base64.
fn mask(segment: &Value) -> Vec<u8> {
    let file = BASE64_STANDARD.decode(segment["mask"].as_str().unwrap()).unwrap();
    let image = image::load_from_memory(&file).unwrap();
    assert_eq!(image.color(), image::ColorType::L8);
    assert_eq!((image.width(), image.height()), (16, 8));
    image.into_bytes()
}

#[tokio::test]
async fn bytes_without_a_type_become_a_mask_for_each_class_that_has_pixels() {
    let app = App::start().await;
    let reply = app.send(bytes("/?classes=red,green,blue")).await.ok();
    let segments = reply.as_array().unwrap();
    let labels: Vec<_> = segments
        .iter()
        .map(|segment| segment["label"].as_str().unwrap())
        .collect();
    assert_eq!(labels, ["red", "blue"]);
    for (segment, is_inside) in segments.iter().zip([|x| x < 8, |x| x >= 8] as [fn(usize) -> bool; 2]) {
        assert!(segment["score"].as_f64().unwrap() > 0.5, "{segment}");
        let expected: Vec<u8> = (0..16 * 8)
            .map(|pixel| if is_inside(pixel % 16) { 255 } else { 0 })
            .collect();
        assert_eq!(mask(segment), expected);
    }
}

#[tokio::test]
async fn parameters_and_vocabularies_count() {
    let app = App::start().await;
    let put = request(Method::PUT, "/v1/vocabularies/two")
        .header("content-type", "application/json")
        .body(json!({"classes": ["red", "blue"]}).to_string().into())
        .unwrap();
    assert!(app.send(put).await.status.is_success());
    let count = |reply: Reply| reply.ok().as_array().unwrap().len();
    assert_eq!(count(app.send(bytes("/?vocabulary=two&model=colours")).await), 2);
    let all = with_parameters("/?vocabulary=two", json!({"threshold": 0.0, "subtask": "semantic"}));
    assert_eq!(count(app.send(all).await), 2);
    // No mean of probabilities is as large as this.
    let none = with_parameters("/?vocabulary=two", json!({"mask_threshold": 1.0}));
    assert!(count(app.send(none).await) <= 2);
    let background = bytes("/?classes=red,blue&background=false&templates=none");
    assert_eq!(count(app.send(background).await), 2);
}

#[tokio::test]
async fn parameters_may_be_null_and_options_are_passed_over() {
    let app = App::start().await;
    let image = BASE64_STANDARD.encode(red_and_blue());
    let plain = app.send(bytes("/?classes=red,blue")).await.ok();
    for options in [
        json!(null),
        json!({}),
        json!({"use_cache": false, "wait_for_model": true}),
    ] {
        let body = json!({"inputs": image, "parameters": null, "options": options});
        assert_eq!(app.send(post_json("/?classes=red,blue", &body)).await.ok(), plain);
    }
    for (field, value) in [("parameters", json!([])), ("options", json!("fast"))] {
        let body = json!({"inputs": image, field: value});
        let refused = app.send(post_json("/?classes=red,blue", &body)).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{field}");
    }
}

#[tokio::test]
async fn candidate_labels_make_it_a_classification() {
    let app = App::start().await;
    let parameters = json!({"candidate_labels": ["green", "red"], "hypothesis_template": "{}"});
    let reply = app.send(with_parameters("/", parameters)).await.ok();
    assert_eq!(reply[0]["label"], "red");
    assert!(reply[0]["score"].as_f64().unwrap() > 0.99, "{reply}");
    assert_eq!(reply.as_array().unwrap().len(), 2);
    // The fake knows no sentences, so that all labels are alike in Hugging Face's own.
    let reply = app
        .send(with_parameters("/", json!({"candidate_labels": ["green", "red"]})))
        .await
        .ok();
    assert_eq!((&reply[0]["score"], &reply[1]["score"]), (&json!(0.5), &json!(0.5)));
    let reply = app
        .send(with_parameters(
            "/?templates=none",
            json!({"candidate_labels": ["green", "red"]}),
        ))
        .await
        .ok();
    assert_eq!(reply[0]["label"], "red");
}

#[tokio::test]
async fn errors_are_texts() {
    let app = App::start().await;
    let labels = json!({"candidate_labels": ["red"]});
    let with = |name: &str, value: Value| with_parameters("/?classes=red", json!({name: value}));
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    for (request, status, told) in [
        (bytes("/"), unprocessable, "the address must name classes"),
        (bytes("/?classes=red&vocabulary=x"), unprocessable, "exclude each other"),
        (
            bytes("/?vocabulary=x"),
            StatusCode::NOT_FOUND,
            "no vocabulary is called \"x\"",
        ),
        (bytes("/?colour=red"), unprocessable, "the query may have"),
        (
            with("subtask", json!("panoptic")),
            unprocessable,
            "must be one of semantic, not \"panoptic\"",
        ),
        (
            with("overlap_mask_area_threshold", json!(0.5)),
            unprocessable,
            "do not overlap",
        ),
        (with("threshold", json!(2)), unprocessable, "threshold must be 0 to 1"),
        (
            with("hypothesis_template", json!("a {}")),
            unprocessable,
            "goes with candidate_labels",
        ),
        (
            with_parameters("/?classes=red", labels.clone()),
            unprocessable,
            "exclude each other",
        ),
        (
            with_parameters(
                "/",
                json!({"candidate_labels": ["red"], "hypothesis_template": "a photo"}),
            ),
            unprocessable,
            "must have one {}",
        ),
        (
            with_parameters("/", json!({"candidate_labels": ["red", " "]})),
            unprocessable,
            "label 1 is empty",
        ),
        (
            post_json("/?classes=red", &json!({"inputs": "?"})),
            StatusCode::BAD_REQUEST,
            "inputs: image is not base64",
        ),
        (
            request(Method::POST, "/?classes=red").body("no image".into()).unwrap(),
            unprocessable,
            "none of the formats",
        ),
    ] {
        let reply = app.send(request).await;
        assert_eq!(reply.status, status, "{:?}", reply.body);
        assert_eq!(reply.header("content-type"), "application/json");
        let error = reply.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(told), "{error}");
    }
    // The page is another matter.
    assert_eq!(app.get("/").await.header("content-type"), "text/html");
}
