//! The one shape of every error: RFC 9457 problem details.
//!
//! Owns the kinds of problems, each with its status, and how they stand in the OpenAPI document. Leaves
//! which error is of which kind to [`error`](super::error).

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::{Serialize, Serializer};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::{ContentBuilder, RefOr, ResponseBuilder, example::ExampleBuilder};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use super::wire::ModelHealth;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Kinds of problems. A kind never changes its meaning; clients may switch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemType {
    /// The bytes are not what they claim to be.
    Malformed,
    /// The request has no key, or one that the server does not know.
    Unauthorized,
    /// The key does not open the route.
    Forbidden,
    /// A page of another origin asks.
    ForeignOrigin,
    /// No route has the path.
    RouteNotFound,
    /// No vocabulary has the name.
    VocabularyNotFound,
    /// No image is held under the id.
    ImageNotHeld,
    /// No model has the name that the path names.
    ModelNotFound,
    /// The route does not answer the method.
    MethodNotAllowed,
    /// No form of the answer suits `Accept`.
    NotAcceptable,
    /// The body did not come in time.
    RequestTimeout,
    /// A shipped vocabulary was to be changed.
    VocabularyReadOnly,
    /// There is no room for another vocabulary.
    TooManyVocabularies,
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed,
    /// The body has too many bytes.
    RequestTooLarge,
    /// The image has too many pixels.
    ImageTooLarge,
    /// The image alone takes more than may be held.
    ImageTooLargeToHold,
    /// The path and query are too long.
    UriTooLong,
    /// The body is of a media type that is not read.
    UnsupportedMediaType,
    /// The body is compressed in a way that is not read.
    UnsupportedContentEncoding,
    /// The request names another host.
    ForeignHost,
    /// A field is missing, unknown or out of its range.
    InvalidRequest,
    /// The image cannot be decoded.
    UndecodableImage,
    /// The request names a model that is not served.
    UnknownModel,
    /// The model cannot do what was asked.
    UnsupportedByModel,
    /// The client of the key asks for more than it may.
    Quota,
    /// The queue is full.
    Overloaded,
    /// The head has too many bytes or fields.
    HeadTooLarge,
    /// Our fault.
    Internal,
    /// Too few models are ready, or the server is going down.
    Unavailable,
    /// The model that was asked for is not ready. Others may be.
    ModelUnavailable,
    /// The request's deadline passed.
    DeadlineExceeded,
    /// Another process holds the store on disk.
    StoreBusy,
    /// What replicas have in common cannot be reached.
    SharedStateUnavailable,
    /// A change could not be written to disk, or the shared state is full.
    NotStored,
}

impl ProblemType {
    /// Every kind, in the order of their statuses.
    pub const ALL: [Self; 35] = [
        Self::Malformed,
        Self::Unauthorized,
        Self::Forbidden,
        Self::ForeignOrigin,
        Self::RouteNotFound,
        Self::VocabularyNotFound,
        Self::ImageNotHeld,
        Self::ModelNotFound,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::RequestTimeout,
        Self::VocabularyReadOnly,
        Self::TooManyVocabularies,
        Self::PreconditionFailed,
        Self::RequestTooLarge,
        Self::ImageTooLarge,
        Self::ImageTooLargeToHold,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::UnsupportedContentEncoding,
        Self::ForeignHost,
        Self::InvalidRequest,
        Self::UndecodableImage,
        Self::UnknownModel,
        Self::UnsupportedByModel,
        Self::Quota,
        Self::Overloaded,
        Self::HeadTooLarge,
        Self::Internal,
        Self::Unavailable,
        Self::ModelUnavailable,
        Self::StoreBusy,
        Self::SharedStateUnavailable,
        Self::DeadlineExceeded,
        Self::NotStored,
    ];

