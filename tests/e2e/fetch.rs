//! `maskclip fetch` from a server that breaks off, lies, redirects and serves wrong bytes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use maskclip::config::Config;
use maskclip::weights::FetchSettings;
use maskclip::weights::{DEMO, DownloadSource, PUBLISHED, PublishedModel};
use maskclip::weights::{DownloadProgress, Fetch, FetchError, Vouched};
use serde_json::Value;

use crate::loopback::{Answer, Loopback};
use crate::server::{Server, agent, maskclip};
use crate::site::{HUB_FOLDER, MODEL, Site, as_the_hub, sha256, weights};

#[test]
fn a_fetched_model_is_served_by_its_name() {
    // The hub sends the digest with the redirect and the bytes from another address.
    let server = Loopback::start(|_, request| match request.path.as_str() {
        "/cache/1" => Answer::file(DEMO.weights, request),
        _ => Answer::new("302 Found", b"elsewhere")
            .header("Location: /cache/1".to_owned())
            .linked(&sha256(DEMO.weights)),
    });
    let site = Site::new(&server);

    let output = site.fetch(&["ViT-B-32:laion2b_s34b_b79k"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("licence MIT") && said.contains("as the server stated"),
        "{said}"
    );
    assert!(
        !said.contains('\r') && !said.contains('\x1b'),
        "no progress bar in a pipe: {said:?}"
    );
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim_end(),
        site.path("safetensors").to_str().unwrap()
    );
    assert_eq!(
        site.listing(),
        [format!("{MODEL}.json"), format!("{MODEL}.safetensors")]
    );
    assert_eq!(
        server.requests()[0].path,
        format!("{HUB_FOLDER}/open_clip_model.safetensors")
    );

    // The embedded model's weights stand in for the real ones, because sizes are read from the tensors.
    let server = Server::start(&["--config", site.config.to_str().unwrap(), "--model", "vit-b-32-laion2b"]);
    let models: Value = agent()
        .get(server.url("/v1/models"))
        .call()
        .unwrap()
        .body_mut()
        .read_json()
        .unwrap();
    assert_eq!(models["models"][0]["name"], MODEL, "{models}");
    assert_eq!(models["models"][0]["weights_sha256"], sha256(DEMO.weights), "{models}");
}

#[test]
fn serving_a_model_that_was_not_fetched_names_the_command() {
    let site = Site::new(&Loopback::start(|_, request| as_the_hub(request)));
    let output = maskclip()
        .args([
            "serve",
            "--config",
            site.config.to_str().unwrap(),
            "--model",
            "ViT-B/16",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("`maskclip fetch ViT-B-16`"), "{said}");
    assert!(said.contains(site.models().to_str().unwrap()), "{said}");
}

#[test]
fn a_file_of_unknown_length_ends_at_the_limit_and_leaves_nothing() {
    let endless = || Answer::new("200 OK", &vec![7; 10_000_000]).linked(&sha256(&weights()));
    for (states_its_length, stated) in [(true, "it states 10000000 bytes"), (false, "it states no length")] {
        let server = Loopback::start(move |_, _| match states_its_length {
            true => endless(),
            false => endless().without_length(),
        });
        let site = Site::new(&server);
        let output = site
            .command(&[MODEL])
            .env("MASKCLIP_FETCH__MAX_BYTES", "1000000")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("sends more than fetch.max_bytes = 1000000: {stated}")),
            "{said}"
        );
        assert!(site.listing().is_empty(), "{said}");
    }
}

#[test]
fn a_download_that_breaks_off_goes_on_from_there() {
    let server = Loopback::start(|number, request| match number {
        0 => as_the_hub(request).breaking_off_after(60_000),
        _ => as_the_hub(request),
    });
    let site = Site::new(&server);
    assert_eq!(fs::read(site.fetched(&[MODEL])).unwrap(), weights());
    let starts: Vec<_> = server.requests().iter().map(|request| request.start).collect();
    assert_eq!(starts, [None, Some(60_000)]);
}

