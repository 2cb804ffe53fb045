//! From decoded pixels to the model's input: the size of the input, Pillow's bicubic resize, normalisation.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use serde::{Deserialize, Serialize};

use super::pass_order::PassOrder;
use super::square::middle_square;
use super::{Normalisation, NormalisedImage, RgbImage};

/// The error for a model input larger than the server allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the model's input would have {width} x {height} pixels, more than limits.max_input_pixels = {limit}; a smaller \
     short_side makes it smaller"
)]
pub struct InputTooLarge {
    /// Width of the input in pixels.
    pub width: u64,
    /// Height of the input in pixels.
    pub height: u64,
    /// The limit in pixels.
    pub limit: u64,
}

/// The way in which an image is brought to the size of the model's input.
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
    strum::VariantArray,
    strum::VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Resize {
    /// Pillow's antialiased bicubic resize, with which CLIP was trained. Each side becomes a whole number of patches.
    #[default]
    Bicubic,
    /// mmcv's bilinear resize without antialiasing, as in the published protocols of MaskCLIP's successors. The long
    /// side has at most 2048 pixels. Sides need not be whole numbers of patches: the model ignores pixels at the right
    /// and at the bottom that fill no patch.
    Mmcv,
}

impl Resize {
    /// Returns the width and height in pixels at which the model sees an image of `width` x `height`. Each is at least
    /// one patch.
    ///
    /// # Errors
    /// Fails when the result has more than `max_input_pixels` pixels, as that of a long thin image may.
    ///
    /// # Panics
    /// Panics when a side of the image or `patch_pixels` is 0, which no decoded image and no model has.
    pub fn working_size(
        self,
        width: u32,
        height: u32,
        short_side: u32,
        patch_pixels: u32,
        max_input_pixels: u64,
    ) -> Result<(u32, u32), InputTooLarge> {
        match self {
            Self::Bicubic => working_size(width, height, short_side, patch_pixels, max_input_pixels),
            Self::Mmcv => {
                let (width, height) = mmcv_size(width, height, short_side);
                let (width, height) = (width.max(patch_pixels.into()), height.max(patch_pixels.into()));
                within(width.into(), height.into(), max_input_pixels)
            }
        }
    }
}

/// Returns the size of mmcv's `imrescale` to `(2048, short_side)`: the smaller of the two factors, with halves rounded
/// up.
fn mmcv_size(width: u32, height: u32, short_side: u32) -> (u64, u64) {
    let (long, short) = (width.max(height), width.min(height));
    let factor = (MMCV_LONG_SIDE / f64::from(long)).min(f64::from(short_side) / f64::from(short));
    let scaled = |side: u32| (f64::from(side) * factor + 0.5) as u64;
    (scaled(width), scaled(height))
}

/// The longest side in the published protocols, in pixels.
const MMCV_LONG_SIDE: f64 = 2048.0;

/// Returns the size of the bicubic input. It keeps the aspect, makes the short side `short_side`, and rounds each side
/// to the nearest whole number of patches, halves up, at least one.
fn working_size(
    width: u32,
    height: u32,
    short_side: u32,
    patch_pixels: u32,
    max_input_pixels: u64,
) -> Result<(u32, u32), InputTooLarge> {
    let shorter = u128::from(width.min(height));
    let patch = u128::from(patch_pixels);
    assert!(shorter > 0 && patch > 0, "an image and a patch have at least one pixel");
    // round(side * short_side / shorter / patch) in integers, which is exact at every size.
    let whole_patches = |side: u32| {
        let scaled = u128::from(side) * u128::from(short_side);
        let patches = (2 * scaled + shorter * patch) / (2 * shorter * patch);
        patches.max(1) * patch
    };
    within(whole_patches(width), whole_patches(height), max_input_pixels)
}

/// Returns the size, or an error if it has more than `max_input_pixels` pixels.
fn within(width: u128, height: u128, max_input_pixels: u64) -> Result<(u32, u32), InputTooLarge> {
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(width), Ok(height)) if u64::from(width) * u64::from(height) <= max_input_pixels => Ok((width, height)),
        _ => Err(InputTooLarge {
            width: u64::try_from(width).unwrap_or(u64::MAX),
            height: u64::try_from(height).unwrap_or(u64::MAX),
            limit: max_input_pixels,
        }),
    }
}

