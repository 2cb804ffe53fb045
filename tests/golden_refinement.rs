//! What refines scores at the image's size against an independent Python writing of the formulas: see
//! tools/golden/refinement.py, which wrote the arrays.

#![allow(clippy::disallowed_types)] // Golden arrays are compared as the layers below the engine make them: tensors.

use std::collections::HashMap;
use std::path::Path;

use maskclip::dense::{self, DenseOptions, Refinement};
use maskclip::label_map::{ScoreGrid, ScoreKind, ScoreMap};
use tch::Tensor;

/// Largest absolute difference of cosines allowed, in 32 bits.
const TOLERANCE: f64 = 1e-4;

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

fn arrays() -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/refinement.safetensors");
    let arrays = Tensor::read_safetensors(path).expect("the golden arrays are committed");
    arrays.into_iter().collect()
}

fn refined(refinement: Refinement) -> ScoreGrid {
    let arrays = arrays();
    let logits = &arrays["logits"];
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
    let refined = dense::refine(scores, &arrays["image"], &arrays["text"], SIZE.0, SIZE.1, &options);
    assert_eq!((refined.kind, refined.grids.len()), (ScoreKind::Logits, 1));
    refined.grids.into_iter().next().expect("one grid")
}

fn compare(name: &str, found: &ScoreGrid) {
    let expected = &arrays()[name];
    let found = Tensor::from_slice(&found.values).view_as(expected);
    let difference = (found - expected).abs().max().double_value(&[]) / f64::from(TEMPERATURE);
    println!("{difference:9.2e}  {name}");
    // Not "greater than": that does not hold for a NaN.
    assert!(difference <= TOLERANCE, "{name} is {difference:e} off");
}
