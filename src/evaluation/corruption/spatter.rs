//! Spatter: drops on the lens, made of smoothed noise above a threshold.
//!
//! The steps and constants come from ImageNet-C's `spatter`. Its calls of OpenCV are written here from OpenCV's
//! documentation: Canny's edges with 3 x 3 Sobel filters and the sum of absolute derivatives, the 5 x 5 chamfer
//! distance, and histogram equalisation.

use super::Pixels;
use super::blur::{Border, filter, gaussian_plane};

/// The constants of one severity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Constants {
    /// Mean and standard deviation of the noise.
    mean: f64,
    deviation: f64,
    /// Standard deviation in pixels of the Gaussian that smooths the noise.
    smoothing: f64,
    /// Threshold of the smoothed noise. Pixels below it stay dry.
    threshold: f64,
    liquid: Liquid,
}

/// The liquid on the lens.
#[derive(Debug, Clone, Copy)]
enum Liquid {
    /// Pale turquoise water, brightest near the edges of drops, added with this strength.
    Water(f64),
    /// Opaque brown mud, whose edge a Gaussian of this standard deviation in pixels smooths.
    Mud(f64),
}

/// The constants of ImageNet-C for severities 1 to 5.
pub(super) const CONSTANTS: [Constants; 5] = [
    constants(0.65, 0.3, 4.0, 0.69, Liquid::Water(0.6)),
    constants(0.65, 0.3, 3.0, 0.68, Liquid::Water(0.6)),
    constants(0.65, 0.3, 2.0, 0.68, Liquid::Water(0.5)),
    constants(0.65, 0.3, 1.0, 0.65, Liquid::Mud(1.5)),
    constants(0.67, 0.4, 1.0, 0.65, Liquid::Mud(1.5)),
];

const fn constants(mean: f64, deviation: f64, smoothing: f64, threshold: f64, liquid: Liquid) -> Constants {
    Constants {
        mean,
        deviation,
        smoothing,
        threshold,
        liquid,
    }
}

/// Colours of water and mud, RGB, 0 to 255.
const WATER: [f64; 3] = [175.0, 238.0, 238.0];
const MUD: [f64; 3] = [63.0, 42.0, 20.0];

/// Mud less opaque than this is left out.
const THINNEST_MUD: f64 = 0.8;

/// Spatters an image. `noise` is standard normal, one value per pixel.
pub(super) fn spatter(pixels: &Pixels, constants: &Constants, noise: &[f64]) -> Pixels {
    let width = pixels.width;
    let noise: Vec<f64> = noise
        .iter()
        .map(|value| constants.mean + constants.deviation * value)
        .collect();
    let mut liquid = gaussian_plane(&noise, width, constants.smoothing);
    for value in &mut liquid {
        if *value < constants.threshold {
            *value = 0.0;
        }
    }
    let planes = pixels.planes();
    match constants.liquid {
        Liquid::Water(strength) => {
            let light = water(&liquid, width, strength);
            let lit = planes.zip(WATER).flat_map(|(plane, color)| {
                let lit = plane.iter().zip(&light);
                lit.map(move |(value, light)| value + light * color / 255.0)
            });
            pixels.with(lit.collect())
        }
        Liquid::Mud(smoothing) => {
            let opacity = mud(&liquid, width, constants.threshold, smoothing);
            let covered = planes.zip(MUD).flat_map(|(plane, color)| {
                let covered = plane.iter().zip(&opacity);
                covered.map(move |(value, opacity)| value * (1.0 - opacity) + opacity * color / 255.0)
            });
            pixels.with(covered.collect())
        }
    }
}

