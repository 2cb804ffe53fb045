//! SC-CLIP: outlying tokens are repaired, and tokens attend to those that a middle layer finds similar.
//!
//! Bai et al., "Self-Calibrated CLIP for Training-Free Open-Vocabulary Segmentation", TIP 2025, arXiv 2411.15869; its
//! released code, with that code's constants for ViT-B/16 and ViT-L/14. The last block's residual and MLP are left out.
//! The class token takes no part in the attention; a multiple of it is added instead. The method needs one square
//! window at a time with at least [`FEWEST_CELLS`].

use tch::{Device, Kind, Tensor};

use super::cell_grid::CellGrid;
use super::last_block::{Heads, attend, cells_of};
use super::trunk::{Depth, Trunk};
use crate::dense::tensors::unit_rows;

/// Number of neighbours that determine the density of a token.
const NEIGHBOURS: i64 = 30;

/// Least number of cells: a token and its neighbours.
pub(super) const FEWEST_CELLS: usize = NEIGHBOURS as usize + 1;

/// Share of the tokens that are not outliers.
const REGULAR: f64 = 0.95;

/// Cosines below this value do not count when tokens are averaged.
const ALIKE: f64 = 0.4;

/// Added to the sum of the weights of an average.
const AVERAGE_EPSILON: f64 = 1e-6;

/// Factor on the excess of a cosine over the mean.
const SHARPNESS: f64 = 3.0;

/// Returns how many of the last blocks' inputs the method reads. The first is the output of [`early_block`].
pub(super) fn blocks_read(depth: Depth) -> usize {
    depth.0 - early_block(depth)
}

fn early_block(depth: Depth) -> usize {
    depth.scale(4, 7)
}

/// Returns the features of the cells before the final normalisation, `[batch, cells, width]`.
pub(super) fn cells(trunk: &Trunk, grid: CellGrid) -> Tensor {
    let depth = trunk.depth();
    let last_outputs = depth.0 - 1;
    let block_output = |block: usize| cells_of(trunk.after(block.min(last_outputs))).to_kind(Kind::Float);

    let repair = repair(&is_outlier(&block_output(last_outputs)), grid);
    let alike = cosines(&repair.matmul(&block_output(depth.scale(9, 17))));
    let early_alike = cosines(&block_output(early_block(depth)));
    let preference = preference(&alike);

    let block = trunk.tower.last_block();
    let class_weight = depth.choose(0.3, 0.1);
    // Steps 4 and 5 run tokens through the last block. `class` is the class token that is added to them, [batch, 1,
    // width].
    let read = |tokens: &Tensor, class: &Tensor| {
        let Heads { key, value, .. } = Heads::of(block, &tokens.to_kind(class.kind()));
        let preferred = preference.unsqueeze(1).to_kind(value.kind()).matmul(&value); // one preference for all heads
        let mixed = (preferred + attend(&key, &key, &value, None)) / 2.0;
        let attended = block.attn.project_heads(&mixed) + class * class_weight;
        average(&early_alike, &attended.to_kind(Kind::Float))
    };
    let class_of = |tokens: &Tensor| tokens.narrow(1, 0, 1); // [batch, 1 + cells, width] -> [batch, 1, width]

    let before_last = trunk.before_last();
    let calibrated = average(&alike, &repair.matmul(&block_output(last_outputs)));
    let summed = summed(trunk);
    let features = read(&calibrated, &class_of(before_last)) + read(&cells_of(&summed), &class_of(&summed));
    features.to_kind(before_last.kind())
}

/// Returns the sum of the middle layers' outputs, `[batch, 1 + cells, width]`.
fn summed(trunk: &Trunk) -> Tensor {
    let depth = trunk.depth();
    (depth.scale(4, 9)..=depth.scale(10, 19).min(depth.0 - 1))
        .map(|block| trunk.after(block).shallow_clone())
        .reduce(|sum, output| sum + output)
        .expect("the first of the layers comes before the last of them")
}

