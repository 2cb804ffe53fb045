//! The one error type of HTTP.
//!
//! Owns the one place where errors of the other layers become a [`ProblemType`] and so a status. The body
//! is written by `middleware`, which knows the request's id; until then the problem
//! rides in the response's extensions.

use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};

use super::etag::entity_tag;
use super::problem::{Limit, Problem, ProblemType};
use super::wire::ModelHealth;
use crate::engine::{CostError, ExceededLimit, Field, LimitValue, SegmentError};
use crate::image::DecodeError;
use crate::vocabulary::{ClassListError, VocabularyError};

/// Seconds that `Retry-After` suggests: a queue of this server drains in about that time, and texts
/// go on being embedded after a deadline, so a repeat finds them done.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The bytes are not what they claim to be.
    #[error("{0}")]
    Malformed(String),
    /// No route has the path.
    #[error("nothing is served at {0}; GET /docs lists the routes")]
    RouteNotFound(String),
    /// The route does not answer the method.
    #[error("{0} is not answered here; the Allow header lists the methods that are")]
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
    /// The engine refused or failed.
    #[error(transparent)]
    Segment(#[from] SegmentError),
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

    /// The kind of problem this is: the one mapping from errors to statuses.
    pub fn kind(&self) -> ProblemType {
        match self {
            Self::Malformed(_) => ProblemType::Malformed,
            Self::RouteNotFound(_) => ProblemType::RouteNotFound,
            Self::MethodNotAllowed(_) => ProblemType::MethodNotAllowed,
            Self::NotAcceptable { .. } => ProblemType::NotAcceptable,
            Self::RequestTooLarge { .. } => ProblemType::RequestTooLarge,
            Self::UnsupportedMediaType { .. } => ProblemType::UnsupportedMediaType,
            Self::Invalid { .. } => ProblemType::InvalidRequest,
            Self::Segment(SegmentError::UnknownModel { .. }) => ProblemType::UnknownModel,
            Self::Vocabulary(error) | Self::Segment(SegmentError::Vocabulary(error)) => match error {
                VocabularyError::NotFound { .. } => ProblemType::VocabularyNotFound,
                VocabularyError::ReadOnly { .. } => ProblemType::VocabularyReadOnly,
                VocabularyError::Changed { .. } => ProblemType::PreconditionFailed,
                VocabularyError::TooMany { .. } | VocabularyError::TooManyBytes { .. } => {
                    ProblemType::TooManyVocabularies
                }
                VocabularyError::StoreBusy { .. } => ProblemType::StoreBusy,
                VocabularyError::NotStored { .. } => ProblemType::NotStored,
                VocabularyError::InvalidName { .. } | VocabularyError::Invalid(_) => ProblemType::InvalidRequest,
            },
            Self::Segment(SegmentError::Image(error)) => match error {
                DecodeError::TooManyPixels { .. } => ProblemType::ImageTooLarge,
                DecodeError::UnknownFormat { .. } | DecodeError::Undecodable(_) => ProblemType::UndecodableImage,
            },
            Self::Segment(SegmentError::ImageNotHeld) => ProblemType::ImageNotHeld,
            Self::Segment(SegmentError::ImageTooLargeToHold { .. }) => ProblemType::ImageTooLargeToHold,
            Self::Segment(SegmentError::Unsupported(_)) => ProblemType::UnsupportedByModel,
            Self::Segment(
                SegmentError::Field(_)
                | SegmentError::InputTooLarge(_)
                | SegmentError::UnsuitableInput(_)
                | SegmentError::Cost(_),
            ) => ProblemType::InvalidRequest,
            Self::Segment(SegmentError::Overloaded { .. }) => ProblemType::Overloaded,
            Self::Segment(SegmentError::DeadlineExceeded { .. }) => ProblemType::DeadlineExceeded,
            Self::NotReady { .. } | Self::Segment(SegmentError::Unavailable(_)) => ProblemType::Unavailable,
            Self::Segment(SegmentError::ModelUnavailable { .. }) => ProblemType::ModelUnavailable,
            Self::Internal(_) | Self::Segment(SegmentError::Internal(_)) => ProblemType::Internal,
        }
    }

    /// The setting that was exceeded.
    fn limit(&self) -> Option<Limit> {
        match self {
            Self::Invalid { limit, .. } => limit.clone(),
            Self::RequestTooLarge { limit } => Some(Limit::whole("limits.max_request_bytes", *limit as u64)),
            Self::Segment(SegmentError::Field(error)) => error.limit().map(Limit::from),
            Self::Segment(SegmentError::Image(DecodeError::TooManyPixels { limit, .. })) => {
                Some(Limit::whole("limits.max_image_pixels", *limit))
            }
            Self::Segment(SegmentError::InputTooLarge(error)) => {
                Some(Limit::whole("limits.max_input_pixels", error.limit))
            }
            Self::Segment(SegmentError::Cost(error)) => cost_limit(error),
            Self::Segment(SegmentError::ImageTooLargeToHold { limit, .. }) => {
                Some(Limit::whole("images.held_bytes", *limit))
            }
            Self::Segment(SegmentError::Overloaded { capacity }) => {
                Some(Limit::whole("engine.queue_capacity", *capacity as u64))
            }
            Self::Vocabulary(error) | Self::Segment(SegmentError::Vocabulary(error)) => vocabulary_limit(error),
            _ => None,
        }
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

    /// What the caller is told; the request's id is still missing.
    fn problem(&self) -> Problem {
        let kind = self.kind();
        Problem {
            kind,
            title: kind.title(),
            status: kind.status().as_u16(),
            detail: (kind != ProblemType::Internal).then(|| self.detail()),
            instance: None,
            path: match self {
                Self::Invalid { path, .. } => path.clone(),
                // Two fields, one of which is missing.
                Self::Segment(SegmentError::Field(error)) if error.field() == Field::Vocabulary => None,
                Self::Segment(SegmentError::Field(error)) => Some(error.field().path()),
                Self::Segment(SegmentError::UnknownModel { .. }) => Some("model".to_owned()),
                Self::Segment(SegmentError::UnsuitableInput(_)) => Some("attention".to_owned()),
                Self::Vocabulary(VocabularyError::InvalidName { .. }) => Some("name".to_owned()),
                Self::Vocabulary(VocabularyError::Invalid(ClassListError::OptionRange { option, .. })) => {
                    Some(format!("options.{option}"))
                }
                Self::Segment(SegmentError::Cost(error)) => Some(cost_path(error).to_owned()),
                _ => None,
            },
            limit: self.limit(),
            models: match self {
                Self::NotReady { models, .. } => Some(models.clone()),
                _ => None,
            },
        }
    }

    /// The seconds after which a repeat may succeed.
    fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::Segment(SegmentError::ModelUnavailable { next_attempt, .. }) => {
                Some((next_attempt.as_secs_f64().ceil() as u64).max(RETRY_AFTER_SECONDS))
            }
            Self::Segment(SegmentError::Overloaded { .. } | SegmentError::DeadlineExceeded { .. }) => {
                Some(RETRY_AFTER_SECONDS)
            }
            Self::Vocabulary(VocabularyError::StoreBusy { .. }) => Some(RETRY_AFTER_SECONDS),
            _ => None,
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

/// The setting that scales, windows or a refinement exceeded.
fn cost_limit(error: &CostError) -> Option<Limit> {
    match error {
        CostError::TooManyWindows { limit, .. } => Some(Limit::whole("limits.max_windows", *limit as u64)),
        CostError::PairedCells { limit, .. } => Some(Limit::whole("limits.max_paired_cells", *limit as u64)),
        CostError::InputPixels { limit, .. } => Some(Limit::whole("limits.max_input_pixels", *limit)),
        CostError::ScaledShortSide { limit, .. } => Some(Limit::whole("limits.max_short_side", (*limit).into())),
        CostError::Refinement { limit, .. } => Some(Limit::whole("limits.max_refinement_bytes", *limit)),
        _ => None,
    }
}

/// The field that asked for too much.
fn cost_path(error: &CostError) -> &'static str {
    match error {
        CostError::SmallWindow { .. } => "window.side",
        CostError::Refinement { .. } => "refinement",
        CostError::PairedCells { .. } => "attention",
        CostError::ScaledShortSide { .. } => "scales",
        CostError::InputPixels { sizes, .. } if sizes.0.len() > 1 => "scales",
        _ => "window",
    }
}

/// The setting that a class list or the number of vocabularies exceeded.
fn vocabulary_limit(error: &VocabularyError) -> Option<Limit> {
    let (name, limit) = match error {
        VocabularyError::TooManyBytes { limit, .. } => {
            return Some(Limit::whole("vocabulary.definitions_bytes", *limit));
        }
        VocabularyError::StoreBusy { waited, .. } => {
            return Some(Limit::fractional("vocabulary.store_wait_seconds", waited.as_secs_f64()));
        }
        VocabularyError::TooMany { limit } => ("limits.max_vocabularies", limit),
        VocabularyError::Invalid(ClassListError::TooManyClasses { limit, .. }) => ("limits.max_classes", limit),
        VocabularyError::Invalid(ClassListError::TooManySynonyms { limit, .. }) => ("limits.max_synonyms", limit),
        VocabularyError::Invalid(ClassListError::TooManyBackgroundNames { limit, .. }) => {
            ("limits.max_background_names", limit)
        }
        VocabularyError::Invalid(ClassListError::NameTooLong { limit, .. }) => ("limits.max_name_characters", limit),
        VocabularyError::Invalid(ClassListError::TooManyBytes { limit, .. }) => ("limits.max_vocabulary_bytes", limit),
        _ => return None,
    };
    Some(Limit::whole(name, *limit as u64))
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.problem();
        if problem.kind == ProblemType::Internal {
            tracing::error!(error = %self, "internal error");
        }
        let mut response = problem.kind.status().into_response();
        if let Some(seconds) = self.retry_after_seconds() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(problem);
        response
    }
}
