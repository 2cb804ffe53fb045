//! Key smoothing (MaskCLIP, section 3.3): class probabilities averaged over positions with similar keys.
//!
//! The paper's formula has weights that are all large and not normalised, because keys share one dominant direction: on
//! the embedded model, two keys have a cosine of 0.7 on average. As a result every position becomes the mean of the
//! image. [`by_likeness`] does not have these faults.
//!
//! The paper's weights are an N x N matrix for N cells. The matrix is a product of the keys with themselves, so the
//! code first multiplies the probabilities by the keys: that takes N x d x C operations, and the N x N matrix never
//! exists. The results are sums of weighted probabilities. They are not normalised, and they are negative where
//! dissimilar positions prevail.

use tch::{Kind, Tensor};

use super::tensors::unit_rows;
use super::{DenseError, go_on};

/// Applies the paper's formula, `pred_i = sum_j cos(k_i, k_j) pred_j`: probabilities `[queries, cells]` and keys
/// `[cells, channels]` to `[queries, cells]`.
pub(super) fn by_formula(probabilities: &Tensor, keys: &Tensor) -> Tensor {
    spread(probabilities, &unit_rows(keys))
}

/// Applies the reference implementation's variant. It scales each channel of the keys to unit length over the
/// *positions*, and replaces only positions whose best probability is below `threshold`. Shapes are those of
/// [`by_formula`].
pub(super) fn by_reference(probabilities: &Tensor, keys: &Tensor, threshold: f32) -> Tensor {
    let keys = unit_rows(&keys.transpose(0, 1)).transpose(0, 1);
    let is_unsure = probabilities.amax([0], true).lt(f64::from(threshold)); // [queries, cells] -> [1, cells]
    spread(probabilities, &keys).where_self(&is_unsure, probabilities)
}

/// Factor on cosines in [`by_likeness`]. It was the best of 10 to 120 on the validation scenes of tools/demo_model, at
/// 256 and at 384 pixels.
const SHARPNESS: f64 = 40.0;

/// Number of cells whose weights are in memory at a time.
const CELLS_TOGETHER: i64 = 256;

/// Averages logits over positions with similar keys: `sum_j w_ij logit_j` with `w_i = softmax_j(40 cos(k_i, k_j))`.
/// Logits `[queries, cells]` and keys `[cells, channels]` give logits `[queries, cells]`.
///
/// # Errors
/// [`DenseError::Stopped`] when `stop` returns true.
pub(super) fn by_likeness(logits: &Tensor, keys: &Tensor, stop: &dyn Fn() -> bool) -> Result<Tensor, DenseError> {
    let keys = unit_rows(keys);
    let (all_keys, logits) = (keys.transpose(0, 1), logits.transpose(0, 1));
    let smoothed = keys.split(CELLS_TOGETHER, 0);
    let smoothed = smoothed.iter().map(|keys| {
        go_on(stop)?;
        // [some cells, channels] x [channels, cells] -> [some cells, cells] -> [some cells, queries]
        let weights = (keys.matmul(&all_keys) * SHARPNESS).softmax(1, Kind::Float);
        Ok(weights.matmul(&logits))
    });
    let smoothed: Vec<_> = smoothed.collect::<Result<_, _>>()?;
    Ok(Tensor::cat(&smoothed, 0).transpose(0, 1))
}

/// Computes `P K K^T` from right to left: `[queries, cells]` and `[cells, channels]` to `[queries, cells]`.
fn spread(probabilities: &Tensor, keys: &Tensor) -> Tensor {
    let per_channel = probabilities.matmul(keys); // [queries, cells] x [cells, channels] -> [queries, channels]
    per_channel.matmul(&keys.transpose(0, 1)) // [queries, channels] x [channels, cells] -> [queries, cells]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::tensors::floats;

    fn assert_close(found: &Tensor, expected: &[f32]) {
        let found = floats(found);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    /// Two queries and three cells. The keys of the first two cells are parallel, and the third is perpendicular to
    /// both.
    fn example() -> (Tensor, Tensor) {
        let probabilities = Tensor::from_slice2(&[[0.9f32, 0.6, 0.2], [0.1, 0.4, 0.8]]);
        let keys = Tensor::from_slice2(&[[3f32, 4.], [0.6, 0.8], [-8., 6.]]);
        (probabilities, keys)
    }

    #[test]
    fn parallel_keys_share_and_perpendicular_ones_do_not() {
        let (probabilities, keys) = example();
        assert_close(&by_formula(&probabilities, &keys), &[1.5, 1.5, 0.2, 0.5, 0.5, 0.8]);
    }

    #[test]
    fn opposite_keys_subtract() {
        let probabilities = Tensor::from_slice2(&[[0.9f32, 0.6], [0.1, 0.4]]);
        let keys = Tensor::from_slice2(&[[1f32, 0.], [-2., 0.]]);
        assert_close(&by_formula(&probabilities, &keys), &[0.3, -0.3, -0.3, 0.3]);
    }

    #[test]
    fn a_key_of_zeros_gives_zeros_and_not_nan() {
        let probabilities = Tensor::from_slice2(&[[0.9f32, 0.6], [0.1, 0.4]]);
        let keys = Tensor::from_slice2(&[[0f32, 0.], [1., 0.]]);
        assert_close(&by_formula(&probabilities, &keys), &[0.0, 0.6, 0.0, 0.4]);
    }

    #[test]
    fn likeness_averages_parallel_keys_and_leaves_others_alone() {
        let (_, keys) = example();
        let logits = Tensor::from_slice2(&[[9f32, 5., 2.], [1., 3., 8.]]);
        let smoothed = by_likeness(&logits, &keys, &|| false).expect("nothing stops it");
        assert_close(&smoothed, &[7., 7., 2., 2., 2., 8.]);
    }

    #[test]
    fn likeness_of_many_cells_is_that_of_all_of_them() {
        let angle = Tensor::arange(600, (Kind::Float, tch::Device::Cpu)) * 0.01;
        let keys = Tensor::stack(&[angle.cos(), angle.sin()], 1);
        let logits = angle.unsqueeze(0);
        let whole = (keys.matmul(&keys.transpose(0, 1)) * SHARPNESS).softmax(1, Kind::Float);
        let expected = whole.matmul(&logits.transpose(0, 1)).transpose(0, 1);
        let smoothed = by_likeness(&logits, &keys, &|| false).expect("nothing stops it");
        let difference = (smoothed - expected).abs().max();
        assert!(difference.double_value(&[]) < 1e-5);
    }

    #[test]
    fn the_reference_normalises_over_positions_and_leaves_sure_positions_alone() {
        // The channels (3, 4) and (0, 2) have unit length over positions as (0.6, 0.8) and (0, 1), so K K^T is [[0.36,
        // 0.48], [0.48, 1.64]].
        let probabilities = Tensor::from_slice2(&[[0.9f32, 0.6], [0.1, 0.4]]);
        let keys = Tensor::from_slice2(&[[3f32, 0.], [4., 2.]]);
        let everywhere = by_reference(&probabilities, &keys, 1.0);
        assert_close(&everywhere, &[0.612, 1.416, 0.228, 0.704]);
        let unsure_alone = by_reference(&probabilities, &keys, 0.7);
        assert_close(&unsure_alone, &[0.9, 1.416, 0.1, 0.704]);
    }
}
