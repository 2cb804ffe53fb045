//! Models that panic, cannot be loaded again, or are closed: who is answered how, and what goes on.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use maskclip::config::Config;
use maskclip::engine::{ModelState, Readiness, ReadyWhen};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fake::{Action, Control};
use crate::support::{App, Reply, request, until, with_image};

const PANICS: &str = r#"maskclip_worker_panics_total{model="colours"}"#;
const FAILED: &str = r#"maskclip_model_reloads_total{model="colours",outcome="failed"}"#;
const SUCCEEDED: &str = r#"maskclip_model_reloads_total{model="colours",outcome="succeeded"}"#;

/// Number of single passes that must be timed before a pass with several images is tried.
const TIMED_ALONE: usize = 3;

impl App {
    /// Starts a server with `colours`, which obeys the app's control, and its student `fruit`, which obeys the returned
    /// one.
    async fn start_two(change: impl FnOnce(&mut Config)) -> (Self, Control) {
        let (teacher, student) = (Control::default(), Control::default());
        let models = vec![teacher.model(), student.student()];
        let app = Self::launch_models(models, teacher, change);
        app.engine.ready().await.expect("the fakes load");
        (app, student)
    }

    fn spawn_segment(&self, body: Value) -> JoinHandle<Reply> {
        let app = self.clone();
        tokio::spawn(async move { app.segment(&body).await })
    }

    async fn until_metric(&self, name: &str, value: u64) {
        until(async || self.metric(name).await == value).await;
    }

    async fn put(&self, name: &str, classes: Value) -> Reply {
        let body = Body::from(json!({"classes": classes}).to_string());
        let request = request(Method::PUT, &format!("/v1/vocabularies/{name}"));
        let request = request.header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(body).unwrap()).await
    }

    /// Returns model, embedded and total of each entry of a vocabulary.
    async fn embeddings(&self, name: &str) -> Value {
        let reply = self.get(&format!("/v1/vocabularies/{name}")).await.ok();
        embeddings_of(&reply)
    }

    async fn until_embedded(&self, name: &str, expected: Value) {
        until(async || self.embeddings(name).await == expected).await;
    }
}

fn embeddings_of(reply: &Value) -> Value {
    let entries = reply["embeddings"].as_array().unwrap().iter();
    entries
        .map(|entry| json!([entry["model"], entry["embedded"], entry["total"]]))
        .collect()
}

fn body(fields: Value) -> Value {
    let mut body = json!({"classes": ["red", "blue"]});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    with_image(body)
}

