//! Browsers: under which names they may reach the server, which pages may use it, and what they may do with an answer.
//!
//! A browser sends requests for whatever page it shows. On this machine, or inside a network, it reaches servers that
//! the page's author does not. Two headers that no page can forge tell such requests from others: `Origin` names the
//! page, and `Host` the name under which the browser found the server. The rules are those of Go's
//! `http.CrossOriginProtection` and of Vite's `server.allowedHosts`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::error::ApiError;
use super::middleware::X_REQUEST_ID;
use super::routing::{X_MASKCLIP_IMAGE, X_MASKCLIP_REPLICA};
use super::settings::{ANY, ServerSettings};
use super::wire::MASKCLIP_WARNINGS;

/// For how long a browser may keep the answer to a preflight. Chromium keeps it for two hours at most.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3600);

/// What a browser may do with an answer that is no page: show it, at most.
const NO_CONTENT: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The headers that every answer has, unless its handler has set them.
const PROTECTION: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, NO_CONTENT),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Says where a request comes from, relative to the address that it goes to.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Says what a browser does with the answer.
const SEC_FETCH_MODE: &str = "sec-fetch-mode";

/// Which requests of browsers are answered. Clones share the lists.
#[derive(Debug, Clone, Default)]
pub(super) struct BrowserRules {
    /// The names of the server; `None` where any will do.
    hosts: Option<Arc<[String]>>,
    /// `server.cors_origins`.
    origins: Arc<[String]>,
}

impl BrowserRules {
    /// The rules of a server with these settings.
    pub(super) fn new(settings: &ServerSettings) -> Self {
        let hosts = &settings.allowed_hosts;
        // Beyond loopback, the server cannot know under which names its clients find it.
        let is_any = hosts.iter().any(|host| host == ANY) || (hosts.is_empty() && !settings.is_on_loopback());
        Self {
            hosts: (!is_any).then(|| hosts.as_slice().into()),
            origins: settings.cors_origins.as_slice().into(),
        }
    }

    /// Checks a request.
    fn check(&self, request: &Request) -> Result<(), ApiError> {
        let headers = request.headers();
        let host = self.host(request)?;
        if let Some(origin) = headers.get(header::ORIGIN) {
            if !self.is_allowed_origin(origin) && !is_same_origin(headers, origin, host.as_ref()) {
                let found = String::from_utf8_lossy(origin.as_bytes()).into_owned();
                return Err(ApiError::ForeignOrigin { found });
            }
        } else if is_of_other_page(headers) {
            let found = "another origin".to_owned();
            return Err(ApiError::ForeignOrigin { found });
        }
        Ok(())
    }

    /// Returns the host that a request names. Programs of the time before HTTP/1.1 name none; browsers always do.
    ///
    /// # Errors
    /// Fails when a host is named that is not the server's, or no host at all.
    fn host(&self, request: &Request) -> Result<Option<Authority>, ApiError> {
        let mut host = request.uri().authority().cloned();
        for value in request.headers().get_all(header::HOST) {
            let authority = Authority::try_from(value.as_bytes());
            let authority = authority.map_err(|_| foreign_host(&String::from_utf8_lossy(value.as_bytes())))?;
            if !self.is_allowed_host(&authority) {
                return Err(foreign_host(authority.as_str()));
            }
            host.get_or_insert(authority);
        }
        match host {
            Some(host) if !self.is_allowed_host(&host) => Err(foreign_host(host.as_str())),
            host => Ok(host),
        }
    }

    /// Whether the server is meant. An address is: a name that an attacker has pointed at this machine is none.
    fn is_allowed_host(&self, authority: &Authority) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        if !is_host_and_port(authority) {
            return false;
        }
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let is_address = is_bracketed_address(&host) || host.parse::<Ipv4Addr>().is_ok();
        is_address || host == "localhost" || host.ends_with(".localhost") || hosts.contains(&host)
    }

    fn is_allowed_origin(&self, origin: &HeaderValue) -> bool {
        let is = |allowed: &String| allowed == ANY || origin == allowed.as_str();
        self.origins.iter().any(is)
    }

    /// Tells browsers of pages on the allowed origins that these may read the answers. `None` without such origins.
    pub(super) fn cors(&self) -> Option<CorsLayer> {
        let allowed = if self.origins.iter().any(|origin| origin == ANY) {
            AllowOrigin::any()
        } else {
            let origins = self.origins.iter();
            let value = |origin: &String| HeaderValue::from_str(origin).expect("the settings are checked");
            AllowOrigin::list(origins.map(value))
        };
        let layer = CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([
                header::ALLOW,
                header::ETAG,
                header::LOCATION,
                header::RETRY_AFTER,
                header::WWW_AUTHENTICATE,
                X_REQUEST_ID,
                MASKCLIP_WARNINGS,
                X_MASKCLIP_IMAGE,
                X_MASKCLIP_REPLICA,
            ])
            .max_age(PREFLIGHT_AGE);
        (!self.origins.is_empty()).then_some(layer)
    }
}

/// Whether an authority is a host, perhaps with a port, and nothing before or between them.
fn is_host_and_port(authority: &Authority) -> bool {
    let is_port = |rest: &str| {
        rest.strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let rest = authority.as_str().strip_prefix(authority.host());
    rest.is_some_and(|rest| rest.is_empty() || is_port(rest))
}

/// Whether a host is an address of IPv6, which stands in brackets.
fn is_bracketed_address(host: &str) -> bool {
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inside.is_some_and(|inside| inside.parse::<Ipv6Addr>().is_ok())
}

fn foreign_host(found: &str) -> ApiError {
    ApiError::ForeignHost {
        found: found.to_owned(),
    }
}

/// Whether the page is the server's own. Browsers say so on HTTPS and on this machine, whatever name a proxy in front
/// puts into `Host`; elsewhere both names must be the same.
fn is_same_origin(headers: &HeaderMap, origin: &HeaderValue, host: Option<&Authority>) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site == "same-origin" || site == "none";
    }
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, page)), Some(host)) if page.eq_ignore_ascii_case(host.as_str()))
}

/// Whether a page of another origin wants the answer for itself, as an image or a script. Following a link is no such
/// request.
fn is_of_other_page(headers: &HeaderMap) -> bool {
    let is_elsewhere = |site: &HeaderValue| site == "cross-site" || site == "same-site";
    let navigates = headers.get(SEC_FETCH_MODE).is_some_and(|mode| mode == "navigate");
    headers.get(SEC_FETCH_SITE).is_some_and(is_elsewhere) && !navigates
}

/// Refuses requests for pages of other origins, and those under a name that is not the server's.
pub(super) async fn refuse_foreign(State(rules): State<BrowserRules>, request: Request, next: Next) -> Response {
    match rules.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Adds the headers that forbid a browser whatever no answer of this server needs.
pub(super) async fn protect(mut response: Response) -> Response {
    for (name, value) in PROTECTION {
        let value = HeaderValue::from_static(value);
        response.headers_mut().entry(name).or_insert(value);
    }
    response
}
