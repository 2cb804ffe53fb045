//! From the first printed line to the end after a signal.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::server::{SERVE, Server, agent, maskclip, run};

/// The longest time that anything may take on a busy machine.
const AT_LAST: Duration = Duration::from_secs(60);

#[test]
fn sigterm_ends_the_server_though_a_keep_alive_connection_is_idle() {
    let mut server = Server::start(&[]);
    // One connection is used and kept open; another never sends a byte.
    let kept = agent();
    assert_eq!(kept.get(server.url("/health/live")).call().unwrap().status(), 200);
    let mut silent = connect(&server);

    server.signal("TERM");
    // The default drain deadline is 20 s.
    assert_eq!(server.wait(Duration::from_secs(30)), Some(0));
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0, "the connection is closed");
}

#[test]
fn after_sigterm_the_server_is_not_ready_and_a_second_signal_ends_it_at_once() {
    let mut server = Server::start_with(&[("MASKCLIP_SERVER__UNREADY_SECONDS", "3600")]);
    server.signal("TERM");
    until("the server is not ready", || ready_status(&server) == 503);
    let live = agent().get(server.url("/health/live")).call().unwrap();
    assert_eq!(live.status(), 200, "a new connection is accepted and answered");
    server.signal("INT");
    assert_eq!(server.wait(AT_LAST), Some(130));
}

#[test]
fn sigint_does_not_wait_for_load_balancers() {
    let mut server = Server::start_with(&[("MASKCLIP_SERVER__UNREADY_SECONDS", "3600")]);
    server.signal("INT");
    assert_eq!(server.wait(AT_LAST), Some(0));
}

#[test]
fn a_second_signal_ends_a_server_that_drains() {
    let mut server = Server::start_with(&[
        ("MASKCLIP_SERVER__DRAIN_SECONDS", "3600"),
        ("MASKCLIP_SERVER__BODY_SECONDS", "3600"),
    ]);
    let mut slow = connect(&server);
    slow.write_all(b"PUT /v1/vocabularies/fruit HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n")
        .unwrap();
    slow.write_all(b"content-type: application/json\r\ncontent-length: 9\r\n\r\n")
        .unwrap();
    // The request is under way once the server asks for its body.
    slow.read_exact(&mut [0; 25]).unwrap();
    server.signal("TERM");
    until("the listener is closed", || {
        TcpStream::connect(address(&server)).is_err()
    });
    server.signal("TERM");
    assert_eq!(server.wait(AT_LAST), Some(143));
}

#[test]
fn the_supervisor_is_told_that_the_server_is_ready_and_that_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(AT_LAST)).unwrap();
    let told = || {
        let mut message = [0; 64];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).trim_end().to_owned()
    };
    let mut server = Server::start_with(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(told(), "READY=1");
    server.signal("TERM");
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(server.wait(AT_LAST), Some(0));
}

