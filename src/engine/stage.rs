//! The stages of a request.

use strum::{IntoStaticStr, VariantArray};

/// The stages of a request whose time is measured, in the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Stage {
    /// Decodes the image's bytes to pixels.
    Decode,
    /// Resizes and normalises the pixels.
    Preprocess,
    /// Computes the text embeddings that are not cached.
    Text,
    /// Waits for a worker.
    Queue,
    /// Runs the visual tower and computes the scores.
    Model,
    /// Turns scores into labels at the image's size.
    LabelMap,
    /// Encodes the label map and the confidence map.
    Encode,
}

impl Stage {
    /// Returns the stage's name in metrics. The timings of a reply add `_seconds` to it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the name of the field that has the stage's seconds in the span of a request.
    pub(super) fn seconds_field(self) -> &'static str {
        match self {
            Self::Decode => "decode_seconds",
            Self::Preprocess => "preprocess_seconds",
            Self::Text => "text_seconds",
            Self::Queue => "queue_seconds",
            Self::Model => "model_seconds",
            Self::LabelMap => "label_map_seconds",
            Self::Encode => "encode_seconds",
        }
    }
}
