//! Small steps on tensors that several files take.

use tch::{Kind, Tensor};

/// Rows of unit length, `[rows, channels]`, in 32 bits: the tower's precision ends where scores begin.
pub(super) fn unit_rows(rows: &Tensor) -> Tensor {
    let rows = rows.to_kind(Kind::Float);
    let length = rows.norm_scalaropt_dim(2, [-1], true);
    rows / length.clamp_min(SMALLEST_LENGTH)
}

/// Shorter vectors are not stretched to unit length; keeps a vector of zeros at zero.
const SMALLEST_LENGTH: f64 = 1e-12;

/// Softmax over the queries, the first dimension.
pub(super) fn probabilities(logits: &Tensor) -> Tensor {
    logits.softmax(0, Kind::Float)
}

/// All values of a 32-bit tensor, row-major.
pub(super) fn floats(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.contiguous().view(-1);
    Vec::try_from(&flat).expect("a 32-bit tensor of one dimension is a vector of floats")
}