/// Starts a server on which three images wait for a busy model, to share its next pass. `actions` are those of the
/// looks after the busy one. Returns the replies.
async fn share_a_pass(actions: Vec<Action>) -> (App, Vec<Reply>) {
    let app = App::start_with(|config| config.images.cache_bytes = 0).await;
    for _ in 0..TIMED_ALONE {
        app.segment(&body(json!({}))).await.ok();
    }
    app.control.on_look(Action::Answer);
    actions.into_iter().for_each(|action| app.control.on_look(action));
    let busy = app.control.hold_score();
    let first = app.spawn_segment(body(json!({})));
    // The look and the score.
    app.control.entered().await;
    app.control.entered().await;
    let mut waiting = Vec::new();
    for place in 1..=3 {
        waiting.push(app.spawn_segment(body(json!({}))));
        app.until_metric(r#"maskclip_queue_depth{model="colours"}"#, place)
            .await;
    }
    drop(busy);
    first.await.unwrap().ok();
    let mut replies = Vec::new();
    for reply in waiting {
        replies.push(reply.await.unwrap());
    }
    (app, replies)
}

#[tokio::test]
async fn images_whose_shared_pass_panics_are_tried_alone_with_the_same_model() {
    let (app, replies) = share_a_pass(vec![Action::Panic]).await;
    replies.iter().for_each(|reply| drop(reply.ok()));
    assert_eq!(app.metric(PANICS).await, 1);
    assert_eq!((app.metric(SUCCEEDED).await, app.metric(FAILED).await), (0, 0));
}

#[tokio::test]
async fn an_image_that_panics_alone_costs_a_reload_and_the_images_behind_it_are_answered_all_the_same() {
    // The shared pass panics, the first image is answered alone, the second panics alone.
    let (app, replies) = share_a_pass(vec![Action::Panic, Action::Answer, Action::Panic]).await;
    let statuses: Vec<_> = replies.iter().map(|reply| reply.status.as_u16()).collect();
    assert_eq!(statuses, [200, 500, 200]);
    assert_eq!(app.metric(PANICS).await, 2);
    assert_eq!((app.metric(SUCCEEDED).await, app.metric(FAILED).await), (1, 0));
}

#[tokio::test]
async fn a_model_that_is_down_answers_503_at_once_and_the_others_do_not_notice() {
    let (app, _student) = App::start_two(|config| config.engine.queue_capacity = 4).await;
    let (release, released) = mpsc::channel();
    app.control.on_score(Action::PanicAfter(released));
    let panicking = app.spawn_segment(body(json!({})));
    app.control.entered().await;
    let waiting = app.spawn_segment(body(json!({})));
    app.until_metric(r#"maskclip_queue_depth{model="colours"}"#, 1).await;
    let with_new_texts = app.spawn_segment(body(json!({"classes": ["red", "a new word"]})));
    app.until_metric(r#"maskclip_queue_depth{model="colours"}"#, 2).await;

    app.control.break_loads(true);
    drop(release);
    assert_eq!(panicking.await.unwrap().status, StatusCode::INTERNAL_SERVER_ERROR);
    for refused in [waiting, with_new_texts] {
        let refused = refused.await.unwrap();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", refused.body);
        assert_eq!(refused.json()["type"], "/problems/model-unavailable");
        assert_eq!(refused.header("retry-after"), "1");
    }
    assert_eq!(app.metric("maskclip_requests_in_flight").await, 0);
    let refused = app.segment(&body(json!({}))).await.json();
    let detail = refused["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("the model colours cannot be loaded; the next attempt is in 0."),
        "{detail}"
    );
    for _ in 0..10 {
        app.segment(&body(json!({"model": "fruit"}))).await.ok();
    }
    // However long it lasts, the next attempt is never far away.
    let several_attempts = async || app.metric(FAILED).await >= 4;
    until(several_attempts).await;
    assert_eq!(app.metric(SUCCEEDED).await, 0);

    app.control.break_loads(false);
    app.until_model("colours", ModelState::Ready).await;
    app.segment(&body(json!({}))).await.ok();
    assert_eq!((app.metric(PANICS).await, app.metric(SUCCEEDED).await), (1, 1));
}

#[tokio::test]
async fn a_student_whose_worker_is_down_refuses_texts_that_its_teacher_embeds() {
    let (app, student) = App::start_two(|_| ()).await;
    student.break_loads(true);
    student.on_score(Action::Panic);
    assert_eq!(app.segment(&body(json!({"model": "fruit"}))).await.status, 500);
    app.until_model("fruit", ModelState::Failed).await;
    let fields = json!({"model": "fruit", "classes": ["red", "a new word"]});
    assert_eq!(app.segment(&body(fields)).await.status, 503);
    app.segment(&body(json!({"classes": ["red", "a new word"]}))).await.ok();
    // What the teacher has embedded counts for the student.
    assert_eq!(app.put("new", json!(["red", "a new word"])).await.status, 201);
    assert_eq!(app.embeddings("new").await, json!([["colours", 2, 2], ["fruit", 2, 2]]));
}

#[tokio::test]
async fn texts_that_a_model_promised_before_it_went_down_are_embedded_by_another_that_needs_them() {
    let (app, _student) = App::start_two(|_| ()).await;
    let (release, released) = mpsc::channel();
    app.control.on_score(Action::PanicAfter(released));
    let panicking = app.spawn_segment(body(json!({})));
    app.control.entered().await;
    let classes = json!(["red", "a new word"]);
    let promised = app.spawn_segment(body(json!({"classes": classes})));
    app.until_metric(r#"maskclip_queue_depth{model="colours"}"#, 1).await;
    let shares = app.spawn_segment(body(json!({"classes": classes, "model": "fruit"})));
    // The other text has been embedded for the first request.
    app.until_metric("maskclip_vocabulary_hits_total", 3).await;
    app.control.break_loads(true);
    drop(release);
    assert_eq!(panicking.await.unwrap().status, 500);
    assert_eq!(promised.await.unwrap().status, 503);
    shares.await.unwrap().ok();
}

#[tokio::test]
async fn readiness_lists_the_models_and_a_setting_says_whether_one_is_enough() {
    for (ready_when, status) in [(ReadyWhen::All, 503), (ReadyWhen::Any, 200)] {
        let (app, student) = App::start_two(|config| config.engine.ready_when = ready_when).await;
        let ready = json!([{"name": "colours", "status": "ready"}, {"name": "fruit", "status": "ready"}]);
        assert_eq!(app.get("/health/ready").await.ok()["models"], ready);
        student.break_loads(true);
        student.on_score(Action::Panic);
        app.segment(&body(json!({"model": "fruit"}))).await;
        app.until_model("fruit", ModelState::Failed).await;
        let reply = app.get("/health/ready").await;
        assert_eq!(reply.status.as_u16(), status);
        let mut models = reply.json()["models"].take();
        assert!(models[1]["next_attempt_seconds"].take().is_f64());
        models[1].as_object_mut().unwrap().remove("next_attempt_seconds");
        assert_eq!(
            models,
            json!([
                {"name": "colours", "status": "ready"},
                {
                    "name": "fruit",
                    "status": "failed",
                    "detail": "cannot load the model fruit: the fake is broken",
                },
            ])
        );
    }
}

#[tokio::test]
async fn with_any_the_server_is_ready_while_another_model_is_still_being_loaded() {
    let (first, second) = (Control::default(), Control::default());
    let load = second.hold_load();
    let models = vec![first.model(), second.student()];
    let app = App::launch_models(models, first, |config| config.engine.ready_when = ReadyWhen::Any);
    app.until(Readiness::Ready).await;
    let models = app.get("/health/ready").await.ok()["models"].take();
    assert_eq!(models[1], json!({"name": "fruit", "status": "starting"}));
    drop(load);
    app.until_model("fruit", ModelState::Ready).await;
}

/// Lets a worker panic and the model be loaded anew, which is refused. Returns why.
async fn refused_after_a_panic(app: &App) -> Value {
    app.control.on_score(Action::Panic);
    app.segment(&body(json!({}))).await;
    app.until_model("colours", ModelState::Failed).await;
    app.get("/health/ready").await.json()["models"][0]["detail"].take()
}

#[tokio::test]
async fn weights_that_have_changed_on_disk_are_refused_until_the_first_are_back() {
    let app = App::start().await;
    app.control
        .replace_files(Some(|info| info.weights_sha256 = "ab".repeat(32)));
    let detail = refused_after_a_panic(&app).await;
    assert_eq!(
        detail,
        format!(
            "cannot load the model colours: its weights have changed on disk: their SHA-256 is {}, and was {} when the \
             server started; put the first file back, or restart the server",
            "ab".repeat(32),
            "c0".repeat(32)
        )
    );
    assert_eq!(app.segment(&body(json!({}))).await.status, 503);
    let digest = async || app.get("/v1/models").await.ok()["models"][0]["weights_sha256"].take();
    assert_eq!(digest().await, "c0".repeat(32));

    app.control.replace_files(None);
    app.until(Readiness::Ready).await;
    app.segment(&body(json!({}))).await.ok();
}

#[tokio::test]
async fn a_configuration_that_changes_the_embeddings_of_texts_is_refused_until_the_first_is_back() {
    let app = App::start().await;
    app.control
        .replace_files(Some(|info| info.text_variant = "gelu".to_owned()));
    let detail = refused_after_a_panic(&app).await;
    assert_eq!(
        detail,
        "cannot load the model colours: the configuration of its text tower has changed on disk since the server started; \
         put the first file back, or restart the server"
    );
    app.control.replace_files(None);
    app.until(Readiness::Ready).await;
}

#[tokio::test]
async fn a_first_load_that_fails_says_which_model_in_one_line() {
    let control = Control::default();
    control.break_loads(true);
    let app = App::launch(control, |_| ());
    let error = app.engine.ready().await.unwrap_err().to_string();
    assert_eq!(error, "cannot load the model colours: the fake is broken");
    let models = app.get("/health/ready").await.json()["models"].take();
    assert_eq!(
        models,
        json!([{"name": "colours", "status": "failed", "detail": error}])
    );
}

#[tokio::test]
async fn a_vocabulary_that_is_defined_while_the_model_loads_is_embedded_once_it_is_ready() {
    let control = Control::default();
    let load = control.hold_load();
    let app = App::launch(control, |_| ());
    let reply = app.put("fruit", json!(["red", "green", "blue"])).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    assert_eq!(embeddings_of(&reply.json()), json!([["colours", 0, 3]]));
    drop(load);
    app.until_embedded("fruit", json!([["colours", 3, 3]])).await;
}

#[tokio::test]
async fn a_vocabulary_whose_embedding_a_failure_cut_off_is_taken_up_after_it() {
    let app = App::start().await;
    let (release, released) = mpsc::channel();
    app.control.on_score(Action::PanicAfter(released));
    let panicking = app.spawn_segment(body(json!({})));
    app.control.entered().await;
    assert_eq!(app.put("words", json!(["a", "b"])).await.status, 202);
    app.until_metric(r#"maskclip_queue_depth{model="colours"}"#, 1).await;
    app.control.break_loads(true);
    drop(release);
    panicking.await.unwrap();
    app.until_model("colours", ModelState::Failed).await;
    assert_eq!(app.put("more", json!(["c"])).await.status, 202);

    app.control.break_loads(false);
    app.until_embedded("words", json!([["colours", 2, 2]])).await;
    app.until_embedded("more", json!([["colours", 1, 1]])).await;
}

#[tokio::test]
async fn a_vocabulary_over_which_the_model_panics_does_not_keep_it_from_being_ready() {
    let control = Control::default();
    let load = control.hold_load();
    let app = App::launch(control, |_| ());
    app.put("poison", json!(["a"])).await;
    // The task of the PUT finds that the model is not ready.
    tokio::task::yield_now().await;
    // The warm-up, the poison.
    app.control.on_embed(Action::Answer);
    app.control.on_embed(Action::Panic);
    drop(load);
    app.until_metric(SUCCEEDED, 1).await;
    app.until(Readiness::Ready).await;
    app.put("sound", json!(["b"])).await;
    app.until_embedded("sound", json!([["colours", 1, 1]])).await;
    assert_eq!(app.embeddings("poison").await, json!([["colours", 0, 1]]));
    assert_eq!((app.metric(PANICS).await, app.metric(SUCCEEDED).await), (1, 1));
}

#[tokio::test]
async fn an_engine_that_closes_answers_what_waits_and_keeps_the_texts_under_way() {
    let app = App::start().await;
    let hold = app.control.hold_embed();
    app.put("words", json!(["a"])).await;
    app.control.entered().await;
    let waiting = app.spawn_segment(body(json!({"classes": ["red"]})));
    app.until_metric(r#"maskclip_queue_depth{model="colours"}"#, 1).await;
    let closing = tokio::spawn({
        let app = app.clone();
        async move { app.engine.close(Instant::now() + Duration::from_secs(3600)).await }
    });
    assert_eq!(waiting.await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        app.segment(&body(json!({}))).await.json()["type"],
        "/problems/unavailable"
    );
    drop(hold);
    closing.await.unwrap();
    assert_eq!(app.embeddings("words").await, json!([["colours", 1, 1]]));
}

#[tokio::test]
async fn an_engine_that_closes_waits_neither_for_a_load_nor_for_a_job_nobody_wants() {
    let an_hour = || Instant::now() + Duration::from_secs(3600);
    let control = Control::default();
    let _load = control.hold_load();
    let loading = App::launch(control, |_| ());
    loading.control.entered().await;
    loading.engine.close(an_hour()).await;

    let app = App::start().await;
    let _score = app.control.hold_score();
    let given_up = app.spawn_segment(body(json!({})));
    app.control.entered().await;
    given_up.abort();
    app.engine.close(an_hour()).await;
}

#[tokio::test]
async fn an_engine_that_closes_does_not_wait_longer_than_it_may() {
    let app = App::start().await;
    let _embed = app.control.hold_embed();
    app.put("words", json!(["a"])).await;
    app.control.entered().await;
    app.engine.close(Instant::now() + Duration::from_millis(20)).await;
}

#[tokio::test]
async fn requests_that_wait_for_a_reload_leave_slots_to_other_models() {
    let (app, _student) = App::start_two(|config| config.engine.queue_capacity = 4).await;
    let reload = app.control.hold_load();
    app.control.on_score(Action::Panic);
    assert_eq!(app.segment(&body(json!({}))).await.status, 500);
    let mut waiting = Vec::new();
    for place in 1..=2 {
        waiting.push(app.spawn_segment(body(json!({}))));
        app.until_metric(r#"maskclip_queue_depth{model="colours"}"#, place)
            .await;
    }
    let refused = app.segment(&body(json!({}))).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        refused.json()["detail"],
        "the model colours is being loaded again after a failure"
    );
    assert_eq!(refused.header("retry-after"), "1");
    app.segment(&body(json!({"model": "fruit"}))).await.ok();
    drop(reload);
    for reply in waiting {
        reply.await.unwrap().ok();
    }
}

/// Faults that last. `FAULT_SECONDS=60` (`make test-faults`) lets them last for a minute, and holds the recovery to its
/// bar; otherwise they last for a moment, and a busy machine may take its time.
mod faults {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// How soon a model must answer after its cause of failure is gone.
    const RECOVERY: Duration = Duration::from_secs(1);

    /// Returns how long the faults last, and whether that was asked for.
    fn fault() -> (Duration, bool) {
        let asked = std::env::var("FAULT_SECONDS").ok();
        let seconds = asked.as_ref().map_or(0.3, |seconds| seconds.parse().unwrap());
        (Duration::from_secs_f64(seconds), asked.is_some())
    }

    /// Sends requests to a model, one after the other, from eight clients at once, until the end. Returns the replies'
    /// statuses, as counts of 200 and of all others.
    async fn load(app: &App, model: &'static str, end: Instant) -> [usize; 2] {
        let counts: Arc<[AtomicUsize; 2]> = Arc::default();
        let clients = [(); 8].map(|()| {
            let (app, counts) = (app.clone(), Arc::clone(&counts));
            tokio::spawn(async move {
                while Instant::now() < end {
                    let reply = app.segment(&body(json!({"model": model}))).await;
                    counts[usize::from(reply.status != 200)].fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        for client in clients {
            client.await.unwrap();
        }
        [0, 1].map(|kind| counts[kind].load(Ordering::Relaxed))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn panics_in_some_requests_fail_these_alone() {
        let (app, _student) = App::start_two(|config| config.images.cache_bytes = 0).await;
        // A moment has too few requests for one of a hundred.
        let (lasts, asked) = fault();
        app.control.panic_every(if asked { 100 } else { 10 });
        let end = Instant::now() + lasts;
        let [panicking, others] = tokio::join!(load(&app, "colours", end), load(&app, "fruit", end)).into();
        app.control.panic_every(0);
        app.until(Readiness::Ready).await;
        let (panics, reloads) = (app.metric(PANICS).await, app.metric(SUCCEEDED).await);
        println!("{panicking:?} and {others:?} requests answered and failed, {panics} panics, {reloads} reloads");
        assert_eq!(others[1], 0, "the other model does not notice");
        assert_eq!(panicking[1] as u64, reloads, "only an image that panics alone fails");
        assert_eq!(app.metric(FAILED).await, 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_model_that_cannot_be_loaded_for_long_is_back_soon_after() {
        let (app, _student) = App::start_two(|config| config.images.cache_bytes = 0).await;
        let (lasts, asked) = fault();
        app.control.break_loads(true);
        app.control.on_score(Action::Panic);
        app.segment(&body(json!({}))).await;
        app.until_model("colours", ModelState::Failed).await;
        let others = load(&app, "fruit", Instant::now() + lasts).await;
        assert_eq!(others[1], 0, "the other model does not notice");

        app.control.break_loads(false);
        let start = Instant::now();
        until(async || app.segment(&body(json!({}))).await.status == 200).await;
        let recovery = start.elapsed();
        let attempts = app.metric(FAILED).await;
        println!("{others:?} requests to the other model, {attempts} failed attempts, back after {recovery:.3?}");
        assert!(!asked || recovery < RECOVERY, "{recovery:?}");
    }
}
