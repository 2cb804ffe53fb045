//! Label maps and confidence as PNG files, written for speed: compression is a client's waiting time too.

use png::{BitDepth, ColorType, Compression, Encoder, Filter};

use super::LabelMap;
use super::id_width::{UNLABELLED_8_BIT, is_8_bit, label_8_bit};
use super::palette::palette_color;
use crate::scores::UNLABELLED;

/// The label map as an indexed 8-bit PNG, or as 16-bit grey when there are more than 255 classes.
///
/// Pixel values are class ids, [`UNLABELLED_8_BIT`] or [`UNLABELLED`] for none. The palette has all 256 entries,
/// whatever the map holds, in the colours of [`palette_color`].
pub(super) fn label_png(map: &LabelMap) -> Vec<u8> {
    if is_8_bit(map.classes.len()) {
        let samples: Vec<u8> = map.labels.iter().copied().map(label_8_bit).collect();
        let palette = (0..u16::from(UNLABELLED_8_BIT))
            .chain([UNLABELLED])
            .flat_map(palette_color)
            .collect();
        write_png(
            map.width,
            map.height,
            ColorType::Indexed,
            BitDepth::Eight,
            Some(palette),
            &samples,
        )
    } else {
        let samples: Vec<u8> = map.labels.iter().flat_map(|label| label.to_be_bytes()).collect();
        write_png(
            map.width,
            map.height,
            ColorType::Grayscale,
            BitDepth::Sixteen,
            None,
            &samples,
        )
    }
}

/// `[height, width]` bytes as an 8-bit grey PNG.
pub(super) fn grey_png(width: u32, height: u32, samples: &[u8]) -> Vec<u8> {
    write_png(width, height, ColorType::Grayscale, BitDepth::Eight, None, samples)
}

/// Rows go in as differences to the row above: 0 almost everywhere in a label map, and what the fast compression, whose codes
/// favour small differences, is made for.
fn write_png(
    width: u32,
    height: u32,
    color_type: ColorType,
    depth: BitDepth,
    palette: Option<Vec<u8>>,
    samples: &[u8],
) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, width, height);
    encoder.set_color(color_type);
    encoder.set_depth(depth);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(Filter::Up);
    if let Some(palette) = palette {
        encoder.set_palette(palette);
    }
    let mut writer = encoder.write_header().expect("a label map has a size a PNG can have");
    writer
        .write_image_data(samples)
        .expect("the samples fill the image, and memory takes them");
    writer.finish().expect("memory takes the end of the file");
    file
}
