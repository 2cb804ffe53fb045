//! Implements [`Labeller`] for any network with a text tower. Converts plain data to tensors and back.

use std::sync::{Arc, Mutex, MutexGuard};

use tch::{Device, Kind, Tensor};

use super::text_encoder::TextEncoder;
use crate::dense::{
    self, Attention, DenseError, FeatureOptions, FeatureSource, ImageViews, RefinementOptions, ScoreOptions,
};
use crate::image::{ModelInput, NormalisedImage};
use crate::labeller::{ImageFeatures, Labeller, LabellerError, ModelInfo};
use crate::scores::{DenseScores, ScoreMap};
use crate::support::{lock, to_i64, to_usize};
use crate::vocabulary::{Classifier, TemplateSet, TextEmbedding};

/// A network that computes features on a grid, with the text tower whose embeddings the features are compared with.
/// Lives on one thread.
pub struct NetworkLabeller<N> {
    pub(super) network: N,
    /// Device and element type of the images that the network takes.
    pub(super) input: (Device, Kind),
    pub(super) texts: TextEncoder,
    /// The embedding of the text "background", if a student learned one.
    pub(super) learned_background: Option<Vec<f32>>,
    pub(super) info: ModelInfo,
}

impl<N> NetworkLabeller<N> {
    /// Returns the text tower and the model's description. Frees the network's memory.
    pub(super) fn into_text_encoder(self) -> (TextEncoder, ModelInfo) {
        (self.texts, self.info)
    }

    /// Returns an input's images, one per size, `[3, height, width]` each.
    fn tensors(&self, input: &ModelInput) -> Vec<Tensor> {
        let (device, kind) = self.input;
        let tensor = |image: &NormalisedImage| pixels(image, device).to_kind(kind);
        input.sizes.iter().map(tensor).collect()
    }
}

impl<N: FeatureSource> NetworkLabeller<N> {
    /// Returns the unit features of one image at its first size, seen as a whole. If the attention has two passes,
    /// these are the features of the first.
    ///
    /// # Errors
    /// [`LabellerError::Model`] when the network cannot compute the attention, or not on an image of this size.
    pub fn unit_grid(&mut self, input: &ModelInput, attention: Attention) -> Result<DenseFeatureGrid, LabellerError> {
        let options = FeatureOptions {
            attention,
            ..FeatureOptions::default()
        };
        let failed = |reason: &dyn std::fmt::Display| LabellerError::Model(reason.to_string());
        let image = self.tensors(input).remove(0).unsqueeze(0); // [3, height, width] -> [1, 3, height, width]
        let features = self
            .network
            .features(&image, &options, &|| false)
            .map_err(|error| failed(&error))?
            .remove(0);
        let cells = features.unit_cells().to_device(Device::Cpu).contiguous(); // [cells, embedding]
        Ok(DenseFeatureGrid {
            rows: to_usize(features.height),
            columns: to_usize(features.width),
            dimension: to_usize(cells.size()[1]),
            values: Vec::try_from(cells.flatten(0, -1)).map_err(|error: tch::TchError| failed(&error))?,
        })
    }
}

/// The dense features of one image, as plain data.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseFeatureGrid {
    /// Cells from top to bottom.
    pub rows: usize,
    /// Cells from left to right.
    pub columns: usize,
    /// Length of a feature: [`ModelInfo::embedding_dimension`].
    pub dimension: usize,
    /// `[rows, columns, dimension]`, row-major, each feature of unit length.
    pub values: Vec<f32>,
}

impl<N: FeatureSource> Labeller for NetworkLabeller<N> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn embed_texts(&mut self, texts: &[String], templates: TemplateSet) -> Result<Vec<TextEmbedding>, LabellerError> {
        let mut embeddings = self.texts.embed(texts, templates)?;
        if let Some(background) = &self.learned_background {
            for (text, embedding) in texts.iter().zip(&mut embeddings) {
                if self.info.has_own_embedding(text) {
                    *embedding = TextEmbedding {
                        vector: background.as_slice().into(),
                        truncated: false,
                    };
                }
            }
        }
        Ok(embeddings)
    }

    fn features(
        &mut self,
        inputs: &[&ModelInput],
        options: &FeatureOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Arc<dyn ImageFeatures>>, LabellerError> {
        let images: Vec<Vec<Tensor>> = inputs.iter().map(|input| self.tensors(input)).collect();
        let images: Vec<_> = images.iter().map(Vec::as_slice).collect();
        let views = ImageViews::extract_batch(&self.network, &images, options, stop);
        let views = views.map_err(failed)?;
        let features = views.into_iter().map(|views| {
            Arc::new(TensorFeatures {
                bytes: views.bytes(),
                views: Mutex::new(views),
                device: self.input.0,
            }) as Arc<dyn ImageFeatures>
        });
        Ok(features.collect())
    }

    fn refine(
        &mut self,
        scores: ScoreMap,
        input: &ModelInput,
        classifier: &Classifier,
        options: &RefinementOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<ScoreMap, LabellerError> {
        if *options == RefinementOptions::None {
            return Ok(scores);
        }
        let (device, _) = self.input;
        let largest = input.sizes.iter().max_by_key(|image| image.values.len());
        let largest = pixels(largest.expect("an image has at least one size"), device);
        let size = [input.image_height, input.image_width];
        let text = texts(classifier, device);
        dense::refine_unless(scores, &largest, &text, size, options, stop).map_err(failed)
    }
}

/// An image's features as tensors on a device.
struct TensorFeatures {
    bytes: usize,
    /// A mutex, because libtorch's tensors are not `Sync`.
    views: Mutex<ImageViews>,
    device: Device,
}

impl TensorFeatures {
    fn views(&self) -> MutexGuard<'_, ImageViews> {
        lock(&self.views)
    }
}

impl ImageFeatures for TensorFeatures {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn score(
        &self,
        classifier: &Classifier,
        options: &ScoreOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<DenseScores, LabellerError> {
        let text = texts(classifier, self.device);
        let scores = self.views().score_unless(&text, &classifier.owners, options, stop);
        scores.map_err(failed)
    }

    fn similar_to(&self, place: (f64, f64)) -> Result<ScoreMap, LabellerError> {
        Ok(self.views().similar_to(place))
    }

    fn pooled(&self) -> Result<Vec<f32>, LabellerError> {
        let views = self.views();
        let whole = views
            .first_whole()
            .ok_or_else(|| LabellerError::Model("an image seen through windows has no embedding".to_owned()))?;
        let embedding = tch::no_grad(|| whole.unit_pooled().to_device(Device::Cpu).contiguous()); // [embedding]
        Vec::try_from(embedding).map_err(|error: tch::TchError| LabellerError::Model(error.to_string()))
    }
}

fn failed(error: DenseError) -> LabellerError {
    match error {
        DenseError::Stopped => LabellerError::Stopped,
        error => LabellerError::Model(error.to_string()),
    }
}

/// Returns an image's pixels as a tensor `[3, height, width]` of 32-bit floats.
fn pixels(image: &NormalisedImage, device: Device) -> Tensor {
    let pixels = Tensor::from_slice(&image.values).view([3, to_i64(image.height), to_i64(image.width)]);
    pixels.to_device(device)
}

/// Returns the text embeddings as a tensor `[queries, embedding]` of 32-bit floats.
fn texts(classifier: &Classifier, device: Device) -> Tensor {
    let text =
        Tensor::from_slice(&classifier.embeddings).view([to_i64(classifier.queries), to_i64(classifier.dimension)]);
    text.to_device(device)
}
