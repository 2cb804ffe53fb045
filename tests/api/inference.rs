//! `/v2`: the Open Inference Protocol.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maskclip::engine::Readiness;
use serde_json::{Value, json};

use crate::fake::Control;
use crate::support::{App, post_json, red_and_blue, request};

const INFER: &str = "/v2/models/colours/infer";

fn image() -> Value {
    json!({"name": "image", "shape": [1], "datatype": "BYTES", "data": [BASE64_STANDARD.encode(red_and_blue())]})
}

fn classes() -> Value {
    json!({"name": "classes", "shape": [2], "datatype": "BYTES", "data": ["blue", "red"]})
}

/// A request whose tensors follow its JSON.
fn binary(header: &Value, rest: &[u8]) -> Request<Body> {
    let header = header.to_string();
    let length = header.len();
    let body: Vec<u8> = header.bytes().chain(rest.iter().copied()).collect();
    request(Method::POST, INFER)
        .header("inference-header-content-length", length)
        .header("content-type", "application/octet-stream")
        .body(body.into())
        .unwrap()
}

/// The labels of `red_and_blue` with the classes blue and red.
fn expected_labels() -> Vec<u16> {
    (0..16 * 8).map(|pixel| if pixel % 16 < 8 { 1 } else { 0 }).collect()
}

#[tokio::test]
async fn server_and_models_are_described() {
    let app = App::start().await;
    let server = app.get("/v2").await.ok();
    assert_eq!(server["extensions"], json!(["binary_tensor_data", "model_repository"]));
    assert_eq!(app.get("/v2/health/live").await.ok(), json!({"live": true}));
    assert_eq!(app.get("/v2/health/ready").await.ok(), json!({"ready": true}));
    for path in ["/v2/models/colours", "/v2/models/colours/versions/1"] {
        let model = app.get(path).await.ok();
        assert_eq!((&model["name"], &model["versions"]), (&json!("colours"), &json!(["1"])));
        let names = |of: &str| -> Vec<Value> {
            model[of]
                .as_array()
                .unwrap()
                .iter()
                .map(|tensor| tensor["name"].clone())
                .collect()
        };
        assert_eq!(names("inputs"), [json!("image"), json!("pixels"), json!("classes")]);
        assert_eq!(
            names("outputs"),
            [json!("label_map"), json!("scores"), json!("classes")]
        );
        assert_eq!(app.get(&format!("{path}/ready")).await.ok(), json!({"ready": true}));
    }
    let index = app
        .send(
            request(Method::POST, "/v2/repository/index")
                .body(Body::empty())
                .unwrap(),
        )
        .await
        .ok();
    assert_eq!(
        index,
        json!([{"name": "colours", "version": "1", "state": "READY", "reason": ""}])
    );
}

#[tokio::test]
async fn what_is_not_ready_says_so() {
    let control = Control::default();
    let load = control.hold_load();
    let app = App::launch(control, |_| ());
    for path in ["/v2/health/ready", "/v2/models/colours/ready"] {
        let reply = app.get(path).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(reply.json()["error"].is_string());
    }
    drop(load);
    app.until(Readiness::Ready).await;
    assert_eq!(app.get("/v2/models/colours/ready").await.status, StatusCode::OK);
}

#[tokio::test]
async fn json_in_and_json_out() {
    let app = App::start().await;
    let body = json!({"id": "7", "inputs": [image(), classes()]});
    let reply = app.send(post_json(INFER, &body)).await;
    assert!(!reply.headers.contains_key("inference-header-content-length"));
    let reply = reply.ok();
    assert_eq!(
        (&reply["model_name"], &reply["model_version"], &reply["id"]),
        (&json!("colours"), &json!("1"), &json!("7"))
    );
    let tensor = |place: usize, name: &str, datatype: &str, shape: Value| {
        let output = &reply["outputs"][place];
        assert_eq!(
            (&output["name"], &output["datatype"], &output["shape"]),
            (&json!(name), &json!(datatype), &shape)
        );
        output["data"].clone()
    };
    assert_eq!(
        tensor(0, "label_map", "UINT16", json!([8, 16])),
        json!(expected_labels())
    );
    let scores = tensor(1, "scores", "FP32", json!([2]));
    assert!(
        scores
            .as_array()
            .unwrap()
            .iter()
            .all(|score| score.as_f64().unwrap() > 0.9),
        "{scores}"
    );
    assert_eq!(tensor(2, "classes", "BYTES", json!([2])), json!(["blue", "red"]));
}

