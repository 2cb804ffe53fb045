//! Positions and weights of bilinear interpolation, along one axis and from all grids of a score map to an image.

use std::collections::{BTreeMap, BTreeSet};

use super::lanes::{LANES, Lanes, multiply_add};
use crate::scores::WindowAxis;
use crate::scores::{ScoreGrid, ScoreMap};

/// Number of blocks in a full [`Tile`].
const TILE_BLOCKS: usize = 8;

/// The cells of all grids from which the pixels of an image of one size take their scores.
///
/// A pixel's score is a mean of means, and every step is linear. So for a row of the image, the rows of each grid are
/// blended first, which gives the cells of all grids side by side. Then one set of weights leads from these cells to
/// the pixels of the row.
#[derive(Debug, Clone)]
pub(super) struct Interpolation<'a> {
    grids: &'a [ScoreGrid],
    /// The taps of the rows of each grid.
    rows: Vec<Taps>,
    /// The tiles of a row, from left to right, over the cells of all grids side by side.
    tiles: Vec<Tile>,
}

impl<'a> Interpolation<'a> {
    /// Prepares the interpolation of a score map to `height` x `width` pixels.
    ///
    /// # Panics
    /// Panics when a side is 0, when there is no query or no grid, or when a grid is empty, has other values than
    /// `[queries, height, width]`, or has cells that its windows cannot share equally.
    pub fn new(scores: &'a ScoreMap, height: usize, width: usize) -> Self {
        assert!(height > 0 && width > 0, "the image is empty");
        assert!(scores.queries > 0 && !scores.grids.is_empty(), "the score map is empty");
        for grid in &scores.grids {
            assert!(grid.height > 0 && grid.width > 0, "a score grid is empty");
            let values = scores.queries * grid.height * grid.width;
            assert_eq!(
                grid.values.len(),
                values,
                "the number of values is queries x height x width"
            );
            let fits = grid.windows.as_ref().is_none_or(|windows| windows.fit(grid));
            assert!(fits, "the windows cannot share the grid's cells equally");
        }
        let rows =
            |grid: &ScoreGrid| Taps::new(grid.height, grid.windows.as_ref().map(|windows| &windows.rows), height);
        let columns = |grid: &ScoreGrid| {
            let windows = grid.windows.as_ref().map(|windows| &windows.columns);
            (grid.width, Taps::new(grid.width, windows, width))
        };
        Self {
            grids: &scores.grids,
            rows: scores.grids.iter().map(rows).collect(),
            tiles: Taps::mean(scores.grids.iter().map(columns)).tiles(),
        }
    }

    /// Returns the number of cells in a row of all grids side by side.
    pub fn row_cells(&self) -> usize {
        self.grids.iter().map(|grid| grid.width).sum()
    }

    /// Writes the cells of one query at row `y` of the image, [`Self::row_cells`] of them, for all grids side by side.
    pub fn blend_rows(&self, query: usize, y: usize, row: &mut [f32]) {
        let mut left = row;
        for (grid, taps) in self.grids.iter().zip(&self.rows) {
            let (own, others) = left.split_at_mut(grid.width);
            let cells = grid.height * grid.width;
            taps.blend_rows(y, &grid.values[query * cells..][..cells], own);
            left = others;
        }
    }

    /// Returns the tiles of a row. The pixels of a tile are processed together and share cells and buffers.
    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }
}

/// Up to [`TILE_BLOCKS`] neighbouring blocks of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tile {
    /// The cells from which the tile's pixels take their scores, as ascending positions in the row of cells.
    pub cells: Vec<usize>,
    /// The blocks from left to right.
    pub blocks: Vec<Block>,
}

/// [`LANES`] neighbouring pixels of a row. Pixels beyond the end of the row repeat its last pixel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Block {
    /// The cells with a weight in the block, as positions in [`Tile::cells`].
    cells: Vec<usize>,
    /// The weight of each of these cells in each pixel.
    weights: Vec<Lanes>,
}