/// Resizes an image to `width` x `height` and normalises it. The result is the input of CLIP.
///
/// The resize is Pillow's antialiased bicubic (a = -0.5, 8-bit result), with which CLIP was trained, or the bilinear
/// resize of PyTorch and OpenCV without antialiasing (8-bit result). Each value differs from theirs by at most 1/255.
///
/// # Panics
///
/// Panics when `width` or `height` is 0, which [`Resize::working_size`] never returns.
pub fn preprocess(
    image: &RgbImage,
    width: u32,
    height: u32,
    resize: Resize,
    normalisation: &Normalisation,
) -> NormalisedImage {
    assert!(width > 0 && height > 0, "the model's input has at least one pixel");
    let pixels = match resize {
        Resize::Bicubic => bicubic(image, width, height),
        Resize::Mmcv => bilinear(image, width, height),
    };
    normalised(&pixels, width, height, normalisation)
}

/// Resizes an image so that its short side is `side`, cuts out the square in its middle, and normalises it. The result is
/// what CLIP was trained on: torchvision's `Resize` with Pillow's antialiased bicubic, and `CenterCrop`. Its values are theirs to
/// the bit.
///
/// # Panics
///
/// Panics when `side` or a side of the image is 0.
pub fn preprocess_square(image: &RgbImage, side: u32, normalisation: &Normalisation) -> NormalisedImage {
    normalised(&middle_square(image, side), side, side, normalisation)
}

/// Normalises interleaved RGB bytes.
fn normalised(pixels: &[u8], width: u32, height: u32, normalisation: &Normalisation) -> NormalisedImage {
    let plane = width as usize * height as usize;
    let mut values = Vec::with_capacity(3 * plane);
    for channel in 0..3 {
        // There are 256 possible values. Each is computed once, with the arithmetic of torchvision's ToTensor and
        // Normalize.
        let normalised: [f32; 256] = std::array::from_fn(|value| {
            (value as f32 / 255.0 - normalisation.mean[channel]) / normalisation.std[channel]
        });
        values.extend(
            pixels
                .chunks_exact(3)
                .map(|pixel| normalised[usize::from(pixel[channel])]),
        );
    }
    NormalisedImage {
        height: height as usize,
        width: width as usize,
        values,
    }
}

/// Computes Pillow's `Image.resize((width, height), BICUBIC)` as interleaved RGB bytes.
///
/// Each axis has one pass, which rounds and clips to 8 bits, in Pillow's order. The crate's own order is another.
fn bicubic(image: &RgbImage, width: u32, height: u32) -> Vec<u8> {
    let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3)
        .expect("an RgbImage holds three bytes per pixel");
    let mut between = match PassOrder::of(image.dimensions(), (width.into(), height.into())) {
        PassOrder::RowsFirst => Image::new(image.width(), height, PixelType::U8x3),
        PassOrder::ColumnsFirst => Image::new(width, image.height(), PixelType::U8x3),
    };
    let mut result = Image::new(width, height, PixelType::U8x3);
    let bicubic = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    let mut resizer = Resizer::new();
    resizer
        .resize(&source, &mut between, &bicubic)
        .expect("equal pixel types resize");
    resizer
        .resize(&between, &mut result, &bicubic)
        .expect("equal pixel types resize");
    result.into_vec()
}

/// Interpolates each pixel between the four nearest pixels of the source, corners not aligned, as interleaved RGB
/// bytes.
fn bilinear(image: &RgbImage, width: u32, height: u32) -> Vec<u8> {
    let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3)
        .expect("an RgbImage holds three bytes per pixel");
    let mut result = Image::new(width, height, PixelType::U8x3);
    let bilinear = ResizeOptions::new().resize_alg(ResizeAlg::Interpolation(FilterType::Bilinear));
    Resizer::new()
        .resize(&source, &mut result, &bilinear)
        .expect("equal pixel types resize");
    result.into_vec()
}

#[cfg(test)]
mod tests {
    use super::super::resize_cases::{cases, load};
    use super::*;

    fn assert_within_one(resized: &[u8], expected: &str) {
        let expected_pixels = load(expected);
        assert_eq!(resized.len(), expected_pixels.len(), "{expected}");
        let difference = resized
            .iter()
            .zip(expected_pixels.as_raw())
            .map(|(ours, theirs)| ours.abs_diff(*theirs))
            .max();
        assert!(difference <= Some(1), "{expected} differs by {difference:?}");
    }

