//! Data sets: their images, the truth of each image, and the class of each value in a truth.
//!
//! This room owns the layouts on disk and the reading of truths. The engine decodes the images, as for any request.

mod annotations;
mod coco;
mod cvat;
mod folder;
mod label_studio;
mod layout;
mod legend;
mod shapes;
mod truth;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::support::WalkError;

pub use coco::CocoTruths;
pub use cvat::CvatTruths;
pub use folder::{FolderLayout, ImageFile, TruthFiles, find_images};
pub use label_studio::LabelStudioTruths;
pub use layout::Layout;
pub use legend::{Legend, LegendError, TruthCode};
pub use shapes::{DrawingOrder, Shape, Shapes};
pub use truth::{LabelMapping, Truth, TruthForm};

/// Images with their truths, in the order of their names.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The images with their truths.
    pub samples: Vec<Sample>,
    /// What the folders hold beside these.
    pub left_out: LeftOut,
    /// The truths' own names that are no class, so that their pixels do not count.
    pub uncounted_names: Vec<String>,
}

/// Numbers of files in the folders of a data set that are not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LeftOut {
    /// Images without a truth.
    pub images_without_truth: usize,
    /// Truths without an image.
    pub truths_without_image: usize,
    /// Images whose names begin with a dot.
    pub hidden_images: usize,
    /// Images in a format that is not read, by their endings.
    pub unread_formats: usize,
}

/// An image with its truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The image's path within the folder of images, without its ending. Reports use this name.
    pub name: String,
    /// Path of the image.
    pub image: PathBuf,
    /// Path of the truth.
    pub truth: PathBuf,
    /// How the truth is read.
    pub form: TruthForm,
}

/// Why a data set cannot be used. Each text names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The folder has no image with a truth.
    #[error("{} has no image with a truth: {looked_for}", folder.display())]
    Empty {
        /// The folder of images.
        folder: PathBuf,
        /// The files that were looked for, in words.
        looked_for: String,
    },
    /// Two images, or two truths, have one name.
    #[error("{} and {} have one name: which of them counts?", one.display(), other.display())]
    TwoFiles {
        /// The first file.
        one: PathBuf,
        /// The second file.
        other: PathBuf,
    },
    /// An image has no truth, where each needs one.
    #[error("{} has no truth: there is no {}", image.display(), truth.display())]
    MissingTruth {
        /// The image.
        image: PathBuf,
        /// The path at which its truth was expected.
        truth: PathBuf,
    },
    /// The truth is not a PNG of class indices.
    #[error("{} is no truth: {reason}", path.display())]
    InvalidTruth {
        /// The truth.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// A value in the truth is not a class.
    #[error(
        "{} has the value {value}, which is none of the {classes} classes{}",
        path.display(), ignored.map_or(String::new(), |value| format!(" ({value} is for pixels that are not counted)"))
    )]
    UnknownValue {
        /// The truth.
        path: PathBuf,
        /// The value.
        value: u16,
        /// The number of classes.
        classes: usize,
        /// The value of pixels that do not count, if there is one.
        ignored: Option<u16>,
    },
    /// A value or a colour in the truth has no meaning.
    #[error("{} has {what}, which {legend} not have", path.display())]
    Unexplained {
        /// The truth.
        path: PathBuf,
        /// The value or colour, in words.
        what: String,
        /// What does not have it, in words with a verb: "the legend does".
        legend: &'static str,
    },
    /// Image and truth differ in size.
    #[error(
        "{} has {} x {} pixels{}, but its truth {} has {} x {}",
        image.display(), image_size.0, image_size.1, turned(*orientation), truth.display(), truth_size.0, truth_size.1
    )]
    SizeMismatch {
        /// The image.
        image: PathBuf,
        /// Its width and height in pixels.
        image_size: (u32, u32),
        /// The EXIF orientation by which the image was turned; 1 if it was not.
        orientation: u8,
        /// The truth.
        truth: PathBuf,
        /// Its width and height in pixels.
        truth_size: (u32, u32),
    },
}

/// Says that an image was turned, in a sentence about its size.
fn turned(orientation: u8) -> String {
    match orientation {
        1 => String::new(),
        _ => format!(
            " after its EXIF orientation {orientation} turned it (the orientation `stored` reads its pixels as the file \
             has them)"
        ),
    }
}

/// Returns a function for `map_err` that names the file that could not be read.
pub(super) fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> DatasetError {
    let path = path.to_owned();
    move |source| DatasetError::Unreadable { path, source }
}

impl From<WalkError> for DatasetError {
    fn from(WalkError { path, source }: WalkError) -> Self {
        Self::Unreadable { path, source }
    }
}
