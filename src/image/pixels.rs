//! Pixels without a file, as callers have them that hold an image in memory.

use ::image::ExtendedColorType;
use ::image::codecs::bmp::BmpEncoder;

/// Writes pixels, `[height, width, 3]` in RGB order, as a file that [`decode`](fn@super::decode) reads back to the bit.
///
/// # Errors
/// When the sides do not come to the number of bytes, or are too long for a file.
pub fn encode_pixels(width: u32, height: u32, pixels: &[u8]) -> Result<Vec<u8>, String> {
    let bytes = u64::from(width) * u64::from(height) * 3;
    if width == 0 || height == 0 || bytes != pixels.len() as u64 {
        return Err(format!(
            "{} bytes are no image of {width} x {height} pixels",
            pixels.len()
        ));
    }
    let mut file = Vec::with_capacity(pixels.len() + pixels.len() / 8 + 64);
    let written = BmpEncoder::new(&mut file).encode(pixels, width, height, ExtendedColorType::Rgb8);
    written.map_err(|error| error.to_string())?;
    Ok(file)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Orientation, decode};
    use super::*;

    #[test]
    fn pixels_come_back_to_the_bit() {
        let pixels: Vec<u8> = (0..5 * 3 * 3).map(|value| value * 5).collect();
        let file = encode_pixels(5, 3, &pixels).unwrap();
        let image = decode(&file, Orientation::Exif, 15).unwrap();
        assert_eq!((image.width(), image.height(), image.as_raw()), (5, 3, &pixels));
    }

    #[test]
    fn sides_and_bytes_must_agree() {
        assert!(encode_pixels(2, 2, &[0; 11]).is_err());
        assert!(encode_pixels(0, 2, &[]).is_err());
    }
}
