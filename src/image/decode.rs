//! Decoding of an upload's bytes into upright RGB pixels.
//!
//! Owns the list of formats, the check of the header before memory is allocated, and the conversion of every kind of
//! pixel (palette, grey, 16 bits, CMYK, alpha, rotated) to 8-bit RGB.

use std::io::Cursor;
use std::panic;

use ::image::{
    DynamicImage, GenericImageView, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Rgb, RgbImage, Rgba,
};

use super::DecodeError;
use super::embedded::largest_embedded_frame;
use super::header::ImageHeader;

/// The formats that are read, as error messages list them.
const SUPPORTED: &str = "JPEG, PNG, WebP, GIF, BMP, TIFF";

/// Most bytes that a decoder may allocate beside the decoded pixels, for tables, metadata and rows.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// Decodes an image to upright 8-bit RGB.
///
/// The content tells the format: JPEG, PNG, WebP, GIF, BMP or TIFF. Of an animation the first frame is read, of a TIFF
/// the first page. The function reads width and height from the header, and from the headers of streams inside a WebP
/// or TIFF. It compares width times height with `max_image_pixels` before it allocates pixels. Then:
///
/// - It applies the EXIF (or TIFF) orientation, so width and height are those that a viewer shows.
/// - It turns grey and palette images into RGB and rounds 16-bit samples to 8 bits. It reads CMYK and YCCK JPEGs as
///   Adobe writes them, inverted, and mixes them to RGB without a profile.
/// - It composites transparency on white.
/// - It ignores embedded colour profiles (ICC) and takes samples as sRGB, as CLIP's training images were read.
/// - It decodes a JPEG that ends early as far as it goes. The rest is grey, as viewers show it.
///
/// # Untrusted input
///
/// Any bytes give an image or an error. A panic inside a decoder is caught and becomes [`DecodeError::Undecodable`].
///
/// # Errors
///
/// Fails with [`DecodeError::UnknownFormat`] for bytes in no readable format, with [`DecodeError::TooManyPixels`]
/// beyond the limit, and with [`DecodeError::Undecodable`] for a damaged file.
pub fn decode(bytes: &[u8], max_image_pixels: u64) -> Result<RgbImage, DecodeError> {
    panic::catch_unwind(|| decode_trusting(bytes, max_image_pixels))
        .unwrap_or_else(|_| Err(DecodeError::Undecodable("the file is malformed".to_owned())))
}

/// Reads the header of an image, with the checks of [`decode`] that need no pixels. Allocates no pixels, but walks
/// through the bytes of a WebP or TIFF once.
///
/// # Errors
///
/// The same as [`decode`]. A file with a good header may be damaged behind it.
pub fn read_header(bytes: &[u8], max_image_pixels: u64) -> Result<ImageHeader, DecodeError> {
    let read = || {
        let (mut decoder, format) = open(bytes, max_image_pixels)?;
        let orientation = decoder.orientation().map_err(undecodable)?;
        Ok(ImageHeader::of(&decoder, format, orientation, bytes))
    };
    panic::catch_unwind(read).unwrap_or_else(|_| Err(DecodeError::Undecodable("the file is malformed".to_owned())))
}

/// Does the work of [`decode`]. A defect of a decoder may panic here.
fn decode_trusting(bytes: &[u8], max_image_pixels: u64) -> Result<RgbImage, DecodeError> {
    let (mut decoder, _) = open(bytes, max_image_pixels)?;
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    Ok(flatten(image))
}

/// Returns a decoder that has read the header of an image and found it to be within the limit, with the format.
fn open(bytes: &[u8], max_image_pixels: u64) -> Result<(impl ImageDecoder, ImageFormat), DecodeError> {
    let format = sniff(bytes)?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(allocating_at_most(OVERHEAD_BYTES));
    let mut decoder = reader.into_decoder().map_err(undecodable)?;

    let size @ (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(DecodeError::Undecodable(format!("it has {width} x {height} pixels")));
    }
    for (width, height) in [size].into_iter().chain(largest_embedded_frame(format, bytes)) {
        if u64::from(width) * u64::from(height) > max_image_pixels {
            return Err(DecodeError::TooManyPixels {
                width,
                height,
                limit: max_image_pixels,
            });
        }
    }

    // Decoders that convert (CMYK, planes, a GIF's canvas) hold up to two more copies.
    let copies = decoder.total_bytes().saturating_mul(3);
    decoder
        .set_limits(allocating_at_most(copies.saturating_add(OVERHEAD_BYTES)))
        .map_err(undecodable)?;
    Ok((decoder, format))
}

