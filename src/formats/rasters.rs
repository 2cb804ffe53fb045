//! Pictures: label maps drawn over their images.

use std::io::Cursor;

use ::image::codecs::jpeg::JpegEncoder;
use ::image::codecs::png::{CompressionType, FilterType, PngEncoder};
use ::image::{ExtendedColorType, ImageEncoder};

use crate::image::RgbImage;
use crate::scores::UNLABELLED;

/// Draws the colours of classes over an image of the same size. `opacity` is the share of the colour, 0 to 1. Pixels
/// without a class stay as they are.
pub fn drawn_over(image: &RgbImage, labels: &[u16], color: impl Fn(u16) -> [u8; 3], opacity: f32) -> RgbImage {
    let mut drawn = image.clone();
    for (pixel, &label) in drawn.pixels_mut().zip(labels) {
        if label != UNLABELLED {
            let color = color(label);
            for (channel, over) in pixel.0.iter_mut().zip(color) {
                let mixed = f32::from(*channel) * (1.0 - opacity) + f32::from(over) * opacity;
                *channel = mixed.round() as u8;
            }
        }
    }
    drawn
}

/// Writes an image as a PNG.
pub fn png(image: &RgbImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Adaptive)
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .expect("the samples fill the image, and writing to memory cannot fail");
    file.into_inner()
}

/// Writes an image as a JPEG of a quality from 1 to 100. Returns `None` for a side of more than 65535 pixels, which a
/// JPEG cannot have.
pub fn jpeg(image: &RgbImage, quality: u8) -> Option<Vec<u8>> {
    let mut file = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut file, quality);
    encoder
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .ok()?;
    Some(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_mixed_and_pixels_without_a_class_stay() {
        let image = RgbImage::from_raw(2, 1, vec![100, 0, 255, 7, 8, 9]).unwrap();
        let drawn = drawn_over(&image, &[3, UNLABELLED], |_| [0, 200, 0], 0.25);
        assert_eq!(drawn.as_raw(), &[75, 50, 191, 7, 8, 9]);
        let read = ::image::load_from_memory(&png(&drawn)).unwrap();
        assert_eq!(read.to_rgb8(), drawn);
        let read = ::image::load_from_memory(&jpeg(&drawn, 90).unwrap()).unwrap();
        assert_eq!((read.width(), read.height()), (2, 1));
        assert_eq!(jpeg(&RgbImage::new(65_536, 1), 90), None);
    }
}
