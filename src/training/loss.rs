//! What a student is to make small: cross-entropy with the labels it is given, and how far its features are from a teacher's.

use tch::{Kind, Reduction, Tensor};

use crate::scores::UNLABELLED;

/// Mean cross-entropy over all labelled pixels: logits, `[batch, queries, rows, columns]`, are interpolated to the labels' size,
/// `[batch, height, width]` of 64-bit query numbers or [`UNLABELLED`]. Not a number when no pixel is labelled.
///
/// # Panics
/// When a shape or a label is none of these, or libtorch fails.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    let (_, height, width) = labels.size3().expect("labels are [batch, height, width]");
    let logits = logits.upsample_bilinear2d([height, width], false, None, None);
    logits.cross_entropy_loss(labels, None::<&Tensor>, Reduction::Mean, i64::from(UNLABELLED), 0.0)
}

/// Mean L1 distance between a student's features, `[batch, embedding, rows, columns]`, and a teacher's on any grid, which are
/// interpolated to the student's: both scaled to unit length, so that it is their direction that is learned and lengths are
/// left to the cross-entropy. `counted`, `[batch, rows, columns]`, is 1 for the cells that count and 0 for others.
///
/// # Panics
/// When a shape is none of these, or libtorch fails.
pub fn feature_distance(student: &Tensor, teacher: &Tensor, counted: &Tensor) -> Tensor {
    let (_, _, rows, columns) = student.size4().expect("features are [batch, embedding, rows, columns]");
    let teacher = teacher.upsample_bilinear2d([rows, columns], false, None, None);
    let unit = |features: &Tensor| features / features.norm_scalaropt_dim(2, [1], true).clamp_min(SMALLEST_LENGTH);
    let distances = (unit(student) - unit(&teacher))
        .abs()
        .sum_dim_intlist([1].as_slice(), false, Kind::Float);
    (distances * counted).sum(Kind::Float) / counted.sum(Kind::Float).clamp_min(1.0)
}

/// Shorter features are not stretched to unit length.
const SMALLEST_LENGTH: f64 = 1e-12;