#[test]
fn metrics_tell_what_was_served() {
    let server = Server::start(&[]);
    let missing = agent().get(server.url("/v1/nothing")).call().unwrap();
    assert_eq!(missing.status(), 404);
    let text = server.metrics();
    assert!(text.contains(r#"status="404"} 1"#), "{text}");
    assert!(text.contains(r#"maskclip_model_info{architecture="#), "{text}");
    assert!(text.contains("maskclip_workers_live{model=\"demo\"} 1"), "{text}");
}

#[test]
fn a_line_of_the_log_says_who_asked_for_what_and_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = maskclip();
    command
        .args(SERVE)
        .env("MASKCLIP_TELEMETRY__LOG_FORMAT", "json")
        .stderr(File::create(&log).unwrap());
    command.env("MASKCLIP_SERVER__TRUSTED_PROXIES", "[127.0.0.0/8]");
    let server = Server::launch_logging(command, &log);
    server.wait_until_ready();
    let scene = base64::Engine::encode(
        &base64::prelude::BASE64_STANDARD,
        std::fs::read("examples/picnic.png").unwrap(),
    );
    let segment = |id: &str, body: &Value| {
        let request = agent()
            .post(server.url("/v1/segment?key=secret"))
            .header("x-request-id", id)
            .header("x-forwarded-for", "203.0.113.7")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        request.send_json(body).unwrap().status().as_u16()
    };
    let known = json!({"image": scene, "classes": ["tiger"]});
    assert_eq!(segment("job-1", &known), 200);
    assert_eq!(
        segment("job-2", &json!({"model": "none", "image": scene, "classes": ["tiger"]})),
        422
    );
    let classes: Vec<_> = (0..200).map(|n| format!("thing number {n}")).collect();
    leave(&server, "job-3", &json!({"image": scene, "classes": classes}));
    until("the client has left", || {
        read_lines(&log).iter().any(|line| line["status"] == 499)
    });

    let lines = read_lines(&log);
    let line = |id: &str| {
        lines
            .iter()
            .find(|line| line["span"]["id"] == id && line["status"].is_number())
            .unwrap()
    };
    let answered = line("job-1");
    assert_eq!(answered["level"], "INFO");
    assert_eq!(answered["status"], 200);
    assert!(answered["seconds"].is_number(), "{answered}");
    let span = &answered["span"];
    assert_eq!(span["method"], "POST");
    assert_eq!(span["route"], "/v1/segment");
    assert_eq!(span["path"], "/v1/segment");
    assert_eq!(span["model"], "demo");
    assert_eq!(span["client"], "203.0.113.7");
    assert_eq!(span["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(
        (&span["classes"], &answered["outcome"]),
        (&json!(1), &json!("answered"))
    );
    assert!(span["model_seconds"].is_number(), "{answered}");
    let refused = line("job-2");
    assert_eq!(refused["problem"], "/problems/unknown-model");
    assert!(refused["detail"].as_str().unwrap().contains("none"), "{refused}");
    let left = line("job-3");
    assert_eq!(left["message"], "the client left");
    assert_eq!(left["span"]["model"], "demo");
    assert_eq!(left["span"]["stage"], "text");
    assert!(
        lines.iter().all(|line| line["span"]["route"] != "/health/ready"),
        "probes are for the level DEBUG"
    );
    let text = std::fs::read_to_string(&log).unwrap();
    for word in ["secret", "tiger", "thing number"] {
        assert!(!text.contains(word), "{word} is in\n{text}");
    }
}

#[test]
fn with_json_every_line_is_json_and_names_the_address_as_bound() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = maskclip();
    command
        .args(["serve", "--listen", "0.0.0.0:0", "--device", "cpu"])
        .env("MASKCLIP_TELEMETRY__LOG_FORMAT", "json")
        .stderr(File::create(&log).unwrap());
    let mut server = Server::launch_logging(command, &log);
    assert!(server.address.starts_with("http://0.0.0.0:"), "{}", server.address);
    server.wait_until_ready();
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(60)), Some(0));
    assert_eq!(server.rest_of_output(), "");
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }

    // An end by an error is such a line, too.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = maskclip();
    command
        .args([
            "serve",
            "--listen",
            &taken.local_addr().unwrap().to_string(),
            "--device",
            "cpu",
        ])
        .env("MASKCLIP_TELEMETRY__LOG_FORMAT", "json");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    let last: Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
    assert!(last["error"].as_str().unwrap().contains("cannot listen"), "{error}");
}

/// Asks over TLS, on a connection of its own, whether the server lives. Trusts this certificate alone.
fn lives(server: &Server, certificate: &str) -> bool {
    let trusted = Certificate::from_pem(certificate.as_bytes()).unwrap();
    let tls = TlsConfig::builder().root_certs(RootCerts::from([trusted])).build();
    let agent: ureq::Agent = ureq::Agent::config_builder().tls_config(tls).build().into();
    agent.get(server.url("/health/live")).call().is_ok()
}

