//! The blocks before the last, for methods that use them, and the mapping of block numbers to towers of any depth.

use tch::Tensor;

use crate::clip::{PositionResampling, ResidualAttentionBlock, VisionTransformer};
use crate::dense::DenseError;

/// The inputs of the last blocks of a tower for a batch of images.
pub(super) struct Trunk<'tower> {
    pub(super) tower: &'tower VisionTransformer,
    /// The inputs, `[batch, 1 + cells, width]` each; the last one is that of the last block.
    inputs: Vec<Tensor>,
}

impl<'tower> Trunk<'tower> {
    /// Runs all blocks but the last on `[batch, 3, height, width]` and keeps the inputs of the last `blocks` blocks.
    ///
    /// # Errors
    /// [`DenseError::Stopped`] when `stop` returns true, which is asked for each block.
    pub(super) fn run(
        tower: &'tower VisionTransformer,
        image: &Tensor,
        blocks: usize,
        resampling: PositionResampling,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, DenseError> {
        let skipped = tower.blocks().len() - blocks;
        let inputs = tower.block_inputs(image, resampling).take_while(|_| !stop());
        let inputs: Vec<_> = inputs.skip(skipped).collect();
        match inputs.len() < blocks {
            true => Err(DenseError::Stopped),
            false => Ok(Self { tower, inputs }),
        }
    }

    /// Returns `x_l`, the output of block `l`, `[batch, 1 + cells, width]`. Blocks count from 1, and `x_0` is the input
    /// of the first block.
    ///
    /// # Panics
    /// Panics when the tensor was not kept, or when the block is the last.
    pub(super) fn after(&self, block: usize) -> &Tensor {
        let from_end = self.depth().0 - block;
        &self.inputs[self.inputs.len() - from_end]
    }

    /// Returns the input of the last block.
    pub(super) fn before_last(&self) -> &Tensor {
        self.after(self.depth().0 - 1)
    }

    /// Returns the blocks whose inputs were kept, with these inputs, in the order in which the blocks run.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (&'tower ResidualAttentionBlock, &Tensor)> {
        let blocks = self.tower.blocks();
        blocks[blocks.len() - self.inputs.len()..].iter().zip(&self.inputs)
    }

    pub(super) fn depth(&self) -> Depth {
        Depth::of(self.tower)
    }
}

/// The number of blocks of a tower.
///
/// Methods name blocks of the published models, which have 12 or 24 blocks. In a tower of another depth, the numbers of
/// the nearer published depth (12 for fewer than 18 blocks) are scaled in proportion and rounded, halves up: block 9 of
/// 12 is block 5 of 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth(pub(super) usize);

impl Depth {
    pub(super) fn of(tower: &VisionTransformer) -> Self {
        Self(tower.blocks().len())
    }

    /// Returns the constant of the nearer published depth.
    pub(super) fn choose<T>(self, of_12: T, of_24: T) -> T {
        if self.0 < 18 { of_12 } else { of_24 }
    }

    /// Scales a number of blocks, given for both published depths, to this depth.
    pub(super) fn scale(self, of_12: usize, of_24: usize) -> usize {
        let (blocks, published) = self.choose((of_12, 12), (of_24, 24));
        (2 * blocks * self.0 + published) / (2 * published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_depths_keep_the_published_numbers_and_others_scale_them() {
        let block = |layers| Depth(layers).scale(9, 17);
        assert_eq!([12, 24, 6, 7, 8].map(block), [9, 17, 5, 5, 6]);
        assert_eq!(block(32), 23); // 17 of 24, the nearer
    }
}
