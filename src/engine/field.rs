//! The fields of a request, by name.

/// Names a field of a request, for error messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// What the last attention computes.
    Attention,
    /// The share of the foreground at which a small class is dropped.
    BackgroundArea,
    /// The probability below which a pixel is background.
    BackgroundThreshold,
    /// The classes, as many as there are.
    Classes,
    /// Seconds after which the caller no longer needs the answer.
    DeadlineSeconds,
    /// The image.
    Image,
    /// Key smoothing.
    KeySmoothing,
    /// Threshold of key smoothing.
    KeySmoothingThreshold,
    /// The colours of classes in the label map.
    OutputColors,
    /// Whether there is a confidence map.
    OutputConfidenceMap,
    /// The form of the label map.
    OutputLabelMap,
    /// The class at this index among those whose probability maps are wanted.
    OutputProbabilityMap(usize),
    /// The classes whose probability maps are wanted.
    OutputProbabilityMaps,
    /// The value of unlabelled pixels in the label map.
    OutputUnlabelled,
    /// Pixels of a point from the image's left edge.
    PointX,
    /// Pixels of a point from the image's top edge.
    PointY,
    /// Prompt denoising threshold.
    PromptDenoising,
    /// The published test protocol.
    Protocol,
    /// How scores are refined at the image's size.
    Refinement,
    /// The scale at this index.
    Scale(usize),
    /// The list of scales.
    Scales,
    /// Short side of the model's input.
    ShortSide,
    /// Factor on cosines before the softmax.
    Temperature,
    /// The classes to look for.
    Vocabulary,
    /// Windows over the model's input.
    Window,
    /// Side of a window.
    WindowSide,
    /// Pixels from one window to the next.
    WindowStride,
}

impl Field {
    /// Returns the field's path in a request, such as `scales[1]`.
    pub fn path(self) -> String {
        let path = match self {
            Self::Attention => "attention",
            Self::BackgroundArea => "background.area",
            Self::BackgroundThreshold => "background.threshold",
            Self::Classes => "classes",
            Self::DeadlineSeconds => "deadline_seconds",
            Self::Image => "image",
            Self::KeySmoothing => "key_smoothing",
            Self::KeySmoothingThreshold => "key_smoothing.threshold",
            Self::OutputColors => "output.colors",
            Self::OutputConfidenceMap => "output.confidence_map",
            Self::OutputLabelMap => "output.label_map",
            Self::OutputProbabilityMap(index) => return format!("output.probability_maps[{index}]"),
            Self::OutputProbabilityMaps => "output.probability_maps",
            Self::OutputUnlabelled => "output.unlabelled",
            Self::PointX => "x",
            Self::PointY => "y",
            Self::PromptDenoising => "prompt_denoising",
            Self::Protocol => "protocol",
            Self::Refinement => "refinement",
            Self::Scale(index) => return format!("scales[{index}]"),
            Self::Scales => "scales",
            Self::ShortSide => "short_side",
            Self::Temperature => "temperature",
            Self::Vocabulary => "vocabulary",
            Self::Window => "window",
            Self::WindowSide => "window.side",
            Self::WindowStride => "window.stride",
        };
        path.to_owned()
    }
}
