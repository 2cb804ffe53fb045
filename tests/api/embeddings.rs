//! `POST /v1/embeddings`: OpenAI's wire form over the fake, which embeds texts as axes of colours and images as their mean
//! colour.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::fake::{Action, Control, READ_BYTES};
use crate::support::{App, Reply, png, post_json, red_and_blue, request};

async fn embed(app: &App, body: Value) -> Reply {
    app.send(post_json("/v1/embeddings", &body)).await
}

/// An image of one colour as base64.
fn image(colour: [u8; 3]) -> String {
    BASE64_STANDARD.encode(png(16, 8, |_| colour))
}

fn vectors(reply: &Value) -> Vec<Vec<f64>> {
    let data = reply["data"].as_array().unwrap();
    let vector = |entry: &Value| serde_json::from_value(entry["embedding"].clone()).unwrap();
    data.iter().map(vector).collect()
}

#[track_caller]
fn assert_close(found: &[f64], expected: [f64; 4]) {
    assert_eq!(found.len(), 4);
    let close = found
        .iter()
        .zip(expected)
        .all(|(found, expected)| (found - expected).abs() < 0.01);
    assert!(close, "{found:?} is not {expected:?}");
}

#[tokio::test]
async fn texts_and_images_come_back_in_their_order() {
    let app = App::start().await;
    let data_uri = format!("data:image/png;base64,{}", image([0, 0, 255]));
    let input = json!(["red", {"image": image([0, 255, 0])}, data_uri, "red", "something else"]);
    let reply = embed(&app, json!({"model": "colours", "input": input, "user": "me"}))
        .await
        .ok();
    assert_eq!(reply["object"], "list");
    assert_eq!(reply["model"], "colours");
    for (index, entry) in reply["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!(
            (&entry["object"], &entry["index"]),
            (&json!("embedding"), &json!(index))
        );
    }
    let found = vectors(&reply);
    let expected = [
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert_close(found, expected);
    }
    // The fake counts words, and two tokens around them.
    assert_eq!(reply["usage"], json!({"prompt_tokens": 3 + 3 + 4, "total_tokens": 10}));
}

#[tokio::test]
async fn one_input_needs_no_list_and_no_model() {
    let app = App::start().await;
    let reply = embed(&app, json!({"input": "blue"})).await.ok();
    assert_close(&vectors(&reply)[0], [0.0, 0.0, 1.0, 0.0]);
    let reply = embed(
        &app,
        json!({"input": {"image": BASE64_STANDARD.encode(red_and_blue())}}),
    )
    .await
    .ok();
    let found = &vectors(&reply)[0];
    let half = std::f64::consts::FRAC_1_SQRT_2;
    assert_close(found, [half, 0.0, half, 0.0]);
    assert_eq!(reply["usage"]["prompt_tokens"], 0);
}

#[tokio::test]
async fn base64_holds_32_bit_floats() {
    let app = App::start().await;
    let reply = embed(&app, json!({"input": ["green"], "encoding_format": "base64"}))
        .await
        .ok();
    let bytes = BASE64_STANDARD
        .decode(reply["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let floats: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(floats, [0.0, 1.0, 0.0, 0.0]);
}

#[tokio::test]
async fn a_text_is_embedded_once() {
    let app = App::start().await;
    let before = app.control.embeds();
    for _ in 0..3 {
        embed(&app, json!({"input": ["red", "red", "blue"]})).await.ok();
    }
    assert_eq!(app.control.embeds(), before + 1);
}

#[tokio::test]
async fn a_text_that_lost_its_end_is_told_by_a_header() {
    let app = App::start().await;
    let reply = embed(&app, json!({"input": "a".repeat(READ_BYTES + 1)})).await;
    assert_eq!(reply.header("maskclip-warnings"), "text-truncated");
    let reply = embed(&app, json!({"input": "red"})).await;
    assert!(!reply.headers.contains_key("maskclip-warnings"));
}

#[track_caller]
fn assert_error(reply: &Reply, status: StatusCode, kind: &str, code: &str, param: &Value, message: &str) {
    assert_eq!(reply.status, status, "{:?}", reply.body);
    assert_eq!(reply.header("content-type"), "application/json");
    let error = &reply.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!(kind), &json!(code)),
        "{error}"
    );
    assert_eq!(error["param"], *param, "{error}");
    assert!(error["message"].as_str().unwrap().contains(message), "{error}");
}

