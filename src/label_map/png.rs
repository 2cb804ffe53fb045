//! Label maps and confidence maps as PNG files. They are compressed for speed, because a client waits for the
//! compression.

use png::{BitDepth, ColorType, Compression, Encoder, Filter};

use super::id_width::{UNLABELLED_8_BIT, is_8_bit, label_8_bit};
use super::panoptic::segment_color;
use super::{LabelMap, LabelStyle};
use crate::scores::UNLABELLED;

/// Writes the label map as an indexed 8-bit PNG, or as 16-bit grey when there are more than 255 classes.
///
/// Pixel values are class ids, and for unlabelled pixels the style's value, else 255 or [`UNLABELLED`].
/// The palette has all 256 entries, whatever the map holds, with the colours of the style.
pub fn label_png(map: &LabelMap, style: &LabelStyle) -> Vec<u8> {
    if is_8_bit(map.classes.len()) {
        let samples = samples_8_bit(map, style);
        let unlabelled = style.unlabelled.unwrap_or(UNLABELLED_8_BIT.into());
        let label = |value| if value == unlabelled { UNLABELLED } else { value };
        let colors = (0..=u16::from(UNLABELLED_8_BIT)).map(|value| style.color(label(value)));
        let palette = colors.flatten().collect();
        write_png(
            map.width,
            map.height,
            ColorType::Indexed,
            BitDepth::Eight,
            Some(palette),
            &samples,
        )
    } else {
        grey_16_bit_png(map, style)
    }
}

/// Writes the label map as grey without a palette, in 8 bits, or in 16 when there are more than 255 classes. Pixel
/// values are those of [`label_png`].
pub fn grey_label_png(map: &LabelMap, style: &LabelStyle) -> Vec<u8> {
    if is_8_bit(map.classes.len()) {
        grey_png(map.width, map.height, &samples_8_bit(map, style))
    } else {
        grey_16_bit_png(map, style)
    }
}

/// Writes the segments of COCO's panoptic form as an RGB PNG, one segment for each class: red + 256 green + 65536 blue
/// is [`coco_category`](super::coco_category), and 0 for pixels without a class.
pub fn panoptic_png(map: &LabelMap) -> Vec<u8> {
    let samples = map.labels.iter().map(|&label| segment_color(label)).collect::<Vec<_>>();
    let samples = samples.as_flattened();
    write_png(map.width, map.height, ColorType::Rgb, BitDepth::Eight, None, samples)
}

/// Returns the pixel values of a map with at most 255 classes.
fn samples_8_bit(map: &LabelMap, style: &LabelStyle) -> Vec<u8> {
    let value = |&label: &u16| label_8_bit(style.value(label));
    map.labels.iter().map(value).collect()
}

fn grey_16_bit_png(map: &LabelMap, style: &LabelStyle) -> Vec<u8> {
    let values = map.labels.iter().map(|&label| style.value(label));
    let samples: Vec<u8> = values.flat_map(u16::to_be_bytes).collect();
    write_png(
        map.width,
        map.height,
        ColorType::Grayscale,
        BitDepth::Sixteen,
        None,
        &samples,
    )
}

/// Writes `[height, width]` bytes as an 8-bit grey PNG.
pub fn grey_png(width: u32, height: u32, samples: &[u8]) -> Vec<u8> {
    write_png(width, height, ColorType::Grayscale, BitDepth::Eight, None, samples)
}

/// Writes a PNG whose rows are stored as differences from the row above. In a label map these are 0 almost everywhere.
/// The codes of the fast compression favour small differences.
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
    let mut writer = encoder
        .write_header()
        .expect("the size of a label map is valid for a PNG");
    writer
        .write_image_data(samples)
        .expect("the samples fill the image, and writing to memory cannot fail");
    writer.finish().expect("writing to memory cannot fail");
    file
}
