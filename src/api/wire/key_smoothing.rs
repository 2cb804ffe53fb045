//! Key smoothing: a method, or a method with its threshold.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::KeySmoothingMethod;
use crate::dense;
use crate::engine::KeySmoothingFields;

/// Key smoothing (MaskCLIP, section 3.3): class probabilities averaged over positions whose keys are alike.
#[derive(Debug, Clone, PartialEq, ToSchema)]
#[serde(untagged)]
pub enum KeySmoothingBody {
    /// A method alone.
    Method(KeySmoothingMethod),
    /// A method with its threshold.
    Detail(KeySmoothingDetail),
}

/// A way of key smoothing, `reference` with its threshold.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySmoothingDetail {
    pub method: KeySmoothingMethod,
    pub threshold: Option<f32>,
}

/// A method without its threshold.
#[derive(ToSchema)]
#[schema(as = KeySmoothingWithoutThreshold)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes KeySmoothingDetail in the OpenAPI document")]
struct MethodAlone {
    /// The method.
    method: KeySmoothingMethod,
}

/// The method of the paper's implementation with its threshold.
#[derive(ToSchema)]
#[schema(as = KeySmoothingWithThreshold)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes KeySmoothingDetail in the OpenAPI document")]
struct MethodWithThreshold {
    /// The method.
    #[schema(inline)]
    method: ThresholdMethod,
    /// Positions whose best probability reaches this are left as they are; 1 without it, which smooths every position.
    #[schema(minimum = 0, maximum = 1, example = 0.9)]
    threshold: Option<f32>,
}

/// The method that has a threshold.
#[derive(ToSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "describes KeySmoothingDetail in the OpenAPI document")]
enum ThresholdMethod {
    /// As the paper's implementation computes it.
    Reference,
}

impl PartialSchema for KeySmoothingDetail {
    fn schema() -> RefOr<Schema> {
        AnyOfBuilder::new()
            .item(Ref::from_schema_name(MethodAlone::name()))
            .item(Ref::from_schema_name(MethodWithThreshold::name()))
            .description(Some("A way of key smoothing, `reference` with its threshold."))
            .into()
    }
}

impl ToSchema for KeySmoothingDetail {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        for (name, schema) in [
            (MethodAlone::name(), MethodAlone::schema()),
            (MethodWithThreshold::name(), MethodWithThreshold::schema()),
        ] {
            schemas.push((name.into_owned(), schema));
        }
        MethodAlone::schemas(schemas);
        MethodWithThreshold::schemas(schemas);
    }
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

impl From<KeySmoothingBody> for KeySmoothingFields {
    fn from(body: KeySmoothingBody) -> Self {
        match body {
            KeySmoothingBody::Method(method) => dense::KeySmoothingMethod::from(method).into(),
            KeySmoothingBody::Detail(KeySmoothingDetail { method, threshold }) => Self {
                method: method.into(),
                threshold,
            },
        }
    }
}
