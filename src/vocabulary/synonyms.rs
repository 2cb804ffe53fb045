//! How the synonyms of a class are combined.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the synonyms of a class come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Synonyms {
    /// One query per class: the mean of the embeddings of its name and its synonyms, of unit length.
    #[default]
    Mean,
    /// One query per text; after the softmax over all of them the class has the largest of its own, as the protocols of
    /// MaskCLIP's successors have it.
    Max,
}

impl Synonyms {
    /// Both ways to combine synonyms.
    pub const ALL: [Self; 2] = [Self::Mean, Self::Max];

    /// Returns the name in requests, settings and vocabulary files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Max => "max",
        }
    }
}
