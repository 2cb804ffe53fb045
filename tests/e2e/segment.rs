//! The main job on real input: the embedded model labels a scene that it has not seen in training.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::server::{Server, agent};

/// The drawings in `examples/picnic.png`: their names and the centres in pixels.
const PICNIC: [(&str, usize, usize); 6] = [
    ("tiger", 110, 120),
    ("lemon", 268, 92),
    ("hamburger", 420, 110),
    ("penguin", 405, 276),
    ("strawberry", 250, 236),
    ("sunflower", 100, 290),
];

/// The label of pixels without a class in maps of up to 255 classes.
const UNLABELLED: u64 = 255;

pub fn picnic() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/picnic.png")).unwrap()
}

pub fn segment(server: &Server, request: &Value) -> Value {
    let mut reply = agent().post(server.url("/v1/segment")).send_json(request).unwrap();
    let body: Value = reply.body_mut().read_json().unwrap();
    assert_eq!(reply.status(), 200, "{body}");
    body
}

#[test]
fn the_classes_are_where_their_drawings_are() {
    let server = Server::start(&[]);
    let names: Vec<&str> = PICNIC.iter().map(|(name, ..)| *name).collect();
    let reply = segment(
        &server,
        &json!({
            "image": BASE64_STANDARD.encode(picnic()),
            "classes": names,
            "background": ["green background"],
            "output": {"label_map": "raw"},
        }),
    );
    assert_eq!((&reply["width"], &reply["height"]), (&json!(512), &json!(384)));
    let map = reply["label_map"]["data"].as_array().unwrap();
    let label = |x: usize, y: usize| map[y][x].as_u64().unwrap();
    for (id, (name, x, y)) in PICNIC.iter().enumerate() {
        assert_eq!(label(*x, *y), id as u64, "the middle of the {name}");
    }
    for (x, y) in [(5, 5), (506, 5), (5, 378), (506, 378)] {
        assert_eq!(label(x, y), UNLABELLED, "the corner at {x}, {y}");
    }
    let pixels: u64 = reply["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|class| class["pixels"].as_u64().unwrap())
        .sum();
    let labelled = map
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .filter(|id| **id != json!(UNLABELLED))
        .count();
    assert_eq!(pixels, labelled as u64, "statistics agree with the map");
}

#[test]
fn the_printed_example_works_as_pasted() {
    let mut server = Server::start_on_terminal();
    let example = server.printed_example();
    let output = std::process::Command::new("sh")
        .args(["-c", &example])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let reply: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {example} printed {output:?}"));
    assert_eq!(reply["model"], "demo", "{reply}");
    assert!(reply["classes"][0]["pixels"].as_u64().unwrap() > 0, "{reply}");
}

#[test]
fn a_class_list_seen_before_is_not_embedded_again() {
    let server = Server::start(&[]);
    let request = json!({
        "image": BASE64_STANDARD.encode(picnic()),
        "classes": ["tiger", "lemon"],
        "output": {"label_map": "none"},
    });
    segment(&server, &request);
    assert_eq!(
        (
            server.metric("maskclip_vocabulary_misses_total"),
            server.metric("maskclip_vocabulary_hits_total")
        ),
        (2, 0)
    );
    segment(&server, &request);
    assert_eq!(
        (
            server.metric("maskclip_vocabulary_misses_total"),
            server.metric("maskclip_vocabulary_hits_total")
        ),
        (2, 2)
    );
}

/// The second class list needs no look at the image by the embedded model.
#[test]
fn an_image_that_was_left_here_is_labelled_as_it_would_be_if_it_were_sent() {
    let server = Server::start(&[]);
    let image = BASE64_STANDARD.encode(picnic());
    let post = |body: &Value| {
        let mut reply = agent().post(server.url("/v1/images")).send_json(body).unwrap();
        assert_eq!(reply.status(), 201);
        let location = reply.headers()["location"].to_str().unwrap().to_owned();
        let body: Value = reply.body_mut().read_json().unwrap();
        (location, body["image_id"].as_str().unwrap().to_owned())
    };
    for (options, features_cached) in [
        (json!({}), true),
        (json!({"key_smoothing": "likeness", "prompt_denoising": 0.2}), false),
        (json!({"refinement": "pamr"}), true),
        (
            json!({"window": {"side": 192, "stride": 96}, "scales": [1, 1.5]}),
            false,
        ),
    ] {
        let ask = |given: Value| {
            let mut request = options.clone();
            let fields = request.as_object_mut().unwrap();
            fields.extend(given.as_object().unwrap().clone());
            fields.insert("classes".to_owned(), json!(["tiger", "lemon", "penguin", "sky"]));
            fields.insert("output".to_owned(), json!({"confidence_map": true}));
            let mut reply = segment(&server, &request);
            let cached = reply["features_cached"].take();
            (reply["timings"].take(), cached, reply)
        };
        let (location, id) = post(&json!({"image": image}));
        let (_, cached, held) = ask(json!({"image_id": id}));
        assert_eq!(cached, features_cached, "{options}");
        // Without the cached features the model looks at the image again.
        assert_eq!(
            agent()
                .delete(server.url(&format!("/v1/{location}")))
                .call()
                .unwrap()
                .status(),
            204
        );
        let (_, cached, sent) = ask(json!({"image": image}));
        assert_eq!(cached, false, "{options}");
        let (timings, cached, again) = ask(json!({"image": image}));
        assert_eq!(cached, true, "{options}");
        assert_eq!(timings["preprocess_seconds"] == 0.0, options["refinement"].is_null());
        assert_eq!(held, sent, "{options}");
        assert_eq!(again, sent, "{options}");
    }
}
