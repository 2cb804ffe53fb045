//! What the last attention of the visual tower computes: one file per method, and the parts that several methods share.
//!
//! Owns the way from an image to a feature per cell. A method takes the last block apart ([`LastBlock`]) and puts
//! another attention into it, written `A` here. `A` is a matrix per head, whose row holds the weights of all tokens'
//! values in the result of one token. `sm` is the softmax over a row. `Out(A)` is the block's output projection of the
//! mixed values. The class token is one of the tokens unless a method says otherwise. Only the rows of the cells are
//! computed, because nothing reads the row of the class token. All formulas are per head and scaled by the width of a
//! head, never by that of the block.

mod cell_grid;
mod clearclip;
mod gem;
mod last_block;
mod maskclip;
mod naclip;
mod pearl;
mod resclip;
mod sc_clip;
mod sclip;
mod trunk;

use tch::Tensor;

use super::{Attention, DenseError, FeatureOptions};
use crate::clip::{AttentionPool, ModifiedResNet, PositionResampling, VisionTransformer, VisualTower};
use cell_grid::CellGrid;
use last_block::{LastBlock, cells_of};
pub(super) use resclip::Feedback;
use trunk::{Depth, Trunk};

/// The attentions of vision transformers.
const OF_VISION_TRANSFORMERS: [Attention; 12] = [
    Attention::Clip,
    Attention::Maskclip,
    Attention::MaskclipNoResidual,
    Attention::Sclip,
    Attention::Clearclip,
    Attention::Naclip,
    Attention::Pearl,
    Attention::PearlNewtonSchulz,
    Attention::ScClip,
    Attention::Resclip,
    Attention::ResclipRepaired,
    Attention::Gem,
];

/// Returns the attentions that a tower can compute.
pub fn attentions(tower: &VisualTower) -> &'static [Attention] {
    match tower {
        VisualTower::VisionTransformer(_) => &OF_VISION_TRANSFORMERS,
        VisualTower::ModifiedResNet(_) => &[Attention::Clip, Attention::ClipNoPositions, Attention::Maskclip],
    }
}

/// Checks that an attention can be computed on `rows` x `columns` cells. Only SC-CLIP's attention has a restriction.
///
/// # Errors
/// Fails when the attention cannot be computed on this grid.
pub fn check_grid(attention: Attention, rows: usize, columns: usize) -> Result<(), DenseError> {
    if attention == Attention::ScClip && (rows != columns || rows * columns < sc_clip::FEWEST_CELLS) {
        return Err(DenseError::UnsuitableGrid {
            asked: attention,
            rows,
            columns,
        });
    }
    Ok(())
}

/// The output of a tower with a dense ending for a batch of images.
pub(super) struct Ending {
    /// Features of the cells, `[batch, cells, embedding]`.
    pub(super) cells: Tensor,
    /// Features of the whole images, `[batch, embedding]`.
    pub(super) pooled: Tensor,
    /// Keys of the cells, `[batch, cells, channels]`, when key smoothing needs them.
    pub(super) keys: Option<Tensor>,
    /// The input of the second pass for each image, when the attention has one.
    pub(super) feedback: Option<Vec<Feedback>>,
}

