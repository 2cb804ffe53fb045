//! ResCLIP: the last block also attends as middle blocks do, and a first labelling feeds back into a second pass.
//!
//! Yang et al., "ResCLIP: Residual Attention for Training-free Dense Vision-language Inference", CVPR 2025, arXiv
//! 2411.15851. The definitions are those of the released code. The last block's residual and MLP are left out.
//!
//! The second pass depends on the scores of the texts in the first pass, so it runs once the texts are known.
//! Extraction keeps what the second pass needs of the last block ([`Feedback`]). Each input or window has its own
//! second pass.

mod labels;
mod layout;

use tch::Tensor;

use super::cell_grid::CellGrid;
use super::last_block::{Heads, LastBlock, attend, attend_at_scale, cells_of};
use super::naclip::neighbourhood;
use super::trunk::{Depth, Trunk};
use crate::clip::Readout;
use crate::dense::{DenseError, ResclipConstants};
pub(super) use layout::PathTest;

/// `tau_r`: the factor on the whole attention. It matters because the bias of the output projection is not multiplied
/// by it.
const ATTENTION_SCALE: f64 = 2.0;

/// The first block whose attention is used, in towers of 12 and of 24 blocks, counted from 1.
const FIRST_BLOCK: usize = 6;

/// The last block whose attention is used.
const LAST_BLOCK: usize = 9;

/// Returns how many of the last blocks' inputs the method reads.
pub(super) fn blocks_read(depth: Depth) -> usize {
    depth.0 + 1 - first_block(depth)
}

fn first_block(depth: Depth) -> usize {
    depth.scale(FIRST_BLOCK, FIRST_BLOCK).max(1)
}

/// The input of an image's second pass.
#[derive(Debug)]
pub(in crate::dense) struct Feedback {
    grid: CellGrid,
    path_test: PathTest,
    constants: ResclipConstants,
    /// The tower's input, `[3, height, width]`.
    image: Tensor,
    mixture: Mixture,
    readout: Readout,
}

/// The part of the mixing of values that both passes share. Tensors have a batch dimension, which is 1 in a
/// [`Feedback`].
#[derive(Debug)]
struct Mixture {
    /// The keys of the last block, `[batch, heads, 1 + cells, head_width]`.
    key: Tensor,
    /// The values of the last block, `[batch, heads, 1 + cells, head_width]`.
    value: Tensor,
    /// The values mixed by the mean attention of the middle blocks, `[batch, heads, cells, head_width]`.
    by_middle: Tensor,
}

/// Runs the first pass on images `[batch, 3, height, width]`. Returns the features of the cells before the final
/// normalisation, `[batch, cells, width]`, and the input of the second pass for each image.
pub(super) fn first_pass(
    trunk: &Trunk,
    last: &LastBlock,
    image: &Tensor,
    grid: CellGrid,
    path_test: PathTest,
    constants: ResclipConstants,
) -> (Tensor, Vec<Feedback>) {
    let mixture = Mixture::of(trunk, last);
    let mixed = mixture.mix(1.0, &neighbourhood(grid, image.device()), constants.middle_share);
    let feedback = |index: i64| Feedback {
        grid,
        path_test,
        constants,
        image: image.get(index),
        mixture: mixture.of_image(index),
        readout: trunk.tower.readout(),
    };
    (last.alone(&mixed), (0..image.size()[0]).map(feedback).collect())
}

impl Feedback {
    /// Copies the tensors so that they share no memory with others, except with the tower's weights.
    pub(in crate::dense) fn owned(self) -> Self {
        let Mixture { key, value, by_middle } = self.mixture;
        Self {
            image: self.image.copy(),
            mixture: Mixture {
                key: key.copy(),
                value: value.copy(),
                by_middle: by_middle.copy(),
            },
            ..self
        }
    }

    /// Returns the tensors without those of the tower's weights.
    pub(in crate::dense) fn tensors(&self) -> [&Tensor; 4] {
        let Mixture { key, value, by_middle } = &self.mixture;
        [&self.image, key, value, by_middle]
    }

