//! Features for each position of an image in the embedding space of the texts. They come from any network: CLIP's
//! visual tower with a dense ending, in one pass, or a student.

use tch::{Kind, Tensor};

use super::attention::{self, Ending, Feedback, attentions, check_grid};
use super::tensors::unit_rows;
use super::{DenseError, FeatureOptions, SmoothingKeys, go_on};
use crate::clip::VisualTower;
use crate::support::to_usize;

/// A network that computes features on a grid.
pub trait FeatureSource {
    /// Returns the side of a patch in pixels. The sides of the network's inputs are whole multiples of it.
    fn patch_pixels(&self) -> i64;

    /// Computes the features of images of one size, `[batch, 3, height, width]`. Returns one result per image, equal to
    /// that of the image alone up to rounding. Ends when `stop` returns true, which is asked before the first of its
    /// blocks and, where it can be, before the others.
    ///
    /// # Errors
    /// Fails when the network cannot compute the attention of the options, or cannot do so on images of that size, and
    /// with [`DenseError::Stopped`] when `stop` returns true.
    ///
    /// # Panics
    /// Panics when the images have another shape, or when libtorch fails.
    fn features(
        &self,
        images: &Tensor,
        options: &FeatureOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<DenseFeatures>, DenseError>;
}

impl FeatureSource for VisualTower {
    fn patch_pixels(&self) -> i64 {
        VisualTower::patch_pixels(self)
    }

    fn features(
        &self,
        images: &Tensor,
        options: &FeatureOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<DenseFeatures>, DenseError> {
        DenseFeatures::extract_batch(self, images, options, stop)
    }
}

/// How a text is compared with a feature. The result times the temperature is the logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The cosine, as in CLIP's training; the lengths of the vectors do not matter.
    Cosine,
    /// The product, as in the training of students (MaskCLIP, section 3.4); a longer feature means more certainty.
    Product,
}

/// The features from which the classes of an image are scored. The tensors are usable on the network's device only.
#[derive(Debug)]
pub struct DenseFeatures {
    /// The number of cells from top to bottom.
    pub height: i64,
    /// The number of cells from left to right.
    pub width: i64,
    /// The features of the cells, `[height * width, embedding]`, row by row, not of unit length. For an attention whose
    /// second pass depends on the texts, these are the features of the first pass.
    pub cells: Tensor,
    /// The feature of the whole image, `[embedding]`, not of unit length: CLIP's own, or the mean of a student's cells.
    /// That of GEM is CLIP's with GEM's positions.
    pub pooled: Tensor,
    /// How texts are compared with these features.
    pub comparison: Comparison,
    /// The keys that were kept for key smoothing, `[height * width, key channels]`, and their kind.
    pub(super) keys: Option<(SmoothingKeys, Tensor)>,
    /// The input of the attention's second pass, if it has one.
    feedback: Option<Feedback>,
}

impl DenseFeatures {
    /// Builds the features of a network without attention and keys from its cells, `[height * width, embedding]`, row
    /// by row. Texts are compared with them by the product, and the pooled feature is their mean.
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

    /// Runs the tower on one image, `[3, height, width]`, whose sides are whole multiples of
    /// [`VisualTower::patch_pixels`]. The windows in the options are ignored: [`ImageViews`](super::ImageViews) applies
    /// them.
    ///
    /// # Errors
    /// Fails when the tower cannot compute the attention asked for, or cannot do so on an image of that size.
    ///
    /// # Panics
    /// Panics when the image has another shape, or when libtorch fails.
    pub fn extract(tower: &VisualTower, image: &Tensor, options: &FeatureOptions) -> Result<Self, DenseError> {
        let mut features = Self::extract_batch(tower, &image.unsqueeze(0), options, &|| false)?;
        Ok(features.remove(0))
    }

