//! A CLIP model: its files, and how a worker loads it.

use tch::Kind;

use super::labeller::NetworkLabeller;
use super::options_file::OptionsFile;
use super::place::Place;
use super::source::{ClipSource, ModelError};
use super::text_encoder::TextEncoder;
use crate::clip::{self, Clip, VisualTower, Weights, checkpoint};
use crate::dense::{self, MAX_TEMPERATURE, Refinement};
use crate::image::Normalisation;
use crate::labeller::{CLIP_TEMPERATURE, LabellerError, ModelInfo, ModelOptions};

/// Short side of the input in pixels for models without a file of options.
const SHORT_SIDE: u32 = 448;

/// A loaded CLIP, on one thread.
pub type ClipLabeller = NetworkLabeller<VisualTower>;

/// A CLIP whose files have been found. Each worker loads it.
#[derive(Debug, Clone)]
pub struct ClipModel {
    pub(super) source: ClipSource,
    pub(super) place: Place,
}

impl ClipModel {
    /// Returns the model's own name, which an alias may replace.
    pub fn name(&self) -> String {
        self.source.model_name()
    }

    /// Returns the bytes of the files with the weights.
    ///
    /// # Errors
    /// [`ModelError::NoWeights`] when they cannot be read.
    pub(super) fn file_bytes(&self) -> Result<u64, ModelError> {
        Ok(self.source.file_bytes()?)
    }

    /// Loads the model. Every call loads it again.
    ///
    /// # Errors
    /// [`LabellerError::Load`] when the weights or the configuration cannot be used.
    pub fn load(&self) -> Result<ClipLabeller, LabellerError> {
        self.place.prepare();
        let failed = |reason: &dyn std::fmt::Display| LabellerError::Load(format!("{}: {reason}", self.source));
        // Loads the weights first: if the file holds none, a missing configuration beside it is not the error to
        // report.
        let (weights, config, options) = match &self.source {
            ClipSource::Embedded(model) => (
                Weights::from_bytes(model.weights, self.place.device, Kind::Float).map_err(|error| failed(&error))?,
                clip::ModelConfig::parse(model.config).map_err(|error| failed(&error))?,
                OptionsFile::parse(model.options).map_err(|error| failed(&error))?,
            ),
            ClipSource::Path(path) => {
                let weights = Weights::load(path, self.place.device, Kind::Float).map_err(|error| failed(&error))?;
                let config = clip::ModelConfig::find(weights.format(), path).map_err(|error| failed(&error))?;
                let file = checkpoint::weights_file(path).map_err(|error| failed(&error))?;
                (weights, config, OptionsFile::beside(&file)?)
            }
        };
        let precision = self.place.clip_precision;
        let clip = Clip::load(weights.in_kind(precision.kind()), &config).map_err(|error| failed(&error))?;
        let embedded = match &self.source {
            ClipSource::Embedded(model) => Some(model),
            ClipSource::Path(_) => None,
        };
        let info = ModelInfo {
            name: self.source.model_name(),
            architecture: clip.visual.architecture(),
            weights_sha256: clip.weights_sha256,
            precision,
            device: self.place.device_name(),
            embedding_dimension: clip.text.embedding_dimension(),
            patch_pixels: u32::try_from(clip.visual.patch_pixels()).expect("a patch's side in pixels fits 32 bits"),
            options: options.or(ModelOptions {
                short_side: SHORT_SIDE,
                scales: vec![1.0],
                temperature: usable_temperature(clip.temperature),
                refinement: Refinement::None,
            }),
            training_side: Some(
                u32::try_from(clip.visual.training_pixels()).expect("the side of an image in pixels fits 32 bits"),
            ),
            normalisation: Normalisation {
                mean: config.mean.unwrap_or(Normalisation::CLIP.mean),
                std: config.std.unwrap_or(Normalisation::CLIP.std),
            },
            attentions: dense::attentions(&clip.visual).to_vec(),
            training_words: embedded.map(|model| model.training_words.lines().map(str::to_owned).collect()),
            embedded: embedded.is_some(),
            student: None,
        };
        Ok(ClipLabeller {
            input: (clip.visual.device(), clip.visual.kind()),
            network: clip.visual,
            texts: TextEncoder {
                tower: clip.text,
                tokenizer: clip.tokenizer,
            },
            learned_background: None,
            info,
        })
    }
}

/// Returns a learned scale as a default that a request might name, too.
fn usable_temperature(learned: f32) -> f32 {
    match learned > 0.0 {
        true => learned.min(MAX_TEMPERATURE),
        false => CLIP_TEMPERATURE,
    }
}
