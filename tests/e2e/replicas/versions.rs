//! Builds of different versions beside each other, as in a rolling update: what each makes of what the other has written
//! to Redis and to the store on disk. It is read if its format is the same, and left alone otherwise.
//!
//! `tools/shared/versions` builds an older revision for the tests that need one. What Redis had from the first version
//! that used it lies in `keys_of_format_1.json`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::redis::{Redis, until};
use super::{MISSES, SHARED_HITS, ask, delete, first_class, get, image, is_stored, new_names, patient, put, replica};
use crate::segment::segment;
use crate::server::{SERVE, Server, build, this_build};

const STORE_PATH: &str = "MASKCLIP_VOCABULARY__STORE_PATH";

/// Rounds of changes by each build, in place of the changes of an hour.
const ROUNDS: usize = 25;

/// Returns the older build; none where nobody has made one.
fn older() -> Option<PathBuf> {
    let path = std::env::var_os("OLDER_MASKCLIP");
    if path.is_none() {
        println!("left out: there is no older build (make test-versions ARGS=REVISION)");
    }
    path.map(PathBuf::from)
}

/// Starts a build with settings in the environment and waits until it is ready.
fn start(program: &Path, environment: &[(&str, &str)]) -> Server {
    let mut command = build(program);
    command.args(SERVE).envs(environment.iter().copied());
    command.stderr(std::process::Stdio::null());
    Server::spawn(command)
}

fn start_shared(program: &Path, redis: &Redis) -> Server {
    let url = redis.url();
    start(
        program,
        &[
            ("MASKCLIP_SHARED__URL", &url),
            ("MASKCLIP_SHARED__TIMEOUT_SECONDS", "5"),
            ("MASKCLIP_SHARED__LOCK_SECONDS", "120"),
        ],
    )
}

/// Returns the formats of the keys that there are.
fn formats(redis: &Redis) -> BTreeSet<String> {
    let keys = redis.keys("maskclip:*");
    keys.iter()
        .map(|key| key.split(':').nth(1).unwrap().to_owned())
        .collect()
}

/// Returns how many operations on the shared state have failed.
fn failures(server: &Server) -> f64 {
    let metrics = server.metrics();
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("maskclip_shared_failures_total"));
    lines
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum()
}

