//! The masks of a label map's classes, which several protocols write in forms of their own.

use crate::label_map::{CocoMask, EncodedLabelMap};
use crate::scores::UNLABELLED;

/// Returns the masks of the classes that have pixels.
pub(super) fn masks(label_map: EncodedLabelMap) -> Vec<CocoMask> {
    let EncodedLabelMap::CocoRle(masks) = label_map else {
        unreachable!("the protocols ask for run lengths");
    };
    masks
}

/// Returns the label of each pixel, row by row: the class of the mask that has it, or [`UNLABELLED`].
pub(super) fn labels(masks: &[CocoMask], (width, height): (u32, u32)) -> Vec<u16> {
    let mut labels = vec![UNLABELLED; width as usize * height as usize];
    for mask in masks {
        mask.pixels().for_each(|pixel| labels[pixel] = mask.class_id);
    }
    labels
}

/// Returns a mask's pixels row by row: `value` inside and 0 outside.
pub(super) fn pixels(mask: &CocoMask, value: u8) -> Vec<u8> {
    let [height, width] = mask.size.map(|side| side as usize);
    let mut pixels = vec![0; height * width];
    mask.pixels().for_each(|pixel| pixels[pixel] = value);
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_and_labels_are_row_by_row() {
        let mask = CocoMask {
            class_id: 7,
            size: [2, 3],
            // A zero, three ones down the columns, two zeros.
            counts: "132".to_owned(),
        };
        assert_eq!(pixels(&mask, 9), [0, 9, 0, 9, 9, 0]);
        const N: u16 = UNLABELLED;
        assert_eq!(labels(&[mask], (3, 2)), [N, 7, N, 7, 7, N]);
    }
}
