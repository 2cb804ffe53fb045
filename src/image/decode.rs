//! Decoding of an upload's bytes into upright RGB pixels.
//!
//! Owns the check of the header before memory is allocated, the one rule for damaged files, and the conversion of every
//! kind of pixel (palette, grey, 16 bits, CMYK, alpha, rotated) to 8-bit RGB.

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, Cursor};
use std::panic;

use ::image::metadata::Orientation as ExifOrientation;
use ::image::{
    DynamicImage, GenericImageView, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult, Limits, Rgb,
    RgbImage, Rgba,
};

use super::embedded::largest_embedded_frame;
use super::format::sniff;
use super::header::ImageHeader;
use super::jpeg::{StrictJpeg, has_end};
use super::repair::repaired;
use super::{DecodeError, Orientation, tiff};

/// Most bytes that a decoder may allocate beside the decoded pixels, for tables, metadata and rows.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// Decodes an image to upright 8-bit RGB.
///
/// The content tells the format: JPEG, PNG, WebP, GIF, BMP or TIFF. Of an animation the first frame is read, of a TIFF
/// the first page. The function reads width and height from the header, and from the headers of streams inside a WebP
/// or TIFF. It compares width times height with `max_image_pixels` before it allocates pixels. Then:
///
/// - It applies the EXIF (or TIFF) orientation, so width and height are those that a viewer shows, unless `orientation` says
///   that pixels stay as stored.
/// - It turns grey and palette images into RGB and rounds 16-bit samples to 8 bits. It reads CMYK and YCCK JPEGs as
///   Adobe writes them, inverted, and mixes them to RGB without a profile.
/// - It composites transparency on white.
/// - It ignores embedded colour profiles (ICC) and takes samples as sRGB, as CLIP's training images were read.
/// - It refuses a file of any format whose pixels are damaged or not all there, and a TIFF of floats that are not from
///   0 to 1. Faults of metadata are passed over.
///
/// # Untrusted input
///
/// Any bytes give an image or an error. A panic inside a decoder is caught and becomes [`DecodeError::Undecodable`].
///
/// # Errors
///
/// Fails with [`DecodeError::UnknownFormat`] or [`DecodeError::UnreadFormat`] for bytes in no readable format, with
/// [`DecodeError::TooManyPixels`] beyond the limit, with [`DecodeError::CutShort`] for a file that ends early, and with
/// [`DecodeError::Undecodable`] for another damaged file.
pub fn decode(bytes: &[u8], orientation: Orientation, max_image_pixels: u64) -> Result<RgbImage, DecodeError> {
    panic::catch_unwind(|| decode_trusting(bytes, orientation, max_image_pixels))
        .unwrap_or_else(|_| Err(DecodeError::Undecodable("the file is malformed".to_owned())))
}

/// Reads the header of an image, with the checks of [`decode`] that need no pixels. Allocates no pixels, but walks
/// through the bytes of a WebP or TIFF once.
///
/// # Errors
///
/// The same as [`decode`]. A file with a good header may be damaged behind it.
pub fn read_header(bytes: &[u8], orientation: Orientation, max_image_pixels: u64) -> Result<ImageHeader, DecodeError> {
    let read = || {
        let format = sniff(bytes)?;
        let whole = repaired(format, bytes);
        let (decoder, turn) = open(format, &whole, max_image_pixels)?;
        let header = ImageHeader::of(&decoder, format, orientation, turn, &whole);
        Ok(header.beside(if matches!(whole, Cow::Owned(_)) { whole.len() } else { 0 }))
    };
    panic::catch_unwind(read).unwrap_or_else(|_| Err(DecodeError::Undecodable("the file is malformed".to_owned())))
}

/// Does the work of [`decode`]. A defect of a decoder may panic here.
fn decode_trusting(bytes: &[u8], orientation: Orientation, max_image_pixels: u64) -> Result<RgbImage, DecodeError> {
    let format = sniff(bytes)?;
    let whole = repaired(format, bytes);
    let (decoder, turn) = open(format, &whole, max_image_pixels)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| refused(error, format, &whole))?;
    check_range(&image)?;
    if orientation == Orientation::Exif {
        image.apply_orientation(turn);
    }
    Ok(flatten(image))
}

