//! Classes, prompt templates, named vocabularies and the text-embedding store.
//!
//! Owns what a class list is, how it becomes prompts, which embeddings are held, in memory and on disk, and how they
//! become a classifier. Knows nothing of tensors or HTTP.

mod advice;
mod classes;
mod definition;
mod disk;
mod embedding;
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
pub use embedding::{EmbeddingSpace, TextEmbedding};
pub use options::VocabularyOptions;
pub use prompts::TemplateSet;
pub use recent::{RecentList, RecentLists};
pub use registry::{NamedVocabulary, Stored, VocabularyRegistry};
pub use settings::{VocabularyLimits, VocabularySettings};
pub use store::{EmbeddingError, EmbeddingFuture, EmbeddingStore, StoreStatistics, TextEmbedder};
pub use store_path::StorePath;
pub use synonyms::Synonyms;
pub use text_form::{TextFormError, VocabularyText, parse_class, parse_vocabulary, write_vocabulary};

use crate::scores::QueryOwner;

/// One class of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Class {
    /// The name, as given.
    pub name: String,
    /// Other names for the same thing; [`Synonyms`] says what they come to.
    pub synonyms: Vec<String>,
}

impl Class {
    /// The name and the synonyms, in this order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.synonyms).map(String::as_str)
    }
}

/// Text embeddings, ready to be compared with image features.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    /// Number of queries.
    pub queries: usize,
    /// Embedding dimension.
    pub dimension: usize,
    /// `[queries, dimension]`, row-major, each row of unit length but for what a student learned itself.
    pub embeddings: Vec<f32>,
    /// Whose each query is, `[queries]`.
    pub owners: Vec<QueryOwner>,
}

/// Why a vocabulary was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// No vocabulary has that name.
    #[error("no vocabulary is called {name:?}")]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// Shipped vocabularies cannot be changed.
    #[error("the vocabulary {name:?} is shipped with the server and read-only")]
    ReadOnly {
        /// The name asked for.
        name: String,
    },
    /// The caller's condition does not hold for the present definition.
    #[error("the vocabulary {name:?} is not in the state that was asked for")]
    Changed {
        /// The name asked for.
        name: String,
        /// Digest of the present definition; `None` when there is none.
        current: Option<String>,
    },
    /// A vocabulary cannot have this name.
    #[error("{name:?} is no name for a vocabulary: 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first")]
    InvalidName {
        /// The name asked for.
        name: String,
    },
    /// There is no room for another one.
    #[error("there are {limit} vocabularies, as many as limits.max_vocabularies allows")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The change could not be written to disk, so it was not made; the text is for the log alone.
    #[error("the vocabulary {name:?} could not be written to disk: {reason}")]
    NotWritten {
        /// The name asked for.
        name: String,
        /// What the store on disk said.
        reason: String,
    },
    /// The classes or the background were refused.
    #[error(transparent)]
    Invalid(#[from] ClassListError),
}
