//! Views: which part of which image a step uses, at which size, mirrored or not, in which colours.
//!
//! This file owns the augmentation as plain data. Randomness depends only on the seed, the step and the index in the
//! batch, so a resumed run sees the same views as an unbroken one.

use ::image::imageops;

use crate::image::{ModelInput, Normalisation, NormalisedImage, Resize, RgbImage, preprocess};
use crate::scores::UNLABELLED;
use crate::support::Random;

/// Weights of red, green and blue in grey (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// The settings by which images become views.
#[derive(Debug, Clone, Copy)]
pub(super) struct ViewSettings {
    /// Side of a view in pixels.
    pub side: u32,
    /// Short side of the image before the random scale, in pixels.
    pub short_side: u32,
    /// Smallest and largest random scale.
    pub scale: [f64; 2],
    /// Largest change of brightness, contrast and saturation in either direction, 0 to 1.
    pub colour: f64,
    pub normalisation: Normalisation,
}

/// A square part of an image, normalised. Pixels beyond the image, to the right and below, are 0.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    /// The part in the image's own colours, which the teacher sees.
    pub plain: ModelInput,
    /// The part in changed colours, `[3, side, side]`, which the student sees.
    pub coloured: Vec<f32>,
    /// The part of the image that the view shows.
    pub place: Place,
}

/// The part of an image that a view shows, and where the view shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Side of the view in pixels.
    pub side: usize,
    /// Number of the view's columns, from the left, that show the image.
    pub shown_width: usize,
    /// Number of the view's rows, from the top, that show the image.
    pub shown_height: usize,
    /// First column of the image that is shown.
    left: usize,
    /// Number of the image's columns that are shown.
    columns: usize,
    /// First row of the image that is shown.
    top: usize,
    /// Number of the image's rows that are shown.
    rows: usize,
    /// Whether the image is shown mirrored.
    mirrored: bool,
}

impl Place {
    /// Returns whether a pixel of the view, an index into `[side, side]`, shows the image.
    pub fn shows(&self, pixel: usize) -> bool {
        pixel % self.side < self.shown_width && pixel / self.side < self.shown_height
    }

    /// Cuts the view's labels, `[side, side]`, out of its image's labels, `[height, width]`. Each pixel gets the label
    /// of the nearest pixel of the image, or [`UNLABELLED`] beyond the image.
    pub fn cut(&self, labels: &[u16], width: usize) -> Vec<u16> {
        let mut cut = vec![UNLABELLED; self.side * self.side];
        for (y, row) in cut.chunks_exact_mut(self.side).take(self.shown_height).enumerate() {
            let from = self.top + nearest(y, self.rows, self.shown_height);
            for (x, label) in row[..self.shown_width].iter_mut().enumerate() {
                let column = nearest(x, self.columns, self.shown_width);
                let column = if self.mirrored {
                    self.columns - 1 - column
                } else {
                    column
                };
                *label = labels[from * width + self.left + column];
            }
        }
        cut
    }
}

/// Returns which of `from` pixels lies under the middle of pixel `at` when `from` pixels are shown as `to`.
fn nearest(at: usize, from: usize, to: usize) -> usize {
    (2 * at + 1) * from / (2 * to)
}

impl ViewSettings {
    /// Returns a random view of an image.
    pub(super) fn view(&self, image: &RgbImage, random: &mut Random) -> View {
        let (width, height) = image.dimensions();
        let [least, greatest] = self.scale;
        let scale = least + (greatest - least) * random.uniform();
        // Number of the view's pixels per pixel of the image.
        let factor = f64::from(self.short_side) / f64::from(width.min(height)) * scale;
        let (left, columns, shown_width) = self.part(width, factor, random);
        let (top, rows, shown_height) = self.part(height, factor, random);
        let mut part = imageops::crop_imm(image, left, top, columns, rows).to_image();
        let mirrored = random.uniform() < 0.5;
        if mirrored {
            imageops::flip_horizontal_in_place(&mut part);
        }
        let between_0_and_1 = Normalisation {
            mean: [0.0; 3],
            std: [1.0; 3],
        };
        let plain = preprocess(&part, shown_width, shown_height, Resize::Bicubic, &between_0_and_1).values;
        let coloured = self.recoloured(&plain, random);
        let side = self.side as usize;
        let place = Place {
            side,
            shown_width: shown_width as usize,
            shown_height: shown_height as usize,
            left: left as usize,
            columns: columns as usize,
            top: top as usize,
            rows: rows as usize,
            mirrored,
        };
        View {
            plain: ModelInput {
                image_height: side,
                image_width: side,
                sizes: vec![NormalisedImage {
                    height: side,
                    width: side,
                    values: self.framed(&plain, place.shown_width),
                }],
            },
            coloured: self.framed(&coloured, place.shown_width),
            place,
        }
    }

