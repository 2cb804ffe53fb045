//! The section `limits`: one list of keys whose limits belong to several rooms.

use serde::{Deserialize, Serialize};

use crate::engine::InputLimits;
use crate::support::{OutOfRange, at_least_one};
use crate::vocabulary::VocabularyLimits;

/// Limits on requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "LimitKeys", into = "LimitKeys")]
pub struct LimitsSettings {
    /// Largest number of bytes in a request's body.
    pub max_request_bytes: usize,
    /// Largest number of values in a JSON body.
    pub max_json_values: usize,
    /// Largest number of bytes in a labelling configuration of Label Studio.
    pub max_label_config_bytes: usize,
    /// Largest number of images in a batch.
    pub max_batch_images: usize,
    /// Limits on class lists and vocabularies.
    pub vocabulary: VocabularyLimits,
    /// Limits on images and on the model's work for a request.
    pub input: InputLimits,
}

impl LimitsSettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
    pub(super) fn check(&self) -> Result<(), OutOfRange> {
        at_least_one("limits.max_request_bytes", self.max_request_bytes as u64)?;
        at_least_one("limits.max_json_values", self.max_json_values as u64)?;
        at_least_one("limits.max_label_config_bytes", self.max_label_config_bytes as u64)?;
        at_least_one("limits.max_batch_images", self.max_batch_images as u64)?;
        self.vocabulary.check()?;
        self.input.check()
    }
}

/// The keys of the section, without the rooms' structs.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitKeys {
    max_request_bytes: usize,
    max_json_values: usize,
    max_label_config_bytes: usize,
    max_batch_images: usize,
    max_image_pixels: u64,
    max_classes: usize,
    max_synonyms: usize,
    max_name_characters: usize,
    max_background_names: usize,
    max_vocabulary_bytes: usize,
    max_vocabularies: usize,
    max_short_side: u32,
    max_scales: usize,
    max_input_pixels: u64,
    max_windows: usize,
    max_paired_cells: usize,
    max_refinement_bytes: u64,
    max_score_bytes: u64,
    max_pixel_texts: u64,
    max_raw_pixels: u64,
    max_polygon_corners: u64,
    max_confidence_pixels: u64,
    max_probability_bytes: u64,
    max_embedding_inputs: usize,
    max_embedding_characters: usize,
}

impl From<LimitKeys> for LimitsSettings {
    fn from(keys: LimitKeys) -> Self {
        Self {
            max_request_bytes: keys.max_request_bytes,
            max_json_values: keys.max_json_values,
            max_label_config_bytes: keys.max_label_config_bytes,
            max_batch_images: keys.max_batch_images,
            vocabulary: VocabularyLimits {
                max_classes: keys.max_classes,
                max_synonyms: keys.max_synonyms,
                max_name_characters: keys.max_name_characters,
                max_background_names: keys.max_background_names,
                max_vocabulary_bytes: keys.max_vocabulary_bytes,
                max_vocabularies: keys.max_vocabularies,
            },
            input: InputLimits {
                max_image_pixels: keys.max_image_pixels,
                max_short_side: keys.max_short_side,
                max_scales: keys.max_scales,
                max_input_pixels: keys.max_input_pixels,
                max_windows: keys.max_windows,
                max_paired_cells: keys.max_paired_cells,
                max_refinement_bytes: keys.max_refinement_bytes,
                max_score_bytes: keys.max_score_bytes,
                max_pixel_texts: keys.max_pixel_texts,
                max_raw_pixels: keys.max_raw_pixels,
                max_polygon_corners: keys.max_polygon_corners,
                max_confidence_pixels: keys.max_confidence_pixels,
                max_probability_bytes: keys.max_probability_bytes,
                max_embedding_inputs: keys.max_embedding_inputs,
                max_embedding_characters: keys.max_embedding_characters,
            },
        }
    }
}

impl From<LimitsSettings> for LimitKeys {
    fn from(limits: LimitsSettings) -> Self {
        let LimitsSettings {
            max_request_bytes,
            max_json_values,
            max_label_config_bytes,
            max_batch_images,
            vocabulary,
            input,
        } = limits;
        Self {
            max_request_bytes,
            max_json_values,
            max_label_config_bytes,
            max_batch_images,
            max_image_pixels: input.max_image_pixels,
            max_classes: vocabulary.max_classes,
            max_synonyms: vocabulary.max_synonyms,
            max_name_characters: vocabulary.max_name_characters,
            max_background_names: vocabulary.max_background_names,
            max_vocabulary_bytes: vocabulary.max_vocabulary_bytes,
            max_vocabularies: vocabulary.max_vocabularies,
            max_short_side: input.max_short_side,
            max_scales: input.max_scales,
            max_input_pixels: input.max_input_pixels,
            max_windows: input.max_windows,
            max_paired_cells: input.max_paired_cells,
            max_refinement_bytes: input.max_refinement_bytes,
            max_score_bytes: input.max_score_bytes,
            max_pixel_texts: input.max_pixel_texts,
            max_raw_pixels: input.max_raw_pixels,
            max_polygon_corners: input.max_polygon_corners,
            max_confidence_pixels: input.max_confidence_pixels,
            max_probability_bytes: input.max_probability_bytes,
            max_embedding_inputs: input.max_embedding_inputs,
            max_embedding_characters: input.max_embedding_characters,
        }
    }
}
