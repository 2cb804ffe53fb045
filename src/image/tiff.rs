//! TIFFs that the decoder of the `image` crate refuses or reads otherwise than they say: palettes, grey with opacity, and
//! fourth bands that are or are not opacity.

use std::io::Cursor;

use ::image::codecs::tiff::TiffDecoder;
use ::image::error::DecodingError;
use ::image::metadata::Orientation;
use ::image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult, Limits};
use tiff::decoder::{Decoder, DecodingResult};
use tiff::tags::Tag;

/// Values of the tag PhotometricInterpretation (TIFF 6.0, section 8).
const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const RGB: u16 = 2;
const PALETTE: u16 = 3;

/// Values of the tag ExtraSamples for opacity: colours are multiplied by it, or not.
const ASSOCIATED: u16 = 1;
const UNASSOCIATED: u16 = 2;

/// Bytes of an entry in the directory of a TIFF with 32-bit offsets.
const ENTRY_BYTES: usize = 12;

/// Returns a decoder for a TIFF.
///
/// # Errors
/// When the headers are damaged, or the kind of pixels is not read.
pub(super) fn open(bytes: &[u8]) -> ImageResult<Box<dyn ImageDecoder + '_>> {
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(damaged)?;
    check_parts(&mut decoder, bytes.len())?;
    let kind = Kind::of(&mut decoder);
    let plain = || {
        TiffDecoder::new(Cursor::new(bytes)).map_err(|error| match error {
            ImageError::Unsupported(_) => not_read(kind.words()),
            error => error,
        })
    };
    match kind {
        Kind {
            photometric: PALETTE,
            samples: 1,
            bits: 8,
            ..
        } => PaletteTiff::open(bytes, &mut decoder),
        Kind {
            photometric: WHITE_IS_ZERO | BLACK_IS_ZERO,
            samples: 2,
            bits: 8 | 16,
            ..
        } => GreyTiff::open(decoder, kind),
        Kind {
            photometric: RGB,
            samples: 4,
            ..
        } => match kind.opacity {
            Some(UNASSOCIATED) => Ok(Box::new(plain()?)),
            opacity => Ok(Box::new(FourBands {
                is_opacity: opacity == Some(ASSOCIATED),
                inner: plain()?,
            })),
        },
        _ => Ok(Box::new(plain()?)),
    }
}

/// How often as much as the whole file its strips or tiles may take, by their own words. Some writers name too many bytes
/// for the last one.
const MOST_OF_THE_FILE: u64 = 4;

/// Refuses a file whose strips or tiles all stand in the same bytes. Each of them is decoded on its own, so a small file
/// could take hours.
fn check_parts(decoder: &mut Decoder<Cursor<&[u8]>>, file_bytes: usize) -> ImageResult<()> {
    for tag in [Tag::StripByteCounts, Tag::TileByteCounts] {
        let Ok(Some(counts)) = decoder.find_tag_unsigned_vec::<u64>(tag) else {
            continue;
        };
        let total = counts.iter().fold(0, |total: u64, &count| total.saturating_add(count));
        // A single strip cannot lie in another one, and its count is often wrong.
        if counts.len() > 1 && total > MOST_OF_THE_FILE.saturating_mul(file_bytes as u64) {
            return Err(not_read("its strips or tiles overlap"));
        }
    }
    Ok(())
}

/// What the tags say of the pixels.
#[derive(Debug, Clone, Copy)]
struct Kind {
    photometric: u16,
    /// Samples per pixel, opacity included.
    samples: u16,
    /// Bits of the first sample.
    bits: u16,
    /// What the bits of the first sample stand for, a value of the tag SampleFormat.
    numbers: u16,
    /// The kind of opacity, if there is any.
    opacity: Option<u16>,
}

impl Kind {
    fn of(decoder: &mut Decoder<Cursor<&[u8]>>) -> Self {
        let mut first = |tag| {
            let values = decoder.find_tag_unsigned_vec::<u16>(tag);
            values.ok().flatten().and_then(|values| values.first().copied())
        };
        Self {
            photometric: first(Tag::PhotometricInterpretation).unwrap_or(u16::MAX),
            samples: first(Tag::SamplesPerPixel).unwrap_or(1),
            bits: first(Tag::BitsPerSample).unwrap_or(1),
            numbers: first(Tag::SampleFormat).unwrap_or(1),
            opacity: first(Tag::ExtraSamples).filter(|kind| matches!(*kind, ASSOCIATED | UNASSOCIATED)),
        }
    }

