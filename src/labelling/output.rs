//! The formats of a run's results, and the files that each image has of its own.

use crate::formats::{
    ClassLabel, Collection, Georeference, LabelledImage, drawn_over, geotiff, jpeg, npz, png, probabilities_npz,
    yolo_polygons,
};
use crate::image::{Orientation, RgbImage, decode};
use crate::label_map::{LabelMap, LabelStyle, grey_label_png, label_png, panoptic_png};

/// A format of results.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::VariantNames,
)]
#[strum(serialize_all = "kebab-case")]
pub enum OutputFormat {
    /// An indexed PNG of class ids for each image, 16-bit grey above 255 classes.
    Png,
    /// A grey PNG of class ids for each image.
    PngGrey,
    /// Each image with the classes' colours over it, as a PNG.
    Overlay,
    /// The same as a JPEG.
    OverlayJpeg,
    /// A grey PNG for each image: the probability of each pixel's own label times 255.
    Confidence,
    /// A text file of polygons for each image, as YOLO reads them, and the names of the classes.
    Yolo,
    /// COCO's instances with run lengths.
    Coco,
    /// COCO's instances with polygons.
    CocoPolygons,
    /// COCO's panoptic segmentation: a PNG for each image, and a JSON.
    Panoptic,
    /// Tasks of Label Studio with brush strokes, and the labelling configuration.
    LabelStudio,
    /// The same with polygons.
    LabelStudioPolygons,
    /// CVAT's XML for images, with masks.
    Cvat,
    /// Datumaro's JSON, with masks.
    Datumaro,
    /// Arrays for NumPy for each image: labels, confidence, and the measures of each class.
    Numpy,
    /// Arrays for NumPy for each image: the probability of every class in every pixel.
    NumpyProbabilities,
    /// A TIFF of class ids for each image, with the georeference of the image.
    Geotiff,
    /// The measures of every class in every image as comma-separated values.
    Csv,
    /// The same as Parquet.
    Parquet,
}

/// How images are drawn over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawing {
    /// The share of the classes' colours, 0 to 1.
    pub opacity: f32,
    /// The quality of JPEGs, 1 to 100.
    pub jpeg_quality: u8,
}

/// Everything that an image's own files are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Material<'a> {
    pub image: &'a LabelledImage,
    pub map: &'a LabelMap,
    /// The image's pixels, if a format needs them.
    pub pixels: Option<&'a RgbImage>,
    /// The confidence map as a PNG, if a format needs it.
    pub confidence: Option<&'a [u8]>,
    /// The probability map of each class as a PNG, by ascending id, if a format needs them.
    pub probabilities: &'a [(u16, Vec<u8>)],
    /// Where the image lies on the earth, if a format needs it and the image says so.
    pub georeference: Option<&'a Georeference>,
    pub classes: &'a [ClassLabel],
    pub style: &'a LabelStyle,
    pub drawing: Drawing,
}

impl OutputFormat {
    /// Returns the path of an image's own file in the folder of the run, if the format has such files.
    pub fn path(self, name: &str) -> Option<String> {
        let (folder, ending) = match self {
            Self::Png => ("masks", "png"),
            Self::PngGrey => ("grey", "png"),
            Self::Overlay => ("overlays", "png"),
            Self::OverlayJpeg => ("overlays", "jpg"),
            Self::Confidence => ("confidence", "png"),
            Self::Yolo => ("yolo/labels", "txt"),
            Self::Panoptic => ("panoptic", "png"),
            Self::Numpy => ("numpy", "npz"),
            Self::NumpyProbabilities => ("probabilities", "npz"),
            Self::Geotiff => ("geotiff", "tif"),
            Self::Coco
            | Self::CocoPolygons
            | Self::LabelStudio
            | Self::LabelStudioPolygons
            | Self::Cvat
            | Self::Datumaro
            | Self::Csv
            | Self::Parquet => return None,
        };
        Some(format!("{folder}/{name}.{ending}"))
    }

