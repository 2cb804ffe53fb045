//! Which key opens which route: the scopes that the document names for each operation, and the check of a request's
//! key against them. From here on a request has a [`Caller`]: the client of its key, or nobody in particular.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::error::ApiError;
use super::http_metrics::{KeyMetrics, KeyedRequest};
use crate::access::{Access, ApiKey, InFlight, Scope};
use crate::engine::{Caller, Callers};
use crate::telemetry::note;

/// The name of the security scheme in the document.
const SCHEME: &str = "ApiKey";

/// Routes of the page's and the documentation's files, which the document does not list.
const OPEN_FILES: [&str; 3] = ["/docs/", "/docs/{*file}", "/assets/{*path}"];

/// What a route needs of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Needs {
    /// Nothing: it is open to everybody.
    Nothing,
    /// A key with one of these scopes.
    OneOf(Vec<Scope>),
}

/// What the routes need, by their paths and methods.
#[derive(Debug)]
struct RouteNeeds {
    documented: HashMap<String, Vec<(Method, Needs)>>,
    /// Routes that the document does not list, and that are open.
    open: Vec<String>,
    /// What a route needs that nobody has declared open.
    others: Needs,
}

impl RouteNeeds {
    /// What the operations of the document need. The path under which the server stands leads to the page, so it is
    /// open.
    ///
    /// # Panics
    /// When an operation does not say what it needs.
    fn of(openapi: &OpenApi, base_path: &str) -> Self {
        let documented = openapi.paths.paths.iter().map(|(path, item)| {
            let operations = [
                (Method::GET, &item.get),
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::DELETE, &item.delete),
            ];
            let needs = operations
                .into_iter()
                .filter_map(|(method, operation)| Some((method, needs(operation.as_ref()?))));
            (path.clone(), needs.collect())
        });
        Self {
            documented: documented.collect(),
            open: OPEN_FILES.into_iter().chain([base_path]).map(str::to_owned).collect(),
            others: Needs::OneOf(vec![Scope::Use]),
        }
    }

    /// What a request needs, by its route if it has one.
    fn of_request(&self, route: Option<&str>, method: &Method) -> &Needs {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let Some(route) = route else {
            // Nothing is served there.
            return &Needs::Nothing;
        };
        match self.documented.get(route) {
            Some(operations) => operations
                .iter()
                .find(|(known, _)| known == method)
                // The route does not answer the method.
                .map_or(&Needs::Nothing, |(_, needs)| needs),
            None if self.open.iter().any(|open| open == route) => &Needs::Nothing,
            None => &self.others,
        }
    }
}

/// Checks the keys of requests.
#[derive(Clone)]
pub(super) struct Gate {
    access: Arc<Access>,
    routes: Arc<RouteNeeds>,
    callers: Callers,
    metrics: KeyMetrics,
}

impl Gate {
    /// The gate before the routes of the document.
    ///
    /// # Panics
    /// When an operation of the document does not say which scopes it needs.
    pub(super) fn new(
        access: Arc<Access>,
        openapi: &OpenApi,
        base_path: &str,
        callers: Callers,
        metrics: KeyMetrics,
    ) -> Self {
        for name in access.names() {
            metrics.counters(&name);
            // Clients leave room to those who have not come yet.
            callers.named(&name);
        }
        Self {
            access,
            routes: Arc::new(RouteNeeds::of(openapi, base_path)),
            callers,
            metrics,
        }
    }

    /// The key of a request.
    ///
    /// # Errors
    /// [`ApiError::Unauthorized`] when there is none, or the server does not know it.
    fn key(&self, headers: &HeaderMap) -> Result<Arc<ApiKey>, ApiError> {
        let text = key_text(headers).ok_or(ApiError::Unauthorized { is_unknown: false })?;
        let key = self.access.find(&text);
        key.ok_or(ApiError::Unauthorized { is_unknown: true })
    }
}

