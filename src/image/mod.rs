//! Bytes to pixels to the model's input: limits, decoding, orientation, resize, normalisation.
//!
//! Owns everything between an upload and the `[3, height, width]` floats CLIP reads. Knows nothing
//! of tensors or models beyond the three numbers in [`Normalisation`].

mod decode;
mod embedded;
mod resize;

pub use ::image::RgbImage;
pub use decode::decode;
pub use resize::{InputTooLarge, Resize, preprocess};

/// CLIP's per-channel normalisation of pixels in 0 to 1: `(value - mean) / std`, RGB order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// Mean per channel.
    pub mean: [f32; 3],
    /// Standard deviation per channel.
    pub std: [f32; 3],
}

impl Normalisation {
    /// OpenAI's constants, which most of open_clip's models were trained with too.
    #[allow(clippy::excessive_precision)] // Digit for digit as published.
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
    };
}

/// A model's input for one image: the image at one or more sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInput {
    /// Height in pixels of the image itself.
    pub image_height: usize,
    /// Width in pixels of the image itself.
    pub image_width: usize,
    /// At least one; scores of all of them count the same.
    pub sizes: Vec<NormalisedImage>,
}

/// An image at one of the sizes at which a model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NormalisedImage {
    /// Height in pixels, at least one of the model's patches.
    pub height: usize,
    /// Width in pixels, at least one of the model's patches.
    pub width: usize,
    /// `[3, height, width]`, RGB planes, row-major.
    pub values: Vec<f32>,
}

/// Why an upload was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// None of the formats this server reads.
    #[error("the image is none of the formats this server reads: {supported}")]
    UnknownFormat {
        /// The formats, for people.
        supported: &'static str,
    },
    /// The header promises more pixels than the limit.
    #[error("the image has {width} x {height} pixels, more than limits.max_image_pixels = {limit}")]
    TooManyPixels {
        /// Width in pixels, from the header.
        width: u32,
        /// Height in pixels, from the header.
        height: u32,
        /// The limit in pixels.
        limit: u64,
    },
    /// A known format with a defect.
    #[error("the image cannot be decoded: {0}")]
    Undecodable(String),
}
