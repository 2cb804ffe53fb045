//! Files that hold the annotations of many images, written one image after the other.
//!
//! A collection consists of parts, such as the images and the annotations of COCO. Every image adds an entry to each
//! part, and entries do not depend on each other, so that they can be made in any order and written with little memory.

use super::label_studio::LabelStudioTool as Tool;
use super::{LabelledImage, Numbers, Subject, coco, cvat, datumaro, label_studio, table};

/// A format for the annotations of many images in one file.
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
pub enum Collection {
    /// COCO's instances with run lengths.
    Coco,
    /// COCO's instances with polygons.
    CocoPolygons,
    /// The JSON of COCO's panoptic annotations; the PNGs are [`panoptic_png`](crate::label_map::panoptic_png).
    Panoptic,
    /// Tasks of Label Studio with brush strokes as predictions.
    LabelStudio,
    /// Tasks of Label Studio with polygons as predictions.
    LabelStudioPolygons,
    /// CVAT's XML for images, with masks.
    Cvat,
    /// Datumaro's JSON, with masks.
    Datumaro,
    /// The measures of every class in every image as comma-separated values.
    Csv,
}

impl Collection {
    /// Returns the name of the file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Coco => "coco.json",
            Self::CocoPolygons => "coco-polygons.json",
            Self::Panoptic => "panoptic.json",
            Self::LabelStudio => "label-studio.json",
            Self::LabelStudioPolygons => "label-studio-polygons.json",
            Self::Cvat => "cvat.xml",
            Self::Datumaro => "datumaro/annotations/default.json",
            Self::Csv => "statistics.csv",
        }
    }

    /// Returns the texts before, between and behind the parts: one more than there are parts.
    pub fn frame(self, subject: &Subject) -> Vec<String> {
        match self {
            Self::Coco | Self::CocoPolygons => coco::instances_frame(subject),
            Self::Panoptic => coco::panoptic_frame(subject),
            Self::LabelStudio | Self::LabelStudioPolygons => vec!["[\n".to_owned(), "\n]\n".to_owned()],
            Self::Cvat => cvat::frame(subject),
            Self::Datumaro => datumaro::frame(subject),
            Self::Csv => table::frame(),
        }
    }

    /// Returns the text between two entries of a part.
    pub fn separator(self) -> &'static str {
        match self {
            Self::Cvat | Self::Csv => "",
            Self::Coco
            | Self::CocoPolygons
            | Self::Panoptic
            | Self::LabelStudio
            | Self::LabelStudioPolygons
            | Self::Datumaro => ",\n",
        }
    }

    /// Returns the entry of an image for each part. An empty entry adds nothing to its part. Returns `None` where the
    /// masks do not fit the image.
    pub fn entries(self, image: &LabelledImage, subject: &Subject, numbers: Numbers) -> Option<Vec<String>> {
        match self {
            Self::Coco => Some(coco::with_run_lengths(image, numbers)),
            Self::CocoPolygons => coco::with_polygons(image, numbers),
            Self::Panoptic => Some(coco::panoptic(image, numbers)),
            Self::LabelStudio => label_studio::task(image, subject, numbers, Tool::Brush),
            Self::LabelStudioPolygons => label_studio::task(image, subject, numbers, Tool::Polygon),
            Self::Cvat => cvat::image(image, subject, numbers),
            Self::Datumaro => Some(datumaro::item(image)),
            Self::Csv => Some(table::rows(image, subject)),
        }
    }

    /// Returns files that go with the collection, by their names: what a program wants to be told of the classes.
    pub fn companions(self, subject: &Subject) -> Vec<(&'static str, String)> {
        match self {
            Self::LabelStudio => vec![(
                "label-studio.xml",
                label_studio::labelling_configuration(subject, Tool::Brush),
            )],
            Self::LabelStudioPolygons => vec![(
                "label-studio-polygons.xml",
                label_studio::labelling_configuration(subject, Tool::Polygon),
            )],
            Self::Coco | Self::CocoPolygons | Self::Panoptic | Self::Cvat | Self::Datumaro | Self::Csv => Vec::new(),
        }
    }
}
