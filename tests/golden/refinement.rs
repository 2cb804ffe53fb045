//! Compares the refinements of scores at the image's size with an independent Python version of the formulas.
//! tools/golden/refinement.py wrote the arrays.

use maskclip::dense::{self, PROPAGATION_CELLS, RefinementOptions};
use maskclip::scores::{ScoreGrid, ScoreKind, ScoreMap};
use tch::Tensor;

use crate::arrays::{Arrays, Comparison};

const TEMPERATURE: f32 = 20.0;

/// Height and width in pixels of the image that is labelled.
const SIZE: (usize, usize) = (130, 70);

#[test]
fn pixel_adaptive_mask_refinement() {
    let found = refined(RefinementOptions::Pamr);
    assert_eq!((found.height, found.width), SIZE);
    compare("pamr", &found);
}

/// 130 rows are averaged two by two, and 70 columns are kept.
#[test]
fn the_propagation_of_pearl() {
    let found = refined(propagation(PROPAGATION_CELLS));
    assert_eq!((found.height, found.width), (65, 70));
    compare("propagated", &found);
}

/// 6.5 pixels per row and 3.5 per column are rounded to even: 6 and 4. So 4 rows and 2 columns are dropped.
#[test]
fn the_propagation_on_as_many_cells_as_the_constants_say() {
    let found = refined(propagation(20));
    assert_eq!((found.height, found.width), (21, 17));
    compare("propagated_coarsely", &found);
}

fn arrays() -> Arrays {
    Arrays::read("refinement", "refinement.safetensors")
}

fn propagation(cells: u32) -> RefinementOptions {
    let temperature = TEMPERATURE;
    RefinementOptions::PearlPropagation { cells, temperature }
}

fn refined(options: RefinementOptions) -> ScoreGrid {
    let arrays = arrays();
    let logits = arrays.get("logits");
    let scores = ScoreMap {
        kind: ScoreKind::Logits,
        queries: 3,
        grids: vec![ScoreGrid {
            height: 8,
            width: 8,
            windows: None,
            values: Vec::try_from(logits.view(-1)).expect("an array of 32-bit floats"),
        }],
    };
    let refined = dense::refine(
        scores,
        arrays.get("image"),
        arrays.get("text"),
        SIZE.0,
        SIZE.1,
        &options,
    );
    assert_eq!((refined.kind, refined.grids.len()), (ScoreKind::Logits, 1));
    refined.grids.into_iter().next().expect("one grid")
}

/// Compares with the tolerance of cosines, because the logits are the temperature times cosines.
fn compare(name: &str, found: &ScoreGrid) {
    let arrays = arrays();
    let found = Tensor::from_slice(&found.values).view_as(arrays.get(name));
    let mut comparison = Comparison::default();
    comparison.add_in_units(&arrays, name, &found, &Tensor::from(TEMPERATURE));
    comparison.conclude();
}
