//! The settings of vocabularies: their limits, the store of text embeddings, the shipped background names.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EmbedAhead, StorePath};
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
    /// `limits.max_vocabulary_bytes`: largest number of bytes of all names of a class list.
    pub max_vocabulary_bytes: usize,
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
            max_vocabulary_bytes: 1 << 20,
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
        at_least_one("limits.max_name_characters", self.max_name_characters as u64)?;
        at_least_one("limits.max_vocabulary_bytes", self.max_vocabulary_bytes as u64)
    }
}

/// What the definitions of clients may take, and how long a change waits.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistryLimits {
    /// `limits.max_vocabularies`: largest number of vocabularies besides the shipped ones.
    pub max_vocabularies: usize,
    /// `vocabulary.definitions_bytes`: largest sum of the bytes of these vocabularies.
    pub definitions_bytes: u64,
    /// `vocabulary.store_wait_seconds`: how long a change waits for another process that holds the store on disk.
    pub wait: Duration,
    /// The limits on a definition that another replica has shared.
    pub definition: VocabularyLimits,
}

impl RegistryLimits {
    /// Returns limits that tests reach only on purpose.
    #[cfg(test)]
    pub(crate) fn for_testing() -> Self {
        Self {
            max_vocabularies: 100,
            definitions_bytes: 1 << 30,
            wait: Duration::from_secs(60),
            definition: VocabularyLimits::for_testing(),
        }
    }
}

/// The settings of the store of text embeddings and of recent class lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VocabularySettings {
    /// Bytes of text embeddings held in memory. The least recently used are dropped first.
    pub cache_bytes: u64,
    /// The file in which named vocabularies outlive the process. Text embeddings lie in a file next to it.
    pub store_path: StorePath,
    /// Largest size of the file of embeddings with its log in bytes. The least recently used are dropped first.
    pub store_bytes: u64,
    /// Seconds that a change of a named vocabulary waits for others that hold the store, 0 to 60.
    pub store_wait_seconds: f64,
    /// Largest number of bytes that the definitions of all named vocabularies besides the shipped ones take in memory.
    pub definitions_bytes: u64,
    /// Whether each API key's client has named vocabularies of its own. Otherwise they are common.
    pub per_key: bool,
    /// Number of recent class lists that `GET /v1/vocabularies?kind=recent` returns at most.
    pub recent_lists: usize,
    /// Bytes of recent class lists in memory. The least recently used are dropped first.
    pub recent_bytes: u64,
    /// Background names for requests that say `background: true`.
    pub background: Vec<String>,
    /// The shipped texts that are embedded before anybody asks for them.
    pub embed_ahead: EmbedAhead,
}

/// The longest time that a change may wait for others, so that waiting changes do not pile up.
const MAX_STORE_WAIT_SECONDS: f64 = 60.0;

impl VocabularySettings {
    /// Returns the limits of the named vocabularies.
    pub fn registry_limits(&self, limits: &VocabularyLimits) -> RegistryLimits {
        RegistryLimits {
            max_vocabularies: limits.max_vocabularies,
            definitions_bytes: self.definitions_bytes,
            wait: Duration::from_secs_f64(self.store_wait_seconds),
            definition: limits.clone(),
        }
    }

    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
    pub fn check(&self, limits: &VocabularyLimits) -> Result<(), OutOfRange> {
        at_least_one("vocabulary.cache_bytes", self.cache_bytes)?;
        at_least_one("vocabulary.store_bytes", self.store_bytes)?;
        in_range(
            "vocabulary.store_wait_seconds",
            (0.0..=MAX_STORE_WAIT_SECONDS).contains(&self.store_wait_seconds),
            self.store_wait_seconds,
            "0 to 60",
        )?;
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
