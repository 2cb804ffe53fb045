//! Where windows lie over the model's input.
//!
//! The geometry alone: dense scores are cut and enlarged by it. Windows are a product of rows and columns, so one axis
//! says it all.

use super::ScoreGrid;

/// Windows of one side and stride over the whole input, each scored as an image of its own.
///
/// A [`ScoreGrid`] with windows holds the cells of all of them side by side: `[queries, height, width]`,
/// the first `height / rows.starts.len()` rows those of the topmost windows. What it says of a pixel of the input is the mean
/// over the windows that cover the pixel, each enlarged bilinearly to its own pixels; from there it is interpolated to the
/// image's size, as published for SCLIP and its successors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// From top to bottom.
    pub rows: WindowAxis,
    /// From left to right.
    pub columns: WindowAxis,
}

/// Windows along one axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowAxis {
    /// Pixels of the input.
    pub pixels: usize,
    /// Pixels of each window, at most `pixels`.
    pub side: usize,
    /// First pixel of each window, ascending. The last window ends with the input.
    pub starts: Vec<usize>,
}

impl Windows {
    /// The windows of an input of `height` x `width` pixels; `None` when one holds all of it.
    ///
    /// # Panics
    /// When a length is 0, or the stride leaves pixels out.
    pub fn new(height: usize, width: usize, side: usize, stride: usize) -> Option<Self> {
        let windows = Self {
            rows: WindowAxis::new(height, side, stride),
            columns: WindowAxis::new(width, side, stride),
        };
        (windows.count() > 1).then_some(windows)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows.starts.len() * self.columns.starts.len()
    }

    /// Whether the grid's cells can be shared out among them.
    pub fn fit(&self, grid: &ScoreGrid) -> bool {
        grid.height.is_multiple_of(self.rows.starts.len()) && grid.width.is_multiple_of(self.columns.starts.len())
    }
}

impl WindowAxis {
    /// Windows of `side` pixels every `stride` pixels over `pixels` pixels. The last one is moved back to end with them;
    /// one that is larger than all of them shrinks.
    ///
    /// # Panics
    /// When a length is 0, or the stride leaves pixels out.
    pub fn new(pixels: usize, side: usize, stride: usize) -> Self {
        assert!(pixels > 0 && side > 0, "a window and what it slides over have pixels");
        assert!((1..=side).contains(&stride), "windows leave no pixel out");
        let last = pixels.saturating_sub(side);
        let starts = (0..=last.div_ceil(stride)).map(|index| (index * stride).min(last));
        Self {
            pixels,
            side: side.min(pixels),
            starts: starts.collect(),
        }
    }

    /// The windows, by number, that cover a pixel.
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
