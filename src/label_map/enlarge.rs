//! Scores at the image's size, for steps that work on pixels. The label map itself never needs them.

use rayon::prelude::*;

use super::interpolation::Interpolation;
use super::lanes::LANES;
use crate::scores::{ScoreGrid, ScoreMap};

/// Interpolates the scores to `height` x `width` pixels, as [`label_map`](super::label_map) does row by row. The result
/// has one grid without windows and one cell per pixel. It takes the memory of `[queries, height, width]` floats.
///
/// # Panics
/// Panics when a side is 0, or when the score map is not valid: see [`label_map`](super::label_map).
pub fn enlarge(scores: &ScoreMap, height: usize, width: usize) -> ScoreMap {
    let interpolation = Interpolation::new(scores, height, width);
    let mut values = vec![0.0; scores.queries * height * width];
    values.par_chunks_exact_mut(width).enumerate().for_each_init(
        || (vec![0.0; interpolation.row_cells()], Vec::new()),
        |(row_cells, tile_cells), (row, pixels)| {
            interpolation.blend_rows(row / height, row % height, row_cells);
            let mut blocks = pixels.chunks_mut(LANES);
            for tile in interpolation.tiles() {
                tile_cells.clear();
                tile_cells.extend(tile.cells.iter().map(|&cell| row_cells[cell]));
                for (block, pixels) in tile.blocks.iter().zip(&mut blocks) {
                    pixels.copy_from_slice(&block.blend::<false>(tile_cells).0[..pixels.len()]);
                }
            }
        },
    );
    ScoreMap {
        kind: scores.kind,
        queries: scores.queries,
        grids: vec![ScoreGrid {
            height,
            width,
            windows: None,
            values,
        }],
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::scores::{ScoreKind, Windows};

    /// One entry of windows.json, written by tools/golden/windows.py.
    #[derive(Deserialize)]
    struct Golden {
        name: String,
        input: [usize; 2],
        image: [usize; 2],
        side: usize,
        stride: usize,
        queries: usize,
        /// The number of rows and columns of the cells of all windows side by side.
        grid: [usize; 2],
        scores: Vec<f32>,
        expected: Vec<f32>,
    }

    #[test]
    fn windows_are_averaged_as_the_published_protocol_does_it_pixel_by_pixel() {
        let goldens: Vec<Golden> =
            serde_json::from_str(include_str!("../../tests/golden/windows.json")).expect("the goldens are JSON");
        assert_eq!(goldens.len(), 6);
        for golden in goldens {
            let grid = ScoreGrid {
                height: golden.grid[0],
                width: golden.grid[1],
                windows: Windows::new(golden.input[0], golden.input[1], golden.side, golden.stride),
                values: golden.scores,
            };
            let scores = ScoreMap {
                kind: ScoreKind::Logits,
                queries: golden.queries,
                grids: vec![grid],
            };
            let [height, width] = golden.image;
            let enlarged = enlarge(&scores, height, width).grids.remove(0).values;
            assert_eq!(enlarged.len(), golden.expected.len(), "{}", golden.name);
            for (ours, theirs) in enlarged.iter().zip(golden.expected) {
                assert!((ours - theirs).abs() < 1e-4, "{}: {ours}, not {theirs}", golden.name);
            }
        }
    }

    #[test]
    fn one_cell_per_pixel_stays_as_it_is() {
        let scores = ScoreMap {
            kind: ScoreKind::Weights,
            queries: 2,
            grids: vec![ScoreGrid {
                height: 2,
                width: 3,
                windows: None,
                values: (0_u8..12).map(f32::from).collect(),
            }],
        };
        assert_eq!(enlarge(&scores, 2, 3), scores);
    }
}
