//! A file's bytes over HTTP, from some position on: redirects, ranges, and what a server says of the file.
//!
//! Proxies are those of the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`), as everywhere.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, LOCATION, RANGE};
use ureq::http::{Response, StatusCode};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};
use url::Url;

/// Redirects of one request.
const MAX_REDIRECTS: usize = 10;

/// A server that says nothing for this long is not going to.
const SILENCE: Duration = Duration::from_secs(60);

/// The hub's name for the digest of the large file that a request is redirected to.
const LINKED_DIGEST: &str = "x-linked-etag";

/// Why a server's answer is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No answer.
    #[error("{address}: {reason}")]
    Unreachable {
        /// What was asked for.
        address: String,
        /// What happened.
        reason: String,
    },
    /// Another status than one that carries the file.
    #[error("{address} answers {status}")]
    Status {
        /// What was asked for.
        address: String,
        /// The status.
        status: StatusCode,
    },
    /// A redirect to nowhere, to no end, or from https to http.
    #[error("{address} redirects {problem}")]
    Redirect {
        /// Who redirects.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A part of the file that was not asked for.
    #[error("{address} sends the part {part:?}, asked for bytes from {start} on")]
    WrongPart {
        /// What was asked for.
        address: String,
        /// The part it claims to send.
        part: String,
        /// Where it should start.
        start: u64,
    },
    /// The connection ended before the file did.
    #[error("{address} broke off after {received} of {} bytes ({reason})", total.map_or("unknown".to_owned(), |total| total.to_string()))]
    Interrupted {
        /// What was asked for.
        address: String,
        /// Bytes held.
        received: u64,
        /// Bytes of the file.
        total: Option<u64>,
        /// What happened.
        reason: String,
    },
    /// The certificates to trust cannot be used.
    #[error("fetch.certificates {}: {reason}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl HttpError {
    /// Whether the same request may succeed in a moment.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            Self::Redirect { .. } | Self::WrongPart { .. } | Self::Certificates { .. } => false,
        }
    }

    /// Whether the server has no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

/// A file's bytes, and what the server said of it.
pub struct Reply {
    /// The bytes from `start` on.
    pub body: Box<dyn Read>,
    /// 0 where the server ignores ranges.
    pub start: u64,
    /// Bytes of the whole file.
    pub total: Option<u64>,
    /// The digest the server states, in hexadecimal.
    pub sha256: Option<String>,
}

/// An HTTP client.
pub struct Client {
    agent: Agent,
}

