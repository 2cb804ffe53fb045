//! SCLIP: tokens attend to tokens with similar queries and to tokens with similar keys.
//!
//! Wang, Mei, Yuille, "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference", ECCV 2024, arXiv
//! 2312.01597. The block keeps its residual and MLP.

use tch::Tensor;

use super::last_block::{Heads, attend, cells_of};

/// Computes `A = sm(q q^T / sqrt d) + sm(k k^T / sqrt d)` and mixes the values: `[batch, heads, cells, head_width]`. As
/// in the release, the sum is not halved, so rows sum to 2.
pub(super) fn mix(Heads { query, key, value }: &Heads) -> Tensor {
    attend(&cells_of(query), query, value, None) + attend(&cells_of(key), key, value, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::attention::testing::{assert_close, row_sums};

    #[test]
    fn rows_sum_to_two() {
        assert_close(&row_sums(mix), &Tensor::from(2f32));
    }
}
