//! Of which classes a reply brings probability maps: of all, or of those in a list.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::api::wire::Name;
use crate::engine::ProbabilityMaps;

/// The classes of which there is a probability map: `all`, or a list of their names.
#[derive(Debug, Clone, PartialEq, ToSchema)]
#[serde(untagged)]
pub enum ProbabilityMapsBody {
    /// All classes.
    All(AllClasses),
    /// The classes with these names.
    Named(Vec<Name>),
}

/// All classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AllClasses {
    /// All classes.
    All,
}

impl<'de> Deserialize<'de> for ProbabilityMapsBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = ProbabilityMapsBody;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("all or a list of class names")
            }

            fn visit_str<E: de::Error>(self, all: &str) -> Result<ProbabilityMapsBody, E> {
                AllClasses::deserialize(all.into_deserializer()).map(ProbabilityMapsBody::All)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<ProbabilityMapsBody, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(names)).map(ProbabilityMapsBody::Named)
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

impl From<ProbabilityMapsBody> for ProbabilityMaps {
    fn from(body: ProbabilityMapsBody) -> Self {
        match body {
            ProbabilityMapsBody::All(AllClasses::All) => Self::All,
            ProbabilityMapsBody::Named(names) => Self::Named(names.into_iter().map(|Name(name)| name).collect()),
        }
    }
}
