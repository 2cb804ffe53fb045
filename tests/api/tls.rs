//! TLS on a socket: versions, ciphers, the choice of HTTP, certificates that change, and clients that do not shake
//! hands.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use maskclip::api::{Tls, TlsSettings};
use maskclip::config::Config;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::socket::{Client, Socket, at_last};

const FIRST: Certificate = Certificate {
    chain: include_str!("certificates/first.pem"),
    key: include_str!("certificates/first.key.pem"),
};
const SECOND: Certificate = Certificate {
    chain: include_str!("certificates/second.pem"),
    key: include_str!("certificates/second.key.pem"),
};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// A certificate and its key.
struct Certificate {
    chain: &'static str,
    key: &'static str,
}

impl Certificate {
    fn write(&self, folder: &Path) {
        fs::write(folder.join("tls.key"), self.key).unwrap();
        fs::write(folder.join("tls.crt"), self.chain).unwrap();
    }
}

fn settings(folder: &Path) -> TlsSettings {
    TlsSettings {
        certificate: folder.join("tls.crt"),
        key: folder.join("tls.key"),
    }
}

/// A server with the first certificate, whose files are in the folder.
async fn start(change: impl FnOnce(&mut Config)) -> (Socket, TempDir) {
    let folder = TempDir::new().unwrap();
    FIRST.write(folder.path());
    let socket = Socket::start(|config| {
        config.server.tls = Some(settings(folder.path()));
        change(config);
    });
    (socket.await, folder)
}

/// Connects as a client that trusts one certificate alone.
async fn connect(
    socket: &Socket,
    trusted: &Certificate,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    connect_with(ring::default_provider(), socket, trusted, versions, alpn).await
}