    /// Returns the collection of the format, if it has a file about all images.
    pub fn collection(self) -> Option<Collection> {
        match self {
            Self::Coco => Some(Collection::Coco),
            Self::CocoPolygons => Some(Collection::CocoPolygons),
            Self::Panoptic => Some(Collection::Panoptic),
            Self::LabelStudio => Some(Collection::LabelStudio),
            Self::LabelStudioPolygons => Some(Collection::LabelStudioPolygons),
            Self::Cvat => Some(Collection::Cvat),
            Self::Datumaro => Some(Collection::Datumaro),
            Self::Csv => Some(Collection::Csv),
            Self::Png
            | Self::PngGrey
            | Self::Overlay
            | Self::OverlayJpeg
            | Self::Confidence
            | Self::Yolo
            | Self::Numpy
            | Self::NumpyProbabilities
            | Self::Geotiff
            | Self::Parquet => None,
        }
    }

    /// Returns whether an image's own file needs the pixels of the image.
    pub(super) fn needs_pixels(self) -> bool {
        matches!(self, Self::Overlay | Self::OverlayJpeg)
    }

    /// Returns whether an image's own file needs the confidence map.
    pub fn needs_confidence(self) -> bool {
        matches!(self, Self::Confidence | Self::Numpy)
    }

    /// Returns whether an image's own file needs the probability maps of all classes.
    pub fn needs_probabilities(self) -> bool {
        matches!(self, Self::NumpyProbabilities)
    }

    /// Writes an image's own file. Returns `None` if the format has none.
    ///
    /// # Errors
    /// A reason in words when the format cannot hold the image.
    pub(super) fn encode(self, material: Material<'_>) -> Result<Option<Vec<u8>>, String> {
        let Material { image, map, style, .. } = material;
        let overlay = || {
            let pixels = material.pixels.expect("the pixels of this format are decoded");
            drawn_over(pixels, &map.labels, |id| style.color(id), material.drawing.opacity)
        };
        Ok(Some(match self {
            Self::Png => label_png(map, style),
            Self::PngGrey => grey_label_png(map, style),
            Self::Overlay => png(&overlay()),
            Self::OverlayJpeg => jpeg(&overlay(), material.drawing.jpeg_quality)
                .ok_or("a JPEG has at most 65535 pixels in a row or column; take overlay")?,
            Self::Confidence => material.confidence.ok_or(NO_CONFIDENCE)?.to_vec(),
            Self::Yolo => yolo_polygons(image).ok_or(MISFIT)?.into_bytes(),
            Self::Panoptic => panoptic_png(map),
            Self::Numpy => {
                let confidence = material.confidence.ok_or(NO_CONFIDENCE)?;
                npz(image, map, material.classes, &grey_values(confidence, map)?)
            }
            Self::NumpyProbabilities => {
                let ids = material.probabilities.iter().map(|(id, _)| usize::from(*id));
                if !ids.eq(0..material.classes.len()) {
                    return Err("the answer has no probability map of each class".to_owned());
                }
                let mut values = Vec::with_capacity(material.classes.len() * map.labels.len());
                for (_, file) in material.probabilities {
                    values.extend(grey_values(file, map)?);
                }
                probabilities_npz([map.height, map.width], material.classes, &values)
            }
            Self::Geotiff => geotiff(map, style.unlabelled, material.georeference),
            Self::Coco
            | Self::CocoPolygons
            | Self::LabelStudio
            | Self::LabelStudioPolygons
            | Self::Cvat
            | Self::Datumaro
            | Self::Csv
            | Self::Parquet => return Ok(None),
        }))
    }
}

/// Returns the values of a grey PNG of the size of the label map, `[height, width]`.
fn grey_values(file: &[u8], map: &LabelMap) -> Result<Vec<u8>, String> {
    let pixels = decode(file, Orientation::Stored, u64::MAX).map_err(|error| error.to_string())?;
    match pixels.dimensions() == (map.width, map.height) {
        true => Ok(pixels.pixels().map(|grey| grey.0[0]).collect()),
        false => Err(MISFIT.to_owned()),
    }
}

/// The text for an answer that lacks what was asked for.
const NO_CONFIDENCE: &str = "the answer has no confidence map";

/// The text for masks that do not fit their image.
pub(super) const MISFIT: &str = "its masks do not fit its size";
