//! The store on disk: what outlives a server, several processes on one file, damage, and the shell commands on the same
//! store.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::segment::{picnic, segment};
use crate::server::{Server, agent, maskclip, maskclip_on};

const HITS: &str = "maskclip_vocabulary_hits_total";
const DISK_HITS: &str = "maskclip_vocabulary_disk_hits_total";
const MISSES: &str = "maskclip_vocabulary_misses_total";

/// Returns a folder and a path for a store in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.sqlite3");
    (folder, path)
}

fn log(store: &Path) -> String {
    fs::read_to_string(store.with_file_name("log")).unwrap()
}

fn request(vocabulary: &str) -> Value {
    json!({
        "image": BASE64_STANDARD.encode(picnic()),
        "vocabulary": vocabulary,
        "deadline_seconds": 300, // of use on a machine that has other things to do
        "output": {"label_map": "coco-rle"},
    })
}

/// Returns what a reply says of the image, without times.
fn answer(server: &Server, vocabulary: &str) -> Value {
    let mut reply = segment(server, &request(vocabulary));
    reply["timings"].take();
    reply
}

fn put(server: &Server, name: &str, body: &Value) -> u16 {
    let url = server.url(&format!("/v1/vocabularies/{name}"));
    agent().put(url).send_json(body).unwrap().status().as_u16()
}

