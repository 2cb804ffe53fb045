//! Options of `POST /v1/segment` that reach the model or the label map, from the request or from the defaults.

use axum::http::StatusCode;
use maskclip::config::Config;
use maskclip::dense::{
    Attention, AttentionConstants, KeySmoothing, KeySmoothingMethod, Refinement, RefinementOptions, ResclipConstants,
    Window,
};
use maskclip::engine::{FeatureFields, SegmentFields, Surroundings};
use maskclip::labeller::ModelKind;
use maskclip::vocabulary::VocabularyOptions;
use serde_json::{Value, json};

use crate::support::{App, REQUEST_ID, with_image};

/// Returns the path and the detail of a refusal, and the limit that it names.
async fn refusal(app: &App, fields: Value) -> (String, String, Value) {
    let reply = app.segment(&with_image(fields)).await;
    let mut problem = reply.json();
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(problem["type"], "/problems/invalid-request");
    let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
    (text("path"), text("detail"), problem["limit"].take())
}

#[tokio::test]
async fn windows_are_the_requests_or_the_defaults() {
    let app = App::start_with(|config| config.defaults.window = Some(Window { side: 8, stride: 4 })).await;
    for (fields, window) in [
        (json!({}), Some(Window { side: 8, stride: 4 })),
        (
            json!({"window": {"side": 6, "stride": 5}}),
            Some(Window { side: 6, stride: 5 }),
        ),
        (json!({"window": {"side": 7}}), Some(Window { side: 7, stride: 4 })),
        (json!({"window": "none"}), None),
    ] {
        let mut body = with_image(json!({"classes": ["red", "blue"]}));
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        app.segment(&body).await.ok();
        assert_eq!(app.control.asked().options.features.window, window, "{fields}");
    }
}

#[tokio::test]
async fn a_window_that_cannot_be_is_422() {
    let app = App::start().await;
    for (window, path, detail) in [
        (
            json!({"side": 0}),
            "window.side",
            "window.side must be at least 1 pixel, not 0",
        ),
        (
            json!({"side": 8, "stride": 9}),
            "window.stride",
            "window.stride must be 1 to window.side = 8 pixels, not 9",
        ),
        (
            json!({"side": 8, "stride": 0}),
            "window.stride",
            "window.stride must be 1 to window.side = 8 pixels, not 0",
        ),
        (
            json!({"side": 3}),
            "window.side",
            "window.side must be at least the model's patch of 4 pixels, not 3",
        ),
    ] {
        let refusal = refusal(&app, json!({"classes": ["red"], "window": window})).await;
        assert_eq!(refusal, (path.to_owned(), detail.to_owned(), Value::Null));
    }
}

#[tokio::test]
async fn more_windows_than_allowed_are_422_with_the_limit() {
    let app = App::start_with(|config| {
        config.limits.input.max_windows = 4;
        config.limits.input.max_input_pixels = 128;
    })
    .await;
    app.segment(&with_image(
        json!({"classes": ["red"], "window": {"side": 8, "stride": 2}}),
    ))
    .await
    .assert_problem(&json!({
        "type": "/problems/invalid-request",
        "title": "The request is invalid",
        "status": 422,
        "detail": "the model's input of 16 x 8 pixels has 5 windows, more than limits.max_windows = 4; a larger \
                   window.stride or fewer scales make fewer",
        "instance": REQUEST_ID,
        "path": "window",
        "limit": {"name": "limits.max_windows", "value": 4},
    }));
    let (path, _, limit) = refusal(&app, json!({"classes": ["red"], "window": {"side": 8, "stride": 4}})).await;
    assert_eq!(
        (path.as_str(), limit),
        ("window", json!({"name": "limits.max_input_pixels", "value": 128}))
    );
    app.segment(&with_image(
        json!({"classes": ["red"], "window": {"side": 8, "stride": 8}}),
    ))
    .await
    .ok();
}

#[tokio::test]
async fn scales_are_the_requests_or_the_defaults() {
    let app = App::start_with(|config| config.defaults.scales = vec![1.0, 2.0]).await;
    for (fields, sizes) in [
        (json!({}), vec![(16, 8), (32, 16)]),
        (json!({"scales": [0.5, 1, 1.5]}), vec![(8, 4), (16, 8), (24, 12)]),
        (json!({"scales": [1.5], "short_side": 16}), vec![(48, 24)]),
    ] {
        let mut body = with_image(json!({"classes": ["red", "blue"]}));
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let reply = app.segment(&body).await.ok();
        let asked = app.control.asked();
        assert_eq!((asked.sizes, asked.image), (sizes, (16, 8)), "{fields}");
        // At every size half of the image is red and half is blue.
        assert_eq!(
            (&reply["classes"][0]["pixels"], &reply["classes"][1]["pixels"]),
            (&json!(64), &json!(64))
        );
    }
}

