//! The life of a vocabulary: it is defined, used, changed by those who know its state, and deleted.

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use maskclip::vocabulary::{DiskStore, EmbedAhead};
use serde_json::{Value, json};

use crate::fake::Control;
use crate::support::{App, REQUEST_ID, Reply, request, until, with_image};

#[tokio::test]
async fn a_vocabulary_is_defined_embedded_used_and_dropped() {
    let app = App::start().await;
    let hold = app.control.hold_embed();
    let classes = json!(["red", {"name": "blue", "synonyms": ["azure"]}]);
    let created = put(
        &app,
        "paint",
        &json!({"classes": classes, "background": ["green"]}),
        &[],
    )
    .await;
    assert_eq!(created.status, StatusCode::ACCEPTED);
    let mut reply = created.json();
    assert!(reply["age_seconds"].take().as_f64().unwrap() >= 0.0);
    assert_eq!(
        reply,
        json!({
            "name": "paint",
            "shipped": false,
            "classes": classes,
            "background": ["green"],
            "hits": 0,
            "age_seconds": null,
            "embeddings": [
                {"model": "colours", "templates": "maskclip-85", "embedded": 0, "total": 4, "bytes": 0},
            ],
        })
    );
    drop(hold);

    // The request waits for embeddings that are still missing.
    let labelled = app.segment(&with_image(json!({"vocabulary": "paint"}))).await.ok();
    assert_eq!(names(&labelled["classes"]), ["red", "blue"]);
    let seen = app.get("/v1/vocabularies/paint").await;
    assert_eq!(seen.header("etag"), created.header("etag"));
    let seen = seen.ok();
    assert_eq!(
        (&seen["hits"], &seen["embeddings"][0]["embedded"]),
        (&json!(1), &json!(4))
    );
    assert_eq!(seen["embeddings"][0]["bytes"], 4 * 4 * 4);

    // An equal definition finds all texts embedded.
    let same = put(
        &app,
        "paint",
        &json!({"classes": classes, "background": ["green"]}),
        &[],
    )
    .await;
    assert_eq!(
        (same.status, same.header("etag")),
        (StatusCode::OK, created.header("etag"))
    );
    let other_name = put(&app, "copy", &json!({"classes": classes}), &[]).await;
    assert_eq!(other_name.status, StatusCode::CREATED);

    assert_eq!(delete(&app, "paint", &[]).await.status, StatusCode::NO_CONTENT);
    assert_eq!(app.get("/v1/vocabularies/paint").await.status, StatusCode::NOT_FOUND);
    assert_eq!(delete(&app, "paint", &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn shipped_texts_are_embedded_before_anybody_asks_where_the_settings_say_so() {
    let app = App::start_with(|config| config.vocabulary.embed_ahead = EmbedAhead::Background).await;
    let names = app.engine.settings().vocabulary.background.len() as u64;
    until(async || app.metric("maskclip_vocabulary_misses_total").await == names).await;
    let body = with_image(json!({"classes": ["tree"], "background": true}));
    app.segment(&body).await.ok();
    let misses = app.metric("maskclip_vocabulary_misses_total").await;
    assert_eq!(misses, names, "the class is a background name, too");

    let app = App::start_with(|config| config.vocabulary.embed_ahead = EmbedAhead::Vocabularies).await;
    until(async || {
        let status = app.get("/v1/vocabularies/voc-21/status").await.ok();
        status["ready"] == true
    })
    .await;
}

#[tokio::test]
async fn the_status_of_a_vocabulary_says_when_to_ask_again_until_it_is_ready() {
    let app = App::start().await;
    let hold = app.control.hold_embed();
    let created = put(&app, "paint", &json!({"classes": ["red", "blue"]}), &[]).await;
    assert_eq!(created.status, StatusCode::ACCEPTED);
    assert_eq!(created.header("retry-after"), "1");
    let path = "/v1/vocabularies/paint/status";
    let reply = app.get(path).await;
    assert_eq!(
        (reply.header("retry-after"), reply.header("cache-control")),
        ("1", "no-store")
    );
    assert_eq!(
        reply.ok(),
        json!({"name": "paint", "ready": false, "embeddings": [
            {"model": "colours", "templates": "maskclip-85", "embedded": 0, "total": 2, "bytes": 0},
        ]})
    );
    drop(hold);
    until(async || app.get(path).await.ok()["ready"] == true).await;
    let reply = app.get(path).await;
    assert!(!reply.headers.contains_key("retry-after"));
    assert_eq!(reply.ok()["embeddings"][0]["embedded"], 2);
    assert_eq!(
        app.get("/v1/vocabularies/none/status").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn the_vocabulary_of_a_model_that_is_down_is_not_ready() {
    let control = Control::default();
    let hold = control.hold_load();
    let app = App::launch(control, |_| ());
    put(&app, "paint", &json!({"classes": ["red"]}), &[]).await;
    assert_eq!(app.get("/v1/vocabularies/paint/status").await.ok()["ready"], false);
    drop(hold);
    until(async || app.get("/v1/vocabularies/paint/status").await.ok()["ready"] == true).await;
}

#[tokio::test]
async fn a_vocabularys_options_take_the_place_of_the_defaults_and_the_request_goes_before() {
    let app = App::start().await;
    let options = json!({
        "templates": "simple", "synonyms": "max", "prompt_denoising": 0.25,
        "background_threshold": 0.5, "background_area": 0.125,
    });
    let body = json!({"classes": [{"name": "red", "synonyms": ["azure"]}, "blue"], "options": options});
    let created = put(&app, "paint", &body, &[]).await;
    let reply = created.json();
    assert_eq!(
        (&reply["options"], &reply["embeddings"][0]["templates"]),
        (&options, &json!("simple"))
    );
    let plain = put(&app, "plain", &json!({"classes": body["classes"]}), &[]).await;
    assert_ne!(plain.header("etag"), created.header("etag"));

    app.segment(&with_image(json!({"vocabulary": "paint"}))).await.ok();
    let asked = app.control.asked();
    assert_eq!(
        (asked.owners.len(), asked.options.scoring.prompt_denoising),
        (3, Some(0.25))
    );

    let own_words = json!({"vocabulary": "paint", "synonyms": "mean", "prompt_denoising": 0});
    app.segment(&with_image(own_words)).await.ok();
    let asked = app.control.asked();
    assert_eq!((asked.owners.len(), asked.options.scoring.prompt_denoising), (2, None));

    // At this temperature all probabilities are below the threshold, unless the request sets another.
    let unlabelled = async |request: Value| {
        let classes = app.segment(&with_image(request)).await.ok()["classes"].take();
        128 - classes
            .as_array()
            .unwrap()
            .iter()
            .map(|class| class["pixels"].as_u64().unwrap())
            .sum::<u64>()
    };
    let cold = json!({"vocabulary": "paint", "temperature": 0.01});
    assert_eq!(unlabelled(cold).await, 128);
    let lenient = json!({"vocabulary": "paint", "temperature": 0.01, "background": {"names": [], "threshold": 0.1}});
    assert_eq!(unlabelled(lenient).await, 0);
}

#[tokio::test]
async fn an_option_that_is_none_is_422_with_its_path() {
    let app = App::start().await;
    for (options, path) in [
        (json!({"background_area": 2}), "options.background_area"),
        (json!({"synonyms": "least"}), "options.synonyms"),
        (json!({"template": "simple"}), "options.template"),
    ] {
        let refused = put(&app, "paint", &json!({"classes": ["red"], "options": options}), &[]).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(refused.json()["path"], path);
    }
}

#[tokio::test]
async fn if_none_match_star_creates_only_what_is_not_there() {
    let app = App::start().await;
    let create = [(header::IF_NONE_MATCH, "*")];
    put(&app, "paint", &json!({"classes": ["red"]}), &create).await;
    let second = put(&app, "paint", &json!({"classes": ["blue"]}), &create).await;
    assert_eq!(second.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(names(&app.get("/v1/vocabularies/paint").await.ok()["classes"]), ["red"]);
}

#[tokio::test]
async fn if_match_changes_only_what_was_seen() {
    let app = App::start().await;
    let first = put(&app, "paint", &json!({"classes": ["red"]}), &[]).await;
    let seen = [(header::IF_MATCH, first.header("etag"))];
    let second = put(&app, "paint", &json!({"classes": ["blue"]}), &seen).await;
    assert!(second.status.is_success());
    assert_ne!(second.header("etag"), first.header("etag"));

    let expected = json!({
        "type": "/problems/precondition-failed",
        "title": "The precondition does not hold",
        "status": 412,
        "detail": format!(
            "the vocabulary \"paint\" is not in the state that was asked for: its entity tag is {}",
            second.header("etag"),
        ),
        "instance": REQUEST_ID,
    });
    put(&app, "paint", &json!({"classes": ["green"]}), &seen)
        .await
        .assert_problem(&expected);
    delete(&app, "paint", &seen).await.assert_problem(&expected);
    let any = [(header::IF_MATCH, "*")];
    let missing = put(&app, "other", &json!({"classes": ["red"]}), &any).await;
    assert_eq!(missing.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(
        missing.json()["detail"],
        "the vocabulary \"other\" is not in the state that was asked for: it does not exist"
    );
    assert_eq!(delete(&app, "paint", &any).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_shipped_vocabulary_can_be_used_but_not_changed() {
    let app = App::start().await;
    let list = app.get("/v1/vocabularies").await.ok();
    let shipped = list["vocabularies"][0].clone();
    assert_eq!(shipped["shipped"], true);
    let name = shipped["name"].as_str().unwrap();
    let labelled = app.segment(&with_image(json!({"vocabulary": name}))).await.ok();
    assert_eq!(labelled["classes"].as_array().unwrap().len(), shipped["class_count"]);

    let expected = json!({
        "type": "/problems/vocabulary-read-only",
        "title": "The vocabulary is read-only",
        "status": 409,
        "detail": format!("the vocabulary {name:?} is shipped with the server and read-only"),
        "instance": REQUEST_ID,
    });
    put(&app, name, &json!({"classes": ["red"]}), &[])
        .await
        .assert_problem(&expected);
    delete(&app, name, &[]).await.assert_problem(&expected);
}

#[tokio::test]
async fn recent_class_lists_are_listed_latest_first() {
    let app = App::start().await;
    let first = app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
    app.segment(&with_image(json!({"classes": ["green"], "templates": "simple"})))
        .await
        .ok();
    app.segment(&with_image(json!({"classes": ["red", "blue"]}))).await.ok();
    let list = app.get("/v1/vocabularies?kind=recent").await.ok();
    let recent = list["vocabularies"].as_array().unwrap();
    assert_eq!(
        recent
            .iter()
            .map(|entry| entry["hits"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [2, 1]
    );
    assert_eq!(recent[0]["id"], first["vocabulary"]["id"]);
    assert_eq!(recent[0]["first_names"], json!(["red", "blue"]));
    assert_eq!(recent[0]["class_count"], 2);
    assert_eq!(
        recent[1]["embeddings"],
        json!([{"model": "colours", "templates": "simple", "embedded": 1, "total": 1, "bytes": 16}])
    );
    assert!(recent[0]["name"].is_null());
}

#[tokio::test]
async fn a_query_that_is_not_understood_is_422() {
    let app = App::start().await;
    for query in ["kind=old", "sort=name"] {
        let problem = app.get(&format!("/v1/vocabularies?{query}")).await.json();
        assert_eq!(problem["type"], "/problems/invalid-request", "{query}");
    }
}

#[tokio::test]
async fn names_lists_and_their_number_have_limits() {
    let app = App::start_with(|config| {
        config.limits.vocabulary.max_vocabularies = 1;
        config.limits.vocabulary.max_classes = 2;
    })
    .await;
    let classes = json!({"classes": ["red"]});
    let bad_name = put(&app, "No%20Name", &classes, &[]).await.json();
    assert_eq!((&bad_name["status"], &bad_name["path"]), (&json!(422), &json!("name")));
    let too_long = put(&app, "paint", &json!({"classes": ["a", "b", "c"]}), &[]).await;
    too_long.assert_problem(&json!({
        "type": "/problems/invalid-request",
        "title": "The request is invalid",
        "status": 422,
        "detail": "3 classes are more than limits.max_classes = 2",
        "instance": REQUEST_ID,
        "limit": {"name": "limits.max_classes", "value": 2},
    }));
    let unknown = put(&app, "paint", &json!({"classes": [], "templates": "simple"}), &[])
        .await
        .json();
    assert_eq!(
        (&unknown["status"], &unknown["path"]),
        (&json!(422), &json!("templates"))
    );
    assert!(put(&app, "paint", &classes, &[]).await.status.is_success());
    put(&app, "more", &classes, &[]).await.assert_problem(&json!({
        "type": "/problems/too-many-vocabularies",
        "title": "There are too many vocabularies",
        "status": 409,
        "detail": "there are 1 vocabularies, as many as limits.max_vocabularies allows",
        "instance": REQUEST_ID,
        "limit": {"name": "limits.max_vocabularies", "value": 1},
    }));
}

#[tokio::test]
async fn a_condition_that_is_no_entity_tag_is_400() {
    let app = App::start().await;
    let headers = [(header::IF_MATCH, "fruit")];
    let refused = put(&app, "paint", &json!({"classes": ["red"]}), &headers).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.json()["detail"].as_str().unwrap().contains("if-match"));
    assert_eq!(delete(&app, "paint", &headers).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn names_and_definitions_have_limits_in_bytes() {
    let app = App::start_with(|config| {
        config.limits.vocabulary.max_vocabulary_bytes = 10;
        config.vocabulary.definitions_bytes = 1000;
    })
    .await;
    let too_long = json!({"classes": ["red", "green", "blue"]});
    let expected = json!({
        "type": "/problems/invalid-request",
        "title": "The request is invalid",
        "status": 422,
        "detail": "the names of the list have 12 bytes, more than limits.max_vocabulary_bytes = 10",
        "instance": REQUEST_ID,
        "limit": {"name": "limits.max_vocabulary_bytes", "value": 10},
    });
    put(&app, "paint", &too_long, &[]).await.assert_problem(&expected);
    app.segment(&with_image(too_long)).await.assert_problem(&expected);

    let mut names = 0..20;
    let refused = loop {
        let name = format!("paint-{}", names.next().expect("there is a limit"));
        let reply = put(&app, &name, &json!({"classes": ["red"]}), &[]).await;
        if !reply.status.is_success() {
            break reply;
        }
    };
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let refused = refused.json();
    assert_eq!(refused["type"], "/problems/too-many-vocabularies");
    assert_eq!(
        refused["limit"],
        json!({"name": "vocabulary.definitions_bytes", "value": 1000})
    );
    let defined = app.metric("maskclip_vocabularies_defined").await;
    assert!((1..20).contains(&defined), "{defined}");
    let bytes = app.metric("maskclip_vocabularies_defined_bytes").await;
    assert!((100..=1000).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn recent_lists_are_counted_in_bytes() {
    let app = App::start_with(|config| config.vocabulary.recent_bytes = 2000).await;
    assert_eq!(app.metric("maskclip_recent_lists_bytes").await, 0);
    for classes in [
        json!(["red"]),
        json!(["red", "blue"]),
        json!(["green"]),
        json!(["blue", "green"]),
    ] {
        app.segment(&with_image(json!({"classes": classes}))).await.ok();
        let bytes = app.metric("maskclip_recent_lists_bytes").await;
        assert!((100..=2000).contains(&bytes), "{bytes}");
    }
}

#[tokio::test]
async fn whether_vocabularies_last_stands_beside_them() {
    let app = App::start().await;
    assert_eq!(app.get("/v1/vocabularies").await.ok()["durable"], false);
    assert_eq!(app.metric("maskclip_vocabularies_durable").await, 0);
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&folder.path().join("store"), 1 << 20).unwrap();
    let app = App::start_on(disk, |_| ()).await;
    assert_eq!(app.get("/v1/vocabularies").await.ok()["durable"], true);
    assert_eq!(app.metric("maskclip_vocabularies_durable").await, 1);
}

#[tokio::test]
async fn a_store_that_another_process_holds_is_503_for_changes_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let disk = DiskStore::open(&path, 1 << 20).unwrap();
    let app = App::start_on(disk, |config| config.vocabulary.store_wait_seconds = 0.0).await;
    assert!(
        put(&app, "paint", &json!({"classes": ["red"]}), &[])
            .await
            .status
            .is_success()
    );
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let expected = json!({
        "type": "/problems/store-busy",
        "title": "The store of vocabularies is busy",
        "status": 503,
        "detail": "the vocabulary \"paint\" was not changed: others have held the store (vocabulary.store_path) for longer \
                   than vocabulary.store_wait_seconds = 0",
        "instance": REQUEST_ID,
        "limit": {"name": "vocabulary.store_wait_seconds", "value": 0.0},
    });
    let refused = put(&app, "paint", &json!({"classes": ["blue"]}), &[]).await;
    assert_eq!(refused.header("retry-after"), "1");
    refused.assert_problem(&expected);
    delete(&app, "paint", &[]).await.assert_problem(&expected);
    assert_eq!(names(&app.get("/v1/vocabularies/paint").await.ok()["classes"]), ["red"]);
    app.segment(&with_image(json!({"vocabulary": "paint"}))).await.ok();
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(delete(&app, "paint", &[]).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_507_for_changes_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("folder/store");
    let disk = DiskStore::open(&path, 1 << 20).unwrap();
    let app = App::start_on(disk, |_| ()).await;
    assert!(
        put(&app, "paint", &json!({"classes": ["red"]}), &[])
            .await
            .status
            .is_success()
    );
    // A file where the folder was: no store can be made there.
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path.parent().unwrap(), "").unwrap();
    let expected = json!({
        "type": "/problems/not-stored",
        "title": "The change could not be stored",
        "status": 507,
        "detail": "the vocabulary \"paint\" was not changed: the store (vocabulary.store_path) cannot be written; the \
                   server's log has the reason",
        "instance": REQUEST_ID,
    });
    put(&app, "paint", &json!({"classes": ["blue"]}), &[])
        .await
        .assert_problem(&expected);
    delete(&app, "paint", &[]).await.assert_problem(&expected);
    assert_eq!(names(&app.get("/v1/vocabularies/paint").await.ok()["classes"]), ["red"]);
    app.segment(&with_image(json!({"vocabulary": "paint"}))).await.ok();
    assert_eq!(app.get("/v1/vocabularies").await.ok()["durable"], false);

    std::fs::remove_file(path.parent().unwrap()).unwrap();
    assert!(
        put(&app, "paint", &json!({"classes": ["blue"]}), &[])
            .await
            .status
            .is_success()
    );
    assert_eq!(app.get("/v1/vocabularies").await.ok()["durable"], true);
}

async fn put(app: &App, name: &str, body: &Value, headers: &[(header::HeaderName, &str)]) -> Reply {
    let mut put = request(Method::PUT, &format!("/v1/vocabularies/{name}"));
    put = put.header(header::CONTENT_TYPE, "application/json");
    for (header, value) in headers {
        put = put.header(header, *value);
    }
    app.send(put.body(Body::from(body.to_string())).unwrap()).await
}

async fn delete(app: &App, name: &str, headers: &[(header::HeaderName, &str)]) -> Reply {
    let mut delete = request(Method::DELETE, &format!("/v1/vocabularies/{name}"));
    for (header, value) in headers {
        delete = delete.header(header, *value);
    }
    app.send(delete.body(Body::empty()).unwrap()).await
}

fn names(classes: &Value) -> Vec<&str> {
    let name = |class: &'_ Value| class.as_str().is_some();
    let classes = classes.as_array().unwrap();
    classes
        .iter()
        .map(|class| {
            if name(class) {
                class.as_str().unwrap()
            } else {
                class["name"].as_str().unwrap()
            }
        })
        .collect()
}
