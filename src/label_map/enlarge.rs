//! Scores at the image's size, for what works on pixels. The label map itself never needs them.

use rayon::prelude::*;

use super::ScoreGrid;
use super::interpolation::Taps;

/// Interpolates the scores to `height` x `width` pixels, as [`label_map`](super::label_map) does row by row: one cell per
/// pixel, no windows. Memory is that of the result, `[queries, height, width]`.
///
/// # Panics
/// When a side is 0, or cells are not those of the grid's windows.
pub fn enlarge(scores: &ScoreGrid, height: usize, width: usize) -> ScoreGrid {
    assert!(height > 0 && width > 0, "the image is empty");
    let windows = scores.windows.as_ref();
    assert!(
        windows.is_none_or(|windows| windows.fit(scores)),
        "cells are not those of the windows"
    );
    let rows = Taps::new(scores.height, windows.map(|windows| &windows.rows), height);
    let columns = Taps::new(scores.width, windows.map(|windows| &windows.columns), width);
    let cells = scores.height * scores.width;
    let mut values = vec![0.0; scores.queries * height * width];
    values.par_chunks_exact_mut(width).enumerate().for_each_init(
        || (vec![0.0; scores.width], vec![(); width]),
        |(grid_row, nothing), (row, pixels)| {
            let plane = &scores.values[row / height * cells..][..cells];
            rows.blend_rows(row % height, plane, grid_row);
            columns.blend_columns(0, grid_row, pixels, nothing, |(), value| value);
        },
    );
    ScoreGrid {
        kind: scores.kind,
        queries: scores.queries,
        height,
        width,
        windows: None,
        values,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::label_map::{ScoreKind, Windows};

    /// One entry of windows.json, written by tools/golden/windows.py.
    #[derive(Deserialize)]
    struct Golden {
        name: String,
        input: [usize; 2],
        image: [usize; 2],
        side: usize,
        stride: usize,
        queries: usize,
        /// Cells of all windows side by side.
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
                kind: ScoreKind::Logits,
                queries: golden.queries,
                height: golden.grid[0],
                width: golden.grid[1],
                windows: Windows::new(golden.input[0], golden.input[1], golden.side, golden.stride),
                values: golden.scores,
            };
            let [height, width] = golden.image;
            let enlarged = enlarge(&grid, height, width).values;
            assert_eq!(enlarged.len(), golden.expected.len(), "{}", golden.name);
            for (ours, theirs) in enlarged.iter().zip(golden.expected) {
                assert!((ours - theirs).abs() < 1e-4, "{}: {ours}, not {theirs}", golden.name);
            }
        }
    }

    #[test]
    fn one_cell_per_pixel_stays_as_it_is() {
        let grid = ScoreGrid {
            kind: ScoreKind::Weights,
            queries: 2,
            height: 2,
            width: 3,
            windows: None,
            values: (0_u8..12).map(f32::from).collect(),
        };
        assert_eq!(enlarge(&grid, 2, 3), grid);
    }
}
