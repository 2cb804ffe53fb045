//! The one error type of HTTP.
//!
//! Owns the one place where errors of the other layers become a [`ProblemType`] and so a status. The body
//! is written by `middleware`, which knows the request's id; until then the problem
//! rides in the response's extensions.

use std::time::Duration;

use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};

use super::etag::entity_tag;
use super::problem::{Limit, Problem, ProblemType};
use super::wire::ModelHealth;
use crate::access::{QuotaError, Scope};
use crate::engine::{EngineError, Field};
use crate::image::DecodeError;
use crate::support::{ExceededLimit, LimitValue, excerpt, without_middle};
use crate::vocabulary::{ClassListError, VocabularyError};

/// Seconds that `Retry-After` suggests where no time was measured. Texts that were embedded before a deadline are kept, so
/// a repeat finds them done.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The bytes are not what they claim to be.
    #[error("{0}")]
    Malformed(String),
    /// The request has no key, or one that the server does not know.
    #[error("{}", match is_unknown {
        true => "the server does not know this key",
        false => "this server answers here only with a key: send Authorization: Bearer KEY",
    })]
    Unauthorized {
        /// Whether there is a key.
        is_unknown: bool,
    },
    /// The key does not open the route.
    #[error("the key {name} needs the scope {}", names(scopes, " or "))]
    Forbidden {
        /// The key's name.
        name: String,
        /// The scopes of which it needs one.
        scopes: Vec<Scope>,
    },
    /// The client of the key asks for more than it may.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// A page of another origin asks.
    #[error("a page of {} may not use this server (server.cors_origins)", excerpt(.found))]
    ForeignOrigin {
        /// What the request says of its page.
        found: String,
    },
    /// The request names another host.
    #[error("{:?} is no name of this server (server.allowed_hosts)", excerpt(.found))]
    ForeignHost {
        /// What the request says.
        found: String,
    },
    /// No route has the path.
    #[error("nothing is served at {}; GET /docs lists the routes", excerpt(.0))]
    RouteNotFound(String),
    /// No model has the name in the path, or it has no such version.
    #[error("no model is called {:?}{}; there is {}", excerpt(model), of_version(version.as_deref()), served.join(", "))]
    ModelNotFound {
        /// The name in the path.
        model: String,
        /// The version in the path.
        version: Option<String>,
        /// The names of the served models.
        served: Vec<String>,
    },
    /// The route does not answer the method.
    #[error("{} is not answered here; the Allow header lists the methods that are", excerpt(.0.as_str()))]
    MethodNotAllowed(Method),
    /// No form of the answer suits `Accept`.
    #[error("the Accept header excludes all that this route can answer with: {offered}")]
    NotAcceptable {
        /// Media types, for people.
        offered: String,
    },
    /// The body has too many bytes.
    #[error("the body has more than limits.max_request_bytes = {limit} bytes")]
    RequestTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body is of a media type that is not read.
    #[error("this route reads {supported}, but the Content-Type is {found}")]
    UnsupportedMediaType {
        /// What the request says, for people.
        found: String,
        /// Media types, for people.
        supported: &'static str,
    },
    /// The body is compressed in a way that is not read.
    #[error("the Content-Encoding is {found:?}; read are gzip, zstd and identity, one of them alone")]
    UnsupportedContentEncoding {
        /// What the request says.
        found: String,
    },
    /// The body did not come in time.
    #[error("the body did not come within server.body_seconds = {limit}")]
    RequestTimeout {
        /// The limit in seconds.
        limit: f64,
    },
    /// The path and query are too long.
    #[error("the path and query have {found} bytes, at most {limit} are read")]
    UriTooLong {
        /// Their bytes.
        found: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The head has too many bytes or fields.
    #[error("the head of the request has {found} {unit}, at most {limit} are read")]
    HeadTooLarge {
        /// How many it has.
        found: usize,
        /// `bytes` or `fields`.
        unit: &'static str,
        /// How many are read.
        limit: usize,
    },
    /// A field is missing, unknown or out of its range.
    #[error("{detail}")]
    Invalid {
        /// The field, as in `classes[1].name`; `None` for the request as a whole.
        path: Option<String>,
        /// What is wrong with it.
        detail: String,
        /// The setting that was exceeded.
        limit: Option<Limit>,
    },
    /// One of several things that a request asks for has this error.
    #[error("{path}: {error}")]
    At {
        /// Which of them, as in `input[1]`.
        path: String,
        /// What is wrong with it.
        error: Box<Self>,
    },
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The vocabularies refused.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// The server is not ready: too few models are, or it is going down.
    #[error("{reason}")]
    NotReady {
        /// Why, for people.
        reason: &'static str,
        /// The state of every model.
        models: Vec<ModelHealth>,
    },
    /// The server ended before the request was done.
    #[error("the server went down before the request was done (server.drain_seconds)")]
    CutOff,
    /// Our fault; the text is for the log alone.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    /// A field that is missing, unknown or out of its range.
    pub fn invalid(path: &str, detail: impl Into<String>) -> Self {
        Self::Invalid {
            path: Some(path.to_owned()),
            detail: detail.into(),
            limit: None,
        }
    }

    /// This error of one of several things that a request asks for.
    pub fn at(self, path: String) -> Self {
        let error = Box::new(self);
        Self::At { path, error }
    }

    /// The kind of problem this is: the one mapping from errors to statuses.
    pub fn kind(&self) -> ProblemType {
        match self {
            Self::At { error, .. } => error.kind(),
            Self::Malformed(_) => ProblemType::Malformed,
            Self::Unauthorized { .. } => ProblemType::Unauthorized,
            Self::Forbidden { .. } => ProblemType::Forbidden,
            Self::Quota(_) => ProblemType::Quota,
            Self::ForeignOrigin { .. } => ProblemType::ForeignOrigin,
            Self::ForeignHost { .. } => ProblemType::ForeignHost,
            Self::RouteNotFound(_) => ProblemType::RouteNotFound,
            Self::ModelNotFound { .. } => ProblemType::ModelNotFound,
            Self::MethodNotAllowed(_) => ProblemType::MethodNotAllowed,
            Self::NotAcceptable { .. } => ProblemType::NotAcceptable,
            Self::RequestTooLarge { .. } => ProblemType::RequestTooLarge,
            Self::UnsupportedMediaType { .. } => ProblemType::UnsupportedMediaType,
            Self::UnsupportedContentEncoding { .. } => ProblemType::UnsupportedContentEncoding,
            Self::RequestTimeout { .. } => ProblemType::RequestTimeout,
            Self::UriTooLong { .. } => ProblemType::UriTooLong,
            Self::HeadTooLarge { .. } => ProblemType::HeadTooLarge,
            Self::Invalid { .. } => ProblemType::InvalidRequest,
            Self::Engine(EngineError::UnknownModel { .. }) => ProblemType::UnknownModel,
            Self::Vocabulary(error) | Self::Engine(EngineError::Vocabulary(error)) => of_vocabulary(error),
            Self::Engine(EngineError::Image(error)) => of_image(error),
            Self::Engine(EngineError::ImageNotHeld) => ProblemType::ImageNotHeld,
            Self::Engine(EngineError::NotShared(_) | EngineError::ImageNotKnown(_)) => {
                ProblemType::SharedStateUnavailable
            }
            Self::Engine(EngineError::ImageTooLargeToHold { .. }) => ProblemType::ImageTooLargeToHold,
            Self::Engine(EngineError::Unsupported(_)) => ProblemType::UnsupportedByModel,
            Self::Engine(
                EngineError::Field(_)
                | EngineError::InputTooLarge(_)
                | EngineError::UnsuitableInput(_)
                | EngineError::Cost(_),
            ) => ProblemType::InvalidRequest,
            Self::Engine(
                EngineError::Overloaded { .. }
                | EngineError::ShareTaken { .. }
                | EngineError::BodyBytes { .. }
                | EngineError::TooManyTexts { .. }
                | EngineError::TooManyNewTexts { .. }
                | EngineError::TooMuchWork { .. }
                | EngineError::TooBusy { .. },
            ) => ProblemType::Overloaded,
            Self::Engine(EngineError::DeadlineExceeded { .. }) => ProblemType::DeadlineExceeded,
            Self::NotReady { .. } | Self::CutOff | Self::Engine(EngineError::Unavailable(_)) => {
                ProblemType::Unavailable
            }
            Self::Engine(EngineError::ModelUnavailable { .. }) => ProblemType::ModelUnavailable,
            Self::Internal(_) | Self::Engine(EngineError::Internal(_)) => ProblemType::Internal,
        }
    }

    /// The setting that was exceeded.
    fn limit(&self) -> Option<Limit> {
        match self {
            Self::At { error, .. } => error.limit(),
            Self::Invalid { limit, .. } => limit.clone(),
            Self::Quota(error) => Some(error.limit().into()),
            Self::RequestTooLarge { limit } => Some(Limit::whole("limits.max_request_bytes", *limit as u64)),
            Self::RequestTimeout { limit } => Some(Limit::fractional("server.body_seconds", *limit)),
            Self::Engine(error) => error.limit().map(Limit::from),
            Self::Vocabulary(error) => error.limit().map(Limit::from),
            _ => None,
        }
    }

    /// Seconds after which a repeat is worth a try; none where waiting does not help.
    pub(super) fn retry_after_seconds(&self) -> Option<u64> {
        let whole_seconds = |wait: Duration| (wait.as_secs_f64().ceil() as u64).max(RETRY_AFTER_SECONDS);
        match self {
            Self::At { error, .. } => error.retry_after_seconds(),
            _ if !self.kind().has_retry_after() => None,
            Self::Engine(EngineError::TooManyNewTexts { .. } | EngineError::TooMuchWork { .. }) => None,
            Self::Engine(
                EngineError::Overloaded { retry_seconds, .. }
                | EngineError::ShareTaken { retry_seconds, .. }
                | EngineError::TooManyTexts { retry_seconds, .. }
                | EngineError::TooBusy { retry_seconds, .. },
            ) => Some(*retry_seconds),
            Self::Engine(EngineError::ModelUnavailable { next_attempt, .. }) => Some(whole_seconds(*next_attempt)),
            Self::Quota(QuotaError::Rate { wait, .. }) => Some(whole_seconds(*wait)),
            _ => Some(RETRY_AFTER_SECONDS),
        }
    }

    /// How long to wait before a repeat, where nothing but room is missing: in the server, or in the quota of a key.
    pub(super) fn retry_when_there_is_room(&self) -> Option<Duration> {
        let is_full = matches!(self.kind(), ProblemType::Overloaded | ProblemType::Quota);
        let seconds = self.retry_after_seconds().filter(|_| is_full)?;
        Some(Duration::from_secs(seconds))
    }

    /// What a client has to authenticate by (RFC 6750, section 3).
    fn challenge(&self) -> Option<HeaderValue> {
        let challenge = match self {
            Self::Unauthorized { is_unknown: false } => r#"Bearer realm="maskclip""#.to_owned(),
            Self::Unauthorized { is_unknown: true } => r#"Bearer realm="maskclip", error="invalid_token""#.to_owned(),
            Self::Forbidden { scopes, .. } => format!(
                r#"Bearer realm="maskclip", error="insufficient_scope", scope="{}""#,
                names(scopes, " ")
            ),
            _ => return None,
        };
        Some(HeaderValue::from_str(&challenge).expect("scopes are ASCII"))
    }

    /// What is wrong, in words for the caller.
    fn detail(&self) -> String {
        match self {
            Self::Vocabulary(error @ VocabularyError::Changed { current, .. }) => match current {
                Some(digest) => format!("{error}: its entity tag is {}", entity_tag(digest)),
                None => format!("{error}: it does not exist"),
            },
            _ => self.to_string(),
        }
    }

    /// What the caller is told; the request's id is still missing. The log has what is told to nobody.
    pub(super) fn told(&self) -> Problem {
        let problem = self.problem();
        if problem.kind == ProblemType::Internal {
            tracing::error!(error = %self, "internal error");
        }
        problem
    }

    fn problem(&self) -> Problem {
        let kind = self.kind();
        Problem {
            kind,
            title: kind.title(),
            status: kind.status().as_u16(),
            detail: (kind != ProblemType::Internal).then(|| without_middle(self.detail())),
            instance: None,
            path: match self {
                Self::Invalid { path, .. } => path.clone(),
                Self::At { path, .. } => Some(path.clone()),
                // Two fields, one of which is missing.
                Self::Engine(EngineError::Field(error)) if error.field() == Field::Vocabulary => None,
                Self::Engine(EngineError::Field(error)) => Some(error.field().path()),
                Self::Engine(EngineError::UnknownModel { .. }) => Some("model".to_owned()),
                Self::Engine(
                    EngineError::TooManyNewTexts { .. } | EngineError::TooMuchWork { .. } | EngineError::TooBusy { .. },
                ) => Some(Field::DeadlineSeconds.path()),
                Self::Engine(EngineError::UnsuitableInput(_)) => Some("attention".to_owned()),
                Self::Vocabulary(VocabularyError::InvalidName { .. }) => Some("name".to_owned()),
                Self::Vocabulary(VocabularyError::Invalid(ClassListError::OptionRange { option, .. })) => {
                    Some(format!("options.{option}"))
                }
                Self::Engine(EngineError::Cost(error)) => Some(error.field().path()),
                _ => None,
            },
            limit: self.limit(),
            models: match self {
                Self::NotReady { models, .. } => Some(models.clone()),
                _ => None,
            },
        }
    }
}

