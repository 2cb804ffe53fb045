//! MaskCLIP's two forms and the baseline without the change.
//!
//! Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2: every position keeps its own value,
//! `A = I`.

use tch::Tensor;

use super::last_block::LastBlock;

/// The papers' baseline: the block as it is, asked at every cell. `[batch, cells, width]`.
pub(super) fn unchanged(last: &LastBlock) -> Tensor {
    last.completed(&last.attended())
}

/// `z0 = u + Out(I)`, `z = z0 + MLP(LN2 z0)`, as the reference implementation has it.
pub(super) fn with_residual(last: &LastBlock) -> Tensor {
    last.completed(&last.projected_values())
}

/// `Out(I)`, which later papers call MaskCLIP.
pub(super) fn without_residual(last: &LastBlock) -> Tensor {
    last.projected_values()
}
