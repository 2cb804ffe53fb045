//! From bytes to pixels to the model's input: limits, decoding, orientation, resize and normalisation.
//!
//! Owns every step from an upload to the `[3, height, width]` floats that CLIP reads. Knows nothing of tensors, and of
//! models only the constants in [`Normalisation`].

mod decode;
mod embedded;
mod format;
mod header;
mod jpeg;
mod pass_order;
mod pixels;
mod repair;
mod resize;
#[cfg(test)]
mod resize_cases;
mod square;
mod tiff;

use serde::{Deserialize, Serialize};

pub use ::image::RgbImage;
pub use decode::{decode, read_header};
pub use header::ImageHeader;
pub use pixels::encode_pixels;
pub use resize::{InputTooLarge, Resize, preprocess, preprocess_square};

/// Endings of image files in lower case: the usual ones of the formats that are read. Commands find the images of a folder
/// by them.
pub const FILE_ENDINGS: [&str; 11] = [
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
];

/// Endings of image files in lower case whose formats are not read. Commands count them, so that nobody misses them.
pub const UNREAD_FILE_ENDINGS: [&str; 7] = [".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".psd"];

/// How the pixels of an image are turned.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Serialize,
    Deserialize,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Orientation {
    /// As the EXIF (or TIFF) orientation says: as viewers show the image.
    #[default]
    Exif,
    /// Not at all: as most programs for annotations read the image.
    Stored,
}

/// CLIP's normalisation of each channel for pixels in 0 to 1: `(value - mean) / std`, in RGB order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// The mean of each channel.
    pub mean: [f32; 3],
    /// The standard deviation of each channel.
    pub std: [f32; 3],
}

impl Normalisation {
    /// OpenAI's constants, with which most of open_clip's models were trained, too.
    #[allow(clippy::excessive_precision)] // The digits are those published.
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
    };
}

/// A model's input for one image: the image at one or more sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInput {
    /// Height of the image in pixels.
    pub image_height: usize,
    /// Width of the image in pixels.
    pub image_width: usize,
    /// The sizes at which the model sees the image; at least one. The scores of all sizes have equal weight.
    pub sizes: Vec<NormalisedImage>,
}

/// An image at one of the sizes at which a model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NormalisedImage {
    /// Height in pixels, at least one of the model's patches.
    pub height: usize,
    /// Width in pixels, at least one of the model's patches.
    pub width: usize,
    /// The pixels, `[3, height, width]`: the planes of R, G and B, each row by row.
    pub values: Vec<f32>,
}

/// The reason why an upload was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are in no format that this server reads.
    #[error("the image is none of the formats this server reads: {supported}")]
    UnknownFormat {
        /// The formats that the server reads, for people.
        supported: &'static str,
    },
    /// The bytes are in a format that this server does not read.
    #[error("the image is {name}, which is not read; convert it to one of {supported}")]
    UnreadFormat {
        /// The format's name.
        name: &'static str,
        /// The formats that the server reads, for people.
        supported: &'static str,
    },
    /// The header promises more pixels than the limit allows.
    #[error("the image has {width} x {height} pixels, more than limits.max_image_pixels = {limit}")]
    TooManyPixels {
        /// Width in pixels according to the header.
        width: u32,
        /// Height in pixels according to the header.
        height: u32,
        /// The limit in pixels.
        limit: u64,
    },
    /// The file ends before its pixels do.
    #[error("the image is cut short: the file ends before its pixels do")]
    CutShort,
    /// The file has a known format but is damaged.
    #[error("the image cannot be decoded: {0}")]
    Undecodable(String),
}