impl From<ExceededLimit> for Limit {
    fn from(ExceededLimit { key, value }: ExceededLimit) -> Self {
        match value {
            LimitValue::Whole(value) => Self::whole(key, value),
            LimitValue::Fractional(value) => Self::fractional(key, value),
        }
    }
}

/// The kind of problem of a vocabulary.
fn of_vocabulary(error: &VocabularyError) -> ProblemType {
    match error {
        VocabularyError::NotFound { .. } => ProblemType::VocabularyNotFound,
        VocabularyError::ReadOnly { .. } => ProblemType::VocabularyReadOnly,
        VocabularyError::Changed { .. } => ProblemType::PreconditionFailed,
        VocabularyError::TooMany { .. } | VocabularyError::TooManyBytes { .. } | VocabularyError::ShareTaken { .. } => {
            ProblemType::TooManyVocabularies
        }
        VocabularyError::StoreBusy { .. } | VocabularyError::SharedBusy { .. } => ProblemType::StoreBusy,
        VocabularyError::NotShared { .. } | VocabularyError::NotKnown { .. } => ProblemType::SharedStateUnavailable,
        VocabularyError::NotStored { .. } | VocabularyError::SharedFull { .. } => ProblemType::NotStored,
        VocabularyError::InvalidName { .. } | VocabularyError::Invalid(_) => ProblemType::InvalidRequest,
    }
}

/// The kind of problem that an image was refused for.
fn of_image(error: &DecodeError) -> ProblemType {
    match error {
        DecodeError::TooManyPixels { .. } => ProblemType::ImageTooLarge,
        DecodeError::UnknownFormat { .. }
        | DecodeError::UnreadFormat { .. }
        | DecodeError::CutShort
        | DecodeError::Undecodable(_) => ProblemType::UndecodableImage,
    }
}

/// The version of a model in words.
fn of_version(version: Option<&str>) -> String {
    version.map_or_else(String::new, |version| {
        format!(" with a version {:?} (all have version 1)", excerpt(version))
    })
}

/// The names of scopes, joined.
fn names(scopes: &[Scope], separator: &str) -> String {
    let names: Vec<_> = scopes.iter().map(|scope| scope.name()).collect();
    names.join(separator)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.told();
        let mut response = problem.kind.status().into_response();
        if let Some(seconds) = self.retry_after_seconds() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge() {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(problem);
        response
    }
}
