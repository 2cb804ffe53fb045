//! `POST /v1/segment`: the reply in every format, and what a request may say.

use std::io::Cursor;

use axum::http::{StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::{App, Reply, multipart, red_and_blue, segment_json, segment_multipart, with_image};

#[tokio::test]
async fn the_whole_reply() {
    let app = App::start().await;
    let mut reply = app
        .segment(&with_image(
            json!({"classes": ["red", "green", "blue"], "background": false}),
        ))
        .await
        .ok();
    let timings = reply["timings"].take();
    let id = reply["vocabulary"]["id"].take();
    let data = reply["label_map"]["data"].take();
    assert_eq!(
        rounded(reply),
        json!({
            "model": "colours",
            "width": 16,
            "height": 8,
            "vocabulary": {"id": null, "embedded": 3, "total": 3},
            "classes": [
                {
                    "id": 0, "name": "red", "color": "#800000", "pixels": 64, "fraction": 0.5, "bbox": [0, 0, 8, 8],
                    "confidence": {"mean": 1.0, "max": 1.0}, "presence": 1.0, "similarity": 1.0,
                    "image_probability": 0.333,
                },
                {
                    "id": 1, "name": "green", "color": "#008000", "pixels": 0, "fraction": 0.0, "bbox": null,
                    "confidence": {"mean": null, "max": null}, "presence": 0.0, "similarity": 0.0,
                    "image_probability": 0.333,
                },
                {
                    "id": 2, "name": "blue", "color": "#808000", "pixels": 64, "fraction": 0.5, "bbox": [8, 0, 8, 8],
                    "confidence": {"mean": 1.0, "max": 1.0}, "presence": 1.0, "similarity": 1.0,
                    "image_probability": 0.333,
                },
            ],
            "label_map": {"format": "png", "data": null},
            "warnings": [],
            "features_cached": false,
            "timings": null,
        })
    );
    assert!(!id.as_str().unwrap().is_empty());
    let png = BASE64_STANDARD.decode(data.as_str().unwrap()).unwrap();
    assert_eq!(pixels(&png), half_and_half(0, 2));
    let stages = ["queue", "decode", "preprocess", "text", "model", "label_map", "encode"];
    assert_eq!(timings.as_object().unwrap().len(), stages.len());
    for stage in stages {
        assert!(
            timings[format!("{stage}_seconds")].as_f64().unwrap() >= 0.0,
            "{stage} in {timings}"
        );
    }
}

#[tokio::test]
async fn json_with_a_data_uri_and_multipart_say_the_same() {
    let app = App::start().await;
    let image = red_and_blue();
    let uri = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(&image));
    let from_json = app
        .segment(&json!({"image": uri, "classes": ["red", "blue"]}))
        .await
        .ok();
    let form = multipart(&[("request", br#"{"classes": ["red", "blue"]}"#), ("image", &image)]);
    let from_form = app.send(segment_multipart(form)).await.ok();
    for field in [
        "model",
        "width",
        "height",
        "vocabulary",
        "classes",
        "label_map",
        "warnings",
    ] {
        assert_eq!(from_json[field], from_form[field], "{field}");
    }
}

#[tokio::test]
async fn accept_image_png_gets_the_label_map_itself() {
    let app = App::start().await;
    let reply = post_for_png(&app, json!({"classes": ["red", "blue"], "background": false})).await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (StatusCode::OK, "image/png")
    );
    assert_eq!(pixels(&reply.body), half_and_half(0, 1));
    assert!(!reply.headers.contains_key("maskclip-warnings"));
}

#[tokio::test]
async fn accept_image_png_gets_grey_values_where_the_request_says_so() {
    let app = App::start().await;
    let body = json!({"classes": ["red", "blue"], "background": false, "output": {"label_map": "png-grey"}});
    let reply = post_for_png(&app, body).await;
    let file = std::io::Cursor::new(&reply.body[..]);
    let reader = png::Decoder::new(file).read_info().unwrap();
    assert_eq!(reader.info().color_type, png::ColorType::Grayscale);
    assert_eq!(pixels(&reply.body), half_and_half(0, 1));
}

#[tokio::test]
async fn warnings_travel_with_a_png_as_codes() {
    let app = App::start().await;
    let reply = post_for_png(&app, json!({"classes": ["red"]})).await;
    assert_eq!(reply.header("maskclip-warnings"), "single-class");
}

#[tokio::test]
async fn a_png_cannot_carry_another_form_or_a_second_map() {
    let app = App::start().await;
    for (output, path) in [
        (json!({"label_map": "coco-rle"}), "output.label_map"),
        (json!({"label_map": "none"}), "output.label_map"),
        (json!({"confidence_map": true}), "output.confidence_map"),
        (json!({"probability_maps": "all"}), "output.probability_maps"),
        (json!({"label_maps": ["raw"]}), "output.label_maps"),
        (json!({"legend": true}), "output.legend"),
    ] {
        let reply = post_for_png(&app, json!({"classes": ["red"], "output": output})).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.json()["path"], path);
    }
}

#[tokio::test]
async fn the_label_map_comes_in_the_form_that_was_asked_for() {
    let app = App::start().await;
    let label_map = async |form: &str| {
        let body = with_image(json!({"classes": ["red", "blue"], "output": {"label_map": form}}));
        app.segment(&body).await.ok()["label_map"].take()
    };
    assert_eq!(label_map("none").await, json!({"format": "none"}));
    let row = [[0; 8], [1; 8]].concat();
    assert_eq!(label_map("raw").await, json!({"format": "raw", "data": vec![row; 8]}));
    // In column-major order red covers the first 64 pixels and blue the last 64. COCO writes the number 64 as "P2".
    // Runs start with zeros, so red's first run is 0.
    assert_eq!(
        label_map("coco-rle").await,
        json!({"format": "coco-rle", "data": [
            {"class_id": 0, "size": [8, 16], "counts": "0P2P2"},
            {"class_id": 1, "size": [8, 16], "counts": "P2P2"},
        ]})
    );
}

#[tokio::test]
async fn the_confidence_map_comes_when_asked_for() {
    let app = App::start().await;
    let body = with_image(json!({"classes": ["red", "blue"], "output": {"confidence_map": true}}));
    let reply = app.segment(&body).await.ok();
    let png = BASE64_STANDARD
        .decode(reply["confidence_map"]["data"].as_str().unwrap())
        .unwrap();
    assert_eq!(pixels(&png), vec![255; 16 * 8]);
}

#[tokio::test]
async fn background_names_take_their_pixels_from_the_classes() {
    let app = App::start().await;
    for background in [json!(["blue"]), json!({"names": ["blue"]})] {
        let reply = post_for_png(&app, json!({"classes": ["red", "green"], "background": background})).await;
        assert_eq!(pixels(&reply.body), half_and_half(0, 255), "{background}");
    }
}

#[tokio::test]
async fn background_true_is_the_configured_list_and_false_is_none() {
    let app = App::start_with(|config| config.vocabulary.background = vec!["blue".to_owned()]).await;
    for (background, taken) in [
        (json!(true), true),
        (json!({}), true),
        (json!({"names": []}), false),
        (json!(false), false),
        (json!(null), false),
    ] {
        let reply = post_for_png(&app, json!({"classes": ["red", "green"], "background": background})).await;
        assert_eq!(pixels(&reply.body)[8..].contains(&255), taken, "{background}");
    }
}

#[tokio::test]
async fn an_unlikely_pixel_is_background_below_the_threshold() {
    let app = App::start().await;
    // At temperature 0.001 both classes have probability one half everywhere.
    let likely = |threshold: f32| {
        let background = json!({"names": [], "threshold": threshold});
        json!({"classes": ["red", "blue"], "temperature": 0.001, "background": background})
    };
    assert_eq!(pixels(&post_for_png(&app, likely(0.4)).await.body), half_and_half(0, 1));
    assert_eq!(
        pixels(&post_for_png(&app, likely(0.6)).await.body),
        half_and_half(255, 255)
    );
}

#[tokio::test]
async fn every_option_is_taken() {
    let app = App::start().await;
    for options in [
        json!({"model": "colours"}),
        json!({"templates": "simple"}),
        json!({"attention": "clip"}),
        json!({"prompt_denoising": 0}),
        json!({"prompt_denoising": 1}),
        json!({"key_smoothing": "none"}),
        json!({"key_smoothing": "formula"}),
        json!({"key_smoothing": "reference"}),
        json!({"key_smoothing": "likeness"}),
        json!({"key_smoothing": {"method": "reference", "threshold": 0.9}}),
        json!({"short_side": 16}),
        json!({"temperature": 40}),
        json!({"deadline_seconds": 300}),
    ] {
        let mut body = with_image(json!({"classes": ["red", {"name": "blue", "synonyms": ["azure"]}]}));
        body.as_object_mut()
            .unwrap()
            .extend(options.as_object().unwrap().clone());
        let reply = app.segment(&body).await;
        assert_eq!(reply.status, StatusCode::OK, "{options}: {:?}", reply.body);
    }
}

#[tokio::test]
async fn a_value_out_of_its_range_is_422_with_path_and_limit() {
    let app = App::start_with(|config| config.limits.input.max_short_side = 448).await;
    let short_side = json!({"name": "limits.max_short_side", "value": 448});
    let deadline = json!({"name": "engine.max_deadline_seconds", "value": 300.0});
    let none = Value::Null;
    for (fields, path, detail, limit) in [
        (
            json!({"temperature": 0}),
            "temperature",
            "temperature must be above 0 and at most 1000, not 0",
            &none,
        ),
        (
            json!({"temperature": 1e39}),
            "temperature",
            "temperature must be above 0 and at most 1000, not inf",
            &none,
        ),
        (
            json!({"prompt_denoising": 1.5}),
            "prompt_denoising",
            "prompt_denoising must be 0 to 1, not 1.5",
            &none,
        ),
        (
            json!({"key_smoothing": {"method": "reference", "threshold": -1}}),
            "key_smoothing.threshold",
            "key_smoothing.threshold must be 0 to 1, not -1",
            &none,
        ),
        (
            json!({"key_smoothing": {"method": "formula", "threshold": 0.5}}),
            "key_smoothing.threshold",
            "only the method reference has a threshold",
            &none,
        ),
        (
            json!({"background": {"threshold": 2}}),
            "background.threshold",
            "background.threshold must be 0 to 1, not 2",
            &none,
        ),
        (
            json!({"short_side": 0}),
            "short_side",
            "short_side must be 1 to limits.max_short_side = 448 pixels, not 0",
            &none,
        ),
        (
            json!({"short_side": 449}),
            "short_side",
            "short_side must be 1 to limits.max_short_side = 448 pixels, not 449",
            &short_side,
        ),
        (
            json!({"deadline_seconds": 0}),
            "deadline_seconds",
            "deadline_seconds must be above 0 and at most engine.max_deadline_seconds = 300, not 0",
            &none,
        ),
        (
            json!({"deadline_seconds": 300.5}),
            "deadline_seconds",
            "deadline_seconds must be above 0 and at most engine.max_deadline_seconds = 300, not 300.5",
            &deadline,
        ),
    ] {
        let mut body = with_image(json!({"classes": ["red"]}));
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let problem = app.segment(&body).await.json();
        assert_eq!(problem["type"], "/problems/invalid-request", "{fields}");
        assert_eq!(problem["path"], path, "{fields}");
        assert_eq!(problem["detail"], detail, "{fields}");
        assert_eq!(&problem["limit"], limit, "{fields}");
    }
}

#[tokio::test]
async fn what_has_the_wrong_shape_is_422_with_its_path() {
    let app = App::start().await;
    for (fields, path, said) in [
        (
            json!({"clases": []}),
            "clases",
            "there is no field clases; there are image, ",
        ),
        (
            json!({"classes": "red"}),
            "classes",
            "classes must be a list, not \"red\"",
        ),
        (
            json!({"classes": [7]}),
            "classes[0]",
            "classes[0] must be a name or an object with name and synonyms, not 7",
        ),
        (
            json!({"classes": [{"synonyms": []}]}),
            "classes[0].name",
            "classes[0].name is missing",
        ),
        (
            json!({"classes": [{"name": 7}]}),
            "classes[0].name",
            "classes[0].name must be a string, not 7",
        ),
        (
            json!({"background": 1}),
            "background",
            "background must be true, false, a list of names or an object with names, threshold and area, not 1",
        ),
        (
            json!({"background": ["sky", 1]}),
            "background[1]",
            "background[1] must be a string, not 1",
        ),
        (
            json!({"background": {"thresh": 1}}),
            "background.thresh",
            "there is no field background.thresh; there are names, threshold, area",
        ),
        (
            json!({"templates": "some"}),
            "templates",
            "templates must be one of maskclip-85, imagenet-80, simple, none, not \"some\"",
        ),
        (
            json!({"templates": 3}),
            "templates",
            "templates must be one of maskclip-85, imagenet-80, simple, none, not 3",
        ),
        (
            json!({"key_smoothing": "some"}),
            "key_smoothing",
            "key_smoothing must be one of none, ",
        ),
        (
            json!({"key_smoothing": {"method": "some"}}),
            "key_smoothing.method",
            "key_smoothing.method must be one of none, ",
        ),
        (
            json!({"short_side": 1.5}),
            "short_side",
            "short_side must be a whole number from 0 to 4294967295, not 1.5",
        ),
        (
            json!({"output": "png"}),
            "output",
            "output must be an object, not \"png\"",
        ),
        (
            json!({"output": {"label_map": "gif"}}),
            "output.label_map",
            "output.label_map must be one of png, png-grey, coco-rle, polygons, panoptic, raw, none, not \"gif\"",
        ),
        (
            json!({"output": {"label_map": {"png": null}}}),
            "output.label_map",
            "output.label_map must be one of png, png-grey, coco-rle, polygons, panoptic, raw, none, not an object",
        ),
        (
            json!({"output": {"probability_maps": 1}}),
            "output.probability_maps",
            "output.probability_maps must be all or a list of class names, not 1",
        ),
    ] {
        let reply = app.segment(&with_image(fields.clone())).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{fields}");
        let problem = reply.json();
        assert_eq!(problem["path"], path, "{fields}");
        assert!(
            problem["detail"].as_str().unwrap().starts_with(said),
            "{}",
            problem["detail"]
        );
    }
}

#[tokio::test]
async fn one_of_classes_and_vocabulary_is_required_and_an_image() {
    let app = App::start().await;
    let problem = app.segment(&with_image(json!({}))).await.json();
    assert_eq!(
        (&problem["status"], &problem["detail"]),
        (
            &json!(422),
            &json!("one of classes, vocabulary and protocol is required")
        )
    );
    let both = with_image(json!({"classes": ["red"], "vocabulary": "fruit"}));
    let problem = app.segment(&both).await.json();
    assert_eq!(
        (&problem["status"], &problem["detail"]),
        (
            &json!(422),
            &json!("classes and vocabulary exclude each other; give one of them")
        )
    );
    let problem = app.segment(&json!({"classes": ["red"]})).await.json();
    assert_eq!((&problem["status"], &problem["path"]), (&json!(422), &json!("image")));
}

#[tokio::test]
async fn limits_on_classes_are_422_and_named() {
    let app = App::start_with(|config| {
        config.limits.vocabulary.max_classes = 2;
        config.limits.vocabulary.max_synonyms = 1;
        config.limits.vocabulary.max_name_characters = 5;
        config.limits.vocabulary.max_background_names = 1;
        config.limits.input.max_input_pixels = 100;
    })
    .await;
    for (fields, limit) in [
        (json!({"classes": ["a", "b", "c"]}), "limits.max_classes"),
        (
            json!({"classes": [{"name": "a", "synonyms": ["b", "c"]}]}),
            "limits.max_synonyms",
        ),
        (json!({"classes": ["grüner"]}), "limits.max_name_characters"),
        (
            json!({"classes": ["a"], "background": ["b", "c"]}),
            "limits.max_background_names",
        ),
        (json!({"classes": ["a"], "short_side": 16}), "limits.max_input_pixels"),
    ] {
        let problem = app.segment(&with_image(fields.clone())).await.json();
        assert_eq!(problem["status"], 422, "{fields}");
        assert!(problem["detail"].as_str().unwrap().contains(limit), "{problem}");
    }
}

#[tokio::test]
async fn advice_comes_as_warnings() {
    let app = App::start().await;
    let codes_of = async |fields: Value| {
        let reply = app.segment(&with_image(fields)).await.ok();
        let warnings = reply["warnings"].as_array().unwrap().clone();
        warnings
            .iter()
            .map(|warning| warning["code"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let codes = async |classes: Value| codes_of(json!({"classes": classes, "background": false})).await;
    assert_eq!(codes(json!(["red", "blue"])).await, Vec::<String>::new());
    assert_eq!(codes(json!(["red"])).await, ["single-class"]);
    assert_eq!(codes(json!(["red", "red"])).await, ["duplicate-class"]);
    assert_eq!(codes(json!(["red", "zebra"])).await, ["unknown-word"]);
    assert_eq!(codes(json!(["red, blue"])).await, ["commas-in-name", "single-class"]);
    let numbered = codes(json!(["0: red", "1: blue"])).await;
    assert_eq!(numbered[0], "numbered-names", "{numbered:?}");
    let signed = codes(json!(["- red", "- blue"])).await;
    assert_eq!(signed[0], "signs-in-names", "{signed:?}");
    let long = "red ".repeat(30);
    assert_eq!(codes(json!(["blue", long])).await, ["text-truncated"]);
    assert_eq!(
        codes(json!(["blue", long])).await,
        ["text-truncated"],
        "embedded before"
    );
    assert_eq!(codes_of(json!({"classes": ["red", "blue"]})).await, ["no-background"]);
    let surrounded = codes_of(json!({"classes": ["red", "sky"]})).await;
    assert!(!surrounded.contains(&"no-background".to_owned()), "{surrounded:?}");
}

#[tokio::test]
async fn invisible_characters_are_no_part_of_a_name_or_of_json() {
    let app = App::start().await;
    let classes = |red: &str, sky: &str| json!({"classes": [red, "blue"], "background": [sky]});
    let plain = app.segment(&with_image(classes("red", "sky"))).await.ok();
    let marked = classes("\u{feff}r\u{200b}ed\u{200e}", "\u{202a}sky\u{202c}");
    let mut request = segment_json(&with_image(marked.clone()));
    *request.body_mut() = format!("\u{feff}{}", with_image(marked)).into();
    let marked = app.send(request).await.ok();
    assert_eq!(marked["classes"], plain["classes"]);
    assert_eq!(marked["vocabulary"], plain["vocabulary"]);
    assert_eq!(marked["warnings"], plain["warnings"]);

    let mut request = segment_json(&json!({}));
    *request.body_mut() = "{}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect::<Vec<_>>()
        .into();
    let problem = app.send(request).await.json();
    assert_eq!(problem["status"], 400);
    assert_eq!(
        problem["detail"],
        "the request is not valid JSON: it is UTF-16 text; save it as UTF-8"
    );
    let empty = app.segment(&with_image(classes("\u{200b}", "sky"))).await.json();
    assert!(
        empty["detail"].as_str().unwrap().contains("class 0 has an empty name"),
        "{empty}"
    );
}

#[tokio::test]
async fn a_label_map_has_the_callers_colours_and_unlabelled_value_and_a_legend() {
    let app = App::start().await;
    let with = |output: Value| json!({"classes": ["red", "sky"], "background": {"names": [], "threshold": 1}, "output": output});
    let output = json!({"label_map": "raw", "unlabelled": 7, "colors": ["#ff8000"], "legend": true});
    let reply = app.segment(&with_image(with(output))).await.ok();
    assert_eq!(reply["classes"][0]["color"], "#ff8000");
    assert_eq!(reply["classes"][1]["color"], "#008000");
    assert_eq!(
        reply["legend"],
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nred:255,128,0::\nsky:0,128,0::\n"
    );
    let values = reply["label_map"]["data"].to_string();
    assert!(values.contains('7') && !values.contains("255"), "{values}");
    for (output, path, detail) in [
        (
            json!({"unlabelled": 1}),
            "output.unlabelled",
            "output.unlabelled must be 2 to 255, which is no class, not 1",
        ),
        (
            json!({"colors": ["#000001", "#000002", "#000003"]}),
            "output.colors",
            "output.colors must be one for each of the 2 classes at most, not 3",
        ),
        (
            json!({"colors": ["red"]}),
            "output.colors[0]",
            "\"red\" is no color in the form #rrggbb",
        ),
    ] {
        let problem = app.segment(&with_image(with(output))).await.json();
        assert_eq!(
            (&problem["status"], &problem["path"]),
            (&json!(422), &json!(path)),
            "{problem}"
        );
        assert_eq!(problem["detail"], detail);
    }
}

async fn post_for_png(app: &App, fields: Value) -> Reply {
    let mut request = segment_json(&with_image(fields));
    request
        .headers_mut()
        .insert(header::ACCEPT, "image/png".parse().unwrap());
    app.send(request).await
}

/// Returns the pixel values of an 8-bit PNG as stored in the file, with or without a palette.
fn pixels(png: &[u8]) -> Vec<u8> {
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
    let mut values = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut values).unwrap();
    assert_eq!(
        (info.bit_depth, info.line_size),
        (png::BitDepth::Eight, info.width as usize)
    );
    values.truncate(info.buffer_size());
    values
}

/// Returns 16 x 8 pixels with one value in the left half and another in the right.
fn half_and_half(left: u8, right: u8) -> Vec<u8> {
    [[left; 8], [right; 8]].concat().repeat(8)
}

/// Returns the value with its numbers rounded to three decimals.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => json!((number.as_f64().unwrap() * 1000.0).round() / 1000.0),
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, rounded(value))).collect(),
        other => other,
    }
}
