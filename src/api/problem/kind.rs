//! The kinds of problems: each with its status, its name and its words, in one table.

use axum::http::StatusCode;
use serde::{Serialize, Serializer};
use strum::VariantArray;
use utoipa::openapi::RefOr;
use utoipa::openapi::extensions::Extensions;
use utoipa::{PartialSchema, ToSchema};

/// What stands before the name of a kind in its URI reference.
const FOLDER: &str = "/problems/";

/// Kinds of problems, in the order of their statuses. A kind never changes its meaning; clients may switch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, strum::IntoStaticStr, VariantArray)]
#[strum(prefix = "/problems/", serialize_all = "kebab-case")]
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
    /// Another process holds the store on disk.
    StoreBusy,
    /// What replicas have in common cannot be reached.
    SharedStateUnavailable,
    /// The request's deadline passed.
    DeadlineExceeded,
    /// A change could not be written to disk, or the shared state is full.
    NotStored,
}

/// What is the same of every problem of a kind.
struct Facts {
    /// The status such a problem is answered with.
    status: StatusCode,
    /// The kind in words.
    title: &'static str,
    /// What it means and what a caller can do.
    meaning: &'static str,
    /// Whether `Retry-After` says when a repeat is worth a try, unless waiting does not help the request.
    has_retry_after: bool,
}

