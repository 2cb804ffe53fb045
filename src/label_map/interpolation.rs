//! Positions and weights of bilinear interpolation along one axis.

/// The two grid cells a pixel lies between, and how far towards the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tap {
    /// The cell before the pixel's centre.
    pub first: usize,
    /// The cell after it; the same one at the grid's edge.
    pub second: usize,
    /// Weight of the second cell, 0 to 1.
    pub weight: f32,
}

impl Tap {
    /// The value between the two cells' values.
    #[inline]
    pub fn blend(self, first: f32, second: f32) -> f32 {
        first * (1.0 - self.weight) + second * self.weight
    }
}

/// Where `pixels` pixels along an axis fall among its `cells` grid cells, corners not aligned.
///
/// In 32-bit arithmetic, as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`
/// computes it, so that results agree beyond the position's rounding.
pub(super) fn taps(cells: usize, pixels: usize) -> Vec<Tap> {
    let scale = cells as f32 / pixels as f32;
    (0..pixels)
        .map(|pixel| {
            let position = ((pixel as f32 + 0.5) * scale - 0.5).max(0.0);
            let first = (position as usize).min(cells - 1);
            Tap {
                first,
                second: (first + 1).min(cells - 1),
                weight: (position - first as f32).clamp(0.0, 1.0),
            }
        })
        .collect()
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
                weight: 0.5
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
}
