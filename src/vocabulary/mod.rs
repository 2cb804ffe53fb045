//! Classes, prompt templates, named vocabularies and the store of text embeddings.
//!
//! This room owns class lists, their prompts, the embeddings kept in memory and on disk, and the classifiers made from
//! them. It knows nothing of tensors or HTTP.

mod advice;
mod checksum;
mod classes;
mod definition;
mod disk;
mod embed_ahead;
mod embedding;
mod list_form;
mod metrics;
mod options;
mod prompts;
mod recent;
mod registry;
mod settings;
mod shipped;
mod store;
mod store_path;
mod synonyms;
mod text_form;

pub use advice::{ClassListAdvice, advice};
pub use classes::{ClassList, ClassListError, is_background};
pub use definition::VocabularyDefinition;
pub use disk::{DiskError, DiskStore};
pub use embed_ahead::EmbedAhead;
pub use embedding::{EmbeddedTexts, EmbeddingSpace, TextEmbedding};
pub use list_form::form_advice;
pub use metrics::register_lists;
pub use options::VocabularyOptions;
pub use prompts::TemplateSet;
pub use recent::{RecentList, RecentLists};
pub use registry::{NamedVocabulary, Stored, VocabularyRegistry};
pub use settings::{RegistryLimits, VocabularyLimits, VocabularySettings};
pub use store::{
    EmbeddingError, EmbeddingFuture, EmbeddingStore, Interest, StoreStatistics, TextEmbedder, TooManyWaiting, Urgency,
};
pub use store_path::StorePath;
pub use synonyms::Synonyms;
pub use text_form::{TextFormError, VocabularyText, parse_class, parse_vocabulary, write_vocabulary};

use std::time::Duration;

use crate::scores::QueryOwner;
use crate::shared::SharedError;
use crate::support::{ExceededLimit, excerpt};

/// A class of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Class {
    /// The name of the class, as given.
    pub name: String,
    /// Other names for the same thing. [`Synonyms`] decides how their scores are combined.
    pub synonyms: Vec<String>,
}

impl Class {
    /// Returns the name, then the synonyms.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.synonyms).map(String::as_str)
    }
}

impl From<String> for Class {
    /// Returns the class of this name without synonyms.
    fn from(name: String) -> Self {
        Self {
            name,
            synonyms: Vec::new(),
        }
    }
}

/// Text embeddings to compare with image features.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    /// Number of queries.
    pub queries: usize,
    /// Length of an embedding.
    pub dimension: usize,
    /// The embeddings, `[queries, dimension]`, row-major. Each row has unit length unless a student learned it.
    pub embeddings: Vec<f32>,
    /// The owner of each query, `[queries]`.
    pub owners: Vec<QueryOwner>,
}

