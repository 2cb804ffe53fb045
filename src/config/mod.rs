//! Every setting of the server: one struct per concern, filled from the compiled-in defaults, a
//! file, the environment and flags, in that order, and validated once.
//!
//! Nobody else reads the environment. `config/default.yaml` explains each key.

mod defaults;
mod load;
mod models;
mod protocols;
mod store_path;

pub use defaults::DefaultsConfig;
pub use load::ConfigError;
pub use models::{ModelConfig, ModelEntry};
pub use protocols::{Protocol, ProtocolData, ProtocolMethod};
pub use store_path::StorePath;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use crate::engine::Precision;

/// All settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listening socket and the life of the process.
    pub server: ServerConfig,
    /// What requests may ask for.
    pub limits: LimitsConfig,
    /// Device and precision, for all models.
    pub model: ModelConfig,
    /// The models; requests that name none get the first.
    #[serde(deserialize_with = "models::one_or_several")]
    pub models: Vec<ModelEntry>,
    /// Getting weights.
    pub fetch: FetchConfig,
    /// Queue, workers, deadlines.
    pub engine: EngineConfig,
    /// What is kept of images.
    pub images: ImagesConfig,
    /// Text-embedding store and recent class lists.
    pub vocabulary: VocabularyConfig,
    /// Values of request fields that a request leaves out.
    pub defaults: DefaultsConfig,
    /// Logs.
    pub telemetry: TelemetryConfig,
}

/// The listening socket and the life of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Seconds in which requests may finish after SIGTERM or SIGINT.
    pub drain_seconds: f64,
}

/// What requests may ask for. Each limit is named in the error that it causes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Limits)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    /// Bytes of a request's body.
    pub max_request_bytes: usize,
    /// Width times height of an image, read from its header before anything is allocated.
    pub max_image_pixels: u64,
    /// Classes of one request or vocabulary, at most 65535.
    pub max_classes: usize,
    /// Synonyms of one class.
    pub max_synonyms: usize,
    /// Characters of a class name or synonym.
    pub max_name_characters: usize,
    /// Names in a request's background list.
    pub max_background_names: usize,
    /// Named vocabularies beside the shipped ones.
    pub max_vocabularies: usize,
    /// Short side of the model's input in pixels, at every scale.
    pub max_short_side: u32,
    /// Scales of one request.
    pub max_scales: usize,
    /// Pixels of the model's input, width times height; of all scales and windows together.
    pub max_input_pixels: u64,
    /// Windows of one request, at all scales.
    pub max_windows: usize,
    /// Cells of an input or a window for attentions that compare every two of them: `naclip`, `sc-clip`, `resclip` and
    /// `resclip-repaired`.
    pub max_paired_cells: usize,
    /// Bytes that refining one request's scores at the image's size may take.
    pub max_refinement_bytes: u64,
}

/// Getting weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchConfig {
    /// Never use the network.
    pub offline: bool,
    /// The Hugging Face hub, or a mirror of it.
    pub hub: Url,
    /// A PEM file of certificate authorities to trust instead of the compiled-in ones.
    pub certificates: Option<PathBuf>,
}

/// `auto`, `cpu` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// CUDA device 0 where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by its index; the start fails where there is none.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("{text:?} is not a device: auto, cpu or cuda:N")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(index) => write!(formatter, "cuda:{index}"),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(device: DeviceChoice) -> Self {
        device.to_string()
    }
}

/// `auto`, `float32`, `bfloat16` or `float16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PrecisionChoice {
    /// What suits the device: float32 on a CPU, float16 on CUDA.
    #[default]
    Auto,
    /// This one.
    Fixed(Precision),
}

impl FromStr for PrecisionChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        [Precision::Float32, Precision::Bfloat16, Precision::Float16]
            .into_iter()
            .find(|precision| precision.name() == text)
            .map(Self::Fixed)
            .ok_or_else(|| format!("{text:?} is not a precision: auto, float32, bfloat16 or float16"))
    }
}

impl TryFrom<String> for PrecisionChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PrecisionChoice> for String {
    fn from(choice: PrecisionChoice) -> Self {
        match choice {
            PrecisionChoice::Auto => "auto".to_owned(),
            PrecisionChoice::Fixed(precision) => precision.name().to_owned(),
        }
    }
}