    #[test]
    fn resizes_as_pillow_does() {
        for case in cases() {
            assert_within_one(&bicubic(&load(&case.source), case.width, case.height), &case.expected);
        }
    }

    #[test]
    fn resizes_without_antialiasing_as_opencv_defines_it() {
        for case in cases() {
            assert_within_one(&bilinear(&load(&case.source), case.width, case.height), &case.bilinear);
        }
    }

    #[test]
    fn the_published_protocols_sizes_are_what_they_come_to() {
        let size = |width, height| Resize::Mmcv.working_size(width, height, 336, 16, u64::MAX);
        assert_eq!(size(500, 375), Ok((448, 336)));
        // The image is 31 patches wide, and 9 pixels fill no patch.
        assert_eq!(size(500, 333), Ok((505, 336)));
        assert_eq!(size(333, 500), Ok((336, 505)));
        // The long side is at most 2048 pixels, and each side is at least a patch.
        assert_eq!(size(4096, 400), Ok((2048, 200)));
        assert_eq!(size(4096, 10), Ok((2048, 16)));
        assert!(Resize::Mmcv.working_size(500, 375, 336, 16, 448 * 336 - 1).is_err());
    }

    #[test]
    fn normalises_to_planes() {
        let image = RgbImage::from_raw(2, 1, vec![0, 128, 255, 10, 20, 30]).expect("two pixels");
        let input = preprocess(
            &image,
            2,
            1,
            Resize::Bicubic,
            &Normalisation {
                mean: [0.5, 0.25, 0.0],
                std: [0.5, 0.25, 2.0],
            },
        );
        assert_eq!((input.width, input.height), (2, 1));
        let expected = [
            -1.0,
            (10.0 / 255.0 - 0.5) / 0.5,
            (128.0 / 255.0 - 0.25) / 0.25,
            (20.0 / 255.0 - 0.25) / 0.25,
            0.5,
            (30.0 / 255.0) / 2.0,
        ];
        assert_eq!(input.values, expected);
    }

    #[test]
    fn clip_s_constants_put_mid_grey_near_zero() {
        let image = RgbImage::from_pixel(3, 3, ::image::Rgb([123, 117, 104]));
        let input = preprocess(&image, 16, 16, Resize::Mmcv, &Normalisation::CLIP);
        assert_eq!(input.values.len(), 3 * 16 * 16);
        assert!(
            input.values.iter().all(|value| value.abs() < 0.01),
            "{:?}",
            &input.values[..3]
        );
    }

    #[test]
    fn the_short_side_is_as_asked_and_both_are_whole_patches() {
        assert_eq!(working_size(640, 480, 448, 16, u64::MAX), Ok((592, 448))); // 597.3 is nearer to 37 patches
        assert_eq!(working_size(480, 640, 448, 16, u64::MAX), Ok((448, 592)));
        assert_eq!(working_size(224, 224, 224, 32, u64::MAX), Ok((224, 224)));
        assert_eq!(working_size(500, 333, 336, 14, u64::MAX), Ok((504, 336)));
    }

    #[test]
    fn a_side_halfway_between_patches_is_rounded_up() {
        assert_eq!(working_size(40, 32, 32, 16, u64::MAX), Ok((48, 32)));
    }

    #[test]
    fn there_is_at_least_one_patch() {
        assert_eq!(working_size(10, 10, 3, 16, u64::MAX), Ok((16, 16)));
    }

    #[test]
    fn an_input_beyond_the_limit_is_refused_with_its_size_and_the_limit_s_name() {
        let error = working_size(100_000, 10, 224, 16, 4_000_000).expect_err("over 2 million pixels wide");
        assert_eq!(
            error,
            InputTooLarge {
                width: 2_240_000,
                height: 224,
                limit: 4_000_000
            }
        );
        assert_eq!(
            error.to_string(),
            "the model's input would have 2240000 x 224 pixels, more than limits.max_input_pixels = 4000000; a \
             smaller short_side makes it smaller"
        );
        assert_eq!(working_size(16, 16, 16, 16, 256), Ok((16, 16)));
        assert!(working_size(16, 16, 16, 16, 255).is_err());
    }

    #[test]
    fn the_largest_sides_do_not_overflow() {
        let error = working_size(u32::MAX, 1, u32::MAX, 1, u64::MAX).expect_err("no such image");
        assert_eq!(error.width, u64::from(u32::MAX) * u64::from(u32::MAX));
    }
}
