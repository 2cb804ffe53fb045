//! Learned positions of a class (or mean) token and a square grid, for any grid.

use tch::{Kind, Tensor};

use super::checkpoint::{CheckpointError, Weights};

/// One learned vector for the leading token and one per cell of the grid the model was trained on.
#[derive(Debug)]
pub(crate) struct PositionalEmbedding {
    /// `[1 + side * side, width]`, the leading token's first, then the grid's rows.
    weight: Tensor,
    /// Cells along each side of the training grid.
    side: i64,
}

impl PositionalEmbedding {
    /// Takes `name`, `[1 + side * side, width]`.
    pub(crate) fn load(weights: &mut Weights, name: &str, width: i64) -> Result<Self, CheckpointError> {
        let side = (weights.size(name, 0) - 1).max(1).isqrt();
        let weight = weights.take(name, &[1 + side * side, width])?;
        Ok(Self { weight, side })
    }

    /// Cells along each side of the training grid.
    pub(crate) fn side(&self) -> i64 {
        self.side
    }

    /// `[1 + height * width, width of the model]` for a grid of `height` x `width` cells: the grid's part bicubic with
    /// align_corners false, the leading token's as it is.
    pub(crate) fn at(&self, height: i64, width: i64) -> Tensor {
        if (height, width) == (self.side, self.side) {
            return self.weight.shallow_clone();
        }
        let leading = self.weight.narrow(0, 0, 1);
        let grid = self
            .weight
            .narrow(0, 1, self.side * self.side)
            .to_kind(Kind::Float)
            .unflatten(0, [self.side, self.side]) // [side * side, channels] -> [side, side, channels]
            .permute([2, 0, 1])
            .unsqueeze(0) // [side, side, channels] -> [1, channels, side, side]
            .upsample_bicubic2d([height, width], false, None, None)
            .squeeze_dim(0)
            .flatten(1, 2) // [1, channels, height, width] -> [channels, height * width]
            .transpose(0, 1)
            .to_kind(self.weight.kind());
        Tensor::cat(&[leading, grid], 0)
    }
}
