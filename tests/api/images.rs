//! `/v1/images`, `image_id`, and images with cached features.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use maskclip::engine::Readiness;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fake::{Action, Control};
use crate::support::{
    App, REQUEST_ID, Reply, multipart, png, post_json, post_multipart, red_and_blue, request, segment_multipart,
    with_image,
};

impl App {
    /// Holds `red_and_blue()` with these fields. Returns the reply.
    async fn post_image(&self, fields: Value) -> Reply {
        self.send(post_json("/v1/images", &with_image(fields))).await
    }

    /// Holds `red_and_blue()`. Returns its id.
    async fn image_id(&self) -> String {
        id_of(&self.post_image(json!({})).await)
    }

    async fn drop_image(&self, id: &str) -> Reply {
        let delete = request(Method::DELETE, &format!("/v1/images/{id}"));
        self.send(delete.body(Body::empty()).unwrap()).await
    }

    /// Segments with this body. Returns whether the features were cached, and how often features were computed.
    async fn looks(&self, body: Value) -> (bool, usize) {
        let before = self.control.looks();
        let reply = self.segment(&body).await.ok();
        (
            reply["features_cached"].as_bool().unwrap(),
            self.control.looks() - before,
        )
    }
}

#[track_caller]
fn id_of(reply: &Reply) -> String {
    assert_eq!(reply.status, StatusCode::CREATED, "{:?}", reply.body);
    reply.json()["image_id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_not_held(reply: &Reply) {
    reply.assert_problem(&json!({
        "type": "/problems/image-not-held",
        "title": "The image is not held",
        "status": 404,
        "detail": "no image is held under this id: there never was one, or it has expired, been deleted, or made room for \
                   others, or the replica that holds it cannot be asked; send the image again",
        "instance": REQUEST_ID,
    }));
}

const HIT: (bool, usize) = (true, 0);
const MISS: (bool, usize) = (false, 1);

#[tokio::test]
async fn an_image_is_left_asked_about_and_dropped() {
    let app = App::start().await;
    let reply = app.post_image(json!({})).await;
    let id = id_of(&reply);
    assert_eq!(reply.header("location"), format!("images/{id}"));
    let mut body = reply.json();
    let timings = body["timings"].take();
    assert_eq!(
        body,
        json!({
            "image_id": id, "model": "colours", "width": 16, "height": 8, "expires_in_seconds": 3600.0,
            "features_cached": false, "timings": null,
        })
    );
    assert!(timings["decode_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(timings["text_seconds"], 0.0);

    let uploaded = app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
    let asked = json!({"image_id": id, "classes": ["red", "blue"]});
    assert_eq!(app.looks(asked.clone()).await, HIT);
    assert_eq!(
        app.looks(json!({"image_id": id, "classes": ["green", "blue"]})).await,
        HIT
    );
    let reply = app.segment(&asked).await.ok();
    for field in [
        "model",
        "width",
        "height",
        "vocabulary",
        "classes",
        "label_map",
        "warnings",
    ] {
        assert_eq!(reply[field], uploaded[field], "{field}");
    }
    for stage in ["decode_seconds", "preprocess_seconds"] {
        assert_eq!(reply["timings"][stage], 0.0, "{stage}");
    }

    let dropped = app.drop_image(&id).await;
    assert_eq!((dropped.status, dropped.body.len()), (StatusCode::NO_CONTENT, 0));
    assert_not_held(&app.segment(&asked).await);
    assert_not_held(&app.drop_image(&id).await);
    // The image's features were dropped with it.
    assert_eq!(app.looks(with_image(json!({"classes": ["red"]}))).await, MISS);
}

#[tokio::test]
async fn replies_about_an_image_name_it_by_its_digest_and_every_reply_names_the_replica() {
    let app = App::start_with(|config| config.server.replica = Some("gpu-1".to_owned())).await;
    let posted = app.post_image(json!({})).await;
    let id = id_of(&posted);
    let sha256 = hex::encode(Sha256::digest(red_and_blue()));
    let similar = post_json(&format!("/v1/images/{id}/similar"), &json!({"x": 1, "y": 1}));
    for reply in [
        posted,
        app.get(&format!("/v1/images/{id}")).await,
        app.segment(&json!({"image_id": id, "classes": ["red"]})).await,
        app.segment(&with_image(json!({"classes": ["red"]}))).await,
        app.send(similar).await,
    ] {
        assert_eq!(reply.header("x-maskclip-image"), sha256);
        assert_eq!(reply.header("x-maskclip-replica"), "gpu-1");
    }
    let reply = app.get("/v1/nothing").await;
    assert!(!reply.headers.contains_key("x-maskclip-image"));
    assert_eq!(reply.header("x-maskclip-replica"), "gpu-1");
    let nameless = App::start_with(|config| config.images.cache_bytes = 0).await;
    let reply = nameless.segment(&with_image(json!({"classes": ["red"]}))).await;
    assert!(!reply.headers.contains_key("x-maskclip-image") && !reply.headers.contains_key("x-maskclip-replica"));
}

#[tokio::test]
async fn whether_an_image_is_held_can_be_asked() {
    let app = App::start_with(|config| config.images.held_bytes = 2000).await;
    let id = app.image_id().await;
    let path = format!("/v1/images/{id}");
    let reply = app.get(&path).await;
    assert_eq!(reply.header("cache-control"), "no-store");
    let mut known = reply.ok();
    let seconds = known["expires_in_seconds"].take().as_f64().unwrap();
    assert!((3000.0..=3600.0).contains(&seconds), "{seconds}");
    let bytes = red_and_blue().len();
    assert_eq!(
        known,
        json!({"image_id": id, "width": 16, "height": 8, "bytes": bytes, "expires_in_seconds": null})
    );
    let head = async || {
        app.send(request(Method::HEAD, &path).body(Body::empty()).unwrap())
            .await
    };
    let reply = head().await;
    assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
    app.drop_image(&id).await;
    assert_not_held(&app.get(&path).await);
    assert_eq!(head().await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_held_image_is_compared_with_one_of_its_points() {
    let app = App::start().await;
    let id = app.image_id().await;
    let similar = async |body: Value| app.send(post_json(&format!("/v1/images/{id}/similar"), &body)).await;
    let looks = app.control.looks();
    let reply = similar(json!({"x": 2, "y": 7.5})).await.ok();
    assert_eq!(app.control.looks(), looks);
    for (field, value) in [
        ("model", json!("colours")),
        ("width", json!(16)),
        ("height", json!(8)),
        ("columns", json!(4)),
        ("rows", json!(2)),
        ("range", json!([0.0, 1.0])),
        ("features_cached", json!(true)),
    ] {
        assert_eq!(reply[field], value, "{field}");
    }
    assert_eq!(reply["map"]["format"], "png");
    let file = BASE64_STANDARD.decode(reply["map"]["data"].as_str().unwrap()).unwrap();
    let map = image::load_from_memory(&file).unwrap().into_luma8();
    assert_eq!(map.dimensions(), (4, 2));
    // Red cells are like a red point, and blue ones are at right angles.
    assert_eq!(map.into_raw(), [[255, 255, 0, 0], [255, 255, 0, 0]].concat());
    // Another look at the image is computed and kept.
    let other = json!({"x": 2, "y": 7, "short_side": 16});
    let reply = similar(other.clone()).await.ok();
    assert_eq!(
        (&reply["columns"], &reply["features_cached"]),
        (&json!(8), &json!(false))
    );
    assert_eq!(similar(other).await.ok()["features_cached"], true);
    for (body, path) in [
        (json!({"x": 16, "y": 0}), "x"),
        (json!({"x": 0, "y": 8}), "y"),
        (json!({"x": -1, "y": 0}), "x"),
        (json!({"y": 0}), "x"),
        (json!({"x": 0, "y": 0, "z": 0}), "z"),
    ] {
        let reply = similar(body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.json()["path"], path);
    }
    app.drop_image(&id).await;
    assert_not_held(&similar(json!({"x": 0, "y": 0})).await);
}

#[tokio::test]
async fn ids_that_never_were_are_404() {
    let app = App::start().await;
    for id in ["none", "00000000000000000000000000000000", ""] {
        assert_not_held(&app.segment(&json!({"image_id": id, "classes": ["red"]})).await);
    }
    assert_not_held(&app.drop_image("none").await);
}

#[tokio::test]
async fn every_image_gets_an_id_of_its_own() {
    let app = App::start().await;
    let (first, second) = (app.image_id().await, app.image_id().await);
    assert_ne!(first, second);
    assert_eq!(app.metric("maskclip_held_images").await, 2);
    app.drop_image(&first).await;
    app.segment(&json!({"image_id": second, "classes": ["red"]})).await.ok();
}

#[tokio::test]
async fn an_image_and_an_id_exclude_each_other_and_one_is_required() {
    let app = App::start().await;
    let id = app.image_id().await;
    let both = with_image(json!({"image_id": id, "classes": ["red"]}));
    let neither = json!({"classes": ["red"]});
    let fields = json!({"image_id": id, "classes": ["red"]}).to_string();
    let parts = [("image", &*red_and_blue()), ("request", fields.as_bytes())];
    for (reply, path, detail) in [
        (
            app.segment(&both).await,
            "image_id",
            "image and image_id exclude each other; give one of them",
        ),
        (
            app.send(segment_multipart(multipart(&parts))).await,
            "image_id",
            "image and image_id exclude each other; give one of them",
        ),
        (
            app.segment(&neither).await,
            "image",
            "one of image and image_id is required",
        ),
    ] {
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(
            (&reply.json()["path"], &reply.json()["detail"]),
            (&json!(path), &json!(detail))
        );
    }
}

#[tokio::test]
async fn multipart_forms_bring_the_image_or_its_id() {
    let app = App::start().await;
    let image = red_and_blue();
    let options = br#"{"short_side": 12}"#.as_slice();
    for parts in [vec![("image", &*image)], vec![("image", &*image), ("request", options)]] {
        let reply = app.send(post_multipart("/v1/images", multipart(&parts))).await;
        let id = id_of(&reply);
        let fields = json!({"image_id": id, "classes": ["red"], "short_side": if parts.len() == 1 { 8 } else { 12 }});
        let form = multipart(&[("request", fields.to_string().as_bytes())]);
        assert_eq!(app.send(segment_multipart(form)).await.ok()["features_cached"], true);
    }
    let reply = app
        .send(post_multipart("/v1/images", multipart(&[("request", options)])))
        .await;
    assert_eq!((reply.status.as_u16(), &reply.json()["path"]), (422, &json!("image")));
}

#[tokio::test]
async fn a_deadline_is_a_field_of_every_form() {
    let app = App::start().await;
    let image = red_and_blue();
    for path in ["/v1/images", "/v1/segment", "/v1/segment/batch", "/v1/classify"] {
        let send = async |deadline: &str, more: Value| {
            let mut fields = if path == "/v1/images" {
                json!({})
            } else {
                json!({"classes": ["red"]})
            };
            fields
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            let fields = fields.to_string();
            let parts = [
                ("image", &*image),
                ("request", fields.as_bytes()),
                ("deadline_seconds", deadline.as_bytes()),
            ];
            app.send(post_multipart(path, multipart(&parts))).await
        };
        assert!(send("30", json!({})).await.status.is_success(), "{path}");
        // Of two the shorter counts, and so does its range.
        let both = async |seconds: f64| send("30", json!({"deadline_seconds": seconds})).await.status;
        assert!(both(300.5).await.is_success(), "{path}");
        assert_eq!(both(-1.0).await, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        for (deadline, detail) in [
            (
                "300.5",
                "deadline_seconds must be above 0 and at most engine.max_deadline_seconds = 300, not 300.5",
            ),
            ("soon", "the part deadline_seconds is no number"),
        ] {
            let reply = send(deadline, json!({})).await;
            assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
            let problem = reply.json();
            assert_eq!(
                (&problem["path"], &problem["detail"]),
                (&json!("deadline_seconds"), &json!(detail)),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn the_same_bytes_sent_again_are_not_looked_at_again() {
    let app = App::start().await;
    assert_eq!(app.looks(with_image(json!({"classes": ["red"]}))).await, MISS);
    assert_eq!(app.looks(with_image(json!({"classes": ["blue", "green"]}))).await, HIT);
    // Options that do not change the features may differ.
    let scored_otherwise = json!({"classes": ["red", "blue"], "temperature": 10, "prompt_denoising": 0.5});
    assert_eq!(app.looks(with_image(scored_otherwise)).await, HIT);
    let other = BASE64_STANDARD.encode(png(16, 8, |_| [0, 255, 0]));
    assert_eq!(app.looks(json!({"image": other, "classes": ["red"]})).await, MISS);
    assert_eq!(app.post_image(json!({})).await.json()["features_cached"], true);
    let names = ["hits_total", "misses_total", "entries"];
    let mut counts = Vec::new();
    for name in names {
        counts.push(app.metric(&format!("maskclip_feature_{name}")).await);
    }
    assert_eq!(counts, [3, 2, 2]);
    assert!(app.metric("maskclip_feature_bytes").await > 0);
}

#[tokio::test]
async fn another_look_at_the_image_is_computed_and_kept_beside_the_first() {
    let app = App::start().await;
    let id = app.image_id().await;
    for look in [
        json!({"attention": "clip"}),
        json!({"short_side": 12}),
        json!({"scales": [1, 2]}),
        json!({"resize": "mmcv"}),
        json!({"window": {"side": 8, "stride": 4}}),
    ] {
        let mut body = json!({"image_id": id, "classes": ["red", "blue"]});
        body.as_object_mut().unwrap().extend(look.as_object().unwrap().clone());
        assert_eq!(app.looks(body.clone()).await, MISS, "{look}");
        assert_eq!(app.looks(body).await, HIT, "{look}");
    }
    assert_eq!(app.looks(json!({"image_id": id, "classes": ["red"]})).await, HIT);
    // The model's own short side, given explicitly.
    assert_eq!(
        app.looks(json!({"image_id": id, "classes": ["red"], "short_side": 8}))
            .await,
        HIT
    );
}

#[tokio::test]
async fn features_are_those_that_the_image_was_left_with() {
    let app = App::start().await;
    let id = id_of(&app.post_image(json!({"attention": "clip", "scales": [1, 2]})).await);
    let body = json!({"image_id": id, "classes": ["red"], "attention": "clip", "scales": [1, 2]});
    assert_eq!(app.looks(body).await, HIT);
    assert_eq!(app.control.asked().sizes, [(16, 8), (32, 16)]);
    assert_eq!(app.looks(json!({"image_id": id, "classes": ["red"]})).await, MISS);
}

#[tokio::test]
async fn features_with_keys_serve_requests_without_and_not_the_other_way_round() {
    let app = App::start().await;
    let id = app.image_id().await;
    let ask = |smoothing: &str| json!({"image_id": id, "classes": ["red", "blue"], "key_smoothing": smoothing});
    for (smoothing, expected) in [
        ("none", HIT),
        ("formula", MISS),
        ("formula", HIT),
        ("likeness", HIT),
        ("none", HIT),
        // The keys differ from those of the formula.
        ("reference", MISS),
        ("none", HIT),
        ("likeness", MISS),
    ] {
        assert_eq!(app.looks(ask(smoothing)).await, expected, "{smoothing}");
    }
    assert_eq!(app.metric("maskclip_feature_entries").await, 1);
}

#[tokio::test]
async fn a_refinement_looks_at_the_pixels_of_a_held_image_but_the_model_does_not() {
    let app = App::start().await;
    let id = app.image_id().await;
    let body = json!({"image_id": id, "classes": ["red", "blue"], "refinement": "pamr"});
    assert_eq!(app.looks(body.clone()).await, HIT);
    assert_eq!(app.control.refinements(), 1);
    let timings = app.segment(&body).await.ok()["timings"].clone();
    assert!(timings["decode_seconds"].as_f64().unwrap() > 0.0, "{timings}");

    let tight = App::start_with(|config| config.limits.input.max_refinement_bytes = 100).await;
    let id = tight.image_id().await;
    let problem = tight
        .segment(&json!({"image_id": id, "classes": ["red"], "refinement": "pamr"}))
        .await
        .json();
    assert_eq!(problem["limit"]["name"], "limits.max_refinement_bytes");
}

#[tokio::test]
async fn an_image_expires_and_says_when() {
    let app = App::start_with(|config| config.images.keep_seconds = 0.05).await;
    let reply = app.post_image(json!({})).await;
    let id = id_of(&reply);
    assert_eq!(reply.json()["expires_in_seconds"], 0.05);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_not_held(&app.segment(&json!({"image_id": id, "classes": ["red"]})).await);
    assert_not_held(&app.drop_image(&id).await);
    assert_eq!(app.metric("maskclip_held_images").await, 0);
    // The features may stay, because they are found by the image's bytes alone.
    assert_eq!(app.looks(with_image(json!({"classes": ["red"]}))).await, HIT);
}

#[tokio::test]
async fn the_least_recently_used_image_makes_room() {
    let app = App::start().await;
    app.image_id().await;
    let one = app.metric("maskclip_held_image_bytes").await;
    let app = App::start_with(|config| config.images.held_bytes = 2 * one).await;
    let (first, second) = (app.image_id().await, app.image_id().await);
    let ask = |id: &str| json!({"image_id": id, "classes": ["red"]});
    app.segment(&ask(&first)).await.ok();
    let third = app.image_id().await;
    assert_not_held(&app.segment(&ask(&second)).await);
    app.segment(&ask(&first)).await.ok();
    app.segment(&ask(&third)).await.ok();
}

#[tokio::test]
async fn an_image_larger_than_all_that_may_be_held_is_413_and_the_limit_named() {
    let app = App::start_with(|config| config.images.held_bytes = 100).await;
    let problem = app.post_image(json!({})).await;
    let bytes = problem.json()["detail"]
        .as_str()
        .unwrap()
        .split(' ')
        .nth(4)
        .unwrap()
        .to_owned();
    problem.assert_problem(&json!({
        "type": "/problems/image-too-large-to-hold",
        "title": "The image is too large to be held",
        "status": 413,
        "detail": format!("holding the image takes {bytes} bytes, more than images.held_bytes = 100"),
        "instance": REQUEST_ID,
        "limit": {"name": "images.held_bytes", "value": 100},
    }));
    app.segment(&with_image(json!({"classes": ["red"]}))).await.ok();
}

#[tokio::test]
async fn without_room_for_features_images_are_held_and_looked_at_each_time() {
    let app = App::start_with(|config| config.images.cache_bytes = 0).await;
    let before = app.control.looks();
    let id = app.image_id().await;
    assert_eq!(app.control.looks(), before);
    for _ in 0..2 {
        assert_eq!(app.looks(json!({"image_id": id, "classes": ["red"]})).await, MISS);
    }
    assert_eq!(app.metric("maskclip_feature_misses_total").await, 0);
}

#[tokio::test]
async fn features_that_do_not_fit_are_not_kept_and_those_that_do_make_room() {
    // The fake's features have 16 bytes per cell, and its own size has 2 x 4 cells.
    let app = App::start().await;
    app.image_id().await;
    let one = app.metric("maskclip_feature_bytes").await;
    let app = App::start_with(|config| config.images.cache_bytes = one + 100).await;
    let id = app.image_id().await;
    let large = json!({"image_id": id, "classes": ["red"], "short_side": 32});
    assert_eq!(app.looks(large.clone()).await, MISS);
    assert_eq!(app.looks(large).await, MISS);
    let ask = |attention: &str| json!({"image_id": id, "classes": ["red"], "attention": attention});
    assert_eq!(app.looks(ask("maskclip")).await, HIT);
    assert_eq!(app.looks(ask("clip")).await, MISS);
    assert_eq!(app.looks(ask("maskclip")).await, MISS);
}

#[tokio::test]
async fn another_model_looks_for_itself_at_an_image_that_is_held() {
    let (control, fruit) = (Control::default(), Control::default());
    let models = vec![control.model(), fruit.student()];
    let app = App::launch_models(models, control, |_| ());
    app.engine.ready().await.unwrap();
    let id = app.image_id().await;
    let ask = json!({"image_id": id, "model": "fruit", "classes": ["red", "blue"]});
    let before = fruit.looks();
    for cached in [false, true] {
        let reply = app.segment(&ask).await.ok();
        assert_eq!(
            (&reply["model"], &reply["features_cached"]),
            (&json!("fruit"), &json!(cached))
        );
    }
    assert_eq!(fruit.looks(), before + 1);
    let left_with_it = app.post_image(json!({"model": "fruit"})).await.json();
    assert_eq!(
        (&left_with_it["model"], &left_with_it["features_cached"]),
        (&json!("fruit"), &json!(true))
    );
}

#[tokio::test]
async fn a_request_that_fails_leaves_nothing_behind() {
    let app = App::start().await;
    for action in [Action::Panic, Action::Fail] {
        app.control.on_look(action);
        let reply = app.post_image(json!({})).await;
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        app.until(Readiness::Ready).await;
    }
    for action in [Action::Panic, Action::Fail] {
        app.control.on_score(action);
        let reply = app.segment(&with_image(json!({"classes": ["red"]}))).await;
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        app.until(Readiness::Ready).await;
    }
    for name in ["maskclip_held_images", "maskclip_feature_entries"] {
        assert_eq!(app.metric(name).await, 0, "{name}");
    }
    // A panic while cached features are scored does not damage them.
    let id = app.image_id().await;
    app.control.on_score(Action::Panic);
    let ask = json!({"image_id": id, "classes": ["red"]});
    assert_eq!(app.segment(&ask).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    app.until(Readiness::Ready).await;
    assert_eq!(app.looks(ask).await, HIT);
}

#[tokio::test]
async fn an_image_is_refused_as_a_request_to_segment_would_be() {
    let app = App::start_with(|config| config.limits.input.max_input_pixels = 1000).await;
    for fields in [
        json!({"short_side": 0}),
        json!({"short_side": 30}),
        json!({"scales": []}),
        json!({"scales": [1, 2], "key_smoothing": "formula"}),
        json!({"window": {"side": 2, "stride": 1}}),
        json!({"attention": "sc-clip"}),
        json!({"attention": "gem"}),
        json!({"deadline_seconds": 0}),
        json!({"model": "none"}),
    ] {
        let image = app.post_image(fields.clone()).await;
        assert_eq!(image.status, StatusCode::UNPROCESSABLE_ENTITY, "{fields}");
        let mut with_classes = with_image(fields);
        with_classes["classes"] = json!(["red"]);
        app.segment(&with_classes).await.assert_problem(&image.json());
    }
    let unknown = app.post_image(json!({"classes": ["red"]})).await.json();
    assert_eq!(unknown["path"], "classes");
    for (image, kind) in [("a!", "malformed"), ("aGVsbG8=", "undecodable-image")] {
        let reply = app.send(post_json("/v1/images", &json!({"image": image}))).await;
        assert_eq!(reply.json()["type"], format!("/problems/{kind}"));
    }
    let reply = app.send(post_json("/v1/images", &json!({}))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["path"]), (422, &json!("image")));
    assert_eq!(app.metric("maskclip_held_images").await, 0);
}

#[tokio::test]
async fn an_image_waits_for_a_model_a_slot_and_its_deadline_as_a_request_to_segment_does() {
    let control = Control::default();
    let load = control.hold_load();
    let app = App::launch(control, |config| config.engine.queue_capacity = 1);
    assert_eq!(app.post_image(json!({})).await.status, StatusCode::SERVICE_UNAVAILABLE);
    app.control.entered().await;
    drop(load);
    app.engine.ready().await.unwrap();

    let held = app.control.hold_embed();
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.segment(&with_image(json!({"classes": ["red"]}))).await }
    });
    app.control.entered().await;
    assert_eq!(app.post_image(json!({})).await.status, StatusCode::TOO_MANY_REQUESTS);
    drop(held);
    waiting.await.unwrap().ok();

    let (sender, receiver) = std::sync::mpsc::channel();
    app.control.on_look(Action::WaitFor(receiver));
    let late = json!({"short_side": 12, "deadline_seconds": 0.05});
    let problem = app.post_image(late).await;
    assert_eq!(problem.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(problem.json()["detail"].as_str().unwrap().ends_with("in stage model"));
    drop(sender);
    app.engine.drain();
    assert_eq!(app.post_image(json!({})).await.status, StatusCode::SERVICE_UNAVAILABLE);
}
