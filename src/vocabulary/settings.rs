//! The settings of vocabularies: their limits, the store of text embeddings, the shipped background names.

use serde::{Deserialize, Serialize};

use super::StorePath;
use crate::support::{OutOfRange, at_least_one, in_range};

/// Limits on class lists and named vocabularies. An error about a limit names its settings key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VocabularyLimits {
    /// `limits.max_classes`: largest number of classes in a request or vocabulary, at most 65535.
    pub max_classes: usize,
    /// `limits.max_synonyms`: largest number of synonyms of one class.
    pub max_synonyms: usize,
    /// `limits.max_name_characters`: largest number of characters in a class name or synonym.
    pub max_name_characters: usize,
    /// `limits.max_background_names`: largest number of background names in a request.
    pub max_background_names: usize,
    /// `limits.max_vocabularies`: largest number of named vocabularies besides the shipped ones.
    pub max_vocabularies: usize,
}

impl VocabularyLimits {
    /// Returns limits that tests reach only on purpose.
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

    /// Returns the number of texts of the largest class list.
    pub(crate) fn max_texts(&self) -> usize {
        let of_classes = self.max_classes.saturating_mul(self.max_synonyms.saturating_add(1));
        of_classes.saturating_add(self.max_background_names)
    }

    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
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

/// The settings of the store of text embeddings and of recent class lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VocabularySettings {
    /// Bytes of text embeddings held in memory. The least recently used are dropped first.
    pub cache_bytes: u64,
    /// The file in which text embeddings and named vocabularies outlive the process.
    pub store_path: StorePath,
    /// Largest size of that file in bytes. The least recently used embeddings are dropped first.
    pub store_bytes: u64,
    /// Number of recent class lists that `GET /v1/vocabularies?kind=recent` returns at most.
    pub recent_lists: usize,
    /// Background names for requests that say `background: true`.
    pub background: Vec<String>,
}

impl VocabularySettings {
    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
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