    /// The status such a problem is answered with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
            Self::RouteNotFound | Self::VocabularyNotFound | Self::ImageNotHeld | Self::ModelNotFound => {
                StatusCode::NOT_FOUND
            }
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::VocabularyReadOnly | Self::TooManyVocabularies => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::RequestTooLarge | Self::ImageTooLarge | Self::ImageTooLargeToHold => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::UnsupportedMediaType | Self::UnsupportedContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidRequest | Self::UndecodableImage | Self::UnknownModel | Self::UnsupportedByModel => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::Quota | Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable | Self::ModelUnavailable | Self::StoreBusy | Self::SharedStateUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::NotStored => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    /// The `type` member: a URI reference that stands for the kind.
    pub fn uri(self) -> &'static str {
        match self {
            Self::Malformed => "/problems/malformed",
            Self::Unauthorized => "/problems/unauthorized",
            Self::Forbidden => "/problems/forbidden",
            Self::ForeignOrigin => "/problems/foreign-origin",
            Self::ForeignHost => "/problems/foreign-host",
            Self::RouteNotFound => "/problems/route-not-found",
            Self::VocabularyNotFound => "/problems/vocabulary-not-found",
            Self::ImageNotHeld => "/problems/image-not-held",
            Self::ModelNotFound => "/problems/model-not-found",
            Self::MethodNotAllowed => "/problems/method-not-allowed",
            Self::NotAcceptable => "/problems/not-acceptable",
            Self::RequestTimeout => "/problems/request-timeout",
            Self::VocabularyReadOnly => "/problems/vocabulary-read-only",
            Self::TooManyVocabularies => "/problems/too-many-vocabularies",
            Self::PreconditionFailed => "/problems/precondition-failed",
            Self::RequestTooLarge => "/problems/request-too-large",
            Self::ImageTooLarge => "/problems/image-too-large",
            Self::ImageTooLargeToHold => "/problems/image-too-large-to-hold",
            Self::UriTooLong => "/problems/uri-too-long",
            Self::UnsupportedMediaType => "/problems/unsupported-media-type",
            Self::UnsupportedContentEncoding => "/problems/unsupported-content-encoding",
            Self::InvalidRequest => "/problems/invalid-request",
            Self::UndecodableImage => "/problems/undecodable-image",
            Self::UnknownModel => "/problems/unknown-model",
            Self::UnsupportedByModel => "/problems/unsupported-by-model",
            Self::Quota => "/problems/quota",
            Self::Overloaded => "/problems/overloaded",
            Self::HeadTooLarge => "/problems/head-too-large",
            Self::Internal => "/problems/internal",
            Self::Unavailable => "/problems/unavailable",
            Self::ModelUnavailable => "/problems/model-unavailable",
            Self::StoreBusy => "/problems/store-busy",
            Self::SharedStateUnavailable => "/problems/shared-state-unavailable",
            Self::DeadlineExceeded => "/problems/deadline-exceeded",
            Self::NotStored => "/problems/not-stored",
        }
    }

    /// What generators of clients call the kind, as in `IMAGE_NOT_HELD`. They number what does not begin with a letter.
    fn member_name(self) -> String {
        let name = self.uri().trim_start_matches("/problems/");
        name.replace('-', "_").to_ascii_uppercase()
    }

    /// The `title` member: the same words each time.
    pub fn title(self) -> &'static str {
        match self {
            Self::Malformed => "The request is malformed",
            Self::Unauthorized => "A key is needed",
            Self::Forbidden => "The key does not open this",
            Self::ForeignOrigin => "Pages of this origin may not use the server",
            Self::ForeignHost => "The server has another name",
            Self::RouteNotFound => "Nothing is served here",
            Self::VocabularyNotFound => "No such vocabulary",
            Self::ImageNotHeld => "The image is not held",
            Self::ModelNotFound => "No such model",
            Self::MethodNotAllowed => "The route does not answer this method",
            Self::NotAcceptable => "No acceptable form of the answer",
            Self::RequestTimeout => "The body did not come in time",
            Self::VocabularyReadOnly => "The vocabulary is read-only",
            Self::TooManyVocabularies => "There are too many vocabularies",
            Self::PreconditionFailed => "The precondition does not hold",
            Self::RequestTooLarge => "The request is too large",
            Self::ImageTooLarge => "The image has too many pixels",
            Self::ImageTooLargeToHold => "The image is too large to be held",
            Self::UriTooLong => "The path and query are too long",
            Self::UnsupportedMediaType => "The media type is not read here",
            Self::UnsupportedContentEncoding => "The content encoding is not read",
            Self::InvalidRequest => "The request is invalid",
            Self::UndecodableImage => "The image cannot be decoded",
            Self::UnknownModel => "The model is not loaded",
            Self::UnsupportedByModel => "The model cannot do this",
            Self::Quota => "The key's quota is used up",
            Self::Overloaded => "The server is overloaded",
            Self::HeadTooLarge => "The head of the request is too large",
            Self::Internal => "Internal error",
            Self::Unavailable => "The server is not ready",
            Self::ModelUnavailable => "The model is not ready",
            Self::StoreBusy => "The store of vocabularies is busy",
            Self::SharedStateUnavailable => "The shared state cannot be reached",
            Self::DeadlineExceeded => "The deadline passed",
            Self::NotStored => "The change could not be stored",
        }
    }

    /// What it means and what a caller can do, for the OpenAPI document.
    #[expect(clippy::too_many_lines, reason = "one table of texts")]
    fn meaning(self) -> &'static str {
        match self {
            Self::Malformed => "Broken JSON, multipart, base64 or percent-encoding. Repeating it is of no use.",
            Self::Unauthorized => {
                "This server answers here only with a key that it knows: `Authorization: Bearer KEY`. Ask whoever runs it for one."
            }
            Self::Forbidden => {
                "The server knows the key, but the key lacks the scope that this route needs; `detail` names it."
            }
            Self::ForeignOrigin => {
                "A browser asks for a page that another server has sent. Whoever runs this server lists the origins whose pages \
                 may use it in `server.cors_origins`."
            }
            Self::ForeignHost => {
                "The request names a host that is none of this server's names. On loopback these are addresses and `localhost`; \
                 `server.allowed_hosts` lists others."
            }
            Self::RouteNotFound => "No route has this path.",
            Self::VocabularyNotFound => "No vocabulary has this name. Define it, then repeat the request.",
            Self::ImageNotHeld => {
                "No image is held under this id: there never was one, or it has expired (`images.keep_seconds`), been deleted, or \
                 made room for others (`images.held_bytes`), or the replica that holds it cannot be asked. Send the image again."
            }
            Self::ModelNotFound => {
                "No model has the name, or no version the number, that the path names; `GET /v1/models` lists those that \
                 are loaded."
            }
            Self::MethodNotAllowed => "The `Allow` header lists the methods that are answered.",
            Self::NotAcceptable => "`Accept` excludes every form this route can answer in; `detail` lists them.",
            Self::RequestTimeout => {
                "The body did not come within `server.body_seconds`. Repeat it, on a faster connection or with a smaller image."
            }
            Self::VocabularyReadOnly => "Vocabularies shipped with the server cannot be changed; choose another name.",
            Self::TooManyVocabularies => {
                "As many vocabularies are defined as `limits.max_vocabularies` allows, or they take as many bytes as \
                 `vocabulary.definitions_bytes` allows; `limit` says which. Drop one first."
            }
            Self::PreconditionFailed => {
                "The vocabulary has changed since it was read (`If-Match`), or exists already \
                 (`If-None-Match: *`). Read it again, then decide."
            }
            Self::RequestTooLarge => {
                "The body has more bytes than `limits.max_request_bytes`, which counts what a compressed body is inflated to."
            }
            Self::ImageTooLarge => {
                "The image's header promises more pixels than `limits.max_image_pixels`. Scale it down."
            }
            Self::ImageTooLargeToHold => {
                "The image alone takes more bytes than `images.held_bytes`. Send it with each request to `POST /v1/segment`."
            }
            Self::UriTooLong => {
                "The path and query have more bytes than the server reads; `limit` says how many it does."
            }
            Self::UnsupportedMediaType => {
                "The body's `Content-Type` is none that this route reads; `detail` lists those."
            }
            Self::UnsupportedContentEncoding => {
                "The body's `Content-Encoding` is none that the server reads: `gzip`, `zstd`, `identity`."
            }
            Self::InvalidRequest => {
                "Well-formed, but a field is missing, unknown or out of its range; `path` names it, `limit` the \
                 setting it exceeds."
            }
            Self::UndecodableImage => "The image is of an unknown format, cut short or damaged.",
            Self::UnknownModel => {
                "`model` names one that is not loaded; `GET /v1/models` lists those that are. Not a 404: the route is \
                 there, the request is not valid on this server."
            }
            Self::UnsupportedByModel => {
                "The loaded model's architecture does not have what was asked for, such as an attention of vision \
                 transformers; `detail` names what it has."
            }
            Self::Quota => {
                "The client of this key sends more requests a second, or has more under way at once, than it may; `limit` says which \
                 and how many. Wait for `Retry-After` seconds. Others do not notice."
            }
            Self::Overloaded => {
                "There is no room for the request now: in the server (`engine.queue_capacity`), for its body (`engine.body_bytes`), \
                 for new texts (`engine.max_waiting_texts`), or before its deadline by the times measured so far. `limit` or \
                 `path` says which. Wait for `Retry-After` seconds; without that header, waiting does not help."
            }
            Self::HeadTooLarge => {
                "The head has more bytes or more fields than the server reads; `limit` says how many it does."
            }
            Self::Internal => "A defect of the server. The log has the detail, under the id in `instance`.",
            Self::Unavailable => {
                "The server is going down, which cuts off what takes longer than `server.drain_seconds`, or too few of its models are \
                 ready (`engine.ready_when`). Try again, or elsewhere."
            }
            Self::ModelUnavailable => {
                "The model that was asked for is being loaded, or is down after a failure; `detail` says which and when it is \
                 tried again. Wait for `Retry-After` seconds, or ask another model."
            }
            Self::StoreBusy => {
                "Another process has held the store (`vocabulary.store_path`) for longer than \
                 `vocabulary.store_wait_seconds`. Nothing was changed. Wait for `Retry-After` seconds."
            }
            Self::SharedStateUnavailable => {
                "What the replicas of this server have in common (`shared.url`) cannot be reached, and the change would be known to \
                 one of them alone. Requests that change nothing are answered. Wait for `Retry-After` seconds."
            }
            Self::NotStored => {
                "The disk of the store (`vocabulary.store_path`) is full or cannot be written, or the shared state (`shared.url`) \
                 is full; the log has the reason. Nothing was changed, and requests that change nothing are answered."
            }
            Self::DeadlineExceeded => {
                "No result within `deadline_seconds`. Texts that were embedded by then are kept, so a repeat is faster."
            }
        }
    }

    /// A table of all kinds in Markdown, for the OpenAPI document.
    pub(super) fn table() -> String {
        let rows = Self::ALL.map(|kind| {
            format!(
                "| {} | `{}` | {} |\n",
                kind.status().as_str(),
                kind.uri(),
                kind.meaning()
            )
        });
        format!("| status | `type` | meaning |\n|---|---|---|\n{}", rows.concat())
    }
}

