//! The settings of the listening socket.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::support::{OutOfRange, in_range};

/// The listening socket and the life of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Seconds in which requests may finish after SIGTERM or SIGINT.
    pub drain_seconds: f64,
}

impl ServerSettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        in_range(
            "server.drain_seconds",
            (0.0..=86400.0).contains(&self.drain_seconds),
            self.drain_seconds,
            "0 to 86400",
        )
    }
}
