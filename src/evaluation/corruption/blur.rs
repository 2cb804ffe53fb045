//! Filters: Gaussian blur and disk blur.

use rayon::prelude::*;

use super::Pixels;

/// The values that a filter sees beyond the border.
#[derive(Debug, Clone, Copy)]
pub(super) enum Border {
    /// The value at the border (`aaa|abcd|ddd`), scikit-image's `nearest`.
    Nearest,
    /// The inside, mirrored at the border's pixels (`dcb|abcd|cba`), OpenCV's `BORDER_REFLECT_101`.
    Mirror,
}

impl Border {
    /// Returns the index from 0 to `length` - 1 that stands for `index`, which may lie outside.
    pub fn index(self, index: isize, length: usize) -> usize {
        let last = length as isize - 1;
        let inside = match self {
            Self::Nearest => index.clamp(0, last),
            Self::Mirror if last == 0 => 0,
            Self::Mirror => {
                let folded = index.rem_euclid(2 * last);
                folded.min(2 * last - folded)
            }
        };
        inside.unsigned_abs()
    }
}

/// Blurs like scikit-image's `gaussian`, with a kernel of four standard deviations and nearest values beyond the
/// border.
pub(super) fn gaussian(pixels: &Pixels, deviation: f64) -> Pixels {
    let planes = pixels
        .planes()
        .flat_map(|plane| gaussian_plane(plane, pixels.width, deviation));
    pixels.with(planes.collect())
}

/// Applies [`gaussian`] to one plane, `[height, width]`.
pub(super) fn gaussian_plane(plane: &[f64], width: usize, deviation: f64) -> Vec<f64> {
    let kernel = gaussian_kernel((4.0 * deviation + 0.5) as usize, deviation);
    let down = filter(plane, width, &kernel, 1, Border::Nearest);
    filter(&down, width, &kernel, kernel.len(), Border::Nearest)
}

/// Blurs like ImageNet-C's `defocus_blur`: with a disk of this radius in pixels, whose edge a Gaussian of deviation
/// `alias` smooths.
pub(super) fn defocus(pixels: &Pixels, radius: usize, alias: f64) -> Pixels {
    let (kernel, side) = disk(radius, alias);
    let planes = pixels
        .planes()
        .flat_map(|plane| filter(plane, pixels.width, &kernel, side, Border::Mirror));
    pixels.with(planes.collect())
}

/// Returns the disk's kernel, `[side, side]`, and its side. Up to radius 8 the side is 17 and 3 cells smooth the edge;
/// larger disks use 5 cells.
fn disk(radius: usize, alias: f64) -> (Vec<f64>, usize) {
    let (reach, smoothing) = if radius <= 8 { (8, 1) } else { (radius, 2) };
    let side = 2 * reach + 1;
    let inside = |cell: usize| {
        let (x, y) = ((cell % side).abs_diff(reach), (cell / side).abs_diff(reach));
        x * x + y * y <= radius * radius
    };
    let cells: Vec<f64> = (0..side * side).map(|cell| f64::from(u8::from(inside(cell)))).collect();
    let sum: f64 = cells.iter().sum();
    let even: Vec<f64> = cells.iter().map(|cell| cell / sum).collect();
    let smooth = gaussian_kernel(smoothing, alias);
    let down = filter(&even, side, &smooth, 1, Border::Mirror);
    (filter(&down, side, &smooth, smooth.len(), Border::Mirror), side)
}

/// Returns `2 * reach + 1` weights with the sum 1.
fn gaussian_kernel(reach: usize, deviation: f64) -> Vec<f64> {
    let weight = |place: usize| (-0.5 * (place.abs_diff(reach) as f64 / deviation).powi(2)).exp();
    let weights: Vec<f64> = (0..=2 * reach).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Correlates a plane, `[height, width]`, with a row-major kernel of odd sides that is `kernel_width` wide.
pub(super) fn filter(plane: &[f64], width: usize, kernel: &[f64], kernel_width: usize, border: Border) -> Vec<f64> {
    let height = plane.len() / width;
    let (reach_x, reach_y) = (kernel_width / 2, kernel.len() / kernel_width / 2);
    // The offsets and values of all weights except zeros.
    let taps: Vec<(isize, isize, f64)> = kernel
        .iter()
        .enumerate()
        .filter(|(_, weight)| **weight != 0.0)
        .map(|(place, &weight)| {
            let offset = |place: usize, reach: usize| place as isize - reach as isize;
            (
                offset(place % kernel_width, reach_x),
                offset(place / kernel_width, reach_y),
                weight,
            )
        })
        .collect();
    let value = |x: usize, y: usize| {
        let at = |&(dx, dy, weight): &(isize, isize, f64)| {
            let (column, row) = (
                border.index(x as isize + dx, width),
                border.index(y as isize + dy, height),
            );
            weight * plane[row * width + column]
        };
        taps.iter().map(at).sum::<f64>()
    };
    (0..plane.len())
        .into_par_iter()
        .map(|pixel| value(pixel % width, pixel / width))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_repeat_or_mirror() {
        let indices = |border: Border, length| (-3..=5).map(|at| border.index(at, length)).collect::<Vec<_>>();
        assert_eq!(indices(Border::Nearest, 3), [0, 0, 0, 0, 1, 2, 2, 2, 2]);
        assert_eq!(indices(Border::Mirror, 3), [1, 2, 1, 0, 1, 2, 1, 0, 1]);
        assert_eq!(indices(Border::Mirror, 1), [0; 9]);
    }

    #[test]
    fn a_filter_is_a_correlation() {
        // A single bright pixel becomes the kernel turned by 180 degrees.
        let mut impulse = vec![0.0; 25];
        impulse[12] = 1.0;
        let kernel: Vec<f64> = (1..=9).map(f64::from).collect();
        let shown = filter(&impulse, 5, &kernel, 3, Border::Mirror);
        assert_eq!(shown[6..9], [9.0, 8.0, 7.0]);
        assert_eq!(shown[16..19], [3.0, 2.0, 1.0]);
    }
}