/// Why a vocabulary was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// No vocabulary has this name.
    #[error("no vocabulary is called {:?}", excerpt(name))]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// No vocabulary has this name here, and other replicas' cannot be asked for.
    #[error(
        "no vocabulary called {:?} is known here, and the shared state (shared.url) cannot be asked for it",
        excerpt(name)
    )]
    NotKnown {
        /// The name asked for.
        name: String,
    },
    /// Shipped vocabularies cannot be changed.
    #[error("the vocabulary {:?} is shipped with the server and read-only", excerpt(name))]
    ReadOnly {
        /// The name asked for.
        name: String,
    },
    /// The caller's condition does not hold for the present definition.
    #[error("the vocabulary {:?} is not in the state that was asked for", excerpt(name))]
    Changed {
        /// The name asked for.
        name: String,
        /// Digest of the present definition; `None` if the vocabulary does not exist.
        current: Option<String>,
    },
    /// The name is not allowed for a vocabulary.
    #[error(
        "{:?} is no name for a vocabulary: 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first",
        excerpt(name)
    )]
    InvalidName {
        /// The name asked for.
        name: String,
    },
    /// The server holds as many vocabularies as it may.
    #[error("there are {limit} vocabularies, as many as limits.max_vocabularies allows")]
    TooMany {
        /// The largest number of vocabularies.
        limit: usize,
    },
    /// With this definition, all together would take more bytes than they may.
    #[error(
        "with it the definitions of all vocabularies would take {bytes} bytes, more than \
         vocabulary.definitions_bytes = {limit}"
    )]
    TooManyBytes {
        /// Bytes of all definitions with the new one.
        bytes: u64,
        /// The largest number of bytes.
        limit: u64,
    },
    /// The vocabularies of one key take its share of what all may take.
    #[error("the vocabularies of this key would take more than is left for all, of {key} = {limit}")]
    ShareTaken {
        /// The setting that limits all of them.
        key: &'static str,
        /// Its value.
        limit: u64,
    },
    /// The change was not made, because another process holds the store on disk.
    #[error(
        "the vocabulary {name:?} was not changed: others have held the store (vocabulary.store_path) for longer than \
         vocabulary.store_wait_seconds = {}",
        waited.as_secs_f64()
    )]
    StoreBusy {
        /// The name asked for.
        name: String,
        /// How long the change has waited.
        waited: Duration,
    },
    /// The change was not made, because other replicas kept changing the same vocabulary.
    #[error(
        "the vocabulary {name:?} was not changed: other replicas changed it (shared.url) for as long as \
         vocabulary.store_wait_seconds = {}",
        waited.as_secs_f64()
    )]
    SharedBusy {
        /// The name asked for.
        name: String,
        /// How long the change has waited.
        waited: Duration,
    },
    /// The change was not made, because it could not be written to disk. The log has the reason.
    #[error(
        "the vocabulary {name:?} was not changed: {}",
        if *is_full { "the disk of the store (vocabulary.store_path) is full" }
        else { "the store (vocabulary.store_path) cannot be written; the server's log has the reason" }
    )]
    NotStored {
        /// The name asked for.
        name: String,
        /// Whether the disk is full.
        is_full: bool,
    },
    /// The change was not made, because replicas share their vocabularies and the shared state cannot be reached.
    #[error("the vocabulary {name:?} was not changed: {error}")]
    NotShared {
        /// The name asked for.
        name: String,
        /// Why it cannot.
        error: SharedError,
    },
    /// The change was not made, because the shared state has no memory left.
    #[error("the vocabulary {name:?} was not changed: the shared state (shared.url) is full")]
    SharedFull {
        /// The name asked for.
        name: String,
    },
    /// The classes or the background were refused.
    #[error(transparent)]
    Invalid(#[from] ClassListError),
}

impl VocabularyError {
    /// Returns the limit in the settings that the vocabulary exceeds, or its change, if it exceeds one.
    pub fn limit(&self) -> Option<ExceededLimit> {
        match self {
            Self::TooMany { limit } => Some(ExceededLimit::whole("limits.max_vocabularies", *limit as u64)),
            Self::TooManyBytes { limit, .. } => Some(ExceededLimit::whole("vocabulary.definitions_bytes", *limit)),
            Self::ShareTaken { key, limit } => Some(ExceededLimit::whole(key, *limit)),
            Self::StoreBusy { waited, .. } | Self::SharedBusy { waited, .. } => {
                let seconds = waited.as_secs_f64();
                Some(ExceededLimit::fractional("vocabulary.store_wait_seconds", seconds))
            }
            Self::Invalid(error) => error.limit(),
            Self::NotFound { .. }
            | Self::NotKnown { .. }
            | Self::ReadOnly { .. }
            | Self::Changed { .. }
            | Self::InvalidName { .. }
            | Self::NotStored { .. }
            | Self::NotShared { .. }
            | Self::SharedFull { .. } => None,
        }
    }

    /// Returns the same error about the name that was asked for. In a space of its own, a vocabulary has another name.
    pub fn about(mut self, asked_for: &str) -> Self {
        match &mut self {
            Self::NotFound { name }
            | Self::NotKnown { name }
            | Self::ReadOnly { name }
            | Self::Changed { name, .. }
            | Self::InvalidName { name }
            | Self::StoreBusy { name, .. }
            | Self::SharedBusy { name, .. }
            | Self::NotStored { name, .. }
            | Self::NotShared { name, .. }
            | Self::SharedFull { name } => asked_for.clone_into(name),
            Self::TooMany { .. } | Self::TooManyBytes { .. } | Self::ShareTaken { .. } | Self::Invalid(_) => {}
        }
        self
    }
}
