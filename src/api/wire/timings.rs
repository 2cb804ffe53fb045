//! Where the time of a request went.

use serde::Serialize;
use utoipa::ToSchema;

use crate::engine;

/// Seconds per stage, named as the metrics name them; 0 for a stage that was not needed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Timings {
    /// Waiting for a worker.
    pub queue_seconds: f64,
    /// Bytes to pixels.
    pub decode_seconds: f64,
    /// Resize and normalisation.
    pub preprocess_seconds: f64,
    /// Text embeddings that were not held yet.
    pub text_seconds: f64,
    /// The visual tower and the scores.
    pub model_seconds: f64,
    /// Scores to labels at image size.
    pub label_map_seconds: f64,
    /// Writing the label map, the confidence map and the probability maps.
    pub encode_seconds: f64,
}

impl From<engine::Timings> for Timings {
    fn from(timings: engine::Timings) -> Self {
        let engine::Timings {
            queue_seconds,
            decode_seconds,
            preprocess_seconds,
            text_seconds,
            model_seconds,
            label_map_seconds,
            encode_seconds,
        } = timings;
        Self {
            queue_seconds,
            decode_seconds,
            preprocess_seconds,
            text_seconds,
            model_seconds,
            label_map_seconds,
            encode_seconds,
        }
    }
}
