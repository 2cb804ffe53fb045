//! The stages of a request.

/// The stages of a request whose time is measured, in the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Every stage, in order.
    pub const ALL: [Self; 7] = [
        Self::Decode,
        Self::Preprocess,
        Self::Text,
        Self::Queue,
        Self::Model,
        Self::LabelMap,
        Self::Encode,
    ];

    /// Returns the stage's name in metrics. The timings of a reply add `_seconds` to it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Preprocess => "preprocess",
            Self::Text => "text",
            Self::Queue => "queue",
            Self::Model => "model",
            Self::LabelMap => "label_map",
            Self::Encode => "encode",
        }
    }
}
