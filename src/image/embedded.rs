//! Frames inside a container, whose sizes the container's header does not tell.
//!
//! The size of a WebP's canvas or of a TIFF comes from the container. The VP8 or JPEG stream inside has a header of its
//! own, and decoders allocate memory by that header before they compare the two. This file finds these inner headers,
//! so that a file of some hundred bytes cannot request a gigabyte.

use ::image::ImageFormat;

/// Returns the width and height of the frame with most pixels that is embedded in a file of this format, if there is
/// any.
pub(super) fn largest_embedded_frame(format: ImageFormat, bytes: &[u8]) -> Option<(u32, u32)> {
    let frame_at: fn(&[u8]) -> Option<(u16, u16)> = match format {
        ImageFormat::WebP => vp8_frame,
        ImageFormat::Tiff => jpeg_frame,
        _ => return None,
    };
    (0..bytes.len())
        .filter_map(|start| frame_at(&bytes[start..]))
        .map(|(width, height)| (u32::from(width), u32::from(height)))
        .max_by_key(|&(width, height)| u64::from(width) * u64::from(height))
}

/// Reads a RIFF chunk with a VP8 key frame: tag, chunk size, frame tag, start code, 14-bit sides (RFC 6386, 9.1).
fn vp8_frame(bytes: &[u8]) -> Option<(u16, u16)> {
    match bytes {
        [
            b'V',
            b'P',
            b'8',
            b' ',
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            0x9d,
            0x01,
            0x2a,
            w0,
            w1,
            h0,
            h1,
            ..,
        ] => {
            let side = |low: u8, high: u8| u16::from_le_bytes([low, high]) & 0x3fff;
            Some((side(*w0, *w1), side(*h0, *h1)))
        }
        _ => None,
    }
}

/// Reads a JPEG frame header with 8-bit samples whose length fits its number of components (ITU-T T.81, B.2.2).
fn jpeg_frame(bytes: &[u8]) -> Option<(u16, u16)> {
    match bytes {
        [0xff, 0xc0..=0xc2, 0, length, 8, h1, h0, w1, w0, components @ 1..=4, ..] if *length == 8 + 3 * components => {
            Some((u16::from_be_bytes([*w1, *w0]), u16::from_be_bytes([*h1, *h0])))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_largest_vp8_frame_of_a_webp() {
        let frame = |width: u16, height: u16| {
            let [w0, w1] = width.to_le_bytes();
            let [h0, h1] = height.to_le_bytes();
            [b"VP8 \x20\0\0\0\x10\0\0\x9d\x01\x2a".as_slice(), &[w0, w1, h0, h1]].concat()
        };
        let file = [
            b"RIFF....WEBPVP8X".to_vec(),
            frame(20, 10),
            frame(300, 200),
            frame(1, 1),
        ]
        .concat();
        assert_eq!(largest_embedded_frame(ImageFormat::WebP, &file), Some((300, 200)));
    }

    #[test]
    fn finds_a_jpeg_inside_a_tiff_alone() {
        let jpeg = b"\xff\xd8\xff\xc0\0\x11\x08\x01\x00\x02\x00\x03\x01\x11\0\x02\x11\0\x03\x11\0";
        let file = [b"II*\0".as_slice(), jpeg].concat();
        assert_eq!(largest_embedded_frame(ImageFormat::Tiff, &file), Some((512, 256)));
        assert_eq!(largest_embedded_frame(ImageFormat::Png, &file), None);
    }

    #[test]
    fn a_header_that_is_cut_off_is_none() {
        assert_eq!(
            largest_embedded_frame(ImageFormat::Tiff, b"\xff\xc0\0\x11\x08\x01\0"),
            None
        );
        assert_eq!(
            largest_embedded_frame(ImageFormat::WebP, b"VP8 \x20\0\0\0\x10\0\0\x9d\x01"),
            None
        );
    }
}
