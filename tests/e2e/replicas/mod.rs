//! Replicas that have vocabularies, text embeddings and held images in common, over a `redis-server` that is killed,
//! paused, cut off and full. `make test-shared` runs these tests where there is one.

mod redis;
mod versions;

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use self::redis::{AT_LAST, Redis, Relay, file, until};
use crate::segment::{picnic, segment};
use crate::server::{SERVE, Server, agent, maskclip, run};

const MISSES: &str = "maskclip_vocabulary_misses_total";
const SHARED_HITS: &str = "maskclip_vocabulary_shared_hits_total";
const REACHABLE: &str = "maskclip_shared_reachable";
const UNAVAILABLE: &str = "/problems/shared-state-unavailable";

/// Starts a replica and waits until it is ready.
fn replica(url: &str, environment: &[(&str, &str)]) -> Server {
    let common = [
        ("MASKCLIP_SHARED__URL", url),
        // A busy machine takes its time.
        ("MASKCLIP_SHARED__TIMEOUT_SECONDS", "5"),
        ("MASKCLIP_SHARED__LOCK_SECONDS", "120"),
    ];
    Server::start_with(&[&common[..], environment].concat())
}

/// Starts a replica that does without Redis soon, for tests of its absence.
fn impatient_replica(url: &str) -> Server {
    replica(url, &[("MASKCLIP_SHARED__TIMEOUT_SECONDS", "1")])
}

fn image() -> String {
    encoded(&picnic())
}

fn encoded(image: &[u8]) -> String {
    BASE64_STANDARD.encode(image)
}

/// The fields of a request whose answer does not wait for a busy machine.
fn patient(mut request: Value) -> Value {
    request["deadline_seconds"] = json!(300);
    request["output"] = json!({"label_map": "coco-rle"});
    request
}

/// Returns the label map for a named vocabulary.
fn labels(server: &Server, vocabulary: &str) -> Value {
    let request = patient(json!({"image": image(), "vocabulary": vocabulary}));
    segment(server, &request)["label_map"].take()
}

/// Sends a request with a body or without. Returns status and body.
fn ask(server: &Server, method: &str, path: &str, key: &str, body: Option<&Value>) -> (u16, Value) {
    let url = server.url(path);
    let bearer = format!("Bearer {key}");
    let reply = match (method, body) {
        ("PUT", Some(body)) => agent().put(url).header("authorization", bearer).send_json(body),
        ("POST", Some(body)) => agent().post(url).header("authorization", bearer).send_json(body),
        ("DELETE", None) => agent().delete(url).header("authorization", bearer).call(),
        ("GET", None) => agent().get(url).header("authorization", bearer).call(),
        other => panic!("no test asks so: {other:?}"),
    };
    let mut reply = reply.unwrap();
    let status = reply.status().as_u16();
    if status == 503 {
        assert!(reply.headers().contains_key("retry-after"));
    }
    (status, reply.body_mut().read_json().unwrap_or_default())
}

fn put(server: &Server, name: &str, classes: &[&str]) -> (u16, Value) {
    let path = format!("/v1/vocabularies/{name}");
    ask(server, "PUT", &path, "", Some(&json!({"classes": classes})))
}

fn get(server: &Server, name: &str) -> (u16, Value) {
    ask(server, "GET", &format!("/v1/vocabularies/{name}"), "", None)
}

fn first_class(server: &Server, name: &str) -> Value {
    get(server, name).1["classes"][0].take()
}

fn delete(server: &Server, name: &str) -> u16 {
    ask(server, "DELETE", &format!("/v1/vocabularies/{name}"), "", None).0
}

/// Whether a vocabulary was stored: at once, or while its texts are embedded.
fn is_stored(status: u16) -> bool {
    matches!(status, 200..=202)
}

fn wait_until_reachable(server: &Server, is_reachable: bool) {
    until("the replica notices", || {
        server.metric(REACHABLE) == u64::from(is_reachable)
    });
}

fn shared_state(server: &Server) -> (u16, Value, Value) {
    let (status, mut body) = ask(server, "GET", "/health/ready", "", None);
    let code = body.pointer("/warnings/0/code").cloned().unwrap_or_default();
    (status, body["shared_state"].take(), code)
}

