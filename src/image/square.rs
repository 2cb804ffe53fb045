//! The square in the middle of an image, as CLIP was trained on: torchvision's `Resize` of the short side with Pillow's
//! antialiased bicubic, then `CenterCrop`.
//!
//! The result is Pillow's to the bit: an embedding of a whole image changes with every pixel, and is compared with
//! those that other programs compute. The crate that [`resize`](super::resize) uses is faster, and differs from Pillow
//! by 1 here and there.

use std::ops::Range;

use super::RgbImage;
use super::pass_order::PassOrder;

/// Bits behind the point of a weight.
const WEIGHT_BITS: u32 = 22;

/// How far the bicubic reaches, in pixels of the larger grid.
const REACH: f64 = 2.0;

/// Values of a pixel.
const CHANNELS: usize = 3;

/// Resizes an image so that its short side is `side`, and returns the square in its middle as interleaved RGB bytes.
/// Pixels outside of the square are not computed, so that a long thin image costs no more than its pixels.
pub(super) fn middle_square(image: &RgbImage, side: u32) -> Vec<u8> {
    let shorter = image.width().min(image.height());
    let resized = |length: u32| u64::from(side) * u64::from(length) / u64::from(shorter);
    let axis = |length: u32| {
        let resized = resized(length) as usize;
        Axis::new(length as usize, resized, middle(resized, side as usize))
    };
    let order = PassOrder::of(image.dimensions(), (resized(image.width()), resized(image.height())));
    resample(image, &axis(image.width()), &axis(image.height()), order)
}

/// The middle of an axis. Where as many pixels cannot go on both sides, torchvision rounds a half to an even number.
fn middle(length: usize, side: usize) -> Range<usize> {
    let beyond = length - side;
    let begin = beyond / 2 + (beyond % 2) * (beyond / 2 % 2);
    begin..begin + side
}

/// The wanted pixels of a resized axis, each a weighted sum of pixels before.
struct Axis(Vec<Sum>);

/// A sum of pixels that follow each other.
struct Sum {
    first: usize,
    weights: Vec<i32>,
}

impl Axis {
    /// The pixels `wanted` of an axis of `length` pixels that is resized to `resized`.
    fn new(length: usize, resized: usize, wanted: Range<usize>) -> Self {
        let scale = length as f64 / resized as f64;
        let stretch = scale.max(1.0);
        let reach = REACH * stretch;
        let shrink = 1.0 / stretch;
        let sum = |place: usize| {
            let centre = (place as f64 + 0.5) * scale;
            let first = ((centre - reach + 0.5).max(0.0)) as usize;
            let end = ((centre + reach + 0.5) as usize).min(length);
            let weights: Vec<f64> = (first..end)
                .map(|pixel| bicubic((pixel as f64 - centre + 0.5) * shrink))
                .collect();
            let total: f64 = weights.iter().sum();
            let fixed = |weight: &f64| (weight / total * f64::from(1 << WEIGHT_BITS)).round() as i32;
            Sum {
                first,
                weights: weights.iter().map(fixed).collect(),
            }
        };
        Self(wanted.map(sum).collect())
    }

    /// The pixels before that the sums are of.
    fn span(&self) -> Range<usize> {
        let end = |sum: &Sum| sum.first + sum.weights.len();
        let first = self.0.iter().map(|sum| sum.first).min();
        first.unwrap_or(0)..self.0.iter().map(end).max().unwrap_or(0)
    }
}

/// The cubic of Keys (1981) with a = -0.5.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Resizes an image along both axes, as interleaved RGB bytes.
fn resample(image: &RgbImage, columns: &Axis, rows: &Axis, order: PassOrder) -> Vec<u8> {
    let width = image.width() as usize;
    match order {
        PassOrder::ColumnsFirst => {
            let between = across(image.as_raw(), width, rows.span(), (columns, 0));
            let wanted = 0..columns.0.len();
            down(&between, columns.0.len(), wanted, (rows, rows.span().start))
        }
        PassOrder::RowsFirst => {
            let span = columns.span();
            let between = down(image.as_raw(), width, span.clone(), (rows, 0));
            across(&between, span.len(), 0..rows.0.len(), (columns, span.start))
        }
    }
}