/// Marks the tokens whose local outlier factor is above its 0.95 quantile: `[batch, cells, width]` to `[batch, cells]`.
/// As in the release, the density is the squared distance to the farthest neighbour alone. Equal tokens have no
/// outliers.
fn is_outlier(tokens: &Tensor) -> Tensor {
    let cells = tokens.size()[1];
    let distance = Tensor::cdist(tokens, tokens, 2.0, None).square(); // [batch, cells, cells]
    // A token is not its own neighbour.
    let _ = distance.diagonal(0, 1, 2).fill_(f64::INFINITY);
    let (nearest, neighbours) = distance.topk(NEIGHBOURS, 2, false, true); // [batch, cells, neighbours]
    let radius = nearest.select(2, NEIGHBOURS - 1); // [batch, cells]
    let of_neighbours = radius
        .unsqueeze(1)
        .expand([-1, cells, -1], false)
        .gather(2, &neighbours, false); // [batch, cells, neighbours]
    let factor = (radius.unsqueeze(2) / of_neighbours)
        .nan_to_num(1.0, None, None) // 0 / 0: a token among its equals
        .mean_dim(2, false, Kind::Float);
    let bound = factor.quantile_scalar(REGULAR, 1, true, "linear"); // [batch, 1]
    factor.gt_tensor(&bound)
}

/// Returns the matrix that replaces each outlier by the mean of the regular tokens around it: `[batch, cells]` to
/// `[batch, cells, cells]`. All other tokens stay, and so does an outlier that has only outliers around it.
fn repair(is_outlier: &Tensor, grid: CellGrid) -> Tensor {
    let identity = identity(grid.cells(), is_outlier.device());
    let within_a_step = grid.product(is_outlier.device(), |steps| steps.le(1.0).to_kind(Kind::Float));
    let adjacent = within_a_step.ne_tensor(&identity); // [cells, cells]
    let regular_around = adjacent.logical_and(&is_outlier.unsqueeze(1).logical_not()); // [batch, cells, cells]
    let count = regular_around.sum_dim_intlist([2i64].as_slice(), true, Kind::Float); // [batch, cells, 1]
    let mean = regular_around.to_kind(Kind::Float) / count.clamp_min(1.0);
    let is_repaired = is_outlier.unsqueeze(2).logical_and(&count.gt(0.0)); // [batch, cells, 1]
    mean.where_self(&is_repaired, &identity)
}

/// Computes the cosine of every two tokens: `[batch, cells, width]` to `[batch, cells, cells]`.
fn cosines(tokens: &Tensor) -> Tensor {
    let unit = unit_rows(tokens);
    unit.matmul(&unit.transpose(1, 2))
}

/// Averages each token with the tokens similar to it. The weights are `[batch, cells, cells]`; tokens and result are
/// `[batch, cells, width]`.
fn average(alike: &Tensor, tokens: &Tensor) -> Tensor {
    let weights = alike.masked_fill(&alike.lt(ALIKE), 0.0);
    let sums = weights.sum_dim_intlist([2i64].as_slice(), true, Kind::Float) + AVERAGE_EPSILON;
    (weights / sums).matmul(tokens)
}

/// Computes `B = sm(3 (G - mean G))` over the cosines `G` above their mean, `[batch, cells, cells]`. A token always
/// prefers itself: without a special case, rounding could put its cosine of 1 below the mean.
fn preference(alike: &Tensor) -> Tensor {
    let excess = alike - alike.mean_dim([1i64, 2].as_slice(), true, Kind::Float);
    let itself = identity(alike.size()[2], alike.device()).to_kind(Kind::Bool);
    let is_left_out = excess.lt(0.0).logical_and(&itself.logical_not());
    (excess * SHARPNESS)
        .masked_fill(&is_left_out, f64::NEG_INFINITY)
        .softmax(2, Kind::Float)
}

