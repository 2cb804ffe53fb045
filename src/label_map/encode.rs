//! Label maps as bytes and as plain data for JSON: the forms and their pixel values.

use super::coco_rle::{CocoMask, coco_masks};
use super::id_width::{is_8_bit, label_8_bit};
use super::png::{grey_label_png, grey_png, label_png, panoptic_png};
use super::polygons::{ClassPolygons, TooManyCorners, polygons_within};
use super::{LabelMap, LabelStyle, ProbabilityMap};

/// The forms in which a label map can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LabelMapFormat {
    /// An indexed PNG with a fixed palette, or a 16-bit grey PNG above 255 classes.
    #[default]
    Png,
    /// A grey PNG without a palette whose values are the class ids: 8 bits, or 16 above 255 classes.
    PngGrey,
    /// COCO's run-length encoding, with one mask for each class that has pixels.
    CocoRle,
    /// COCO's polygons, with one for each connected region of each class.
    Polygons,
    /// The PNG of COCO's panoptic form, with one segment for each class that has pixels.
    Panoptic,
    /// Rows of class ids. The id of unlabelled pixels is 255, or 65535 above 255 classes.
    Raw,
    /// No label map, only statistics.
    None,
}

/// A label map in the form that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum EncodedLabelMap {
    /// A PNG file, indexed or of 16-bit grey.
    Png(Vec<u8>),
    /// A grey PNG file.
    PngGrey(Vec<u8>),
    /// One mask for each class that has pixels.
    CocoRle(Vec<CocoMask>),
    /// The polygons of each class that has pixels.
    Polygons(Vec<ClassPolygons>),
    /// An RGB PNG file of the ids of segments, which are [`coco_category`](super::coco_category).
    Panoptic(Vec<u8>),
    /// Class ids, `[height, width]`.
    Raw(Vec<Vec<u16>>),
    /// No label map, because none was asked for.
    None,
}

/// Writes a label map in the given form. The style is about PNGs of class ids and rows; COCO's forms have neither
/// colours nor unlabelled pixels.
///
/// # Errors
/// [`TooManyCorners`] when polygons were asked for that have more than `most_corners`.
pub fn encode(
    map: &LabelMap,
    format: LabelMapFormat,
    style: &LabelStyle,
    most_corners: u64,
) -> Result<EncodedLabelMap, TooManyCorners> {
    Ok(match format {
        LabelMapFormat::Png => EncodedLabelMap::Png(label_png(map, style)),
        LabelMapFormat::PngGrey => EncodedLabelMap::PngGrey(grey_label_png(map, style)),
        LabelMapFormat::CocoRle => EncodedLabelMap::CocoRle(coco_masks(map)),
        LabelMapFormat::Polygons => EncodedLabelMap::Polygons(polygons_within(map, most_corners)?),
        LabelMapFormat::Panoptic => EncodedLabelMap::Panoptic(panoptic_png(map)),
        LabelMapFormat::Raw => EncodedLabelMap::Raw(raw_rows(map, style)),
        LabelMapFormat::None => EncodedLabelMap::None,
    })
}

/// Returns the confidence map as an 8-bit grey PNG, if the label map has one.
pub fn encode_confidence(map: &LabelMap) -> Option<Vec<u8>> {
    map.confidence
        .as_deref()
        .map(|confidence| grey_png(map.width, map.height, confidence))
}

/// Returns the probabilities of a class in an image of `width` x `height` pixels as an 8-bit grey PNG.
pub fn encode_probabilities(map: &ProbabilityMap, width: u32, height: u32) -> Vec<u8> {
    grey_png(width, height, &map.values)
}

/// Returns `width` x `height` numbers as an 8-bit grey PNG, with the smallest and the largest of them, for which the values 0
/// and 255 stand. The values between are spread evenly. A number that is not finite makes the range so.
pub fn encode_range(values: &[f32], width: u32, height: u32) -> (Vec<u8>, [f32; 2]) {
    // A sum shows what is not finite, which the smallest and the largest do not.
    let flaw = 0.0 * values.iter().sum::<f32>();
    let lowest = flaw + values.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = flaw + values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = if highest > lowest {
        255.0 / (highest - lowest)
    } else {
        0.0
    };
    let samples: Vec<u8> = values
        .iter()
        .map(|value| ((value - lowest) * step).round() as u8)
        .collect();
    (grey_png(width, height, &samples), [lowest, highest])
}

