//! Label Studio's machine learning backend.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maskclip::access::{KeyEntry, Scope};
use serde_json::{Value, json};

use crate::access::{by, entry};
use crate::support::{App, post_json, red_and_blue};

const BRUSH: &str = "<View><Image name='photo' value='$image'/><BrushLabels name='masks' toName='photo'>\
    <Label value='green'/><Label value='red'/><Label value='blue'/></BrushLabels></View>";

const OUTLINES: &str = "<View><Image name='photo' value='$image'/><PolygonLabels name='outlines' toName='photo'>\
    <Label value='red'/><Label value='blue'/></PolygonLabels></View>";

const BOXES: &str = "<View><Image name='photo' value='$image'/><RectangleLabels name='boxes' toName='photo'>\
    <Label value='red'/><Label value='blue'/></RectangleLabels></View>";

fn data_uri() -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(red_and_blue()))
}

fn prediction(configuration: &str, images: &[&str]) -> Value {
    let tasks: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(id, image)| json!({"id": id, "data": {"image": image, "text": "x"}, "annotations": []}))
        .collect();
    json!({"tasks": tasks, "label_config": configuration, "project": "1.2", "model_version": null, "params": {}})
}

#[tokio::test]
async fn label_studio_finds_a_backend() {
    let app = App::start().await;
    assert_eq!(
        app.get("/health").await.ok(),
        json!({"status": "UP", "model_class": "MaskCLIP"})
    );
    let setup = json!({"project": "1.2", "schema": BRUSH, "hostname": "http://localhost:8080", "access_token": "x",
        "extra_params": null});
    assert_eq!(
        app.send(post_json("/setup", &setup)).await.ok(),
        json!({"model_version": "colours"})
    );
    let event = json!({"action": "START_TRAINING", "project": {"id": 1}});
    assert_eq!(
        app.send(post_json("/webhook", &event)).await.ok(),
        json!({"status": "ok"})
    );
}

#[tokio::test]
async fn labels_get_brush_strokes() {
    let app = App::start().await;
    let body = prediction(BRUSH, &[&data_uri()]);
    let reply = app.send(post_json("/predict", &body)).await.ok();
    assert_eq!(reply["model_version"], "colours");
    let regions = reply["results"][0]["result"].as_array().unwrap();
    assert_eq!(regions.len(), 2);
    for (region, label) in regions.iter().zip(["red", "blue"]) {
        assert_eq!(region["type"], "brushlabels");
        assert_eq!(
            (&region["from_name"], &region["to_name"]),
            (&json!("masks"), &json!("photo"))
        );
        assert_eq!(
            (&region["original_width"], &region["original_height"]),
            (&json!(16), &json!(8))
        );
        assert_eq!(region["value"]["brushlabels"], json!([label]));
        assert_eq!(region["value"]["format"], "rle");
        assert_eq!(
            region["value"]["rle"].as_array().unwrap()[..4],
            [json!(0), json!(0), json!(2), json!(0)]
        );
    }
    assert_ne!(regions[0]["id"], regions[1]["id"]);
    let score = reply["results"][0]["score"].as_f64().unwrap();
    assert!(score > 0.5 && score <= 1.0, "{score}");
}

#[tokio::test]
async fn labels_get_a_polygon_for_each_region_in_percent() {
    let app = App::start().await;
    let body = prediction(OUTLINES, &[&data_uri()]);
    let reply = app.send(post_json("/predict", &body)).await.ok();
    let regions = reply["results"][0]["result"].as_array().unwrap();
    let polygon = |left: f64, label: &str| {
        let right = left + 50.0;
        let points = [[left, 0.0], [right, 0.0], [right, 100.0], [left, 100.0]];
        json!({"points": points, "closed": true, "polygonlabels": [label]})
    };
    let values: Vec<_> = regions.iter().map(|region| &region["value"]).collect();
    assert_eq!(values, [&polygon(0.0, "red"), &polygon(50.0, "blue")]);
    assert!(
        regions
            .iter()
            .all(|region| region["type"] == "polygonlabels" && region["from_name"] == "outlines")
    );
}

#[tokio::test]
async fn labels_get_rectangles_in_percent() {
    let app = App::start().await;
    let body = prediction(BOXES, &[&data_uri(), &data_uri()]);
    let reply = app.send(post_json("/predict", &body)).await.ok();
    assert_eq!(reply["results"].as_array().unwrap().len(), 2);
    for result in reply["results"].as_array().unwrap() {
        let values: Vec<_> = result["result"]
            .as_array()
            .unwrap()
            .iter()
            .map(|region| &region["value"])
            .collect();
        let rectangle = |x: f64, label: &str| json!({"x": x, "y": 0.0, "width": 50.0, "height": 100.0, "rotation": 0, "rectanglelabels": [label]});
        assert_eq!(values, [&rectangle(0.0, "red"), &rectangle(50.0, "blue")]);
    }
}

#[tokio::test]
async fn uploaded_files_are_read_where_the_settings_say_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("1")).unwrap();
    std::fs::write(folder.path().join("1/a b.png"), red_and_blue()).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("1/link.png")).unwrap();
    let uploads = folder.path().to_owned();
    let app = App::start_with(|config| config.server.label_studio_uploads = Some(uploads)).await;
    let predict = async |image: &str| app.send(post_json("/predict", &prediction(BOXES, &[image]))).await;
    let reply = predict("/data/upload/1/a%20b.png").await.ok();
    assert_eq!(reply["results"][0]["result"].as_array().unwrap().len(), 2);
    for (path, told) in [
        ("/data/upload/1/none.png", "cannot be read"),
        ("/data/upload/1/link.png", "not in the folder of uploads"),
        ("/data/upload/../secret.png", "is an address"),
    ] {
        let reply = predict(path).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}");
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(told), "{detail}");
    }
}

