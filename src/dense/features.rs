//! One pass of the visual tower with a dense ending: a feature per position in the space of the texts.

use tch::{Kind, Tensor};

use super::{Attention, DenseError, KeySmoothing};
use crate::clip::{Mask, ModifiedResNet, VisionTransformer, VisualTower};

/// What an image's classes are scored from. Tensors, of use on the tower's device alone.
#[derive(Debug)]
pub struct DenseFeatures {
    /// Cells from top to bottom.
    pub height: i64,
    /// Cells from left to right.
    pub width: i64,
    /// `[height * width, embedding]`, row-major over the grid, not of unit length.
    pub cells: Tensor,
    /// `[embedding]`: CLIP's own feature of the whole image, not of unit length.
    pub pooled: Tensor,
    /// `[height * width, key channels]`, when key smoothing was announced.
    pub(super) keys: Option<Tensor>,
}

/// The attentions that a tower can compute.
pub fn attentions(tower: &VisualTower) -> &'static [Attention] {
    match tower {
        VisualTower::VisionTransformer(_) => &[Attention::Clip, Attention::Maskclip, Attention::MaskclipNoResidual],
        VisualTower::ModifiedResNet(_) => &[Attention::Clip, Attention::Maskclip],
    }
}

impl DenseFeatures {
    /// Runs the tower on one image, `[3, height, width]`, sides whole multiples of [`VisualTower::patch_pixels`].
    /// `key_smoothing` decides which keys are kept for [`DenseFeatures::score`].
    ///
    /// # Errors
    /// When the tower cannot compute the attention asked for.
    ///
    /// # Panics
    /// When the image has another shape, or libtorch fails.
    pub fn extract(
        tower: &VisualTower,
        image: &Tensor,
        attention: Attention,
        key_smoothing: KeySmoothing,
    ) -> Result<Self, DenseError> {
        let mut features = Self::extract_batch(tower, &image.unsqueeze(0), attention, key_smoothing)?;
        Ok(features.remove(0))
    }

    /// [`DenseFeatures::extract`] for images of one size in one pass, `[batch, 3, height, width]`: features of each, as if it
    /// were alone.
    ///
    /// # Errors
    /// As above.
    ///
    /// # Panics
    /// As above.
    pub fn extract_batch(
        tower: &VisualTower,
        images: &Tensor,
        attention: Attention,
        key_smoothing: KeySmoothing,
    ) -> Result<Vec<Self>, DenseError> {
        let unsupported = || DenseError::UnsupportedAttention {
            asked: attention,
            architecture: tower.architecture(),
            possible: attentions(tower),
        };
        let (batch, _, height, width) = images.size4().expect("images are [batch, 3, height, width]");
        let ending = tch::no_grad(|| match tower {
            VisualTower::VisionTransformer(tower) => {
                Some(of_vision_transformer(tower, images, attention, key_smoothing))
            }
            VisualTower::ModifiedResNet(tower) => of_modified_resnet(tower, images, attention, key_smoothing),
        });
        let Ending { cells, pooled, keys } = ending.ok_or_else(unsupported)?;
        let pooled = pooled.view([batch, -1]); // [batch, embedding] or [batch, 1, embedding]
        let features = (0..batch).map(|index| Self {
            height: height / tower.patch_pixels(),
            width: width / tower.patch_pixels(),
            cells: cells.get(index),
            pooled: pooled.get(index),
            keys: keys.as_ref().map(|keys| keys.get(index)),
        });
        Ok(features.collect())
    }
}

/// The tensors of [`DenseFeatures`], of a whole batch: `[batch, ...]`.
struct Ending {
    cells: Tensor,
    pooled: Tensor,
    keys: Option<Tensor>,
}

/// MaskCLIP, section 3.2, on a ViT: the last block without its queries and keys.
fn of_vision_transformer(
    tower: &VisionTransformer,
    image: &Tensor,
    attention: Attention,
    key_smoothing: KeySmoothing,
) -> Ending {
    let block = tower.last_block();
    let tokens = tower.before_last_block(image); // [1, 1 + cells, width]
    let normalised = block.ln_1.forward(&tokens);
    let [key, value] = block.attn.key_value(&normalised);
    let attended_by = |asking: &Tensor| block.attn.attend(&block.attn.query(asking), &key, &value, Mask::None);

    let grid = tokens.size()[1] - 1;
    let class_of = |tokens: &Tensor| tokens.narrow(1, 0, 1); // [1, 1 + cells, width] -> [1, 1, width]
    let cells_of = |tokens: &Tensor| tokens.narrow(1, 1, grid); // [1, 1 + cells, width] -> [1, cells, width]

    let cells = match attention {
        Attention::Clip => block.complete(&cells_of(&tokens), &attended_by(&cells_of(&normalised))),
        Attention::Maskclip => block.complete(&cells_of(&tokens), &block.attn.out_proj.forward(&cells_of(&value))),
        Attention::MaskclipNoResidual => block.attn.out_proj.forward(&cells_of(&value)),
    };
    // CLIP's own answer needs the attention of the class token alone, whatever the cells do.
    let pooled = block.complete(&class_of(&tokens), &attended_by(&class_of(&normalised)));
    let keys = match key_smoothing {
        KeySmoothing::None => None,
        KeySmoothing::Formula => Some(cells_of(&key)),
        // The reference implementation projects queries, keys and values alike.
        KeySmoothing::Reference { .. } => Some(block.attn.out_proj.forward(&cells_of(&key))),
    };
    Ending {
        cells: tower.project(&cells),
        pooled: tower.project(&pooled),
        keys,
    }
}

/// MaskCLIP, section 3.2, on a ResNet: the attention pool without its queries and keys. `None` when the tower has nothing
/// the attention could act on.
fn of_modified_resnet(
    tower: &ModifiedResNet,
    image: &Tensor,
    attention: Attention,
    key_smoothing: KeySmoothing,
) -> Option<Ending> {
    let pool = &tower.attnpool;
    let map = tower.last_map(image);
    // The pool's positions are part of its attention alone: MaskCLIP's features and keys do without.
    let bare = map.flatten(2, 3).transpose(1, 2); // [1, channels, height, width] -> [1, cells, channels]
    let cells = match attention {
        Attention::Clip => {
            let tokens = pool.tokens(&map); // [1, 1 + cells, channels]
            pool.attend(&tokens.narrow(1, 1, bare.size()[1]), &tokens)
        }
        Attention::Maskclip => pool.c_proj.forward(&pool.v_proj.forward(&bare)),
        Attention::MaskclipNoResidual => return None,
    };
    let keys = match key_smoothing {
        KeySmoothing::None => None,
        KeySmoothing::Formula | KeySmoothing::Reference { .. } => Some(pool.k_proj.forward(&bare)),
    };
    Some(Ending {
        cells,
        pooled: pool.pool(&map),
        keys,
    })
}

/// Rows of unit length, `[rows, channels]`, in 32 bits: the tower's precision ends where scores begin.
pub(super) fn unit_rows(rows: &Tensor) -> Tensor {
    let rows = rows.to_kind(Kind::Float);
    let length = rows.norm_scalaropt_dim(2, [-1], true);
    rows / length.clamp_min(SMALLEST_LENGTH)
}

/// Shorter vectors are not stretched to unit length; keeps a vector of zeros at zero.
const SMALLEST_LENGTH: f64 = 1e-12;
