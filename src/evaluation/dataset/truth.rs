//! Truths: PNGs whose values, colours or segment ids stand for classes, and masks of objects. Values are read as stored,
//! without the palette.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::sync::Arc;

use png::{BitDepth, ColorType, Decoder, Transformations};

use super::{DatasetError, Sample, Shapes, TruthCode, unreadable};
use crate::scores::UNLABELLED;
use crate::support::open_regular_file;

/// The value of pixels that do not count, in all these data sets: mmsegmentation's `ignore_index`. The largest 16-bit
/// value does not count either. With more than 255 classes it is the only such value, as in this server's own label
/// maps.
const IGNORED: u16 = 255;

/// How a truth is read.
#[derive(Debug, Clone, PartialEq)]
pub enum TruthForm {
    /// A PNG of indices, whose values follow a rule.
    Values(LabelMapping),
    /// A PNG whose values or colours a legend explains.
    Legend(Arc<TruthCode>),
    /// A PNG of segment ids (red + 256 green + 65536 blue, as in COCO's panoptic segmentation), with the label of each.
    Segments(Arc<BTreeMap<u32, u16>>),
    /// Masks of objects, which the annotation file holds.
    Shapes(Arc<Shapes>),
}

impl From<LabelMapping> for TruthForm {
    fn from(mapping: LabelMapping) -> Self {
        Self::Values(mapping)
    }
}

/// The rule that maps a truth's values to classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelMapping {
    /// The value is the class's id.
    Identity,
    /// The value 0 does not count, and the value 1 is class 0: mmsegmentation's `reduce_zero_label`.
    ReduceZero,
    /// The value is the class's id, or its id plus 1.
    Chosen {
        /// Whether the value 0 does not count, and the value 1 is class 0.
        reduce_zero: bool,
        /// The value that does not count. If there is none, only the largest 16-bit value does not.
        ignored: Option<u16>,
    },
    /// Maps COCO's 182 ids, from 0, to the 171 classes of COCO-Stuff, numbered as in mmsegmentation's converter
    /// `coco_stuff164k.py`. Ids without annotations are left out.
    CocoStuff,
    /// Maps COCO's ids to the background, class 0, and 80 things. Every kind of stuff and all unlabelled pixels are
    /// background. GroupViT's converter `convert_coco_object.py` defines this, and later protocols share it.
    CocoObject,
    /// Maps the label ids of Cityscapes to the 19 classes of its benchmark (`trainId` in the data set's own
    /// `labels.py`). Other ids do not count.
    Cityscapes,
}

/// COCO's ids, from 0, without annotations. The published list of 91 things and 91 kinds of stuff keeps them for
/// dropped names (street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush).
const COCO_UNUSED: [u16; 11] = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90];

/// The last of COCO's ids, counted from 0, and the last id of a thing.
const COCO_LAST: u16 = 181;
const COCO_LAST_THING: u16 = 90;

/// Cityscapes' label ids in the order of their train ids.
const CITYSCAPES_IDS: [u16; 19] = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33];

/// The last label id of Cityscapes. Licence plates have the id -1 there.
const CITYSCAPES_LAST: u16 = 33;

/// The meaning of a value in a truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Class(u16),
    NotCounted,
    Nothing,
}

impl LabelMapping {
    /// Returns the value that does not count, apart from the largest of 16 bits.
    fn ignored(self, classes: usize) -> Option<u16> {
        match self {
            Self::Chosen { ignored, .. } => ignored,
            _ => (classes <= usize::from(IGNORED)).then_some(IGNORED),
        }
    }

