//! `GET /`: the page, and the files it loads from `/assets/`, compiled in from `web/` and `examples/`.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

use super::error::ApiError;
use super::etag::{EntityTags, entity_tag};
use super::problem::NoProblems;

/// What the page may do in a browser: use its own files and this API, and show images that the user picks. Nothing
/// that is written into the page is run.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The files of `web/`.
#[derive(RustEmbed)]
#[folder = "web/"]
struct Web;

/// The example scenes and what the page should know of them.
#[derive(RustEmbed)]
#[folder = "examples/"]
#[exclude = "scenes/*"]
#[exclude = "maps/*"]
#[exclude = "ray/*"]
#[exclude = "*.py"]
#[exclude = "*.sh"]
struct Examples;

/// Where the page finds [`Examples`] below `/assets/`.
const EXAMPLES: &str = "examples/";

/// The page
///
/// Pick an image, type classes, look at the label map. It uses nothing but this API.
#[utoipa::path(
    get,
    path = "/",
    operation_id = "get_page",
    security(()),
    tag = "documentation",
    responses(
        (status = 200, description = "The page.", body = String, content_type = "text/html"),
        (status = 304, description = "`If-None-Match` holds the page's entity tag."),
        NoProblems,
    ),
)]
pub(super) async fn get_page(headers: HeaderMap) -> Result<Response, ApiError> {
    serve("index.html", "/", &headers)
}

/// What the page loads.
pub(super) async fn get_asset(Path(path): Path<String>, uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    serve(&path, uri.path(), &headers)
}

/// The file with its entity tag, or 304 for a client that holds it. Browsers keep files but ask each
/// time, so that a new version of the server is seen at once.
fn serve(file: &str, path: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let found = match file.strip_prefix(EXAMPLES) {
        Some(example) => Examples::get(example),
        None => Web::get(file),
    };
    let file = found.ok_or_else(|| ApiError::RouteNotFound(path.to_owned()))?;
    let digest = file.metadata.sha256_hash();
    let etag = entity_tag(&hex::encode(&digest[..16]));
    // Weak, because the file may be sent compressed.
    let cache = [
        (header::ETAG, format!("W/{etag}")),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY.to_owned()),
    ];
    if EntityTags::read(headers, header::IF_NONE_MATCH).match_weakly(&etag) {
        return Ok((StatusCode::NOT_MODIFIED, cache).into_response());
    }
    let content_type = file.metadata.mimetype().to_owned();
    Ok((cache, [(header::CONTENT_TYPE, content_type)], file.data).into_response())
}
