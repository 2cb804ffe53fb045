//! One pass of the visual tower with a dense ending: a feature per position in the space of the texts.

use tch::{Kind, Tensor};

use super::attention::{self, Ending, Feedback, attentions, check_grid};
use super::scores::length;
use super::{Attention, DenseError, KeySmoothing};
use crate::clip::VisualTower;

/// What an image's classes are scored from. Tensors, of use on the tower's device alone.
#[derive(Debug)]
pub struct DenseFeatures {
    /// Cells from top to bottom.
    pub height: i64,
    /// Cells from left to right.
    pub width: i64,
    /// `[height * width, embedding]`, row-major over the grid, not of unit length. Those of the first pass where the
    /// attention has a second, led by the texts.
    pub cells: Tensor,
    /// `[embedding]`: CLIP's own feature of the whole image, not of unit length.
    pub pooled: Tensor,
    /// `[height * width, key channels]`, when key smoothing was announced.
    pub(super) keys: Option<Tensor>,
    /// What a second pass of the attention takes.
    feedback: Option<Feedback>,
}

impl DenseFeatures {
    /// Runs the tower on one image, `[3, height, width]`, sides whole multiples of [`VisualTower::patch_pixels`].
    /// `key_smoothing` decides which keys are kept for [`DenseFeatures::score`].
    ///
    /// # Errors
    /// When the tower cannot compute the attention asked for, or not on an image of that size.
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
    pub(super) fn extract_batch(
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
        let [height, width] = [height, width].map(|side| side / tower.patch_pixels());
        check_grid(attention, length(height), length(width))?;
        let ending = tch::no_grad(|| match tower {
            VisualTower::VisionTransformer(tower) => Some(attention::of_vision_transformer(
                tower,
                images,
                attention,
                key_smoothing,
            )),
            VisualTower::ModifiedResNet(tower) => {
                attention::of_modified_resnet(tower, images, attention, key_smoothing)
            }
        });
        let Ending {
            cells,
            pooled,
            keys,
            feedback,
        } = ending.ok_or_else(unsupported)?;
        let mut feedback = feedback.map(Vec::into_iter);
        let features = (0..batch).map(|index| Self {
            height,
            width,
            cells: cells.get(index),
            pooled: pooled.get(index),
            keys: keys.as_ref().map(|keys| keys.get(index)),
            feedback: feedback.as_mut().and_then(Iterator::next),
        });
        Ok(features.collect())
    }

    /// `[height * width, embedding]`: the cells at unit length, in 32 bits.
    pub fn unit_cells(&self) -> Tensor {
        unit_rows(&self.cells)
    }

    /// The cells' cosines with texts of unit length in 32 bits, `[queries, embedding]`: `[queries, cells]`.
    pub(super) fn cosines(&self, text: &Tensor) -> Tensor {
        // [queries, embedding] x [embedding, cells] -> [queries, cells]
        let with = |cells: &Tensor| text.matmul(&unit_rows(cells).transpose(0, 1));
        let cosines = with(&self.cells);
        match &self.feedback {
            None => cosines,
            Some(feedback) => with(&feedback.cells(&cosines)),
        }
    }
}

/// Rows of unit length, `[rows, channels]`, in 32 bits: the tower's precision ends where scores begin.
pub(super) fn unit_rows(rows: &Tensor) -> Tensor {
    let rows = rows.to_kind(Kind::Float);
    let length = rows.norm_scalaropt_dim(2, [-1], true);
    rows / length.clamp_min(SMALLEST_LENGTH)
}

/// Shorter vectors are not stretched to unit length; keeps a vector of zeros at zero.
const SMALLEST_LENGTH: f64 = 1e-12;
