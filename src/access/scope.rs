//! What a key may be used for.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray, VariantNames};

/// A part of the API that a key opens.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
    VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Scope {
    /// Label images and hold them, and read what requests can name: models and vocabularies.
    Use,
    /// Define and drop named vocabularies, and read them.
    Vocabularies,
    /// Read the metrics.
    Metrics,
    /// Read what is loaded and what the limits are.
    Models,
}

impl Scope {
    /// Returns the name, as in the file of keys.
    pub fn name(self) -> &'static str {
        self.into()
    }
}
