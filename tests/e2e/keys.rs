//! API keys, from `maskclip key new` to their change on a running server.

use std::fs::{self, File};
use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::server::{SERVE, Server, agent, maskclip, run};

/// The longest time that anything may take on a busy machine.
const AT_LAST: Duration = Duration::from_secs(60);

/// Changes of the key under load.
const ROTATIONS: usize = 5;

/// Makes a key. Returns the key and its line for the file of keys.
fn new_key(name: &str, scopes: &str) -> (String, String) {
    let made = run(&["key", "new", name, "--scopes", scopes]);
    assert!(made.status.success());
    let output = String::from_utf8(made.stdout).unwrap();
    let (key, line) = output.split_once('\n').unwrap();
    assert!(!line.contains(key));
    (key.to_owned(), line.to_owned())
}

/// The status of `GET path` with a key.
fn status(server: &Server, path: &str, key: &str) -> u16 {
    let request = agent()
        .get(server.url(path))
        .header("authorization", format!("Bearer {key}"));
    request.call().unwrap().status().as_u16()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < AT_LAST, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_key_is_changed_on_a_running_server_under_load_without_a_failed_request() {
    let folder = tempfile::tempdir().unwrap();
    let (file, log) = (folder.path().join("keys.yaml"), folder.path().join("log"));
    let (first, mut line) = new_key("alice", "use");
    let (scraper, scraper_line) = new_key("prometheus", "metrics");
    let scraper_entry = scraper_line.trim_start_matches("- ").replace(": ", "=");
    fs::write(&file, &line).unwrap();
    let mut command = maskclip();
    command
        .args(SERVE)
        .env("MASKCLIP_ACCESS__KEYS_FILE", &file)
        .env("MASKCLIP_ACCESS__KEYS", format!("[{}]", scraper_entry.trim_end()))
        .stderr(File::create(&log).unwrap());
    let server = Server::spawn(command);
    assert_eq!(status(&server, "/metrics", &scraper), 200, "a key of the environment");
    assert_eq!(status(&server, "/metrics", &first), 403);

    // Clients hold the lock while a request is under way, so that nobody uses a key that was taken away.
    let (key, is_over) = (RwLock::new(first.clone()), AtomicBool::new(false));
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let load = || {
            while !is_over.load(Ordering::Relaxed) {
                let key = key.read().unwrap();
                assert_eq!(status(&server, "/v1/models", &key), 200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        };
        let clients = [(); 3].map(|()| scope.spawn(load));
        for _ in 0..ROTATIONS {
            let before = answered.load(Ordering::Relaxed);
            let (new, new_line) = new_key("alice", "use");
            fs::write(&file, format!("{line}\n{new_line}")).unwrap();
            server.signal("HUP");
            until("the new key holds", || status(&server, "/v1/models", &new) == 200);
            let old = std::mem::replace(&mut *key.write().unwrap(), new);
            fs::write(&file, &new_line).unwrap();
            server.signal("HUP");
            until("the old key is gone", || status(&server, "/v1/models", &old) == 401);
            line = new_line;
            until("clients go on", || {
                answered.load(Ordering::Relaxed) > before || clients.iter().any(|client| client.is_finished())
            });
        }
        is_over.store(true, Ordering::Relaxed);
    });

    fs::write(&file, "- {name: alice").unwrap();
    server.signal("HUP");
    let logged = |text: &str| fs::read_to_string(&log).unwrap().contains(text);
    until("the log says so", || {
        logged("could not read the keys anew; the old ones stay")
    });
    let last = key.into_inner().unwrap();
    assert_eq!(status(&server, "/v1/models", &last), 200);
    assert_eq!(status(&server, "/v1/models", &first), 401);
    assert!(logged("key=\"alice\""), "the log has the name");
    for key in [&first, &last, &scraper] {
        assert!(!logged(key), "the log has no key");
    }
    assert!(!logged("there are no keys"));
}

#[test]
fn a_hang_up_does_not_end_a_server_that_has_nothing_to_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let (key, line) = new_key("alice", "use");
    let entry = line.trim_start_matches("- ").replace(": ", "=");
    let mut command = maskclip();
    command
        .args(SERVE)
        .env("MASKCLIP_ACCESS__KEYS", format!("[{}]", entry.trim_end()))
        .stderr(File::create(&log).unwrap());
    let server = Server::spawn(command);
    for signals in 1..=2 {
        server.signal("HUP");
        until("the log says that it came", || {
            let log = fs::read_to_string(&log).unwrap();
            let line = "SIGHUP: there is neither a file of keys nor a certificate to read again";
            log.matches(line).count() == signals
        });
        assert_eq!(status(&server, "/v1/models", &key), 200);
    }
}

#[test]
fn a_server_for_the_network_without_keys_warns_at_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = maskclip();
    command
        .args(["serve", "--listen", "0.0.0.0:0", "--device", "cpu"])
        .stderr(File::create(&log).unwrap());
    let _server = Server::launch(command);
    until("it warns", || {
        let log = fs::read_to_string(&log).unwrap();
        log.contains("WARN") && log.contains("there are no keys (access.keys_file)")
    });
}

#[test]
fn a_file_of_keys_that_cannot_be_used_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let start = |file: &Path| {
        let mut command = maskclip();
        let output = command.args(SERVE).env("MASKCLIP_ACCESS__KEYS_FILE", file).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let file = folder.path().join("keys.yaml");
    assert!(start(&file).contains("cannot read the file of keys"));
    fs::write(&file, "# none yet\n").unwrap();
    assert!(start(&file).contains("has no keys"));
}

#[test]
fn a_key_needs_a_plain_name_and_known_scopes() {
    for arguments in [
        ["key", "new", "Alice Liddell", "--scopes", "use"],
        ["key", "new", "alice", "--scopes", "all"],
    ] {
        let refused = run(&arguments);
        assert_eq!(refused.status.code(), Some(2));
        assert!(refused.stdout.is_empty());
    }
}