/// Lets a request through that has the key that its route needs. On a server without keys, every request passes.
pub(super) async fn authorise(
    State(gate): State<Gate>,
    route: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let route = route.as_ref().map(MatchedPath::as_str);
    let Needs::OneOf(scopes) = gate.routes.of_request(route, request.method()) else {
        return next.run(request).await;
    };
    if !gate.access.is_on() {
        request.extensions_mut().insert(Caller::default());
        return next.run(request).await;
    }
    let key = match gate.key(request.headers()) {
        Ok(key) => key,
        Err(error) => return error.into_response(),
    };
    note("key", key.name().to_owned());
    let counted = KeyedRequest::new(&gate.metrics, key.name());
    let response = match admit(&key, scopes) {
        Ok(_in_flight) => {
            request.extensions_mut().insert(gate.callers.named(key.name()));
            request.extensions_mut().insert(Arc::clone(&key));
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    counted.answered(response.status());
    response
}

/// Counts a request of a key that opens one of the scopes.
///
/// # Errors
/// [`ApiError::Forbidden`] when the key opens none of them, [`ApiError::Quota`] when its client asks for more than it
/// may.
fn admit(key: &ApiKey, scopes: &[Scope]) -> Result<InFlight, ApiError> {
    let in_flight = key.admit()?;
    if key.opens(scopes) {
        return Ok(in_flight);
    }
    Err(ApiError::Forbidden {
        name: key.name().to_owned(),
        scopes: scopes.to_vec(),
    })
}

/// The key that a request brings along: a bearer's token, or the password of `Basic`, for clients such as Label Studio
/// that know nothing else. Several are as good as none: a proxy in front may have looked at another than this server.
fn key_text(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let token = bearer(value.as_bytes()).map(Cow::Borrowed);
    token.or_else(|| password(value.as_bytes()).map(Cow::Owned))
}

/// The password of `Authorization: Basic CREDENTIALS` (RFC 7617). The user's name does not matter.
fn password(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, credentials) = value.split_at_checked("Basic ".len())?;
    let credentials = scheme
        .eq_ignore_ascii_case(b"Basic ")
        .then(|| credentials.trim_ascii())?;
    let credentials = BASE64_STANDARD.decode(credentials).ok()?;
    let colon = credentials.iter().position(|byte| *byte == b':')?;
    let password = credentials[colon + 1..].to_vec();
    Some(password).filter(|password| !password.is_empty())
}

/// The token of `Authorization: Bearer TOKEN`. The scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
        .filter(|token| !token.is_empty())
}

/// What an operation's security says.
fn needs(operation: &Operation) -> Needs {
    let said = serde_json::to_value(&operation.security).expect("security is plain data");
    let said: Option<Vec<HashMap<String, Vec<Scope>>>> = serde_json::from_value(said).expect("scopes have names");
    let said = said.expect("every operation says which scopes it needs, or that it needs none");
    let scopes: Vec<Scope> = said.into_iter().flat_map(HashMap::into_values).flatten().collect();
    match scopes.is_empty() {
        true => Needs::Nothing,
        false => Needs::OneOf(scopes),
    }
}

/// Adds the security scheme to the document.
pub(super) struct KeyScheme;

impl Modify for KeyScheme {
    fn modify(&self, openapi: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("maskclip_ and 43 characters")
            .description(Some(
                "A key that the server's operator made (`maskclip key new`). A server without keys needs none and ignores \
                 it. The names in an operation's requirement are scopes, of which the key needs one.",
            ));
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme(SCHEME, SecurityScheme::Http(scheme.build()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::documented;
    use super::*;

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        let token = |value: &'static str| bearer(value.as_bytes()).map(<[u8]>::to_vec);
        for value in ["Bearer abc", "bearer abc", "BEARER  abc "] {
            assert_eq!(token(value).as_deref(), Some(&b"abc"[..]), "{value}");
        }
        for value in ["", "Bearer", "Bearer ", "Bearer   ", "Basic abc", "abc", "Bearerabc d"] {
            assert_eq!(token(value), None, "{value}");
        }
        assert_eq!(key_text(&HeaderMap::new()), None);
    }

    #[test]
    fn several_keys_are_as_good_as_none() {
        let mut headers = HeaderMap::new();
        headers.append(header::AUTHORIZATION, "Bearer abc".parse().unwrap());
        assert!(key_text(&headers).is_some());
        headers.append(header::AUTHORIZATION, "Bearer abc".parse().unwrap());
        assert_eq!(key_text(&headers), None);
    }

    #[test]
    fn a_password_stands_for_a_token_whatever_the_user() {
        let key = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            key_text(&headers).map(Cow::into_owned)
        };
        // user:a:b, :abc
        assert_eq!(key("Basic dXNlcjphOmI=").as_deref(), Some(&b"a:b"[..]));
        assert_eq!(key("basic OmFiYw==").as_deref(), Some(&b"abc"[..]));
        assert_eq!(key("Bearer abc").as_deref(), Some(&b"abc"[..]));
        // user, user:
        for value in ["Basic dXNlcg==", "Basic dXNlcjo=", "Basic", "Basic ?"] {
            assert_eq!(key(value), None, "{value}");
        }
    }

    #[test]
    fn a_route_that_nobody_has_declared_open_needs_a_key() {
        let routes = RouteNeeds::of(&documented().into_openapi(), "/clip");
        let needs = |route, method| routes.of_request(route, &method).clone();
        let use_alone = Needs::OneOf(vec![Scope::Use]);
        assert_eq!(needs(Some("/v1/segment"), Method::POST), use_alone);
        assert_eq!(needs(Some("/v1/new"), Method::GET), use_alone);
        assert_eq!(
            needs(Some("/metrics"), Method::HEAD),
            Needs::OneOf(vec![Scope::Metrics])
        );
        for (route, method) in [
            (Some("/"), Method::GET),
            (Some("/assets/{*path}"), Method::GET),
            (Some("/clip"), Method::GET),
            (Some("/v1/segment"), Method::GET),
            (None, Method::GET),
        ] {
            assert_eq!(needs(route, method.clone()), Needs::Nothing, "{method} {route:?}");
        }
    }
}
