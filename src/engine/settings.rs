//! The engine's settings.

use serde::{Deserialize, Serialize};

use super::{DefaultSettings, InputLimits};
use crate::support::{OutOfRange, at_least_one, in_range};
use crate::vocabulary::{VocabularyLimits, VocabularySettings};

/// All settings of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSettings {
    /// Queue, workers, deadlines.
    pub queue: QueueSettings,
    /// What the engine keeps of images between requests.
    pub images: ImageSettings,
    /// Limits on images and on the model's work for a request.
    pub input_limits: InputLimits,
    /// Limits on class lists and vocabularies.
    pub vocabulary_limits: VocabularyLimits,
    /// The embedding store, the recent class lists and the shipped background names.
    pub vocabulary: VocabularySettings,
    /// The default values of request fields.
    pub defaults: DefaultSettings,
}

impl EngineSettings {
    /// Returns the same settings for the engine of a command. It keeps nothing of images, because it sees each image
    /// once, or is timed. Its results do not travel, so no limit is on their size.
    pub fn for_commands(self) -> Self {
        Self {
            images: ImageSettings {
                cache_bytes: 0,
                held_bytes: 0,
                ..self.images
            },
            input_limits: InputLimits {
                max_raw_pixels: u64::MAX,
                max_polygon_corners: u64::MAX,
                max_confidence_pixels: u64::MAX,
                max_probability_bytes: u64::MAX,
                ..self.input_limits
            },
            ..self
        }
    }
}

/// Queue, workers, deadlines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    /// Requests that may be in the engine at once, waiting or running. Further requests get status 429.
    pub queue_capacity: usize,
    /// Bytes of request bodies that may be read or worked on at once. Further bodies get status 429.
    pub body_bytes: u64,
    /// Bytes that requests may take at once for pixels, scores, label maps and replies. Further requests wait for them.
    pub work_bytes: u64,
    /// Texts that may wait to be embedded at once, for all requests and vocabularies together.
    pub max_waiting_texts: usize,
    /// Worker threads per model. Each has a copy of the model.
    pub workers: usize,
    /// How many models must answer so that the server counts as ready.
    pub ready_when: ReadyWhen,
    /// Images that may pass through a model together; 1 turns batching off.
    pub max_batch: usize,
    /// Seconds that a request without a deadline may take.
    pub default_deadline_seconds: f64,
    /// The longest deadline that a request may name, in seconds.
    pub max_deadline_seconds: f64,
}

/// How many models must answer so that the server counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadyWhen {
    /// Every model.
    All,
    /// At least one.
    Any,
}

impl QueueSettings {
    /// Checks the range of every value. `vocabulary` are the limits on a class list, all of which must find room.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
    pub fn check(&self, vocabulary: &VocabularyLimits) -> Result<(), OutOfRange> {
        at_least_one("engine.queue_capacity", self.queue_capacity as u64)?;
        at_least_one("engine.body_bytes", self.body_bytes)?;
        at_least_one("engine.work_bytes", self.work_bytes)?;
        let texts = vocabulary.max_texts();
        in_range(
            "engine.max_waiting_texts",
            self.max_waiting_texts >= texts,
            self.max_waiting_texts,
            &format!(
                "at least limits.max_classes * (1 + limits.max_synonyms) + limits.max_background_names = {texts}, the \
                 texts of the largest class list"
            ),
        )?;
        at_least_one("engine.max_batch", self.max_batch as u64)?;
        at_least_one("engine.workers", self.workers as u64)?;
        let longest = self.max_deadline_seconds;
        in_range(
            "engine.max_deadline_seconds",
            longest > 0.0 && longest <= 86400.0,
            longest,
            "above 0 and at most 86400",
        )?;
        in_range(
            "engine.default_deadline_seconds",
            self.default_deadline_seconds > 0.0 && self.default_deadline_seconds <= longest,
            self.default_deadline_seconds,
            &format!("above 0 and at most engine.max_deadline_seconds = {longest}"),
        )
    }
}

/// What the engine keeps of images between requests, in memory only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSettings {
    /// Bytes for cached image features; 0 keeps none. The least recently used are dropped first.
    pub cache_bytes: u64,
    /// Bytes for encoded images held by `POST /v1/images`. The least recently used are dropped first.
    pub held_bytes: u64,
    /// Seconds that each encoded image is held.
    pub keep_seconds: f64,
}

impl ImageSettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        in_range(
            "images.keep_seconds",
            self.keep_seconds > 0.0 && self.keep_seconds <= 86400.0,
            self.keep_seconds,
            "above 0 and at most 86400",
        )
    }
}
