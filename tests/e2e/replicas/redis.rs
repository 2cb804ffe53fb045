//! A Redis of a test's own, and a relay in front of it that can be cut.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::signal;

/// The longest time that anything may take on a busy machine.
pub const AT_LAST: Duration = Duration::from_secs(60);

/// Waits until something holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < AT_LAST, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running `redis-server` without a file of its own, so that its end loses all that it has.
pub struct Redis {
    process: Child,
    pub port: u16,
    arguments: Vec<String>,
    _folder: TempDir,
}

impl Redis {
    pub fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut all = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]
            .map(str::to_owned)
            .to_vec();
        all.push(folder.path().display().to_string());
        if !arguments.contains(&"--tls-port") {
            all.extend(["--port".to_owned(), port.to_string()]);
        }
        all.extend(
            arguments
                .iter()
                .map(|argument| argument.replace("PORT", &port.to_string())),
        );
        let redis = Self {
            process: spawn(&all),
            port,
            arguments: all,
            _folder: folder,
        };
        redis.wait_until_it_listens();
        redis
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it as the kernel does, with all that it has.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, empty.
    pub fn restart(&mut self) {
        self.process = spawn(&self.arguments);
        self.wait_until_it_listens();
    }

    /// Stops it: it keeps its connections, and answers nothing.
    pub fn pause(&self) {
        signal(&self.process, "STOP");
    }

    pub fn resume(&self) {
        signal(&self.process, "CONT");
    }

    /// Sends one command, its parts separated by spaces. Returns the first line of the answer.
    pub fn ask(&self, command: &str) -> String {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        connection.set_read_timeout(Some(AT_LAST)).unwrap();
        connection.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut answer = vec![0; 4096];
        let length = connection.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    /// Returns the keys that match a pattern.
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        ::redis::cmd("KEYS").arg(pattern).query(&mut self.connection()).unwrap()
    }

    /// Returns all keys with their values: `string` in base64, the fields of a `hash`, the scores of a `zset`.
    pub fn dump(&self) -> Value {
        let mut connection = self.connection();
        let keys = self.keys("*").into_iter();
        let keys = keys.map(|key| {
            let kind: String = ::redis::cmd("TYPE").arg(&key).query(&mut connection).unwrap();
            let (read, rest): (_, &[&str]) = match &*kind {
                "string" => ("GET", &[]),
                "hash" => ("HGETALL", &[]),
                "zset" => ("ZRANGE", &["0", "-1", "WITHSCORES"]),
                other => panic!("{key} is a {other}"),
            };
            let mut read = ::redis::cmd(read);
            read.arg(&key).arg(rest);
            let value = if kind == "string" {
                let bytes: Vec<u8> = read.query(&mut connection).unwrap();
                json!({"string": BASE64_STANDARD.encode(bytes)})
            } else {
                let fields: BTreeMap<String, String> = read.query(&mut connection).unwrap();
                json!({kind: fields})
            };
            (key, value)
        });
        Value::Object(keys.collect())
    }

    /// Writes a key with a value of [`Redis::dump`]. What has an end in Redis has one in an hour.
    pub fn load(&self, key: &str, value: &Value) {
        let mut connection = self.connection();
        let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
        if let Some(text) = value.as_str() {
            let bytes = BASE64_STANDARD.decode(text).unwrap();
            let mut write = ::redis::cmd("SET");
            return write
                .arg(key)
                .arg(bytes)
                .arg("EX")
                .arg(3600)
                .exec(&mut connection)
                .unwrap();
        }
        for (name, content) in value.as_object().unwrap() {
            let content = content.as_str().unwrap();
            let mut write = ::redis::cmd(if kind == "hash" { "HSET" } else { "ZADD" });
            let [first, second] = if kind == "hash" {
                [&**name, content]
            } else {
                [content, &**name]
            };
            write.arg(key).arg(first).arg(second).exec(&mut connection).unwrap();
        }
    }

    fn connection(&self) -> ::redis::Connection {
        let client = ::redis::Client::open(self.url()).unwrap();
        client.get_connection().unwrap()
    }

    fn wait_until_it_listens(&self) {
        until("Redis listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // An error here means that the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command
        .spawn()
        .expect("redis-server is installed: see tools/shared/run")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Passes bytes on to a port until it is cut. Then it takes connections and bytes, and passes nothing on, as a network does
/// that loses every packet.
pub struct Relay {
    pub port: u16,
    is_cut: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    pub fn to(port: u16) -> Self {
        Self::with_rate(port, f64::INFINITY)
    }

    /// Passes on so many bytes a second of each connection and direction.
    pub fn with_rate(port: u16, rate: f64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            port: listener.local_addr().unwrap().port(),
            is_cut: Arc::default(),
            connections: Arc::default(),
        };
        let (is_cut, connections) = (Arc::clone(&relay.is_cut), Arc::clone(&relay.connections));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let ends = [&client, &server].map(|end| end.try_clone().unwrap());
                connections.lock().unwrap().extend(ends);
                for (from, to) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server, client),
                ] {
                    let is_cut = Arc::clone(&is_cut);
                    std::thread::spawn(move || pass_on(from, to, rate, &is_cut));
                }
            }
        });
        relay
    }

    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
    }

    /// Passes on what comes from now on. Connections of before have lost bytes, so they end.
    pub fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, rate: f64, is_cut: &AtomicBool) {
    let mut bytes = vec![0; 64 * 1024];
    let mut due = Instant::now();
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        // What a busy machine delays is caught up, for a second at most.
        let now = Instant::now();
        due = due.max(now - Duration::from_secs(1)) + Duration::from_secs_f64(length as f64 / rate);
        std::thread::sleep(due.saturating_duration_since(now));
        if !is_cut.load(Ordering::SeqCst) && to.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Writes a text to a file in a folder. Returns the file's path.
pub fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
