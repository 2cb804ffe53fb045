//! The settings that the engine obeys.

use serde::{Deserialize, Serialize};

use super::{DefaultSettings, InputLimits};
use crate::support::{OutOfRange, at_least_one, in_range};
use crate::vocabulary::{VocabularyLimits, VocabularySettings};

/// All settings of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSettings {
    /// Queue, workers, deadlines.
    pub queue: QueueSettings,
    /// What is kept of images.
    pub images: ImageSettings,
    /// Bounds on images and on what the model computes for a request.
    pub input_limits: InputLimits,
    /// Bounds on class lists and vocabularies.
    pub vocabulary_limits: VocabularyLimits,
    /// The embedding store, the recent class lists and the shipped background names.
    pub vocabulary: VocabularySettings,
    /// Values of request fields that a request leaves out.
    pub defaults: DefaultSettings,
}

impl EngineSettings {
    /// The same settings for an engine that is asked about each image once, or timed: nothing of an image is kept.
    pub fn without_images(self) -> Self {
        Self {
            images: ImageSettings {
                cache_bytes: 0,
                held_bytes: 0,
                ..self.images
            },
            ..self
        }
    }
}

/// Queue, workers, deadlines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSettings {
    /// Requests that may be in the engine, waiting or running; more are answered 429.
    pub queue_capacity: usize,
    /// Worker threads, each with the model of its own.
    pub workers: usize,
    /// Images that may pass through a model together, 1 for none.
    pub max_batch: usize,
    /// Seconds a request may take when it names no deadline.
    pub default_deadline_seconds: f64,
    /// The longest deadline a request may name, in seconds.
    pub max_deadline_seconds: f64,
}

impl QueueSettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        at_least_one("engine.queue_capacity", self.queue_capacity as u64)?;
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

/// What is kept of images between requests, in memory alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSettings {
    /// Bytes of features that models made of images, 0 to keep none; the least recently used go first.
    pub cache_bytes: u64,
    /// Bytes of encoded images that `POST /v1/images` holds; the least recently used go first.
    pub held_bytes: u64,
    /// Seconds for which each of these is held.
    pub keep_seconds: f64,
}

impl ImageSettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        in_range(
            "images.keep_seconds",
            self.keep_seconds > 0.0 && self.keep_seconds <= 86400.0,
            self.keep_seconds,
            "above 0 and at most 86400",
        )
    }
}
