//! The default values of request fields.

use serde::{Deserialize, Serialize};

use super::InputLimits;
use crate::dense::{Attention, KeySmoothingMethod, MAX_TEMPERATURE, Refinement, Window};
use crate::image::Resize;
use crate::support::{OutOfRange, in_range};
use crate::vocabulary::{Synonyms, TemplateSet, VocabularyOptions};

/// The default values of request fields. A request that leaves a field out gets the value here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultSettings {
    /// The set of prompt templates.
    pub templates: TemplateSet,
    /// How the scores of a class's synonyms are combined.
    pub synonyms: Synonyms,
    /// What the last attention of the visual tower computes.
    pub attention: Attention,
    /// Factor on cosines before the softmax; 0 means the scale that the model learned.
    pub temperature: f32,
    /// Prompt denoising threshold, 0 to 1; 0 turns denoising off.
    pub prompt_denoising: f32,
    /// Key smoothing. `reference` smooths every position.
    pub key_smoothing: KeySmoothingMethod,
    /// A pixel whose best class probability is below this share is background, 0 to 1; 0 turns the threshold off.
    pub background_threshold: f32,
    /// A class that covers at most this share of the foreground is dropped, 0 to 1; 0 keeps all classes.
    pub background_area: f64,
    /// Short side of the model's input in pixels; 0 means the model's own.
    pub short_side: u32,
    /// Factors on the short side. The image is scored at each of these sizes. Empty for the model's own.
    pub scales: Vec<f64>,
    /// How the image is resized to the model's input.
    pub resize: Resize,
    /// Windows over the model's input. Without windows the model sees the input as a whole.
    pub window: Option<Window>,
    /// How scores are refined at the image's size; `None` for the model's own.
    pub refinement: Option<Refinement>,
}

impl DefaultSettings {
    /// Returns these defaults, overridden by the options that a vocabulary sets.
    pub fn with(&self, options: &VocabularyOptions) -> Self {
        Self {
            templates: options.templates.unwrap_or(self.templates),
            synonyms: options.synonyms.unwrap_or(self.synonyms),
            prompt_denoising: options.prompt_denoising.unwrap_or(self.prompt_denoising),
            background_threshold: options.background_threshold.unwrap_or(self.background_threshold),
            background_area: options.background_area.unwrap_or(self.background_area),
            ..self.clone()
        }
    }

    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
    pub fn check(&self, limits: &InputLimits) -> Result<(), OutOfRange> {
        in_range(
            "defaults.temperature",
            (0.0..=MAX_TEMPERATURE).contains(&self.temperature),
            self.temperature,
            &format!("0 to {MAX_TEMPERATURE}"),
        )?;
        for (key, share) in [
            ("defaults.prompt_denoising", f64::from(self.prompt_denoising)),
            ("defaults.background_threshold", f64::from(self.background_threshold)),
            ("defaults.background_area", self.background_area),
        ] {
            in_range(key, (0.0..=1.0).contains(&share), share, "0 to 1")?;
        }
        in_range(
            "defaults.short_side",
            self.short_side <= limits.max_short_side,
            self.short_side,
            &format!("at most limits.max_short_side = {}", limits.max_short_side),
        )?;
        in_range(
            "defaults.scales",
            self.scales.len() <= limits.max_scales,
            format!("{} of them", self.scales.len()),
            &format!("at most limits.max_scales = {} of them", limits.max_scales),
        )?;
        for &scale in &self.scales {
            in_range("defaults.scales", scale > 0.0 && scale.is_finite(), scale, "above 0")?;
        }
        in_range(
            "defaults.scales",
            self.scales.len() <= 1 || self.key_smoothing != KeySmoothingMethod::Formula,
            format!("{} of them", self.scales.len()),
            "a single scale if defaults.key_smoothing is formula",
        )?;
        if let Some(Window { side, stride }) = self.window {
            in_range("defaults.window.side", side >= 1, side, "at least 1")?;
            in_range(
                "defaults.window.stride",
                (1..=side).contains(&stride),
                stride,
                &format!("1 to defaults.window.side = {side}"),
            )?;
        }
        Ok(())
    }
}