fn allocating_at_most(bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

/// Tells the format by the first bytes. Fails when this server does not read it.
fn sniff(bytes: &[u8]) -> Result<ImageFormat, DecodeError> {
    match ::image::guess_format(bytes) {
        Ok(
            format @ (ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::WebP
            | ImageFormat::Gif
            | ImageFormat::Bmp
            | ImageFormat::Tiff),
        ) => Ok(format),
        _ => Err(DecodeError::UnknownFormat { supported: SUPPORTED }),
    }
}

fn undecodable(error: ImageError) -> DecodeError {
    DecodeError::Undecodable(error.to_string())
}

/// Converts any type of pixel to 8-bit RGB, with transparency on white.
fn flatten(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let (width, height) = image.dimensions();
    let image = image.into_rgba8();
    RgbImage::from_fn(width, height, |x, y| {
        let Rgba([red, green, blue, alpha]) = *image.get_pixel(x, y);
        Rgb([red, green, blue].map(|value| over_white(value, alpha)))
    })
}

/// Composites one 8-bit sample with the opacity `alpha` on white and rounds to nearest.
fn over_white(value: u8, alpha: u8) -> u8 {
    let mixed = u32::from(value) * u32::from(alpha) + 255 * u32::from(255 - alpha);
    ((mixed + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/decode");
    const LIMIT: u64 = 1 << 20;

    /// One entry of expected.json, written by tools/golden/decode.py.
    #[derive(Deserialize)]
    struct Expected {
        file: String,
        width: u32,
        height: u32,
        pixels: Vec<Pixel>,
    }

    #[derive(Deserialize)]
    struct Pixel {
        at: [u32; 2],
        rgb: [u8; 3],
    }

    fn golden(name: &str) -> Vec<u8> {
        std::fs::read(Path::new(FOLDER).join(name)).expect("a golden file is there")
    }

    fn golden_images() -> Vec<PathBuf> {
        let entries = std::fs::read_dir(FOLDER).expect("the golden files are there");
        let mut images: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
        images.retain(|path| path.extension().is_some_and(|extension| extension != "json"));
        images.sort();
        images
    }

    #[test]
    fn every_kind_of_file_shows_what_pillow_shows() {
        let expected: Vec<Expected> = serde_json::from_slice(&golden("expected.json")).expect("the goldens are JSON");
        assert_eq!(expected.len(), golden_images().len());
        for Expected {
            file,
            width,
            height,
            pixels,
        } in expected
        {
            let image = decode(&golden(&file), LIMIT).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(image.dimensions(), (width, height), "{file}");
            let header = read_header(&golden(&file), LIMIT).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!((header.width, header.height), (width, height), "{file}");
            assert!(header.decoding_bytes >= 3 * u64::from(width * height), "{file}");
            for Pixel { at: [x, y], rgb } in pixels {
                let shown = image.get_pixel(x, y).0;
                let difference = shown.iter().zip(rgb).map(|(ours, theirs)| ours.abs_diff(theirs)).max();
                assert!(difference <= Some(3), "{file} at {x}, {y}: {shown:?}, expected {rgb:?}");
            }
        }
    }

    #[test]
    fn transparency_is_white_and_half_of_it_is_half() {
        assert_eq!(over_white(100, 255), 100);
        assert_eq!(over_white(100, 0), 255);
        assert_eq!(over_white(0, 128), 127);
    }

    #[test]
    fn pixels_are_counted_from_the_header_alone() {
        // The header of this PNG promises 100,000 x 100,000 pixels.
        let mut file = golden("rgb.png");
        file[16..20].copy_from_slice(&100_000_u32.to_be_bytes());
        file[20..24].copy_from_slice(&100_000_u32.to_be_bytes());
        let checksum = png_checksum(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.to_be_bytes());
        let error = decode(&file, 33_000_000).expect_err("too many pixels");
        assert_eq!(
            error.to_string(),
            "the image has 100000 x 100000 pixels, more than limits.max_image_pixels = 33000000"
        );
    }

    #[test]
    fn a_large_frame_behind_a_small_canvas_is_counted_too() {
        // VP8X stores a canvas of 32 x 16 as sides less one. The VP8 frame inside says 16383 x 16383.
        let simple = golden("lossy.webp");
        assert_eq!(&simple[12..16], b"VP8 ");
        let mut frame = simple[12..].to_vec();
        frame[14..18].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
        let canvas = [b"WEBPVP8X\x0a\0\0\0\0\0\0\0".as_slice(), &[31, 0, 0, 15, 0, 0]].concat();
        let length = (canvas.len() + frame.len()) as u32;
        let file = [b"RIFF".as_slice(), &length.to_le_bytes(), &canvas, &frame].concat();
        assert!(matches!(
            decode(&file, LIMIT),
            Err(DecodeError::TooManyPixels {
                width: 16_383,
                height: 16_383,
                limit: LIMIT
            })
        ));
    }

    /// Computes the CRC-32 as PNG defines it.
    fn png_checksum(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |checksum, &byte| {
            (0..8).fold(checksum ^ u32::from(byte), |value, _| {
                (value >> 1) ^ (0xedb8_8320 * (value & 1))
            })
        })
    }

    #[test]
    fn an_image_of_exactly_the_limit_is_read() {
        assert!(decode(&golden("rgb.png"), 32 * 16).is_ok());
        assert!(matches!(
            decode(&golden("rgb.png"), 32 * 16 - 1),
            Err(DecodeError::TooManyPixels {
                width: 32,
                height: 16,
                limit: 511
            })
        ));
    }

    #[test]
    fn other_bytes_are_an_unknown_format() {
        for bytes in [
            &b""[..],
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"%PDF-1.7",
            b"P6 1 1 255 abc",
            b"\xff\xd8",
        ] {
            let error = decode(bytes, LIMIT).expect_err("not an image");
            assert_eq!(
                error.to_string(),
                "the image is none of the formats this server reads: JPEG, PNG, WebP, GIF, BMP, TIFF"
            );
        }
    }

    #[test]
    fn half_a_png_is_undecodable() {
        let file = golden("grey-16.png");
        assert!(matches!(
            decode(&file[..file.len() / 2], LIMIT),
            Err(DecodeError::Undecodable(_))
        ));
    }

    #[test]
    fn a_jpeg_that_ends_early_shows_what_there_is() {
        let file = golden("orientation-1.jpg");
        let image = decode(&file[..file.len() - 10], LIMIT).expect("most of it is there");
        assert_eq!(image.dimensions(), (32, 16));
        assert!(
            image.get_pixel(8, 4).0[0].abs_diff(200) <= 3,
            "the first quarter came whole"
        );
    }

    #[test]
    fn no_truncated_file_panics() {
        for path in golden_images() {
            let file = std::fs::read(&path).expect("a golden file is there");
            for end in 0..file.len().min(600) {
                // Either result is correct; the test is that the call returns.
                let _ = decode_trusting(&file[..end], LIMIT);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The test calls the function that [`decode`] guards, so a decoder's panic shows here.
        #[test]
        fn no_damaged_file_panics(
            which in any::<prop::sample::Index>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut file = std::fs::read(which.get(&golden_images())).expect("a golden file is there");
            for (at, value) in damage {
                let at = at.index(file.len());
                file[at] = value;
            }
            let _ = decode_trusting(&file, LIMIT);
        }

        #[test]
        fn random_bytes_behind_a_signature_are_refused_or_read(
            signature in prop::sample::select(vec![&b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*"]),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(image) = decode(&[signature, &rest].concat(), LIMIT) {
                prop_assert!(image.width() > 0 && image.height() > 0);
            }
        }
    }
}