/// Returns what decides whether text embeddings are of use to another replica.
fn weights(server: &Server) -> Value {
    let (_, models) = ask(server, "GET", "/v1/models", "", None);
    json!([models["models"][0]["weights_sha256"], models["models"][0]["precision"]])
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn an_older_build_and_this_one_work_on_one_redis() {
    let Some(older) = older() else { return };
    let redis = Redis::start(&[]);
    let servers = [start_shared(&older, &redis), start_shared(this_build(), &redis)];
    for (server, name) in servers.iter().zip(["of-the-older", "of-this"]) {
        // The texts of all vocabularies below, so that none is computed while others are counted.
        segment(
            server,
            &patient(json!({"image": image(), "classes": ["tiger", "lemon"]})),
        );
        assert!(is_stored(put(server, name, &["tiger"]).0));
    }
    let formats = formats(&redis);
    let is_shared = formats.len() == 1;
    println!("formats of keys: {formats:?}; the builds share: {is_shared}");
    let [older, this] = &servers;
    for (writer, reader) in [(older, this), (this, older)] {
        change_vocabularies(writer, reader, is_shared);
        ask_for_texts(writer, reader, is_shared);
        ask_for_images(writer, reader, is_shared);
    }
    for server in &servers {
        assert_eq!(failures(server), 0.0);
    }
}

/// Defines, changes and deletes on one build, and looks from the other.
fn change_vocabularies(writer: &Server, reader: &Server, is_shared: bool) {
    for round in 0..ROUNDS {
        let name = format!("vocabulary-{round}");
        assert!(is_stored(put(writer, &name, &["lemon"]).0));
        if !is_shared {
            assert_eq!(get(reader, &name).0, 404);
            assert_eq!(delete(writer, &name), 204);
            continue;
        }
        assert_eq!(first_class(reader, &name), "lemon");
        assert!(is_stored(put(reader, &name, &["tiger"]).0));
        assert_eq!(first_class(writer, &name), "tiger");
        let deleter = if round % 2 == 0 { writer } else { reader };
        assert_eq!(delete(deleter, &name), 204);
        assert_eq!((get(writer, &name).0, get(reader, &name).0), (404, 404));
    }
}

/// Asks both builds at once for the same new texts. With the same weights each is computed once.
fn ask_for_texts(writer: &Server, reader: &Server, is_shared: bool) {
    let servers = [writer, reader];
    let names = new_names(&format!("thing of {}", writer.id()));
    let request = patient(json!({"image": image(), "classes": names, "background": false}));
    let count = |metric| servers.iter().map(|server| server.metric(metric)).sum::<u64>();
    let before = (count(MISSES), count(SHARED_HITS));
    std::thread::scope(|scope| {
        for server in [writer, reader, writer, reader] {
            scope.spawn(|| segment(server, &request));
        }
    });
    let (computed, taken) = (count(MISSES) - before.0, count(SHARED_HITS) - before.1);
    println!(
        "{} texts asked of both: {computed} computed, {taken} taken from the other",
        names.len()
    );
    if is_shared && weights(writer) == weights(reader) {
        assert_eq!((computed, taken), (names.len() as u64, names.len() as u64));
    } else {
        assert_eq!((computed, taken), (2 * names.len() as u64, 0));
    }
}

/// Holds an image on one build and uses and deletes it on the other.
fn ask_for_images(writer: &Server, reader: &Server, is_shared: bool) {
    let (status, held) = ask(writer, "POST", "/v1/images", "", Some(&json!({"image": image()})));
    assert_eq!(status, 201);
    let path = format!("/v1/images/{}", held["image_id"].as_str().unwrap());
    let request = patient(json!({"image_id": held["image_id"], "classes": ["tiger", "lemon"]}));
    let by_id = |server: &Server| ask(server, "POST", "/v1/segment", "", Some(&request)).0;
    let expected = if is_shared { (200, 204, 404) } else { (404, 404, 200) };
    let deleted = |server: &Server| ask(server, "DELETE", &path, "", None).0;
    assert_eq!(by_id(writer), 200);
    assert_eq!((by_id(reader), deleted(reader), by_id(writer)), expected);
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn an_older_build_and_this_one_take_turns_on_one_store() {
    let Some(older) = older() else { return };
    for [first, second] in [[&*older, this_build()], [this_build(), &*older]] {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store.sqlite3").display().to_string();
        let disk = [(STORE_PATH, &*store)];
        let names = new_names("stored");
        let request = patient(json!({"image": image(), "classes": names, "background": false}));
        let mut server = start(first, &disk);
        assert!(is_stored(put(&server, "kept", &["tiger"]).0));
        segment(&server, &request);
        let own_weights = weights(&server);

        let listed = build(second)
            .args(["vocab", "list"])
            .env(STORE_PATH, &store)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&listed.stderr).into_owned();
        if !listed.status.success() {
            assert!(said.contains("its format is"), "{said}");
            println!("the other build refuses the store by its format");
            continue;
        }
        // Both on one store, for as long as an update takes.
        let other = start(second, &disk);
        assert_eq!(first_class(&other, "kept"), "tiger");
        for (writer, reader, name) in [(&server, &other, "one"), (&other, &server, "two")] {
            assert!(is_stored(put(writer, name, &["lemon"]).0));
            until("the other build sees the change", || get(reader, name).0 == 200);
        }
        drop(other);
        server.signal("TERM");
        assert_eq!(server.wait(Duration::from_secs(60)), Some(0));

        let after = start(second, &disk);
        assert_eq!(
            (first_class(&after, "kept"), first_class(&after, "two")),
            (json!("tiger"), json!("lemon"))
        );
        segment(&after, &request);
        let computed = after.metric(MISSES);
        println!("{computed} of {} stored texts computed again", names.len());
        // Another format of embeddings, or other weights, make all of them anew.
        let expected = if weights(&after) == own_weights {
            &[0, names.len() as u64][..]
        } else {
            &[names.len() as u64]
        };
        assert!(expected.contains(&computed), "{computed}");
    }
}

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/replicas/keys_of_format_1.json");

/// Names whose embeddings are in the file.
const TEXTS: [&str; 3] = ["tiger", "lemon", "a thing of the first version"];

/// Returns the file of keys, or makes it anew with `UPDATE_KEYS`: by this build, if its format is still the first.
fn first_keys() -> Value {
    if std::env::var_os("UPDATE_KEYS").is_some() {
        let redis = Redis::start(&[]);
        let server = replica(&redis.url(), &[]);
        segment(&server, &of_first_texts(&json!({"image": small_image()})));
        assert!(is_stored(put(&server, "fruit", &["lemon", "tiger"]).0));
        assert!(is_stored(put(&server, "dropped", &["tiger"]).0));
        assert_eq!(delete(&server, "dropped"), 204);
        let (_, held) = ask(
            &server,
            "POST",
            "/v1/images",
            "",
            Some(&json!({"image": small_image()})),
        );
        let known = json!({"model": weights(&server), "image_id": held["image_id"], "keys": redis.dump()});
        std::fs::write(KEYS, format!("{known:#}\n")).unwrap();
    }
    serde_json::from_str(&std::fs::read_to_string(KEYS).unwrap()).unwrap()
}

fn small_image() -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images/palette-1.png");
    json!(super::encoded(&std::fs::read(file).unwrap()))
}

/// Returns a request about an image for the first texts.
fn of_first_texts(image: &Value) -> Value {
    let mut request = patient(image.clone());
    request["classes"] = json!(TEXTS);
    request["background"] = json!(false);
    request
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn keys_of_the_first_version_are_read_or_left_alone() {
    let known = first_keys();
    let keys = known["keys"].as_object().unwrap();
    // As they are, and as they would be of a format that no version has.
    for format in ["1", "987"] {
        let redis = Redis::start(&[]);
        for (key, value) in keys {
            redis.load(&key.replacen(":1:", &format!(":{format}:"), 1), value);
        }
        let server = replica(&redis.url(), &[]);
        assert!(is_stored(put(&server, "own", &["tiger"]).0));
        let is_read = formats(&redis).len() == 1;
        assert!(!is_read || format == "1");
        let asked = of_first_texts(&json!({"image_id": known["image_id"]}));
        if is_read {
            let names = ["fruit", "dropped"].map(|name| get(&server, name).0);
            assert_eq!(names, [200, 404]);
            assert_eq!(first_class(&server, "fruit"), "lemon");
            assert_eq!(
                weights(&server),
                known["model"],
                "the embedded model is another: UPDATE_KEYS=1"
            );
            segment(&server, &asked);
            assert_eq!(server.metric(MISSES), 0);
            // The embedding of a vocabulary ahead of requests may read a text as well.
            assert!(server.metric(SHARED_HITS) >= TEXTS.len() as u64);
        } else {
            assert_eq!(
                (
                    get(&server, "fruit").0,
                    ask(&server, "POST", "/v1/segment", "", Some(&asked)).0
                ),
                (404, 404)
            );
            for key in keys.keys() {
                let key = key.replacen(":1:", &format!(":{format}:"), 1);
                assert!(redis.keys("maskclip:*").contains(&key), "{key} is left alone");
            }
        }
        assert_eq!(failures(&server), 0.0);
    }
}