impl Serialize for ProblemType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.uri())
    }
}

impl PartialSchema for ProblemType {
    fn schema() -> RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some(
                "A URI reference that stands for the kind of problem; it never changes its meaning.",
            ))
            .enum_values(Some(Self::ALL.map(Self::uri)))
            .extensions(Some(Extensions::from_iter([(
                "x-enum-varnames",
                Self::ALL.map(Self::member_name).to_vec(),
            )])))
            .into()
    }
}

impl ToSchema for ProblemType {}

/// A problem (RFC 9457), the body of every answer with a status of 400 or more.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem.
    #[serde(rename = "type")]
    pub kind: ProblemType,
    /// The kind in words, the same each time.
    pub title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong with this request, for people. An internal error has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The request's id, as in the `x-request-id` header and the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The field at fault, as in `classes[1].name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The setting that was exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// The state of every model; only in the reply of `GET /health/ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<ModelHealth>>,
}

/// A setting of the server that a request exceeded.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Limit {
    /// The setting's name in the configuration.
    #[schema(example = "limits.max_image_pixels")]
    pub name: &'static str,
    /// Its value.
    #[schema(value_type = f64, example = 50_000_000)]
    pub value: serde_json::Number,
}

impl Limit {
    /// A limit in whole units.
    pub fn whole(name: &'static str, value: u64) -> Self {
        Self {
            name,
            value: value.into(),
        }
    }

