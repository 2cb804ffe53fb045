//! The settings of the listening socket and its connections.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::support::{OutOfRange, in_range};

/// The listening socket, its connections and the life of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Connections that are open at once. Further ones wait in the operating system's queue.
    pub max_connections: u32,
    /// Seconds in which a new connection must send the head of a request, and in which a head must be complete.
    pub head_seconds: f64,
    /// Seconds from a request's head to the last byte of its body.
    pub body_seconds: f64,
    /// Seconds for which a connection may stay open between two requests.
    pub idle_seconds: f64,
    /// Seconds for which a client may take no byte of a reply.
    pub reply_seconds: f64,
    /// Seconds after SIGTERM in which the server is not ready, but answers as before.
    pub unready_seconds: f64,
    /// Seconds in which requests may finish once the listener is closed.
    pub drain_seconds: f64,
}

impl ServerSettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let connections = (1..=1_000_000).contains(&self.max_connections);
        in_range(
            "server.max_connections",
            connections,
            self.max_connections,
            "1 to 1000000",
        )?;
        for (key, seconds) in [
            ("server.head_seconds", self.head_seconds),
            ("server.body_seconds", self.body_seconds),
            ("server.idle_seconds", self.idle_seconds),
            ("server.reply_seconds", self.reply_seconds),
        ] {
            in_range(key, (0.01..=86400.0).contains(&seconds), seconds, "0.01 to 86400")?;
        }
        for (key, seconds) in [
            ("server.unready_seconds", self.unready_seconds),
            ("server.drain_seconds", self.drain_seconds),
        ] {
            in_range(key, (0.0..=86400.0).contains(&seconds), seconds, "0 to 86400")?;
        }
        Ok(())
    }

    /// The time limits of one connection.
    pub(super) fn connection_limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            head: Duration::from_secs_f64(self.head_seconds),
            idle: Duration::from_secs_f64(self.idle_seconds),
            reply: Duration::from_secs_f64(self.reply_seconds),
        }
    }
}

/// For how long a connection may wait for its client.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// `server.head_seconds`.
    pub(super) head: Duration,
    /// `server.idle_seconds`.
    pub(super) idle: Duration,
    /// `server.reply_seconds`.
    pub(super) reply: Duration,
}
