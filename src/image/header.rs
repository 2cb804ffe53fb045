//! What the header of an encoded image says, read before anything is decoded: its size, and the memory that decoding
//! takes.

use ::image::metadata::Orientation as ExifOrientation;
use ::image::{ColorType, ImageDecoder, ImageFormat};

use super::Orientation;
use super::embedded::largest_embedded_frame;

/// Bytes that a decoder takes for each pixel of a frame inside a container which is larger than the container says: three
/// samples, and as many coefficients of 16 bits where the frame is a progressive JPEG.
const EMBEDDED_PIXEL_BYTES: u64 = 9;

/// What the header of an encoded image says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    /// Width in pixels, after orientation.
    pub width: u32,
    /// Height in pixels, after orientation.
    pub height: u32,
    /// Bytes that decoding the image to upright RGB takes at most at once, the result included and the encoded bytes
    /// not.
    pub decoding_bytes: u64,
    /// The orientation that the metadata name, 1 to 8 as in EXIF; 1 is upright.
    pub orientation: u8,
}

impl ImageHeader {
    /// Returns the header of an image that `decoder` is about to decode from `encoded`.
    pub(super) fn of(
        decoder: &impl ImageDecoder,
        format: ImageFormat,
        orientation: Orientation,
        turn: ExifOrientation,
        encoded: &[u8],
    ) -> Self {
        let (width, height) = decoder.dimensions();
        let is_turned = orientation == Orientation::Exif && swaps_sides(turn);
        let pixels = u64::from(width) * u64::from(height);
        let embedded = largest_embedded_frame(format, encoded);
        let embedded = embedded.map_or(0, |(width, height)| u64::from(width) * u64::from(height));
        let beyond = if embedded > pixels {
            embedded.saturating_mul(EMBEDDED_PIXEL_BYTES)
        } else {
            0
        };
        let decoded = decoder.total_bytes();
        let decoding = decoded.saturating_mul(copies(format, encoded));
        let turning = if is_turned { decoded.saturating_mul(2) } else { 0 };
        let (width, height) = if is_turned { (height, width) } else { (width, height) };
        Self {
            width,
            height,
            decoding_bytes: decoding
                .max(turning)
                .max(converting(decoder.color_type(), pixels))
                .saturating_add(beyond),
            orientation: turn.to_exif(),
        }
    }

    /// Returns the header of an image that is decoded from a copy of so many bytes.
    pub(super) fn beside(self, bytes: usize) -> Self {
        Self {
            decoding_bytes: self.decoding_bytes.saturating_add(bytes as u64),
            ..self
        }
    }
}

/// Returns how many times a decoder holds the decoded image at most: in the result and in buffers of its own.
fn copies(format: ImageFormat, encoded: &[u8]) -> u64 {
    match format {
        // The coefficients of a progressive JPEG are kept until its last scan, with 16 bits each.
        ImageFormat::Jpeg if is_progressive(encoded) => 3,
        ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Bmp => 1,
        // The canvas beside a frame.
        ImageFormat::Gif => 2,
        // The decoder's samples, the copy from them, and the pixels without a fourth band.
        ImageFormat::Tiff => 4,
        // Planes or pixels of 32 bits, and the copy from them.
        _ => 3,
    }
}

/// Returns the bytes that the conversion from a decoder's pixels to RGB takes, both included. Pixels with alpha become
/// RGBA first.
fn converting(color: ColorType, pixels: u64) -> u64 {
    let decoded = u64::from(color.bytes_per_pixel());
    let bytes = match color {
        ColorType::Rgb8 => 3,
        ColorType::Rgba8 => 4 + 3,
        _ if color.has_alpha() => (decoded + 4).max(4 + 3),
        _ => decoded + 3,
    };
    pixels.saturating_mul(bytes)
}

/// Returns whether an orientation exchanges width and height.
fn swaps_sides(orientation: ExifOrientation) -> bool {
    match orientation {
        ExifOrientation::Rotate90
        | ExifOrientation::Rotate270
        | ExifOrientation::Rotate90FlipH
        | ExifOrientation::Rotate270FlipH => true,
        ExifOrientation::NoTransforms
        | ExifOrientation::Rotate180
        | ExifOrientation::FlipHorizontal
        | ExifOrientation::FlipVertical => false,
    }
}

/// Returns whether the first frame header of a JPEG is that of a progressive one (ITU-T T.81, B.1.1.3). False for bytes
/// that are no JPEG.
fn is_progressive(jpeg: &[u8]) -> bool {
    let mut rest = jpeg.get(2..).unwrap_or_default();
    loop {
        match rest {
            [0xff, 0xff, ..] => rest = &rest[1..],
            [0xff, 0xc2 | 0xc6 | 0xca | 0xce, ..] => return true,
            [0xff, 0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf | 0xda, ..] => return false,
            [0xff, _, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = rest.get(2 + length..).unwrap_or_default();
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_cost_what_their_conversion_holds_at_once() {
        for (color, bytes) in [
            (ColorType::Rgb8, 3),
            (ColorType::L8, 4),
            (ColorType::Rgba8, 7),
            (ColorType::La8, 7),
            (ColorType::Rgb16, 9),
            (ColorType::Rgba16, 12),
        ] {
            assert_eq!(converting(color, 10), 10 * bytes, "{color:?}");
        }
    }

    #[test]
    fn a_progressive_jpeg_is_told_by_its_frame_header() {
        let file = |frame| [b"\xff\xd8\xff\xe0\0\x04ab\xff\xff".as_slice(), &[frame, 0, 17]].concat();
        assert!(is_progressive(&file(0xc2)));
        assert!(!is_progressive(&file(0xc0)));
        for end in 0..12 {
            assert!(!is_progressive(&file(0xc2)[..end]) || end > 10, "{end}");
        }
        assert!(!is_progressive(b"\xff\xd8\xff\xe0\xff\xff"));
    }
}