fn identity(size: i64, device: Device) -> Tensor {
    Tensor::eye(size, (Kind::Float, device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::attention::testing::{assert_close, noise};

    const GRID: CellGrid = CellGrid { rows: 14, columns: 14 };

    fn outliers(tokens: &Tensor) -> Vec<i64> {
        let indices = is_outlier(tokens).squeeze_dim(0).nonzero().view(-1);
        Vec::try_from(&indices).expect("one dimension of 64-bit integers")
    }

    #[test]
    fn one_in_twenty_tokens_is_an_outlier_when_all_differ() {
        assert_eq!(outliers(&noise(&[1, 196, 16], 12.9)).len(), 10);
    }

    #[test]
    fn the_token_far_from_all_others_is_among_the_outliers() {
        let tokens = noise(&[1, 196, 16], 12.9);
        let _ = tokens.select(1, 77).fill_(9.0);
        assert!(outliers(&tokens).contains(&77));
    }

    #[test]
    fn equal_tokens_have_no_outliers() {
        assert!(outliers(&Tensor::ones([1, 196, 16], (Kind::Float, Device::Cpu))).is_empty());
    }

    /// On 2 x 3 cells, 0 and 1 are outliers: 0 becomes the mean of 3 and 4, and 1 becomes that of 2, 3, 4 and 5.
    #[test]
    fn an_outlier_becomes_the_mean_of_the_regular_tokens_around_it() {
        let is_outlier = Tensor::from_slice(&[true, true, false, false, false, false]).unsqueeze(0);
        let tokens = Tensor::from_slice(&[100f32, 100.0, 2.0, 3.0, 4.0, 5.0]).view([1, 6, 1]);
        let repaired = repair(&is_outlier, CellGrid { rows: 2, columns: 3 }).matmul(&tokens);
        let expected = Tensor::from_slice(&[3.5f32, 3.5, 2.0, 3.0, 4.0, 5.0]).view([1, 6, 1]);
        assert_close(&repaired, &expected);
    }

    #[test]
    fn an_outlier_among_outliers_stays() {
        let is_outlier = Tensor::from_slice(&[true, true, false]).unsqueeze(0);
        let tokens = Tensor::from_slice(&[7f32, 8.0, 9.0]).view([1, 3, 1]);
        let repaired = repair(&is_outlier, CellGrid { rows: 1, columns: 3 }).matmul(&tokens);
        assert_close(&repaired, &Tensor::from_slice(&[7f32, 9.0, 9.0]).view([1, 3, 1]));
    }

    #[test]
    fn tokens_that_are_alike_to_none_but_themselves_stay_as_they_are() {
        let alone = identity(GRID.cells(), Device::Cpu).unsqueeze(0);
        let tokens = noise(&[1, 196, 16], 7.3);
        assert_close(&average(&alone, &tokens), &tokens);
        assert_close(&preference(&alone), &alone);
    }

    #[test]
    fn equal_tokens_prefer_each_other_alike() {
        let preference = preference(&cosines(&noise(&[1, 1, 16], 3.1).expand([1, 50, 16], false)));
        assert_close(
            &preference.sum_dim_intlist([2i64].as_slice(), false, Kind::Float),
            &Tensor::from(1f32),
        );
        assert_close(&preference, &Tensor::from(1f32 / 50.0));
    }

    #[test]
    fn cosines_below_the_threshold_take_no_part_in_an_average() {
        let alike = Tensor::from_slice(&[1f32, 0.39, 0.4, 0.39, 1.0, 0.5, 0.4, 0.5, 1.0]).view([1, 3, 3]);
        let tokens = Tensor::from_slice(&[0.1f32, 1.0, 10.0]).view([1, 3, 1]);
        let first = average(&alike, &tokens).get(0).get(0);
        assert_close(&first, &Tensor::from_slice(&[(0.1f32 + 4.0) / 1.4]));
    }
}
