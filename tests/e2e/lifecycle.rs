//! From the first printed line to the end after a signal.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use crate::server::{Server, agent};

#[test]
fn sigterm_ends_the_server_though_a_keep_alive_connection_is_idle() {
    let mut server = Server::start(&[]);
    // One connection is used and kept open; another never sends a byte.
    let kept = agent();
    assert_eq!(kept.get(server.url("/health/live")).call().unwrap().status(), 200);
    let mut silent = TcpStream::connect(server.address.trim_start_matches("http://")).unwrap();

    server.signal("TERM");
    // The default drain deadline is 20 s.
    assert_eq!(server.wait(Duration::from_secs(30)), Some(0));
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0, "the connection is closed");
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
