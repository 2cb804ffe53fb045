//! A whole CLIP model: both towers and the tokenizer. Loading one uses every tensor of the checkpoint.

use tch::Kind;

use super::{CheckpointError, ModelConfig, TextTower, Tokenizer, VisualTower, Weights};

/// A CLIP model: two towers that map images and texts into one embedding space.
#[derive(Debug)]
pub struct Clip {
    /// The tower that encodes images.
    pub visual: VisualTower,
    /// The tower that encodes texts.
    pub text: TextTower,
    /// Turns a text into the token ids that [`Clip::text`] reads.
    pub tokenizer: Tokenizer,
    /// The scale that cosines were multiplied by in training, `exp(logit_scale)`.
    pub temperature: f32,
    /// SHA-256 of the checkpoint's bytes, in lower-case hexadecimal.
    pub weights_sha256: String,
}

impl Clip {
    /// Builds the model from a checkpoint and takes every tensor of it.
    ///
    /// # Errors
    /// Fails when a tensor is missing, does not fit the others, is left over, or holds no usable values.
    pub fn load(mut weights: Weights, config: &ModelConfig) -> Result<Self, CheckpointError> {
        let visual = VisualTower::load(&mut weights, config)?;
        let text = TextTower::load(&mut weights, config.activation, config.text_head_width)?;
        // In 32 bits whatever the model computes in, so that probabilities do not depend on the precision.
        let scale = weights
            .take_as("logit_scale", &[], Kind::Float)?
            .double_value(&[])
            .exp();
        // CLIP keeps the scale at 100 or below, where its float32 logarithm is not exact.
        let temperature = ((scale * 1000.0).round() / 1000.0) as f32;
        let weights_sha256 = weights.sha256().to_owned();
        weights.finish()?;
        let tokenizer = Tokenizer::new(text.context_length());
        Ok(Self {
            visual,
            text,
            tokenizer,
            temperature,
            weights_sha256,
        })
    }
}
