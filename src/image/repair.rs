//! Faults of containers that leave the pixels whole: they are put right before a decoder sees them.
//!
//! - PNG: a file that ends behind its last chunk of pixels, without the end chunk.
//! - WebP: flags for metadata or opacity that the file does not have, and metadata with a wrong size.

use std::borrow::Cow;

use ::image::ImageFormat;

/// Bytes of a PNG before its first chunk.
const PNG_SIGNATURE: usize = 8;

/// The end chunk of a PNG.
const PNG_END: [u8; 12] = *b"\0\0\0\0IEND\xae\x42\x60\x82";

/// Flags of a WebP's `VP8X` chunk (RFC 9649, section 2.7.1).
const ICC: u8 = 0x20;
const OPACITY: u8 = 0x10;
const EXIF: u8 = 0x08;
const XMP: u8 = 0x04;

/// Returns the bytes of an image without such faults. They are copied only if there is one.
pub(super) fn repaired(format: ImageFormat, bytes: &[u8]) -> Cow<'_, [u8]> {
    let repaired = match format {
        ImageFormat::Png => png_with_end(bytes),
        ImageFormat::WebP => webp_without_wrong_metadata(bytes),
        _ => None,
    };
    repaired.map_or(Cow::Borrowed(bytes), Cow::Owned)
}

/// Returns a PNG with an end chunk, if it has pixels and no end chunk. A chunk that is cut off before its end stays, so
/// that the decoder refuses it.
fn png_with_end(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut at = PNG_SIGNATURE;
    let mut has_pixels = false;
    while let Some([l0, l1, l2, l3, kind @ ..]) = bytes.get(at..at + 8).and_then(|head| <&[u8; 8]>::try_from(head).ok())
    {
        let length = u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize;
        let end = at.checked_add(length)?.checked_add(12)?;
        if end > bytes.len() {
            // Metadata behind the pixels may be lost.
            return (has_pixels && kind != b"IDAT").then(|| [&bytes[..at], &PNG_END].concat());
        }
        match kind {
            b"IEND" => return None,
            b"IDAT" => has_pixels = true,
            _ => {}
        }
        at = end;
    }
    has_pixels.then(|| [&bytes[..at], &PNG_END].concat())
}

/// Returns an extended WebP whose flags and chunks agree, if they do not.
fn webp_without_wrong_metadata(bytes: &[u8]) -> Option<Vec<u8>> {
    let flags = *bytes.get(20)?;
    if bytes.get(12..16)? != b"VP8X" {
        return None;
    }
    let (mut at, mut found, mut has_lossy_pixels) = (30, 0, false);
    // Where a last chunk of metadata begins that is longer than the file.
    let mut rest = None;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let end = at.checked_add(8)?.checked_add(length)?;
        let flag = match &head[..4] {
            b"ICCP" => ICC,
            b"ALPH" => OPACITY,
            b"EXIF" => EXIF,
            b"XMP " => XMP,
            _ => 0,
        };
        if end > bytes.len() {
            if flag == 0 || flag == OPACITY {
                return None;
            }
            rest = Some(at);
            found |= flag;
            at = bytes.len();
            break;
        }
        has_lossy_pixels |= &head[..4] == b"VP8 ";
        found |= flag;
        // Chunks begin at even places.
        at = end + length % 2;
    }
    let mut possible = ICC | EXIF | XMP;
    if has_lossy_pixels {
        // Lossless pixels have their opacity inside.
        possible |= OPACITY;
    }
    let wrong = flags & possible & !found;
    if wrong == 0 && rest.is_none() {
        return None;
    }
    let mut repaired = bytes[..at.min(bytes.len())].to_vec();
    repaired[20] &= !wrong;
    if let Some(start) = rest {
        // The chunk ends with the file, and at an even place.
        let length = u32::try_from(repaired.len() - start - 8).ok()?;
        repaired[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        repaired.resize(repaired.len().next_multiple_of(2), 0);
    }
    let length = u32::try_from(repaired.len() - 8).ok()?;
    repaired[4..8].copy_from_slice(&length.to_le_bytes());
    Some(repaired)
}