/// Connects as a client with ciphers of its own.
async fn connect_with(
    ciphers: CryptoProvider,
    socket: &Socket,
    trusted: &Certificate,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(trusted.chain.as_bytes()).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ciphers))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = socket.connect().await.0;
    let name = "localhost".try_into().unwrap();
    at_last(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken_with_ciphers_that_authenticate_and_forget_their_keys() {
    let (socket, _folder) = start(|_| ()).await;
    for version in [&TLS12, &TLS13] {
        let stream = connect(&socket, &FIRST, &[version], &[]).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.protocol_version(), Some(version.version));
        // Without ALPN the client speaks what it likes.
        assert!(Client(stream).get("/health/live").await.starts_with("HTTP/1.1 200"));
    }
    let mut spoken = Vec::new();
    for suite in ring::default_provider().cipher_suites {
        let mut client = ring::default_provider();
        client.cipher_suites = vec![suite];
        if let Ok(stream) = connect_with(client, &socket, &FIRST, &[suite.version()], &[]).await {
            spoken.push(format!(
                "{:?}",
                stream.get_ref().1.negotiated_cipher_suite().unwrap().suite()
            ));
        }
    }
    assert_eq!(
        spoken,
        [
            "TLS13_AES_256_GCM_SHA384",
            "TLS13_AES_128_GCM_SHA256",
            "TLS13_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        ]
    );
}

#[tokio::test]
async fn a_client_picks_its_http() {
    let (socket, _folder) = start(|_| ()).await;
    let stream = connect(&socket, &FIRST, BOTH, &["http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(Client(stream).get("/health/live").await.starts_with("HTTP/1.1 200"));

    let stream = connect(&socket, &FIRST, BOTH, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let live = Request::get("https://localhost/health/live")
        .body(String::new())
        .unwrap();
    let reply = at_last(client.send_request(live)).await.unwrap();
    assert_eq!((reply.status(), reply.version()), (StatusCode::OK, Version::HTTP_2));
    drop(client);
    at_last(connection).await.unwrap().unwrap();

    let refused = connect(&socket, &FIRST, BOTH, &["spdy/3"]).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test]
async fn a_certificate_that_changes_is_used_by_the_next_connections() {
    let (socket, folder) = start(|_| ()).await;
    let mut before = Client(connect(&socket, &FIRST, BOTH, &[]).await.unwrap());
    assert!(connect(&socket, &SECOND, BOTH, &[]).await.is_err());

    SECOND.write(folder.path());
    at_last(async { while connect(&socket, &SECOND, BOTH, &[]).await.is_err() {} }).await;
    assert!(connect(&socket, &FIRST, BOTH, &[]).await.is_err());
    // Whoever is connected stays so.
    assert!(before.get("/health/live").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_certificate_as_it_is() {
    let (socket, folder) = start(|_| ()).await;
    let tls = socket.tls.as_ref().unwrap();
    fs::write(folder.path().join("tls.crt"), "half of a certific").unwrap();
    tls.reload();
    connect(&socket, &FIRST, BOTH, &[]).await.unwrap();
    // A certificate without its key.
    fs::write(folder.path().join("tls.crt"), SECOND.chain).unwrap();
    tls.reload();
    connect(&socket, &FIRST, BOTH, &[]).await.unwrap();
    SECOND.write(folder.path());
    tls.reload();
    connect(&socket, &SECOND, BOTH, &[]).await.unwrap();
}

/// On several threads, so that one that is kept waiting is seen by the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_named_pipe_in_place_of_a_file_keeps_nobody_waiting() {
    let (socket, folder) = start(|_| ()).await;
    for name in ["tls.crt", "tls.key"] {
        let path = folder.path().join(name);
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        // From then on the next connection looks at the files.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        connect(&socket, &FIRST, BOTH, &[]).await.unwrap();
        let tls = socket.tls.clone().unwrap();
        at_last(tokio::task::spawn_blocking(move || tls.reload()))
            .await
            .unwrap();
        connect(&socket, &FIRST, BOTH, &[]).await.unwrap();
        fs::remove_file(&path).unwrap();
        FIRST.write(folder.path());
    }
    SECOND.write(folder.path());
    at_last(async { while connect(&socket, &SECOND, BOTH, &[]).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_client_that_does_not_shake_hands_has_as_long_as_for_a_head() {
    let (socket, _folder) = start(|config| config.server.head_seconds = 0.2).await;
    let mut silent = socket.connect().await;
    assert_eq!(silent.rest().await, "");
    // The beginning of a handshake, promising 512 bytes.
    let mut slow = socket.connect().await;
    slow.send([0x16, 3, 1, 2, 0, 1]).await;
    assert_eq!(slow.rest().await, "");
    // After the handshake a head is due.
    let mut headless = Client(connect(&socket, &FIRST, BOTH, &[]).await.unwrap());
    headless.rest().await;
    socket
        .until(r#"maskclip_http_connections_overdue_total{limit="head_seconds"}"#, 3)
        .await;
    socket.until("maskclip_http_connections", 0).await;
}

#[tokio::test]
async fn what_is_no_tls_is_closed_and_counted() {
    let (socket, _folder) = start(|_| ()).await;
    let mut plain = socket.connect().await;
    plain.send("GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(!plain.rest().await.contains("HTTP"));
    socket.until("maskclip_tls_handshake_failures_total", 1).await;
}

#[tokio::test]
async fn a_server_stops_over_tls_as_it_does_without() {
    let (mut socket, _folder) = start(|config| config.server.drain_seconds = 60.0).await;
    let mut idle = Client(connect(&socket, &FIRST, BOTH, &[]).await.unwrap());
    assert!(idle.get("/health/live").await.starts_with("HTTP/1.1 200"));
    socket.stop(Duration::ZERO);
    idle.rest().await;
    socket.ended().await;
}

#[test]
fn files_that_cannot_be_used_are_named_at_the_start() {
    let folder = TempDir::new().unwrap();
    let error = || {
        Tls::start(&settings(folder.path()))
            .err()
            .expect("unusable")
            .to_string()
    };
    assert!(error().contains("tls.crt: "), "{}", error());
    fs::write(folder.path().join("tls.crt"), FIRST.key).unwrap();
    assert!(
        error().ends_with("tls.crt: no certificate in PEM form is in it"),
        "{}",
        error()
    );
    fs::write(folder.path().join("tls.crt"), FIRST.chain).unwrap();
    assert!(error().contains("tls.key: "), "{}", error());
    fs::create_dir(folder.path().join("tls.key")).unwrap();
    assert!(
        error().ends_with("tls.key: it is a folder, not a regular file"),
        "{}",
        error()
    );
    fs::remove_dir(folder.path().join("tls.key")).unwrap();
    fs::write(folder.path().join("tls.key"), SECOND.key).unwrap();
    assert!(
        error().contains("keys may not be consistent") || error().contains("KeyMismatch"),
        "{}",
        error()
    );
}
