//! A server on a socket of its own, and clients that send what no library would.

use std::net::SocketAddr;
use std::time::Duration;

use maskclip::api::{AppState, Tls, serve};
use maskclip::config::Config;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fake::Control;
use crate::support::state;

/// The longest time that anything may take on a busy machine.
pub const AT_LAST: Duration = Duration::from_secs(60);

/// A server on a port of its own.
pub struct Socket {
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    pub state: AppState,
    /// The control of the model.
    pub control: Control,
    stop: Option<oneshot::Sender<Duration>>,
    serving: JoinHandle<std::time::Instant>,
}

impl Socket {
    /// Starts a server with changed settings and waits until it is ready.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let control = Control::default();
        let state = state(None, vec![control.model()], change);
        state.engine.ready().await.expect("the fake loads");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let address = listener.local_addr().unwrap();
        let stopped = async { stopped.await.expect("the test keeps the sender") };
        let tls = state.server.tls.as_ref().map(|files| Tls::start(files).unwrap());
        let serving = tokio::spawn(serve(listener, tls.clone(), state.clone(), stopped));
        Self {
            address,
            tls,
            state,
            control,
            stop: Some(stop),
            serving,
        }
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Tells the server to stop after a time in which it is not ready.
    pub fn stop(&mut self, unready: Duration) {
        self.stop.take().unwrap().send(unready).unwrap();
    }

    /// Waits until the server has come to its end.
    pub async fn ended(self) {
        at_last(self.serving).await.unwrap();
    }

    /// Returns the value of a metric, named with its labels as in `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.state.metrics.render();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("{name} is missing from\n{text}"))
            .parse()
            .unwrap()
    }

    /// Waits until a metric has a value.
    pub async fn until(&self, name: &str, value: u64) {
        at_last(async {
            while self.metric(name) != value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// Waits for what must happen.
pub async fn at_last<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(AT_LAST, future).await.expect("it happens at last")
}

/// A connection.
pub struct Client<S = TcpStream>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Sends bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends `GET path` and returns the answer.
    pub async fn get(&mut self, path: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"))
            .await;
        self.reply().await
    }

    /// Returns one answer with its whole body, which has a length.
    pub async fn reply(&mut self) -> String {
        at_last(async {
            let mut text = Vec::new();
            loop {
                text.push(self.0.read_u8().await.expect("an answer comes"));
                if text.ends_with(b"\r\n\r\n") {
                    break;
                }
            }
            let head = String::from_utf8(text).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.unwrap_or_else(|| panic!("no length in {head}"));
            let mut body = vec![0; length.parse().unwrap()];
            self.0.read_exact(&mut body).await.unwrap();
            head + &String::from_utf8_lossy(&body)
        })
        .await
    }

    /// Returns everything that comes until the server closes the connection.
    pub async fn rest(&mut self) -> String {
        let mut text = Vec::new();
        // A reset closes it, too.
        let _ = at_last(self.0.read_to_end(&mut text)).await;
        String::from_utf8_lossy(&text).into_owned()
    }
}