#[tokio::test]
async fn scales_that_cannot_be_are_422() {
    let app = App::start_with(|config| {
        config.limits.input.max_scales = 3;
        config.limits.input.max_short_side = 16;
        config.limits.input.max_input_pixels = 700;
    })
    .await;
    let limit = |name: &str, value: u64| json!({"name": name, "value": value});
    for (fields, path, detail, limit) in [
        (
            json!({"scales": []}),
            "scales",
            "scales must be 1 to limits.max_scales = 3 factors, not 0",
            Value::Null,
        ),
        (
            json!({"scales": [1, 1, 1, 1]}),
            "scales",
            "scales must be 1 to limits.max_scales = 3 factors, not 4",
            limit("limits.max_scales", 3),
        ),
        (
            json!({"scales": [1, 0]}),
            "scales[1]",
            "a scale must be above 0, not 0",
            Value::Null,
        ),
        (
            json!({"scales": [1, 3]}),
            "scales",
            "the short side at scale 3 is 24 pixels, more than limits.max_short_side = 16; a smaller scale or short_side makes \
             it smaller",
            limit("limits.max_short_side", 16),
        ),
        (
            json!({"scales": [1, 1, 2]}),
            "scales",
            "the model's input of 16 x 8, 16 x 8, 32 x 16 pixels comes to 768 pixels in all scales and windows, more than \
             limits.max_input_pixels = 700; a smaller short_side, fewer scales or a larger window.stride make fewer",
            limit("limits.max_input_pixels", 700),
        ),
        (
            json!({"scales": [1, 2], "key_smoothing": "formula"}),
            "key_smoothing",
            "formula sums over the cells of one input, and such sums have no mean over several scales; use another method \
             or a single scale",
            Value::Null,
        ),
    ] {
        let mut body = json!({"classes": ["red"]});
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        assert_eq!(refusal(&app, body).await, (path.to_owned(), detail.to_owned(), limit));
    }
    app.segment(&with_image(json!({"classes": ["red"], "scales": [1, 2]})))
        .await
        .ok();
    app.segment(&with_image(
        json!({"classes": ["red"], "scales": [2], "key_smoothing": "formula"}),
    ))
    .await
    .ok();
}

#[tokio::test]
async fn key_smoothing_is_the_requests_or_the_defaults() {
    let app = App::start_with(|config| config.defaults.key_smoothing = KeySmoothingMethod::Likeness).await;
    app.segment(&with_image(json!({"classes": ["red"]}))).await.ok();
    assert_eq!(
        app.control.asked().options.scoring.key_smoothing,
        KeySmoothing::Likeness
    );
    app.segment(&with_image(json!({"classes": ["red"], "key_smoothing": "formula"})))
        .await
        .ok();
    assert_eq!(app.control.asked().options.scoring.key_smoothing, KeySmoothing::Formula);
}

#[tokio::test]
async fn an_attention_that_compares_cells_is_limited_in_them() {
    // 16 x 8 pixels are 4 x 2 cells. A window of 8 pixels has 2 x 2 cells.
    let app = App::start_with(|config| config.limits.input.max_paired_cells = 7).await;
    let whole = json!({"classes": ["red"], "attention": "resclip"});
    let (path, detail, limit) = refusal(&app, whole).await;
    assert_eq!(path, "attention");
    assert!(detail.contains("resclip compares every two of 8 cells"), "{detail}");
    assert_eq!(limit, json!({"name": "limits.max_paired_cells", "value": 7}));
    let windows = json!({"classes": ["red"], "attention": "resclip", "window": {"side": 8, "stride": 8}});
    app.segment(&with_image(windows)).await.ok();
}

#[tokio::test]
async fn refinement_is_the_requests_or_the_defaults_and_has_a_limit() {
    let app = App::start_with(|config| {
        config.defaults.refinement = Some(Refinement::Pamr);
        // The affinities of 16 x 8 pixels, and the scores of 3 texts; those of 4 take 47104.
        config.limits.input.max_refinement_bytes = 40_000;
    })
    .await;
    app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
    let asked = app.control.asked();
    assert_eq!(
        (asked.options.refinement.refinement(), asked.image, asked.sizes),
        (Refinement::Pamr, (16, 8), vec![(16, 8)])
    );

    let four = json!({"classes": ["red", "blue", "green", "grey"]});
    let (path, detail, limit) = refusal(&app, four).await;
    assert_eq!(path, "refinement");
    assert_eq!(limit, json!({"name": "limits.max_refinement_bytes", "value": 40_000}));
    assert!(
        detail.contains("of 4 texts at 128 pixels takes 47104 bytes"),
        "{detail}"
    );

    let whole = json!({"classes": ["red", "blue", "green", "grey"], "refinement": "none"});
    app.segment(&with_image(whole)).await.ok();
    assert_eq!(app.control.asked().options.refinement.refinement(), Refinement::None);
}

