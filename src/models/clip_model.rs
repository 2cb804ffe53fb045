//! A CLIP model: its files, and how a worker loads it.

use std::fmt;

use tch::Kind;

use super::labeller::NetworkLabeller;
use super::options_file::OptionsFile;
use super::place::Place;
use super::source::{ClipSource, ModelError};
use super::text_encoder::TextEncoder;
use crate::clip::{Clip, ModelConfig, VisualTower, Weights, checkpoint};
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
        let (weights, config, options) = self.read()?;
        let precision = self.place.clip_precision;
        let clip = Clip::load(weights.in_kind(precision.kind()), &config).map_err(|error| self.failed(&error))?;
        let embedded = match &self.source {
            ClipSource::Embedded(model) => Some(model),
            ClipSource::Path(_) => None,
        };
        let info = ModelInfo {
            name: self.source.model_name(),
            architecture: clip.visual.architecture(),
            weights_sha256: clip.weights_sha256,
            precision,
            text_variant: config.text_variant(),
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

    /// Reads the weights, the configuration and the options. The weights come first: if the file holds none, a missing
    /// configuration beside it is not the error to report.
    fn read(&self) -> Result<(Weights, ModelConfig, OptionsFile), LabellerError> {
        let device = self.place.device;
        match &self.source {
            ClipSource::Embedded(model) => Ok((
                Weights::from_bytes(model.weights, device, Kind::Float).map_err(|error| self.failed(&error))?,
                ModelConfig::parse(model.config).map_err(|error| self.failed(&error))?,
                OptionsFile::parse(model.options).map_err(|error| self.failed(&error))?,
            )),
            ClipSource::Path(path) => {
                let weights = Weights::load(path, device, Kind::Float).map_err(|error| self.failed(&error))?;
                let config = ModelConfig::find(weights.format(), path).map_err(|error| self.failed(&error))?;
                let file = checkpoint::weights_file(path).map_err(|error| self.failed(&error))?;
                Ok((weights, config, OptionsFile::beside(&file)?))
            }
        }
    }

    fn failed(&self, reason: &dyn fmt::Display) -> LabellerError {
        LabellerError::Load(format!("{}: {reason}", self.source))
    }
}

/// Returns a learned scale as a default that a request might name, too.
fn usable_temperature(learned: f32) -> f32 {
    match learned > 0.0 {
        true => learned.min(MAX_TEMPERATURE),
        false => CLIP_TEMPERATURE,
    }
}