#[tokio::test]
async fn what_cannot_be_labelled_is_said() {
    let app = App::start().await;
    let uri = data_uri();
    let predict = async |configuration: &str, images: &[&str]| {
        let reply = app
            .send(post_json("/predict", &prediction(configuration, images)))
            .await;
        let problem = reply.json();
        (
            reply.status.as_u16(),
            problem["path"].clone(),
            problem["detail"].as_str().unwrap().to_owned(),
        )
    };
    let (status, path, detail) = predict(BRUSH, &[&uri, "https://example.org/a.png"]).await;
    assert_eq!((status, path), (400, json!("tasks[1].data.image")));
    assert!(detail.contains("addresses are not fetched"), "{detail}");
    let (status, _, detail) = predict(BRUSH, &["/data/upload/1/a.png"]).await;
    assert_eq!(status, 400);
    assert!(detail.contains("server.label_studio_uploads does not say"), "{detail}");
    let (status, path, detail) = predict("<View/>", &[&uri]).await;
    assert_eq!((status, path), (422, json!("label_config")));
    assert!(detail.contains("none of BrushLabels, PolygonLabels and"), "{detail}");
    let missing = json!({"tasks": [{"data": {}}], "label_config": BRUSH});
    assert_eq!(
        app.send(post_json("/predict", &missing)).await.json()["path"],
        "tasks[0].data.image"
    );
    let setup = json!({"schema": "<View><Text name='t' value='$t'/></View>"});
    let refused = app.send(post_json("/setup", &setup)).await;
    assert_eq!(
        (refused.status, &refused.json()["path"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("schema"))
    );
}

/// A configuration with so many controls of one image, which comes last.
fn controls(count: usize) -> String {
    let controls = (0..count).map(|number| {
        format!("<BrushLabels name='{number}' toName='photo'><Label value='red'/><Label value='blue'/></BrushLabels>")
    });
    let controls: String = controls.collect();
    format!("<View>{controls}<Image name='photo' value='$image'/></View>")
}

#[tokio::test]
async fn a_request_has_as_many_images_to_label_as_a_batch_may_have() {
    let app = App::start_with(|config| config.limits.max_batch_images = 4).await;
    let uri = data_uri();
    let predict = async |controls_of_each: usize, tasks: usize| {
        let body = prediction(&controls(controls_of_each), &vec![uri.as_str(); tasks]);
        app.send(post_json("/predict", &body)).await
    };
    for (controls, tasks) in [(1, 4), (2, 2), (4, 1)] {
        let reply = predict(controls, tasks).await.ok();
        let results = reply["results"].as_array().unwrap();
        assert_eq!(results.len(), tasks);
        for result in results {
            assert_eq!(result["result"].as_array().unwrap().len(), 2 * controls);
        }
    }
    let looks = app.control.looks();
    let limit = json!({"name": "limits.max_batch_images", "value": 4});
    let refused = predict(1, 5).await;
    refused.assert_problem(&json!({
        "type": "/problems/invalid-request", "title": "The request is invalid", "status": 422, "instance": "test-1",
        "detail": "the tasks and the controls of their configuration make 5 images to label, more than \
            limits.max_batch_images = 4",
        "path": "tasks", "limit": limit,
    }));
    assert_eq!(predict(2, 3).await.json()["path"], "tasks");
    let setup = app.send(post_json("/setup", &json!({"schema": controls(5)}))).await;
    for (refused, path) in [(predict(5, 1).await, "label_config"), (setup, "schema")] {
        let problem = refused.json();
        assert_eq!(
            (&problem["path"], &problem["limit"]),
            (&json!(path), &limit),
            "{problem}"
        );
    }
    assert_eq!(app.control.looks(), looks, "nothing was labelled");
}

#[tokio::test]
async fn each_image_counts_as_a_request_of_the_key() {
    let app = App::start_with(|config| {
        let slow = KeyEntry {
            requests_per_second: Some(0.01),
            ..entry("slow", &[Scope::Use])
        };
        let fast = KeyEntry {
            requests_per_second: Some(4.0),
            in_flight: Some(1),
            ..entry("fast", &[Scope::Use])
        };
        config.access.keys = vec![slow, fast];
    })
    .await;
    let uri = data_uri();
    let predict = async |name: &str, tasks: usize| {
        let body = prediction(BRUSH, &vec![uri.as_str(); tasks]);
        app.send(by(name, post_json("/predict", &body))).await
    };
    // The second image would be in time after 100 seconds, and waits for 30 at most.
    let refused = predict("slow", 2).await;
    assert_eq!(
        (refused.status, &refused.json()["type"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("/problems/quota"))
    );
    // Four images are in time at once, and each of the others a quarter of a second later.
    let begin = Instant::now();
    predict("fast", 6).await.ok();
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_too_long_is_422() {
    let app = App::start_with(|config| config.limits.max_label_config_bytes = 100).await;
    let schema = format!("<View {}/>", "a='b' ".repeat(20));
    for (request, path) in [
        (post_json("/setup", &json!({"schema": schema})), "schema"),
        (
            post_json("/predict", &json!({"tasks": [], "label_config": schema})),
            "label_config",
        ),
    ] {
        let reply = app.send(request).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        let problem = reply.json();
        assert_eq!(
            (&problem["path"], &problem["limit"]),
            (
                &json!(path),
                &json!({"name": "limits.max_label_config_bytes", "value": 100})
            )
        );
    }
}
