//! Learned positional embeddings of a class or mean token and a square grid, interpolated to any grid.

use tch::{Kind, Tensor};

use super::checkpoint::{CheckpointError, Weights};

/// How the grid's vectors are interpolated to a grid of another size. Both are bicubic with align_corners false.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PositionResampling {
    /// Without antialiasing, as most released code does.
    Plain,
    /// With antialiasing, as timm's `resample_abs_pos_embed` does. Its kernel differs when the grid grows, too.
    Antialiased,
}

/// One learned vector for the leading token and one for each cell of the grid that the model was trained on.
#[derive(Debug)]
pub(crate) struct PositionalEmbedding {
    /// `[1 + side * side, width]`: the leading token's vector first, then the cells row by row.
    weight: Tensor,
    /// Cells along each side of the training grid.
    side: i64,
}

impl PositionalEmbedding {
    /// Takes the tensor `name`, `[1 + side * side, width]`, from `weights`.
    pub(crate) fn load(weights: &mut Weights, name: &str, width: i64) -> Result<Self, CheckpointError> {
        let side = (weights.size(name, 0) - 1).max(1).isqrt();
        let weight = weights.take(name, &[1 + side * side, width])?;
        Ok(Self { weight, side })
    }

    /// Returns the number of cells along each side of the training grid.
    pub(crate) fn side(&self) -> i64 {
        self.side
    }

    /// Returns the embedding of a grid of `height` x `width` cells: `[1 + height * width, channels]`. The grid's part
    /// is interpolated where it has another size. The leading token's vector stays as it is.
    pub(crate) fn at(&self, height: i64, width: i64, resampling: PositionResampling) -> Tensor {
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
            .unsqueeze(0); // [side, side, channels] -> [1, channels, side, side]
        let grid = match resampling {
            PositionResampling::Plain => grid.upsample_bicubic2d([height, width], false, None, None),
            PositionResampling::Antialiased => grid.internal_upsample_bicubic2d_aa([height, width], false, None, None),
        };
        let grid = grid
            .squeeze_dim(0)
            .flatten(1, 2) // [1, channels, height, width] -> [channels, height * width]
            .transpose(0, 1)
            .to_kind(self.weight.kind());
        Tensor::cat(&[leading, grid], 0)
    }
}