/// Runs a vision transformer with the dense ending of the options on images `[batch, 3, height, width]`. Returns `None`
/// when the attention is that of an attention pool.
pub(super) fn of_vision_transformer(
    tower: &VisionTransformer,
    image: &Tensor,
    options: &FeatureOptions,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Ending>, DenseError> {
    let FeatureOptions {
        attention, constants, ..
    } = *options;
    let grid = CellGrid::of(image, tower.patch_pixels());
    let blocks = blocks_read(attention, Depth::of(tower));
    let trunk = Trunk::run(tower, image, blocks, position_resampling(attention), stop)?;
    let last = LastBlock::of(tower, trunk.before_last().shallow_clone());
    let mut feedback = None;
    let mut first_pass = |path_test| {
        let (cells, kept) = resclip::first_pass(&trunk, &last, image, grid, path_test, constants.resclip);
        feedback = Some(kept);
        cells
    };
    let pearl = |rotation| last.alone(&pearl::mix(&last.heads(), rotation, constants.pearl_key_weight));
    let cells = match attention {
        Attention::Clip => maskclip::unchanged(&last),
        Attention::Maskclip => maskclip::with_residual(&last),
        Attention::MaskclipNoResidual => maskclip::without_residual(&last),
        Attention::Sclip => last.with_residual(&sclip::mix(&last.heads())),
        Attention::Clearclip => last.alone(&clearclip::mix(&last.heads())),
        Attention::Naclip => last.alone(&naclip::mix(&last.heads(), grid)),
        Attention::Pearl => pearl(pearl::Rotation::Exact),
        Attention::PearlNewtonSchulz => pearl(pearl::Rotation::NewtonSchulz),
        Attention::ScClip => sc_clip::cells(&trunk, grid),
        Attention::Resclip => first_pass(resclip::PathTest::Released),
        Attention::ResclipRepaired => first_pass(resclip::PathTest::WholePath),
        Attention::Gem => cells_of(&gem::tokens(&trunk)),
        Attention::ClipNoPositions => return Ok(None),
    };
    Ok(Some(Ending {
        cells: tower.project(&cells),
        pooled: tower.project(&last.class_token()).squeeze_dim(1), // [batch, 1, embedding] -> [batch, embedding]
        keys: last.keys(options.keys),
        feedback,
    }))
}

/// Returns how many of the last blocks' inputs the attention reads: one, or more if it looks at earlier blocks.
fn blocks_read(attention: Attention, depth: Depth) -> usize {
    match attention {
        Attention::Clip
        | Attention::Maskclip
        | Attention::MaskclipNoResidual
        | Attention::Sclip
        | Attention::Clearclip
        | Attention::Naclip
        | Attention::Pearl
        | Attention::PearlNewtonSchulz
        | Attention::ClipNoPositions => 1,
        Attention::ScClip => sc_clip::blocks_read(depth),
        Attention::Resclip | Attention::ResclipRepaired => resclip::blocks_read(depth),
        Attention::Gem => gem::blocks_read(depth),
    }
}

/// Returns how the released code of the attention interpolates the positions of inputs off the trained grid.
fn position_resampling(attention: Attention) -> PositionResampling {
    match attention {
        // The release takes the positions as they are where the grid has another shape but as many cells as the trained
        // one. Here they are interpolated there, too.
        Attention::Gem => PositionResampling::Antialiased,
        Attention::Clip
        | Attention::Maskclip
        | Attention::MaskclipNoResidual
        | Attention::Sclip
        | Attention::Clearclip
        | Attention::Naclip
        | Attention::Pearl
        | Attention::PearlNewtonSchulz
        | Attention::ScClip
        | Attention::Resclip
        | Attention::ResclipRepaired
        | Attention::ClipNoPositions => PositionResampling::Plain,
    }
}

/// Runs a ResNet with the dense ending of the options on images `[batch, 3, height, width]`. Returns `None` when the
/// attention needs parts that an attention pool lacks: it has neither residual nor MLP, and its query is never that of
/// a cell.
pub(super) fn of_modified_resnet(
    tower: &ModifiedResNet,
    image: &Tensor,
    options: &FeatureOptions,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Ending>, DenseError> {
    let pool = &tower.attnpool;
    let map = tower.last_map_unless(image, stop).ok_or(DenseError::Stopped)?;
    // The pool adds positions only for its attention, so MaskCLIP's features and keys have no positions.
    let bare = map.flatten(2, 3).transpose(1, 2); // [batch, channels, height, width] -> [batch, cells, channels]
    let cells = match options.attention {
        Attention::Clip => {
            let tokens = pool.tokens(&map); // [batch, 1 + cells, channels]
            pool.attend(&tokens.narrow(1, 1, bare.size()[1]), &tokens)
        }
        Attention::ClipNoPositions => pool.attend(&bare, &AttentionPool::with_mean(&bare)),
        Attention::Maskclip => pool.c_proj.forward(&pool.v_proj.forward(&bare)),
        Attention::MaskclipNoResidual
        | Attention::Sclip
        | Attention::Clearclip
        | Attention::Naclip
        | Attention::Pearl
        | Attention::PearlNewtonSchulz
        | Attention::ScClip
        | Attention::Resclip
        | Attention::ResclipRepaired
        | Attention::Gem => return Ok(None),
    };
    // A ResNet's keys are taken without projection, as in the reference implementation.
    let keys = options.keys.map(|_| pool.k_proj.forward(&bare));
    Ok(Some(Ending {
        cells,
        pooled: pool.pool(&map),
        keys,
        feedback: None,
    }))
}

/// Inputs for unit tests.
#[cfg(test)]
mod testing {
    use tch::{Device, Kind, Tensor};

    use super::last_block::Heads;

    /// Returns values between -1 and 1: the sines of multiples of `seed`.
    pub(super) fn noise(shape: &[i64], seed: f64) -> Tensor {
        let count: i64 = shape.iter().product();
        let angle = (Tensor::arange(count, (Kind::Double, Device::Cpu)) + 1.0) * seed;
        angle.sin().to_kind(Kind::Float).view(shape)
    }

    /// Returns queries, keys and values of 2 heads of width 4 for a class token and `cells` cells.
    pub(super) fn heads(cells: i64) -> Heads {
        let shape = [1, 2, 1 + cells, 4];
        let [query, key, value] = [12.9, 7.3, 3.1].map(|seed| noise(&shape, seed));
        Heads { query, key, value }
    }

    pub(super) fn assert_close(found: &Tensor, expected: &Tensor) {
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{found:?} is {difference} off");
    }

    /// Returns the sums of an attention's rows: its result for values that are all one.
    pub(super) fn row_sums(mix: impl Fn(&Heads) -> Tensor) -> Tensor {
        let mut heads = heads(6);
        heads.value = heads.value.ones_like();
        mix(&heads)
    }
}
