//! What counts as none of the classes: a switch, names, or names with thresholds.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::api::wire::Name;
use crate::engine::{BackgroundFields, BackgroundNames};

/// Pixels that belong to none of the classes. They get the unlabelled value (255, or 65535 in 16-bit maps).
#[derive(Debug, Clone, PartialEq, ToSchema)]
#[serde(untagged)]
pub enum BackgroundBody {
    /// `true` lets the shipped list of stuff names (`vocabulary.background`: sky, wall, ...) compete with
    /// the classes; `false` gives every pixel a class, whatever the defaults are.
    Switch(bool),
    /// Names that compete with the classes instead of the shipped ones.
    Names(Vec<Name>),
    /// Names, a threshold, a smallest area.
    Detail(BackgroundDetail),
}

/// Names that compete with the classes, a threshold and a smallest area.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackgroundDetail {
    /// The names; the shipped list without it, none at all when empty. At most
    /// `limits.max_background_names`.
    #[schema(value_type = Option<Vec<Name>>)]
    pub names: Option<Vec<String>>,
    /// A pixel whose best class has a lower probability than this is background, too; `defaults.background_threshold`
    /// without it. What the probability is worth depends on the number of classes and the temperature.
    #[schema(minimum = 0, maximum = 1, example = 0.3)]
    pub threshold: Option<f32>,
    /// A class that covers at most this share of the pixels that have a class, threshold aside, is nowhere: its pixels get
    /// their next best class or become background. Rids maps of specks; takes small things with it.
    /// `defaults.background_area` without it.
    #[schema(minimum = 0, maximum = 1, example = 0.01)]
    pub area: Option<f64>,
}

impl<'de> Deserialize<'de> for BackgroundBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = BackgroundBody;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("true, false, a list of names or an object with names, threshold and area")
            }

            fn visit_bool<E>(self, value: bool) -> Result<BackgroundBody, E> {
                Ok(BackgroundBody::Switch(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<BackgroundBody, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(names)).map(BackgroundBody::Names)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<BackgroundBody, A::Error> {
                BackgroundDetail::deserialize(MapAccessDeserializer::new(map)).map(BackgroundBody::Detail)
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

impl From<BackgroundBody> for BackgroundFields {
    fn from(body: BackgroundBody) -> Self {
        let with_names = |names| Self {
            names,
            ..Self::default()
        };
        match body {
            BackgroundBody::Switch(false) => Self::off(),
            BackgroundBody::Switch(true) => with_names(BackgroundNames::Shipped),
            BackgroundBody::Names(names) => with_names(BackgroundNames::These(
                names.into_iter().map(|Name(name)| name).collect(),
            )),
            BackgroundBody::Detail(BackgroundDetail { names, threshold, area }) => Self {
                names: names.map_or(BackgroundNames::Shipped, BackgroundNames::These),
                threshold,
                area,
            },
        }
    }
}
