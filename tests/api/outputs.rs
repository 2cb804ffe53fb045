//! What a reply of `POST /v1/segment` can bring beside one label map: further forms of it, and probability maps.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::{App, REQUEST_ID, with_image};

/// Returns colour type, bit depth and samples of a PNG in base64.
fn read_png(data: &Value) -> (png::ColorType, png::BitDepth, Vec<u8>) {
    let file = BASE64_STANDARD.decode(data.as_str().unwrap()).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut samples = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut samples).unwrap();
    (reader.info().color_type, reader.info().bit_depth, samples)
}

/// Returns 16 x 8 bytes, the left half with one value and the right half with another.
fn halves(left: u8, right: u8) -> Vec<u8> {
    [[left; 8], [right; 8]].concat().repeat(8)
}

#[tokio::test]
async fn one_reply_brings_several_forms_of_the_label_map() {
    let app = App::start().await;
    let classes = json!(["red", "blue"]);
    let alone = async |form: &str| {
        let body = with_image(json!({"classes": classes, "output": {"label_map": form}}));
        let reply = app.segment(&body).await.ok();
        assert_eq!(reply["label_maps"], Value::Null);
        reply["label_map"].clone()
    };
    let output = json!({"label_map": "coco-rle", "label_maps": ["png-grey", "raw", "png"]});
    let reply = app
        .segment(&with_image(json!({"classes": classes, "output": output})))
        .await
        .ok();
    assert_eq!(reply["label_map"], alone("coco-rle").await);
    let further = [alone("png-grey").await, alone("raw").await, alone("png").await];
    assert_eq!(reply["label_maps"], json!(further));
}

#[tokio::test]
async fn grey_values_are_class_ids_and_the_unlabelled_value_is_the_requests() {
    let app = App::start().await;
    for (unlabelled, value) in [(json!(null), 255), (json!(7), 7)] {
        let output = json!({"label_map": "png-grey", "unlabelled": unlabelled});
        let body = with_image(json!({"classes": ["green", "red"], "background": ["blue"], "output": output}));
        let reply = app.segment(&body).await.ok();
        assert_eq!(reply["label_map"]["format"], "png-grey");
        let grey = (png::ColorType::Grayscale, png::BitDepth::Eight, halves(1, value));
        assert_eq!(read_png(&reply["label_map"]["data"]), grey);
    }
}

#[tokio::test]
async fn a_form_twice_or_none_is_refused_with_its_place() {
    let app = App::start().await;
    for (forms, path) in [
        (json!(["png", "raw", "png"]), "output.label_maps[2]"),
        (json!(["none"]), "output.label_maps[0]"),
        (json!(["gif"]), "output.label_maps[0]"),
    ] {
        let body = with_image(json!({"classes": ["red"], "output": {"label_maps": forms}}));
        let reply = app.segment(&body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{forms}");
        assert_eq!(reply.json()["path"], path);
    }
}

#[tokio::test]
async fn probability_maps_are_those_of_the_classes_asked_for_in_the_order_of_their_ids() {
    let app = App::start().await;
    let classes = json!(["red", {"name": "blue", "synonyms": ["azure"]}, "green"]);
    let maps = async |wanted: Value| {
        let output = json!({"probability_maps": wanted});
        let body = with_image(json!({"classes": classes, "synonyms": "max", "output": output}));
        app.segment(&body).await.ok()["probability_maps"].take()
    };
    let of = |map: &Value| {
        let (color, depth, samples) = read_png(&map["data"]);
        assert_eq!((color, depth), (png::ColorType::Grayscale, png::BitDepth::Eight));
        assert_eq!(map["format"], "png");
        (map["class_id"].clone(), map["name"].clone(), samples)
    };
    let red = (json!(0), json!("red"), halves(255, 0));
    let blue = (json!(1), json!("blue"), halves(0, 255));
    let green = (json!(2), json!("green"), halves(0, 0));
    let all = maps(json!("all")).await;
    assert_eq!(
        all.as_array().unwrap().iter().map(of).collect::<Vec<_>>(),
        [red.clone(), blue.clone(), green]
    );
    // A class is found by a synonym, too, and comes once.
    let named = maps(json!(["azure", "red", " blue"])).await;
    assert_eq!(
        named.as_array().unwrap().iter().map(of).collect::<Vec<_>>(),
        [red, blue]
    );
    assert_eq!(maps(json!([])).await, Value::Null);
    assert_eq!(maps(json!(null)).await, Value::Null);
}

/// At temperature 0.001 both classes have probability one half everywhere, and the threshold leaves all pixels unlabelled.
#[tokio::test]
async fn a_probability_does_not_depend_on_who_wins_nor_on_the_threshold() {
    let app = App::start().await;
    let body = with_image(json!({
        "classes": ["red", "blue"], "temperature": 0.001, "background": {"names": [], "threshold": 0.6},
        "output": {"label_map": "png-grey", "probability_maps": ["blue"]},
    }));
    let reply = app.segment(&body).await.ok();
    assert_eq!(read_png(&reply["label_map"]["data"]).2, halves(255, 255));
    let values = read_png(&reply["probability_maps"][0]["data"]).2;
    assert!(values.iter().all(|value| (127..=128).contains(value)), "{values:?}");
}

#[tokio::test]
async fn a_probability_map_of_what_is_no_class_is_422_with_its_place() {
    let app = App::start().await;
    let body = with_image(json!({"classes": ["red"], "output": {"probability_maps": ["red", "dgo"]}}));
    app.segment(&body).await.assert_problem(&json!({
        "type": "/problems/invalid-request",
        "title": "The request is invalid",
        "status": 422,
        "detail": "\"dgo\" is none of the classes",
        "instance": REQUEST_ID,
        "path": "output.probability_maps[1]",
    }));
}

#[tokio::test]
async fn the_bytes_of_probability_maps_have_a_limit() {
    let app = App::start_with(|config| config.limits.input.max_probability_bytes = 2 * 16 * 8).await;
    let body = |wanted: Value| {
        with_image(json!({"classes": ["red", "green", "blue"], "output": {"probability_maps": wanted}}))
    };
    app.segment(&body(json!(["red", "blue"]))).await.ok();
    app.segment(&body(json!("all"))).await.assert_problem(&json!({
        "type": "/problems/invalid-request",
        "title": "The request is invalid",
        "status": 422,
        "detail": "3 probability maps of 128 pixels take 384 bytes, more than limits.max_probability_bytes = 256; fewer classes \
                   or a smaller image take less",
        "instance": REQUEST_ID,
        "path": "output.probability_maps",
        "limit": {"name": "limits.max_probability_bytes", "value": 256},
    }));
}
