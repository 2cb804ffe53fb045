//! The places of windows over the model's input.
//!
//! Owns only the geometry, by which the model's input is cut and dense scores are enlarged. Windows are a product of
//! rows and columns, so each axis is described alone.

use super::ScoreGrid;

/// Windows of one side and stride over the whole input. Each is scored as an image of its own.
///
/// A [`ScoreGrid`] with windows holds the cells of all windows side by side: `[queries, height, width]`. Its first
/// `height / rows.starts.len()` rows belong to the topmost windows. The score at a pixel of the input is the mean over
/// the windows that cover the pixel, each enlarged bilinearly to its own pixels. From the input, the scores are
/// interpolated to the size of the image, as published for SCLIP and its successors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// The windows from top to bottom.
    pub rows: WindowAxis,
    /// The windows from left to right.
    pub columns: WindowAxis,
}

/// The windows along one axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowAxis {
    /// The number of pixels of the input along the axis.
    pub pixels: usize,
    /// The number of pixels of each window, at most `pixels`.
    pub side: usize,
    /// The first pixel of each window, in ascending order. The last window ends where the input ends.
    pub starts: Vec<usize>,
}

impl Windows {
    /// Returns the windows of an input of `height` x `width` pixels, or `None` when a single window holds the whole
    /// input.
    ///
    /// # Panics
    /// Panics when a length is 0, or when the stride leaves out pixels.
    pub fn new(height: usize, width: usize, side: usize, stride: usize) -> Option<Self> {
        let windows = Self {
            rows: WindowAxis::new(height, side, stride),
            columns: WindowAxis::new(width, side, stride),
        };
        (windows.count() > 1).then_some(windows)
    }

    /// Returns the number of windows.
    pub fn count(&self) -> usize {
        self.rows.starts.len() * self.columns.starts.len()
    }

    /// Returns whether the cells of the grid can be divided equally among the windows.
    pub fn fit(&self, grid: &ScoreGrid) -> bool {
        grid.height.is_multiple_of(self.rows.starts.len()) && grid.width.is_multiple_of(self.columns.starts.len())
    }
}

impl WindowAxis {
    /// Places windows of `side` pixels every `stride` pixels over `pixels` pixels. The last window is moved back so
    /// that it ends where the input ends. A window larger than the input is shrunk to it.
    ///
    /// # Panics
    /// Panics when a length is 0, or when the stride leaves out pixels.
    pub fn new(pixels: usize, side: usize, stride: usize) -> Self {
        assert!(pixels > 0 && side > 0, "a window and its input have at least one pixel");
        assert!(
            (1..=side).contains(&stride),
            "the stride of windows is from 1 to their side"
        );
        let last = pixels.saturating_sub(side);
        let starts = (0..=last.div_ceil(stride)).map(|index| (index * stride).min(last));
        Self {
            pixels,
            side: side.min(pixels),
            starts: starts.collect(),
        }
    }

    /// Returns the number and the first pixel of each window that covers a pixel.
    pub fn covering(&self, pixel: usize) -> impl Iterator<Item = (usize, usize)> {
        let starts = self.starts.iter().copied().enumerate();
        starts.filter(move |(_, start)| (*start..start + self.side).contains(&pixel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(pixels: usize) -> Vec<usize> {
        WindowAxis::new(pixels, 224, 112).starts
    }

    #[test]
    fn starts_are_those_of_the_published_protocol() {
        assert_eq!(starts(225), [0, 1]);
        assert_eq!(starts(336), [0, 112]);
        assert_eq!(starts(500), [0, 112, 224, 276]);
    }

    #[test]
    fn an_input_no_larger_than_a_window_is_one_window() {
        assert_eq!(starts(224), [0]);
        assert_eq!(WindowAxis::new(100, 224, 112).side, 100);
        assert_eq!(Windows::new(224, 100, 224, 112), None);
        assert_eq!(Windows::new(225, 100, 224, 112).map(|windows| windows.count()), Some(2));
    }

    #[test]
    fn every_pixel_is_covered_and_the_last_window_ends_with_the_input() {
        for (pixels, side, stride) in [(500, 224, 112), (17, 4, 4), (7, 5, 1), (9, 3, 2)] {
            let axis = WindowAxis::new(pixels, side, stride);
            assert!((0..pixels).all(|pixel| axis.covering(pixel).count() > 0), "{axis:?}");
            assert_eq!(axis.starts.last().map(|start| start + axis.side), Some(pixels));
        }
    }

    #[test]
    fn a_pixel_knows_its_windows_and_where_they_start() {
        let axis = WindowAxis::new(336, 224, 112);
        assert_eq!(axis.covering(100).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(axis.covering(150).collect::<Vec<_>>(), [(0, 0), (1, 112)]);
        assert_eq!(axis.covering(335).collect::<Vec<_>>(), [(1, 112)]);
    }
}