fn raw_rows(map: &LabelMap, style: &LabelStyle) -> Vec<Vec<u16>> {
    let rows = map.labels.chunks_exact(map.width as usize);
    if is_8_bit(map.classes.len()) {
        let value = |&label: &u16| u16::from(label_8_bit(style.value(label)));
        rows.map(|row| row.iter().map(value).collect()).collect()
    } else {
        rows.map(|row| row.iter().map(|&label| style.value(label)).collect())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use ::png::{BitDepth, ColorType, Decoder};

    use super::super::{ClassStatistics, palette_color};
    use super::*;
    use crate::scores::UNLABELLED;

    fn map(classes: usize, width: u32, labels: &[u16]) -> LabelMap {
        let absent = ClassStatistics {
            pixels: 0,
            bounding_box: None,
            mean_confidence: None,
            max_confidence: None,
            presence: 0.0,
        };
        LabelMap {
            width,
            height: labels.len() as u32 / width,
            labels: labels.to_vec(),
            confidence: Some(labels.iter().map(|&label| (label % 251) as u8).collect()),
            classes: vec![absent; classes],
        }
    }

    /// Returns colour type, bit depth, palette and samples as a PNG file stores them.
    fn read_png(file: &[u8]) -> (ColorType, BitDepth, Option<Vec<u8>>, Vec<u8>) {
        let mut reader = Decoder::new(std::io::Cursor::new(file)).read_info().expect("a PNG");
        let mut samples = vec![0; reader.output_buffer_size().expect("a small image")];
        reader.next_frame(&mut samples).expect("pixels");
        let info = reader.info();
        (
            info.color_type,
            info.bit_depth,
            info.palette.as_ref().map(|palette| palette.to_vec()),
            samples,
        )
    }

    fn encode(map: &LabelMap, format: LabelMapFormat, style: &LabelStyle) -> EncodedLabelMap {
        super::encode(map, format, style, u64::MAX).expect("corners have no limit")
    }

    fn png_of(map: &LabelMap) -> (ColorType, BitDepth, Option<Vec<u8>>, Vec<u8>) {
        match encode(map, LabelMapFormat::Png, &LabelStyle::default()) {
            EncodedLabelMap::Png(file) => read_png(&file),
            other => panic!("asked for a PNG, got {other:?}"),
        }
    }

    #[test]
    fn up_to_255_classes_are_an_indexed_png_with_the_whole_palette() {
        let (color_type, depth, palette, samples) = png_of(&map(255, 3, &[0, 1, 254, UNLABELLED, 7, 7]));
        assert_eq!((color_type, depth), (ColorType::Indexed, BitDepth::Eight));
        assert_eq!(samples, [0, 1, 254, 255, 7, 7]);
        let palette = palette.expect("indexed PNGs have one");
        assert_eq!(palette.len(), 3 * 256);
        assert_eq!(palette[..6], [128, 0, 0, 0, 128, 0]);
        assert_eq!(
            palette[3 * 254..],
            [palette_color(254), palette_color(UNLABELLED)].concat()
        );
    }

    #[test]
    fn grey_values_are_the_ids_without_a_palette() {
        let grey = |map: &LabelMap, style: &LabelStyle| match encode(map, LabelMapFormat::PngGrey, style) {
            EncodedLabelMap::PngGrey(file) => read_png(&file),
            other => panic!("asked for a grey PNG, got {other:?}"),
        };
        let style = LabelStyle {
            unlabelled: Some(9),
            ..LabelStyle::default()
        };
        let few = map(3, 2, &[0, 1, UNLABELLED, 2]);
        let of_8_bits = |samples: [u8; 4]| (ColorType::Grayscale, BitDepth::Eight, None, samples.to_vec());
        assert_eq!(grey(&few, &LabelStyle::default()), of_8_bits([0, 1, 255, 2]));
        assert_eq!(grey(&few, &style), of_8_bits([0, 1, 9, 2]));
        // Above 255 classes, both forms are the same.
        let many = map(256, 2, &[0, 255, 258, UNLABELLED]);
        assert_eq!(grey(&many, &LabelStyle::default()), png_of(&many));
    }

    #[test]
    fn more_classes_are_16_bit_grey() {
        let (color_type, depth, palette, samples) = png_of(&map(256, 2, &[0, 255, 258, UNLABELLED]));
        assert_eq!(
            (color_type, depth, palette),
            (ColorType::Grayscale, BitDepth::Sixteen, None)
        );
        assert_eq!(samples, [0, 0, 0, 255, 1, 2, 255, 255]);
    }

    #[test]
    fn raw_rows_have_the_unlabelled_value_of_their_width() {
        let labels = [0, 1, UNLABELLED, 2];
        assert_eq!(
            encode(&map(3, 2, &labels), LabelMapFormat::Raw, &LabelStyle::default()),
            EncodedLabelMap::Raw(vec![vec![0, 1], vec![255, 2]])
        );
        assert_eq!(
            encode(&map(256, 2, &labels), LabelMapFormat::Raw, &LabelStyle::default()),
            EncodedLabelMap::Raw(vec![vec![0, 1], vec![65_535, 2]])
        );
    }

    #[test]
    fn a_caller_chooses_the_unlabelled_value_and_colours() {
        let style = LabelStyle {
            unlabelled: Some(9),
            colors: vec![[1, 2, 3]],
        };
        let map_8_bit = map(3, 2, &[0, 1, UNLABELLED, 2]);
        let EncodedLabelMap::Png(file) = encode(&map_8_bit, LabelMapFormat::Png, &style) else {
            panic!("asked for a PNG");
        };
        let (_, _, palette, samples) = read_png(&file);
        assert_eq!(samples, [0, 1, 9, 2]);
        let palette = palette.expect("indexed PNGs have one");
        assert_eq!(palette[..6], [1, 2, 3, 0, 128, 0]);
        assert_eq!(palette[3 * 9..3 * 10], [0, 0, 0]);
        assert_eq!(
            encode(&map_8_bit, LabelMapFormat::Raw, &style),
            EncodedLabelMap::Raw(vec![vec![0, 1], vec![9, 2]])
        );
        let style = LabelStyle {
            unlabelled: Some(300),
            ..style
        };
        assert_eq!(
            encode(&map(256, 2, &[0, UNLABELLED]), LabelMapFormat::Raw, &style),
            EncodedLabelMap::Raw(vec![vec![0, 300]])
        );
    }

    #[test]
    fn the_ids_of_segments_are_those_of_classes_plus_one_in_three_bytes() {
        let panoptic = |map: &LabelMap| match encode(map, LabelMapFormat::Panoptic, &LabelStyle::default()) {
            EncodedLabelMap::Panoptic(file) => read_png(&file),
            other => panic!("asked for a panoptic PNG, got {other:?}"),
        };
        let rgb = |samples: &[[u8; 3]]| (ColorType::Rgb, BitDepth::Eight, None, samples.concat());
        let few = map(3, 2, &[0, 1, UNLABELLED, 2]);
        assert_eq!(panoptic(&few), rgb(&[[1, 0, 0], [2, 0, 0], [0, 0, 0], [3, 0, 0]]));
        let many = map(65_535, 3, &[254, 255, 65_534]);
        assert_eq!(panoptic(&many), rgb(&[[255, 0, 0], [0, 1, 0], [255, 255, 0]]));
    }

    #[test]
    fn polygons_are_refused_with_more_corners_than_may_be() {
        let square = map(1, 1, &[0]);
        let polygons = |most| super::encode(&square, LabelMapFormat::Polygons, &LabelStyle::default(), most);
        assert_eq!(polygons(3), Err(TooManyCorners));
        let line = vec![[0, 0], [1, 0], [1, 1], [0, 1]];
        let expected = ClassPolygons {
            class_id: 0,
            lines: vec![line],
        };
        assert_eq!(polygons(4), Ok(EncodedLabelMap::Polygons(vec![expected])));
    }

    #[test]
    fn no_map_is_no_map() {
        let none = encode(&map(3, 1, &[0]), LabelMapFormat::None, &LabelStyle::default());
        assert_eq!(none, EncodedLabelMap::None);
    }

    #[test]
    fn numbers_are_spread_over_the_values_of_a_byte() {
        let grey = |samples: &[u8]| (ColorType::Grayscale, BitDepth::Eight, None, samples.to_vec());
        let (file, range) = encode_range(&[-0.5, 0.0, 0.5, 0.25], 2, 2);
        assert_eq!((read_png(&file), range), (grey(&[0, 128, 255, 191]), [-0.5, 0.5]));
        let (file, range) = encode_range(&[1.0, 1.0], 2, 1);
        assert_eq!((read_png(&file), range), (grey(&[0, 0]), [1.0, 1.0]));
    }

    #[test]
    fn confidence_is_an_8_bit_grey_png_when_there_is_one() {
        let mut map = map(9, 2, &[1, 2, 3, 4]);
        let file = encode_confidence(&map).expect("the map has confidence");
        assert_eq!(
            read_png(&file),
            (ColorType::Grayscale, BitDepth::Eight, None, vec![1, 2, 3, 4])
        );
        map.confidence = None;
        assert_eq!(encode_confidence(&map), None);
    }
}
