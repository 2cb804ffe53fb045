//! A server with a CLIP and a student of it: which of them answers, what each refuses, and that a failure of one does
//! not touch the other.

use std::time::Duration;

use maskclip::config::Config;
use maskclip::dense::{Attention, KeySmoothing, KeySmoothingMethod};
use maskclip::engine::Readiness;
use serde_json::{Value, json};

use crate::fake::{Action, Control};
use crate::support::{App, with_image};

/// Starts a server with `colours`, which obeys the app's control, and its student `fruit`, which obeys the returned
/// one.
fn launch(change: impl FnOnce(&mut Config)) -> (App, Control) {
    let (teacher, student) = (Control::default(), Control::default());
    let models = vec![teacher.model(), student.student()];
    (App::launch_models(models, teacher, change), student)
}

async fn start() -> (App, Control) {
    let (app, student) = launch(|_| ());
    app.engine.ready().await.expect("the fakes load");
    (app, student)
}

fn body(fields: &Value) -> Value {
    let mut body = json!({"classes": ["red", "blue"]});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    with_image(body)
}

async fn metrics(app: &App) -> String {
    String::from_utf8(app.get("/metrics").await.body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_request_gets_the_model_it_names_or_the_first() {
    let (app, _student) = start().await;
    for (fields, model) in [
        (json!({}), "colours"),
        (json!({"model": "colours"}), "colours"),
        (json!({"model": "fruit"}), "fruit"),
    ] {
        let reply = app.segment(&body(&fields)).await.ok();
        assert_eq!(reply["model"], model);
        assert_eq!(reply["classes"][0]["pixels"], 64);
    }
}

#[tokio::test]
async fn a_model_that_is_not_served_is_refused_with_those_that_are() {
    let (app, _student) = start().await;
    // A model with an alias is not known by its own name.
    let reply = app.segment(&body(&json!({"model": "student"}))).await;
    reply.assert_problem(&json!({
        "type": "/problems/unknown-model",
        "title": "The model is not loaded",
        "status": 422,
        "detail": "no model is called \"student\"; there are colours, fruit",
        "instance": "test-1",
        "path": "model",
    }));
}

#[tokio::test]
async fn all_models_are_listed_with_what_each_is_and_can_do() {
    let (app, _student) = start().await;
    let list = app.get("/v1/models").await.ok();
    let models = list["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    assert_eq!(
        (&models[0]["name"], &models[0]["kind"]),
        (&json!("colours"), &json!("clip"))
    );
    assert_eq!(models[0]["student"], Value::Null);
    assert_eq!(
        models[1],
        json!({
            "name": "fruit",
            "kind": "student",
            "embedded": false,
            "ready": true,
            "architecture": "fake",
            "weights_sha256": "5d".repeat(32),
            "precision": "float32",
            "device": "cpu",
            "embedding_dimension": 4,
            "patch_pixels": 4,
            "short_side": 8,
            "scales": [1.0],
            "temperature": 1.0,
            "refinement": "none",
            "attentions": [],
            "key_smoothings": ["none"],
            "student": {
                "classes": ["red", "blue"],
                "background": [],
                "templates": "simple",
                "learned_background": true,
                "teacher": {"name": "colours", "weights_sha256": "c0".repeat(32)},
            },
        })
    );
}

#[tokio::test]
async fn the_default_temperature_is_the_models_own_unless_the_settings_name_another() {
    for (setting, expected) in [(0.0, 100.0), (40.0, 40.0)] {
        let (app, _) = launch(|config| config.defaults.temperature = setting);
        app.engine.ready().await.expect("the fakes load");
        app.segment(&body(&json!({}))).await.ok();
        assert_eq!(app.control.asked().options.scoring.temperature, expected);
    }
}

#[tokio::test]
async fn a_student_has_a_temperature_of_its_own_and_looks_at_no_default_about_attention() {
    let (app, student) = launch(|config| {
        config.defaults.temperature = 40.0;
        config.defaults.attention = Attention::Resclip;
        config.defaults.key_smoothing = KeySmoothingMethod::Likeness;
        config.limits.input.max_paired_cells = 1;
    });
    app.engine.ready().await.expect("the fakes load");
    app.segment(&body(&json!({"model": "fruit"}))).await.ok();
    let asked = student.asked().options;
    assert_eq!(
        (asked.scoring.temperature, asked.scoring.key_smoothing),
        (1.0, KeySmoothing::None)
    );
    app.segment(&body(&json!({"model": "fruit", "temperature": 3})))
        .await
        .ok();
    assert_eq!(student.asked().options.scoring.temperature, 3.0);
    app.segment(&body(&json!({"attention": "clip"}))).await.ok();
    let asked = app.control.asked().options;
    assert_eq!(
        (asked.scoring.temperature, asked.scoring.key_smoothing),
        (40.0, KeySmoothing::Likeness)
    );
}

#[tokio::test]
async fn what_a_student_does_not_have_is_refused_when_it_is_named() {
    let (app, _student) = start().await;
    for (fields, detail) in [
        (
            json!({"attention": "maskclip"}),
            "the model fruit is a student, which has no attention; the request's attention maskclip is about one",
        ),
        (
            json!({"protocol": "sclip-voc20"}),
            "the model fruit is a student, which has no attention; the request's protocol sclip-voc20 is about one",
        ),
        (
            json!({"key_smoothing": "likeness"}),
            "the model fruit is a student: it has no keys to smooth",
        ),
    ] {
        let mut fields = fields;
        fields["model"] = json!("fruit");
        let reply = app.segment(&body(&fields)).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["detail"]), (422, &json!(detail)));
        assert_eq!(reply.json()["type"], "/problems/unsupported-by-model");
    }
    app.segment(&body(&json!({"model": "fruit", "key_smoothing": "none"})))
        .await
        .ok();
}

