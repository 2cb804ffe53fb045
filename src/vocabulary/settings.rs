//! The settings of vocabularies: their bounds, the store of text embeddings, the shipped background names.

use serde::{Deserialize, Serialize};

use super::StorePath;
use crate::support::{OutOfRange, at_least_one, in_range};

/// Bounds on class lists and named vocabularies. The error that a bound causes names its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VocabularyLimits {
    /// `limits.max_classes`: classes of one request or vocabulary, at most 65535.
    pub max_classes: usize,
    /// `limits.max_synonyms`: synonyms of one class.
    pub max_synonyms: usize,
    /// `limits.max_name_characters`: characters of a class name or synonym.
    pub max_name_characters: usize,
    /// `limits.max_background_names`: names in the background list of a request.
    pub max_background_names: usize,
    /// `limits.max_vocabularies`: named vocabularies beside the shipped ones.
    pub max_vocabularies: usize,
}

impl VocabularyLimits {
    /// Bounds that no test comes near unless it means to.
    #[cfg(test)]
    pub(crate) fn for_testing() -> Self {
        Self {
            max_classes: 1000,
            max_synonyms: 32,
            max_name_characters: 200,
            max_background_names: 100,
            max_vocabularies: 100,
        }
    }

    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        in_range(
            "limits.max_classes",
            (1..=65535).contains(&self.max_classes),
            self.max_classes,
            "1 to 65535",
        )?;
        at_least_one("limits.max_name_characters", self.max_name_characters as u64)
    }
}

/// Text-embedding store and recent class lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VocabularySettings {
    /// Bytes of text embeddings held in memory; the least recently used go first.
    pub cache_bytes: u64,
    /// Where text embeddings and named vocabularies outlive the process.
    pub store_path: StorePath,
    /// Bytes of the file there; the least recently used embeddings go first.
    pub store_bytes: u64,
    /// Recent class lists that `GET /v1/vocabularies?kind=recent` remembers.
    pub recent_lists: usize,
    /// Names that compete with the classes when a request says `background: true`.
    pub background: Vec<String>,
}

impl VocabularySettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self, limits: &VocabularyLimits) -> Result<(), OutOfRange> {
        at_least_one("vocabulary.cache_bytes", self.cache_bytes)?;
        at_least_one("vocabulary.store_bytes", self.store_bytes)?;
        in_range(
            "vocabulary.background",
            self.background.len() <= limits.max_background_names,
            format!("{} names", self.background.len()),
            &format!(
                "at most limits.max_background_names = {} names",
                limits.max_background_names
            ),
        )
    }
}
