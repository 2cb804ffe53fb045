//! A feature per position of an image in the space of the texts, from whatever network: CLIP's visual tower with a dense
//! ending, in one pass, or a student.

use tch::{Kind, Tensor};

use super::attention::{self, Ending, Feedback, attentions, check_grid};
use super::tensors::unit_rows;
use super::{DenseError, FeatureOptions, SmoothingKeys};
use crate::clip::VisualTower;
use crate::support::to_usize;

/// A network that gives features on a grid.
pub trait FeatureSource {
    /// Sides of what it looks at are whole multiples of this many pixels.
    fn patch_pixels(&self) -> i64;

    /// Features of images of one size, `[batch, 3, height, width]`, of each as if it were alone.
    ///
    /// # Errors
    /// When it cannot compute the options' attention, or not on images of that size.
    ///
    /// # Panics
    /// When the images have another shape, or libtorch fails.
    fn features(&self, images: &Tensor, options: &FeatureOptions) -> Result<Vec<DenseFeatures>, DenseError>;
}

impl FeatureSource for VisualTower {
    fn patch_pixels(&self) -> i64 {
        VisualTower::patch_pixels(self)
    }

    fn features(&self, images: &Tensor, options: &FeatureOptions) -> Result<Vec<DenseFeatures>, DenseError> {
        DenseFeatures::extract_batch(self, images, options)
    }
}

/// What a text has in common with a feature: the logit, but for the temperature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The cosine, as CLIP was trained: lengths do not matter.
    Cosine,
    /// The product, as students are trained (MaskCLIP, section 3.4): the feature's length says how sure it is.
    Product,
}

/// What an image's classes are scored from. Tensors, of use on the network's device alone.
#[derive(Debug)]
pub struct DenseFeatures {
    /// Cells from top to bottom.
    pub height: i64,
    /// Cells from left to right.
    pub width: i64,
    /// `[height * width, embedding]`, row-major over the grid, not of unit length. Those of the first pass where the
    /// attention has a second, led by the texts.
    pub cells: Tensor,
    /// `[embedding]`: the feature of the whole image, not of unit length: CLIP's own, or the mean of a student's cells.
    pub pooled: Tensor,
    /// How texts are compared with them.
    pub comparison: Comparison,
    /// The keys that were kept, `[height * width, key channels]`.
    pub(super) keys: Option<(SmoothingKeys, Tensor)>,
    /// What a second pass of the attention takes.
    feedback: Option<Feedback>,
}

impl DenseFeatures {
    /// Features of a network that has no attention and no keys: `cells`, `[height * width, embedding]`, row-major, compared by
    /// their product, and their mean.
    pub fn of_grid(height: i64, width: i64, cells: Tensor) -> Self {
        Self {
            height,
            width,
            pooled: cells.mean_dim([0i64].as_slice(), false, Kind::Float),
            cells,
            comparison: Comparison::Product,
            keys: None,
            feedback: None,
        }
    }

    /// Runs the tower on one image, `[3, height, width]`, sides whole multiples of [`VisualTower::patch_pixels`].
    /// The options' windows are left to [`ImageViews`](super::ImageViews).
    ///
    /// # Errors
    /// When the tower cannot compute the attention asked for, or not on an image of that size.
    ///
    /// # Panics
    /// When the image has another shape, or libtorch fails.
    pub fn extract(tower: &VisualTower, image: &Tensor, options: &FeatureOptions) -> Result<Self, DenseError> {
        let mut features = Self::extract_batch(tower, &image.unsqueeze(0), options)?;
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
        options: &FeatureOptions,
    ) -> Result<Vec<Self>, DenseError> {
        let unsupported = || DenseError::UnsupportedAttention {
            asked: options.attention,
            architecture: tower.architecture(),
            possible: attentions(tower),
        };
        let (batch, _, height, width) = images.size4().expect("images are [batch, 3, height, width]");
        let [height, width] = [height, width].map(|side| side / tower.patch_pixels());
        check_grid(options.attention, to_usize(height), to_usize(width))?;
        let ending = tch::no_grad(|| match tower {
            VisualTower::VisionTransformer(tower) => Some(attention::of_vision_transformer(tower, images, options)),
            VisualTower::ModifiedResNet(tower) => attention::of_modified_resnet(tower, images, options),
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
            comparison: Comparison::Cosine,
            keys: options.keys.zip(keys.as_ref().map(|keys| keys.get(index))),
            feedback: feedback.as_mut().and_then(Iterator::next),
        });
        Ok(features.collect())
    }

    /// The same with tensors that share no memory with others': those of a batch keep all of it alive.
    pub(super) fn owned(self) -> Self {
        tch::no_grad(|| Self {
            cells: self.cells.copy(),
            pooled: self.pooled.copy(),
            keys: self.keys.as_ref().map(|(kind, keys)| (*kind, keys.copy())),
            feedback: self.feedback.map(Feedback::owned),
            ..self
        })
    }

    /// Bytes of all tensors, when each has its memory to itself.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        self.tensors().map(bytes).sum()
    }

    /// All tensors, but for a second pass's share of the weights, which is the tower's.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let of_feedback = self.feedback.iter().flat_map(Feedback::tensors);
        [&self.cells, &self.pooled]
            .into_iter()
            .chain(self.keys.iter().map(|(_, keys)| keys))
            .chain(of_feedback)
    }

    /// `[height * width, embedding]`: the cells at unit length, in 32 bits.
    pub fn unit_cells(&self) -> Tensor {
        unit_rows(&self.cells)
    }

    /// The cells' cosines with texts in 32 bits, `[queries, embedding]`, of unit length for [`Comparison::Cosine`]:
    /// `[queries, cells]`.
    pub(super) fn cosines(&self, text: &Tensor) -> Tensor {
        let text = match self.comparison {
            Comparison::Cosine => text.shallow_clone(),
            Comparison::Product => unit_rows(text),
        };
        // [queries, embedding] x [embedding, cells] -> [queries, cells]
        let with = |cells: &Tensor| text.matmul(&unit_rows(cells).transpose(0, 1));
        let cosines = with(&self.cells);
        match &self.feedback {
            None => cosines,
            Some(feedback) => with(&feedback.cells(&cosines)),
        }
    }

    /// What texts in 32 bits, `[queries, embedding]`, have in common with the cells, `[queries, cells]`, when their cosines are
    /// these.
    pub(super) fn compare(&self, text: &Tensor, cosines: &Tensor) -> Tensor {
        match self.comparison {
            Comparison::Cosine => cosines.shallow_clone(),
            // [queries, embedding] x [embedding, cells] -> [queries, cells]
            Comparison::Product => text.matmul(&self.cells.to_kind(Kind::Float).transpose(0, 1)),
        }
    }

    /// The same for the image as a whole, `[queries]`.
    pub(super) fn compare_pooled(&self, text: &Tensor) -> Tensor {
        match self.comparison {
            Comparison::Cosine => text.mv(&unit_rows(&self.pooled)),
            Comparison::Product => text.mv(&self.pooled.to_kind(Kind::Float)),
        }
    }
}