    /// Runs the second pass: from the cosines of the first pass, `[queries, cells]`, to features `[cells, embedding]`.
    ///
    /// # Errors
    /// [`DenseError::Stopped`] when `stop` returns true.
    pub(in crate::dense) fn cells(&self, cosines: &Tensor, stop: &dyn Fn() -> bool) -> Result<Tensor, DenseError> {
        let ResclipConstants {
            threshold,
            middle_share,
            score_scale,
            layout_share,
        } = self.constants;
        let labels = labels::of_cells(cosines, &self.image, self.grid, threshold, stop)?;
        let layout = layout::likeness(&labels, self.grid, self.path_test).to_device(self.image.device());
        // The bias is S1 + omega. The class token has no place in the layout.
        let layout = layout.constant_pad_nd([1, 0]) * (score_scale * layout_share);
        let bias = neighbourhood(self.grid, self.image.device()) + layout;
        let factor = score_scale * (1.0 - layout_share);
        let mixed = self.mixture.mix(factor, &bias, middle_share);
        Ok(self.readout.read(&mixed).squeeze_dim(0)) // [1, cells, embedding] -> [cells, embedding]
    }
}

impl Mixture {
    fn of(trunk: &Trunk, last: &LastBlock) -> Self {
        let Heads { key, value, .. } = last.heads();
        let depth = trunk.depth();
        let blocks = depth.scale(LAST_BLOCK, LAST_BLOCK).max(1) + 1 - first_block(depth);
        // Applies the mean of the attentions to the values; the matrices themselves are not needed.
        let by_blocks = trunk.blocks().take(blocks).map(|(block, input)| {
            let Heads { query, key, .. } = Heads::of(block, input);
            attend(&cells_of(&query), &key, &value, None)
        });
        let by_middle = by_blocks.reduce(|sum, mixed| sum + mixed).expect("at least one block") / blocks as f64;
        Self { key, value, by_middle }
    }

    /// Applies `A(S) = tau_r [(1 - lambda_r) sm(S + omega) + lambda_r C]` to the values:
    /// `[batch, heads, cells, head_width]`. Here `S + omega = factor k k^T / sqrt d + bias`.
    fn mix(&self, factor: f64, bias: &Tensor, middle_share: f64) -> Tensor {
        let scale = factor / (self.key.size()[3] as f64).sqrt();
        let by_keys = attend_at_scale(&cells_of(&self.key), &self.key, &self.value, Some(bias), Some(scale));
        (by_keys * (1.0 - middle_share) + &self.by_middle * middle_share) * ATTENTION_SCALE
    }

    fn of_image(&self, index: i64) -> Self {
        let [key, value, by_middle] = [&self.key, &self.value, &self.by_middle].map(|part| part.narrow(0, index, 1));
        Self { key, value, by_middle }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::dense::attention::naclip;
    use crate::dense::attention::testing::{assert_close, heads};

    const GRID: CellGrid = CellGrid { rows: 2, columns: 3 };

    fn mixture() -> Mixture {
        let Heads { query, key, value } = heads(GRID.cells());
        let by_middle = attend(&cells_of(&query), &key, &value, None);
        Mixture { key, value, by_middle }
    }

    #[test]
    fn without_the_middle_blocks_it_is_naclip() {
        let mixed = mixture().mix(1.0, &neighbourhood(GRID, Device::Cpu), 0.0);
        assert_close(&(mixed / ATTENTION_SCALE), &naclip::mix(&heads(GRID.cells()), GRID));
    }

    #[test]
    fn rows_sum_to_the_factor_on_the_attention() {
        let mut mixture = mixture();
        mixture.value = mixture.value.ones_like();
        mixture.by_middle = mixture.by_middle.ones_like();
        let sums = mixture.mix(1.0, &neighbourhood(GRID, Device::Cpu), 0.4);
        assert_close(&sums, &Tensor::from(2f32));
    }
}
