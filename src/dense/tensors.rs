//! Small operations on tensors that several files use.

use tch::{Kind, Tensor};

/// Scales the rows of `[rows, channels]` to unit length in float32. Scores no longer use the tower's precision.
pub(super) fn unit_rows(rows: &Tensor) -> Tensor {
    let rows = rows.to_kind(Kind::Float);
    let length = rows.norm_scalaropt_dim(2, [-1], true);
    rows / length.clamp_min(SMALLEST_LENGTH)
}

/// Vectors shorter than this are not stretched to unit length, which keeps a vector of zeros at zero.
const SMALLEST_LENGTH: f64 = 1e-12;

/// Computes the softmax over the queries, which are the first dimension.
pub(super) fn probabilities(logits: &Tensor) -> Tensor {
    logits.softmax(0, Kind::Float)
}

/// Returns all values of a float32 tensor, row by row.
pub(super) fn floats(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.contiguous().view(-1);
    Vec::try_from(&flat).expect("a 32-bit tensor of one dimension is a vector of floats")
}
