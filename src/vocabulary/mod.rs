//! Classes, prompt templates, named vocabularies and the text-embedding store.
//!
//! Owns what a class list is, how it becomes prompts, which embeddings are held and how they become
//! a classifier. Knows nothing of tensors or HTTP.

use crate::label_map::QueryOwner;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One class of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Class {
    /// The name, as given.
    pub name: String,
    /// Other names for the same thing; their embeddings and the name's are averaged.
    pub synonyms: Vec<String>,
}

/// Which prompt templates a text is put into before it is embedded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TemplateSet {
    /// CLIP's 80 ImageNet templates and 5 "... in the scene", as in MaskCLIP and ViLD.
    #[default]
    #[serde(rename = "maskclip-85")]
    Maskclip85,
    /// CLIP's 80 ImageNet templates.
    #[serde(rename = "imagenet-80")]
    Imagenet80,
    /// "a photo of a {}." alone.
    Simple,
}

/// Unit text embeddings, ready to be compared with image features.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    /// Number of queries.
    pub queries: usize,
    /// Embedding dimension.
    pub dimension: usize,
    /// `[queries, dimension]`, row-major, each row of unit length.
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
    /// The caller's If-Match is not the vocabulary's entity tag.
    #[error("the vocabulary {name:?} has changed: its entity tag is {current:?}")]
    Changed {
        /// The name asked for.
        name: String,
        /// The entity tag it has now; `None` when it does not exist.
        current: Option<String>,
    },
    /// A list is empty or too long, or a name empty, too long or not printable; the text names the limit.
    #[error("{0}")]
    Invalid(String),
}
