//! A contact sheet of single cases: image, truth and prediction side by side, one row per case.

use ::image::imageops::{FilterType, replace, resize};
use ::image::{ImageFormat, Rgb};

use super::run::Measured;
use crate::image::{DecodeError, Orientation, RgbImage, decode};
use crate::label_map::palette_color;

/// Width of each picture and of the white gap between pictures, in pixels.
const WIDTH: u32 = 320;
const GAP: u32 = 4;

/// Returns a PNG with one row per case. Classes have the colours of label maps. Black means no class; in the truth it
/// means pixels that do not count.
///
/// # Errors
/// [`DecodeError`] when an image cannot be decoded.
pub fn contact_sheet(
    cases: &[Measured],
    orientation: Orientation,
    max_image_pixels: u64,
) -> Result<Vec<u8>, DecodeError> {
    let mut rows = Vec::with_capacity(cases.len());
    for case in cases {
        let (width, height) = (case.truth.width, case.truth.height);
        let colors = |labels: &[u16]| {
            RgbImage::from_fn(width, height, |x, y| {
                Rgb(palette_color(labels[y as usize * width as usize + x as usize]))
            })
        };
        let tall = (u64::from(WIDTH) * u64::from(height) / u64::from(width)).clamp(1, u64::from(3 * WIDTH)) as u32;
        rows.push([
            resize(
                &decode(&case.image, orientation, max_image_pixels)?,
                WIDTH,
                tall,
                FilterType::Triangle,
            ),
            resize(&colors(&case.truth.labels), WIDTH, tall, FilterType::Nearest),
            resize(&colors(&case.predicted), WIDTH, tall, FilterType::Nearest),
        ]);
    }
    let height = rows.iter().map(|row| row[0].height() + GAP).sum::<u32>() + GAP;
    let mut sheet = RgbImage::from_pixel(3 * WIDTH + 4 * GAP, height, Rgb([255; 3]));
    let mut top = GAP;
    for row in &rows {
        for (picture, column) in row.iter().zip(0..) {
            let left = GAP + column * (WIDTH + GAP);
            replace(&mut sheet, picture, left.into(), top.into());
        }
        top += row[0].height() + GAP;
    }
    let mut file = std::io::Cursor::new(Vec::new());
    sheet
        .write_to(&mut file, ImageFormat::Png)
        .expect("writing an RGB image to memory cannot fail");
    Ok(file.into_inner())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluation::Truth;
    use crate::scores::UNLABELLED;

    #[test]
    fn a_row_is_image_truth_and_prediction_in_the_colours_of_label_maps() {
        let mut image = std::io::Cursor::new(Vec::new());
        let blue = RgbImage::from_pixel(2, 1, Rgb([0, 0, 200]));
        blue.write_to(&mut image, ImageFormat::Png).unwrap();
        let case = Measured {
            image: image.into_inner().into(),
            truth: Truth {
                width: 2,
                height: 1,
                labels: vec![0, UNLABELLED],
            },
            predicted: vec![1, 0],
        };
        let sheet = contact_sheet(&[case.clone(), case], Orientation::Exif, 100).unwrap();
        let sheet = decode(&sheet, Orientation::Exif, 1 << 20).unwrap();
        assert_eq!(sheet.dimensions(), (3 * WIDTH + 4 * GAP, 2 * (WIDTH / 2) + 3 * GAP));
        let middle = |column: u32, half: u32, row: u32| {
            let x = GAP + column * (WIDTH + GAP) + WIDTH / 4 + half * WIDTH / 2;
            sheet.get_pixel(x, GAP + WIDTH / 4 + row * (WIDTH / 2 + GAP)).0
        };
        for row in 0..2 {
            assert_eq!(middle(0, 0, row), [0, 0, 200]);
            assert_eq!([middle(1, 0, row), middle(1, 1, row)], [palette_color(0), [0; 3]]);
            assert_eq!(
                [middle(2, 0, row), middle(2, 1, row)],
                [palette_color(1), palette_color(0)]
            );
        }
        assert_eq!(sheet.get_pixel(0, 0).0, [255; 3]);
    }
}
