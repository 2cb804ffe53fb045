//! The one pass over the image: interpolation, softmax, argmax and statistics, row by row.

use super::{LabelMap, LabelMapOptions, QueryOwner, ScoreGrid};

/// Labels every pixel of the image.
pub fn label_map(_scores: &ScoreGrid, _owners: &[QueryOwner], _options: &LabelMapOptions) -> LabelMap {
    unimplemented!()
}