    /// Runs the tower once on several images of one size, `[batch, 3, height, width]`. Each result equals that of
    /// [`DenseFeatures::extract`] up to rounding.
    ///
    /// # Errors
    /// Fails as [`DenseFeatures::extract`] does, and with [`DenseError::Stopped`] when `stop` returns true.
    ///
    /// # Panics
    /// Panics as [`DenseFeatures::extract`] does.
    pub(super) fn extract_batch(
        tower: &VisualTower,
        images: &Tensor,
        options: &FeatureOptions,
        stop: &dyn Fn() -> bool,
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
            VisualTower::VisionTransformer(tower) => attention::of_vision_transformer(tower, images, options, stop),
            VisualTower::ModifiedResNet(tower) => attention::of_modified_resnet(tower, images, options, stop),
        })?;
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

    /// Copies the tensors so that they share no memory with others. A tensor of a batch would keep the whole batch
    /// alive.
    pub(super) fn owned(self) -> Self {
        tch::no_grad(|| Self {
            cells: self.cells.copy(),
            pooled: self.pooled.copy(),
            keys: self.keys.as_ref().map(|(kind, keys)| (*kind, keys.copy())),
            feedback: self.feedback.map(Feedback::owned),
            ..self
        })
    }

    /// Returns the bytes of all tensors, if each has its memory to itself.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        self.tensors().map(bytes).sum()
    }

    /// Returns all tensors except the weights that the second pass shares with the tower.
    pub(super) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let of_feedback = self.feedback.iter().flat_map(Feedback::tensors);
        [&self.cells, &self.pooled]
            .into_iter()
            .chain(self.keys.iter().map(|(_, keys)| keys))
            .chain(of_feedback)
    }

    /// Returns the cells scaled to unit length, `[height * width, embedding]`, in float32.
    pub fn unit_cells(&self) -> Tensor {
        unit_rows(&self.cells)
    }

    /// Returns the feature of the whole image scaled to unit length, `[embedding]`, in float32.
    pub fn unit_pooled(&self) -> Tensor {
        unit_rows(&self.pooled)
    }

    /// Computes the cosines of the cells with texts, `[queries, embedding]` in float32, which must have unit length for
    /// [`Comparison::Cosine`]. Returns `[queries, cells]`. Runs the attention's second pass if it has one.
    ///
    /// # Errors
    /// [`DenseError::Stopped`] when `stop` returns true.
    pub(super) fn cosines(&self, text: &Tensor, stop: &dyn Fn() -> bool) -> Result<Tensor, DenseError> {
        go_on(stop)?;
        let text = match self.comparison {
            Comparison::Cosine => text.shallow_clone(),
            Comparison::Product => unit_rows(text),
        };
        // [queries, embedding] x [embedding, cells] -> [queries, cells]
        let with = |cells: &Tensor| text.matmul(&unit_rows(cells).transpose(0, 1));
        let cosines = with(&self.cells);
        match &self.feedback {
            None => Ok(cosines),
            Some(feedback) => Ok(with(&feedback.cells(&cosines, stop)?)),
        }
    }

    /// Compares texts, `[queries, embedding]` in float32, with the cells as [`Comparison`] says. Returns
    /// `[queries, cells]`. `cosines` must be the result of [`Self::cosines`] for these texts.
    pub(super) fn compare(&self, text: &Tensor, cosines: &Tensor) -> Tensor {
        match self.comparison {
            Comparison::Cosine => cosines.shallow_clone(),
            // [queries, embedding] x [embedding, cells] -> [queries, cells]
            Comparison::Product => text.matmul(&self.cells.to_kind(Kind::Float).transpose(0, 1)),
        }
    }

    /// Compares texts with the feature of the whole image in the same way. Returns `[queries]`.
    pub(super) fn compare_pooled(&self, text: &Tensor) -> Tensor {
        match self.comparison {
            Comparison::Cosine => text.mv(&unit_rows(&self.pooled)),
            Comparison::Product => text.mv(&self.pooled.to_kind(Kind::Float)),
        }
    }
}
