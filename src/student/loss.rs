//! What a student is to make small: cross-entropy with the labels it is given.

use tch::{Reduction, Tensor};

use crate::label_map::UNLABELLED;

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
