//! The loaded models and what they can do.

use serde_json::json;

use crate::fake::Control;
use crate::support::App;

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
            "temperature": 100.0,
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
            "scales": [1.0],
            "resize": "bicubic",
            "window": null,
            "refinement": "none",
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