impl Tile {
    /// Builds a tile of blocks. Each block maps positions in the row of cells to weights.
    fn new(blocks: &[BTreeMap<usize, Lanes>]) -> Self {
        let cells: BTreeSet<usize> = blocks.iter().flat_map(|block| block.keys().copied()).collect();
        let cells = Vec::from_iter(cells);
        let in_tile = |cell: &usize| cells.binary_search(cell).expect("the tile has all cells of its blocks");
        let block = |weights: &BTreeMap<usize, Lanes>| Block {
            cells: weights.keys().map(in_tile).collect(),
            weights: weights.values().copied().collect(),
        };
        Self {
            blocks: blocks.iter().map(block).collect(),
            cells,
        }
    }
}

impl Block {
    /// Computes the scores of the block's pixels from the scores of the tile's cells.
    #[inline(always)]
    pub fn blend<const FUSED: bool>(&self, cells: &[f32]) -> Lanes {
        let mut sum = Lanes::splat(0.0);
        for (&cell, &weights) in self.cells.iter().zip(&self.weights) {
            let score = cells[cell];
            sum = sum.zip(weights, |sum, weight| multiply_add::<FUSED>(score, weight, sum));
        }
        sum
    }
}

/// The two grid cells between which a pixel lies, and its place between them.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tap {
    /// The cell before the centre of the pixel.
    first: usize,
    /// The cell after the centre of the pixel; at the edge of the grid, the same cell as `first`.
    second: usize,
    /// The weight of the second cell, 0 to 1.
    weight: f32,
    /// The share of this tap in the pixel's score, 0 to 1. The shares of one pixel's taps add up to 1.
    share: f32,
}

impl Tap {
    /// A tap without any share.
    const NONE: Self = Self {
        first: 0,
        second: 0,
        weight: 0.0,
        share: 0.0,
    };

    /// Interpolates between the values of the two cells and multiplies the result by the share.
    #[inline]
    fn blend(self, first: f32, second: f32) -> f32 {
        self.share * (first * (1.0 - self.weight) + second * self.weight)
    }
}

/// The cells from which an axis of the image takes its values: layers of one tap per pixel, which are added up.
#[derive(Debug, Clone, PartialEq)]
struct Taps {
    layers: Vec<Vec<Tap>>,
}

impl Taps {
    /// Builds the taps of `cells` cells. They cover `pixels` pixels evenly, or they are the cells of all windows side
    /// by side.
    fn new(cells: usize, windows: Option<&WindowAxis>, pixels: usize) -> Self {
        let layers = match windows {
            None => vec![taps(cells, pixels)],
            Some(windows) => through_windows(cells / windows.starts.len(), windows, pixels),
        };
        Self { layers }
    }

    /// Averages several axes of equally many pixels. Each comes with its number of cells, and the cells of all axes
    /// stand side by side.
    fn mean(axes: impl ExactSizeIterator<Item = (usize, Self)>) -> Self {
        let share = 1.0 / axes.len() as f32;
        let mut layers = Vec::new();
        let mut offset = 0;
        for (cells, taps) in axes {
            let moved = |tap: Tap| Tap {
                first: offset + tap.first,
                second: offset + tap.second,
                share: share * tap.share,
                ..tap
            };
            layers.extend(
                taps.layers
                    .into_iter()
                    .map(|layer| layer.into_iter().map(moved).collect()),
            );
            offset += cells;
        }
        Self { layers }
    }

    /// Writes the blend of a plane's rows for pixel `y` of this axis. The plane is `[cells, row.len()]`, row by row.
    fn blend_rows(&self, y: usize, plane: &[f32], row: &mut [f32]) {
        row.fill(0.0);
        for tap in self.layers.iter().map(|layer| layer[y]).filter(|tap| tap.share > 0.0) {
            let rows = [tap.first, tap.second].map(|cell| &plane[cell * row.len()..][..row.len()]);
            for ((value, &first), &second) in row.iter_mut().zip(rows[0]).zip(rows[1]) {
                *value += tap.blend(first, second);
            }
        }
    }

