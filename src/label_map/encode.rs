//! Label maps as bytes and as plain data for JSON.

use super::LabelMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The forms a label map can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LabelMapFormat {
    /// Indexed PNG with a stable palette; 16-bit grey above 255 classes.
    #[default]
    Png,
    /// COCO run-length encoding, one mask per class that has pixels.
    CocoRle,
    /// Rows of class ids, 255 (65535 above 255 classes) for unlabelled.
    Raw,
    /// No label map, statistics alone.
    None,
}

/// A label map in the form that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum EncodedLabelMap {
    /// A PNG file.
    Png(Vec<u8>),
    /// One mask per class that has pixels.
    CocoRle(Vec<CocoMask>),
    /// `[height, width]` class ids.
    Raw(Vec<Vec<u16>>),
    /// Not asked for.
    None,
}

/// A mask in COCO's compressed run-length encoding: column-major runs, zeros first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CocoMask {
    /// Class id.
    pub class_id: u16,
    /// `[height, width]` in pixels, COCO's order.
    pub size: [u32; 2],
    /// The runs as COCO's printable string.
    pub counts: String,
}

/// Writes a label map.
pub fn encode(_map: &LabelMap, _format: LabelMapFormat) -> EncodedLabelMap {
    unimplemented!()
}