#[tokio::test]
async fn a_class_with_too_small_a_share_is_nowhere() {
    let app = App::start_with(|config| config.defaults.background_area = 0.5).await;
    let pixels = async |background: Value| {
        let body = with_image(json!({"classes": ["red", "green", "blue"], "background": background}));
        let classes = app.segment(&body).await.ok()["classes"].take();
        classes
            .as_array()
            .unwrap()
            .iter()
            .map(|class| class["pixels"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    // Red and blue cover half of the pixels each. A share of exactly one half does not exceed one half.
    assert_eq!(pixels(json!({"names": []})).await, [0, 0, 0]);
    assert_eq!(pixels(json!({"names": [], "area": 0.4})).await, [64, 0, 64]);
    assert_eq!(pixels(json!(false)).await, [64, 0, 64]);

    let (path, detail, _) = refusal(&app, json!({"classes": ["red"], "background": {"area": 1.5}})).await;
    assert_eq!(
        (path.as_str(), detail.as_str()),
        ("background.area", "background.area must be 0 to 1, not 1.5")
    );
}

#[tokio::test]
async fn the_threshold_is_the_requests_or_the_defaults() {
    let app = App::start_with(|config| config.defaults.background_threshold = 0.9).await;
    let unlabelled = async |background: Value| {
        let mut body = with_image(json!({"classes": ["red", "blue"], "temperature": 1}));
        if !background.is_null() {
            body["background"] = background;
        }
        let classes = app.segment(&body).await.ok()["classes"].take();
        128 - classes
            .as_array()
            .unwrap()
            .iter()
            .map(|class| class["pixels"].as_u64().unwrap())
            .sum::<u64>()
    };
    // The best probability is at most e / (e + 1) = 0.73 and at least one half.
    assert_eq!(unlabelled(Value::Null).await, 128);
    assert_eq!(unlabelled(json!({"names": [], "threshold": 0.4})).await, 0);
    assert_eq!(unlabelled(json!(false)).await, 0);
}

#[tokio::test]
async fn a_protocol_says_what_the_request_leaves_out() {
    let app = App::start_with(|config| config.limits.input.max_input_pixels = 1 << 20).await;
    // The fake has neither the protocol's attention nor patches of 16 pixels. So the protocol shows in a refusal, or in
    // what the model is asked once the request overrides the attention.
    let refused = app.segment(&with_image(json!({"protocol": "naclip-voc21"}))).await;
    assert_eq!(refused.json()["type"], "/problems/unsupported-by-model");
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("cannot compute the attention naclip"), "{detail}");

    let reply = app
        .segment(&with_image(
            json!({"protocol": "naclip-voc21", "attention": "maskclip"}),
        ))
        .await
        .ok();
    assert_eq!(reply["classes"].as_array().unwrap().len(), 21);
    let asked = app.control.asked();
    assert_eq!(
        (asked.options.scoring.temperature, asked.options.refinement.refinement()),
        (40.0, Refinement::Pamr)
    );
    assert_eq!((asked.sizes, asked.owners.len()), (vec![(672, 336)], 56));

    let own_words = json!({"protocol": "sclip-voc20", "attention": "clip", "classes": ["red", "blue"], "short_side": 8,
                           "resize": "bicubic", "window": {"side": 4}, "temperature": 7});
    app.segment(&with_image(own_words)).await.ok();
    let asked = app.control.asked();
    assert_eq!(
        (asked.options.features.window, asked.options.scoring.temperature),
        (Some(Window { side: 4, stride: 2 }), 7.0)
    );
    assert_eq!((asked.sizes, asked.owners.len()), (vec![(16, 8)], 2));

    let (path, detail, _) = refusal(&app, json!({"classes": ["red"], "protocol": "sclip-voc12"})).await;
    assert_eq!(path, "protocol");
    assert!(
        detail.starts_with(
            "protocol: \"sclip-voc12\" is not a protocol: a method (sclip, clearclip, naclip, sc-clip, resclip, pearl)"
        ),
        "{detail}"
    );
}

#[test]
fn a_protocol_brings_the_constants_of_its_method() {
    let settings = Config::for_testing().engine_settings();
    let resolved = |protocol: Option<&str>, attention: Option<Attention>| {
        let fields = SegmentFields {
            features: FeatureFields {
                protocol: protocol.map(|name| name.parse().expect("a protocol")),
                attention,
                ..FeatureFields::default()
            },
            ..SegmentFields::default()
        };
        let surroundings = Surroundings {
            settings: &settings,
            model: ("demo-vit", ModelKind::Clip),
            own: None,
        };
        let options = fields.resolve(surroundings, &VocabularyOptions::default());
        options.expect("a protocol is within the limits").dense
    };
    let resclip = resolved(Some("resclip-voc21"), None);
    let expected = ResclipConstants {
        threshold: 0.5,
        middle_share: 0.3,
        score_scale: 2.2,
        layout_share: 0.7,
    };
    assert_eq!(
        (
            resclip.features.constants.resclip,
            resclip.refinement,
            resclip.features.window
        ),
        (expected, RefinementOptions::None, None)
    );

    let pearl = resolved(Some("pearl-voc20"), None);
    assert_eq!(pearl.refinement.refinement(), Refinement::PearlPropagation);
    assert_eq!(pearl.features.constants, AttentionConstants::default());
    let pearl = resolved(Some("pearl-cityscapes"), None);
    assert_eq!(pearl.features.constants.pearl_key_weight, 0.3);
    let (cells, temperature) = (224, 40.0);
    assert_eq!(
        pearl.refinement,
        RefinementOptions::PearlPropagation { cells, temperature }
    );

    // Another attention reads none of the protocol's constants.
    let other = resolved(Some("pearl-cityscapes"), Some(Attention::Maskclip));
    assert_eq!(other.features.constants, AttentionConstants::default());
    assert_eq!(resolved(None, None).features.constants, AttentionConstants::default());
}

#[tokio::test]
async fn synonyms_are_averaged_or_scored_apart() {
    let app = App::start().await;
    let classes = json!([{"name": "red", "synonyms": ["azure"]}, "blue"]);
    let similarity = async |synonyms: &str| {
        let body = with_image(json!({"classes": classes, "synonyms": synonyms}));
        app.segment(&body).await.ok()["classes"][0]["similarity"]
            .as_f64()
            .unwrap()
    };
    // To the fake, "azure" is at right angles to red, so their mean lies half way between.
    assert!((similarity("mean").await - 0.5_f64.sqrt()).abs() < 1e-5);
    assert!((similarity("max").await - 1.0).abs() < 1e-5);
}

#[tokio::test]
async fn what_all_texts_and_pixels_come_to_is_limited_before_anything_is_decoded_or_embedded() {
    let app = App::start_with(|config| {
        config.limits.input.max_score_bytes = 8 * 4 * 2;
        config.limits.input.max_pixel_texts = 128 * 2;
        config.limits.input.max_raw_pixels = 127;
        config.limits.input.max_confidence_pixels = 127;
    })
    .await;
    // Every later stage would fail, so the refusals come before them.
    let synonyms = json!([{"name": "red", "synonyms": ["red", "red"]}]);
    for (fields, path, limit) in [
        (
            json!({"classes": ["red", "green", "blue"]}),
            "classes",
            "limits.max_score_bytes",
        ),
        (
            json!({"classes": ["red", "green", "blue"], "short_side": 4}),
            "classes",
            "limits.max_pixel_texts",
        ),
        // Equal texts are scored one by one, and so they are counted.
        (
            json!({"classes": synonyms, "synonyms": "max"}),
            "classes",
            "limits.max_score_bytes",
        ),
        (
            json!({"classes": ["red"], "output": {"label_map": "raw"}}),
            "output.label_map",
            "limits.max_raw_pixels",
        ),
        (
            json!({"classes": ["red"], "output": {"confidence_map": true}}),
            "output.confidence_map",
            "limits.max_confidence_pixels",
        ),
    ] {
        let embed = app.control.hold_embed();
        let reply = app.segment(&with_image(fields)).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{:?}", reply.body);
        let problem = reply.json();
        assert_eq!(
            (&problem["path"], &problem["limit"]["name"]),
            (&json!(path), &json!(limit))
        );
        assert!(problem["detail"].as_str().unwrap().contains(limit), "{problem}");
        drop(embed);
    }
    app.segment(&with_image(json!({"classes": synonyms}))).await.ok();
}
