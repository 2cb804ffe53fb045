//! SCLIP: tokens attend to tokens of like queries and of like keys.
//!
//! Wang, Mei, Yuille, "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference", ECCV 2024, arXiv 2312.01597.
//! The block's residual and MLP stay.

use tch::Tensor;

use super::last_block::{Heads, attend, cells_of};

/// `A = sm(q q^T / sqrt d) + sm(k k^T / sqrt d)`, not halved, as released: rows sum to 2.
/// `[batch, heads, cells, head_width]`.
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