#[test]
fn a_download_that_is_given_up_is_taken_up_by_the_same_command() {
    let server = Loopback::start(|number, request| match number {
        0 => as_the_hub(request).breaking_off_after(60_000),
        1..=3 => Answer::new("503 Service Unavailable", b""),
        _ => as_the_hub(request),
    });
    let site = Site::new(&server);
    let said = site.refused(&[MODEL]);
    assert!(said.contains("broke off after 60000 of 100000 bytes"), "{said}");
    assert!(said.contains("503") && said.contains("60000 bytes are kept"), "{said}");
    assert_eq!(site.listing(), [format!("{MODEL}.safetensors.partial")]);

    assert_eq!(fs::read(site.fetched(&[MODEL])).unwrap(), weights());
    assert_eq!(server.requests().last().unwrap().start, Some(60_000));
    assert_eq!(
        site.listing(),
        [format!("{MODEL}.json"), format!("{MODEL}.safetensors")]
    );
}

#[test]
fn a_killed_fetch_leaves_no_name_and_is_taken_up() {
    let server = Loopback::start(|number, request| match number {
        0 => as_the_hub(request).breaking_off_after(60_000).stalling(),
        _ => as_the_hub(request),
    });
    let site = Site::new(&server);
    let mut killed = site.command(&[MODEL]).stderr(Stdio::null()).spawn().unwrap();
    let partial = site.path("safetensors.partial");
    wait_until(|| fs::metadata(&partial).is_ok_and(|file| file.len() == 60_000));
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!site.path("safetensors").exists());

    assert_eq!(fs::read(site.fetched(&[MODEL])).unwrap(), weights());
    assert_eq!(server.requests()[1].start, Some(60_000));
}

