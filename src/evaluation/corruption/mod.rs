//! Corruptions of images as ImageNet-C defines them: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness
//! to Common Corruptions and Perturbations", ICLR 2019.
//!
//! The constants come from the benchmark's own code, `ImageNet-C/imagenet_c/imagenet_c/corruptions.py` of
//! github.com/hendrycks/robustness. Functions of OpenCV, scikit-image and libjpeg are written here from their
//! documented definitions. ImageNet-C corrupts crops of 224 x 224 pixels and saves them as JPEG. Here the whole image
//! is corrupted at its own size and not saved as JPEG. As in ImageNet-C, results are truncated to 8 bits, not rounded.

mod blur;
mod jpeg;
mod noise;
mod spatter;

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use strum::{Display, EnumString, VariantArray, VariantNames};

use crate::image::RgbImage;
use crate::support::Random;

/// The highest severity. The lowest is 1.
const MAX_SEVERITY: u8 = 5;

/// A kind of corruption with a severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct Corruption {
    kind: CorruptionKind,
    /// 1 to 5.
    severity: u8,
}

/// The kinds of corruption in MaskCLIP's table on robustness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, EnumString, VariantArray, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum CorruptionKind {
    /// Adds normal noise.
    GaussianNoise,
    /// Adds Poisson noise, the noise of counted photons.
    ShotNoise,
    /// Makes random values black or white.
    ImpulseNoise,
    /// Adds normal noise in proportion to the value.
    SpeckleNoise,
    /// Applies a Gaussian filter.
    GaussianBlur,
    /// Applies a disk filter, so the image looks out of focus.
    DefocusBlur,
    /// Puts water on the lens, or mud at severities 4 and 5.
    Spatter,
    /// Compresses as JPEG of low quality.
    Jpeg,
}

impl Corruption {
    /// Corrupts an image. Randomness depends only on the corruption and on the image's `name`, so results repeat.
    pub fn apply(self, image: &RgbImage, name: &str) -> RgbImage {
        let place = usize::from(self.severity) - 1;
        let random = &mut Random::seeded(&format!("{self} {name}"));
        let pixels = &Pixels::from(image);
        let corrupted = match self.kind {
            CorruptionKind::GaussianNoise => noise::gaussian(pixels, [0.08, 0.12, 0.18, 0.26, 0.38][place], random),
            CorruptionKind::ShotNoise => noise::shot(pixels, [60.0, 25.0, 12.0, 5.0, 3.0][place], random),
            CorruptionKind::ImpulseNoise => noise::impulse(pixels, [0.03, 0.06, 0.09, 0.17, 0.27][place], random),
            CorruptionKind::SpeckleNoise => noise::speckle(pixels, [0.15, 0.2, 0.35, 0.45, 0.6][place], random),
            CorruptionKind::GaussianBlur => blur::gaussian(pixels, [1.0, 2.0, 3.0, 4.0, 6.0][place]),
            CorruptionKind::DefocusBlur => {
                let (radius, alias) = [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)][place];
                blur::defocus(pixels, radius, alias)
            }
            CorruptionKind::Spatter => {
                let constants = spatter::CONSTANTS[place];
                let count = pixels.width * pixels.height;
                let noise: Vec<f64> = (0..count).map(|_| random.normal()).collect();
                spatter::spatter(pixels, &constants, &noise)
            }
            // JPEG returns whole 8-bit values, so nothing is left to truncate.
            CorruptionKind::Jpeg => return jpeg::compress(image, [25, 18, 15, 10, 7][place]),
        };
        corrupted.into_image()
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.kind, self.severity)
    }
}

impl From<Corruption> for String {
    fn from(corruption: Corruption) -> Self {
        corruption.to_string()
    }
}

impl FromStr for Corruption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(name, severity)| {
            let kind = name.parse().ok()?;
            let severity = severity.parse().ok()?;
            (1..=MAX_SEVERITY)
                .contains(&severity)
                .then_some(Self { kind, severity })
        });
        parts.ok_or_else(|| {
            let names = <CorruptionKind as VariantNames>::VARIANTS.join(", ");
            format!("{text:?} is no corruption: NAME:SEVERITY, severity 1 to {MAX_SEVERITY}, of {names}")
        })
    }
}

/// An image as floating-point values from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
struct Pixels {
    width: usize,
    height: usize,
    /// `[3, height, width]`, RGB planes, row-major.
    values: Vec<f64>,
}

impl Pixels {
    /// Returns an image of the same size with other values.
    fn with(&self, values: Vec<f64>) -> Self {
        Self { values, ..*self }
    }

    /// Returns the image with each value changed on its own.
    fn map(&self, change: impl FnMut(&f64) -> f64) -> Self {
        self.with(self.values.iter().map(change).collect())
    }

    /// Returns the three planes, `[height, width]` each.
    fn planes(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.width * self.height)
    }

    /// Clips the values to 0 to 1 and truncates them to 8 bits.
    fn into_image(self) -> RgbImage {
        let plane = self.width * self.height;
        let byte = |value: f64| (value.clamp(0.0, 1.0) * 255.0) as u8;
        let bytes = (0..plane).flat_map(|pixel| [0, 1, 2].map(|channel| byte(self.values[channel * plane + pixel])));
        RgbImage::from_raw(self.width as u32, self.height as u32, bytes.collect())
            .expect("there are three values per pixel")
    }
}

impl From<&RgbImage> for Pixels {
    fn from(image: &RgbImage) -> Self {
        let channel = |channel| image.pixels().map(move |pixel| f64::from(pixel.0[channel]) / 255.0);
        Self {
            width: image.width() as usize,
            height: image.height() as usize,
            values: (0..3).flat_map(channel).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
