//! What refines scores at the image's size against an independent Python writing of the formulas: see
//! tools/golden/refinement.py, which wrote the arrays.

use maskclip::dense::{self, DenseOptions, Refinement};
use maskclip::label_map::{ScoreGrid, ScoreKind, ScoreMap};
use tch::Tensor;

use crate::arrays::{Arrays, Comparison};

const TEMPERATURE: f32 = 20.0;

/// Of the image that is labelled, in pixels.
const SIZE: (usize, usize) = (130, 70);

#[test]
fn pixel_adaptive_mask_refinement() {
    let found = refined(Refinement::Pamr);
    assert_eq!((found.height, found.width), SIZE);
    compare("pamr", &found);
}

/// 130 rows are averaged two by two, 70 columns are kept.
#[test]
fn the_propagation_of_pearl() {
    let found = refined(Refinement::PearlPropagation);
    assert_eq!((found.height, found.width), (65, 70));
    compare("propagated", &found);
}

fn arrays() -> Arrays {
    Arrays::read("refinement", "refinement.safetensors")
}

fn refined(refinement: Refinement) -> ScoreGrid {
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
    let options = DenseOptions {
        temperature: TEMPERATURE,
        refinement,
        ..DenseOptions::default()
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

/// The tolerance is that of cosines, which logits are the temperature times.
fn compare(name: &str, found: &ScoreGrid) {
    let arrays = arrays();
    let found = Tensor::from_slice(&found.values).view_as(arrays.get(name));
    let mut comparison = Comparison::default();
    comparison.add_in_units(&arrays, name, &found, &Tensor::from(TEMPERATURE));
    comparison.conclude();
}
