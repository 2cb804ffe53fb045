//! Data sets: their images, the truth of each image, and the class of each value in a truth.
//!
//! This room owns the layouts on disk and the reading of truths. The engine decodes the images, as for any request.

mod folder;
mod layout;
mod truth;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::support::WalkError;

pub use folder::{FolderLayout, ImageFile, TruthFiles, find_images};
pub use layout::Layout;
pub use truth::{LabelMapping, Truth};

/// Images with their truths, in the order of their names.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The images with their truths.
    pub samples: Vec<Sample>,
    /// What the folders hold beside these.
    pub left_out: LeftOut,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The image's path within the folder of images, without its ending. Reports use this name.
    pub name: String,
    /// Path of the image.
    pub image: PathBuf,
    /// Path of the truth, a PNG of class indices.
    pub truth: PathBuf,
    /// The meaning of the truth's values.
    pub labels: LabelMapping,
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
        "{} has the value {value}, which is none of the {classes} classes (255 is for pixels that are not counted)",
        path.display()
    )]
    UnknownValue {
        /// The truth.
        path: PathBuf,
        /// The value.
        value: u16,
        /// The number of classes.
        classes: usize,
    },
    /// Image and truth differ in size.
    #[error(
        "{} has {} x {} pixels, but its truth {} has {} x {}",
        image.display(), image_size.0, image_size.1, truth.display(), truth_size.0, truth_size.1
    )]
    SizeMismatch {
        /// The image.
        image: PathBuf,
        /// Its width and height in pixels.
        image_size: (u32, u32),
        /// The truth.
        truth: PathBuf,
        /// Its width and height in pixels.
        truth_size: (u32, u32),
    },
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
