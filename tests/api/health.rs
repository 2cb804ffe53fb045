//! Liveness and readiness.

use maskclip::vocabulary::StorePath;
use serde_json::json;

use crate::fake::Control;
use crate::support::App;

#[tokio::test]
async fn a_warm_server_is_live_and_ready() {
    let app = App::start().await;
    assert_eq!(app.get("/health/live").await.ok(), json!({"status": "live"}));
    assert_eq!(
        app.get("/health/ready").await.ok(),
        json!({"status": "ready", "models": [{"name": "colours", "status": "ready"}]})
    );
}

#[tokio::test]
async fn a_server_is_live_while_its_model_is_being_loaded() {
    let control = Control::default();
    let _load = control.hold_load();
    let app = App::launch(control, |_| ());
    assert_eq!(app.get("/health/live").await.ok(), json!({"status": "live"}));
}

#[tokio::test]
async fn a_server_that_lacks_the_store_that_it_was_to_have_says_so() {
    let app = App::start_with(|config| config.vocabulary.store_path = StorePath::Auto).await;
    let health = app.get("/health/ready").await.ok();
    assert_eq!(
        (&health["status"], &health["warnings"][0]["code"]),
        (&json!("ready"), &json!("not-durable"))
    );
    // Whoever wants no store is not told that there is none.
    let health = App::start().await.get("/health/ready").await.ok();
    assert!(health["warnings"].is_null());
}
