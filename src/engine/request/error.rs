//! Why a request to the engine has no result.

use std::time::Duration;

use super::field_error::FieldError;
use crate::dense::DenseError;
use crate::engine::cost::CostError;
use crate::engine::model_state::ModelState;
use crate::image::{DecodeError, InputTooLarge};
use crate::shared::SharedError;
use crate::support::{ExceededLimit, excerpt};
use crate::vocabulary::{TooManyWaiting, VocabularyError};

/// Why a request to the engine has no result: to label, to classify, to embed, to hold an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A field is missing, out of its range, or contradicts another field.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The image was refused.
    #[error(transparent)]
    Image(#[from] DecodeError),
    /// The vocabulary was refused or does not exist.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// The model's input would be too large.
    #[error(transparent)]
    InputTooLarge(#[from] InputTooLarge),
    /// The request would cost the model too much work.
    #[error(transparent)]
    Cost(#[from] CostError),
    /// The attention is not defined on the model's input for this image.
    #[error(transparent)]
    UnsuitableInput(#[from] DenseError),
    /// The request names a model that is not served.
    #[error("no model is called {:?}; there {}", excerpt(asked), list(served))]
    UnknownModel {
        /// The name in the request.
        asked: String,
        /// The names of the served models.
        served: Vec<String>,
    },
    /// The model does not support an option of the request. The text says what it does support.
    #[error("{0}")]
    Unsupported(String),
    /// No image is held under the id: it never existed, has expired, was deleted, or made room for others.
    #[error(
        "no image is held under this id: there never was one, or it has expired, been deleted, or made room for others, or the \
         replica that holds it cannot be asked; send the image again"
    )]
    ImageNotHeld,
    /// No image is held under the id here, and other replicas' cannot be asked for.
    #[error(
        "no image is held under this id on this replica, and others cannot be asked for it, because {0}; send the image again"
    )]
    ImageNotKnown(SharedError),
    /// What was dropped here may still be held by other replicas, which cannot be told now.
    #[error("the image is dropped on this replica; others may hold it until it expires, because {0}")]
    NotShared(SharedError),
    /// The image alone needs more bytes than all held images may have.
    #[error("holding the image takes {bytes} bytes, more than images.held_bytes = {limit}")]
    ImageTooLargeToHold {
        /// Bytes that the image would need.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The engine holds as many requests as it may.
    #[error("the engine holds {capacity} requests already, as many as engine.queue_capacity allows")]
    Overloaded {
        /// Number of requests that the engine can hold.
        capacity: usize,
        /// Seconds after which a repeat is worth a try, at least 1.
        retry_seconds: u64,
    },
    /// The caller's requests take the caller's share of the slots.
    #[error(
        "{held} requests of this key wait or run; no key may have more than are left for all, of engine.queue_capacity = \
         {capacity}"
    )]
    ShareTaken {
        /// Requests of the caller that the engine holds.
        held: usize,
        /// Number of requests that the engine can hold.
        capacity: usize,
        /// Seconds after which a repeat is worth a try, at least 1.
        retry_seconds: u64,
    },
    /// There is no room for the request's body.
    #[error("the bodies of all requests together would have more than engine.body_bytes = {limit} bytes")]
    BodyBytes {
        /// The limit in bytes.
        limit: u64,
    },
    /// More texts would wait to be embedded than may.
    #[error("{error}")]
    TooManyTexts {
        /// How many texts there are, and the limit.
        error: TooManyWaiting,
        /// Seconds after which a repeat is worth a try, at least 1.
        retry_seconds: u64,
    },
    /// By the measured times of the model, the request's new texts cannot be embedded before its deadline.
    #[error(
        "embedding {texts} new texts takes about {seconds:.1} s, and the deadline leaves {left:.1} s; define a vocabulary of \
         them first, or name a longer deadline_seconds"
    )]
    TooManyNewTexts {
        /// The number of new texts.
        texts: usize,
        /// Seconds that embedding them takes.
        seconds: f64,
        /// Seconds until the deadline.
        left: f64,
    },
    /// By the measured times of the model, it cannot do the request's work before the deadline.
    #[error(
        "the model takes about {seconds:.1} s for this request, and the deadline leaves {left:.1} s; a smaller image, fewer \
         classes or no refinement take less, or name a longer deadline_seconds"
    )]
    TooMuchWork {
        /// Seconds that the model takes.
        seconds: f64,
        /// Seconds until the deadline.
        left: f64,
    },
    /// By the measured times of the model, the request would not get its turn before its deadline.
    #[error("the work ahead of this request takes about {seconds:.1} s, and the deadline leaves {left:.1} s")]
    TooBusy {
        /// Seconds until the request would be answered.
        seconds: f64,
        /// Seconds until the deadline.
        left: f64,
        /// Seconds after which a repeat is worth a try, at least 1.
        retry_seconds: u64,
    },
    /// The deadline passed first. Text embeddings that were computed by then are kept.
    #[error("the deadline passed after {seconds} s in stage {stage}")]
    DeadlineExceeded {
        /// Seconds since the engine took the request.
        seconds: f64,
        /// The stage that the request was in.
        stage: &'static str,
    },
    /// The server is shutting down.
    #[error("{0}")]
    Unavailable(&'static str),
    /// No worker has the model. Other models may answer.
    #[error("{}", model_unavailable(model, *state, *next_attempt))]
    ModelUnavailable {
        /// The model's name in requests.
        model: String,
        /// The model's state.
        state: ModelState,
        /// How long until the next attempt to load the model. Zero while it is being loaded.
        next_attempt: Duration,
    },
    /// An internal failure. The log has the details.
    #[error("internal error: {0}")]
    Internal(String),
}

