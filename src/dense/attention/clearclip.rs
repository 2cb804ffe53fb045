//! ClearCLIP: tokens attend to tokens with similar queries, and nothing else of the last block remains.
//!
//! Lan et al., "ClearCLIP: Decomposing CLIP Representations for Dense Vision-Language Inference", ECCV 2024, arXiv
//! 2407.12442. The block's residual and MLP are left out.

use tch::Tensor;

use super::last_block::{Heads, attend, cells_of};

/// Computes `A = sm(q q^T / sqrt d)` and mixes the values: `[batch, heads, cells, head_width]`.
pub(super) fn mix(Heads { query, value, .. }: &Heads) -> Tensor {
    attend(&cells_of(query), query, value, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::attention::testing::{assert_close, heads, row_sums};

    #[test]
    fn rows_sum_to_one() {
        assert_close(&row_sums(mix), &Tensor::from(1f32));
    }

    #[test]
    fn equal_queries_give_the_mean_of_all_values_the_class_tokens_included() {
        let mut heads = heads(6);
        heads.query = heads.query.ones_like();
        assert_close(&mix(&heads), &heads.value.mean_dim(2, true, None));
    }
}
