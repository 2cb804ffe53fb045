//! A file server on its own port that misbehaves as told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    /// First byte of the range, if the request has a range.
    pub start: Option<usize>,
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub struct Answer {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    /// The value of `Content-Length`, if there is one.
    promised: Option<usize>,
    /// Whether the connection stays open and silent after the body.
    stalls: bool,
}

impl Answer {
    pub fn new(status: &'static str, body: &[u8]) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_vec(),
            promised: Some(body.len()),
            stalls: false,
        }
    }

    /// Returns the file, or the part of it that the request asks for.
    pub fn file(file: &[u8], request: &Request) -> Self {
        match request.start {
            None => Self::new("200 OK", file),
            Some(start) => Self::new("206 Partial Content", &file[start..]).header(format!(
                "Content-Range: bytes {start}-{}/{}",
                file.len() - 1,
                file.len()
            )),
        }
    }

    pub fn header(mut self, header: String) -> Self {
        self.headers.push(header);
        self
    }

    /// Adds the header with the digest, as the hub does.
    pub fn linked(self, sha256: &str) -> Self {
        self.header(format!("X-Linked-Etag: \"{sha256}\""))
    }

    pub fn promising(mut self, bytes: usize) -> Self {
        self.promised = Some(bytes);
        self
    }

    /// Leaves the length out. The end of the connection is then the end of the body.
    pub fn without_length(mut self) -> Self {
        self.promised = None;
        self
    }

    /// Cuts the body off after this many bytes. `Content-Length` stays.
    pub fn breaking_off_after(mut self, bytes: usize) -> Self {
        self.body.truncate(bytes);
        self
    }

    pub fn stalling(mut self) -> Self {
        self.stalls = true;
        self
    }
}

/// The file server.
pub struct Loopback {
    /// The address, `http://127.0.0.1:PORT`.
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Loopback {
    /// Starts the server. `answer` gets the number of each request, from 0, and the request.
    pub fn start(answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                // Tests include clients that hang up early.
                std::thread::spawn(move || {
                    let _ = serve(connection, &seen, &*answer);
                });
            }
        });
        Self { address, requests }
    }

    /// Returns all requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no answer panics").clone()
    }
}

fn serve(
    mut connection: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &dyn Fn(usize, &Request) -> Answer,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut request = Request {
        path: first.split(' ').nth(1).unwrap_or_default().to_owned(),
        start: None,
    };
    for line in lines.by_ref() {
        let line = line?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            request.start = range.trim_end_matches('-').parse().ok();
        }
    }
    let number = {
        let mut seen = seen.lock().expect("no answer panics");
        seen.push(request.clone());
        seen.len() - 1
    };
    let answer = answer(number, &request);
    let mut head = format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.status);
    if let Some(promised) = answer.promised {
        head.push_str(&format!("Content-Length: {promised}\r\n"));
    }
    for header in &answer.headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    connection.write_all(head.as_bytes())?;
    connection.write_all(b"\r\n")?;
    connection.write_all(&answer.body)?;
    if answer.stalls {
        connection.read_to_end(&mut Vec::new())?;
    }
    Ok(())
}
