//! The bytes of a file over HTTP, from a given position on: redirects, ranges, and the server's statements about the
//! file.
//!
//! Proxies come from the usual environment variables (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, LOCATION, RANGE};
use ureq::http::{Response, StatusCode};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};
use url::Url;

use crate::support::{read_regular_file, without_secrets};

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 10;

/// Longest time without data from the server before a request fails.
const SILENCE: Duration = Duration::from_secs(60);

/// The header with which the hub states the digest of the large file that a request is redirected to.
const LINKED_DIGEST: &str = "x-linked-etag";

/// The reason why a server's answer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The server did not answer.
    #[error("{address}: {reason}")]
    Unreachable {
        /// The address of the request.
        address: String,
        /// The reason.
        reason: String,
    },
    /// The status of the answer is not one with which a server sends the file.
    #[error("{address} answers {status}")]
    Status {
        /// The address of the request.
        address: String,
        /// The status of the answer.
        status: StatusCode,
    },
    /// A redirect has no valid target, has too many predecessors, or leads from https to http.
    #[error("{address} redirects {problem}")]
    Redirect {
        /// The address that redirects.
        address: String,
        /// What is wrong with the redirect.
        problem: String,
    },
    /// The server sends another part of the file than the requested one.
    #[error("{address} sends the part {part:?}, asked for bytes from {start} on")]
    WrongPart {
        /// The address of the request.
        address: String,
        /// The part that the server claims to send.
        part: String,
        /// The byte at which the part should start.
        start: u64,
    },
    /// The connection ended before the file did.
    #[error("{address} broke off after {received} of {} bytes ({reason})", total.map_or("unknown".to_owned(), |total| total.to_string()))]
    Interrupted {
        /// The address of the request.
        address: String,
        /// The number of bytes received.
        received: u64,
        /// The length of the file in bytes, if it is known.
        total: Option<u64>,
        /// The reason.
        reason: String,
    },
    /// The file of trusted certificates cannot be used.
    #[error("fetch.certificates {}: {reason}", path.display())]
    Certificates {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
}

impl HttpError {
    /// Returns whether the same request may succeed a little later.
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

    /// Returns whether the server has no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

/// The bytes of a file and the server's statements about it.
pub struct Reply {
    /// The bytes of the file from `start` on.
    pub body: Box<dyn Read>,
    /// The first byte of `body`, which is 0 where the server ignores ranges.
    pub start: u64,
    /// The length of the whole file in bytes, if the server states it.
    pub total: Option<u64>,
    /// The SHA-256 that the server states, in hexadecimal.
    pub sha256: Option<String>,
}

/// An HTTP client for downloads.
pub struct Client {
    agent: Agent,
}

impl Client {
    /// Creates a client. It trusts the usual certificate authorities or, if a PEM file is given, only those in the
    /// file.
    ///
    /// # Errors
    /// Fails when the file cannot be read or has no certificate in it.
    pub fn new(certificates: Option<&Path>) -> Result<Self, HttpError> {
        let roots = match certificates {
            Some(path) => read_certificates(path)?,
            None => RootCerts::WebPki,
        };
        let config = Agent::config_builder()
            .user_agent(concat!("maskclip/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Redirects are followed here, because the digest is in the hub's redirect and not in the answer of its
            // target.
            .max_redirects(0)
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        Ok(Self { agent: config.into() })
    }

    /// Requests the file at an address from byte `start` on. A server without ranges sends it from the beginning.
    ///
    /// # Errors
    /// Fails when there is no answer that can be used.
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
                    address: without_secrets(&address),
                    part,
                    start,
                }),
            },
            StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => {
                let total = part.strip_prefix("bytes */").and_then(|total| total.parse().ok());
                if total == Some(start) {
                    // The whole file has been received already.
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
                address: without_secrets(&address),
                status,
            }),
        }
    }

    /// Follows redirects. Returns the address of the first answer that is not a redirect, the answer, and the digest
    /// stated on the way.
    fn follow(&self, address: &Url, start: u64) -> Result<(Url, Response<Body>, Option<String>), HttpError> {
        let mut address = address.clone();
        let mut sha256 = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(address.as_str());
            if start > 0 {
                request = request.header(RANGE, format!("bytes={start}-"));
            }
            let reply = request.call().map_err(|error| HttpError::Unreachable {
                address: without_secrets(&address),
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
            address: without_secrets(&address),
            problem: format!("more than {MAX_REDIRECTS} times"),
        })
    }
}

fn read_certificates(path: &Path) -> Result<RootCerts, HttpError> {
    let refused = |reason: String| HttpError::Certificates {
        path: path.to_owned(),
        reason,
    };
    let pem = read_regular_file(path).map_err(|error| refused(error.to_string()))?;
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

/// Returns the address that a redirect leads to. The location may be relative.
fn redirect(from: &Url, location: &str) -> Result<Url, HttpError> {
    let refused = |problem: String| HttpError::Redirect {
        address: without_secrets(from),
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

/// Returns FIRST and TOTAL of `bytes FIRST-LAST/TOTAL`.
fn parse_part(part: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = part.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, total.parse().ok()))
}

/// Reads a SHA-256 from an entity tag. For small files the tag holds the shorter digest of a git object, which is
/// ignored.
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
