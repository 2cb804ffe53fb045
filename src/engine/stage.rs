//! The stages of a request.

/// The parts of a request's time, in the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    /// The name in metrics, and with `_seconds` behind it in the timings of a reply.
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
