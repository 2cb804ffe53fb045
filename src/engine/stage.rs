//! The stages of a request.

use strum::{IntoStaticStr, VariantArray};

/// The parts of a request's time, in the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Stage {
    /// Bytes to pixels.
    Decode,
    /// Resize and normalisation.
    Preprocess,
    /// Text embeddings that were not held yet.
    Text,
    /// Waiting for a worker.
    Queue,
    /// The visual tower and the scores.
    Model,
    /// Scores to labels at image size.
    LabelMap,
    /// Writing the label map and the confidence map.
    Encode,
}

impl Stage {
    /// The name in metrics, and with `_seconds` behind it in the timings of a reply.
    pub fn name(self) -> &'static str {
        self.into()
    }
}
