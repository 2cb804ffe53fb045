//! PEARL's attention: queries attend to keys that were rotated towards them.
//!
//! Pei et al., CVPR 2026, arXiv 2603.21528. The definitions are those of the released code. The term with `alpha`, the
//! weight of the likeness of keys to each other, is not in the paper. The block's residual and MLP are left out. The
//! release approximates the rotation instead of computing it exactly; both are here, each under its own name.

use tch::{Kind, Tensor};

use super::last_block::{Heads, attend_at_scale, cells_of};

/// Number of steps of the approximation.
const NEWTON_SCHULZ_STEPS: usize = 5;

/// The way in which the rotation between keys and queries is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// From the singular value decomposition, which gives the orthogonal matrix that solves the Procrustes problem.
    Exact,
    /// By five Newton-Schulz steps, as in the release. The result is far from orthogonal where keys and queries barely
    /// correlate in some direction.
    NewtonSchulz,
}

/// Computes `A = sm([q (k R)^T + alpha K K^T] / sqrt d)` and mixes the values: `[batch, heads, cells, head_width]`. `K`
/// are the centred keys, and `R` is the rotation between centred keys and queries.
pub(super) fn mix(heads: &Heads, rotation: Rotation, alpha: f64) -> Tensor {
    // libtorch has no singular value decomposition in 16 bits.
    let [query, key] = [&heads.query, &heads.key].map(|part| part.to_kind(Kind::Float));
    let weight = token_weights(&query);
    let centred = |part: &Tensor| part - (part * &weight).sum_dim_intlist([2i64].as_slice(), true, Kind::Float);
    let (centred_query, centred_key) = (centred(&query), centred(&key));
    // [batch, heads, head_width, tokens] x [batch, heads, tokens, head_width] -> [batch, heads, head_width, head_width]
    let correlation = centred_key.transpose(2, 3).matmul(&centred_query);
    let turned = key.matmul(&rotation.of(&correlation));

    // Both terms are one product of rows twice as wide. The values are widened with zeros, because libtorch computes
    // attention block by block, without the whole matrix, only if all parts have one width.
    let head_width = heads.value.size()[3];
    let asking = Tensor::cat(&[cells_of(&query), cells_of(&centred_key) * alpha], 3);
    let asked = Tensor::cat(&[turned, centred_key], 3);
    let value = heads.value.constant_pad_nd([0, head_width]);
    let [asking, asked] = [asking, asked].map(|part| part.to_kind(value.kind()));
    let scale = 1.0 / (head_width as f64).sqrt();
    attend_at_scale(&asking, &asked, &value, None, Some(scale)).narrow(3, 0, head_width)
}

/// Returns the share of each token in the centre, `[batch, heads, tokens, 1]`, which is proportional to the length of
/// its query. The class token has no share. The shares sum to 1.
fn token_weights(query: &Tensor) -> Tensor {
    let length = cells_of(query).norm_scalaropt_dim(2, [3], true); // [batch, heads, cells, 1]
    let share = &length / length.sum_dim_intlist([2i64].as_slice(), true, Kind::Float);
    share.constant_pad_nd([0, 0, 1, 0])
}

impl Rotation {
    /// Computes the rotation of a correlation `M`, which is square in its last two dimensions.
    fn of(self, correlation: &Tensor) -> Tensor {
        match self {
            Self::Exact => {
                let (u, _, v) = correlation.svd(true, true); // M = U S V^T
                u.matmul(&v.transpose(-2, -1))
            }
            Self::NewtonSchulz => newton_schulz(correlation),
        }
    }
}

/// Computes `M (M^T M)^(-1/2)` by coupled Newton-Schulz steps. They start from `Y = B / |B| + 1e-6 I` and `Z = I` with
/// `B = M^T M`. Five times, `E = (3 I - Z Y) / 2`, `Y <- Y E` and `Z <- E Z`. The result is `M Z / sqrt |B|`.
fn newton_schulz(correlation: &Tensor) -> Tensor {
    let width = correlation.size()[correlation.dim() - 1];
    let identity = Tensor::eye(width, (correlation.kind(), correlation.device()));
    let gram = correlation.transpose(-2, -1).matmul(correlation);
    let size = gram
        .norm_scalaropt_dim(2, [-2, -1], true)
        .clamp_min(f64::from(f32::MIN_POSITIVE));
    let start = (gram / &size + &identity * 1e-6, identity.shallow_clone());
    let (_, inverse_root) = (0..NEWTON_SCHULZ_STEPS).fold(start, |(y, z), _| {
        let step = (&identity * 3.0 - z.matmul(&y)) / 2.0;
        (y.matmul(&step), step.matmul(&z))
    });
    correlation.matmul(&inverse_root) / size.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::attention::clearclip;
    use crate::dense::attention::testing::{assert_close, heads, noise, row_sums};

    fn diagonal(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).diag(0)
    }

    #[test]
    fn keys_that_are_turned_queries_are_turned_back() {
        let mut heads = heads(6);
        let turn = Rotation::Exact.of(&noise(&[4, 4], 5.7));
        assert_close(&turn.matmul(&turn.transpose(0, 1)), &diagonal(&[1.0; 4]));
        heads.key = heads.query.matmul(&turn);
        assert_close(&mix(&heads, Rotation::Exact, 0.0), &clearclip::mix(&heads));
    }

    #[test]
    fn the_released_steps_stop_short_of_a_rotation() {
        let approached = |values: &[f32]| newton_schulz(&diagonal(values));
        assert_close(&approached(&[1.0, 0.1]), &diagonal(&[1.0, 0.658_698]));
        assert_close(&approached(&[1.0, 0.01]).get(1).get(1), &Tensor::from(0.075_822f32));
        assert_close(&Rotation::Exact.of(&diagonal(&[1.0, 0.01])), &diagonal(&[1.0, 1.0]));
    }

    #[test]
    fn without_correlation_the_approximation_is_zero_and_not_nan() {
        assert_close(&newton_schulz(&diagonal(&[0.0, 0.0])), &diagonal(&[0.0, 0.0]));
    }

    #[test]
    fn rows_sum_to_one() {
        for rotation in [Rotation::Exact, Rotation::NewtonSchulz] {
            assert_close(&row_sums(|heads| mix(heads, rotation, 0.3)), &Tensor::from(1f32));
        }
    }

    #[test]
    fn the_class_token_has_no_part_in_the_centre() {
        let weights = token_weights(&heads(6).query);
        assert_close(&weights.select(2, 0), &Tensor::from(0f32));
        assert_close(
            &weights.sum_dim_intlist([2i64].as_slice(), false, Kind::Float),
            &Tensor::from(1f32),
        );
    }
}
