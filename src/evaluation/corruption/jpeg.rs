//! Computes the losses of JPEG at a quality: colour conversion, halved colour planes, quantised cosine transforms.
//!
//! Follows libjpeg as Pillow uses it, and thus ImageNet-C, with colour planes of half the size; the available encoders
//! keep them whole. The lossless coding of the bits is left out. ITU-T T.81, with libjpeg's scaling of the tables in
//! Annex K and libjpeg's triangle filter for enlarging.

use rayon::prelude::*;

use crate::image::RgbImage;

/// Quantisation tables of Annex K for brightness and for colour, `[8, 8]`, row-major over frequencies.
const LUMINANCE: [u32; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMINANCE: [u32; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99,
];

/// A plane of 8-bit values.
struct Plane {
    width: usize,
    height: usize,
    values: Vec<u8>,
}

impl Plane {
    fn new(width: usize, height: usize, value: impl Fn(usize, usize) -> u8) -> Self {
        let pixels = (0..width * height).map(|pixel| value(pixel % width, pixel / width));
        Self {
            width,
            height,
            values: pixels.collect(),
        }
    }

    /// Returns the value at a place, or the nearest value inside.
    fn at(&self, x: isize, y: isize) -> u8 {
        let inside = |place: isize, length: usize| place.clamp(0, length as isize - 1).unsigned_abs();
        self.values[inside(y, self.height) * self.width + inside(x, self.width)]
    }
}

/// Returns the image after JPEG at a quality from 1 to 100.
pub(super) fn compress(image: &RgbImage, quality: u32) -> RgbImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let plane = |[red, green, blue]: [f64; 3], offset: f64| {
        Plane::new(width, height, |x, y| {
            let rgb = image.get_pixel(x as u32, y as u32).0.map(f64::from);
            byte(red * rgb[0] + green * rgb[1] + blue * rgb[2] + offset)
        })
    };
    let luma = quantised(&plane([0.299, 0.587, 0.114], 0.0), &scaled(&LUMINANCE, quality));
    let colour = |weights| {
        let halved = halved(&plane(weights, 128.0));
        doubled(&quantised(&halved, &scaled(&CHROMINANCE, quality)), width, height)
    };
    let blue = colour([-0.168_736, -0.331_264, 0.5]);
    let red = colour([0.5, -0.418_688, -0.081_312]);
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let place = y as usize * width + x as usize;
        let [luma, blue, red] = [&luma, &blue, &red].map(|plane| f64::from(plane.values[place]));
        let (blue, red) = (blue - 128.0, red - 128.0);
        let rgb = [1.402 * red, -0.344_136 * blue - 0.714_136 * red, 1.772 * blue];
        ::image::Rgb(rgb.map(|difference| byte(luma + difference)))
    })
}

fn byte(value: f64) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

/// Returns a table scaled to a quality as libjpeg does.
fn scaled(table: &[u32; 64], quality: u32) -> [f64; 64] {
    let percent = if quality < 50 {
        5000 / quality
    } else {
        200 - 2 * quality
    };
    table.map(|step| f64::from(((step * percent + 50) / 100).clamp(1, 255)))
}

/// Halves width and height: means of four values, with ties rounded down and up in turn as in libjpeg.
fn halved(plane: &Plane) -> Plane {
    Plane::new(plane.width.div_ceil(2), plane.height.div_ceil(2), |x, y| {
        let (left, top) = (2 * x as isize, 2 * y as isize);
        let corners = [(0, 0), (1, 0), (0, 1), (1, 1)];
        let sum: u16 = corners
            .into_iter()
            .map(|(dx, dy)| u16::from(plane.at(left + dx, top + dy)))
            .sum();
        let mean = (sum + 1 + (x as u16 & 1)) / 4;
        mean as u8
    })
}

/// Doubles width and height, or one less. Along each axis a value is three quarters of the nearest value and a quarter
/// of the next.
fn doubled(plane: &Plane, width: usize, height: usize) -> Plane {
    Plane::new(width, height, |x, y| {
        let toward = |place: usize| if place.is_multiple_of(2) { -1 } else { 1 };
        let (column, row) = ((x / 2) as isize, (y / 2) as isize);
        let vertical = |column| 3 * u16::from(plane.at(column, row)) + u16::from(plane.at(column, row + toward(y)));
        let rounding = if x.is_multiple_of(2) { 8 } else { 7 };
        let value = (3 * vertical(column) + vertical(column + toward(x)) + rounding) / 16;
        value as u8
    })
}

/// Transforms every block of 8 x 8 pixels, quantises the coefficients and transforms back. Values at the border
/// continue beyond it.
fn quantised(plane: &Plane, steps: &[f64; 64]) -> Plane {
    let basis = basis();
    let across = plane.width.div_ceil(8);
    let blocks: Vec<[u8; 64]> = (0..across * plane.height.div_ceil(8))
        .into_par_iter()
        .map(|block| {
            let (left, top) = (8 * (block % across) as isize, 8 * (block / across) as isize);
            let values = std::array::from_fn(|place| {
                let (x, y) = (place as isize % 8, place as isize / 8);
                f64::from(plane.at(left + x, top + y)) - 128.0
            });
            let mut frequencies = transform(&values, |frequency, place| basis[frequency][place]);
            for (frequency, step) in frequencies.iter_mut().zip(steps) {
                // libjpeg's transform returns multiples of an eighth. This decides ties.
                let eighths = (*frequency * 8.0).round() / 8.0;
                *frequency = (eighths / step).round() * step;
            }
            transform(&frequencies, |place, frequency| basis[frequency][place]).map(|value| byte(value + 128.0))
        })
        .collect();
    Plane::new(plane.width, plane.height, |x, y| {
        blocks[y / 8 * across + x / 8][y % 8 * 8 + x % 8]
    })
}

/// Returns the orthonormal cosine basis, `[frequency][place]`.
fn basis() -> [[f64; 8]; 8] {
    std::array::from_fn(|frequency| {
        let scale: f64 = if frequency == 0 { 0.125 } else { 0.25 };
        std::array::from_fn(|place| {
            let angle = (2 * place + 1) as f64 * frequency as f64 * std::f64::consts::PI / 16.0;
            scale.sqrt() * angle.cos()
        })
    })
}

/// Multiplies a block, `[8, 8]`, with a matrix from both sides: along its rows, then along its columns.
fn transform(block: &[f64; 64], weight: impl Fn(usize, usize) -> f64) -> [f64; 64] {
    let rows: [f64; 64] = std::array::from_fn(|place| {
        let (row, to) = (place / 8, place % 8);
        (0..8).map(|from| weight(to, from) * block[row * 8 + from]).sum()
    });
    std::array::from_fn(|place| {
        let (to, column) = (place / 8, place % 8);
        (0..8).map(|from| weight(to, from) * rows[from * 8 + column]).sum()
    })
}
