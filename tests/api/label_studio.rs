//! Label Studio's machine learning backend.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

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
    assert_eq!(
        app.send(post_json("/setup", &setup)).await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}
