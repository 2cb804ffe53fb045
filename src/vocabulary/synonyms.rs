//! How the synonyms of a class are combined.

use serde::{Deserialize, Serialize};

/// How the scores of a class's synonyms are combined.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    Serialize,
    Deserialize,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Synonyms {
    /// One query per class: the mean of the embeddings of its name and synonyms, scaled to unit length.
    #[default]
    Mean,
    /// One query per text. After the softmax over all queries, a class gets the largest probability of its own queries.
    /// The protocols of MaskCLIP's successors use this.
    Max,
}

impl Synonyms {
    /// Returns the name in requests, settings and vocabulary files.
    pub fn name(self) -> &'static str {
        self.into()
    }
}
