//! What the last attention of the visual tower does: one file per method, and what several share.
//!
//! Owns the way from an image to a feature per cell. A method takes the last block apart ([`LastBlock`]) and puts another
//! attention into it, here written `A`: a matrix per head, whose row tells what a token takes from the others' values.
//! `sm` is the softmax over a row; `Out(A)` is the block's output projection of the mixed values. The class token is one of
//! the others unless a method says otherwise; only the cells' rows are ever computed, since nobody reads the class
//! token's. Everything is per head, and scaled by the head's width, never the block's.

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
use crate::clip::{ModifiedResNet, VisionTransformer, VisualTower};
use cell_grid::CellGrid;
use last_block::{LastBlock, cells_of};
pub(super) use resclip::Feedback;
use trunk::{Depth, Trunk};

/// The attentions that a tower can compute.
pub fn attentions(tower: &VisualTower) -> &'static [Attention] {
    match tower {
        VisualTower::VisionTransformer(_) => &Attention::ALL,
        VisualTower::ModifiedResNet(_) => &[Attention::Clip, Attention::Maskclip],
    }
}

/// Whether an attention can look at that many rows and columns of cells; every one but SC-CLIP's looks at any.
///
/// # Errors
/// When it cannot.
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

/// What dense features are made of, the images' batch in front.
pub(super) struct Ending {
    /// `[batch, cells, embedding]`
    pub(super) cells: Tensor,
    /// `[batch, embedding]`
    pub(super) pooled: Tensor,
    /// `[batch, cells, channels]`, when key smoothing needs them.
    pub(super) keys: Option<Tensor>,
    /// One per image, when the cells are a first pass.
    pub(super) feedback: Option<Vec<Feedback>>,
}

/// The tower's ending on `[batch, 3, height, width]`.
pub(super) fn of_vision_transformer(tower: &VisionTransformer, image: &Tensor, options: &FeatureOptions) -> Ending {
    let FeatureOptions {
        attention, constants, ..
    } = *options;
    let grid = CellGrid::of(image, tower.patch_pixels());
    let trunk = Trunk::run(tower, image, blocks_read(attention, Depth::of(tower)));
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
    };
    Ending {
        cells: tower.project(&cells),
        pooled: tower.project(&last.class_token()).squeeze_dim(1), // [batch, 1, embedding] -> [batch, embedding]
        keys: last.keys(options.keys),
        feedback,
    }
}

/// How many of the last blocks' inputs the attention reads: the last one's alone, or earlier ones', too.
fn blocks_read(attention: Attention, depth: Depth) -> usize {
    match attention {
        Attention::Clip
        | Attention::Maskclip
        | Attention::MaskclipNoResidual
        | Attention::Sclip
        | Attention::Clearclip
        | Attention::Naclip
        | Attention::Pearl
        | Attention::PearlNewtonSchulz => 1,
        Attention::ScClip => sc_clip::blocks_read(depth),
        Attention::Resclip | Attention::ResclipRepaired => resclip::blocks_read(depth),
        Attention::Gem => gem::blocks_read(depth),
    }
}

/// The tower's ending on `[batch, 3, height, width]`. `None` when it has nothing that the attention could act on: an
/// attention pool has neither residual nor MLP, and its queries are never those of a cell.
pub(super) fn of_modified_resnet(tower: &ModifiedResNet, image: &Tensor, options: &FeatureOptions) -> Option<Ending> {
    let pool = &tower.attnpool;
    let map = tower.last_map(image);
    // The pool's positions are part of its attention alone: MaskCLIP's features and keys do without.
    let bare = map.flatten(2, 3).transpose(1, 2); // [batch, channels, height, width] -> [batch, cells, channels]
    let cells = match options.attention {
        Attention::Clip => {
            let tokens = pool.tokens(&map); // [batch, 1 + cells, channels]
            pool.attend(&tokens.narrow(1, 1, bare.size()[1]), &tokens)
        }
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
        | Attention::Gem => return None,
    };
    // The reference implementation takes a ResNet's keys as they are, like everybody.
    let keys = options.keys.map(|_| pool.k_proj.forward(&bare));
    Some(Ending {
        cells,
        pooled: pool.pool(&map),
        keys,
        feedback: None,
    })
}

/// Numbers in unit tests that are everywhere different and everywhere the same.
#[cfg(test)]
mod testing {
    use tch::{Device, Kind, Tensor};

    use super::last_block::Heads;

    /// Values between -1 and 1: the sines of multiples of `seed`.
    pub(super) fn noise(shape: &[i64], seed: f64) -> Tensor {
        let count: i64 = shape.iter().product();
        let angle = (Tensor::arange(count, (Kind::Double, Device::Cpu)) + 1.0) * seed;
        angle.sin().to_kind(Kind::Float).view(shape)
    }

    /// Queries, keys and values of 2 heads of width 4 for a class token and `cells` cells.
    pub(super) fn heads(cells: i64) -> Heads {
        let shape = [1, 2, 1 + cells, 4];
        let [query, key, value] = [12.9, 7.3, 3.1].map(|seed| noise(&shape, seed));
        Heads { query, key, value }
    }

    pub(super) fn assert_close(found: &Tensor, expected: &Tensor) {
        let difference = (found - expected).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{found:?} is {difference} off");
    }

    /// What attention makes of values that are all one: the sums of its rows.
    pub(super) fn row_sums(mix: impl Fn(&Heads) -> Tensor) -> Tensor {
        let mut heads = heads(6);
        heads.value = heads.value.ones_like();
        mix(&heads)
    }
}