/// Sums along the rows of pixels that are `width` wide and begin with the column `first`. Returns `rows` of them.
fn across(pixels: &[u8], width: usize, rows: Range<usize>, (columns, first): (&Axis, usize)) -> Vec<u8> {
    let mut summed = Vec::with_capacity(rows.len() * columns.0.len() * CHANNELS);
    for row in rows {
        let row = &pixels[row * width * CHANNELS..][..width * CHANNELS];
        for Sum { first: begin, weights } in &columns.0 {
            let mut sums = [HALF; CHANNELS];
            let pixels = row[(begin - first) * CHANNELS..].chunks_exact(CHANNELS);
            for (pixel, weight) in pixels.zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(value);
                }
            }
            summed.extend(sums.map(clipped));
        }
    }
    summed
}

/// Sums along the columns of pixels that are `width` wide and begin with the row `first`. Returns `columns` of them.
fn down(pixels: &[u8], width: usize, columns: Range<usize>, (rows, first): (&Axis, usize)) -> Vec<u8> {
    let mut summed = Vec::with_capacity(rows.0.len() * columns.len() * CHANNELS);
    for Sum { first: begin, weights } in &rows.0 {
        let mut sums = vec![HALF; columns.len() * CHANNELS];
        for (row, weight) in (begin - first..).zip(weights) {
            let row = &pixels[(row * width + columns.start) * CHANNELS..][..sums.len()];
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(value);
            }
        }
        summed.extend(sums.into_iter().map(clipped));
    }
    summed
}

/// Half of the lowest bit that is kept, which makes cutting off round.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

fn clipped(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::super::resize_cases::{cases, load};
    use super::*;

    /// The whole of an image at another size.
    fn resized(image: &RgbImage, width: u32, height: u32) -> Vec<u8> {
        let axis = |length: u32, to: u32| Axis::new(length as usize, to as usize, 0..to as usize);
        let (columns, rows) = (axis(image.width(), width), axis(image.height(), height));
        let order = PassOrder::of(image.dimensions(), (width.into(), height.into()));
        resample(image, &columns, &rows, order)
    }

    #[test]
    fn the_pixels_are_pillows_to_the_bit() {
        for case in cases() {
            let found = resized(&load(&case.source), case.width, case.height);
            assert!(found == *load(&case.expected).as_raw(), "{}", case.expected);
        }
    }

    #[test]
    fn the_square_is_the_middle_of_the_whole() {
        for (width, height, side) in [
            (61, 40, 16),
            (40, 61, 16),
            (33, 33, 33),
            (7, 5, 20),
            (4, 200, 8),
            (300, 4, 9),
        ] {
            let image = RgbImage::from_fn(width, height, |x, y| {
                ::image::Rgb([(x * 37 + y * 11) as u8, (x * y * 5) as u8, (x * x + 3 * y) as u8])
            });
            let [whole_width, whole_height] = [width, height].map(|length| side * length / width.min(height));
            let whole = resized(&image, whole_width, whole_height);
            let begin = |length: u32| ((f64::from(length) - f64::from(side)) / 2.0).round_ties_even() as usize;
            let (left, whole_width, side) = (begin(whole_width), whole_width as usize, side as usize);
            let rows = (begin(whole_height)..)
                .take(side)
                .map(|row| (row * whole_width + left) * 3);
            let expected: Vec<u8> = rows.flat_map(|start| whole[start..start + 3 * side].to_vec()).collect();
            assert_eq!(
                middle_square(&image, side as u32),
                expected,
                "{width} x {height} to {side}"
            );
        }
    }
}
