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
    let forms = ["png-grey", "raw", "panoptic", "png", "polygons"];
    let output = json!({"label_map": "coco-rle", "label_maps": forms});
    let reply = app
        .segment(&with_image(json!({"classes": classes, "output": output})))
        .await
        .ok();
    assert_eq!(reply["label_map"], alone("coco-rle").await);
    for (further, form) in reply["label_maps"].as_array().unwrap().iter().zip(forms) {
        assert_eq!(further["format"], form);
        assert_eq!(*further, alone(form).await);
    }
    assert_eq!(reply["label_maps"].as_array().unwrap().len(), forms.len());
}

/// Returns the fields of a request about a red picture of 12 x 12 pixels with a blue cell in its middle. The label map has
/// a hole of 12 pixels there, a square without its corners.
fn with_hole(fields: Value) -> Value {
    let colour = |x: u32, y: u32| match (4..8).contains(&x) && (4..8).contains(&y) {
        true => image::Rgb([0, 0, 255]),
        false => image::Rgb([255, 0, 0]),
    };
    let mut file = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_fn(12, 12, colour);
    picture.write_to(&mut file, image::ImageFormat::Png).unwrap();
    let mut body = json!({"image": BASE64_STANDARD.encode(file.into_inner()), "short_side": 12});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn polygons_are_annotations_of_coco_and_reach_a_hole_by_a_cut() {
    let app = App::start().await;
    let body = with_hole(json!({"classes": ["green", "red", "blue"], "output": {"label_map": "polygons"}}));
    let reply = app.segment(&body).await.ok();
    let red = json!({
        "class_id": 1, "category_id": 2, "area": 132, "bbox": [0, 0, 12, 12], "iscrowd": 0,
        "segmentation": [[
            0, 0, 12, 0, 12, 12, 0, 12, 0, 5,
            4, 5, 4, 7, 5, 7, 5, 8, 7, 8, 7, 7, 8, 7, 8, 5, 7, 5, 7, 4, 5, 4, 5, 5,
            4, 5, 0, 5,
        ]],
    });
    let blue = json!({
        "class_id": 2, "category_id": 3, "area": 12, "bbox": [4, 4, 4, 4], "iscrowd": 0,
        "segmentation": [[4, 5, 5, 5, 5, 4, 7, 4, 7, 5, 8, 5, 8, 7, 7, 7, 7, 8, 5, 8, 5, 7, 4, 7]],
    });
    assert_eq!(reply["label_map"], json!({"format": "polygons", "data": [red, blue]}));
}

#[tokio::test]
async fn a_panoptic_reply_has_a_segment_for_each_class_and_a_png_of_their_ids() {
    let app = App::start().await;
    let output = json!({"label_map": "panoptic", "unlabelled": 9});
    let body = with_hole(json!({"classes": ["green", "red"], "background": ["blue"], "output": output}));
    let mut reply = app.segment(&body).await.ok();
    let png = reply["label_map"]["data"]["png"].take();
    let segments = json!([
        {"id": 2, "category_id": 2, "class_id": 1, "area": 132, "bbox": [0, 0, 12, 12], "iscrowd": 0},
    ]);
    assert_eq!(
        reply["label_map"],
        json!({"format": "panoptic", "data": {"png": null, "segments_info": segments}})
    );
    let around = [[2, 0, 0]; 12];
    let within = |columns: std::ops::Range<usize>| {
        let mut row = around;
        row[columns].fill([0, 0, 0]);
        row
    };
    let rows = [
        [around; 4],
        [within(5..7), within(4..8), within(4..8), within(5..7)],
        [around; 4],
    ];
    let rgb = (
        png::ColorType::Rgb,
        png::BitDepth::Eight,
        rows.concat().concat().concat(),
    );
    assert_eq!(read_png(&png), rgb);
}

#[tokio::test]
async fn the_corners_of_polygons_have_a_limit() {
    // Four and twelve corners, three for the cut, and twelve of the other class.
    let app = App::start_with(|config| config.limits.input.max_polygon_corners = 31).await;
    let body = |output: Value| with_hole(json!({"classes": ["red", "blue"], "output": output}));
    app.segment(&body(json!({"label_map": "polygons"}))).await.ok();
    let app = App::start_with(|config| config.limits.input.max_polygon_corners = 30).await;
    app.segment(&body(json!({"label_maps": ["coco-rle", "panoptic"]})))
        .await
        .ok();
    let refused = json!({
        "type": "/problems/invalid-request",
        "title": "The request is invalid",
        "status": 422,
        "detail": "the polygons of the label map have more than limits.max_polygon_corners = 30 corners; run lengths \
                   (coco-rle) say the same in less",
        "instance": REQUEST_ID,
        "path": "output.label_map",
        "limit": {"name": "limits.max_polygon_corners", "value": 30},
    });
    for output in [json!({"label_map": "polygons"}), json!({"label_maps": ["polygons"]})] {
        app.segment(&body(output)).await.assert_problem(&refused);
    }
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