    /// Returns what the pixels are that are not read, in a sentence that says which ones are.
    fn words(self) -> String {
        let Self { samples, bits, .. } = self;
        let colours = match self.photometric {
            WHITE_IS_ZERO | BLACK_IS_ZERO => "grey",
            RGB => "RGB",
            PALETTE => "a palette",
            5 => "CMYK",
            6 => "YCbCr",
            8..=10 => "CIE Lab",
            _ => "colours of an unknown kind",
        };
        let numbers = match self.numbers {
            1 => "whole numbers",
            2 => "whole numbers with a sign",
            3 => "floats",
            _ => "numbers of an unknown kind",
        };
        format!(
            "its pixels are {colours}, {samples} x {bits} bits, {numbers}; TIFFs are read in grey with and without \
             opacity, RGB, CMYK and palettes, with whole numbers of 8 or 16 bits"
        )
    }
}

/// Why a TIFF that may be whole is not read, in this server's words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotRead(String);

/// RGB with a fourth band: opacity by which the colours are multiplied, or something else.
struct FourBands<'a> {
    inner: TiffDecoder<Cursor<&'a [u8]>>,
    is_opacity: bool,
}

impl ImageDecoder for FourBands<'_> {
    fn dimensions(&self) -> (u32, u32) {
        self.inner.dimensions()
    }

    fn color_type(&self) -> ColorType {
        match (self.inner.color_type(), self.is_opacity) {
            (ColorType::Rgba8, false) => ColorType::Rgb8,
            (ColorType::Rgba16, false) => ColorType::Rgb16,
            (ColorType::Rgba32F, false) => ColorType::Rgb32F,
            (color, _) => color,
        }
    }

    fn orientation(&mut self) -> ImageResult<Orientation> {
        self.inner.orientation()
    }

    fn set_limits(&mut self, limits: Limits) -> ImageResult<()> {
        self.inner.set_limits(limits)
    }

    fn read_image(self, pixels: &mut [u8]) -> ImageResult<()> {
        let (from, to) = (self.inner.color_type(), self.color_type());
        if self.is_opacity {
            self.inner.read_image(pixels)?;
            divide_by_opacity(pixels, to);
            return Ok(());
        }
        let mut bands = vec![0; usize::try_from(self.inner.total_bytes()).unwrap_or(usize::MAX)];
        self.inner.read_image(&mut bands)?;
        let (read, written) = (usize::from(from.bytes_per_pixel()), usize::from(to.bytes_per_pixel()));
        for (band, pixel) in bands.chunks_exact(read).zip(pixels.chunks_exact_mut(written)) {
            pixel.copy_from_slice(&band[..written]);
        }
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

/// Makes samples that were multiplied by the opacity in the pixel's last sample what they were before, rounded to
/// nearest. Pixels of floats stay as they are.
fn divide_by_opacity(pixels: &mut [u8], color: ColorType) {
    let channels = usize::from(color.channel_count());
    let divided = |value: u64, opacity: u64, most: u64| match opacity {
        0 => 0,
        _ => ((most * value + opacity / 2) / opacity).min(most),
    };
    match color {
        ColorType::La8 | ColorType::Rgba8 => {
            for pixel in pixels.chunks_exact_mut(channels) {
                let opacity = pixel[channels - 1].into();
                for value in &mut pixel[..channels - 1] {
                    *value = divided((*value).into(), opacity, u8::MAX.into()) as u8;
                }
            }
        }
        ColorType::La16 | ColorType::Rgba16 => {
            for pixel in pixels.chunks_exact_mut(2 * channels) {
                let sample = |pixel: &[u8], place: usize| u16::from_ne_bytes([pixel[2 * place], pixel[2 * place + 1]]);
                let opacity = sample(pixel, channels - 1).into();
                for place in 0..channels - 1 {
                    let value = sample(pixel, place).into();
                    let value = divided(value, opacity, u16::MAX.into()) as u16;
                    pixel[2 * place..2 * place + 2].copy_from_slice(&value.to_ne_bytes());
                }
            }
        }
        _ => {}
    }
}

/// Grey with a second band, which may be opacity.
struct GreyTiff<'a> {
    decoder: Decoder<Cursor<&'a [u8]>>,
    dimensions: (u32, u32),
    kind: Kind,
}