impl Client {
    /// Trusts the usual certificate authorities, or those of a PEM file instead.
    ///
    /// # Errors
    /// When the file cannot be read or has no certificate in it.
    pub fn new(certificates: Option<&Path>) -> Result<Self, HttpError> {
        let roots = match certificates {
            Some(path) => read_certificates(path)?,
            None => RootCerts::WebPki,
        };
        let config = Agent::config_builder()
            .user_agent(concat!("maskclip/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Followed here: the hub's redirect carries the digest, and its target does not.
            .max_redirects(0)
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        Ok(Self { agent: config.into() })
    }

    /// The file at an address from byte `start` on, or from its beginning where the server cannot do that.
    ///
    /// # Errors
    /// When there is no usable answer.
    pub fn get(&self, address: &Url, start: u64) -> Result<Reply, HttpError> {
        let (address, reply, sha256) = self.follow(address, start)?;
        let headers = reply.headers();
        let length = number(headers, CONTENT_LENGTH.as_str());
        let part = text(headers, CONTENT_RANGE.as_str()).unwrap_or_default().to_owned();
        match reply.status() {
            StatusCode::OK => Ok(Reply {
                body: Box::new(reply.into_body().into_reader()),
                start: 0,
                total: length,
                sha256,
            }),
            StatusCode::PARTIAL_CONTENT => match parse_part(&part) {
                Some((first, total)) if first == start => Ok(Reply {
                    body: Box::new(reply.into_body().into_reader()),
                    start,
                    total,
                    sha256,
                }),
                _ => Err(HttpError::WrongPart {
                    address: address.to_string(),
                    part,
                    start,
                }),
            },
            StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => {
                let total = part.strip_prefix("bytes */").and_then(|total| total.parse().ok());
                if total == Some(start) {
                    // Everything is held already.
                    return Ok(Reply {
                        body: Box::new(io::empty()),
                        start,
                        total,
                        sha256,
                    });
                }
                self.get(&address, 0)
            }
            status => Err(HttpError::Status {
                address: address.to_string(),
                status,
            }),
        }
    }

    /// The first answer that is no redirect, who gave it, and the digest stated on the way.
    fn follow(&self, address: &Url, start: u64) -> Result<(Url, Response<Body>, Option<String>), HttpError> {
        let mut address = address.clone();
        let mut sha256 = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(address.as_str());
            if start > 0 {
                request = request.header(RANGE, format!("bytes={start}-"));
            }
            let reply = request.call().map_err(|error| HttpError::Unreachable {
                address: address.to_string(),
                reason: error.to_string(),
            })?;
            sha256 = sha256.or_else(|| text(reply.headers(), LINKED_DIGEST).and_then(parse_digest));
            if !reply.status().is_redirection() {
                return Ok((address, reply, sha256));
            }
            let target = text(reply.headers(), LOCATION.as_str()).unwrap_or_default();
            address = redirect(&address, target)?;
        }
        Err(HttpError::Redirect {
            address: address.to_string(),
            problem: format!("more than {MAX_REDIRECTS} times"),
        })
    }
}

fn read_certificates(path: &Path) -> Result<RootCerts, HttpError> {
    let refused = |reason: String| HttpError::Certificates {
        path: path.to_owned(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| refused(error.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(refused("has no certificate in it".to_owned()));
    }
    Ok(RootCerts::from(certificates))
}

/// The address that a redirect means, which may be relative.
fn redirect(from: &Url, location: &str) -> Result<Url, HttpError> {
    let refused = |problem: String| HttpError::Redirect {
        address: from.to_string(),
        problem,
    };
    let target = from
        .join(location)
        .map_err(|error| refused(format!("to {location:?}: {error}")))?;
    match target.scheme() {
        "https" => Ok(target),
        "http" if from.scheme() == "http" => Ok(target),
        _ => Err(refused(format!("from {} to {}", from.scheme(), target.scheme()))),
    }
}

/// First byte and total of `bytes FIRST-LAST/TOTAL`.
fn parse_part(part: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = part.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, total.parse().ok()))
}

/// A SHA-256 in an entity tag. Small files have a git object's shorter digest there.
fn parse_digest(tag: &str) -> Option<String> {
    let digest = tag.trim_start_matches("W/").trim_matches('"').to_lowercase();
    (digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digest)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_relative_or_absolute_and_never_give_up_encryption() {
        let from = Url::parse("https://hub.example/owner/model/file").unwrap();
        let followed = |location| redirect(&from, location).map(|url| url.to_string());
        assert_eq!(followed("/cache/1?x=2").unwrap(), "https://hub.example/cache/1?x=2");
        assert_eq!(followed("https://cdn.example/1").unwrap(), "https://cdn.example/1");
        assert_eq!(
            followed("http://cdn.example/1").unwrap_err().to_string(),
            "https://hub.example/owner/model/file redirects from https to http"
        );
        followed("file:///etc/passwd").unwrap_err();

        let plain = Url::parse("http://hub.example/file").unwrap();
        assert_eq!(
            redirect(&plain, "http://cdn.example/").unwrap().as_str(),
            "http://cdn.example/"
        );
    }

    #[test]
    fn a_part_is_its_first_byte_and_the_whole() {
        assert_eq!(parse_part("bytes 100-199/200"), Some((100, Some(200))));
        assert_eq!(parse_part("bytes 100-199/*"), Some((100, None)));
        for nonsense in ["", "100-199/200", "bytes */200", "bytes 100", "bytes x-y/z"] {
            assert_eq!(parse_part(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn only_a_sha256_is_taken_from_an_entity_tag() {
        let digest = "ab".repeat(32);
        assert_eq!(parse_digest(&format!("\"{digest}\"")), Some(digest.clone()));
        assert_eq!(parse_digest(&format!("W/\"{}\"", digest.to_uppercase())), Some(digest));
        assert_eq!(parse_digest("\"9eb98c817f04b051b3bcca591bcd4e03cec88018\""), None);
        assert_eq!(parse_digest(&"zz".repeat(32)), None);
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Client::new(Some(file.path())).err().unwrap().to_string();
        assert!(
            error.contains("fetch.certificates") && error.contains("no certificate"),
            "{error}"
        );
    }
}
