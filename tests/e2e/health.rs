//! `maskclip health`, and what shells and `man` are told.

use std::fs::File;
use std::process::Output;

use crate::server::{SERVE, Server, maskclip, run};

/// Asks with a setting in the environment.
fn health(name: &str, value: &str) -> Output {
    let mut command = maskclip();
    command.arg("health").env(name, value).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn health_reads_the_settings_of_the_server_and_its_status_says_whether_it_is_ready() {
    let server = Server::start_with(&[("MASKCLIP_SERVER__UNREADY_SECONDS", "3600")]);
    let address = server.address.trim_start_matches("http://");
    let ready = health("MASKCLIP_SERVER__LISTEN", address);
    assert_eq!(ready.status.code(), Some(0), "{ready:?}");
    assert_eq!(text(ready.stdout), "demo: ready\n");

    // By name, as of a Service.
    let (_, port) = address.rsplit_once(':').unwrap();
    let ready = run(&["health", "--listen", &format!("localhost:{port}")]);
    assert_eq!(ready.status.code(), Some(0), "{ready:?}");

    // A server that listens on every address is asked on this machine's own.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("maskclip.yaml");
    std::fs::write(&file, format!("server: {{listen: \"0.0.0.0:{port}\"}}\n")).unwrap();
    let ready = health("MASKCLIP_CONFIG", file.to_str().unwrap());
    assert_eq!(ready.status.code(), Some(0), "{ready:?}");

    server.signal("TERM");
    while health("MASKCLIP_SERVER__LISTEN", address).status.success() {}
    let leaving = health("MASKCLIP_SERVER__LISTEN", address);
    assert_eq!(leaving.status.code(), Some(1));
    assert_eq!(text(leaving.stderr), "maskclip: the server is going down\n");
    assert_eq!(text(leaving.stdout), "demo: ready\n");
}

#[test]
fn health_fails_where_nobody_listens_or_somebody_else_answers() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut client, _) = free.accept().unwrap();
        let mut head = [0; 8];
        std::io::Read::read_exact(&mut client, &mut head).unwrap();
        std::io::Write::write_all(
            &mut client,
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
        )
        .unwrap();
        std::io::copy(&mut client, &mut std::io::sink()).unwrap();
    });
    let strange = run(&["health", "--listen", &address]);
    answering.join().unwrap();
    assert_eq!(strange.status.code(), Some(1));
    let message = text(strange.stderr);
    assert!(message.contains("not as a server of MaskCLIP"), "{message}");

    let nobody = run(&["health", "--listen", &address]);
    assert_eq!(nobody.status.code(), Some(1));
    let message = text(nobody.stderr);
    assert!(
        message.contains(&format!("http://{address}/health/ready: ")),
        "{message}"
    );

    let unknown = text(run(&["health", "--listen", "127.0.0.1:0"]).stderr);
    assert!(unknown.contains("--listen"), "{unknown}");
}

#[test]
fn health_asks_over_tls_where_the_server_speaks_it() {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key, log] = ["tls.crt", "tls.key", "log"].map(|name| folder.path().join(name));
    std::fs::write(&certificate, include_str!("../api/certificates/first.pem")).unwrap();
    std::fs::write(&key, include_str!("../api/certificates/first.key.pem")).unwrap();
    let settings = |command: &mut std::process::Command| {
        command
            .env("MASKCLIP_SERVER__TLS__CERTIFICATE", &certificate)
            .env("MASKCLIP_SERVER__TLS__KEY", &key);
    };
    let mut command = maskclip();
    command.args(SERVE).stderr(File::create(&log).unwrap());
    settings(&mut command);
    let server = Server::launch(command);
    let address = server.address.trim_start_matches("https://");
    let is_ready = || {
        let mut command = maskclip();
        command.args(["health", "--listen", address]);
        settings(&mut command);
        command.output().unwrap().status.success()
    };
    let start = std::time::Instant::now();
    while !is_ready() {
        assert!(start.elapsed() < std::time::Duration::from_secs(120));
    }
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(run(&["completions", shell]).stdout);
        for word in ["serve", "health", "precision", "completions"] {
            assert!(script.contains(word), "{word} is not in the completions for {shell}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let made = run(&["man", pages.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    for (page, word) in [("maskclip.1", "serve"), ("maskclip-serve.1", "server.listen")] {
        let page = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(page.contains(word), "{word} is not in\n{page}");
    }
}
