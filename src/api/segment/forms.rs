//! Request fields that may be written in several forms: background, key smoothing, windows.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::dense::KeySmoothingMethod;
use crate::engine::{BackgroundFields, BackgroundNames, KeySmoothingFields, WindowFields};

/// Pixels that belong to none of the classes. They get the unlabelled value (255, or 65535 in 16-bit maps).
#[derive(Debug, Clone, PartialEq, ToSchema)]
#[serde(untagged)]
pub enum BackgroundBody {
    /// `true` lets the shipped list of stuff names (`vocabulary.background`: sky, wall, ...) compete with
    /// the classes; `false` gives every pixel a class, whatever the defaults are.
    Switch(bool),
    /// Names that compete with the classes instead of the shipped ones.
    Names(Vec<String>),
    /// Names, a threshold, a smallest area.
    Detail(BackgroundDetail),
}

/// Names that compete with the classes, a threshold and a smallest area.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackgroundDetail {
    /// The names; the shipped list without it, none at all when empty. At most
    /// `limits.max_background_names`.
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

/// Key smoothing (MaskCLIP, section 3.3): class probabilities averaged over positions whose keys are alike.
#[derive(Debug, Clone, PartialEq, ToSchema)]
#[serde(untagged)]
pub enum KeySmoothingBody {
    /// A method alone.
    Method(KeySmoothingMethod),
    /// A method with its threshold.
    Detail(KeySmoothingDetail),
}

/// A way of key smoothing with its threshold.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeySmoothingDetail {
    /// The method.
    pub method: KeySmoothingMethod,
    /// For `reference` alone: positions whose best probability reaches this are left as they are; 1
    /// without it, which smooths every position.
    #[schema(minimum = 0, maximum = 1, example = 0.9)]
    pub threshold: Option<f32>,
}

impl<'de> Deserialize<'de> for KeySmoothingBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = KeySmoothingBody;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("none, formula, reference, likeness or an object with method and threshold")
            }

            fn visit_str<E: de::Error>(self, method: &str) -> Result<KeySmoothingBody, E> {
                KeySmoothingMethod::deserialize(method.into_deserializer()).map(KeySmoothingBody::Method)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeySmoothingBody, A::Error> {
                KeySmoothingDetail::deserialize(MapAccessDeserializer::new(map)).map(KeySmoothingBody::Detail)
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

/// Windows over the model's input: `none`, or their side and stride.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(untagged)]
pub enum WindowBody {
    /// The input is seen as a whole.
    Whole(WholeInput),
    /// Square windows.
    Detail(WindowDetail),
}

/// The input without windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WholeInput {
    /// No windows.
    None,
}

/// Square windows, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WindowDetail {
    /// Side in pixels of the model's input, at least one patch. An input that is no larger is seen as a whole.
    #[schema(minimum = 1, example = 224)]
    pub side: u32,
    /// Pixels from one window to the next, at most the side; half the side without it.
    #[schema(minimum = 1, example = 112)]
    pub stride: Option<u32>,
}

impl<'de> Deserialize<'de> for WindowBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl<'de> Visitor<'de> for Forms {
            type Value = WindowBody;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("none or an object with side and stride")
            }

            fn visit_str<E: de::Error>(self, whole: &str) -> Result<WindowBody, E> {
                WholeInput::deserialize(whole.into_deserializer()).map(WindowBody::Whole)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WindowBody, A::Error> {
                WindowDetail::deserialize(MapAccessDeserializer::new(map)).map(WindowBody::Detail)
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

impl From<WindowBody> for WindowFields {
    fn from(body: WindowBody) -> Self {
        match body {
            WindowBody::Whole(WholeInput::None) => Self::Whole,
            WindowBody::Detail(WindowDetail { side, stride }) => Self::Square { side, stride },
        }
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
            BackgroundBody::Names(names) => with_names(BackgroundNames::These(names)),
            BackgroundBody::Detail(BackgroundDetail { names, threshold, area }) => Self {
                names: names.map_or(BackgroundNames::Shipped, BackgroundNames::These),
                threshold,
                area,
            },
        }
    }
}

impl From<KeySmoothingBody> for KeySmoothingFields {
    fn from(body: KeySmoothingBody) -> Self {
        match body {
            KeySmoothingBody::Method(method) => method.into(),
            KeySmoothingBody::Detail(KeySmoothingDetail { method, threshold }) => Self { method, threshold },
        }
    }
}