/// Returns a decoder that has read the header of an image and found it to be within the limit, with the orientation that
/// the metadata name.
fn open(
    format: ImageFormat,
    bytes: &[u8],
    max_image_pixels: u64,
) -> Result<(Box<dyn ImageDecoder + '_>, ExifOrientation), DecodeError> {
    let refused = |error| refused(error, format, bytes);
    let mut decoder = decoder(format, bytes).map_err(refused)?;

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
    if format == ImageFormat::Jpeg && !has_end(bytes) {
        return Err(DecodeError::CutShort);
    }

    // Decoders that convert (CMYK, planes, a GIF's canvas) hold up to two more copies.
    let copies = decoder.total_bytes().saturating_mul(3);
    decoder
        .set_limits(allocating_at_most(copies.saturating_add(OVERHEAD_BYTES)))
        .map_err(refused)?;
    // Metadata that cannot be read say nothing, and are no reason to refuse pixels that can.
    let orientation = decoder.orientation().unwrap_or(ExifOrientation::NoTransforms);
    Ok((decoder, orientation))
}

/// Returns the decoder of a format, which has read the header.
fn decoder(format: ImageFormat, bytes: &[u8]) -> ImageResult<Box<dyn ImageDecoder + '_>> {
    match format {
        ImageFormat::Jpeg => Ok(Box::new(StrictJpeg::new(bytes)?)),
        ImageFormat::Tiff => tiff::open(bytes),
        _ => {
            let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
            reader.limits(allocating_at_most(OVERHEAD_BYTES));
            Ok(Box::new(reader.into_decoder()?))
        }
    }
}

