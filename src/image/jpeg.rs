//! JPEGs whose entropy-coded data is damaged or ends early are errors.
//!
//! The decoder inside the `image` crate fills what is missing with grey and says nothing. This file asks the same
//! decoder (zune-jpeg) to be strict about the data behind the headers, and looks for the end marker.

use std::io::Cursor;

use ::image::codecs::jpeg::JpegDecoder;
use ::image::error::DecodingError;
use ::image::metadata::Orientation;
use ::image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult, Limits};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

/// Reads the headers as the `image` crate does, which forgives much, and the pixels strictly.
pub(super) struct StrictJpeg<'a> {
    headers: JpegDecoder<Cursor<&'a [u8]>>,
    bytes: &'a [u8],
}

impl<'a> StrictJpeg<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn new(bytes: &'a [u8]) -> ImageResult<Self> {
        let headers = JpegDecoder::new(Cursor::new(bytes))?;
        Ok(Self { headers, bytes })
    }
}

impl ImageDecoder for StrictJpeg<'_> {
    fn dimensions(&self) -> (u32, u32) {
        self.headers.dimensions()
    }

    fn color_type(&self) -> ColorType {
        self.headers.color_type()
    }

    fn orientation(&mut self) -> ImageResult<Orientation> {
        self.headers.orientation()
    }

    fn set_limits(&mut self, limits: Limits) -> ImageResult<()> {
        self.headers.set_limits(limits)
    }

    fn read_image(self, pixels: &mut [u8]) -> ImageResult<()> {
        let space = match self.color_type() {
            ColorType::L8 => ColorSpace::Luma,
            ColorType::La8 => ColorSpace::LumaA,
            ColorType::Rgba8 => ColorSpace::RGBA,
            _ => ColorSpace::RGB,
        };
        let forgiving = DecoderOptions::default()
            .jpeg_set_out_colorspace(space)
            .set_strict_mode(false)
            .set_max_width(usize::MAX)
            .set_max_height(usize::MAX);
        let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(self.bytes), forgiving);
        let damaged = |error| ImageError::Decoding(DecodingError::new(ImageFormat::Jpeg.into(), error));
        decoder.decode_headers().map_err(damaged)?;
        decoder.set_options(forgiving.set_strict_mode(true));
        decoder.decode_into(pixels).map_err(damaged)
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

/// Returns whether the end marker follows the last scan (ITU-T T.81, B.1.1). Every encoder writes one, and nothing else
/// in a file says where its data ends.
pub(super) fn has_end(jpeg: &[u8]) -> bool {
    let mut rest = jpeg.get(2..).unwrap_or_default();
    let mut is_in_scan = false;
    while let Some(at) = rest.iter().position(|&byte| byte == 0xff) {
        rest = &rest[at..];
        match rest {
            [0xff, 0xd9, ..] => return true,
            // Fill bytes, stuffed zeros, restarts, and markers without a length.
            [0xff, 0xff, ..] => rest = &rest[1..],
            [0xff, 0x00 | 0x01 | 0xd0..=0xd8, ..] => rest = &rest[2..],
            [0xff, marker, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                is_in_scan = is_in_scan || *marker == 0xda;
                match rest.get(2 + length.max(2)..) {
                    Some(behind) => rest = behind,
                    // What looks like a marker inside a scan is damage, of which the decoder speaks.
                    None if is_in_scan => rest = &rest[2..],
                    None => return false,
                }
            }
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::has_end;

    #[test]
    fn the_end_marker_counts_outside_of_segments_alone() {
        let thumbnail = b"\xff\xd8\xff\xe1\0\x06\xff\xd9ab\xff\xda\0\x02ab\xff\0c\xff\xd0d";
        assert!(!has_end(thumbnail));
        assert!(has_end(&[&thumbnail[..], b"\xff\xff\xd9"].concat()));
        assert!(has_end(&[&thumbnail[..], b"\xff\xd9trailing notes"].concat()));
        for end in 0..thumbnail.len() {
            assert!(!has_end(&thumbnail[..end]), "{end}");
        }
    }
}
