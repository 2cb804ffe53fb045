//! The formats of images, told by the first bytes: those that are read, and those that are refused by their names.

use ::image::ImageFormat;

use super::DecodeError;

/// The formats that are read, as error messages list them.
pub(super) const SUPPORTED: &str = "JPEG, PNG, WebP, GIF, BMP, TIFF";

/// Tells the format.
///
/// # Errors
/// [`DecodeError::UnreadFormat`] for a known format that is not read, [`DecodeError::UnknownFormat`] for all else.
pub(super) fn sniff(bytes: &[u8]) -> Result<ImageFormat, DecodeError> {
    if is_big_tiff(bytes) {
        return Ok(ImageFormat::Tiff);
    }
    match ::image::guess_format(bytes) {
        Ok(
            format @ (ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::WebP
            | ImageFormat::Gif
            | ImageFormat::Bmp
            | ImageFormat::Tiff),
        ) => Ok(format),
        _ => Err(match unread_format(bytes) {
            Some(name) => DecodeError::UnreadFormat {
                name,
                supported: SUPPORTED,
            },
            None => DecodeError::UnknownFormat { supported: SUPPORTED },
        }),
    }
}

/// Returns whether a TIFF has 64-bit offsets.
fn is_big_tiff(bytes: &[u8]) -> bool {
    matches!(bytes, [b'I', b'I', 43, 0, ..] | [b'M', b'M', 0, 43, ..])
}

/// Returns the name of a format that people send and that is not read.
fn unread_format(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', brands @ ..] => iso_media_format(brands),
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Some("JPEG XL"),
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => Some("JPEG 2000"),
        [b'8', b'B', b'P', b'S', ..] => Some("PSD"),
        [b'%', b'P', b'D', b'F', b'-', ..] => Some("PDF"),
        _ if bytes.trim_ascii_start().starts_with(b"<svg") => Some("SVG"),
        _ => None,
    }
}

/// Returns the format of a file of the ISO base media kind by its brands (ISO/IEC 23008-12 and the AV1 Image File
/// Format). AVIF comes first, because its files name HEIF's general brands, too.
fn iso_media_format(brands: &[u8]) -> Option<&'static str> {
    /// Brands that are looked at. A file lists a handful.
    const MOST: usize = 16;
    let named = |wanted: &[&[u8; 4]]| {
        let mut brands = brands.chunks_exact(4).take(MOST);
        brands.any(|brand| wanted.iter().any(|wanted| wanted[..] == *brand))
    };
    if named(&[b"avif", b"avis"]) {
        Some("AVIF")
    } else if named(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        Some("HEIC")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_that_are_not_read_are_refused_by_name() {
        for (bytes, name) in [
            (&b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"[..], "HEIC"),
            (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
            (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
            (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf", "AVIF"),
            (b"\xff\x0a\xfa", "JPEG XL"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
            (b"8BPS\0\x01", "PSD"),
            (b"%PDF-1.7", "PDF"),
            (b"\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        ] {
            assert_eq!(
                sniff(bytes).map_err(|error| error.to_string()),
                Err(format!(
                    "the image is {name}, which is not read; convert it to one of JPEG, PNG, WebP, GIF, BMP, TIFF"
                ))
            );
        }
    }

    #[test]
    fn other_bytes_are_an_unknown_format() {
        for bytes in [&b""[..], b"P6 1 1 255 abc", b"\xff\xd8", b"\0\0\0\x18ftypisom\0\0\0\0"] {
            assert_eq!(
                sniff(bytes).map_err(|error| error.to_string()),
                Err("the image is none of the formats this server reads: JPEG, PNG, WebP, GIF, BMP, TIFF".to_owned())
            );
        }
    }
}