impl EngineError {
    /// Returns the limit in the settings that the request exceeds, if it exceeds one.
    pub fn limit(&self) -> Option<ExceededLimit> {
        let (key, limit) = match self {
            Self::Field(error) => return error.limit(),
            Self::Vocabulary(error) => return error.limit(),
            Self::Cost(error) => return error.limit(),
            Self::Image(DecodeError::TooManyPixels { limit, .. }) => ("limits.max_image_pixels", *limit),
            Self::InputTooLarge(error) => ("limits.max_input_pixels", error.limit),
            Self::ImageTooLargeToHold { limit, .. } => ("images.held_bytes", *limit),
            Self::Overloaded { capacity, .. } | Self::ShareTaken { capacity, .. } => {
                ("engine.queue_capacity", *capacity as u64)
            }
            Self::BodyBytes { limit } => ("engine.body_bytes", *limit),
            Self::TooManyTexts { error, .. } => ("engine.max_waiting_texts", error.limit as u64),
            Self::Image(_)
            | Self::UnsuitableInput(_)
            | Self::UnknownModel { .. }
            | Self::Unsupported(_)
            | Self::ImageNotHeld
            | Self::ImageNotKnown(_)
            | Self::NotShared(_)
            | Self::TooManyNewTexts { .. }
            | Self::TooMuchWork { .. }
            | Self::TooBusy { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Unavailable(_)
            | Self::ModelUnavailable { .. }
            | Self::Internal(_) => return None,
        };
        Some(ExceededLimit::whole(key, limit))
    }
}

fn model_unavailable(model: &str, state: ModelState, next_attempt: Duration) -> String {
    match state {
        ModelState::Starting => format!("the model {model} is being loaded"),
        ModelState::Ready | ModelState::Recovering => {
            format!("the model {model} is being loaded again after a failure")
        }
        ModelState::Failed => format!(
            "the model {model} cannot be loaded; the next attempt is in {:.1} s",
            next_attempt.as_secs_f64()
        ),
    }
}

/// Returns "is demo" for one name, "are demo, fruit" for several.
fn list(names: &[String]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{verb} {}", names.join(", "))
}
