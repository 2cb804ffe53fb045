//! Forms of a label map beside the first.

use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::LabelMapFormat;
use super::named::named;

/// The forms in which a label map can come along beside another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema, strum::EnumString, strum::VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum FurtherLabelMapFormat {
    /// As `png`.
    Png,
    /// As `png-grey`.
    PngGrey,
    /// As `coco-rle`.
    CocoRle,
    /// As `polygons`.
    Polygons,
    /// As `panoptic`.
    Panoptic,
    /// As `raw`.
    Raw,
}

impl<'de> Deserialize<'de> for FurtherLabelMapFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        named(deserializer)
    }
}

impl From<FurtherLabelMapFormat> for LabelMapFormat {
    fn from(format: FurtherLabelMapFormat) -> Self {
        match format {
            FurtherLabelMapFormat::Png => Self::Png,
            FurtherLabelMapFormat::PngGrey => Self::PngGrey,
            FurtherLabelMapFormat::CocoRle => Self::CocoRle,
            FurtherLabelMapFormat::Polygons => Self::Polygons,
            FurtherLabelMapFormat::Panoptic => Self::Panoptic,
            FurtherLabelMapFormat::Raw => Self::Raw,
        }
    }
}