/// Queue, workers, deadlines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
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

/// What is kept of images between requests, in memory alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesConfig {
    /// Bytes of features that models made of images, 0 to keep none; the least recently used go first.
    pub cache_bytes: u64,
    /// Bytes of encoded images that `POST /v1/images` holds; the least recently used go first.
    pub held_bytes: u64,
    /// Seconds for which each of these is held.
    pub keep_seconds: f64,
}

/// Text-embedding store and recent class lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VocabularyConfig {
    /// Bytes of text embeddings held in memory; the least recently used go first.
    pub cache_bytes: u64,
    /// Where text embeddings and named vocabularies outlive the process.
    pub store_path: StorePath,
    /// Bytes of the file there; the least recently used embeddings go first.
    pub store_bytes: u64,
    /// Recent class lists that `GET /v1/vocabularies?kind=recent` remembers.
    pub recent_lists: usize,
    /// Names that compete with the classes when a request says `background: true`.
    pub background: Vec<String>,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// A tracing filter, as in `info,maskclip=debug`.
    pub log_filter: String,
    /// Form of the log lines.
    pub log_format: LogFormat,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Checks what types alone cannot: ranges, and settings that depend on each other.
    ///
    /// # Errors
    /// On the first value outside its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Self {
            server,
            limits,
            model: _,
            models,
            fetch,
            engine,
            images,
            vocabulary,
            defaults,
            telemetry: _,
        } = self;
        let at_least_one = |key, value: u64| in_range(key, value >= 1, value, "at least 1");
        let longest = engine.max_deadline_seconds;

        in_range(
            "server.drain_seconds",
            (0.0..=86400.0).contains(&server.drain_seconds),
            server.drain_seconds,
            "0 to 86400",
        )?;
        at_least_one("limits.max_request_bytes", limits.max_request_bytes as u64)?;
        at_least_one("limits.max_image_pixels", limits.max_image_pixels)?;
        in_range(
            "limits.max_classes",
            (1..=65535).contains(&limits.max_classes),
            limits.max_classes,
            "1 to 65535",
        )?;
        at_least_one("limits.max_name_characters", limits.max_name_characters as u64)?;
        at_least_one("limits.max_short_side", limits.max_short_side.into())?;
        at_least_one("limits.max_scales", limits.max_scales as u64)?;
        at_least_one("limits.max_input_pixels", limits.max_input_pixels)?;
        at_least_one("limits.max_windows", limits.max_windows as u64)?;
        at_least_one("limits.max_paired_cells", limits.max_paired_cells as u64)?;
        in_range("models", !models.is_empty(), "an empty list", "at least one model")?;
        in_range(
            "fetch.hub",
            matches!(fetch.hub.scheme(), "http" | "https"),
            &fetch.hub,
            "an http or https address",
        )?;
        at_least_one("engine.queue_capacity", engine.queue_capacity as u64)?;
        at_least_one("engine.max_batch", engine.max_batch as u64)?;
        at_least_one("engine.workers", engine.workers as u64)?;
        in_range(
            "engine.max_deadline_seconds",
            longest > 0.0 && longest <= 86400.0,
            longest,
            "above 0 and at most 86400",
        )?;
        in_range(
            "engine.default_deadline_seconds",
            engine.default_deadline_seconds > 0.0 && engine.default_deadline_seconds <= longest,
            engine.default_deadline_seconds,
            &format!("above 0 and at most engine.max_deadline_seconds = {longest}"),
        )?;
        in_range(
            "images.keep_seconds",
            images.keep_seconds > 0.0 && images.keep_seconds <= 86400.0,
            images.keep_seconds,
            "above 0 and at most 86400",
        )?;
        at_least_one("vocabulary.cache_bytes", vocabulary.cache_bytes)?;
        at_least_one("vocabulary.store_bytes", vocabulary.store_bytes)?;
        in_range(
            "vocabulary.background",
            vocabulary.background.len() <= limits.max_background_names,
            format!("{} names", vocabulary.background.len()),
            &format!(
                "at most limits.max_background_names = {} names",
                limits.max_background_names
            ),
        )?;
        defaults.validate(limits)
    }
}

fn in_range(key: &'static str, holds: bool, value: impl fmt::Display, range: &str) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::Value {
        key,
        requirement: format!("must be {range}, is {value}"),
    })
}