    /// A limit in fractions of a unit; settings are validated to be finite.
    pub fn fractional(name: &'static str, value: f64) -> Self {
        Self {
            name,
            value: serde_json::Number::from_f64(value).expect("settings are validated to be finite"),
        }
    }
}

/// The problems that every route can answer with.
const EVERYWHERE: [ProblemType; 3] = [
    ProblemType::ForeignOrigin,
    ProblemType::ForeignHost,
    ProblemType::Internal,
];

/// The problems a route can answer with, one response per status, for `IntoResponses`.
pub(super) fn responses(kinds: &[ProblemType]) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let mut by_status = BTreeMap::<StatusCode, Vec<ProblemType>>::new();
    for &kind in kinds.iter().chain(&EVERYWHERE) {
        by_status.entry(kind.status()).or_default().push(kind);
    }
    by_status
        .into_iter()
        .map(|(status, kinds)| (status.as_str().to_owned(), response(&kinds).into()))
        .collect()
}

/// The problems of a route that needs a key: those of the key, and the route's own.
pub(super) fn with_key(kinds: &[ProblemType]) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let of_key = [ProblemType::Unauthorized, ProblemType::Forbidden, ProblemType::Quota];
    responses(&[&of_key, kinds].concat())
}

/// A route that needs a key, and has no problems of its own.
pub(super) struct KeyProblems;