fn allocating_at_most(bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

/// Returns the error of a decoder in this server's words.
fn refused(error: ImageError, format: ImageFormat, bytes: &[u8]) -> DecodeError {
    if let ImageError::IoError(error) = &error
        && error.kind() == io::ErrorKind::UnexpectedEof
    {
        return DecodeError::CutShort;
    }
    if let ImageError::Decoding(error) = &error
        && let Some(reason) = error.source().and_then(|source| source.downcast_ref::<tiff::NotRead>())
    {
        return DecodeError::Undecodable(reason.to_string());
    }
    match ends_early(format, bytes) {
        true => DecodeError::CutShort,
        false => DecodeError::Undecodable(error.to_string()),
    }
}

/// Returns whether a file lacks the end that its format promises. What is wrong with it otherwise follows from that.
fn ends_early(format: ImageFormat, bytes: &[u8]) -> bool {
    let number = |at: usize, read: fn([u8; 4]) -> u32| {
        let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
        field.map_or(usize::MAX, |field| read(field) as usize)
    };
    match format {
        ImageFormat::Jpeg => !has_end(bytes),
        // Behind the 8 bytes that the length does not count.
        ImageFormat::WebP => number(4, u32::from_le_bytes) > bytes.len().saturating_sub(8),
        ImageFormat::Gif => bytes.last() != Some(&0x3b),
        ImageFormat::Bmp => number(2, u32::from_le_bytes) > bytes.len(),
        // The directory, which many programs write last.
        ImageFormat::Tiff if bytes.starts_with(b"II*") => number(4, u32::from_le_bytes) >= bytes.len(),
        ImageFormat::Tiff if bytes.starts_with(b"MM") => number(4, u32::from_be_bytes) >= bytes.len(),
        _ => false,
    }
}

/// Refuses floats that are not from 0 to 1, which would become white or black: nothing says which value is meant to be
/// white. What arithmetic adds to 0 and 1 is allowed.
fn check_range(image: &DynamicImage) -> Result<(), DecodeError> {
    let samples: &[f32] = match image {
        DynamicImage::ImageRgb32F(pixels) => pixels,
        DynamicImage::ImageRgba32F(pixels) => pixels,
        _ => return Ok(()),
    };
    match samples.iter().all(|sample| (-0.01..=1.01).contains(sample)) {
        true => Ok(()),
        false => Err(DecodeError::Undecodable(
            "its samples are floats that are not from 0 to 1, and nothing says which value is white: convert it to 8 \
             or 16 bits"
                .to_owned(),
        )),
    }
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
            let image =
                decode(&golden(&file), Orientation::Exif, LIMIT).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(image.dimensions(), (width, height), "{file}");
            let header =
                read_header(&golden(&file), Orientation::Exif, LIMIT).unwrap_or_else(|error| panic!("{file}: {error}"));
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
        let error = decode(&file, Orientation::Exif, 33_000_000).expect_err("too many pixels");
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
            decode(&file, Orientation::Exif, LIMIT),
            Err(DecodeError::TooManyPixels {
                width: 16_383,
                height: 16_383,
                limit: LIMIT
            })
        ));
        // Within the limit, its memory counts.
        let large = read_header(&file, Orientation::Exif, 1 << 30).expect("the header is whole");
        assert!(large.decoding_bytes > 9 * 16_383 * 16_383, "{large:?}");
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
        assert!(decode(&golden("rgb.png"), Orientation::Exif, 32 * 16).is_ok());
        assert!(matches!(
            decode(&golden("rgb.png"), Orientation::Exif, 32 * 16 - 1),
            Err(DecodeError::TooManyPixels {
                width: 32,
                height: 16,
                limit: 511
            })
        ));
    }

    #[test]
    fn other_bytes_are_an_unknown_format() {
        for bytes in [&b""[..], b"P6 1 1 255 abc", b"\xff\xd8"] {
            let error = decode(bytes, Orientation::Exif, LIMIT).expect_err("not an image");
            assert_eq!(
                error.to_string(),
                "the image is none of the formats this server reads: JPEG, PNG, WebP, GIF, BMP, TIFF"
            );
        }
    }

    /// Every file whose last quarter is about pixels, cut off before it, and a JPEG before its end marker.
    #[test]
    fn an_image_that_is_cut_short_is_refused_in_every_format() {
        let ends_otherwise = |path: &PathBuf| {
            let name = path.to_string_lossy();
            name.contains("animated") || name.ends_with("orientation-6.webp")
        };
        for path in golden_images().into_iter().filter(|path| !ends_otherwise(path)) {
            let (name, file) = (path.display(), std::fs::read(&path).expect("a golden file is there"));
            let refused =
                |end: usize| decode(&file[..end], Orientation::Exif, LIMIT).map_err(|error| error.to_string());
            let cut_short = Err("the image is cut short: the file ends before its pixels do".to_owned());
            assert_eq!(refused(file.len() * 3 / 4), cut_short, "{name}");
            if name.to_string().ends_with(".jpg") {
                assert_eq!(refused(file.len() - 2), cut_short, "{name}");
            }
        }
    }

    #[test]
    fn a_png_whose_pixels_are_whole_needs_no_end() {
        let file = golden("rgb.png");
        let whole = decode(&file, Orientation::Exif, LIMIT).expect("whole");
        for lost in [1, 4, 11, 12] {
            let cut = &file[..file.len() - lost];
            assert_eq!(
                decode(cut, Orientation::Exif, LIMIT).expect("the pixels are there"),
                whole,
                "{lost}"
            );
            let header = read_header(cut, Orientation::Exif, LIMIT).expect("the pixels are there");
            assert!(header.decoding_bytes > u64::from(3 * whole.width() * whole.height()));
        }
        assert!(decode(&file[..file.len() - 13], Orientation::Exif, LIMIT).is_err());
    }

    #[test]
    fn stored_pixels_are_not_turned() {
        for name in [
            "orientation-6.jpg",
            "orientation-6.png",
            "orientation-6.webp",
            "orientation-6.tif",
        ] {
            let file = golden(name);
            let [turned, stored] = [Orientation::Exif, Orientation::Stored].map(|orientation| {
                let header = read_header(&file, orientation, LIMIT).expect(name);
                let image = decode(&file, orientation, LIMIT).expect(name);
                assert_eq!(
                    (header.width, header.height, header.orientation),
                    (image.width(), image.height(), 6)
                );
                image
            });
            assert_eq!(turned.dimensions(), (16, 32), "{name}");
            assert_eq!(::image::imageops::rotate90(&stored), turned, "{name}");
        }
    }

    #[test]
    fn the_orientation_counts_in_exif_of_a_wrong_size() {
        let mut file = golden("orientation-6.webp");
        let chunk = file.windows(4).rposition(|tag| tag == b"EXIF").expect("a chunk");
        file[chunk + 4..chunk + 8].copy_from_slice(&100_000_u32.to_le_bytes());
        let image = decode(&file, Orientation::Exif, LIMIT).expect("the pixels are there");
        assert_eq!(image.dimensions(), (16, 32));
    }

    #[test]
    fn no_truncated_file_panics() {
        for path in golden_images() {
            let file = std::fs::read(&path).expect("a golden file is there");
            for end in 0..file.len().min(600) {
                // Either result is correct; the test is that the call returns.
                let _ = decode_trusting(&file[..end], Orientation::Exif, LIMIT);
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
            let _ = decode_trusting(&file, Orientation::Exif, LIMIT);
        }

        #[test]
        fn random_bytes_behind_a_signature_are_refused_or_read(
            signature in prop::sample::select(vec![&b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*"]),
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(image) = decode(&[signature, &rest].concat(), Orientation::Exif, LIMIT) {
                prop_assert!(image.width() > 0 && image.height() > 0);
            }
        }
    }
}