    fn meaning(self, value: u16, classes: usize) -> Meaning {
        let is_ignored = value == UNLABELLED || Some(value) == self.ignored(classes);
        let is_coco_id = value <= COCO_LAST && !COCO_UNUSED.contains(&value);
        let among_used = |value: u16| {
            let unused = COCO_UNUSED.iter().filter(|unused| **unused < value).count();
            value - u16::try_from(unused).expect("eleven ids are unused")
        };
        match self {
            Self::CocoObject if is_ignored => Meaning::Class(0),
            _ if is_ignored => Meaning::NotCounted,
            Self::Identity => Meaning::Class(value),
            Self::Chosen { reduce_zero: false, .. } => Meaning::Class(value),
            Self::ReduceZero | Self::Chosen { .. } => value.checked_sub(1).map_or(Meaning::NotCounted, Meaning::Class),
            Self::CocoStuff if is_coco_id => Meaning::Class(among_used(value)),
            Self::CocoObject if is_coco_id && value > COCO_LAST_THING => Meaning::Class(0),
            Self::CocoObject if is_coco_id => Meaning::Class(among_used(value) + 1),
            Self::CocoStuff | Self::CocoObject => Meaning::Nothing,
            Self::Cityscapes => match CITYSCAPES_IDS.iter().zip(0..).find(|(id, _)| **id == value) {
                Some((_, class)) => Meaning::Class(class),
                None if value <= CITYSCAPES_LAST => Meaning::NotCounted,
                None => Meaning::Nothing,
            },
        }
    }
}

/// The true class of each pixel of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Class id per pixel, or [`UNLABELLED`] for pixels that do not count, `[height, width]`, row-major.
    pub labels: Vec<u16>,
}

impl Truth {
    /// Reads the truth of a sample. Values are those of an indexed or grey PNG of 1 to 16 bits.
    ///
    /// # Errors
    /// [`DatasetError`] when the file cannot be read or has another form, or a value, colour or segment without a meaning.
    pub fn read(sample: &Sample, classes: usize) -> Result<Self, DatasetError> {
        let path = &sample.truth;
        let unexplained = |what: String, legend| DatasetError::Unexplained {
            path: path.clone(),
            what,
            legend,
        };
        match &sample.form {
            TruthForm::Values(mapping) => Self::of_values(sample, *mapping, classes),
            TruthForm::Legend(code) if code.colours.is_empty() => {
                let (width, height, values) = read_indices(sample)?;
                let labels = looked_up(values, &code.values);
                let labels = labels.map_err(|value| unexplained(format!("the value {value}"), "the legend does"))?;
                Ok(Self { width, height, labels })
            }
            TruthForm::Legend(code) => {
                let (width, height, colours) = read_colours(sample)?;
                let labels = looked_up(colours, &code.colours);
                let labels = labels.map_err(|[red, green, blue]| {
                    unexplained(format!("the colour {red}, {green}, {blue}"), "the legend does")
                })?;
                Ok(Self { width, height, labels })
            }
            TruthForm::Segments(segments) => {
                let (width, height, colours) = read_colours(sample)?;
                let id = |[red, green, blue]: [u8; 3]| u32::from_le_bytes([red, green, blue, 0]);
                let labels = looked_up(colours.into_iter().map(id), segments);
                let labels = labels.map_err(|id| unexplained(format!("the segment {id}"), "the annotations do"))?;
                Ok(Self { width, height, labels })
            }
            TruthForm::Shapes(shapes) => {
                let labels = shapes.draw().map_err(|reason| DatasetError::InvalidTruth {
                    path: path.clone(),
                    reason: format!("{}: {reason}", sample.name),
                })?;
                let (width, height) = (shapes.width, shapes.height);
                Ok(Self { width, height, labels })
            }
        }
    }

    /// Reads a PNG of values that follow a rule.
    fn of_values(sample: &Sample, mapping: LabelMapping, classes: usize) -> Result<Self, DatasetError> {
        let path = &sample.truth;
        let (width, height, mut labels) = read_indices(sample)?;
        // Most label maps have long runs of one value, so a repeated value is not looked up again.
        let mut last = None;
        for value in &mut labels {
            let label = match last {
                Some((known, label)) if known == *value => label,
                _ => match mapping.meaning(*value, classes) {
                    Meaning::NotCounted => UNLABELLED,
                    Meaning::Class(class) if usize::from(class) < classes => class,
                    Meaning::Class(_) | Meaning::Nothing => {
                        return Err(DatasetError::UnknownValue {
                            path: path.clone(),
                            value: *value,
                            classes,
                            ignored: mapping.ignored(classes),
                        });
                    }
                },
            };
            last = Some((*value, label));
            *value = label;
        }
        Ok(Self { width, height, labels })
    }
}