    /// Returns the same weights in the form of tiles, for many pixels at a time.
    fn tiles(&self) -> Vec<Tile> {
        let pixels = self.layers.first().expect("every axis has a layer of taps").len();
        (0..pixels.div_ceil(LANES))
            .map(|block| self.weights(block, pixels))
            .collect::<Vec<_>>()
            .chunks(TILE_BLOCKS)
            .map(Tile::new)
            .collect()
    }

    /// Returns the weights of all cells that affect a block, for each of its pixels.
    fn weights(&self, block: usize, pixels: usize) -> BTreeMap<usize, Lanes> {
        let mut weights = BTreeMap::new();
        for lane in 0..LANES {
            let pixel = (block * LANES + lane).min(pixels - 1);
            for tap in self.layers.iter().map(|layer| layer[pixel]) {
                for (cell, weight) in [(tap.first, 1.0 - tap.weight), (tap.second, tap.weight)] {
                    let weight = tap.share * weight;
                    if weight > 0.0 {
                        weights.entry(cell).or_insert(Lanes::splat(0.0)).0[lane] += weight;
                    }
                }
            }
        }
        weights
    }
}

/// Finds the cells between which each of `pixels` pixels along an axis of `cells` cells lies, corners not aligned.
///
/// Positions are computed in float32, as `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` does,
/// so that results agree beyond the rounding of the position.
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

/// Combines three linear steps: from `cells` cells of every window to the window's pixels, from these to the mean over
/// the windows that cover a pixel of the input, and from the input's pixels to those of the image.
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
    fn several_axes_count_the_same_and_their_cells_stand_side_by_side() {
        let axes = [(2, taps(2, 4)), (1, taps(1, 4)), (4, taps(4, 4))];
        let mean = Taps::mean(
            axes.into_iter()
                .map(|(cells, taps)| (cells, Taps { layers: vec![taps] })),
        );
        let [tile] = &mean.tiles()[..] else {
            panic!("four pixels are one tile")
        };
        assert_eq!(tile.cells, [0, 1, 2, 3, 4, 5, 6]);
        let pixels = tile.blocks[0].blend::<false>(&[1.0, 5.0, 30.0, 3.0, 6.0, 9.0, 12.0]);
        // Beyond the end of the row, its last pixel is repeated.
        let sums = [1.0 + 30.0 + 3.0, 2.0 + 30.0 + 6.0, 4.0 + 30.0 + 9.0, 5.0 + 30.0 + 12.0];
        for (found, expected) in pixels.0.into_iter().zip(sums.into_iter().chain([sums[3]; 12])) {
            assert!((found - expected / 3.0).abs() < 1e-5, "{found}, not {expected} / 3");
        }
    }

    #[test]
    fn a_tile_knows_the_cells_of_its_own_pixels() {
        let taps = Taps::new(9, None, 300); // 33.3 pixels per cell
        let tiles = taps.tiles();
        let blocks = |tile: &Tile| tile.blocks.len();
        assert_eq!(tiles.iter().map(blocks).collect::<Vec<_>>(), [8, 8, 3]);
        assert_eq!(tiles[1].cells, [3, 4, 5, 6, 7, 8]);
        // Pixels 128 to 143 lie between cells 3 and 4, at 3.36 to 3.81.
        assert_eq!(tiles[1].blocks[0].cells, [0, 1]);
        let scores: Vec<f32> = tiles[1].cells.iter().map(|&cell| 10.0 * cell as f32).collect();
        let first = tiles[1].blocks[0].blend::<false>(&scores).0;
        assert!(
            (first[0] - 33.55).abs() < 1e-4 && (first[15] - 38.05).abs() < 1e-4,
            "{first:?}"
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
