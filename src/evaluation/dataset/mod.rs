//! Data sets: which images there are, where each one's truth is, and which class each of its values means.
//!
//! Owns the layouts on disk and reading truths. Leaves decoding images to the engine, as for any request.

mod layout;
mod truth;

use std::path::{Path, PathBuf};

pub use layout::{FolderLayout, Layout};
pub use truth::{LabelMapping, Truth};

/// Images with truths, in the order of their names.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The samples.
    pub samples: Vec<Sample>,
    /// Images of a folder that were left out because they have no truth.
    pub images_without_truth: usize,
}

/// One image and its truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The image's path in the folder of images without its ending: what reports call it.
    pub name: String,
    /// The image's file.
    pub image: PathBuf,
    /// The truth's file, a PNG of class indices.
    pub truth: PathBuf,
    /// What the truth's values mean.
    pub labels: LabelMapping,
}

/// Why a data set cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing in the folder can be measured.
    #[error("{} has no image with a truth: {looked_for}", folder.display())]
    Empty {
        /// The folder of images.
        folder: PathBuf,
        /// What was looked for, for people.
        looked_for: String,
    },
    /// An image of a published data set without its truth.
    #[error("{} has no truth: there is no {}", image.display(), truth.display())]
    MissingTruth {
        /// The image.
        image: PathBuf,
        /// Where its truth would be.
        truth: PathBuf,
    },
    /// The truth is no PNG of indices.
    #[error("{} is no truth: {reason}", path.display())]
    InvalidTruth {
        /// The truth.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A value of the truth that means no class.
    #[error(
        "{} has the value {value}, which is none of the {classes} classes (255 is for pixels that are not counted)",
        path.display()
    )]
    UnknownValue {
        /// The truth.
        path: PathBuf,
        /// The value.
        value: u16,
        /// How many classes there are.
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

/// For `map_err`: what could not be read.
pub(super) fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> DatasetError {
    let path = path.to_owned();
    move |source| DatasetError::Unreadable { path, source }
}