#[tokio::test]
async fn errors_have_the_form_of_openai_and_name_the_input() {
    let app = App::start_with(|config| {
        config.limits.input.max_embedding_inputs = 3;
        config.limits.input.max_embedding_characters = 150;
    })
    .await;
    let invalid = (StatusCode::UNPROCESSABLE_ENTITY, "invalid-request");
    let malformed = (StatusCode::BAD_REQUEST, "malformed");
    for (body, (status, code), param, message) in [
        (
            json!({"input": "red", "dimensions": 2}),
            invalid,
            json!("dimensions"),
            "cannot be shortened",
        ),
        (json!({"input": []}), invalid, json!("input"), "must not be empty"),
        (json!({"input": ""}), invalid, json!("input"), "must not be empty"),
        (
            json!({"input": ["red", ""]}),
            invalid,
            json!("input[1]"),
            "must not be empty",
        ),
        (
            json!({"input": [1, 2]}),
            invalid,
            json!("input[0]"),
            "token ids are not read",
        ),
        (
            json!({"input": vec!["a"; 4]}),
            invalid,
            json!("input"),
            "limits.max_embedding_inputs = 3",
        ),
        (
            json!({"input": ["a".repeat(151)]}),
            invalid,
            json!("input[0]"),
            "limits.max_embedding_characters = 150",
        ),
        (
            json!({"input": "a", "model_": "x"}),
            invalid,
            json!("model_"),
            "there is no field model_",
        ),
        (json!({}), invalid, json!("input"), "input is missing"),
        (
            json!({"input": {"image": "https://example.org/a.png"}}),
            malformed,
            json!("input"),
            "addresses are not fetched",
        ),
        (
            json!({"input": ["a", {"image": "?"}]}),
            malformed,
            json!("input[1]"),
            "is not base64",
        ),
        (
            json!({"input": ["a", {"image": BASE64_STANDARD.encode("no image")}]}),
            (StatusCode::UNPROCESSABLE_ENTITY, "undecodable-image"),
            json!("input[1]"),
            "none of the formats",
        ),
        (
            json!({"input": "a", "model": "none"}),
            (StatusCode::UNPROCESSABLE_ENTITY, "unknown-model"),
            json!("model"),
            "no model is called",
        ),
    ] {
        let reply = embed(&app, body).await;
        assert_error(&reply, status, "invalid_request_error", code, &param, message);
    }
    let form = request(axum::http::Method::POST, "/v1/embeddings")
        .body("x".into())
        .unwrap();
    let reply = app.send(form).await;
    assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(reply.json()["error"]["code"], "unsupported-media-type");
}

#[tokio::test]
async fn a_failing_model_is_an_error_of_the_server() {
    let app = App::start().await;
    app.control.on_look(Action::Fail);
    let reply = embed(&app, json!({"input": {"image": image([1, 2, 3])}})).await;
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    assert_error(
        &reply,
        status,
        "server_error",
        "internal",
        &json!("input"),
        "Internal error",
    );
}

#[tokio::test]
async fn a_full_server_refuses_and_says_when_to_come_back() {
    let app = App::start_with(|config| config.engine.queue_capacity = 1).await;
    let hold = app.control.hold_embed();
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { embed(&app, json!({"input": "red"})).await }
    });
    app.control.entered().await;
    let reply = embed(&app, json!({"input": "green"})).await;
    assert_error(
        &reply,
        StatusCode::TOO_MANY_REQUESTS,
        "rate_limit_error",
        "overloaded",
        &json!(null),
        "engine.queue_capacity",
    );
    assert!(reply.headers.contains_key("retry-after"));
    drop(hold);
    waiting.await.unwrap().ok();
}

#[tokio::test]
async fn a_student_embeds_texts_alone() {
    let control = Control::default();
    let models = vec![control.student(), Control::default().model()];
    let app = App::launch_models(models, control, |_| ());
    app.engine.ready().await.unwrap();
    embed(&app, json!({"input": "red", "model": "fruit"})).await.ok();
    let reply = embed(&app, json!({"input": {"image": image([1, 2, 3])}, "model": "fruit"})).await;
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    let kind = "invalid_request_error";
    assert_error(
        &reply,
        status,
        kind,
        "unsupported-by-model",
        &json!(null),
        "is a student",
    );
}
