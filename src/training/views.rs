//! Which part of which image a step looks at, how large, which way round and in which colours.
//!
//! Owns the augmentation, as plain data. What is random depends on the seed, the step and the place in the batch alone, so a run
//! that is resumed sees what an unbroken one would have seen.

use ::image::imageops;

use crate::image::{ModelInput, Normalisation, NormalisedImage, Resize, RgbImage, preprocess};
use crate::scores::UNLABELLED;
use crate::support::Random;

/// Weights of red, green and blue in grey (ITU-R BT.601).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// How images become views.
#[derive(Debug, Clone, Copy)]
pub(super) struct ViewSettings {
    /// Side of a view in pixels.
    pub side: u32,
    /// Short side of the image before the random scale, in pixels.
    pub short_side: u32,
    /// Least and greatest random scale.
    pub scale: [f64; 2],
    /// How far brightness, contrast and saturation go either way, 0 to 1.
    pub colour: f64,
    pub normalisation: Normalisation,
}

/// A square of an image, normalised. What lies beyond the image, right and below, is 0.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    /// In the image's own colours: what the teacher sees.
    pub plain: ModelInput,
    /// `[3, side, side]` in changed colours: what the student sees.
    pub coloured: Vec<f32>,
    /// What of the image it shows.
    pub place: Place,
}

/// Which part of its image a view shows, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Side of the view in pixels.
    pub side: usize,
    /// Pixels from the view's left that show the image.
    pub shown_width: usize,
    /// Pixels from the view's top that show the image.
    pub shown_height: usize,
    /// First column of the image that is shown.
    left: usize,
    /// How many are.
    columns: usize,
    /// First row of the image that is shown.
    top: usize,
    /// How many are.
    rows: usize,
    /// Whether the image is shown mirrored.
    mirrored: bool,
}

impl Place {
    /// Whether a pixel of the view, `[side, side]`, shows the image.
    pub fn shows(&self, pixel: usize) -> bool {
        pixel % self.side < self.shown_width && pixel / self.side < self.shown_height
    }

    /// The view's labels, `[side, side]`, out of its image's, `[height, width]`: of the nearest pixel; [`UNLABELLED`] beyond the
    /// image.
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

/// Which of `from` pixels lies under the middle of pixel `at` when they are shown as `to`.
fn nearest(at: usize, from: usize, to: usize) -> usize {
    (2 * at + 1) * from / (2 * to)
}

impl ViewSettings {
    /// One view of an image.
    pub(super) fn view(&self, image: &RgbImage, random: &mut Random) -> View {
        let (width, height) = image.dimensions();
        let [least, greatest] = self.scale;
        let scale = least + (greatest - least) * random.uniform();
        // Pixels of the view per pixel of the image.
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

    /// Along one axis of `length` pixels: the first pixel that is seen, how many are, and how many of the view they become.
    fn part(&self, length: u32, factor: f64, random: &mut Random) -> (u32, u32, u32) {
        let seen = (f64::from(self.side) / factor).round().clamp(1.0, f64::from(length));
        let first = (random.uniform() * (f64::from(length) - seen + 1.0)) as u32;
        let shown = (seen * factor).round().clamp(1.0, f64::from(self.side));
        (first, seen as u32, shown as u32)
    }

    /// Brightness, contrast and saturation, as torchvision's `ColorJitter` has them: `[3, pixels]` of 0 to 1 to the same.
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

    /// Normalised and put at the top left of the view: `[3, shown height, shown width]` to `[3, side, side]`.
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

/// The value `factor` times as far from `middle`, within 0 to 1.
fn towards(middle: f32, value: f32, factor: f32) -> f32 {
    (middle + factor * (value - middle)).clamp(0.0, 1.0)
}

/// Which image comes at a place in the order of all steps: each epoch has every image once, in an order of its own.
pub(super) fn image_at(place: u64, images: usize, seed: u64) -> usize {
    let (epoch, within) = (place / images as u64, (place % images as u64) as usize);
    let mut random = Random::seeded(&format!("{seed} epoch {epoch}"));
    let mut order: Vec<usize> = (0..images).collect();
    // Fisher and Yates, as far as the place that is asked for.
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

    /// Red grows from left to right, green from top to bottom.
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
        // A label per column and band of rows, and red and green of the same pixels.
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
            // All but the edges, where the image is blended and labels are not.
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
