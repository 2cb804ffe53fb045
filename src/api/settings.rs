//! The settings of the listening socket and its connections.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::uri::Authority;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::support::{OutOfRange, in_range};

/// The entry of a list that stands for everything.
pub(super) const ANY: &str = "*";

/// What the routes begin with.
const FIRST_OF_ROUTES: [&str; 10] = [
    "assets",
    "docs",
    "health",
    "metrics",
    "openapi.yaml",
    "predict",
    "setup",
    "v1",
    "v2",
    "webhook",
];

/// The listening socket, its connections and the life of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The certificate of HTTPS; `None` serves HTTP.
    pub tls: Option<TlsSettings>,
    /// Names under which clients may reach the server, beside addresses and `localhost`; `*` for any. None is enough
    /// beyond loopback, where any name will do then.
    pub allowed_hosts: Vec<String>,
    /// Origins of other servers whose pages may use this one in a browser, as in `https://labels.example`; `*` for all.
    pub cors_origins: Vec<String>,
    /// Networks of the proxies in front, which tell the address of a client in `forwarded_header`.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which these proxies tell it.
    pub forwarded_header: ForwardedHeader,
    /// The path under which a proxy passes requests on, as in `/maskclip`; empty for none.
    pub base_path: String,
    /// The name of this replica, which every reply has in a header; `None` for none.
    pub replica: Option<String>,
    /// The folder of the files that were uploaded to Label Studio, `media/upload` in its data folder; `None` for none.
    pub label_studio_uploads: Option<PathBuf>,
    /// Whether the log has class names, and what else a request says.
    pub log_class_names: bool,
    /// Connections that are open at once. Further ones wait in the operating system's queue.
    pub max_connections: u32,
    /// Seconds in which a new connection must send the head of a request, and in which a head must be complete.
    pub head_seconds: f64,
    /// Seconds from a request's head to the last byte of its body.
    pub body_seconds: f64,
    /// Seconds for which a connection may stay open between two requests.
    pub idle_seconds: f64,
    /// The same while another connection waits for its place.
    pub contended_idle_seconds: f64,
    /// Seconds for which a client may take no byte of a reply.
    pub reply_seconds: f64,
    /// Seconds by which a client may fall behind with a reply, the whole of which has `reply_seconds`, while requests wait
    /// for `engine.work_bytes`.
    pub contended_reply_seconds: f64,
    /// Seconds after SIGTERM in which the server is not ready, but answers as before.
    pub unready_seconds: f64,
    /// Seconds in which requests may finish once the listener is closed.
    pub drain_seconds: f64,
}

/// The files of a certificate. The server reads them again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// The certificate and those that lead to its authority, in this order, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
}

/// The header in which a proxy tells the address of its client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// Addresses separated by commas.
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl ServerSettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        self.check_lists()?;
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
            ("server.contended_idle_seconds", self.contended_idle_seconds),
            ("server.reply_seconds", self.reply_seconds),
            ("server.contended_reply_seconds", self.contended_reply_seconds),
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

    /// Whether only this machine reaches the server. An address of IPv4 in the form of IPv6 is the address of IPv4.
    pub(super) fn is_on_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// How addresses of the server begin: `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Checks the lists of texts.
    fn check_lists(&self) -> Result<(), OutOfRange> {
        for host in &self.allowed_hosts {
            let range = "host names in lower case, without port, or *";
            in_range("server.allowed_hosts", is_host(host), host, range)?;
        }
        for origin in &self.cors_origins {
            let range = "origins in lower case, without path, as in https://labels.example, or *";
            in_range("server.cors_origins", is_origin(origin), origin, range)?;
        }
        let base = "empty, or a path with / before each part, as in /maskclip, that does not begin as a route does";
        in_range("server.base_path", is_base_path(&self.base_path), &self.base_path, base)?;
        let replica = self.replica.as_deref().unwrap_or("-");
        let range = "1 to 253 letters, digits, '-', '_' and '.', as names of hosts have";
        in_range("server.replica", is_replica(replica), replica, range)
    }

    /// The time limits of one connection.
    pub(super) fn connection_limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            head: Duration::from_secs_f64(self.head_seconds),
            idle: Duration::from_secs_f64(self.idle_seconds),
            contended_idle: Duration::from_secs_f64(self.contended_idle_seconds),
            reply: Duration::from_secs_f64(self.reply_seconds),
            contended_reply: Duration::from_secs_f64(self.contended_reply_seconds),
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
    /// `server.contended_idle_seconds`.
    pub(super) contended_idle: Duration,
    /// `server.reply_seconds`.
    pub(super) reply: Duration,
    /// `server.contended_reply_seconds`.
    pub(super) contended_reply: Duration,
}

/// Whether a text is an entry of `server.allowed_hosts`.
fn is_host(text: &str) -> bool {
    let is_name = |authority: &Authority| authority.host() == text && !text.starts_with('[') && !text.ends_with('.');
    text == ANY || (is_lower(text) && text.parse().as_ref().is_ok_and(is_name))
}

/// Whether a text is an entry of `server.cors_origins`: a scheme, a host and perhaps a port, as browsers write them.
fn is_origin(text: &str) -> bool {
    let is_authority = |rest: &str| !rest.contains('@') && rest.parse::<Authority>().is_ok();
    text == ANY || (is_lower(text) && text.split_once("://").is_some_and(|(_, rest)| is_authority(rest)))
}

/// Whether a text is a value of `server.base_path`.
fn is_base_path(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let is_part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_plain);
    let mut parts = text.split('/').skip(1);
    text.is_empty()
        || (text.starts_with('/')
            && parts.clone().all(is_part)
            && parts.next().is_some_and(|first| !FIRST_OF_ROUTES.contains(&first)))
}

/// Whether a text is a value of `server.replica`.
fn is_replica(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(is_plain)
}

fn is_lower(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowed_host_is_a_name_without_scheme_port_or_path() {
        for text in ["*", "labels.example", "maskclip", "10.0.0.7"] {
            assert!(is_host(text), "{text}");
        }
        for text in [
            "",
            "Labels.example",
            "labels.example:80",
            "https://labels.example",
            "a/b",
            "a b",
            "a.",
        ] {
            assert!(!is_host(text), "{text}");
        }
    }

    #[test]
    fn a_base_path_has_plain_parts_and_is_no_route() {
        for text in ["", "/maskclip", "/tools/mask-clip_2.0/~x"] {
            assert!(is_base_path(text), "{text}");
        }
        for text in [
            "/",
            "maskclip",
            "/maskclip/",
            "/a//b",
            "/a/../b",
            "/a b",
            "/{a}",
            "/a?b",
            "/v1",
            "/docs/x",
        ] {
            assert!(!is_base_path(text), "{text}");
        }
    }

    #[test]
    fn a_replica_is_called_as_hosts_are() {
        for text in ["maskclip-7d9f5-x2k", "gpu_1.rack-2", "A"] {
            assert!(is_replica(text), "{text}");
        }
        for text in ["", "a b", "a\r\nb", "a:80", &"a".repeat(254)] {
            assert!(!is_replica(text), "{text}");
        }
    }

    #[test]
    fn an_allowed_origin_is_written_as_browsers_write_it() {
        for text in [
            "*",
            "https://labels.example",
            "http://localhost:3000",
            "chrome-extension://abcdef",
        ] {
            assert!(is_origin(text), "{text}");
        }
        for text in [
            "",
            "null",
            "labels.example",
            "https://labels.example/",
            "https://Labels.example",
            "https://a@b",
        ] {
            assert!(!is_origin(text), "{text}");
        }
    }
}
