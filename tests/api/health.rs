//! Liveness and readiness.

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