/// Returns how much light the water adds, `[height, width]`.
fn water(liquid: &[f64], width: usize, strength: f64) -> Vec<f64> {
    let liquid: Vec<u8> = liquid.iter().map(|value| (value * 255.0) as u8).collect();
    let distance = distance_to(&edges(&liquid, width), width);
    let near: Vec<f64> = distance.iter().map(|distance| distance.min(20.0)).collect();
    let near: Vec<u8> = mean_of_nine(&near, width).iter().map(|value| *value as u8).collect();
    let equal = equalised(&near);
    let emboss = [-2.0, -1.0, 0.0, -1.0, 1.0, 1.0, 0.0, 1.0, 2.0];
    let relief = filter(&equal, width, &emboss, 3, Border::Mirror);
    let relief: Vec<f64> = relief.iter().map(|value| value.clamp(0.0, 255.0)).collect();
    let relief: Vec<f64> = mean_of_nine(&relief, width).iter().map(|value| value.round()).collect();
    let light: Vec<f64> = liquid
        .iter()
        .zip(relief)
        .map(|(&wet, relief)| f64::from(wet) * relief)
        .collect();
    let most = light.iter().copied().fold(0.0, f64::max);
    // Where nothing is wet, the reference divides by zero.
    let scale = if most > 0.0 { strength / most } else { 0.0 };
    light.iter().map(|light| light * scale).collect()
}

/// Returns the opacity of the mud, `[height, width]`, 0 to 1.
fn mud(liquid: &[f64], width: usize, threshold: f64, smoothing: f64) -> Vec<f64> {
    let wet: Vec<f64> = liquid
        .iter()
        .map(|value| f64::from(u8::from(*value > threshold)))
        .collect();
    let smooth = gaussian_plane(&wet, width, smoothing);
    smooth
        .iter()
        .map(|opacity| if *opacity < THINNEST_MUD { 0.0 } else { *opacity })
        .collect()
}

fn mean_of_nine(plane: &[f64], width: usize) -> Vec<f64> {
    let sums = filter(plane, width, &[1.0; 9], 3, Border::Mirror);
    sums.iter().map(|sum| sum / 9.0).collect()
}

/// Returns the edges that Canny's method finds with the thresholds 50 and 150.
fn edges(image: &[u8], width: usize) -> Vec<bool> {
    let (low, high) = (50, 150);
    let height = image.len() / width;
    let value = |x: isize, y: isize| {
        let (x, y) = (Border::Nearest.index(x, width), Border::Nearest.index(y, height));
        i64::from(image[y * width + x])
    };
    // 3 x 3 Sobel derivatives.
    let gradient = |pixel: usize| {
        let (x, y) = ((pixel % width) as isize, (pixel / width) as isize);
        let column = |x: isize| value(x, y - 1) + 2 * value(x, y) + value(x, y + 1);
        let row = |y: isize| value(x - 1, y) + 2 * value(x, y) + value(x + 1, y);
        (column(x + 1) - column(x - 1), row(y + 1) - row(y - 1))
    };
    let gradients: Vec<(i64, i64)> = (0..image.len()).map(gradient).collect();
    let magnitude = |x: isize, y: isize| {
        let inside = (0..width as isize).contains(&x) && (0..height as isize).contains(&y);
        let (across, down) = if inside {
            gradients[y as usize * width + x as usize]
        } else {
            (0, 0)
        };
        across.abs() + down.abs()
    };
    // A ridge pixel is steeper than both neighbours along its gradient, whose direction is rounded to 45 degrees.
    let is_ridge = |pixel: usize| {
        let (x, y) = ((pixel % width) as isize, (pixel / width) as isize);
        let (across, down) = gradients[pixel];
        let here = magnitude(x, y);
        let (flat, steep) = (std::f64::consts::SQRT_2 - 1.0, std::f64::consts::SQRT_2 + 1.0);
        let (run, rise) = (across.abs() as f64, down.abs() as f64);
        if rise < flat * run {
            here > magnitude(x - 1, y) && here >= magnitude(x + 1, y)
        } else if rise > steep * run {
            here > magnitude(x, y - 1) && here >= magnitude(x, y + 1)
        } else {
            let side = if (across < 0) == (down < 0) { 1 } else { -1 };
            here > magnitude(x - side, y - 1) && here > magnitude(x + side, y + 1)
        }
    };
    let strength = |pixel: usize| magnitude((pixel % width) as isize, (pixel / width) as isize);
    let mut is_candidate: Vec<bool> = (0..image.len())
        .map(|pixel| strength(pixel) > low && is_ridge(pixel))
        .collect();
    // Candidates connected to a strong candidate are edges.
    let mut found = vec![false; image.len()];
    let mut open: Vec<usize> = (0..image.len())
        .filter(|&pixel| is_candidate[pixel] && strength(pixel) > high)
        .collect();
    while let Some(pixel) = open.pop() {
        found[pixel] = true;
        is_candidate[pixel] = false;
        let (x, y) = (pixel % width, pixel / width);
        for near_y in y.saturating_sub(1)..=(y + 1).min(height - 1) {
            for near_x in x.saturating_sub(1)..=(x + 1).min(width - 1) {
                let near = near_y * width + near_x;
                if std::mem::take(&mut is_candidate[near]) {
                    open.push(near);
                }
            }
        }
    }
    found
}

