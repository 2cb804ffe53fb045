//! What is wrong with a field of a request, in words for whoever named the field.

use std::fmt;

use crate::engine::Field;
use crate::support::{ExceededLimit, excerpt};

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
            Self::Stride { .. }
            | Self::FormulaAtScales
            | Self::ThresholdWithoutReference
            | Self::NoVocabulary
            | Self::UnknownClass { .. } => None,
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
