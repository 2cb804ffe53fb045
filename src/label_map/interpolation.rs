//! Positions and weights of bilinear interpolation along one axis.

use super::windows::WindowAxis;

/// The two grid cells a pixel lies between, and how far towards the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tap {
    /// The cell before the pixel's centre.
    pub first: usize,
    /// The cell after it; the same one at the grid's edge.
    pub second: usize,
    /// Weight of the second cell, 0 to 1.
    pub weight: f32,
    /// What the value between them counts for, 0 to 1: the shares of one pixel's taps add up to 1.
    pub share: f32,
}

impl Tap {
    /// Counts for nothing.
    const NONE: Self = Self {
        first: 0,
        second: 0,
        weight: 0.0,
        share: 0.0,
    };

    /// The value between the two cells' values, times the share.
    #[inline]
    pub fn blend(self, first: f32, second: f32) -> f32 {
        self.share * (first * (1.0 - self.weight) + second * self.weight)
    }
}

/// Where an axis of the image takes its values from: layers of one tap per pixel, to be added up.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Taps {
    layers: Vec<Vec<Tap>>,
}

impl Taps {
    /// For `cells` cells that cover `pixels` pixels evenly, or are those of all windows side by side.
    pub fn new(cells: usize, windows: Option<&WindowAxis>, pixels: usize) -> Self {
        let layers = match windows {
            None => vec![taps(cells, pixels)],
            Some(windows) => through_windows(cells / windows.starts.len(), windows, pixels),
        };
        Self { layers }
    }

    /// Writes the blend of a plane's rows for pixel `y` of this axis. The plane is `[cells, row.len()]`, row-major.
    pub fn blend_rows(&self, y: usize, plane: &[f32], row: &mut [f32]) {
        row.fill(0.0);
        for tap in self.layers.iter().map(|layer| layer[y]).filter(|tap| tap.share > 0.0) {
            let rows = [tap.first, tap.second].map(|cell| &plane[cell * row.len()..][..row.len()]);
            for ((value, &first), &second) in row.iter_mut().zip(rows[0]).zip(rows[1]) {
                *value += tap.blend(first, second);
            }
        }
    }

    /// Writes `store(accumulator, interpolated value)` for `pixels.len()` pixels of this axis from pixel `x` on, out of one
    /// row of cells.
    pub fn blend_columns<A>(
        &self,
        x: usize,
        cells: &[f32],
        pixels: &mut [f32],
        accumulators: &mut [A],
        store: impl Fn(&mut A, f32) -> f32,
    ) {
        let value_of = |tap: &Tap| tap.blend(cells[tap.first], cells[tap.second]);
        let (last, others) = self.layers.split_last().expect("every axis has a layer of taps");
        pixels.fill(0.0);
        for layer in others {
            for (value, tap) in pixels.iter_mut().zip(&layer[x..]) {
                *value += value_of(tap);
            }
        }
        for ((value, tap), accumulator) in pixels.iter_mut().zip(&last[x..]).zip(accumulators) {
            *value = store(accumulator, *value + value_of(tap));
        }
    }
}

/// Where `pixels` pixels along an axis fall among its `cells` grid cells, corners not aligned.
///
/// In 32-bit arithmetic, as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`
/// computes it, so that results agree beyond the position's rounding.
fn taps(cells: usize, pixels: usize) -> Vec<Tap> {
    let scale = cells as f32 / pixels as f32;
    (0..pixels)
        .map(|pixel| {
            let position = ((pixel as f32 + 0.5) * scale - 0.5).max(0.0);
            let first = (position as usize).min(cells - 1);
            Tap {
                first,
                second: (first + 1).min(cells - 1),
                weight: (position - first as f32).clamp(0.0, 1.0),
                share: 1.0,
            }
        })
        .collect()
}

/// Three steps in one, since each is linear: `cells` cells of every window to the window's pixels, the mean over the windows
/// that cover a pixel of the input, the input's pixels to the image's.
fn through_windows(cells: usize, windows: &WindowAxis, pixels: usize) -> Vec<Vec<Tap>> {
    let in_window = taps(cells, windows.side);
    let of_pixel = |tap: Tap| {
        let parts = [(tap.first, 1.0 - tap.weight), (tap.second, tap.weight)];
        let mut taps = Vec::new();
        for (pixel, weight) in parts.into_iter().filter(|(_, weight)| *weight > 0.0) {
            let coverage = windows.covering(pixel).count() as f32;
            taps.extend(windows.covering(pixel).map(|(window, start)| {
                let tap = in_window[pixel - start];
                Tap {
                    first: window * cells + tap.first,
                    second: window * cells + tap.second,
                    weight: tap.weight,
                    share: weight / coverage,
                }
            }));
        }
        taps
    };
    let of_pixels: Vec<Vec<Tap>> = taps(windows.pixels, pixels).into_iter().map(of_pixel).collect();
    let layers = of_pixels.iter().map(Vec::len).max().unwrap_or_default();
    let layer = |layer: usize| of_pixels.iter().map(move |taps| *taps.get(layer).unwrap_or(&Tap::NONE));
    (0..layers).map(|index| layer(index).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cells_over_four_pixels() {
        let weights: Vec<_> = taps(2, 4)
            .iter()
            .map(|tap| (tap.first, tap.second, tap.weight))
            .collect();
        assert_eq!(weights, [(0, 1, 0.0), (0, 1, 0.25), (0, 1, 0.75), (1, 1, 0.25)]);
    }

    #[test]
    fn one_pixel_over_four_cells_lies_between_the_middle_ones() {
        assert_eq!(
            taps(4, 1),
            [Tap {
                first: 1,
                second: 2,
                weight: 0.5,
                share: 1.0
            }]
        );
    }

    #[test]
    fn a_single_cell_is_everywhere() {
        assert!(
            taps(1, 7)
                .iter()
                .all(|tap| tap.blend(3.0, 3.0) == 3.0 && tap.first == 0 && tap.second == 0)
        );
    }

    #[test]
    fn shares_add_up_to_one_and_cells_are_those_of_windows_that_cover_the_pixel() {
        let windows = WindowAxis::new(10, 4, 3); // starts 0, 3, 6
        let taps = Taps::new(6, Some(&windows), 25);
        for pixel in 0..25 {
            let share: f32 = taps.layers.iter().map(|layer| layer[pixel].share).sum();
            assert!((share - 1.0).abs() < 1e-6, "pixel {pixel}: {share}");
        }
        let cells = |pixel: usize| {
            let taps = taps.layers.iter().map(|layer| layer[pixel]);
            let cells = taps
                .filter(|tap| tap.share > 0.0)
                .flat_map(|tap| [tap.first, tap.second]);
            cells
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        };
        assert_eq!(cells(0), [0, 1]);
        assert_eq!(cells(8), [0, 1, 2, 3]); // input pixels 2 and 3, the latter in the second window, too
        assert_eq!(cells(24), [5]);
    }
}