impl IntoResponses for KeyProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        with_key(&[])
    }
}

/// A route that has no problems of its own.
pub(super) struct NoProblems;

impl IntoResponses for NoProblems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        responses(&[])
    }
}

/// One status with the kinds of problems it stands for.
fn response(kinds: &[ProblemType]) -> utoipa::openapi::Response {
    let meanings: Vec<_> = kinds
        .iter()
        .map(|kind| format!("`{}`: {}", kind.uri(), kind.meaning()))
        .collect();
    let mut content = ContentBuilder::new().schema(Some(RefOr::Ref(utoipa::openapi::Ref::from_schema_name("Problem"))));
    for kind in kinds {
        let name = kind.uri().trim_start_matches("/problems/");
        let value = serde_json::json!({"type": kind.uri(), "title": kind.title(), "status": kind.status().as_u16()});
        content = content.examples_from_iter([(name, ExampleBuilder::new().value(Some(value)).build())]);
    }
    let mut response = ResponseBuilder::new()
        .description(meanings.join("\n\n"))
        .content(PROBLEM_JSON, content.build());
    if kinds.iter().any(|kind| {
        matches!(
            kind,
            ProblemType::Quota
                | ProblemType::Overloaded
                | ProblemType::ModelUnavailable
                | ProblemType::StoreBusy
                | ProblemType::SharedStateUnavailable
                | ProblemType::DeadlineExceeded
        )
    }) {
        response = response.header(
            "retry-after",
            utoipa::openapi::header::HeaderBuilder::new()
                .description(Some("Seconds to wait before the request is sent again."))
                .schema(Some(u64::schema()))
                .build(),
        );
    }
    if kinds.contains(&ProblemType::Unauthorized) || kinds.contains(&ProblemType::Forbidden) {
        response = response.header(
            "www-authenticate",
            utoipa::openapi::header::HeaderBuilder::new()
                .description(Some("What is missing, by RFC 6750."))
                .schema(Some(String::schema()))
                .build(),
        );
    }
    response.build()
}