#[test]
fn a_hangup_has_the_certificate_read_again_and_the_server_goes_on() {
    const FIRST: [&str; 2] = [
        include_str!("../api/certificates/first.pem"),
        include_str!("../api/certificates/first.key.pem"),
    ];
    const SECOND: [&str; 2] = [
        include_str!("../api/certificates/second.pem"),
        include_str!("../api/certificates/second.key.pem"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key, log] = ["tls.crt", "tls.key", "log"].map(|name| folder.path().join(name));
    let write = |[chain, private]: [&str; 2]| {
        std::fs::write(&key, private).unwrap();
        std::fs::write(&certificate, chain).unwrap();
    };
    write(FIRST);
    let mut command = maskclip();
    command
        .args(SERVE)
        .env("MASKCLIP_SERVER__TLS__CERTIFICATE", &certificate)
        .env("MASKCLIP_SERVER__TLS__KEY", &key)
        .stderr(File::create(&log).unwrap());
    let server = Server::launch(command);
    assert!(server.address.starts_with("https://127.0.0.1:"), "{}", server.address);
    assert!(lives(&server, FIRST[0]));
    assert!(!lives(&server, SECOND[0]));

    write(SECOND);
    server.signal("HUP");
    // Nobody connects meanwhile, so it is the signal that has it read.
    until("the certificate is read again", || {
        std::fs::read_to_string(&log)
            .unwrap()
            .contains("the certificate was read again")
    });
    assert!(lives(&server, SECOND[0]));
    assert!(!lives(&server, FIRST[0]));
}

/// Sends `POST /v1/segment`, and leaves once it is under way.
fn leave(server: &Server, id: &str, body: &Value) {
    let body = body.to_string();
    let head =
        format!("POST /v1/segment HTTP/1.1\r\nhost: localhost\r\nx-request-id: {id}\r\ncontent-type: application/json");
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut client = connect(server);
    client.write_all(request.as_bytes()).unwrap();
    until("the request is under way", || {
        server.metric("maskclip_requests_in_flight") == 1
    });
}

/// Returns the lines of a log in JSON. One that is still being written is left out.
fn read_lines(log: &Path) -> Vec<Value> {
    let log = std::fs::read_to_string(log).unwrap();
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_server_goes_on_when_nobody_reads_its_output() {
    let mut command = maskclip();
    command
        .args(SERVE)
        .stderr(File::options().write(true).open("/dev/full").unwrap());
    let mut server = Server::launch(command);
    // The line with the example is still to come.
    server.stop_reading();
    server.wait_until_ready();
    until("the server is ready and well", || ready_status(&server) == 200);
    server.signal("TERM");
    assert_eq!(server.wait(AT_LAST), Some(0));
}

#[test]
fn a_command_whose_output_is_lost_ends_as_others_do() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let nobody_reads = maskclip()
        .args(["fetch", "--list"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(nobody_reads.status.code(), Some(0));
    assert_eq!(String::from_utf8(nobody_reads.stderr).unwrap(), "");

    let full = File::options().write(true).open("/dev/full").unwrap();
    let full = maskclip()
        .args(["fetch", "--list"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(
        String::from_utf8(full.stderr)
            .unwrap()
            .contains("No space left on device")
    );
    // As it should be.
    assert!(
        String::from_utf8(run(&["fetch", "--list"]).stdout)
            .unwrap()
            .contains("ViT-B-16")
    );
}

#[test]
fn a_server_without_file_descriptors_answers_again_once_some_are_free() {
    let server = Server::start(&[]);
    let id = server.id();
    let open = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    let limit = format!("--nofile={}", open + 3);
    let limited = Command::new("prlimit")
        .args(["--pid", &id.to_string(), &limit])
        .status();
    assert!(limited.unwrap().success());
    let clients: Vec<_> = (0..20).map(|_| connect(&server)).collect();
    until("it runs out of them", || {
        std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() >= open + 3
    });
    drop(clients);
    assert_eq!(ready_status(&server), 200);
}

/// Fails if `holds` does not come true.
fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < AT_LAST, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ready_status(server: &Server) -> u16 {
    let reply = agent().get(server.url("/health/ready")).call().unwrap();
    reply.status().as_u16()
}

fn address(server: &Server) -> &str {
    server.address.trim_start_matches("http://")
}

fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(address(server)).unwrap()
}