impl ProblemType {
    #[expect(clippy::too_many_lines, reason = "one table, with a row for each kind")]
    fn facts(self) -> Facts {
        let facts = |status, title, meaning| Facts {
            status,
            title,
            meaning,
            has_retry_after: false,
        };
        let with_retry_after = |status, title, meaning| Facts {
            has_retry_after: true,
            ..facts(status, title, meaning)
        };
        match self {
            Self::Malformed => facts(
                StatusCode::BAD_REQUEST,
                "The request is malformed",
                "Broken JSON, multipart, base64 or percent-encoding. Repeating it is of no use.",
            ),
            Self::Unauthorized => facts(
                StatusCode::UNAUTHORIZED,
                "A key is needed",
                "This server answers here only with a key that it knows: `Authorization: Bearer KEY`. Ask whoever \
                 runs it for one.",
            ),
            Self::Forbidden => facts(
                StatusCode::FORBIDDEN,
                "The key does not open this",
                "The server knows the key, but the key lacks the scope that this route needs; `detail` names it.",
            ),
            Self::ForeignOrigin => facts(
                StatusCode::FORBIDDEN,
                "Pages of this origin may not use the server",
                "A browser asks for a page that another server has sent. Whoever runs this server lists the \
                 origins whose pages may use it in `server.cors_origins`.",
            ),
            Self::RouteNotFound => facts(
                StatusCode::NOT_FOUND,
                "Nothing is served here",
                "No route has this path.",
            ),
            Self::VocabularyNotFound => facts(
                StatusCode::NOT_FOUND,
                "No such vocabulary",
                "No vocabulary has this name. Define it, then repeat the request.",
            ),
            Self::ImageNotHeld => facts(
                StatusCode::NOT_FOUND,
                "The image is not held",
                "No image is held under this id: there never was one, or it has expired (`images.keep_seconds`), \
                 been deleted, or made room for others (`images.held_bytes`), or the replica that holds it cannot \
                 be asked. Send the image again.",
            ),
            Self::ModelNotFound => facts(
                StatusCode::NOT_FOUND,
                "No such model",
                "No model has the name, or no version the number, that the path names; `GET /v1/models` lists \
                 those that are loaded.",
            ),
            Self::MethodNotAllowed => facts(
                StatusCode::METHOD_NOT_ALLOWED,
                "The route does not answer this method",
                "The `Allow` header lists the methods that are answered.",
            ),
            Self::NotAcceptable => facts(
                StatusCode::NOT_ACCEPTABLE,
                "No acceptable form of the answer",
                "`Accept` excludes every form this route can answer in; `detail` lists them.",
            ),
            Self::RequestTimeout => facts(
                StatusCode::REQUEST_TIMEOUT,
                "The body did not come in time",
                "The body did not come within `server.body_seconds`. Repeat it, on a faster connection or with a \
                 smaller image.",
            ),
            Self::VocabularyReadOnly => facts(
                StatusCode::CONFLICT,
                "The vocabulary is read-only",
                "Vocabularies shipped with the server cannot be changed; choose another name.",
            ),
            Self::TooManyVocabularies => facts(
                StatusCode::CONFLICT,
                "There are too many vocabularies",
                "As many vocabularies are defined as `limits.max_vocabularies` allows, or they take as many bytes \
                 as `vocabulary.definitions_bytes` allows; `limit` says which. Drop one first.",
            ),
            Self::PreconditionFailed => facts(
                StatusCode::PRECONDITION_FAILED,
                "The precondition does not hold",
                "The vocabulary has changed since it was read (`If-Match`), or exists already (`If-None-Match: \
                 *`). Read it again, then decide.",
            ),
            Self::RequestTooLarge => facts(
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request is too large",
                "The body has more bytes than `limits.max_request_bytes`, which counts what a compressed body is \
                 inflated to.",
            ),
            Self::ImageTooLarge => facts(
                StatusCode::PAYLOAD_TOO_LARGE,
                "The image has too many pixels",
                "The image's header promises more pixels than `limits.max_image_pixels`. Scale it down.",
            ),
            Self::ImageTooLargeToHold => facts(
                StatusCode::PAYLOAD_TOO_LARGE,
                "The image is too large to be held",
                "The image alone takes more bytes than `images.held_bytes`. Send it with each request to `POST \
                 /v1/segment`.",
            ),
            Self::UriTooLong => facts(
                StatusCode::URI_TOO_LONG,
                "The path and query are too long",
                "The path and query have more bytes than the server reads; `limit` says how many it does.",
            ),
            Self::UnsupportedMediaType => facts(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The media type is not read here",
                "The body's `Content-Type` is none that this route reads; `detail` lists those.",
            ),
            Self::UnsupportedContentEncoding => facts(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The content encoding is not read",
                "The body's `Content-Encoding` is none that the server reads: `gzip`, `zstd`, `identity`.",
            ),
            Self::ForeignHost => facts(
                StatusCode::MISDIRECTED_REQUEST,
                "The server has another name",
                "The request names a host that is none of this server's names. On loopback these are addresses \
                 and `localhost`; `server.allowed_hosts` lists others.",
            ),
            Self::InvalidRequest => facts(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The request is invalid",
                "Well-formed, but a field is missing, unknown or out of its range; `path` names it, `limit` the \
                 setting it exceeds.",
            ),
            Self::UndecodableImage => facts(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The image cannot be decoded",
                "The image is of an unknown format, cut short or damaged.",
            ),
            Self::UnknownModel => facts(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The model is not loaded",
                "`model` names one that is not loaded; `GET /v1/models` lists those that are. Not a 404: the \
                 route is there, the request is not valid on this server.",
            ),
            Self::UnsupportedByModel => facts(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The model cannot do this",
                "The loaded model's architecture does not have what was asked for, such as an attention of vision \
                 transformers; `detail` names what it has.",
            ),
            Self::Quota => with_retry_after(
                StatusCode::TOO_MANY_REQUESTS,
                "The key's quota is used up",
                "The client of this key sends more requests a second, or has more under way at once, than it may; \
                 `limit` says which and how many. Wait for `Retry-After` seconds. Others do not notice.",
            ),
            Self::Overloaded => with_retry_after(
                StatusCode::TOO_MANY_REQUESTS,
                "The server is overloaded",
                "There is no room for the request now: in the server (`engine.queue_capacity`), for its body \
                 (`engine.body_bytes`), for new texts (`engine.max_waiting_texts`), or before its deadline by the \
                 times measured so far. `limit` or `path` says which. Wait for `Retry-After` seconds; without \
                 that header, waiting does not help.",
            ),
            Self::HeadTooLarge => facts(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The head of the request is too large",
                "The head has more bytes or more fields than the server reads; `limit` says how many it does.",
            ),
            Self::Internal => facts(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Internal error",
                "A defect of the server. The log has the detail, under the id in `instance`.",
            ),
            Self::Unavailable => facts(
                StatusCode::SERVICE_UNAVAILABLE,
                "The server is not ready",
                "The server is going down, which cuts off what takes longer than `server.drain_seconds`, or too \
                 few of its models are ready (`engine.ready_when`). Try again, or elsewhere.",
            ),
            Self::ModelUnavailable => with_retry_after(
                StatusCode::SERVICE_UNAVAILABLE,
                "The model is not ready",
                "The model that was asked for is being loaded, or is down after a failure; `detail` says which \
                 and when it is tried again. Wait for `Retry-After` seconds, or ask another model.",
            ),
            Self::StoreBusy => with_retry_after(
                StatusCode::SERVICE_UNAVAILABLE,
                "The store of vocabularies is busy",
                "Another process has held the store (`vocabulary.store_path`), or other replicas have changed the same \
                 vocabulary (`shared.url`), for longer than `vocabulary.store_wait_seconds`. Nothing was changed. Wait \
                 for `Retry-After` seconds.",
            ),
            Self::SharedStateUnavailable => with_retry_after(
                StatusCode::SERVICE_UNAVAILABLE,
                "The shared state cannot be reached",
                "What the replicas of this server have in common (`shared.url`) cannot be reached, and a change \
                 would be known to one of them alone, or the name or id that was asked for may be known to another \
                 one. Wait for `Retry-After` seconds.",
            ),
            Self::DeadlineExceeded => with_retry_after(
                StatusCode::GATEWAY_TIMEOUT,
                "The deadline passed",
                "No result within `deadline_seconds`. Texts that were embedded by then are kept, so a repeat is \
                 faster.",
            ),
            Self::NotStored => facts(
                StatusCode::INSUFFICIENT_STORAGE,
                "The change could not be stored",
                "The disk of the store (`vocabulary.store_path`) is full or cannot be written, or the shared \
                 state (`shared.url`) is full; the log has the reason. Nothing was changed, and requests that \
                 change nothing are answered.",
            ),
        }
    }