/// Waits until a vocabulary is embedded. Returns its number of texts.
fn wait_until_embedded(server: &Server, name: &str) -> u64 {
    let start = Instant::now();
    loop {
        let mut reply = agent()
            .get(server.url(&format!("/v1/vocabularies/{name}")))
            .call()
            .unwrap();
        let body: Value = reply.body_mut().read_json().unwrap();
        let state = &body["embeddings"][0];
        if state["embedded"] == state["total"] {
            return state["total"].as_u64().unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(120), "not embedded: {body}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs `maskclip vocab` on a store. Returns its standard output, or its error.
fn vocab(store: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = maskclip_on(store).arg("vocab").args(arguments).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
fn a_restart_after_a_kill_pays_for_nothing() {
    let (_folder, store) = place();
    let mut server = Server::start_on(&store);
    let long = "a b ".repeat(40);
    let body = json!({"classes": ["tiger", {"name": "lemon", "synonyms": [long]}], "background": ["green background"]});
    assert_eq!(put(&server, "picnic", &body), 202);
    assert_eq!(wait_until_embedded(&server, "picnic"), 4);
    let before = answer(&server, "picnic");
    let warnings = before["warnings"].as_array().unwrap();
    let truncated = |warning: &&Value| warning["code"] == "text-truncated";
    assert_eq!(warnings.iter().filter(truncated).count(), 1, "{before}");
    server.signal("KILL");
    server.wait(Duration::from_secs(10));

    let server = Server::start_on(&store);
    assert_eq!(wait_until_embedded(&server, "picnic"), 4);
    assert_eq!(answer(&server, "picnic"), before, "to the last digit, the warning too");
    assert_eq!((server.metric(DISK_HITS), server.metric(MISSES)), (4, 0));
    assert!(server.metric("maskclip_vocabulary_disk_bytes") > 0);

    // A new vocabulary computes only its new classes.
    put(&server, "more", &json!({"classes": ["tiger", "lemon", "penguin"]}));
    wait_until_embedded(&server, "more");
    answer(&server, "more");
    assert_eq!(server.metric(MISSES), 1);
    assert_eq!(server.metric(HITS), 2 + 3);
}

#[test]
fn embedding_that_the_end_of_a_server_cuts_off_goes_on_after_its_restart() {
    let (_folder, store) = place();
    let mut server = Server::start_on(&store);
    let names: Vec<_> = (0..120).map(|number| format!("thing number {number}")).collect();
    assert_eq!(put(&server, "things", &json!({"classes": names})), 202);
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(60)), Some(0));

    let server = Server::start_on(&store);
    assert_eq!(wait_until_embedded(&server, "things"), 120);
    assert_eq!(
        server.metric(DISK_HITS) + server.metric(MISSES),
        120,
        "no text is computed twice"
    );
}

#[test]
fn what_a_published_list_costs_is_paid_once() {
    let (_folder, store) = place();
    let request = request("voc-20");
    let mut server = Server::start_on(&store);
    let mut embedding = segment(&server, &request);
    assert_eq!((server.metric(MISSES), server.metric(DISK_HITS)), (20, 0));
    // Embeddings are written behind the request.
    assert_eq!(wait_until_embedded(&server, "voc-20"), 20);
    server.signal("KILL");
    server.wait(Duration::from_secs(10));

    let server = Server::start_on(&store);
    assert_eq!((server.metric(MISSES), server.metric(DISK_HITS)), (0, 0));
    let mut reading = segment(&server, &request);
    assert_eq!(
        (server.metric(MISSES), server.metric(DISK_HITS)),
        (0, 20),
        "the text tower has had nothing to do"
    );
    for reply in [&mut embedding, &mut reading] {
        reply["timings"].take();
    }
    assert_eq!(reading, embedding);
}

#[test]
fn two_servers_share_what_either_has_defined_and_embedded() {
    let (_folder, store) = place();
    let (first, second) = (Server::start_on(&store), Server::start_on(&store));
    put(&first, "picnic", &json!({"classes": ["tiger", "lemon"]}));
    wait_until_embedded(&first, "picnic");
    assert_eq!(answer(&second, "picnic"), answer(&first, "picnic"));
    assert_eq!((second.metric(DISK_HITS), second.metric(MISSES)), (2, 0));

    let url = |server: &Server| server.url("/v1/vocabularies/picnic");
    let tag = agent().get(url(&second)).call().unwrap().headers()["etag"].clone();
    put(&first, "picnic", &json!({"classes": ["penguin"]}));
    let stale = agent().delete(url(&second)).header("if-match", tag).call().unwrap();
    assert_eq!(stale.status(), 412, "the other server has changed it");
    assert_eq!(agent().delete(url(&second)).call().unwrap().status(), 204);
    assert_eq!(agent().get(url(&first)).call().unwrap().status(), 404);
}

#[test]
fn a_damaged_store_is_made_anew_with_a_warning() {
    let (_folder, store) = place();
    vocab(&store, &["add", "picnic", "tiger", "lemon"]).unwrap();
    vocab(&store, &["embed", "picnic", "--device", "cpu"]).unwrap();
    let files = [store.clone(), embeddings(&store)];
    let wholes = files.clone().map(|file| {
        assert!(
            !log_of(&file).exists(),
            "all is in the file when the last process has closed it"
        );
        fs::read(file).unwrap()
    });
    let right = {
        let (_folder, other) = place();
        vocab(&other, &["add", "picnic", "tiger", "lemon"]).unwrap();
        answer(&Server::start_on(&other), "picnic")
    };

    // First the headers and every second page are damaged. Then all but the first page is lost.
    let flipped = wholes.clone().map(|mut whole| {
        for page in whole.chunks_mut(16384).step_by(2) {
            page[..4000].iter_mut().for_each(|byte| *byte ^= 0xff);
        }
        whole
    });
    let cut = wholes.map(|whole| whole[..16384].to_vec());
    for damaged in [flipped, cut] {
        for (file, bytes) in files.iter().zip(damaged) {
            // A killed server leaves its log, which would repair some of the damage.
            let _ = fs::remove_file(log_of(file));
            fs::write(file, bytes).unwrap();
        }
        let server = Server::start_on(&store);
        put(&server, "picnic", &json!({"classes": ["tiger", "lemon"]}));
        assert_eq!(answer(&server, "picnic"), right);
        assert_eq!((server.metric(DISK_HITS), server.metric(MISSES)), (0, 2));
        let log = log(&store);
        assert!(log.contains("the store on disk is damaged"), "{log}");
        fs::remove_file(store.with_file_name("log")).unwrap();
    }
}

/// Returns the file of embeddings that belongs to a store.
fn embeddings(store: &Path) -> PathBuf {
    store.with_file_name("store.embeddings.sqlite3")
}

/// Returns the write-ahead log of a file.
fn log_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Runs `maskclip serve` on a store that it refuses. Returns the error.
fn refusal(store: &Path) -> String {
    let mut command = maskclip_on(store);
    let output = command.args(["serve", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"", "it has not listened");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_named_store_that_cannot_be_used_stops_the_start_and_is_left_alone() {
    let (folder, store) = place();
    // An empty database with another program's mark, then one of a later version.
    vocab(&store, &["list"]).unwrap();
    let ours = fs::read(&store).unwrap();
    for (place, bytes, reason) in [
        (68, *b"GPKG", "a database of another program"),
        (
            60,
            [0, 0, 0, 9],
            "its format is 9, and this version of maskclip reads format 1",
        ),
    ] {
        let mut other = ours.clone();
        other[place..place + 4].copy_from_slice(&bytes);
        fs::write(&store, &other).unwrap();
        for error in [refusal(&store), vocab(&store, &["list"]).unwrap_err()] {
            assert!(error.contains(reason), "{error}");
            assert!(error.contains(store.to_str().unwrap()), "{error}");
        }
        assert_eq!(fs::read(&store).unwrap(), other);
    }
    // A file where the folder should be.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = refusal(&file.join("store.sqlite3"));
    assert!(
        error.contains("cannot be used") && error.contains("vocabulary.store_path"),
        "{error}"
    );
}

#[test]
fn an_automatic_store_that_cannot_be_used_leaves_a_server_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("maskclip"), "a file where the folder should be").unwrap();
    let home = folder.path().to_str().unwrap();
    let server = Server::start_with(&[("MASKCLIP_VOCABULARY__STORE_PATH", "auto"), ("XDG_DATA_HOME", home)]);
    assert_eq!(put(&server, "picnic", &json!({"classes": ["tiger"]})), 202);
    assert_eq!(answer(&server, "picnic")["classes"][0]["name"], "tiger");
    let mut list = agent().get(server.url("/v1/vocabularies")).call().unwrap();
    let list: Value = list.body_mut().read_json().unwrap();
    assert_eq!(list["durable"], false);
}

#[test]
fn a_full_disk_is_507_for_changes_and_requests_are_answered() {
    let (_folder, store) = place();
    // No file of this server may grow beyond 400 blocks of 1024 bytes, as if the disk were full.
    let log = fs::File::create(store.with_file_name("log")).unwrap();
    let line = "trap '' XFSZ; ulimit -f 400; exec maskclip serve --listen 127.0.0.1:0 --device cpu";
    let server = Server::start_shell(line, &store, log);
    let mut classes: Vec<String> = vec!["tiger".to_owned()];
    let mut body = json!({"classes": classes});
    assert!([201, 202].contains(&put(&server, "picnic", &body)));
    let right = answer(&server, "picnic")["classes"].take();
    classes.extend((0..900).map(|number| format!("{number} {}", "fills the disk ".repeat(13).trim_end())));
    let classes: Vec<_> = classes
        .iter()
        .map(|name| json!({"name": name, "synonyms": [format!("{name}!"), format!("{name}?")]}))
        .collect();
    body = json!({"classes": classes, "options": {"templates": "simple"}});
    let url = server.url("/v1/vocabularies/picnic");
    let mut refused = agent().put(&url).send_json(&body).unwrap();
    assert_eq!(refused.status(), 507);
    let problem: Value = refused.body_mut().read_json().unwrap();
    assert_eq!(problem["type"], "/problems/not-stored");
    assert_eq!(answer(&server, "picnic")["classes"], right);
    let text = self::log(&store);
    assert!(text.contains("SQLite's code"), "{text}");
    assert_eq!(
        agent().delete(&url).call().unwrap().status(),
        204,
        "there is room for less"
    );
}

#[test]
fn a_store_deleted_while_it_is_served_is_made_anew_with_what_was_defined() {
    let (folder, store) = place();
    let store = store.with_file_name("state").join("store.sqlite3");
    fs::create_dir(store.parent().unwrap()).unwrap();
    let mut server = Server::start_on(&store);
    put(&server, "picnic", &json!({"classes": ["tiger", "lemon"]}));
    wait_until_embedded(&server, "picnic");
    fs::rename(store.parent().unwrap(), folder.path().join("gone")).unwrap();
    put(&server, "fruit", &json!({"classes": ["lemon"]}));
    wait_until_embedded(&server, "fruit");
    server.signal("KILL");
    server.wait(Duration::from_secs(10));
    let names = vocab(&store, &["list"]).unwrap();
    assert!(names.contains("picnic") && names.contains("fruit"), "{names}");
}

#[test]
fn kills_while_it_is_written_leave_nothing_wrong() {
    let (_folder, store) = place();
    let embed = [
        "vocab",
        "embed",
        "pascal-context-59",
        "--device",
        "cpu",
        "--templates",
        "maskclip-85",
    ];
    let mut progress = Vec::new();
    for round in 1..=4 {
        let mut process = maskclip_on(&store)
            .args(embed)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Waits for the command to write, until the store and its log have grown `round` times.
        let start = Instant::now();
        let (mut growths, mut last) = (0, written(&store));
        while growths < round && process.try_wait().unwrap().is_none() {
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "nothing is written: {progress:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
            let now = written(&store);
            growths += u32::from(now > last);
            last = now;
        }
        process.kill().unwrap();
        process.wait().unwrap();
        progress.push(written(&store));
    }

    let finished = vocab(&store, &embed[1..]).unwrap();
    assert!(
        finished.starts_with("pascal-context-59: 59 of 59 texts embedded"),
        "{finished}"
    );
    let now: u64 = finished
        .split("maskclip-85, ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        now < 59,
        "those who were killed left something behind: {finished}{progress:?}"
    );
    let server = Server::start_on(&store);
    let from_disk = answer(&server, "pascal-context-59");
    assert_eq!((server.metric(DISK_HITS), server.metric(MISSES)), (59, 0));
    assert!(!log(&store).contains("damaged"), "{}", log(&store));
    assert_eq!(from_disk, answer(&Server::start(&[]), "pascal-context-59"));
}

#[test]
fn kills_while_vocabularies_change_lose_no_acknowledged_one() {
    let (_folder, store) = place();
    let classes = |number: usize| json!([format!("thing {number}"), "tiger"]);
    let mut acknowledged: Vec<usize> = Vec::new();
    for round in 1..=3 {
        let mut server = Server::start_on(&store);
        let url = server.url("/v1/vocabularies/");
        let first = acknowledged.len();
        let (tell, told) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            for number in first.. {
                let body = json!({"classes": classes(number), "options": {"templates": "simple"}});
                match agent().put(format!("{url}list-{number}")).send_json(&body) {
                    Ok(reply) if reply.status().is_success() => tell.send(number).unwrap(),
                    _ => break,
                }
            }
        });
        // The kill comes while the next change is on its way.
        acknowledged.extend(told.iter().take(3 * round));
        server.signal("KILL");
        server.wait(Duration::from_secs(10));
        acknowledged.extend(told.iter());
        writer.join().unwrap();
        let names = vocab(&store, &["list"]).unwrap();
        for number in &acknowledged {
            assert!(
                names.contains(&format!("list-{number} ")),
                "round {round}: list-{number}: {names}"
            );
        }
    }
    let (server, fresh) = (Server::start_on(&store), Server::start(&[]));
    for number in [0, acknowledged.len() - 1] {
        let kept = answer(&server, &format!("list-{number}"));
        put(
            &fresh,
            "list",
            &json!({"classes": classes(number), "options": {"templates": "simple"}}),
        );
        assert_eq!(kept["classes"], answer(&fresh, "list")["classes"]);
    }
    assert!(!log(&store).contains("damaged"), "{}", log(&store));
}

