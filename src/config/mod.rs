//! Every setting of the program: the sections of all rooms, filled from the compiled-in defaults, a file, the environment and flags,
//! in that order, and checked once.
//!
//! Nobody else reads settings from the environment. `config/default.yaml` explains each key; what a section holds is declared by
//! the room that obeys it.

mod limits;
mod load;

pub use limits::LimitsSettings;
pub use load::ConfigError;

use serde::{Deserialize, Serialize};

use crate::api::ServerSettings;
use crate::engine::{DefaultSettings, EngineSettings, ImageSettings, QueueSettings};
use crate::models::{AskedModels, ModelEntry, ModelSettings, one_or_several};
use crate::support::{OutOfRange, in_range};
use crate::telemetry::TelemetrySettings;
use crate::vocabulary::VocabularySettings;
use crate::weights::FetchSettings;

/// All settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listening socket and the life of the process.
    pub server: ServerSettings,
    /// What requests may ask for.
    pub limits: LimitsSettings,
    /// Device and precision, for all models.
    pub model: ModelSettings,
    /// The models; requests that name none get the first.
    #[serde(deserialize_with = "one_or_several")]
    pub models: Vec<ModelEntry>,
    /// Getting weights.
    pub fetch: FetchSettings,
    /// Queue, workers, deadlines.
    pub engine: QueueSettings,
    /// What is kept of images.
    pub images: ImageSettings,
    /// The store of text embeddings and the recent class lists.
    pub vocabulary: VocabularySettings,
    /// Values of request fields that a request leaves out.
    pub defaults: DefaultSettings,
    /// Logs.
    pub telemetry: TelemetrySettings,
}

impl Config {
    /// Checks what types alone cannot: ranges, and settings that depend on each other.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        self.server.check()?;
        self.limits.check()?;
        in_range("models", !self.models.is_empty(), "an empty list", "at least one model")?;
        self.fetch.check()?;
        self.engine.check()?;
        self.images.check()?;
        self.vocabulary.check(&self.limits.vocabulary)?;
        self.defaults.check(&self.limits.input)
    }

    /// The models that the settings ask for.
    pub fn asked_models(&self) -> AskedModels<'_> {
        AskedModels {
            entries: &self.models,
            common: &self.model,
            workers: self.engine.workers,
        }
    }

    /// The settings that the engine obeys.
    pub fn engine_settings(&self) -> EngineSettings {
        EngineSettings {
            queue: self.engine.clone(),
            images: self.images.clone(),
            input_limits: self.limits.input.clone(),
            vocabulary_limits: self.limits.vocabulary.clone(),
            vocabulary: self.vocabulary.clone(),
            defaults: self.defaults.clone(),
        }
    }
}
