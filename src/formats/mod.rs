//! Label maps in the formats of the programs that people annotate, train and measure with.
//!
//! Owns the form of each format, and no file: every function goes from plain data to bytes. Knows neither models nor
//! HTTP. The formats of the API's replies that need nothing but a label map are those of `label_map`.

mod arrays;
mod coco;
mod collection;
mod columns;
mod cvat;
mod datumaro;
mod geotiff;
mod label_studio;
mod rasters;
mod table;
mod yolo;

use serde::{Deserialize, Serialize};

use crate::label_map::{ClassStatistics, CocoMask, LabelMap, coco_pixels};
use crate::scores::UNLABELLED;

pub use arrays::{npz, probabilities_npz};
pub use collection::Collection;
pub use columns::ParquetTable;
pub use geotiff::{Georeference, geotiff};
pub use label_studio::{polygon_shape, stroke};
pub use rasters::{drawn_over, jpeg, png};
pub use yolo::{yolo_dataset, yolo_polygons};

/// A class as formats name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassLabel {
    /// The name.
    pub name: String,
    /// The RGB colour.
    pub color: [u8; 3],
}

/// What all images of a collection have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The classes in the order of their ids.
    pub classes: Vec<ClassLabel>,
    /// What stands before the path of an image where a program finds images by their address.
    pub image_prefix: String,
}

/// The place of an image in a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// The number of the image, from 1.
    pub image: u64,
    /// The number of its first annotation, from 1. Each mask of the image has a number.
    pub annotation: u64,
}

/// A labelled image as plain data: everything that a collection of annotations says of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelledImage {
    /// The path of the image within its folder, with its ending and with `/` between folders.
    pub file_name: String,
    /// The path under which the image's own files stand: usually the same without the ending.
    pub name: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Name of the model that labelled it.
    pub model: String,
    /// The measures of each class, in the order of their ids.
    pub classes: Vec<ClassMeasures>,
    /// The mask of each class that has pixels, lowest id first.
    pub masks: Vec<ClassMask>,
}

/// The mask of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u16, String)", into = "(u16, String)")]
pub struct ClassMask {
    /// The id of the class.
    pub class_id: u16,
    /// The lengths of the runs, as COCO's printable string.
    pub counts: String,
}

impl From<(u16, String)> for ClassMask {
    fn from((class_id, counts): (u16, String)) -> Self {
        Self { class_id, counts }
    }
}

impl From<ClassMask> for (u16, String) {
    fn from(mask: ClassMask) -> Self {
        (mask.class_id, mask.counts)
    }
}

impl From<CocoMask> for ClassMask {
    fn from(mask: CocoMask) -> Self {
        Self {
            class_id: mask.class_id,
            counts: mask.counts,
        }
    }
}

/// What is known of one class in one image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "Measures", into = "Measures")]
pub struct ClassMeasures {
    /// The number of pixels with the class.
    pub pixels: u64,
    /// The smallest box around these pixels, `[x, y, width, height]` in pixels; `None` when there are none.
    pub bounding_box: Option<[u32; 4]>,
    /// The mean probability of the class over its own pixels, 0 to 1; `None` when it has none.
    pub mean_confidence: Option<f32>,
    /// The largest probability of the class over its own pixels, 0 to 1; `None` when it has none.
    pub max_confidence: Option<f32>,
    /// The largest probability of the class over all pixels, 0 to 1.
    pub presence: f32,
    /// Largest raw cosine of the class in any cell, -1 to 1.
    pub similarity: f32,
    /// The probability of the class in the image as a whole, 0 to 1.
    pub image_probability: f32,
}

/// The same as a list, which takes a third of the bytes.
type Measures = (u64, Option<[u32; 4]>, Option<f32>, Option<f32>, f32, f32, f32);

impl From<Measures> for ClassMeasures {
    fn from(list: Measures) -> Self {
        let (pixels, bounding_box, mean_confidence, max_confidence, presence, similarity, image_probability) = list;
        Self {
            pixels,
            bounding_box,
            mean_confidence,
            max_confidence,
            presence,
            similarity,
            image_probability,
        }
    }
}

impl From<ClassMeasures> for Measures {
    fn from(class: ClassMeasures) -> Self {
        (
            class.pixels,
            class.bounding_box,
            class.mean_confidence,
            class.max_confidence,
            class.presence,
            class.similarity,
            class.image_probability,
        )
    }
}

impl LabelledImage {
    /// Returns the label map without confidence, or `None` where the masks do not fit the image.
    pub fn label_map(&self) -> Option<LabelMap> {
        let mut labels = vec![UNLABELLED; self.width as usize * self.height as usize];
        for mask in &self.masks {
            for pixel in coco_pixels(&mask.counts, [self.height, self.width])? {
                labels[pixel] = mask.class_id;
            }
        }
        Some(LabelMap {
            width: self.width,
            height: self.height,
            labels,
            confidence: None,
            classes: self.classes.iter().map(ClassMeasures::statistics).collect(),
        })
    }
}

impl ClassMeasures {
    fn statistics(&self) -> ClassStatistics {
        ClassStatistics {
            pixels: self.pixels,
            bounding_box: self.bounding_box,
            mean_confidence: self.mean_confidence,
            max_confidence: self.max_confidence,
            presence: self.presence,
        }
    }
}