/// Returns the label of each value. The error is the first value without one.
fn looked_up<K: Ord + Copy>(values: impl IntoIterator<Item = K>, labels: &BTreeMap<K, u16>) -> Result<Vec<u16>, K> {
    let mut last = None;
    let label = |value: K| match last {
        Some((known, label)) if known == value => Ok(label),
        _ => {
            let label = *labels.get(&value).ok_or(value)?;
            last = Some((value, label));
            Ok(label)
        }
    };
    values.into_iter().map(label).collect()
}

/// Returns width, height and colours of a PNG of any type. Opacity is passed over.
fn read_colours(sample: &Sample) -> Result<(u32, u32, Vec<[u8; 3]>), DatasetError> {
    let path = &sample.truth;
    let invalid = |error: png::DecodingError| DatasetError::InvalidTruth {
        path: path.clone(),
        reason: error.to_string(),
    };
    let file = open_regular_file(path).map_err(unreadable(path))?;
    let mut decoder = Decoder::new(BufReader::new(file));
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(invalid)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| invalid(png::DecodingError::LimitsExceeded))?;
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(invalid)?;
    let samples = frame.color_type.samples();
    let pixels = bytes[..frame.buffer_size()].chunks_exact(samples);
    let colour = |pixel: &[u8]| match *pixel {
        [red, green, blue, ..] => [red, green, blue],
        _ => [pixel[0]; 3],
    };
    Ok((frame.width, frame.height, pixels.map(colour).collect()))
}

/// Returns width, height and pixel values of a PNG as stored in the file.
fn read_indices(sample: &Sample) -> Result<(u32, u32, Vec<u16>), DatasetError> {
    let path = &sample.truth;
    let invalid = |reason: String| DatasetError::InvalidTruth {
        path: path.clone(),
        reason,
    };
    let file = open_regular_file(path).map_err(unreadable(path))?;
    let mut decoder = Decoder::new(BufReader::new(file));
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(|error| invalid(error.to_string()))?;
    let (color, depth) = reader.output_color_type();
    if !matches!(color, ColorType::Indexed | ColorType::Grayscale) {
        return Err(invalid(format!(
            "it is a PNG of type {color:?}; class indices are in indexed or grey ones, and colours need a legend"
        )));
    }
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| invalid("it is too large for memory".to_owned()))?;
    let mut bytes = vec![0; size];
    let frame = reader
        .next_frame(&mut bytes)
        .map_err(|error| invalid(error.to_string()))?;
    let width = frame.width as usize;
    let rows = bytes[..frame.buffer_size()].chunks_exact(frame.line_size);
    let values = rows.flat_map(|row| unpacked(row, depth).take(width)).collect();
    Ok((frame.width, frame.height, values))
}

