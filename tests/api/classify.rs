//! `POST /v1/classify`: whole images over the fake, whose embedding of an image is its mean colour.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::fake::Control;
use crate::support::{App, Reply, multipart, post_json, post_multipart, red_and_blue, request, with_image};

async fn classify(app: &App, fields: Value) -> Reply {
    app.send(post_json("/v1/classify", &with_image(fields))).await
}

#[tokio::test]
async fn an_image_has_a_probability_and_a_cosine_for_each_class() {
    let app = App::start().await;
    let reply = classify(
        &app,
        json!({"classes": ["red", "green", {"name": "sea", "synonyms": ["blue"]}], "synonyms": "max",
        "temperature": 2}),
    )
    .await
    .ok();
    assert_eq!(
        (&reply["model"], &reply["width"], &reply["height"]),
        (&json!("colours"), &json!(16), &json!(8))
    );
    assert_eq!(reply["vocabulary"]["total"], 4);
    let classes = reply["classes"].as_array().unwrap();
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let sum = 2.0 * (2.0 * half).exp() + 2.0;
    let expected = [("red", half), ("green", 0.0), ("sea", half)];
    for (id, (class, (name, cosine))) in classes.iter().zip(expected).enumerate() {
        assert_eq!((&class["id"], &class["name"]), (&json!(id), &json!(name)));
        let close = |found: &Value, expected: f64| (found.as_f64().unwrap() - expected).abs() < 0.01;
        assert!(close(&class["similarity"], cosine), "{class}");
        assert!(close(&class["probability"], (2.0 * cosine).exp() / sum), "{class}");
    }
    assert_eq!(
        reply["warnings"],
        json!([{
            "code": "unknown-word",
            "message": reply["warnings"][0]["message"],
        }])
    );
}

#[tokio::test]
async fn vocabularies_count_without_their_background() {
    let app = App::start().await;
    let definition = json!({"classes": ["red", "green"], "background": ["blue"], "options": {"templates": "simple"}});
    let put = request(axum::http::Method::PUT, "/v1/vocabularies/colours")
        .header("content-type", "application/json")
        .body(definition.to_string().into())
        .unwrap();
    assert!(app.send(put).await.status.is_success());
    let reply = classify(&app, json!({"vocabulary": "colours"})).await.ok();
    let probability = reply["classes"][0]["probability"].as_f64().unwrap();
    assert!(probability > 0.99, "{reply}");
    assert_eq!(reply["classes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_image_comes_as_a_part_or_by_its_id() {
    let app = App::start().await;
    let image = red_and_blue();
    let parts: [(&str, &[u8]); 2] = [("image", &image), ("request", br#"{"classes": ["red"]}"#)];
    let reply = app.send(post_multipart("/v1/classify", multipart(&parts))).await.ok();
    assert_eq!(reply["classes"][0]["probability"], 1.0);
    assert_eq!(reply["warnings"][0]["code"], "single-class");
    let held = app.send(post_json("/v1/images", &with_image(json!({})))).await;
    let id = held.json()["image_id"].clone();
    let by_id = json!({"image_id": id, "classes": ["red"]});
    assert_eq!(
        app.send(post_json("/v1/classify", &by_id)).await.ok()["classes"],
        reply["classes"]
    );
}

#[tokio::test]
async fn what_is_missing_or_too_much_is_refused() {
    let app = App::start().await;
    for (fields, kind, detail) in [
        (
            json!({}),
            "/problems/invalid-request",
            "one of classes and vocabulary is required",
        ),
        (
            json!({"classes": ["red"], "vocabulary": "x"}),
            "/problems/invalid-request",
            "classes and vocabulary exclude each other; give one of them",
        ),
        (
            json!({"vocabulary": "none"}),
            "/problems/vocabulary-not-found",
            "no vocabulary is called \"none\"",
        ),
        (
            json!({"classes": ["red"], "temperature": 0}),
            "/problems/invalid-request",
            "temperature must be above 0 and at most 1000, not 0",
        ),
    ] {
        let reply = classify(&app, fields).await.json();
        assert_eq!(reply["type"], kind, "{reply}");
        assert!(reply["detail"].as_str().unwrap().starts_with(detail), "{reply}");
    }
}

#[tokio::test]
async fn a_student_sees_no_image_as_a_whole() {
    let control = Control::default();
    let app = App::launch_models(vec![control.student()], control, |_| ());
    app.engine.ready().await.unwrap();
    let reply = classify(&app, json!({"classes": ["red"]})).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reply.json()["type"], "/problems/unsupported-by-model");
}
