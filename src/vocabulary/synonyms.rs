//! How the synonyms of a class are combined.

use serde::{Deserialize, Serialize};

/// How the scores of a class's synonyms are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Synonyms {
    /// One query per class: the mean of the embeddings of its name and synonyms, scaled to unit length.
    #[default]
    Mean,
    /// One query per text. After the softmax over all queries, a class gets the largest probability of its own queries.
    /// The protocols of MaskCLIP's successors use this.
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