/// Returns 24 names that no other test asks for.
fn new_names(prefix: &str) -> Vec<String> {
    (0..24).map(|number| format!("{prefix} number {number}")).collect()
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn a_vocabulary_is_known_to_all_replicas_and_changes_for_all() {
    let redis = Redis::start(&[]);
    let [here, there] = [(); 2].map(|()| replica(&redis.url(), &[]));
    assert!(is_stored(put(&here, "fruit", &["lemon", "strawberry", "tiger"]).0));
    let own = labels(&here, "fruit");
    assert_eq!(labels(&there, "fruit"), own);
    assert_eq!(first_class(&there, "fruit"), "lemon");
    // At once, with no pause in which another replica could be behind.
    for (class, server, other) in [("a", &there, &here), ("b", &here, &there), ("c", &there, &here)] {
        assert!(is_stored(put(server, "fruit", &[class]).0));
        assert_eq!(first_class(other, "fruit"), class);
    }
    let tag = |server: &Server| {
        let reply = agent().get(server.url("/v1/vocabularies/fruit")).call().unwrap();
        reply.headers()["etag"].to_str().unwrap().to_owned()
    };
    let stale = tag(&here);
    assert!(is_stored(put(&there, "fruit", &["d"]).0));
    let refused = agent()
        .delete(here.url("/v1/vocabularies/fruit"))
        .header("if-match", &stale);
    assert_eq!(refused.call().unwrap().status(), 412);
    assert_eq!(delete(&here, "fruit"), 204);
    assert_eq!((get(&there, "fruit").0, delete(&there, "fruit")), (404, 404));
    let late = replica(&redis.url(), &[]);
    assert_eq!(get(&late, "fruit").0, 404);
    assert_eq!(shared_state(&late), (200, json!("reachable"), Value::Null));
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn the_shell_changes_what_all_replicas_know() {
    let redis = Redis::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let server = replica(&redis.url(), &[]);
    let url = redis.url();
    let vocab = |arguments: &[&str]| {
        let mut command = maskclip();
        command.env("MASKCLIP_SHARED__URL", &url);
        command.env("MASKCLIP_VOCABULARY__STORE_PATH", folder.path().join("store.sqlite3"));
        command.arg("vocab").args(arguments).output().unwrap()
    };
    assert!(vocab(&["add", "pets", "cat", "dog"]).status.success());
    assert_eq!(first_class(&server, "pets"), "cat");
    assert!(is_stored(put(&server, "pets", &["bird"]).0));
    assert_eq!(
        String::from_utf8(vocab(&["show", "pets"]).stdout).unwrap().trim(),
        "bird"
    );
    assert!(vocab(&["remove", "pets"]).status.success());
    assert_eq!(get(&server, "pets").0, 404);
    drop(redis);
    let refused = vocab(&["list"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("shared.url"));
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn texts_that_both_replicas_are_asked_for_at_once_are_computed_once() {
    let redis = Redis::start(&[]);
    let servers = [(); 2].map(|()| replica(&redis.url(), &[]));
    let names = new_names("thing");
    let request = patient(json!({"image": image(), "classes": names, "background": false}));
    let replies: Vec<Value> = std::thread::scope(|scope| {
        let asked = [0, 1, 0, 1].map(|server: usize| {
            let (server, request) = (&servers[server], &request);
            scope.spawn(move || segment(server, request)["label_map"].take())
        });
        asked.map(|asked| asked.join().unwrap()).into()
    });
    assert!(replies.iter().all(|reply| *reply == replies[0]));
    let computed: Vec<u64> = servers.iter().map(|server| server.metric(MISSES)).collect();
    assert_eq!(computed.iter().sum::<u64>(), names.len() as u64, "{computed:?}");
    let others: u64 = servers.iter().map(|server| server.metric(SHARED_HITS)).sum();
    assert_eq!(others, names.len() as u64);
    println!(
        "{} texts asked of both replicas at once: {computed:?} computed",
        names.len()
    );
    let late = replica(&redis.url(), &[]);
    assert_eq!(segment(&late, &request)["label_map"], replies[0]);
    assert_eq!((late.metric(MISSES), late.metric(SHARED_HITS)), (0, names.len() as u64));
    assert!(redis.ask("KEYS maskclip:1:duty:*").starts_with("*0"), "no duty is left");
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn an_image_that_one_replica_took_is_known_to_all_until_it_is_deleted() {
    let redis = Redis::start(&[]);
    let small = [("MASKCLIP_SHARED__MAX_IMAGE_BYTES", "1000")];
    let [here, there] = [(); 2].map(|()| replica(&redis.url(), &[]));
    let post = |server: &Server| {
        let (status, body) = ask(server, "POST", "/v1/images", "", Some(&json!({"image": image()})));
        assert_eq!(status, 201);
        (body["image_id"].as_str().unwrap().to_owned(), body["shared"].clone())
    };
    let by_id = |server: &Server, id: &str| {
        let request = patient(json!({"image_id": id, "classes": ["tiger", "lemon", "sky"]}));
        ask(server, "POST", "/v1/segment", "", Some(&request))
    };
    let (id, is_shared) = post(&here);
    assert_eq!(is_shared, true);
    let path = format!("/v1/images/{id}");
    let (_, own) = ask(&here, "GET", &path, "", None);
    let (status, theirs) = ask(&there, "GET", &path, "", None);
    assert_eq!(
        (status, &theirs["width"], &theirs["bytes"]),
        (200, &own["width"], &own["bytes"])
    );
    let (_, first) = by_id(&here, &id);
    let (status, second) = by_id(&there, &id);
    assert_eq!((status, &second["label_map"]), (200, &first["label_map"]));
    assert_eq!(
        (&second["features_cached"], there.metric("maskclip_held_images")),
        (&json!(false), 1)
    );
    assert_eq!(by_id(&there, &id).1["features_cached"], true);
    // The copies of both go with the image.
    assert_eq!(ask(&there, "DELETE", &path, "", None).0, 204);
    assert_eq!((by_id(&here, &id).0, ask(&here, "GET", &path, "", None).0), (404, 404));
    assert_eq!(here.metric("maskclip_held_images"), 0);
    assert_eq!(ask(&here, "DELETE", &path, "", None).0, 404);
    let (id, _) = post(&here);
    assert_eq!(
        ask(&there, "DELETE", &format!("/v1/images/{id}"), "", None).0,
        204,
        "never used there"
    );
    assert_eq!(by_id(&here, &id).0, 404);
    let frugal = replica(&redis.url(), &small);
    let (id, is_shared) = post(&frugal);
    assert_eq!(
        (is_shared, by_id(&frugal, &id).0, by_id(&here, &id).0),
        (json!(false), 200, 404)
    );
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn an_image_that_was_deleted_elsewhere_goes_before_the_mark_of_its_deletion_does() {
    let redis = Redis::start(&[]);
    let here = replica(&redis.url(), &[]);
    let brief = replica(&redis.url(), &[("MASKCLIP_IMAGES__KEEP_SECONDS", "60")]);
    let (_, held) = ask(&here, "POST", "/v1/images", "", Some(&json!({"image": image()})));
    let id = held["image_id"].as_str().unwrap();
    let (path, key) = (format!("/v1/images/{id}"), format!("maskclip:1:image:/{id}"));
    let by_id = patient(json!({"image_id": id, "classes": ["tiger"]}));
    assert_eq!(ask(&brief, "POST", "/v1/segment", "", Some(&by_id)).0, 200);
    // Both have a copy, and Redis has made room.
    assert_eq!(redis.ask(&format!("DEL {key}")), ":1");
    assert_eq!(ask(&brief, "DELETE", &path, "", None).0, 204);
    let lifetime: u64 = redis.ask(&format!("PTTL {key}"))[1..].parse().unwrap();
    assert!(
        lifetime > 60_000,
        "{lifetime} ms: the other replica holds its copy for longer"
    );
    until("the copy goes though nobody asks for it", || {
        here.metric("maskclip_held_images") == 0
    });
    assert_eq!(redis.ask(&format!("DEL {key}")), ":1");
    for server in [&here, &brief] {
        assert_eq!(ask(server, "GET", &path, "", None).0, 404);
    }
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn redis_has_no_more_images_than_the_replica_that_took_them_holds() {
    let redis = Redis::start(&[]);
    let room = (picnic().len() * 5 / 2).to_string();
    let here = replica(&redis.url(), &[("MASKCLIP_IMAGES__HELD_BYTES", &room)]);
    let there = replica(&redis.url(), &[]);
    let post = || {
        let (_, held) = ask(&here, "POST", "/v1/images", "", Some(&json!({"image": image()})));
        assert_eq!(held["shared"], true);
        format!("/v1/images/{}", held["image_id"].as_str().unwrap())
    };
    let first = post();
    let id = first.rsplit('/').next().unwrap();
    let by_id = patient(json!({"image_id": id, "classes": ["tiger"]}));
    assert_eq!(ask(&there, "POST", "/v1/segment", "", Some(&by_id)).0, 200);
    let later: Vec<String> = (0..4).map(|_| post()).collect();
    assert_eq!(redis.keys("maskclip:1:image:*").len(), 2);
    let status = |server: &Server, path: &str| ask(server, "GET", path, "", None).0;
    let statuses = |server| later.iter().map(|path| status(server, path)).collect::<Vec<_>>();
    for server in [&here, &there] {
        assert_eq!(statuses(server), [404, 404, 200, 200]);
    }
    // A copy lasts as long as the replica that has it wants.
    assert_eq!((status(&here, &first), status(&there, &first)), (404, 200));
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn what_one_key_leaves_no_other_key_finds_on_any_replica() {
    let redis = Redis::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let keys = ["alice", "bob"].map(|name| {
        let made = String::from_utf8(run(&["key", "new", name, "--scopes", "use,vocabularies"]).stdout).unwrap();
        let (key, line) = made.split_once('\n').unwrap();
        (key.to_owned(), line.to_owned())
    });
    let lines = keys.clone().map(|(_, line)| line).concat();
    let file = file(folder.path(), "keys.yaml", &lines);
    let [alice, bob] = keys.map(|(key, _)| key);
    let environment = [
        ("MASKCLIP_ACCESS__KEYS_FILE", &*file),
        ("MASKCLIP_VOCABULARY__PER_KEY", "true"),
    ];
    let [here, there] = [(); 2].map(|()| replica(&redis.url(), &environment));
    let path = "/v1/vocabularies/mine";
    let mine = |class: &str| json!({"classes": [class]});
    assert!(is_stored(ask(&here, "PUT", path, &alice, Some(&mine("tiger"))).0));
    assert_eq!(
        (
            ask(&there, "GET", path, &alice, None).0,
            ask(&there, "GET", path, &bob, None).0
        ),
        (200, 404)
    );
    assert!(is_stored(ask(&there, "PUT", path, &bob, Some(&mine("lemon"))).0));
    let class = |server: &Server, key: &str| ask(server, "GET", path, key, None).1["classes"][0].take();
    assert_eq!(
        (class(&here, &alice), class(&here, &bob)),
        (json!("tiger"), json!("lemon"))
    );
    let (_, body) = ask(&here, "POST", "/v1/images", &alice, Some(&json!({"image": image()})));
    let image = format!("/v1/images/{}", body["image_id"].as_str().unwrap());
    for server in [&there, &here] {
        assert_eq!(ask(server, "GET", &image, &bob, None).0, 404);
        assert_eq!(ask(server, "DELETE", &image, &bob, None).0, 404);
    }
    assert_eq!(ask(&there, "GET", &image, &alice, None).0, 200);
    assert_eq!(ask(&there, "DELETE", &image, &alice, None).0, 204);
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn a_killed_redis_costs_no_answer_and_what_it_lost_comes_back() {
    let mut redis = Redis::start(&[]);
    let [here, there] = [(); 2].map(|()| impatient_replica(&redis.url()));
    assert!(is_stored(put(&here, "kept", &["tiger", "lemon"]).0));
    assert!(is_stored(put(&here, "deleted", &["tiger"]).0));
    assert_eq!(get(&there, "deleted").0, 200);
    assert_eq!(delete(&there, "deleted"), 204);
    let own = labels(&here, "kept");
    assert_eq!(labels(&there, "kept"), own);
    let (_, image) = ask(&here, "POST", "/v1/images", "", Some(&json!({"image": image()})));
    redis.kill();

    assert_eq!(labels(&here, "kept"), own);
    wait_until_reachable(&there, false);
    assert_eq!(
        shared_state(&there),
        (200, json!("unreachable"), json!("shared-state-unreachable"))
    );
    let request = patient(json!({"image": self::image(), "classes": new_names("new")}));
    for server in [&here, &there] {
        segment(server, &request);
        let (status, problem) = put(server, "refused", &["tiger"]);
        assert_eq!((status, &problem["type"]), (503, &json!(UNAVAILABLE)));
        assert_eq!(
            (delete(server, "kept"), first_class(server, "kept")),
            (503, json!("tiger"))
        );
    }
    // An image is known to the replica that took it, and one that is dropped is dropped there.
    let path = format!("/v1/images/{}", image["image_id"].as_str().unwrap());
    assert_eq!(
        (
            ask(&here, "GET", &path, "", None).0,
            ask(&there, "GET", &path, "", None).0
        ),
        (200, 503)
    );
    let by_id = patient(json!({"image_id": image["image_id"], "classes": ["tiger"]}));
    let (status, problem) = ask(&there, "POST", "/v1/segment", "", Some(&by_id));
    assert_eq!((status, &problem["type"]), (503, &json!(UNAVAILABLE)));
    let (status, problem) = ask(&here, "DELETE", &path, "", None);
    assert_eq!((status, &problem["type"]), (503, &json!(UNAVAILABLE)));
    assert_eq!(ask(&here, "GET", &path, "", None).0, 503, "others may hold it");
    let (_, unshared) = ask(&here, "POST", "/v1/images", "", Some(&json!({"image": self::image()})));
    assert_eq!(unshared["shared"], false);

    redis.restart();
    for server in [&here, &there] {
        wait_until_reachable(server, true);
    }
    // A new replica finds what the old ones have written back, and no more.
    let late = replica(&redis.url(), &[]);
    until("the definitions are back", || get(&late, "kept").0 == 200);
    assert_eq!(labels(&late, "kept"), own);
    assert_eq!((get(&late, "deleted").0, get(&late, "refused").0), (404, 404));
    assert!(is_stored(put(&late, "kept", &["lemon"]).0));
    assert_eq!(first_class(&here, "kept"), "lemon");
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn a_deletion_survives_a_restart_of_the_only_replica_that_knew_of_it_and_the_loss_of_redis() {
    let mut redis = Redis::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.sqlite3").display().to_string();
    let environment = [
        ("MASKCLIP_VOCABULARY__STORE_PATH", &*store),
        ("MASKCLIP_SHARED__TIMEOUT_SECONDS", "1"),
    ];
    let mut here = replica(&redis.url(), &environment);
    let there = impatient_replica(&redis.url());
    for name in ["deleted", "kept"] {
        assert!(is_stored(put(&here, name, &["tiger"]).0));
        assert_eq!(get(&there, name).0, 200);
    }
    there.signal("STOP");
    assert_eq!(delete(&here, "deleted"), 204);
    here.signal("TERM");
    assert_eq!(here.wait(AT_LAST), Some(0));
    redis.kill();
    redis.restart();
    let here = replica(&redis.url(), &environment);
    there.signal("CONT");
    until("the deletion is known", || get(&there, "deleted").0 == 404);
    let late = replica(&redis.url(), &[]);
    until("the other definition is back", || get(&late, "kept").0 == 200);
    for server in [&here, &there, &late] {
        assert_eq!(
            (get(server, "deleted").0, first_class(server, "kept")),
            (404, json!("tiger"))
        );
    }
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn one_change_survives_a_redis_that_comes_back_as_it_was_just_before() {
    type Step = (fn(&Server), fn(&Server) -> bool);
    let mut redis = Redis::start(&[]);
    let [here, there] = [(); 2].map(|()| impatient_replica(&redis.url()));
    // The first change of all, and a Redis that is empty as before.
    assert!(is_stored(put(&here, "changed", &["old"]).0));
    assert_eq!(redis.ask("FLUSHALL"), "+OK");
    until("the first is back", || get(&there, "changed").0 == 200);
    assert!(is_stored(put(&here, "deleted", &["old"]).0));
    assert_eq!(first_class(&there, "deleted"), "old");
    let steps: [Step; 2] = [
        (
            |server| assert!(is_stored(put(server, "changed", &["new"]).0)),
            |server| first_class(server, "changed") == "new",
        ),
        (
            |server| assert_eq!(delete(server, "deleted"), 204),
            |server| get(server, "deleted").0 == 404 && first_class(server, "changed") == "new",
        ),
    ];
    for (change, is_known) in steps {
        assert_eq!(redis.ask("SAVE"), "+OK");
        change(&here);
        redis.kill();
        redis.restart();
        for server in [&here, &there] {
            until("the change is back", || is_known(server));
        }
        assert!(is_stored(put(&there, "other", &["new"]).0));
        assert!(is_known(&here) && is_known(&there));
    }
    let late = replica(&redis.url(), &[]);
    assert_eq!(
        (first_class(&late, "changed"), get(&late, "deleted").0),
        (json!("new"), 404)
    );
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn definitions_that_redis_drops_or_damages_are_given_back_or_replaced() {
    const VERSIONS: &str = "maskclip:1:{vocabularies}:versions";
    const VALUES: &str = "maskclip:1:{vocabularies}:values";
    let redis = Redis::start(&[]);
    let here = replica(&redis.url(), &[]);
    for name in ["dropped", "damaged", "strange"] {
        assert!(is_stored(put(&here, name, &["old"]).0));
    }
    // As a policy of allkeys does, without a mark of a change.
    assert_eq!(redis.ask(&format!("DEL {VALUES}")), ":1");
    until("all are given back", || redis.ask(&format!("HLEN {VALUES}")) == ":3");
    // A text that is not the one that was written, a state whose text is missing, and one that nobody has written.
    redis.ask(&format!("HSET {VALUES} damaged garbage"));
    redis.ask(&format!(
        "HSET {VERSIONS} gone \"5 aa\" strange \"9999999999 aa\" \"\" mark"
    ));
    let there = replica(&redis.url(), &[]);
    assert_eq!(first_class(&there, "dropped"), "old");
    assert_eq!((get(&there, "damaged").0, get(&there, "gone").0), (404, 404));
    assert!(is_stored(put(&there, "damaged", &["new"]).0));
    assert_eq!(first_class(&here, "damaged"), "new");
    assert_eq!((delete(&there, "gone"), delete(&there, "gone")), (204, 404));
    assert!(is_stored(put(&there, "gone", &["new"]).0));
    assert_eq!(first_class(&here, "gone"), "new");
    assert!(is_stored(put(&there, "strange", &["new"]).0));
    assert_eq!(first_class(&here, "strange"), "new");
    assert_eq!(delete(&here, "strange"), 204);
    assert_eq!(get(&there, "strange").0, 404);
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn what_redis_has_beyond_the_limits_or_of_another_type_is_passed_over() {
    const VERSIONS: &str = "maskclip:1:{vocabularies}:versions";
    let redis = Redis::start(&[]);
    let here = replica(&redis.url(), &[]);
    let there = replica(&redis.url(), &[("MASKCLIP_LIMITS__MAX_CLASSES", "2")]);
    // Of eight requests for one image, one reads it.
    let post = || {
        let (_, held) = ask(&here, "POST", "/v1/images", "", Some(&json!({"image": image()})));
        held["image_id"].as_str().unwrap().to_owned()
    };
    let by_id = |id: &str| {
        let request = patient(json!({"image_id": id, "classes": ["tiger", "sky"]}));
        ask(&there, "POST", "/v1/segment", "", Some(&request)).0
    };
    let reads = || there.metric("maskclip_shared_operations_total{operation=\"read_image\"}");
    let id = post();
    std::thread::scope(|scope| {
        let asked = [(); 8].map(|()| scope.spawn(|| by_id(&id)));
        assert_eq!(asked.map(|asked| asked.join().unwrap()), [200; 8]);
    });
    assert_eq!(reads(), 1);
    // One that has grown beyond shared.max_image_bytes is not read, nor is what is no image.
    let [grown, list] = [(); 2].map(|()| post());
    redis.ask(&format!("SETRANGE maskclip:1:image:/{grown} 9000000 x"));
    redis.ask(&format!("DEL maskclip:1:image:/{list}"));
    redis.ask(&format!("RPUSH maskclip:1:image:/{list} x"));
    assert_eq!((by_id(&grown), by_id(&list), reads()), (404, 404, 1));
    // Names that none can have, and a list with more classes than this replica allows.
    redis.ask(&format!(
        "HSET {VERSIONS} \"\\xff\" \"5 aa\" \"a b\" \"5 aa\" \"\" mark"
    ));
    assert!(is_stored(put(&here, "long", &["cat", "dog", "cow"]).0));
    assert_eq!((get(&here, "long").0, get(&there, "long").0), (200, 404));
    let (_, listed) = ask(&there, "GET", "/v1/vocabularies", "", None);
    assert!(!listed.to_string().contains("a b"), "{listed}");
    assert!(is_stored(put(&there, "long", &["cat", "dog"]).0));
    assert_eq!(first_class(&here, "long"), "cat");
    // A key of another type is no lost connection.
    redis.ask(&format!("SET {VERSIONS} x"));
    let (status, problem) = put(&here, "more", &["cat"]);
    assert_eq!((status, &problem["type"]), (503, &json!(UNAVAILABLE)));
    assert!(
        problem.to_string().contains("none that a server has written"),
        "{problem}"
    );
    assert_eq!((here.metric(REACHABLE), first_class(&here, "long")), (1, json!("cat")));
    assert_eq!(redis.ask(&format!("DEL {VERSIONS}")), ":1");
    assert!(is_stored(put(&here, "more", &["cat"]).0));
    assert_eq!(first_class(&there, "more"), "cat");
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn a_connection_that_is_cut_costs_no_error() {
    let redis = Redis::start(&[]);
    let [here, there] = [(); 2].map(|()| replica(&redis.url(), &[]));
    let (_, held) = ask(&here, "POST", "/v1/images", "", Some(&json!({"image": image()})));
    let path = format!("/v1/images/{}", held["image_id"].as_str().unwrap());
    // Classes that are embedded already, so that nothing goes on behind an answer while the next cut comes.
    for classes in [["lemon"], ["tiger"]] {
        assert!(is_stored(put(&here, "fruit", &classes).0));
        labels(&here, "fruit");
        labels(&there, "fruit");
    }
    let no_duty = || redis.ask("KEYS maskclip:1:duty:*").starts_with("*0");
    until("no duty is left", no_duty);
    let cut = || assert!(redis.ask("CLIENT KILL TYPE normal").starts_with(':'));
    for number in 0..10 {
        cut();
        let class = ["lemon", "tiger"][number % 2];
        assert!(is_stored(put(&here, "fruit", &[class]).0));
        cut();
        assert_eq!(first_class(&there, "fruit"), class);
        cut();
        assert_eq!(ask(&there, "GET", &path, "", None).0, 200);
        let request = patient(json!({"image": image(), "classes": [format!("tiger {number}")]}));
        cut();
        segment(&there, &request);
        // Duties are given back behind the answer.
        until("no duty is left", no_duty);
    }
    let lost = |server: &Server| {
        let operations = [
            "look",
            "write_definition",
            "read_definitions",
            "look_at_image",
            "claim_texts",
        ];
        let failures = operations.map(|operation| {
            let labels = format!("{{operation=\"{operation}\",reason=\"unreachable\"}}");
            server.metric(&format!("maskclip_shared_failures_total{labels}"))
        });
        failures.iter().sum::<u64>()
    };
    assert_eq!((lost(&here), lost(&there)), (0, 0));
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn a_slow_network_carries_images_and_nothing_waits_behind_them() {
    let redis = Redis::start(&[]);
    // 6 MiB take 1.5 seconds, more than shared.timeout_seconds.
    let relay = Relay::with_rate(redis.port, f64::from(4 << 20));
    let [here, there] = [(); 2].map(|()| impatient_replica(&format!("redis://127.0.0.1:{}", relay.port)));
    let mut large = picnic();
    large.resize(large.len() + (6 << 20), 0);
    let large = json!({"image": BASE64_STANDARD.encode(large)});
    let (status, held) = ask(&here, "POST", "/v1/images", "", Some(&large));
    assert_eq!((status, &held["shared"]), (201, &json!(true)));
    let request = patient(json!({"image_id": held["image_id"], "classes": ["tiger"]}));
    std::thread::scope(|scope| {
        let fetching = scope.spawn(|| ask(&there, "POST", "/v1/segment", "", Some(&request)).0);
        while !fetching.is_finished() {
            assert!(is_stored(put(&there, "fruit", &["lemon"]).0));
        }
        assert_eq!(fetching.join().unwrap(), 200);
    });
    assert_eq!((here.metric(REACHABLE), there.metric(REACHABLE)), (1, 1));
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn a_paused_redis_delays_one_request_and_no_more() {
    let redis = Redis::start(&[]);
    let server = impatient_replica(&redis.url());
    assert!(is_stored(put(&server, "fruit", &["lemon", "tiger"]).0));
    let own = labels(&server, "fruit");
    redis.pause();
    assert_eq!(labels(&server, "fruit"), own);
    wait_until_reachable(&server, false);
    let failures = "maskclip_shared_failures_total{operation=\"look\",reason=\"unreachable\"}";
    let before = server.metric(failures);
    assert_eq!(labels(&server, "fruit"), own);
    assert!(
        server.metric(failures) > before,
        "the request was answered without Redis"
    );
    assert_eq!(put(&server, "fruit", &["tiger"]).0, 503);
    redis.resume();
    wait_until_reachable(&server, true);
    assert!(is_stored(put(&server, "fruit", &["tiger"]).0));
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn a_replica_that_is_cut_off_answers_from_what_it_has_and_catches_up() {
    let redis = Redis::start(&[]);
    let relay = Relay::to(redis.port);
    let cut_off = impatient_replica(&format!("redis://127.0.0.1:{}", relay.port));
    let other = replica(&redis.url(), &[]);
    assert!(is_stored(put(&cut_off, "kept", &["tiger"]).0));
    assert!(is_stored(put(&cut_off, "dropped", &["tiger"]).0));
    relay.cut();
    assert_eq!(first_class(&cut_off, "kept"), "tiger");
    wait_until_reachable(&cut_off, false);
    assert!(is_stored(put(&other, "kept", &["lemon"]).0));
    assert!(is_stored(put(&other, "new", &["lemon"]).0));
    assert_eq!(delete(&other, "dropped"), 204);
    assert_eq!(
        (get(&cut_off, "new").0, first_class(&cut_off, "kept")),
        (503, json!("tiger"))
    );
    let request = patient(json!({"image": image(), "vocabulary": "new"}));
    let (status, problem) = ask(&cut_off, "POST", "/v1/segment", "", Some(&request));
    assert_eq!((status, &problem["type"]), (503, &json!(UNAVAILABLE)));
    assert_eq!(put(&cut_off, "kept", &["penguin"]).0, 503);
    relay.mend();
    wait_until_reachable(&cut_off, true);
    assert_eq!(
        (first_class(&cut_off, "kept"), get(&cut_off, "new").0),
        (json!("lemon"), 200)
    );
    assert_eq!((get(&cut_off, "dropped").0, get(&other, "dropped").0), (404, 404));
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn a_full_redis_refuses_changes_by_name_and_costs_nothing_else() {
    let redis = Redis::start(&["--maxmemory-policy", "noeviction"]);
    let [here, there] = [(); 2].map(|()| replica(&redis.url(), &[]));
    assert!(is_stored(put(&here, "kept", &["tiger", "lemon"]).0));
    let own = labels(&here, "kept");
    assert_eq!(redis.ask("CONFIG SET maxmemory 1"), "+OK");
    let (status, problem) = put(&here, "more", &["tiger"]);
    assert_eq!((status, &problem["type"]), (507, &json!("/problems/not-stored")));
    assert_eq!((get(&here, "more").0, get(&there, "more").0), (404, 404));
    assert_eq!(delete(&here, "kept"), 507);
    let request = patient(json!({"image": image(), "classes": new_names("new")}));
    for server in [&here, &there] {
        assert_eq!(labels(server, "kept"), own);
        segment(server, &request);
        assert_eq!(server.metric(REACHABLE), 1);
    }
    let (status, held) = ask(&here, "POST", "/v1/images", "", Some(&json!({"image": image()})));
    assert_eq!((status, &held["shared"]), (201, &json!(false)));
    assert_eq!(redis.ask("CONFIG SET maxmemory 0"), "+OK");
    assert!(is_stored(put(&here, "more", &["tiger"]).0));
    assert_eq!(get(&there, "more").0, 200);
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn a_password_comes_from_a_file_or_the_address_and_a_wrong_one_stops_the_start() {
    let redis = Redis::start(&["--requirepass", "right"]);
    let folder = tempfile::tempdir().unwrap();
    let right = file(folder.path(), "right", "right\n");
    let server = replica(&redis.url(), &[("MASKCLIP_SHARED__PASSWORD_FILE", &right)]);
    assert_eq!(server.metric(REACHABLE), 1);
    let with_password = |password: &str| format!("redis://:{password}@127.0.0.1:{}", redis.port);
    assert_eq!(replica(&with_password("right"), &[]).metric(REACHABLE), 1);
    // A new password holds from the next connection on.
    redis.ask("AUTH right\r\nCONFIG SET requirepass new\r\nCLIENT KILL TYPE normal");
    wait_until_reachable(&server, false);
    std::fs::write(&right, "new").unwrap();
    wait_until_reachable(&server, true);
    assert_eq!(replica(&with_password("new"), &[]).metric(REACHABLE), 1);
    for url in [with_password("secret"), redis.url()] {
        let mut command = maskclip();
        command.args(SERVE).env("MASKCLIP_SHARED__URL", url);
        let refused = command.output().unwrap();
        let error = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{error}");
        assert!(error.contains("shared.url: Redis refuses this server"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn a_server_starts_without_redis_on_what_its_disk_has() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.sqlite3").display().to_string();
    let disk = [("MASKCLIP_VOCABULARY__STORE_PATH", &*store)];
    let mut redis = Redis::start(&[]);
    let server = replica(&redis.url(), &disk);
    assert!(is_stored(put(&server, "fruit", &["lemon"]).0));
    assert!(is_stored(put(&server, "dropped", &["lemon"]).0));
    assert_eq!(delete(&server, "dropped"), 204);
    drop(server);
    redis.kill();
    let server = replica(&redis.url(), &disk);
    assert_eq!(
        (first_class(&server, "fruit"), get(&server, "dropped").0),
        (json!("lemon"), 503)
    );
    assert_eq!(shared_state(&server).1, "unreachable");
    redis.restart();
    wait_until_reachable(&server, true);
    let other = replica(&redis.url(), &[]);
    until("the definition is back", || get(&other, "fruit").0 == 200);
}

#[test]
#[ignore = "needs redis-server: make test-shared"]
fn redis_is_reached_by_tls() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = file(
        folder.path(),
        "tls.crt",
        include_str!("../../api/certificates/first.pem"),
    );
    let key = file(
        folder.path(),
        "tls.key",
        include_str!("../../api/certificates/first.key.pem"),
    );
    let tls = [
        "--port",
        "0",
        "--tls-port",
        "PORT",
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
    ];
    let redis = Redis::start(&tls);
    let url = format!("rediss://localhost:{}", redis.port);
    let trusting = replica(&url, &[("MASKCLIP_SHARED__CA_FILE", &certificate)]);
    assert_eq!(trusting.metric(REACHABLE), 1);
    assert!(is_stored(put(&trusting, "fruit", &["lemon"]).0));
    // Without its authority, Redis is nobody's.
    assert_eq!(replica(&url, &[]).metric(REACHABLE), 0);
}

/// Prints what Redis costs a request, in milliseconds: the medians of requests in turns, 20 of each kind unless
/// `REPLICA_REQUESTS` names another number.
#[test]
#[ignore = "needs redis-server: make test-shared"]
fn the_cost_of_redis_per_request() {
    let requests = std::env::var("REPLICA_REQUESTS").map_or(20, |text| text.parse().unwrap());
    let redis = Redis::start(&[]);
    let servers = [replica(&redis.url(), &[]), Server::start_with(&[])];
    let image = json!({"image": image()});
    let ids = servers.each_ref().map(|server| {
        assert!(is_stored(put(server, "fruit", &["lemon", "tiger"]).0));
        let (_, body) = ask(server, "POST", "/v1/images", "", Some(&image));
        body["image_id"].as_str().unwrap().to_owned()
    });
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1000.0
    };
    for (what, fields) in [
        ("inline classes, image_id", json!({"classes": ["lemon", "tiger"]})),
        ("named vocabulary, image_id", json!({"vocabulary": "fruit"})),
    ] {
        let mut times = [Vec::new(), Vec::new()];
        for number in 0..requests + 5 {
            for (server, (id, times)) in servers.iter().zip(ids.iter().zip(&mut times)) {
                let mut request = fields.clone();
                request["image_id"] = json!(id);
                request["output"] = json!({"label_map": "none"});
                let start = Instant::now();
                segment(server, &request);
                if number >= 5 {
                    times.push(start.elapsed());
                }
            }
        }
        let [with, without] = times.map(median);
        println!(
            "{what}: {with:.2} ms with Redis, {without:.2} ms without, +{:.2} ms",
            with - without
        );
        assert!(with - without < AT_LAST.as_secs_f64() * 1000.0);
    }
}
