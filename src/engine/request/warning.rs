//! Warnings that come with a result.

use crate::vocabulary::ClassListAdvice;

/// A warning that comes with a result: a stable code and a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The kind of warning. A code never changes its meaning.
    pub code: WarningCode,
    /// What the warning means for this request.
    pub message: String,
}

impl From<ClassListAdvice> for Warning {
    fn from(advice: ClassListAdvice) -> Self {
        let code = match &advice {
            ClassListAdvice::SingleClass { .. } => WarningCode::SingleClass,
            ClassListAdvice::NoBackground => WarningCode::NoBackground,
            ClassListAdvice::Duplicate { .. } => WarningCode::DuplicateClass,
            ClassListAdvice::CommasInOnlyName { .. } => WarningCode::CommasInName,
            ClassListAdvice::NumberedNames { .. } => WarningCode::NumberedNames,
            ClassListAdvice::SignsInNames { .. } => WarningCode::SignsInNames,
            ClassListAdvice::UnknownWords { .. } => WarningCode::UnknownWord,
            ClassListAdvice::TextTruncated { .. } => WarningCode::TextTruncated,
        };
        Self {
            code,
            message: advice.to_string(),
        }
    }
}

/// The kind of a [`Warning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::VariantArray, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
pub enum WarningCode {
    /// The list has one class and no background, so every pixel gets this class with probability 1.
    SingleClass,
    /// No class covers the surroundings of the others, and the request neither asked for a background nor declined it.
    NoBackground,
    /// A name or synonym is listed twice.
    DuplicateClass,
    /// The only class, or the only background name, has commas in it.
    CommasInName,
    /// Names begin with numbers, as in a numbered list.
    NumberedNames,
    /// Names have signs around them that lists in JSON, CSV, YAML or a label map have.
    SignsInNames,
    /// A class has words that do not occur in the model's training captions.
    UnknownWord,
    /// A name is too long for the model and lost its end.
    TextTruncated,
    /// Prompt denoising would have dropped every class, so it was not applied.
    DenoisingDroppedAll,
}

impl WarningCode {
    /// Returns the code as it stands in replies.
    pub fn name(self) -> &'static str {
        self.into()
    }
}
