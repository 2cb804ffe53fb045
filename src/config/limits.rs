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

/// Declares the keys of the section, and in which struct each of them belongs.
macro_rules! limit_keys {
    (
        LimitsSettings { $($own:ident: $own_type:ty,)* }
        $($part:ident: $limits:ident { $($key:ident: $type:ty,)* })*
    ) => {
        /// The keys of the section, without the rooms' structs. serde's `flatten` would let unknown keys pass.
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct LimitKeys {
            $($own: $own_type,)*
            $($($key: $type,)*)*
        }

        impl From<LimitKeys> for LimitsSettings {
            fn from(keys: LimitKeys) -> Self {
                Self {
                    $($own: keys.$own,)*
                    $($part: $limits { $($key: keys.$key,)* },)*
                }
            }
        }

        impl From<LimitsSettings> for LimitKeys {
            fn from(limits: LimitsSettings) -> Self {
                Self {
                    $($own: limits.$own,)*
                    $($($key: limits.$part.$key,)*)*
                }
            }
        }
    };
}

limit_keys! {
    LimitsSettings {
        max_request_bytes: usize,
        max_json_values: usize,
        max_label_config_bytes: usize,
        max_batch_images: usize,
    }
    vocabulary: VocabularyLimits {
        max_classes: usize,
        max_synonyms: usize,
        max_name_characters: usize,
        max_background_names: usize,
        max_vocabulary_bytes: usize,
        max_vocabularies: usize,
    }
    input: InputLimits {
        max_image_pixels: u64,
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
}
