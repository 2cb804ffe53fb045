//! One stable colour per class, shared by PNG palettes, the API and the page.

use crate::scores::UNLABELLED;

/// Returns the RGB colour of a class; [`UNLABELLED`] is black.
///
/// Class `id` has colour `id + 1` of Pascal VOC's colour map. That map deals the bits of the index to red, green and
/// blue in turn, from the highest bit of each channel down. Neighbouring ids therefore differ clearly, and no two ids
/// share a colour. VOC's colour 0 is black, which is the colour of pixels without a class here.
pub fn palette_color(id: u16) -> [u8; 3] {
    if id == UNLABELLED {
        return [0, 0, 0];
    }
    let index = u32::from(id) + 1;
    let channel = |first_bit: u32| {
        (0..8).fold(0, |value, step| {
            value | (((index >> (3 * step + first_bit)) & 1) as u8) << (7 - step)
        })
    };
    [channel(0), channel(1), channel(2)]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The expected values are the first colours after black of the development kit's `labelcolormap`, and its last
    /// colour.
    #[test]
    fn the_colours_are_pascal_voc_s_shifted_by_one() {
        let voc = [
            [128, 0, 0],
            [0, 128, 0],
            [128, 128, 0],
            [0, 0, 128],
            [128, 0, 128],
            [0, 128, 128],
            [128, 128, 128],
            [64, 0, 0],
        ];
        for (id, color) in voc.into_iter().enumerate() {
            assert_eq!(palette_color(id as u16), color, "class {id}");
        }
        assert_eq!(palette_color(254), [224, 224, 192]);
    }

    #[test]
    fn every_id_has_a_colour_of_its_own() {
        assert_eq!(
            (0..=UNLABELLED).map(palette_color).collect::<HashSet<_>>().len(),
            65_536
        );
    }
}