    /// The status such a problem is answered with.
    pub fn status(self) -> StatusCode {
        self.facts().status
    }

    /// The `type` member: a URI reference that stands for the kind.
    pub fn uri(self) -> &'static str {
        self.into()
    }

    /// The end of the URI reference, as in `image-not-held`.
    pub fn name(self) -> &'static str {
        self.uri().trim_start_matches(FOLDER)
    }

    /// What generators of clients call the kind, as in `IMAGE_NOT_HELD`. They number what does not begin with a letter.
    fn member_name(self) -> String {
        self.name().replace('-', "_").to_ascii_uppercase()
    }

    /// The `title` member: the same words each time.
    pub fn title(self) -> &'static str {
        self.facts().title
    }

    /// Whether `Retry-After` says when a repeat is worth a try, unless waiting does not help the request.
    pub(in crate::api) fn has_retry_after(self) -> bool {
        self.facts().has_retry_after
    }

    /// What it means and what a caller can do, for the OpenAPI document.
    pub(super) fn meaning(self) -> &'static str {
        self.facts().meaning
    }

    /// A table of all kinds in Markdown, for the OpenAPI document.
    pub(in crate::api) fn table() -> String {
        let row = |kind: &Self| {
            let (status, uri, meaning) = (kind.status(), kind.uri(), kind.meaning());
            format!("| {} | `{uri}` | {meaning} |\n", status.as_str())
        };
        let rows: String = Self::VARIANTS.iter().map(row).collect();
        format!("| status | `type` | meaning |\n|---|---|---|\n{rows}")
    }
}

impl Serialize for ProblemType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.uri())
    }
}

impl PartialSchema for ProblemType {
    fn schema() -> RefOr<utoipa::openapi::Schema> {
        let kinds = || Self::VARIANTS.iter().copied();
        let member_names: Vec<_> = kinds().map(Self::member_name).collect();
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some(
                "A URI reference that stands for the kind of problem; it never changes its meaning.",
            ))
            .enum_values(Some(kinds().map(Self::uri)))
            .extensions(Some(Extensions::from_iter([("x-enum-varnames", member_names)])))
            .into()
    }
}

impl ToSchema for ProblemType {}
