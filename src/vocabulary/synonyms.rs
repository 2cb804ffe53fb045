//! How the synonyms of a class are combined.

use serde::{Deserialize, Serialize};

/// What the synonyms of a class come to.
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
    /// One query per class: the mean of the embeddings of its name and its synonyms, of unit length.
    #[default]
    Mean,
    /// One query per text; after the softmax over all of them the class has the largest of its own, as the protocols of
    /// MaskCLIP's successors have it.
    Max,
}

impl Synonyms {
    /// The name in requests, settings and vocabularies.
    pub fn name(self) -> &'static str {
        self.into()
    }
}
