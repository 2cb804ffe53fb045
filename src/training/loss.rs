//! The loss of a student: cross-entropy with its labels, and the distance of its features to a teacher's.

use tch::{Kind, Reduction, Tensor};

use crate::scores::UNLABELLED;

/// Returns the mean cross-entropy over all labelled pixels. Logits `[batch, queries, rows, columns]` are interpolated
/// to the size of the labels, `[batch, height, width]`, which are 64-bit query numbers or [`UNLABELLED`]. NaN when no
/// pixel is labelled.
///
/// # Panics
/// When a tensor has another shape or a label is neither, or libtorch fails.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    let (_, height, width) = labels.size3().expect("labels are [batch, height, width]");
    let logits = logits.upsample_bilinear2d([height, width], false, None, None);
    logits.cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, i64::from(UNLABELLED), 0.0)
}

/// Returns the mean L1 distance between a student's features `[batch, embedding, rows, columns]` and a teacher's on any
/// grid. The teacher's are interpolated to the student's grid. Both are scaled to unit length, so the student learns
/// their direction; the cross-entropy decides the length. `counted`, `[batch, rows, columns]`, is 1 for cells that
/// count and 0 for others.
///
/// # Panics
/// When a tensor has another shape, or libtorch fails.
pub fn feature_distance(student: &Tensor, teacher: &Tensor, counted: &Tensor) -> Tensor {
    let (_, _, rows, columns) = student.size4().expect("features are [batch, embedding, rows, columns]");
    let teacher = teacher.upsample_bilinear2d([rows, columns], false, None, None);
    let unit = |features: &Tensor| features / features.norm_scalaropt_dim(2, [1], true).clamp_min(SMALLEST_LENGTH);
    let distances = (unit(student) - unit(&teacher))
        .abs()
        .sum_dim_intlist([1].as_slice(), false, Kind::Float);
    (distances * counted).sum(Kind::Float) / counted.sum(Kind::Float).clamp_min(1.0)
}

/// Features shorter than this are not scaled to unit length.
const SMALLEST_LENGTH: f64 = 1e-12;