#[test]
fn a_server_without_ranges_starts_over() {
    let server = Loopback::start(|number, _| {
        let whole = Answer::new("200 OK", &weights()).linked(&sha256(&weights()));
        if number == 0 {
            whole.breaking_off_after(60_000)
        } else {
            whole
        }
    });
    let site = Site::new(&server);
    assert_eq!(fs::read(site.fetched(&[MODEL])).unwrap(), weights());
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn everything_held_already_is_verified_and_named() {
    let server = Loopback::start(|_, request| match request.start {
        Some(100_000) => Answer::new("416 Range Not Satisfiable", b"")
            .header("Content-Range: bytes */100000".to_owned())
            .linked(&sha256(&weights())),
        _ => Answer::new("500 Internal Server Error", b""),
    });
    let site = Site::new(&server);
    fs::create_dir(site.models()).unwrap();
    fs::write(site.path("safetensors.partial"), weights()).unwrap();
    assert_eq!(fs::read(site.fetched(&[MODEL])).unwrap(), weights());
}

#[test]
fn the_beginning_of_another_version_is_thrown_away() {
    let server = Loopback::start(|_, request| as_the_hub(request));
    let site = Site::new(&server);
    fs::create_dir(site.models()).unwrap();
    fs::write(site.path("safetensors.partial"), [7; 1000]).unwrap();
    assert_eq!(fs::read(site.fetched(&[MODEL])).unwrap(), weights());
    let starts: Vec<_> = server.requests().iter().map(|request| request.start).collect();
    assert_eq!(starts, [Some(1000), None]);
}

#[test]
fn a_length_that_promises_too_much_is_no_file() {
    let server = Loopback::start(|_, _| {
        Answer::new("200 OK", &weights())
            .linked(&sha256(&weights()))
            .promising(100_001)
    });
    let site = Site::new(&server);
    let said = site.refused(&[MODEL]);
    assert!(said.contains("broke off after 100000 of 100001 bytes"), "{said}");
    assert!(!site.path("safetensors").exists());
}

#[test]
fn a_length_that_promises_too_little_is_no_file() {
    let server = Loopback::start(|_, request| as_the_hub(request).promising(99_999));
    let site = Site::new(&server);
    let said = site.refused(&[MODEL]);
    assert!(said.contains(&format!("must have {}", sha256(&weights()))), "{said}");
    assert!(site.listing().is_empty(), "{:?}", site.listing());
}

#[test]
fn a_wrong_digest_is_refused_and_nothing_is_left() {
    let server = Loopback::start(|_, request| Answer::file(b"something else", request).linked(&sha256(&weights())));
    let site = Site::new(&server);
    let said = site.refused(&[MODEL]);
    assert!(
        said.contains(&sha256(b"something else")) && said.contains(&sha256(&weights())),
        "{said}"
    );
    assert!(site.listing().is_empty(), "{:?}", site.listing());
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_hub_that_states_no_digest_is_not_believed() {
    let server = Loopback::start(|_, _| Answer::new("200 OK", b"<html>Please log in to the guest network</html>"));
    let site = Site::new(&server);
    let said = site.refused(&[MODEL]);
    assert!(said.contains("does not state the file's digest"), "{said}");
    assert!(site.listing().is_empty(), "{:?}", site.listing());
}

#[test]
fn a_repository_without_safetensors_is_asked_for_the_pickle() {
    let server = Loopback::start(|_, request| {
        if request.path.ends_with(".bin") {
            as_the_hub(request)
        } else {
            Answer::new("404 Not Found", b"")
        }
    });
    let site = Site::new(&server);
    assert_eq!(site.fetched(&[MODEL]), site.path("bin"));
    assert_eq!(site.listing(), [format!("{MODEL}.bin"), format!("{MODEL}.json")]);
}

#[test]
fn refusals_are_handed_on_at_once() {
    for (status, expected) in [
        ("404 Not Found", "open_clip_pytorch_model.bin answers 404 Not Found"),
        ("403 Forbidden", "open_clip_model.safetensors answers 403 Forbidden"),
    ] {
        let server = Loopback::start(move |_, _| Answer::new(status, b""));
        let site = Site::new(&server);
        let said = site.refused(&[MODEL]);
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains("trying again"), "{said}");
        assert!(site.listing().is_empty(), "{:?}", site.listing());
    }
}

#[test]
fn redirects_without_end_are_refused() {
    let server = Loopback::start(|_, _| Answer::new("302 Found", b"").header("Location: /again".to_owned()));
    let site = Site::new(&server);
    let said = site.refused(&[MODEL]);
    assert!(said.contains("redirects more than 10 times"), "{said}");
}

#[test]
fn two_fetches_at_once_transfer_once() {
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let server = Loopback::start(move |_, request| {
        let in_time = released.lock().unwrap().recv_timeout(Duration::from_secs(60));
        in_time.expect("the other fetch says that it waits");
        as_the_hub(request)
    });
    let site = Site::new(&server);
    let start = || {
        let mut command = site.command(&[MODEL]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let first = start();
    wait_until(|| !server.requests().is_empty());
    let mut second = start();
    let mut said = BufReader::new(second.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "waiting for another fetch of this model"));
    release.send(()).unwrap();

    for process in [first, second] {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim_end(),
            site.path("safetensors").to_str().unwrap()
        );
    }
    assert!(said.any(|line| line.unwrap().contains("already there")));
    assert_eq!(server.requests().len(), 1);
    assert_eq!(
        site.listing(),
        [format!("{MODEL}.json"), format!("{MODEL}.safetensors")]
    );
}

#[test]
fn a_file_or_a_mirror_stands_in_for_the_publisher() {
    let server = Loopback::start(|_, request| Answer::file(&weights(), request));
    let mirror = format!("{}/mirror/weights.bin", server.address);
    let file = tempfile::Builder::new().suffix(".bin").tempfile().unwrap();
    fs::write(file.path(), weights()).unwrap();
    for from in [mirror.as_str(), file.path().to_str().unwrap()] {
        let site = Site::new(&server);
        let output = site.fetch(&[MODEL, "--from", from]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("with nothing to compare it to"), "{said}");
        assert_eq!(fs::read(site.path("bin")).unwrap(), weights());
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_supplied_file_that_cannot_be_the_model_is_refused() {
    let site = Site::new(&Loopback::start(|_, request| as_the_hub(request)));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), weights()).unwrap();
    let said = site.refused(&["ViT-B/16", "--from", file.path().to_str().unwrap()]);
    assert!(said.contains("has 100000 bytes where ViT-B-16 has 350837078"), "{said}");
    let said = site.refused(&["ViT-B/16", "--from", "/nowhere/ViT-B-16.pt"]);
    assert!(said.contains("/nowhere/ViT-B-16.pt: No such file"), "{said}");
}

#[test]
fn offline_says_what_is_missing_and_where_it_looked() {
    let server = Loopback::start(|_, request| as_the_hub(request));
    let site = Site::new(&server);
    let said = site.refused(&[MODEL, "--offline"]);
    for part in [
        site.models().to_str().unwrap(),
        "ViT-B-32-laion2b.safetensors and ViT-B-32-laion2b.bin",
        HUB_FOLDER,
        "--from FILE",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let output = site
        .command(&[MODEL])
        .env("MASKCLIP_FETCH__OFFLINE", "true")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(server.requests().is_empty());

    // A file that exists is not downloaded again, and a local file needs no network.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), weights()).unwrap();
    site.fetched(&[MODEL, "--offline", "--from", file.path().to_str().unwrap()]);
    site.fetched(&[MODEL, "--offline"]);
}

#[test]
fn the_list_names_every_model() {
    let site = Site::new(&Loopback::start(|_, request| as_the_hub(request)));
    site.fetched(&[MODEL]);
    let output = site.fetch(&["--list"]);
    let list = String::from_utf8(output.stdout).unwrap();
    for (line, model) in list.lines().skip(1).zip(PUBLISHED) {
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[0], model.name);
        assert_eq!(words[words.len() - 2] == "yes", model.name == MODEL, "{line}");
    }
    assert_eq!(list.lines().count(), PUBLISHED.len() + 1);
    let said = site.refused(&["ViT-B-17"]);
    assert!(said.contains("ViT-B-17") && said.contains("fetch --list"), "{said}");
}

fn wait_until(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing happens");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Keeps the messages of a download.
#[derive(Default)]
struct Heard(Vec<String>);

impl DownloadProgress for Heard {
    fn begin(&mut self, _: u64, _: Option<u64>) {}
    fn advance(&mut self, _: u64) {}
    fn say(&mut self, message: &str) {
        self.0.push(message.to_owned());
    }
}

/// A model like OpenAI's, whose digest and size are known beforehand.
fn known_beforehand(server: &Loopback) -> &'static PublishedModel {
    let like = PublishedModel::named("ViT-B-16").unwrap();
    Box::leak(Box::new(PublishedModel {
        source: DownloadSource::Address {
            url: format!("{}/ViT-B-16.pt", server.address).leak(),
            sha256: sha256(&weights()).leak(),
            bytes: 100_000,
        },
        ..*like
    }))
}

fn fetch(
    model: &'static PublishedModel,
    folder: &Path,
) -> (Result<maskclip::weights::Fetched, FetchError>, Vec<String>) {
    let settings: FetchSettings = Config::for_testing().fetch;
    let mut heard = Heard::default();
    let fetch = Fetch {
        model,
        folder,
        settings: &settings,
    };
    (fetch.run(None, &mut heard), heard.0)
}

#[test]
fn a_digest_known_beforehand_needs_no_word_of_the_server() {
    let server = Loopback::start(|_, request| Answer::file(&weights(), request));
    let folder = tempfile::tempdir().unwrap();
    let model = known_beforehand(&server);
    let fetched = fetch(model, folder.path()).0.unwrap();
    assert_eq!((fetched.vouched, fetched.was_there), (Vouched::Publisher, false));
    assert_eq!(fetched.path, folder.path().join("ViT-B-16.pt"));

    // A file that is damaged later is noticed and replaced.
    fs::write(&fetched.path, "rubbish").unwrap();
    let (again, heard) = fetch(model, folder.path());
    assert!(!again.unwrap().was_there);
    assert_eq!(
        heard,
        [format!(
            "{} is damaged: its digest is not the published one",
            fetched.path.display()
        )]
    );
    assert_eq!(fs::read(&fetched.path).unwrap(), weights());
    assert!(fetch(model, folder.path()).0.unwrap().was_there);
}

#[test]
fn a_file_of_another_length_is_not_even_downloaded() {
    let server = Loopback::start(|_, _| Answer::new("200 OK", b"").promising(100_001).stalling());
    let folder = tempfile::tempdir().unwrap();
    let error = fetch(known_beforehand(&server), folder.path()).0.unwrap_err();
    assert!(
        matches!(
            error,
            FetchError::WrongSize {
                offered: 100_001,
                expected: 100_000,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
