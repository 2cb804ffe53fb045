//! SIGTERM at random moments of a process' life. It ends with status 0 and in time, without a signal or a word of a
//! panic, and what it leaves on disk is whole.
//!
//! `SHUTDOWN_MOMENTS=100` (`make test-shutdown`) tries that many moments instead of a few. The moments are the same in
//! each run.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::segment::picnic;
use crate::server::{Server, agent, maskclip_on, signal, wait};
use crate::train::World;

/// Seconds that requests have to finish after the signal.
const DRAIN_SECONDS: &str = "2";

/// The longest time from the signal to the end on a machine that is busy with other tests.
const LONGEST_END: Duration = Duration::from_secs(60);

/// Numbers that look random and are the same in each run (splitmix64).
struct Moments(u64);

impl Moments {
    /// Returns a moment between 0 and `longest` from now.
    fn next(&mut self, longest: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        longest.mul_f64((bits >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// Returns how many moments are tried, given how many `make test` tries.
fn moments(usual: usize) -> usize {
    let asked = std::env::var("SHUTDOWN_MOMENTS").ok();
    asked.map_or(usual, |moments| {
        let moments: usize = moments.parse().expect("SHUTDOWN_MOMENTS is a number");
        moments.div_ceil(4)
    })
}

/// A server on a store of its own, with its log beside it.
struct Trial {
    folder: tempfile::TempDir,
    server: Server,
}

impl Trial {
    /// Starts a server with these arguments and waits until it listens.
    fn launch(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = maskclip_on(&folder.path().join("store.sqlite3"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu"])
            .args(arguments)
            .env("MASKCLIP_SERVER__DRAIN_SECONDS", DRAIN_SECONDS)
            .stderr(File::create(folder.path().join("log")).unwrap());
        let server = Server::launch(command);
        Self { folder, server }
    }

    fn start() -> Self {
        let trial = Self::launch(&[]);
        trial.server.wait_until_ready();
        trial
    }

    /// Sends SIGTERM at the moment and checks the end.
    fn end_at(mut self, moment: Duration, of: &str) {
        std::thread::sleep(moment);
        self.server.signal("TERM");
        let start = Instant::now();
        let status = self.server.wait(LONGEST_END);
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        println!("{of}: SIGTERM after {moment:.3?}, ended after {:.3?}", start.elapsed());
        assert_eq!(status, Some(0), "{of}, SIGTERM after {moment:?}\n{log}");
        assert!(!log.contains("panic"), "{of}, SIGTERM after {moment:?}\n{log}");
        assert_is_one_file(self.folder.path());
    }
}

/// Fails if logs of a store lie beside its file.
fn assert_is_one_file(folder: &Path) {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let beside: Vec<_> = names.filter(|name| name.to_string_lossy().ends_with("-wal")).collect();
    assert_eq!(beside, [""; 0]);
}

#[test]
fn a_server_ends_well_while_models_are_loaded() {
    let mut random = Moments(1);
    for _ in 0..moments(3) {
        let trial = Trial::launch(&["--model", "demo", "--model", "demo-vit"]);
        trial.end_at(random.next(Duration::from_millis(1500)), "loading");
    }
}

#[test]
fn a_server_ends_well_while_texts_are_embedded() {
    let mut random = Moments(2);
    for _ in 0..moments(3) {
        let trial = Trial::start();
        let names: Vec<_> = (0..400).map(|number| format!("thing number {number}")).collect();
        let reply = agent()
            .put(trial.server.url("/v1/vocabularies/many"))
            .send_json(json!({"classes": names}));
        assert_eq!(reply.unwrap().status(), 202);
        trial.end_at(random.next(Duration::from_millis(1500)), "embedding");
    }
}

#[test]
fn a_server_ends_well_while_images_are_labelled_and_requests_have_been_given_up() {
    let mut random = Moments(3);
    for number in 0..moments(2) {
        let trial = Trial::start();
        let url = trial.server.url("/v1/segment");
        // Every other trial gives its requests up while the model is busy with them.
        let deadline = if number % 2 == 0 { 30.0 } else { 0.2 };
        let body = json!({
            "image": BASE64_STANDARD.encode(picnic()),
            "classes": (0..60).map(|class| format!("class {class} of {number}")).collect::<Vec<_>>(),
            "short_side": 896,
            "refinement": "pamr",
            "deadline_seconds": deadline,
        });
        let clients = [(); 4].map(|()| {
            let (url, body) = (url.clone(), body.clone());
            std::thread::spawn(move || while agent().post(&url).send_json(&body).is_ok() {})
        });
        trial.end_at(random.next(Duration::from_millis(3000)), "labelling");
        clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

#[test]
fn a_training_ends_well_from_its_first_moment_on() {
    let mut random = Moments(4);
    let world = World::new();
    for number in 0..moments(3) {
        let output = format!("student-{number}");
        let labels = if number % 2 == 0 { "once" } else { "each-view" };
        let mut command = world.command(&output, &["--steps", "1000000", "--pseudo-labels", labels]);
        let log = world.path(&format!("log-{number}"));
        command.stderr(File::create(&log).unwrap()).stdout(Stdio::null());
        let mut process = command.spawn().unwrap();
        // Before the program runs, the system answers the signal.
        wait_until_caught(process.id());
        let moment = random.next(Duration::from_millis(4000));
        std::thread::sleep(moment);
        signal(&process, "TERM");
        let start = Instant::now();
        let status = wait(&mut process, LONGEST_END);
        let log = fs::read_to_string(log).unwrap();
        println!(
            "training: SIGTERM after {moment:.3?}, ended after {:.3?}",
            start.elapsed()
        );
        assert_eq!(status, Some(0), "SIGTERM after {moment:?}\n{log}");
        assert!(!log.contains("panic"), "SIGTERM after {moment:?}\n{log}");
        assert!(log.contains("stopp"), "{log}");
    }
}

/// Waits until a process has a handler for SIGTERM.
fn wait_until_caught(process: u32) {
    const SIGTERM: u32 = 15;
    let start = Instant::now();
    let is_caught = || {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() >> (SIGTERM - 1) & 1 == 1
    };
    while !is_caught() {
        assert!(start.elapsed() < LONGEST_END, "SIGTERM has no handler");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server_with_its_name_while_others_are_being_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.safetensors");
    fs::write(&broken, b"nothing of the kind").unwrap();
    let log = folder.path().join("log");
    let mut command = maskclip_on(&folder.path().join("store.sqlite3"));
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--device",
            "cpu",
            "--model",
            "demo",
            "--model",
        ])
        .arg(&broken)
        .env("MASKCLIP_ENGINE__WORKERS", "2")
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap());
    let mut process = command.spawn().unwrap();
    assert_eq!(wait(&mut process, LONGEST_END), Some(1));
    let log = fs::read_to_string(log).unwrap();
    let last = log.lines().last().unwrap();
    assert!(
        last.starts_with("maskclip: cannot load the model broken: models[1]: ")
            && last.contains("broken.safetensors: "),
        "{log}"
    );
    assert!(!log.contains("panic"), "{log}");
}