/// Returns the distance to the nearest edge in pixels, infinite if there is no edge: the chamfer distance with the
/// steps 1, 1.4 and 2.1969 (Borgefors 1986), OpenCV's 5 x 5 mask.
fn distance_to(edges: &[bool], width: usize) -> Vec<f64> {
    /// Steps to pixels that a forward pass has visited already.
    const STEPS: [(isize, isize, f64); 8] = [
        (-1, -2, 2.1969),
        (1, -2, 2.1969),
        (-2, -1, 2.1969),
        (-1, -1, 1.4),
        (0, -1, 1.0),
        (1, -1, 1.4),
        (2, -1, 2.1969),
        (-1, 0, 1.0),
    ];
    let height = edges.len() / width;
    let mut distance: Vec<f64> = edges
        .iter()
        .map(|&is_edge| if is_edge { 0.0 } else { f64::INFINITY })
        .collect();
    let relax = |distance: &mut [f64], pixel: usize, direction: isize| {
        let (x, y) = ((pixel % width) as isize, (pixel / width) as isize);
        for (dx, dy, step) in STEPS {
            let (x, y) = (x + direction * dx, y + direction * dy);
            if (0..width as isize).contains(&x) && (0..height as isize).contains(&y) {
                distance[pixel] = distance[pixel].min(distance[y as usize * width + x as usize] + step);
            }
        }
    };
    (0..edges.len()).for_each(|pixel| relax(&mut distance, pixel, 1));
    (0..edges.len()).rev().for_each(|pixel| relax(&mut distance, pixel, -1));
    distance
}

/// Equalises the histogram like OpenCV's `equalizeHist`: the cumulative histogram becomes a straight line.
fn equalised(values: &[u8]) -> Vec<f64> {
    let mut histogram = [0_usize; 256];
    values.iter().for_each(|&value| histogram[usize::from(value)] += 1);
    let first = histogram.iter().position(|&count| count > 0).unwrap_or(0);
    let rest = values.len() - histogram[first];
    if rest == 0 {
        return values.iter().map(|&value| value.into()).collect();
    }
    let mut table = [0.0; 256];
    let mut sum = 0;
    for (entry, count) in table.iter_mut().zip(histogram).skip(first + 1) {
        sum += count;
        *entry = (sum as f64 * 255.0 / rest as f64).round_ties_even();
    }
    values.iter().map(|&value| table[usize::from(value)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_one_edge_and_distances_grow_from_it() {
        // An image of 8 x 4 pixels with a dark and a bright half.
        let image: Vec<u8> = (0..32).map(|pixel| if pixel % 8 < 4 { 0 } else { 200 }).collect();
        let edges = edges(&image, 8);
        let columns: Vec<usize> = (0..8).filter(|&x| (0..4).all(|y| edges[y * 8 + x])).collect();
        assert_eq!(columns, [3]);
        assert_eq!(edges.iter().filter(|edge| **edge).count(), 4);
        assert_eq!(distance_to(&edges, 8)[8..16], [3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn distances_use_the_three_steps() {
        let mut edges = vec![false; 25];
        edges[12] = true;
        let distance = distance_to(&edges, 5);
        assert_eq!(distance[..3], [2.8, 2.1969, 2.0]);
        assert_eq!(distance[6], 1.4);
        assert!(
            distance_to(&[false; 4], 2)
                .iter()
                .all(|distance| distance.is_infinite())
        );
    }

    #[test]
    fn an_equalised_histogram_starts_at_black_and_ends_at_white() {
        assert_eq!(equalised(&[7, 7, 9, 20]), [0.0, 0.0, 128.0, 255.0]);
        assert_eq!(equalised(&[7, 7]), [7.0, 7.0]);
    }
}
