//! All settings of the program. The sections of all rooms are filled from the compiled-in defaults, a file, the
//! environment and flags, in that order, and checked once.
//!
//! No other room reads settings from the environment. `config/default.yaml` explains each key. The room that uses a
//! section declares its struct.

mod available_memory;
mod fit;
mod limits;
mod load;
mod memory;

pub use fit::Lowered;
pub use limits::LimitsSettings;
pub use load::ConfigError;
pub use memory::{MemorySettings, MemorySum, TooMuchMemory};

use serde::{Deserialize, Serialize};

use crate::access::AccessSettings;
use crate::api::ServerSettings;
use crate::engine::{DefaultSettings, EngineSettings, ImageSettings, QueueSettings};
use crate::models::{AskedModels, ModelEntry, ModelSettings, one_or_several};
use crate::shared::SharedSettings;
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
    /// API keys.
    pub access: AccessSettings,
    /// Limits on requests.
    pub limits: LimitsSettings,
    /// Device and precision of all models.
    pub model: ModelSettings,
    /// The served models. Requests that name no model go to the first.
    #[serde(deserialize_with = "one_or_several")]
    pub models: Vec<ModelEntry>,
    /// Download of weights.
    pub fetch: FetchSettings,
    /// Queue, workers and deadlines.
    pub engine: QueueSettings,
    /// What the engine keeps of images between requests.
    pub images: ImageSettings,
    /// The store of text embeddings and the recent class lists.
    pub vocabulary: VocabularySettings,
    /// What all replicas have in common.
    pub shared: SharedSettings,
    /// The default values of request fields.
    pub defaults: DefaultSettings,
    /// The memory that the process may take.
    pub memory: MemorySettings,
    /// Logs, traces and metrics.
    pub telemetry: TelemetrySettings,
}

impl Config {
    /// Checks what types alone cannot: ranges, and settings that depend on each other.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        self.server.check()?;
        self.access.check()?;
        self.limits.check()?;
        self.model.check()?;
        in_range("models", !self.models.is_empty(), "an empty list", "at least one model")?;
        self.fetch.check()?;
        self.engine.check(&self.limits.vocabulary)?;
        self.images.check()?;
        self.vocabulary.check(&self.limits.vocabulary)?;
        self.shared.check()?;
        self.defaults.check(&self.limits.input)?;
        self.telemetry.check()
    }

    /// Returns the models that the settings ask for.
    pub fn asked_models(&self) -> AskedModels<'_> {
        AskedModels {
            entries: &self.models,
            common: &self.model,
            workers: self.engine.workers,
        }
    }

    /// Returns the engine's settings.
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
