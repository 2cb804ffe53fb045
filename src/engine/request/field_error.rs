//! What is wrong with a field of a request, in words for whoever named the field.

use std::fmt;

use crate::support::excerpt;

/// Names a field of a request, for error messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// What the last attention computes.
    Attention,
    /// The share of the foreground at which a small class is dropped.
    BackgroundArea,
    /// The probability below which a pixel is background.
    BackgroundThreshold,
    /// Seconds after which the caller no longer needs the answer.
    DeadlineSeconds,
    /// Key smoothing.
    KeySmoothing,
    /// Threshold of key smoothing.
    KeySmoothingThreshold,
    /// The colours of classes in the label map.
    OutputColors,
    /// The class at this index among those whose probability maps are wanted.
    OutputProbabilityMap(usize),
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
    /// Side of a window.
    WindowSide,
    /// Pixels from one window to the next.
    WindowStride,
}

/// A limit in the settings that a field exceeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExceededLimit {
    /// The limit's settings key.
    pub key: &'static str,
    /// The limit's value.
    pub value: LimitValue,
}

/// The value of a limit, in the unit that its key names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LimitValue {
    /// A whole number, such as a count or a number of pixels.
    Whole(u64),
    /// A fractional number, such as seconds.
    Fractional(f64),
}

/// A request field is missing, out of its range, or contradicts another field.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldError {
    /// The value is outside its range.
    OutOfRange {
        /// The field.
        field: Field,
        /// The allowed values, in words.
        range: String,
        /// The given value, in words.
        value: String,
        /// The limit in the settings that the value exceeds, if it exceeds one.
        limit: Option<ExceededLimit>,
    },
    /// The stride is larger than the window, which would skip pixels, or 0, which would not move.
    Stride {
        /// Side of a window in pixels.
        side: u32,
        /// The given stride in pixels.
        stride: u32,
    },
    /// Formula key smoothing at several scales. The formula sums over the cells of one input, and such sums have no
    /// mean over several scales.
    FormulaAtScales,
    /// A threshold with a key smoothing method that has none.
    ThresholdWithoutReference,
    /// The request names no classes, no vocabulary and no protocol.
    NoVocabulary,
    /// A probability map is wanted of what is none of the classes.
    UnknownClass {
        /// The index of the name among those that the request gives.
        index: usize,
        /// The name.
        name: String,
    },
}

impl FieldError {
    /// Returns the field at fault.
    pub fn field(&self) -> Field {
        match self {
            Self::OutOfRange { field, .. } => *field,
            Self::Stride { .. } => Field::WindowStride,
            Self::FormulaAtScales => Field::KeySmoothing,
            Self::ThresholdWithoutReference => Field::KeySmoothingThreshold,
            Self::NoVocabulary => Field::Vocabulary,
            Self::UnknownClass { index, .. } => Field::OutputProbabilityMap(*index),
        }
    }

    /// Returns the limit in the settings that the field exceeds, if it exceeds one.
    pub fn limit(&self) -> Option<ExceededLimit> {
        match self {
            Self::OutOfRange { limit, .. } => *limit,
            _ => None,
        }
    }

    /// Returns the error text. `name` returns the caller's word for a field.
    pub fn message(&self, name: impl Fn(Field) -> String) -> String {
        match self {
            Self::OutOfRange {
                field: Field::Scale(_),
                range,
                value,
                ..
            } => format!("a scale must be {range}, not {value}"),
            Self::OutOfRange {
                field, range, value, ..
            } => format!("{} must be {range}, not {value}", name(*field)),
            Self::Stride { side, stride } => format!(
                "{} must be 1 to {} = {side} pixels, not {stride}",
                name(Field::WindowStride),
                name(Field::WindowSide)
            ),
            Self::FormulaAtScales => {
                "formula sums over the cells of one input, and such sums have no mean over several scales; \
                                      use another method or a single scale"
                    .to_owned()
            }
            Self::ThresholdWithoutReference => "only the method reference has a threshold".to_owned(),
            Self::NoVocabulary => "one of classes, vocabulary and protocol is required".to_owned(),
            Self::UnknownClass { name, .. } => format!("{:?} is none of the classes", excerpt(name)),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message(|field| field.path()))
    }
}

impl std::error::Error for FieldError {}

impl Field {
    /// Returns the field's path in a request, such as `scales[1]`.
    pub fn path(self) -> String {
        let path = match self {
            Self::Attention => "attention",
            Self::BackgroundArea => "background.area",
            Self::BackgroundThreshold => "background.threshold",
            Self::DeadlineSeconds => "deadline_seconds",
            Self::KeySmoothing => "key_smoothing",
            Self::KeySmoothingThreshold => "key_smoothing.threshold",
            Self::OutputColors => "output.colors",
            Self::OutputProbabilityMap(index) => return format!("output.probability_maps[{index}]"),
            Self::OutputUnlabelled => "output.unlabelled",
            Self::PointX => "x",
            Self::PointY => "y",
            Self::PromptDenoising => "prompt_denoising",
            Self::Protocol => "protocol",
            Self::Scale(index) => return format!("scales[{index}]"),
            Self::Scales => "scales",
            Self::ShortSide => "short_side",
            Self::Temperature => "temperature",
            Self::Vocabulary => "vocabulary",
            Self::WindowSide => "window.side",
            Self::WindowStride => "window.stride",
        };
        path.to_owned()
    }
}
