//! The blocks before the last, for methods that look into them, and how their numbers carry over to towers of any depth.

use tch::Tensor;

use crate::clip::{ResidualAttentionBlock, VisionTransformer};

/// What the last blocks of a tower read on a batch of images.
pub(super) struct Trunk<'tower> {
    pub(super) tower: &'tower VisionTransformer,
    /// `[batch, 1 + cells, width]` each, the last block's input last.
    inputs: Vec<Tensor>,
}

impl<'tower> Trunk<'tower> {
    /// Runs all blocks but the last on `[batch, 3, height, width]` and keeps what the last `blocks` of them read.
    pub(super) fn run(tower: &'tower VisionTransformer, image: &Tensor, blocks: usize) -> Self {
        let skipped = tower.blocks().len() - blocks;
        Self {
            tower,
            inputs: tower.block_inputs(image).skip(skipped).collect(),
        }
    }

    /// `x_l`, the output of block l counted from 1, `[batch, 1 + cells, width]`; `x_0` is what the first block reads.
    ///
    /// # Panics
    /// When it was not kept, or is the last block's.
    pub(super) fn after(&self, block: usize) -> &Tensor {
        let from_end = self.depth().0 - block;
        &self.inputs[self.inputs.len() - from_end]
    }

    /// What the last block reads.
    pub(super) fn before_last(&self) -> &Tensor {
        self.after(self.depth().0 - 1)
    }

    /// The kept blocks with their inputs, in the order they run.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (&'tower ResidualAttentionBlock, &Tensor)> {
        let blocks = self.tower.blocks();
        blocks[blocks.len() - self.inputs.len()..].iter().zip(&self.inputs)
    }

    pub(super) fn depth(&self) -> Depth {
        Depth::of(self.tower)
    }
}

/// How many blocks a tower has.
///
/// Methods name blocks of the published models, which have 12 or 24. In a tower of another depth the numbers of the
/// nearer of these (12 below 18 blocks) are scaled in proportion, halves rounded up: block 9 of 12 is block 5 of 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth(pub(super) usize);

impl Depth {
    pub(super) fn of(tower: &VisionTransformer) -> Self {
        Self(tower.blocks().len())
    }

    /// Of two constants, that of the nearer published depth.
    pub(super) fn choose<T>(self, of_12: T, of_24: T) -> T {
        if self.0 < 18 { of_12 } else { of_24 }
    }

    /// A number of blocks, given for both published depths, at this depth.
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
