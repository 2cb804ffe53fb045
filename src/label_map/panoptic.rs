//! The ids of COCO's categories, and of the segments of its panoptic form
//! (<https://cocodataset.org/#format-data>).

use crate::scores::UNLABELLED;

/// Returns the id of a class's category in COCO's forms, and of its segment in the panoptic one. It is the class's own
/// plus 1: COCO counts from 1, and 0 is a pixel without a segment.
pub fn coco_category(class_id: u16) -> u32 {
    u32::from(class_id) + 1
}

/// Returns the RGB values of a pixel in a panoptic PNG: red + 256 green + 65536 blue is the id of its segment, 0 for
/// none.
pub(super) fn segment_color(label: u16) -> [u8; 3] {
    let id = if label == UNLABELLED { 0 } else { coco_category(label) };
    let [red, green, blue, _] = id.to_le_bytes();
    [red, green, blue]
}