    /// Chooses the part of an axis of `length` pixels. Returns the first pixel that is shown, the number of pixels that
    /// are shown, and the number of the view's pixels that they become.
    fn part(&self, length: u32, factor: f64, random: &mut Random) -> (u32, u32, u32) {
        let seen = (f64::from(self.side) / factor).round().clamp(1.0, f64::from(length));
        let first = (random.uniform() * (f64::from(length) - seen + 1.0)) as u32;
        let shown = (seen * factor).round().clamp(1.0, f64::from(self.side));
        (first, seen as u32, shown as u32)
    }

    /// Changes brightness, contrast and saturation as torchvision's `ColorJitter` does. Maps `[3, pixels]` from 0 to 1
    /// to the same shape and range.
    fn recoloured(&self, planes: &[f32], random: &mut Random) -> Vec<f32> {
        let mut factor = || (1.0 + self.colour * (2.0 * random.uniform() - 1.0)) as f32;
        let (brightness, contrast, saturation) = (factor(), factor(), factor());
        let pixels = planes.len() / 3;
        let mut planes: Vec<f32> = planes.iter().map(|value| (value * brightness).min(1.0)).collect();
        let grey = |planes: &[f32], pixel: usize| -> f32 {
            let weighted = LUMA.iter().enumerate();
            weighted
                .map(|(channel, weight)| weight * planes[channel * pixels + pixel])
                .sum()
        };
        let mean = (0..pixels).map(|pixel| f64::from(grey(&planes, pixel))).sum::<f64>() / pixels as f64;
        for value in &mut planes {
            *value = towards(mean as f32, *value, contrast);
        }
        for pixel in 0..pixels {
            let grey = grey(&planes, pixel);
            for channel in 0..3 {
                let value = &mut planes[channel * pixels + pixel];
                *value = towards(grey, *value, saturation);
            }
        }
        planes
    }

    /// Normalises pixels and puts them at the top left of the view: `[3, shown height, shown width]` to `[3, side,
    /// side]`.
    fn framed(&self, planes: &[f32], shown_width: usize) -> Vec<f32> {
        let side = self.side as usize;
        let mut framed = vec![0.0; 3 * side * side];
        let plane = planes.len() / 3;
        for (channel, planes) in planes.chunks_exact(plane).enumerate() {
            let (mean, std) = (self.normalisation.mean[channel], self.normalisation.std[channel]);
            for (row, values) in planes.chunks_exact(shown_width).enumerate() {
                let start = (channel * side + row) * side;
                for (target, value) in framed[start..].iter_mut().zip(values) {
                    *target = (value - mean) / std;
                }
            }
        }
        framed
    }
}

/// Returns the value moved to `factor` times its distance from `middle`, clamped to 0 to 1.
fn towards(middle: f32, value: f32, factor: f32) -> f32 {
    (middle + factor * (value - middle)).clamp(0.0, 1.0)
}

