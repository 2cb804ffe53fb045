//! Windows over the model's input: none, or their side and stride.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::whole_number::{optional_whole_number, whole_number};
use crate::engine::WindowFields;

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
    #[schema(value_type = u64, minimum = 1, maximum = 4_294_967_295_u32, example = 224)]
    #[serde(deserialize_with = "whole_number")]
    pub side: u32,
    /// Pixels from one window to the next, at most the side; half the side without it.
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 4_294_967_295_u32, example = 112)]
    #[serde(default, deserialize_with = "optional_whole_number")]
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
