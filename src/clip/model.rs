//! A whole CLIP model: both towers and the tokenizer, every tensor of the checkpoint used.

use super::{CheckpointError, ModelConfig, TextTower, Tokenizer, VisualTower, Weights};

/// A CLIP model.
#[derive(Debug)]
pub struct Clip {
    /// The image half.
    pub visual: VisualTower,
    /// The text half.
    pub text: TextTower,
    /// Text to the ids the text half reads.
    pub tokenizer: Tokenizer,
    /// SHA-256 of the checkpoint's bytes, lower-case hexadecimal.
    pub weights_sha256: String,
}

impl Clip {
    /// Takes every tensor of a checkpoint.
    ///
    /// # Errors
    /// When a tensor is missing, does not fit the others, or is left over.
    pub fn load(mut weights: Weights, config: &ModelConfig) -> Result<Self, CheckpointError> {
        let visual = VisualTower::load(&mut weights, config)?;
        let text = TextTower::load(&mut weights, config.activation, config.text_head_width)?;
        // The scale CLIP was trained to multiply cosines with. Requests choose theirs: `temperature`.
        drop(weights.take("logit_scale", &[])?);
        let weights_sha256 = weights.sha256().to_owned();
        weights.finish()?;
        let tokenizer = Tokenizer::new(text.context_length());
        Ok(Self {
            visual,
            text,
            tokenizer,
            weights_sha256,
        })
    }
}