#[tokio::test]
async fn bytes_in_and_bytes_out() {
    let app = App::start().await;
    let file = red_and_blue();
    let mut rest = (file.len() as u32).to_le_bytes().to_vec();
    rest.extend(&file);
    let image_bytes = rest.len();
    rest.extend(b"\x04\0\0\0blue\x03\0\0\0red");
    let header = json!({
        "inputs": [
            {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": image_bytes}},
            {"name": "classes", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 15}},
        ],
        "parameters": {"binary_data_output": true},
    });
    let reply = app.send(binary(&header, &rest)).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    let length: usize = reply.header("inference-header-content-length").parse().unwrap();
    let (head, tensors) = reply.body.split_at(length);
    let head: Value = serde_json::from_slice(head).unwrap();
    let sizes: Vec<u64> = head["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|output| output["parameters"]["binary_data_size"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, [2 * 16 * 8, 4 * 2, 4 + 4 + 4 + 3]);
    let labels: Vec<u16> = tensors[..256]
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    assert_eq!(labels, expected_labels());
    assert_eq!(tensors[264..], b"\x04\0\0\0blue\x03\0\0\0red"[..]);
}

#[tokio::test]
async fn pixels_need_no_file_and_outputs_can_be_chosen() {
    let app = App::start().await;
    let pixels: Vec<u8> = (0..16 * 8)
        .flat_map(|pixel| if pixel % 16 < 8 { [255, 0, 0] } else { [0, 0, 255] })
        .collect();
    let header = json!({
        "inputs": [
            {"name": "pixels", "shape": [8, 16, 3], "datatype": "UINT8", "parameters": {"binary_data_size": pixels.len()}},
            classes(),
        ],
        "outputs": [{"name": "label_map", "parameters": {"binary_data": false}}],
    });
    let reply = app.send(binary(&header, &pixels)).await.ok();
    assert_eq!(reply["outputs"].as_array().unwrap().len(), 1);
    assert_eq!(reply["outputs"][0]["data"], json!(expected_labels()));
}

#[tokio::test]
async fn parameters_are_fields_of_a_request_to_segment() {
    let app = App::start().await;
    let parameters = json!({"background": true, "attention": "clip", "short_side": 12, "timeout": 5_000_000});
    let body = json!({"inputs": [image(), classes()], "parameters": parameters});
    app.send(post_json("/v2/models/colours/versions/1/infer", &body))
        .await
        .ok();
    let asked = app.control.asked();
    assert_eq!(asked.options.features.attention, maskclip::dense::Attention::Clip);
    assert_eq!(asked.sizes, [(24, 12)]);
    // None of the classes is at the pixels of a class that is not there.
    let unlabelled = json!({"inputs": [image(), {"name": "classes", "shape": [1], "datatype": "BYTES", "data": ["red"]}],
        "parameters": {"background": true}, "outputs": [{"name": "label_map"}]});
    let labels = app.send(post_json(INFER, &unlabelled)).await.ok()["outputs"][0]["data"].clone();
    assert!(
        labels
            .as_array()
            .unwrap()
            .iter()
            .all(|label| *label == 0 || *label == 65_535),
        "{labels}"
    );
}

#[tokio::test]
async fn errors_are_texts() {
    let app = App::start().await;
    let with = |change: Value| {
        let mut body = json!({"inputs": [image(), classes()]});
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        post_json(INFER, &body)
    };
    let tensor = |name: &str, datatype: &str, shape: Value, data: Value| json!({"name": name, "datatype": datatype, "shape": shape, "data": data});
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    let get = |path: &str| request(Method::GET, path).body(Body::empty()).unwrap();
    for (request, status, told) in [
        (
            get("/v2/models/none"),
            StatusCode::NOT_FOUND,
            "no model is called \"none\"; there is colours",
        ),
        (get("/v2/models/colours/versions/2"), StatusCode::NOT_FOUND, "version"),
        (
            post_json("/v2/models/none/infer", &json!({"inputs": []})),
            StatusCode::NOT_FOUND,
            "no model is called",
        ),
        (
            with(json!({"inputs": [classes()]})),
            unprocessable,
            "one of image and pixels is required",
        ),
        (
            with(json!({"inputs": [image()]})),
            unprocessable,
            "one of classes, vocabulary and protocol is required",
        ),
        (
            with(json!({"inputs": [image(), image()]})),
            unprocessable,
            "a request is about one image",
        ),
        (
            with(json!({"inputs": [tensor("mask", "UINT8", json!([1]), json!([1]))]})),
            unprocessable,
            "there is no such input",
        ),
        (
            with(json!({"inputs": [tensor("pixels", "UINT8", json!([3]), json!([1, 2, 3]))]})),
            unprocessable,
            "[height, width, 3]",
        ),
        (
            with(json!({"parameters": {"colour": 1}})),
            unprocessable,
            "there is no field parameters.colour; there are",
        ),
        (
            with(json!({"parameters": {"image": "x"}})),
            unprocessable,
            "it is no parameter here",
        ),
        (
            with(json!({"outputs": [{"name": "mask"}]})),
            unprocessable,
            "must be one of label_map, scores, classes, not \"mask\"",
        ),
        (
            with(json!({"outputs": [{"name": "label_map"}, {"name": "label_map"}]})),
            unprocessable,
            "comes twice",
        ),
        (
            binary(&json!({"inputs": [image(), classes()]}), b"x"),
            StatusCode::BAD_REQUEST,
            "more bytes follow",
        ),
    ] {
        let reply = app.send(request).await;
        assert_eq!(reply.status, status, "{told}: {:?}", reply.body);
        assert_eq!(reply.header("content-type"), "application/json");
        let error = reply.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(told), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_served_of_the_protocol_is_404_in_its_form() {
    let app = App::start().await;
    for path in [
        "/v2/models/colours/config",
        "/v2/repository/models/colours/load",
        "/v2/none",
    ] {
        let reply = app.get(path).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        let error = reply.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains("nothing is served at"), "{path}: {error}");
    }
}