/// Returns a text as it stands in an attribute or an element of XML. Characters that XML cannot hold are replaced. White
/// space but blanks is named by number, because a reader makes blanks of it in an attribute.
fn in_xml(text: &str) -> String {
    let is_unfit = |character: char| {
        (character < ' ' && !matches!(character, '\t' | '\n' | '\r')) || matches!(character, '\u{fffe}' | '\u{ffff}')
    };
    let fit = text.replace(is_unfit, "\u{fffd}");
    let escaped = htmlize::escape_all_quotes(fit);
    escaped
        .replace('\t', "&#9;")
        .replace('\n', "&#10;")
        .replace('\r', "&#13;")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing {
    //! Labelled images for the tests of formats.

    use super::*;
    use crate::label_map::coco_masks;

    /// Returns an image with these labels, `[height, width]`; [`UNLABELLED`] has no class.
    pub(crate) fn labelled(file_name: &str, width: u32, labels: &[u16], classes: usize) -> LabelledImage {
        let height = labels.len() as u32 / width;
        let at = |id: usize| {
            let places = (0..labels.len()).filter(move |&place| usize::from(labels[place]) == id);
            places.map(move |place| [place as u32 % width, place as u32 / width])
        };
        let measures = |id: usize| {
            let pixels = at(id).count() as u64;
            let bound = |axis: usize| {
                let low = at(id).map(|place| place[axis]).min()?;
                Some((low, at(id).map(|place| place[axis]).max()? - low + 1))
            };
            ClassMeasures {
                pixels,
                bounding_box: bound(0)
                    .zip(bound(1))
                    .map(|((x, width), (y, height))| [x, y, width, height]),
                mean_confidence: (pixels > 0).then_some(0.5),
                max_confidence: (pixels > 0).then_some(0.75),
                presence: 0.75,
                similarity: 0.25,
                image_probability: 0.125,
            }
        };
        let classes: Vec<ClassMeasures> = (0..classes).map(measures).collect();
        let map = LabelMap {
            width,
            height,
            labels: labels.to_vec(),
            confidence: None,
            classes: classes.iter().map(ClassMeasures::statistics).collect(),
        };
        LabelledImage {
            file_name: file_name.to_owned(),
            name: file_name
                .rsplit_once('.')
                .map_or(file_name, |(name, _)| name)
                .to_owned(),
            width,
            height,
            model: "demo".to_owned(),
            classes,
            masks: coco_masks(&map).into_iter().map(Into::into).collect(),
        }
    }

    /// Returns a cat, 0, with a hole, a dog, 1, and a pixel of neither.
    pub(crate) fn cat_and_dog() -> LabelledImage {
        const N: u16 = UNLABELLED;
        let labels = [
            0, 0, 0, 1, //
            0, N, 0, 1, //
            0, 0, 0, 0,
        ];
        labelled("pets/a.jpg", 4, &labels, 3)
    }

    /// Returns the classes of [`cat_and_dog`], the last of which it lacks.
    pub(crate) fn subject() -> Subject {
        let class = |(name, color): (&str, [u8; 3])| ClassLabel {
            name: name.to_owned(),
            color,
        };
        let classes = [
            ("cat", [128, 0, 0]),
            ("<dog> & \"co\"", [0, 128, 0]),
            ("cow", [128, 128, 0]),
        ];
        Subject {
            classes: classes.map(class).to_vec(),
            image_prefix: "/data/".to_owned(),
        }
    }

    /// The numbers of the first image of a collection.
    pub(super) const FIRST: Numbers = Numbers {
        image: 1,
        annotation: 1,
    };

    /// Returns a file with one image, from the texts around its parts and the entry of the image in each.
    pub(super) fn whole(frame: &[String], entries: &[String]) -> String {
        assert_eq!(frame.len(), entries.len() + 1);
        let mut text = frame[0].clone();
        for (entry, rest) in entries.iter().zip(&frame[1..]) {
            text.push_str(entry);
            text.push_str(rest);
        }
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::testing::cat_and_dog;
    use super::*;

    #[test]
    fn a_map_comes_back_from_its_masks_and_from_json() {
        let image = cat_and_dog();
        let map = image.label_map().unwrap();
        assert_eq!(map.labels, [0, 0, 0, 1, 0, UNLABELLED, 0, 1, 0, 0, 0, 0]);
        assert_eq!(map.classes[1].bounding_box, Some([3, 0, 1, 2]));
        let text = serde_json::to_string(&image).unwrap();
        assert_eq!(serde_json::from_str::<LabelledImage>(&text).unwrap(), image);
        let damaged = LabelledImage { width: 3, ..image };
        assert_eq!(damaged.label_map(), None);
    }

    #[test]
    fn a_text_is_fit_for_xml() {
        assert_eq!(in_xml("a<b> & \"c\" \u{1}"), "a&lt;b&gt; &amp; &quot;c&quot; \u{fffd}");
        assert_eq!(in_xml("a\tb\nc\r"), "a&#9;b&#10;c&#13;");
    }
}
