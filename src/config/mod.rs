//! Every setting of the server: one struct per concern, filled from the compiled-in defaults, a
//! file, the environment and flags, in that order, and validated once.
//!
//! Nobody else reads the environment. `config/default.yaml` explains each key.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::dense::Attention;
use crate::vocabulary::TemplateSet;

/// All settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The listening socket and the life of the process.
    pub server: ServerConfig,
    /// What requests may ask for.
    pub limits: LimitsConfig,
    /// Weights, device, precision.
    pub model: ModelConfig,
    /// Queue, workers, deadlines.
    pub engine: EngineConfig,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Short side of the model's input in pixels.
    pub max_short_side: u32,
    /// Pixels of the model's input, width times height.
    pub max_input_pixels: u64,
}

/// Weights, device, precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// `demo` for the embedded model, or the path of a checkpoint.
    pub name: String,
    /// Where it runs: `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Element type: `auto`, `float32`, `bfloat16` or `float16`.
    pub precision: String,
    /// libtorch's threads per worker; 0 takes the cgroup's quota.
    pub threads: usize,
}

/// Queue, workers, deadlines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// Requests that may be in the engine, waiting or running; more are answered 429.
    pub queue_capacity: usize,
    /// Worker threads, each with the model of its own.
    pub workers: usize,
    /// Seconds a request may take when it names no deadline.
    pub default_deadline_seconds: f64,
    /// The longest deadline a request may name, in seconds.
    pub max_deadline_seconds: f64,
}

/// Text-embedding store and recent class lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VocabularyConfig {
    /// Bytes of text embeddings held in memory; the least recently used go first.
    pub cache_bytes: u64,
    /// Recent class lists that `GET /v1/vocabularies?kind=recent` remembers.
    pub recent_lists: usize,
    /// Names that compete with the classes when a request says `background: true`.
    pub background: Vec<String>,
}

/// Values of request fields that a request leaves out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultsConfig {
    /// Prompt templates.
    pub templates: TemplateSet,
    /// The last attention.
    pub attention: Attention,
    /// Factor on cosines before the softmax.
    pub temperature: f32,
    /// Prompt denoising threshold, 0 for off.
    pub prompt_denoising: f32,
    /// Short side of the model's input in pixels; 0 takes the model's own.
    pub short_side: u32,
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