/// Returns the bytes of a store's embeddings and the log next to them.
fn written(store: &Path) -> u64 {
    let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let file = embeddings(store);
    length(&file) + length(&log_of(&file))
}

#[test]
fn the_shell_works_on_the_store_of_a_running_server() {
    let (folder, store) = place();
    let server = Server::start_on(&store);
    assert_eq!(
        vocab(
            &store,
            &[
                "add",
                "pets",
                "cat; kitty",
                "dog",
                "--background",
                "sky",
                "--synonyms",
                "max",
                "--background-area",
                "0.01"
            ]
        ),
        Ok("created pets: 2 classes\n".to_owned())
    );
    assert_eq!(answer(&server, "pets")["classes"][1]["name"], "dog");
    let shown = "[options]\nsynonyms: max\nbackground_area: 0.01\n[classes]\ncat; kitty\ndog\n[background]\nsky\n";
    assert_eq!(vocab(&store, &["show", "pets"]).unwrap(), shown);
    let error = vocab(&store, &["add", "pets", "cow"]).unwrap_err();
    assert!(error.contains("--replace"), "{error}");

    // An exported and imported vocabulary is the same.
    let file = folder.path().join("pets.txt");
    vocab(&store, &["export", "pets", file.to_str().unwrap()]).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), shown);
    assert_eq!(
        vocab(&store, &["import", "copy", file.to_str().unwrap()]),
        Ok("created copy: 2 classes\n".to_owned())
    );
    assert_eq!(vocab(&store, &["show", "copy"]).unwrap(), shown);
    let mut import = maskclip_on(&store)
        .args(["vocab", "import", "pets", "-", "--replace"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    import.stdin.take().unwrap().write_all(b"cow # moo\n").unwrap();
    assert!(import.wait().unwrap().success());
    assert_eq!(answer(&server, "pets")["classes"][0]["name"], "cow");

    // The shell command has embedded the texts, so the server computes nothing.
    let before = server.metric(MISSES);
    vocab(
        &store,
        &["add", "fruit", "lemon", "strawberry", "--templates", "simple"],
    )
    .unwrap();
    let embedded = vocab(&store, &["embed", "fruit", "--device", "cpu"]).unwrap();
    assert!(
        embedded.starts_with("fruit: 2 of 2 texts embedded for demo with simple, 2 of them now"),
        "{embedded}"
    );
    answer(&server, "fruit");
    assert_eq!(server.metric(MISSES), before);

    vocab(&store, &["remove", "fruit"]).unwrap();
    let names: Vec<String> = vocab(&store, &["list"])
        .unwrap()
        .lines()
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert!(
        names.ends_with(&["voc-20", "voc-21", "copy", "pets"].map(str::to_owned)),
        "{names:?}"
    );
    for arguments in [&["remove", "fruit"][..], &["show", "fruit"], &["embed", "fruit"]] {
        let error = vocab(&store, arguments).unwrap_err();
        assert!(error.contains("no vocabulary is called \"fruit\""), "{error}");
    }
    let error = vocab(&store, &["remove", "voc-20"]).unwrap_err();
    assert!(error.contains("read-only"), "{error}");
}

#[test]
fn without_a_store_the_shell_says_so() {
    let output = maskclip().args(["vocab", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("vocabulary.store_path is none"), "{error}");
}
