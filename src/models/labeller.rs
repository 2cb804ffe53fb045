//! The [`Labeller`] that any network with a text tower is: the step from plain data to tensors and back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};

use super::text_encoder::TextEncoder;
use crate::dense::{self, DenseOptions, FeatureSource, ImageViews, Refinement};
use crate::image::{ModelInput, NormalisedImage};
use crate::labeller::{DenseFeatureGrid, ImageFeatures, Labeller, LabellerError, ModelInfo};
use crate::scores::{DenseScores, ScoreMap};
use crate::vocabulary::{Classifier, TemplateSet, TextEmbedding};

/// A network that gives features on a grid, with the text tower whose embeddings the features are compared with. It lives on one
/// thread.
pub struct NetworkLabeller<N> {
    pub(super) network: N,
    /// Device and element type of the network's images.
    pub(super) input: (Device, Kind),
    pub(super) texts: TextEncoder,
    /// The embedding of the text [`BACKGROUND_TEXT`](crate::labeller::BACKGROUND_TEXT), where a student learned one.
    pub(super) learned_background: Option<Vec<f32>>,
    pub(super) info: ModelInfo,
}

impl<N> NetworkLabeller<N> {
    /// The text tower alone, with what the model is; the network's memory is free again.
    pub(super) fn into_text_encoder(self) -> (TextEncoder, ModelInfo) {
        (self.texts, self.info)
    }
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
        input: &ModelInput,
        options: &DenseOptions,
    ) -> Result<Arc<dyn ImageFeatures>, LabellerError> {
        Ok(self.features_of_batch(&[input], options)?.remove(0))
    }

    fn features_of_batch(
        &mut self,
        inputs: &[&ModelInput],
        options: &DenseOptions,
    ) -> Result<Vec<Arc<dyn ImageFeatures>>, LabellerError> {
        let (device, kind) = self.input;
        let pixels = |image: &NormalisedImage| pixels(image, device).to_kind(kind);
        let images: Vec<Vec<_>> = inputs
            .iter()
            .map(|input| input.sizes.iter().map(pixels).collect())
            .collect();
        let images: Vec<_> = images.iter().map(Vec::as_slice).collect();
        let views = ImageViews::extract_batch(&self.network, &images, options);
        let views = views.map_err(|error| LabellerError::Model(error.to_string()))?;
        let features = views.into_iter().map(|views| {
            Arc::new(TensorFeatures {
                bytes: views.bytes(),
                views: Mutex::new(views),
                device,
            }) as Arc<dyn ImageFeatures>
        });
        Ok(features.collect())
    }

    fn refine(
        &mut self,
        scores: ScoreMap,
        input: &ModelInput,
        classifier: &Classifier,
        options: &DenseOptions,
    ) -> Result<ScoreMap, LabellerError> {
        if options.refinement == Refinement::None {
            return Ok(scores);
        }
        let (device, _) = self.input;
        let largest = input.sizes.iter().max_by_key(|image| image.values.len());
        let largest = pixels(largest.expect("an image has at least one size"), device);
        let (height, width) = (input.image_height, input.image_width);
        let text = texts(classifier, device);
        Ok(dense::refine(scores, &largest, &text, height, width, options))
    }
}

/// Features on a device.
struct TensorFeatures {
    bytes: usize,
    /// libtorch's tensors are not `Sync`.
    views: Mutex<ImageViews>,
    device: Device,
}

impl TensorFeatures {
    fn views(&self) -> MutexGuard<'_, ImageViews> {
        // They are only ever read, so a panic while they were leaves them whole.
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ImageFeatures for TensorFeatures {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn score(&self, classifier: &Classifier, options: &DenseOptions) -> Result<DenseScores, LabellerError> {
        let text = texts(classifier, self.device);
        Ok(self.views().score(&text, &classifier.owners, options))
    }

    fn unit_grid(&self) -> Result<DenseFeatureGrid, LabellerError> {
        let failed = |reason: &dyn std::fmt::Display| LabellerError::Model(reason.to_string());
        let views = self.views();
        let features = views.first_whole();
        let features = features.ok_or_else(|| failed(&"windows have no one grid of features"))?;
        let cells = features.unit_cells().to_device(Device::Cpu).contiguous(); // [cells, embedding]
        let length = |count: i64| usize::try_from(count).expect("a tensor's dimension is not negative");
        Ok(DenseFeatureGrid {
            rows: length(features.height),
            columns: length(features.width),
            dimension: length(cells.size()[1]),
            values: Vec::try_from(cells.flatten(0, -1)).map_err(|error: tch::TchError| failed(&error))?,
        })
    }
}

/// `[3, height, width]`, in 32 bits.
fn pixels(image: &NormalisedImage, device: Device) -> Tensor {
    let pixels = Tensor::from_slice(&image.values).view([3, size(image.height), size(image.width)]);
    pixels.to_device(device)
}

/// `[queries, embedding]`, in 32 bits.
fn texts(classifier: &Classifier, device: Device) -> Tensor {
    let text = Tensor::from_slice(&classifier.embeddings).view([size(classifier.queries), size(classifier.dimension)]);
    text.to_device(device)
}

fn size(length: usize) -> i64 {
    i64::try_from(length).expect("a length in memory fits 63 bits")
}
