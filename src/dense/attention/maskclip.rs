//! MaskCLIP in two forms, and the unchanged baseline.
//!
//! Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2: every position keeps its own value,
//! so `A = I`.

use tch::Tensor;

use super::last_block::LastBlock;

/// Runs the unchanged block on every cell, `[batch, cells, width]`. It is the baseline of the papers.
pub(super) fn unchanged(last: &LastBlock) -> Tensor {
    last.completed(&last.attended())
}

/// Computes `z0 = u + Out(I)`, then `z = z0 + MLP(LN2 z0)`, as the reference implementation does.
pub(super) fn with_residual(last: &LastBlock) -> Tensor {
    last.completed(&last.projected_values())
}

/// Computes `Out(I)`, which later papers call MaskCLIP.
pub(super) fn without_residual(last: &LastBlock) -> Tensor {
    last.projected_values()
}
