//! The path under which the server stands, for proxies that do not take it off.
//!
//! Every address that the server gives is relative to that of the request, so a proxy may also take the path off: then
//! the server need not know it.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use axum::middleware::map_request_with_state;
use axum::response::Redirect;
use axum::routing::get;

/// Serves the routes under a path, too. Probes and scrapes, which do not pass the proxy, find them without it.
pub(super) fn under(base_path: &str, routes: Router) -> Router {
    if base_path.is_empty() {
        return routes;
    }
    let with_base = Router::new().fallback_service(routes);
    with_base.layer(map_request_with_state(base_path.to_owned(), strip))
}

/// Adds a route for the path alone, which answers with the address of the page: there, the page finds its files.
pub(super) fn with_page_address<S: Clone + Send + Sync + 'static>(base_path: &str, routes: Router<S>) -> Router<S> {
    let Some((_, last)) = base_path.rsplit_once('/') else {
        return routes;
    };
    let address = format!("{last}/");
    routes.route(base_path, get(async move || Redirect::permanent(&address)))
}

/// Takes the path off a request's.
async fn strip(State(base_path): State<String>, mut request: Request) -> Request {
    if let Some(stripped) = without(&base_path, request.uri()) {
        *request.uri_mut() = stripped;
    }
    request
}

fn without(base_path: &str, uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix(base_path)?;
    if !rest.starts_with('/') {
        return None;
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(rest).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_base_path_is_taken_off_where_it_is_whole() {
        for (uri, expected) in [
            ("/a/b/v1/models?x=1", Some("/v1/models?x=1")),
            ("/a/b/", Some("/")),
            ("/a/b//x", Some("//x")),
            ("http://host:1/a/b/x", Some("http://host:1/x")),
            ("/a/b", None),
            ("/a/bc/x", None),
            ("/v1/models", None),
            ("*", None),
        ] {
            let stripped = without("/a/b", &uri.parse().unwrap());
            assert_eq!(stripped.map(|uri| uri.to_string()).as_deref(), expected, "{uri}");
        }
    }
}
