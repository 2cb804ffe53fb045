//! The masks of a label map's classes as pixels, which several protocols write in forms of their own.

use crate::label_map::{CocoMask, EncodedLabelMap, coco_runs};

/// Returns the masks of the classes that have pixels.
pub(super) fn masks(label_map: EncodedLabelMap) -> Vec<CocoMask> {
    match label_map {
        EncodedLabelMap::CocoRle(masks) => masks,
        EncodedLabelMap::Png(_) | EncodedLabelMap::PngGrey(_) | EncodedLabelMap::Raw(_) | EncodedLabelMap::None => {
            unreachable!("the protocols ask for run lengths")
        }
    }
}

/// Calls `inside` with the position of each pixel of a mask, counted row by row.
pub(super) fn each_pixel(mask: &CocoMask, mut inside: impl FnMut(usize)) {
    let [height, width] = mask.size.map(|side| side as usize);
    let runs = coco_runs(&mask.counts).expect("the server wrote the run lengths");
    let mut position = 0;
    for (run, &length) in runs.iter().enumerate() {
        let end = position + length as usize;
        if run % 2 == 1 {
            // The runs go down the columns.
            (position..end).for_each(|pixel| inside(pixel % height * width + pixel / height));
        }
        position = end;
    }
}

/// Returns a mask's pixels row by row: `value` inside and 0 outside.
pub(super) fn pixels(mask: &CocoMask, value: u8) -> Vec<u8> {
    let [height, width] = mask.size.map(|side| side as usize);
    let mut pixels = vec![0; height * width];
    each_pixel(mask, |pixel| pixels[pixel] = value);
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pixels_of_a_mask_are_row_by_row() {
        let mask = CocoMask {
            class_id: 0,
            size: [2, 3],
            // A zero, three ones down the columns, two zeros.
            counts: "132".to_owned(),
        };
        assert_eq!(pixels(&mask, 9), [0, 9, 0, 9, 9, 0]);
    }
}
