//! The loaded models and what they can do.

use maskclip::config::Config;
use maskclip::dense::Refinement;
use maskclip::labeller::{ModelInfo, ModelOptions};
use serde_json::{Value, json};

use crate::fake::{self, Control};
use crate::support::{App, with_image};

/// Returns the description of a fake with options of its own.
fn particular() -> ModelInfo {
    ModelInfo {
        options: ModelOptions {
            short_side: 16,
            scales: vec![1.0, 0.5],
            temperature: 20.0,
            refinement: Refinement::Pamr,
        },
        ..fake::info()
    }
}

/// Starts a server with the model that has options of its own.
async fn start_particular(change: impl FnOnce(&mut Config)) -> App {
    let control = Control::default();
    let app = App::launch_models(vec![control.model_of(particular)], control, change);
    app.engine.ready().await.expect("the fake loads");
    app
}

/// Labels an image of 16 x 8 pixels. Returns the sizes, the temperature and the refinement that the model was asked
/// for.
async fn asked(app: &App, fields: Value) -> (Vec<(usize, usize)>, f32, Refinement) {
    let mut body = json!({"classes": ["red", "blue"]});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    app.segment(&with_image(body)).await.ok();
    let asked = app.control.asked();
    let options = asked.options;
    (
        asked.sizes,
        options.scoring.temperature,
        options.refinement.refinement(),
    )
}

#[tokio::test]
async fn the_loaded_model_is_listed_with_the_limits() {
    let app = App::start_with(|config| config.limits.vocabulary.max_classes = 17).await;
    let list = app.get("/v1/models").await.ok();
    assert_eq!(
        list["models"],
        json!([{
            "name": "colours",
            "kind": "clip",
            "embedded": false,
            "ready": true,
            "architecture": "fake",
            "weights_sha256": "c0".repeat(32),
            "precision": "float32",
            "device": "cpu",
            "embedding_dimension": 4,
            "patch_pixels": 4,
            "short_side": 8,
            "scales": [1.0],
            "temperature": 100.0,
            "refinement": "none",
            "attentions": ["clip", "maskclip", "sc-clip", "resclip"],
            "key_smoothings": ["none", "formula", "reference", "likeness"],
        }])
    );
    assert_eq!(list["limits"]["max_classes"], 17);
}

#[tokio::test]
async fn the_list_says_what_requests_get_that_do_not_say_otherwise() {
    let app = App::start_with(|config| config.defaults.background_threshold = 0.25).await;
    assert_eq!(
        app.get("/v1/models").await.ok()["defaults"],
        json!({
            "templates": "maskclip-85",
            "synonyms": "mean",
            "attention": "maskclip",
            "prompt_denoising": 0.0,
            "key_smoothing": "none",
            "background_threshold": 0.25,
            "background_area": 0.0,
            "short_side": 0,
            "scales": [],
            "resize": "bicubic",
            "window": null,
            "refinement": null,
        })
    );
}

#[tokio::test]
async fn the_list_is_empty_until_a_model_is_loaded() {
    let control = Control::default();
    let _load = control.hold_load();
    let app = App::launch(control, |_| ());
    assert_eq!(app.get("/v1/models").await.ok()["models"], json!([]));
}

#[tokio::test]
async fn a_model_is_asked_with_its_own_options_where_neither_the_request_nor_the_settings_say() {
    let app = start_particular(|_| ()).await;
    let listed = app.get("/v1/models").await.ok()["models"][0].take();
    assert_eq!(listed["short_side"], 16);
    assert_eq!(listed["scales"], json!([1.0, 0.5]));
    assert_eq!(listed["temperature"], 20.0);
    assert_eq!(listed["refinement"], "pamr");

    let own = (vec![(32, 16), (16, 8)], 20.0, Refinement::Pamr);
    assert_eq!(asked(&app, json!({})).await, own);
    let request = json!({"short_side": 8, "scales": [1], "temperature": 50, "refinement": "none"});
    assert_eq!(asked(&app, request).await, (vec![(16, 8)], 50.0, Refinement::None));
    // The formula smooths at one scale alone.
    let formula = json!({"key_smoothing": "formula"});
    assert_eq!(asked(&app, formula).await, (vec![(32, 16)], 20.0, Refinement::Pamr));
}

#[tokio::test]
async fn the_settings_come_before_a_models_own_options() {
    let app = start_particular(|config| {
        config.defaults.short_side = 8;
        config.defaults.scales = vec![2.0];
        config.defaults.temperature = 40.0;
        config.defaults.refinement = Some(Refinement::None);
    })
    .await;
    assert_eq!(asked(&app, json!({})).await, (vec![(32, 16)], 40.0, Refinement::None));
    let listed = app.get("/v1/models").await.ok()["models"][0].take();
    assert_eq!(listed["scales"], json!([2.0]));
    assert_eq!(listed["temperature"], 40.0);
    assert_eq!(listed["refinement"], "none");
}