#[tokio::test]
async fn while_one_model_recovers_the_other_answers() {
    let (app, student) = start().await;
    let hold = student.hold_load();
    student.on_score(Action::Panic);
    assert_eq!(app.segment(&body(&json!({"model": "fruit"}))).await.status, 500);
    assert_eq!(app.get("/health/ready").await.status, 503);
    app.segment(&body(&json!({}))).await.ok();
    let ready = async || {
        let list = app.get("/v1/models").await.ok();
        [0, 1].map(|index| list["models"][index]["ready"].as_bool().unwrap())
    };
    assert_eq!(ready().await, [true, false]);
    let text = metrics(&app).await;
    for line in [
        "maskclip_workers_live{model=\"colours\"} 1\n",
        "maskclip_workers_live{model=\"fruit\"} 0\n",
        "maskclip_stage_seconds_count{model=\"colours\",stage=\"model\"} 1\n",
        "maskclip_stage_seconds_count{model=\"fruit\",stage=\"model\"} 0\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }

    drop(hold);
    app.until(Readiness::Ready).await;
    app.segment(&body(&json!({"model": "fruit"}))).await.ok();
    assert_eq!(ready().await, [true, true]);
}

#[tokio::test]
async fn a_busy_model_does_not_hold_up_the_other() {
    let (app, student) = start().await;
    let hold = student.hold_score();
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.segment(&body(&json!({"model": "fruit"}))).await }
    });
    student.entered().await;
    let queued = tokio::spawn({
        let app = app.clone();
        async move { app.segment(&body(&json!({"model": "fruit"}))).await }
    });
    let one_waits = async {
        while !metrics(&app)
            .await
            .contains("maskclip_queue_depth{model=\"fruit\"} 1\n")
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), one_waits)
        .await
        .expect("it gets there");
    app.segment(&body(&json!({"model": "colours"}))).await.ok();
    assert!(
        metrics(&app)
            .await
            .contains("maskclip_queue_depth{model=\"colours\"} 0\n")
    );
    drop(hold);
    waiting.await.unwrap().ok();
    queued.await.unwrap().ok();
}

#[tokio::test]
async fn slots_are_shared() {
    let (app, student) = launch(|config| config.engine.queue_capacity = 1);
    app.engine.ready().await.expect("the fakes load");
    let hold = student.hold_score();
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { app.segment(&body(&json!({"model": "fruit"}))).await }
    });
    student.entered().await;
    assert_eq!(app.segment(&body(&json!({}))).await.status, 429);
    drop(hold);
    waiting.await.unwrap().ok();
}

#[tokio::test]
async fn a_student_shares_its_teachers_texts_but_for_what_it_learned_itself() {
    let (app, _student) = start().await;
    let counts = async || {
        let text = metrics(&app).await;
        ["misses", "hits"].map(|count| {
            let name = format!("maskclip_vocabulary_{count}_total ");
            let line = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
            line.parse::<u64>().unwrap()
        })
    };
    let classes = json!(["red", "background"]);
    app.segment(&body(&json!({"classes": classes}))).await.ok();
    assert_eq!(counts().await, [2, 0]);
    app.segment(&body(&json!({"classes": classes, "model": "fruit"})))
        .await
        .ok();
    assert_eq!(counts().await, [3, 1]);
    let list = app.get("/v1/vocabularies?kind=recent").await.ok();
    let states = list["vocabularies"][0]["embeddings"].as_array().unwrap();
    let states: Vec<_> = states
        .iter()
        .map(|state| (&state["model"], &state["embedded"], &state["total"]))
        .collect();
    let two = &json!(2);
    assert_eq!(states, [(&json!("colours"), two, two), (&json!("fruit"), two, two)]);
}

#[tokio::test]
async fn the_server_is_ready_when_all_models_are() {
    let (teacher, student) = (Control::default(), Control::default());
    let hold = student.hold_load();
    let app = App::launch_models(vec![teacher.model(), student.student()], teacher, |_| ());
    student.entered().await;
    let first_answers = async { while app.segment(&body(&json!({}))).await.status != 200 {} };
    tokio::time::timeout(Duration::from_secs(30), first_answers)
        .await
        .expect("the first is ready");
    assert_eq!(app.get("/health/ready").await.status, 503);
    assert_eq!(app.get("/v1/models").await.ok()["models"].as_array().unwrap().len(), 1);
    // The kind of the model is known before it is loaded, so options of CLIP are refused even then.
    assert_eq!(
        app.segment(&body(&json!({"model": "fruit", "attention": "clip"})))
            .await
            .status,
        422
    );
    assert_eq!(app.segment(&body(&json!({"model": "fruit"}))).await.status, 503);
    drop(hold);
    app.until(Readiness::Ready).await;
}