/// Returns the image at a place in the sequence of all views. Each epoch shows every image once, in its own order.
pub(super) fn image_at(place: u64, images: usize, seed: u64) -> usize {
    let (epoch, within) = (place / images as u64, (place % images as u64) as usize);
    let mut random = Random::seeded(&format!("{seed} epoch {epoch}"));
    let mut order: Vec<usize> = (0..images).collect();
    // Fisher-Yates shuffle, only up to the place that is needed.
    for first in 0..=within {
        let other = first + (random.uniform() * (images - first) as f64) as usize;
        order.swap(first, other);
    }
    order[within]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn settings() -> ViewSettings {
        ViewSettings {
            side: 32,
            short_side: 32,
            scale: [1.0, 1.0],
            colour: 0.0,
            normalisation: Normalisation {
                mean: [0.0; 3],
                std: [1.0; 3],
            },
        }
    }

    /// An image whose red grows from left to right and whose green grows from top to bottom.
    fn ramp(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| ::image::Rgb([x as u8, y as u8, 255]))
    }

    fn random(number: usize) -> Random {
        Random::seeded(&number.to_string())
    }

    #[test]
    fn a_view_repeats_with_its_stream_and_no_other() {
        let settings = ViewSettings {
            scale: [0.5, 2.0],
            colour: 0.5,
            ..settings()
        };
        let view = |number| settings.view(&ramp(90, 60), &mut random(number));
        assert_eq!(view(1), view(1));
        assert_ne!(view(1), view(2));
    }

    #[test]
    fn an_image_of_the_view_s_size_is_seen_as_it_is_or_mirrored() {
        let image = ramp(32, 32);
        let seen: HashSet<u32> = (0..20)
            .map(|number| {
                let view = settings().view(&image, &mut random(number));
                let pairs = view.coloured.iter().zip(&view.plain.sizes[0].values);
                assert!(
                    pairs.map(|(one, other)| (one - other).abs()).all(|by| by < 1e-6),
                    "colour is 0"
                );
                assert_eq!((view.place.shown_width, view.place.shown_height), (32, 32));
                (view.plain.sizes[0].values[0] * 255.0).round() as u32
            })
            .collect();
        assert_eq!(seen, HashSet::from([0, 31]));
    }

    #[test]
    fn what_lies_beyond_the_image_is_0_and_said_to_be() {
        let settings = ViewSettings {
            scale: [0.5, 0.5],
            ..settings()
        };
        let view = settings.view(&ramp(48, 24), &mut random(3));
        assert_eq!((view.place.shown_width, view.place.shown_height), (32, 16));
        let blue = &view.plain.sizes[0].values[2 * 32 * 32..];
        assert!(blue[..16 * 32].iter().all(|value| *value == 1.0));
        assert!(blue[16 * 32..].iter().all(|value| *value == 0.0));
    }

    #[test]
    fn labels_are_cut_where_the_view_is() {
        // Each block of 10 x 10 pixels has its own label, and red and green tell the same block.
        let (width, height) = (90, 60);
        let image = RgbImage::from_fn(width, height, |x, y| {
            ::image::Rgb([(x / 10 * 20) as u8, (y / 10 * 20) as u8, 0])
        });
        let labels: Vec<u16> = (0..height)
            .flat_map(|y| (0..width).map(move |x| (y / 10 * 9 + x / 10) as u16))
            .collect();
        let settings = ViewSettings {
            scale: [0.4, 2.5],
            ..settings()
        };
        for number in 0..20 {
            let view = settings.view(&image, &mut random(number));
            let cut = view.place.cut(&labels, width as usize);
            let plane = 32 * 32;
            let values = &view.plain.sizes[0].values;
            let agreeing = (0..plane).filter(|&pixel| {
                let [x, y] = [0, plane].map(|plane| (values[plane + pixel] * 255.0 / 20.0).round() as u16);
                match view.place.shows(pixel) {
                    true => cut[pixel] == y * 9 + x,
                    false => cut[pixel] == UNLABELLED,
                }
            });
            // Some pixels at the edges of blocks disagree: the image is blended there, but labels are not.
            assert!(agreeing.count() > plane * 7 / 10, "{number}: {:?}", view.place);
        }
    }

    #[test]
    fn long_images_are_cut_before_they_are_resized() {
        let view = settings().view(&ramp(4000, 2), &mut random(4));
        assert_eq!((view.place.shown_width, view.place.shown_height), (32, 32));
    }

    #[test]
    fn colours_change_within_their_range() {
        let settings = ViewSettings {
            colour: 0.4,
            ..settings()
        };
        let view = settings.view(&ramp(32, 32), &mut random(5));
        assert_ne!(view.coloured, view.plain.sizes[0].values);
        assert!(view.coloured.iter().all(|value| (0.0..=1.0).contains(value)));
    }

    #[test]
    fn an_epoch_has_every_image_once_and_the_next_another_order() {
        let epoch = |number: u64| -> Vec<usize> { (0..20).map(|place| image_at(number * 20 + place, 20, 7)).collect() };
        let all: HashSet<usize> = epoch(0).into_iter().collect();
        assert_eq!(all.len(), 20);
        assert_ne!(epoch(0), epoch(1));
    }
}