/// Returns the samples of a row, followed by the padding of its last byte.
fn unpacked(row: &[u8], depth: BitDepth) -> Box<dyn Iterator<Item = u16> + '_> {
    match depth {
        BitDepth::Sixteen => Box::new(row.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))),
        BitDepth::Eight => Box::new(row.iter().map(|&byte| byte.into())),
        BitDepth::One | BitDepth::Two | BitDepth::Four => {
            let bits = depth as u8;
            let shifts = move || (0..8 / bits).rev().map(move |place| place * bits);
            let sample = move |byte: u8, shift: u8| u16::from((byte >> shift) & ((1 << bits) - 1));
            Box::new(
                row.iter()
                    .flat_map(move |&byte| shifts().map(move |shift| sample(byte, shift))),
            )
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;

    use super::Meaning::{Class, NotCounted, Nothing};
    use super::*;

    #[test]
    fn reduced_truths_start_at_one() {
        let meanings = [0, 1, 150, 255].map(|value| LabelMapping::ReduceZero.meaning(value, 150));
        assert_eq!(meanings, [NotCounted, Class(0), Class(149), NotCounted]);
    }

    /// Pairs from mmsegmentation's tools/dataset_converters/coco_stuff164k.py: around every gap, and both ends.
    #[test]
    fn coco_stuff_has_171_classes_with_the_published_numbers() {
        let pairs = [
            (0, 0),
            (10, 10),
            (12, 11),
            (24, 23),
            (26, 24),
            (27, 25),
            (30, 26),
            (43, 39),
            (45, 40),
            (64, 59),
            (66, 60),
            (69, 61),
            (71, 62),
            (81, 72),
            (83, 73),
            (89, 79),
            (91, 80),
            (181, 170),
        ];
        for (id, class) in pairs {
            assert_eq!(LabelMapping::CocoStuff.meaning(id, 171), Class(class), "{id}");
        }
        let classes = (0..=254).filter(|&id| matches!(LabelMapping::CocoStuff.meaning(id, 171), Class(_)));
        assert_eq!(classes.count(), 171);
        assert_eq!(LabelMapping::CocoStuff.meaning(255, 171), NotCounted);
        assert_eq!(LabelMapping::CocoStuff.meaning(11, 171), Nothing);
    }

    #[test]
    fn coco_object_is_things_and_all_else_is_background() {
        let meanings = [0, 89, 91, 181, 255, 90, 182].map(|value| LabelMapping::CocoObject.meaning(value, 81));
        assert_eq!(
            meanings,
            [Class(1), Class(80), Class(0), Class(0), Class(0), Nothing, Nothing]
        );
    }

    #[test]
    fn cityscapes_ids_become_train_ids() {
        let meanings = [0, 7, 8, 9, 33, 34, 255].map(|value| LabelMapping::Cityscapes.meaning(value, 19));
        assert_eq!(
            meanings,
            [
                NotCounted,
                Class(0),
                Class(1),
                NotCounted,
                Class(18),
                Nothing,
                NotCounted
            ]
        );
    }

    /// Writes a PNG and reads it as a truth.
    fn read(
        color: ColorType,
        depth: BitDepth,
        size: (u32, u32),
        bytes: &[u8],
        classes: usize,
    ) -> Result<Truth, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("truth.png");
        let mut encoder = png::Encoder::new(File::create(&path).unwrap(), size.0, size.1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette(vec![7; 3 * 16]);
        }
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
        let sample = Sample {
            name: "a".into(),
            image: "a.jpg".into(),
            truth: path,
            form: LabelMapping::Identity.into(),
        };
        Truth::read(&sample, classes).map_err(|error| error.to_string())
    }

    #[test]
    fn every_depth_is_read_as_indices_and_padding_is_dropped() {
        let labels = |depth, bytes: &[u8]| read(ColorType::Indexed, depth, (3, 2), bytes, 16).unwrap().labels;
        assert_eq!(labels(BitDepth::One, &[0b1011_1111, 0b0101_1111]), [1, 0, 1, 0, 1, 0]);
        assert_eq!(labels(BitDepth::Two, &[0b1101_1000, 0b0010_0111]), [3, 1, 2, 0, 2, 1]);
        assert_eq!(labels(BitDepth::Four, &[0x12, 0x3f, 0x45, 0x6f]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(
            labels(BitDepth::Eight, &[1, 2, 255, 4, 5, 6]),
            [1, 2, UNLABELLED, 4, 5, 6]
        );
        let grey = read(
            ColorType::Grayscale,
            BitDepth::Sixteen,
            (2, 1),
            &[1, 44, 255, 255],
            1000,
        );
        assert_eq!(grey.unwrap().labels, [300, UNLABELLED]);
        let class_255 = read(ColorType::Grayscale, BitDepth::Sixteen, (1, 1), &[0, 255], 300);
        assert_eq!(class_255.unwrap().labels, [255]);
    }

    #[test]
    fn a_value_beyond_the_classes_is_an_error_that_names_it() {
        let error = read(ColorType::Grayscale, BitDepth::Eight, (2, 1), &[3, 21], 21).unwrap_err();
        assert!(
            error.contains("truth.png has the value 21, which is none of the 21 classes"),
            "{error}"
        );
    }

    #[test]
    fn colours_are_no_indices() {
        let error = read(ColorType::Rgb, BitDepth::Eight, (1, 1), &[1, 2, 3], 21).unwrap_err();
        assert!(
            error.contains("truth.png is no truth: it is a PNG of type Rgb"),
            "{error}"
        );
    }
}