impl<'a> GreyTiff<'a> {
    fn open(mut decoder: Decoder<Cursor<&'a [u8]>>, kind: Kind) -> ImageResult<Box<dyn ImageDecoder + 'a>> {
        let dimensions = decoder.dimensions().map_err(damaged)?;
        Ok(Box::new(Self {
            decoder,
            dimensions,
            kind,
        }))
    }
}

impl ImageDecoder for GreyTiff<'_> {
    fn dimensions(&self) -> (u32, u32) {
        self.dimensions
    }

    fn color_type(&self) -> ColorType {
        match (self.kind.bits, self.kind.opacity) {
            (8, Some(_)) => ColorType::La8,
            (8, None) => ColorType::L8,
            (_, Some(_)) => ColorType::La16,
            (_, None) => ColorType::L16,
        }
    }

    fn orientation(&mut self) -> ImageResult<Orientation> {
        let value = self
            .decoder
            .find_tag_unsigned::<u8>(Tag::Orientation)
            .map_err(damaged)?;
        Ok(value
            .and_then(Orientation::from_exif)
            .unwrap_or(Orientation::NoTransforms))
    }

    fn read_image(mut self, pixels: &mut [u8]) -> ImageResult<()> {
        let color = self.color_type();
        let written = usize::from(color.bytes_per_pixel());
        let places = pixels.chunks_exact_mut(written);
        match self.decoder.read_image().map_err(damaged)? {
            DecodingResult::U8(bands) if bands.len() == 2 * places.len() => {
                for (band, pixel) in bands.chunks_exact(2).zip(places) {
                    pixel.copy_from_slice(&band[..written]);
                }
            }
            DecodingResult::U16(bands) if bands.len() == 2 * places.len() => {
                for (band, pixel) in bands.chunks_exact(2).zip(places) {
                    let values = band.iter().flat_map(|value| value.to_ne_bytes());
                    pixel.iter_mut().zip(values).for_each(|(place, byte)| *place = byte);
                }
            }
            DecodingResult::U8(_) | DecodingResult::U16(_) => {
                return Err(not_read("its bands lie in planes of their own"));
            }
            _ => return Err(not_read("its samples are neither of 8 nor of 16 bits")),
        }
        if self.kind.opacity == Some(ASSOCIATED) {
            divide_by_opacity(pixels, color);
        }
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

/// Indices into a palette. The decoder knows none, so it reads a copy of the file that calls the indices grey.
struct PaletteTiff {
    indices: TiffDecoder<Cursor<Vec<u8>>>,
    /// The colours of all 256 indices.
    colours: Vec<[u8; 3]>,
}

impl PaletteTiff {
    fn open<'a>(bytes: &'a [u8], decoder: &mut Decoder<Cursor<&'a [u8]>>) -> ImageResult<Box<dyn ImageDecoder + 'a>> {
        let map = decoder.find_tag_unsigned_vec::<u16>(Tag::ColorMap).map_err(damaged)?;
        let map = map.filter(|map| map.len() == 3 * 256);
        let map = map.ok_or_else(|| not_read("it has a palette of other than 256 colours"))?;
        // Some programs write 8 bits where the format has 16.
        let shift = if map.iter().all(|&value| value < 256) { 0 } else { 8 };
        let channel = |channel: usize, index: usize| (map[256 * channel + index] >> shift) as u8;
        let colours = (0..256).map(|index| [0, 1, 2].map(|of| channel(of, index))).collect();
        let grey = decoder.ifd_pointer().and_then(|at| called_grey(bytes, at.0));
        let grey = grey.ok_or_else(|| not_read("its directory is cut off"))?;
        Ok(Box::new(Self {
            indices: TiffDecoder::new(Cursor::new(grey))?,
            colours,
        }))
    }
}

/// Returns a copy of a TIFF whose directory at this place calls the pixels grey, black first.
fn called_grey(bytes: &[u8], directory: u64) -> Option<Vec<u8>> {
    const PHOTOMETRIC: [u8; 2] = 262_u16.to_le_bytes();
    let directory = usize::try_from(directory).ok()?;
    let is_little = bytes.first() == Some(&b'I');
    // The number of entries has 2 bytes, and an entry's value lies behind tag, type and count; 64-bit offsets widen both.
    let (entries, entry_bytes, value) = match bytes.get(2..4)?.contains(&43) {
        true => (directory.checked_add(8)?, 20, 12),
        false => (directory.checked_add(2)?, ENTRY_BYTES, 8),
    };
    let mut copy = bytes.to_vec();
    let entry = copy.get_mut(entries..)?.chunks_exact_mut(entry_bytes).find(|entry| {
        let mut tag = [entry[0], entry[1]];
        if !is_little {
            tag.reverse();
        }
        tag == PHOTOMETRIC
    })?;
    let grey = if is_little {
        BLACK_IS_ZERO.to_le_bytes()
    } else {
        BLACK_IS_ZERO.to_be_bytes()
    };
    entry[value..value + 2].copy_from_slice(&grey);
    Some(copy)
}

impl ImageDecoder for PaletteTiff {
    fn dimensions(&self) -> (u32, u32) {
        self.indices.dimensions()
    }

    fn color_type(&self) -> ColorType {
        ColorType::Rgb8
    }

    fn orientation(&mut self) -> ImageResult<Orientation> {
        self.indices.orientation()
    }

    fn set_limits(&mut self, limits: Limits) -> ImageResult<()> {
        self.indices.set_limits(limits)
    }

    fn read_image(self, pixels: &mut [u8]) -> ImageResult<()> {
        let mut indices = vec![0; pixels.len() / 3];
        self.indices.read_image(&mut indices)?;
        for (&index, pixel) in indices.iter().zip(pixels.chunks_exact_mut(3)) {
            pixel.copy_from_slice(&self.colours[usize::from(index)]);
        }
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

fn damaged(error: tiff::TiffError) -> ImageError {
    match error {
        tiff::TiffError::IoError(error) => ImageError::IoError(error),
        error => ImageError::Decoding(DecodingError::new(ImageFormat::Tiff.into(), error)),
    }
}

fn not_read(reason: impl Into<String>) -> ImageError {
    ImageError::Decoding(DecodingError::new(ImageFormat::Tiff.into(), NotRead(reason.into())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A grey TIFF of one column whose strips, a row each, all stand in the same bytes.
    fn strips_in_one_place(rows: u32, bytes: u32) -> Vec<u8> {
        const LONG: u16 = 4;
        let directory = 8 + 2 + 8 * 12 + 4;
        let (offsets, counts) = (directory, directory + 4 * rows);
        let pixels = counts + 4 * rows;
        let entries: [(u16, u32, u32); 8] = [
            (256, 1, 1),
            (257, 1, rows),
            (258, 1, 8),
            (259, 1, 1),
            (262, 1, u32::from(BLACK_IS_ZERO)),
            (273, rows, offsets),
            (278, 1, 1),
            (279, rows, counts),
        ];
        let mut file = [b"II*\0".as_slice(), &8_u32.to_le_bytes(), &8_u16.to_le_bytes()].concat();
        for (tag, count, value) in entries {
            file.extend([tag.to_le_bytes(), LONG.to_le_bytes()].concat());
            file.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
        }
        file.extend([0; 4]);
        file.extend(pixels.to_le_bytes().repeat(rows as usize));
        file.extend(bytes.to_le_bytes().repeat(rows as usize));
        file.extend(vec![7; bytes as usize]);
        file
    }

    #[test]
    fn strips_that_share_their_bytes_are_refused_beyond_a_few_times_the_file() {
        assert!(open(&strips_in_one_place(16, 1)).is_ok());
        let error = open(&strips_in_one_place(16, 4096)).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("its strips or tiles overlap"), "{error}");
    }
}
