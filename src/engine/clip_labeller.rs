//! The [`Labeller`] that CLIP is: towers on one device, dense scores on request.
//!
//! Owns finding a model by its name or path, and the step from plain data to tensors. It is the only place of the engine where
//! tensors are.
#![allow(clippy::disallowed_types)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};

use super::labeller::{DenseFeatureGrid, ImageFeatures, Labeller, LabellerError, ModelInfo};
use super::place::Place;
use crate::clip::zoo::{EmbeddedModel, PublishedModel};
use crate::clip::{self, CheckpointError, Clip, TextTower, Tokenizer, Tokens, VisualTower, Weights, checkpoint};
use crate::dense::{self, DenseOptions, DenseScores, FeatureSource, ImageViews, Refinement};
use crate::image::{ModelInput, Normalisation, NormalisedImage};
use crate::label_map::ScoreMap;
use crate::vocabulary::{Classifier, TemplateSet, TextEmbedding};

/// Short side of the input in pixels for models that come without a recommendation.
const SHORT_SIDE: u32 = 448;

/// A model that has been found, to be loaded by each worker.
#[derive(Debug, Clone)]
pub struct ClipModel {
    source: Source,
    place: Place,
}

/// Where a model's weights are.
#[derive(Debug, Clone)]
enum Source {
    Embedded(EmbeddedModel),
    /// A checkpoint's file, or its folder.
    Path(PathBuf),
}

/// Why a model cannot be used as the settings ask.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Neither a known name nor a path.
    #[error(
        "{0:?} is no file, no folder, and no model known by name (demo, demo-vit, or one that `maskclip fetch --list` lists)"
    )]
    NotFound(String),
    /// A model of the zoo that is not here.
    #[error(
        "the model {name} is not in {folder}: `maskclip fetch {name}` gets it ({licence})",
        folder = folder.display()
    )]
    NotFetched {
        /// The zoo's name for it.
        name: &'static str,
        /// Where it would be.
        folder: PathBuf,
        /// What its publisher allows.
        licence: &'static str,
    },
    /// A folder without weights.
    #[error(transparent)]
    NoWeights(#[from] CheckpointError),
    /// A CUDA device was asked for that is not there.
    #[error(
        "the device is cuda:{index}, but libtorch sees {count} CUDA devices here: use --device cpu, or a build with \
         LIBTORCH_FLAVOUR=cuda on a machine with a GPU"
    )]
    NoCuda {
        /// The device's index.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The precision does not exist on the device.
    #[error("the precision is float16, which is for CUDA: on a CPU use float32 or bfloat16")]
    Float16OnCpu,
}

impl ClipModel {
    /// Finds a model by its name, among the fetched ones in `folder` too, or its path, without loading anything.
    ///
    /// # Errors
    /// When it is not there.
    pub fn find(name: &str, folder: PathBuf, place: Place) -> Result<Self, ModelError> {
        Ok(Self {
            source: Source::find(name, folder)?,
            place,
        })
    }

    /// The name it has by itself.
    pub fn name(&self) -> String {
        self.source.model_name()
    }

    /// Loads the model, anew on every call.
    ///
    /// # Errors
    /// [`LabellerError::Load`].
    pub fn load(&self) -> Result<ClipLabeller, LabellerError> {
        self.place.prepare();
        let failed = |reason: &dyn std::fmt::Display| LabellerError::Load(format!("{}: {reason}", self.source));
        // The weights first: a file that holds none is not asked for the configuration beside it.
        let (weights, config) = match &self.source {
            Source::Embedded(model) => (
                Weights::from_bytes(model.weights, self.place.device, Kind::Float).map_err(|error| failed(&error))?,
                clip::ModelConfig::parse(model.config).map_err(|error| failed(&error))?,
            ),
            Source::Path(path) => {
                let weights = Weights::load(path, self.place.device, Kind::Float).map_err(|error| failed(&error))?;
                let config = clip::ModelConfig::find(weights.origin(), path).map_err(|error| failed(&error))?;
                (weights, config)
            }
        };
        let precision = self
            .place
            .precision
            .of(&weights, &config)
            .map_err(|error| failed(&error))?;
        let clip = Clip::load(weights.in_kind(precision.kind()), &config).map_err(|error| failed(&error))?;
        let embedded = match &self.source {
            Source::Embedded(model) => Some(model),
            Source::Path(_) => None,
        };
        let info = ModelInfo {
            name: self.source.model_name(),
            architecture: clip.visual.architecture(),
            weights_sha256: clip.weights_sha256,
            precision,
            device: self.place.device_name(),
            embedding_dimension: clip.text.embedding_dimension(),
            patch_pixels: u32::try_from(clip.visual.patch_pixels()).expect("a patch is some pixels wide"),
            short_side: embedded.map_or(SHORT_SIDE, |model| model.short_side),
            normalisation: Normalisation {
                mean: config.mean.unwrap_or(Normalisation::CLIP.mean),
                std: config.std.unwrap_or(Normalisation::CLIP.std),
            },
            attentions: dense::attentions(&clip.visual).to_vec(),
            training_words: embedded.map(|model| model.training_words.lines().map(str::to_owned).collect()),
            embedded: embedded.is_some(),
            student: None,
        };
        Ok(ClipLabeller {
            visual: clip.visual,
            texts: TextEncoder {
                tower: clip.text,
                tokenizer: clip.tokenizer,
            },
            info,
        })
    }
}

impl Source {
    fn find(name: &str, folder: PathBuf) -> Result<Self, ModelError> {
        if let Some(model) = EmbeddedModel::named(name) {
            return Ok(Self::Embedded(model));
        }
        if let Some(model) = PublishedModel::named(name) {
            return match model.find_in(&folder) {
                Some(path) => Ok(Self::Path(path)),
                None => Err(ModelError::NotFetched {
                    name: model.name,
                    folder,
                    licence: model.licence,
                }),
            };
        }
        let path = Path::new(name);
        if !path.exists() {
            return Err(ModelError::NotFound(name.to_owned()));
        }
        checkpoint::weights_file(path)?;
        Ok(Self::Path(path.to_owned()))
    }

    /// The name requests use: a file's is its name without the ending, unless that is what hubs call all weights; then, and
    /// for a folder, it is the folder's.
    fn model_name(&self) -> String {
        let path = match self {
            Self::Embedded(model) => return model.name.to_owned(),
            // "." and "folder/.." have no name of their own.
            Self::Path(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
        };
        let is_generic = |name: &OsStr| checkpoint::WEIGHTS_FILES.iter().any(|generic| name == *generic);
        let folder = path.parent().and_then(Path::file_name);
        let name = match (path.file_name(), folder) {
            (Some(file), Some(folder)) if is_generic(file) => folder,
            (Some(folder), _) if path.is_dir() => folder,
            _ => path.file_stem().unwrap_or(path.as_os_str()),
        };
        name.to_string_lossy().into_owned()
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded(model) => write!(formatter, "the embedded model {:?}", model.name),
            Self::Path(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// CLIP on one thread.
pub struct ClipLabeller {
    visual: VisualTower,
    texts: TextEncoder,
    info: ModelInfo,
}

impl ClipLabeller {
    /// The text tower alone, with what the model is; the visual tower's memory is free again.
    pub fn into_text_encoder(self) -> (TextEncoder, ModelInfo) {
        (self.texts, self.info)
    }
}

impl Labeller for ClipLabeller {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn embed_texts(&mut self, texts: &[String], templates: TemplateSet) -> Result<Vec<TextEmbedding>, LabellerError> {
        self.texts.embed(texts, templates)
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
        input_features(
            &self.visual,
            (self.visual.device(), self.visual.kind()),
            inputs,
            options,
        )
    }

    fn refine(
        &mut self,
        scores: ScoreMap,
        input: &ModelInput,
        classifier: &Classifier,
        options: &DenseOptions,
    ) -> Result<ScoreMap, LabellerError> {
        Ok(refined_scores(scores, self.visual.device(), input, classifier, options))
    }
}

/// CLIP's text tower with its tokenizer.
#[derive(Debug)]
pub struct TextEncoder {
    tower: TextTower,
    tokenizer: Tokenizer,
}

impl TextEncoder {
    /// As [`Labeller::embed_texts`].
    ///
    /// # Errors
    /// When libtorch gives no vectors back.
    pub fn embed(&self, texts: &[String], templates: TemplateSet) -> Result<Vec<TextEmbedding>, LabellerError> {
        let prompts: Vec<_> = texts
            .iter()
            .flat_map(|text| templates.prompts(text))
            .map(|prompt| self.tokenizer.encode(&prompt))
            .collect();
        let ensemble = templates.templates().len();
        // [texts, embedding]
        let vectors = self.tower.encode_ensembles(&prompts, ensemble);
        let vectors = Vec::<Vec<f32>>::try_from(vectors.to_device(Device::Cpu))
            .map_err(|error| LabellerError::Model(error.to_string()))?;
        let embeddings = vectors.into_iter().zip(prompts.chunks(ensemble));
        let embedding = |(vector, prompts): (Vec<f32>, &[Tokens])| TextEmbedding {
            vector: vector.into(),
            truncated: prompts.iter().any(|prompt| prompt.truncated),
        };
        Ok(embeddings.map(embedding).collect())
    }
}

/// [`Labeller::features`] by a network that takes images of this kind on this device.
///
/// # Errors
/// When the network cannot compute the options' attention, or not on images of that size.
pub fn input_features(
    network: &dyn FeatureSource,
    (device, kind): (Device, Kind),
    inputs: &[&ModelInput],
    options: &DenseOptions,
) -> Result<Vec<Arc<dyn ImageFeatures>>, LabellerError> {
    let pixels = |image: &NormalisedImage| pixels(image, device).to_kind(kind);
    let images: Vec<Vec<_>> = inputs
        .iter()
        .map(|input| input.sizes.iter().map(pixels).collect())
        .collect();
    let images: Vec<_> = images.iter().map(Vec::as_slice).collect();
    let views = ImageViews::extract_batch(network, &images, options);
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

/// [`Labeller::refine`] by a network on this device.
pub fn refined_scores(
    scores: ScoreMap,
    device: Device,
    input: &ModelInput,
    classifier: &Classifier,
    options: &DenseOptions,
) -> ScoreMap {
    if options.refinement == Refinement::None {
        return scores;
    }
    let largest = input.sizes.iter().max_by_key(|image| image.values.len());
    let largest = pixels(largest.expect("an image has at least one size"), device);
    let (height, width) = (input.image_height, input.image_width);
    dense::refine(scores, &largest, &texts(classifier, device), height, width, options)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What the settings find when they ask for this model.
    fn source(name: &str) -> Result<Source, ModelError> {
        Source::find(name, PathBuf::new())
    }

    #[test]
    fn a_model_is_named_after_its_file_or_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("ViT-B-16.v2");
        std::fs::create_dir(&folder).unwrap();
        let find = |path: &Path| source(path.to_str().unwrap());
        assert!(matches!(find(&folder), Err(ModelError::NoWeights(_))));
        assert!(matches!(find(&folder.join("RN50.pt")), Err(ModelError::NotFound(_))));

        for name in ["model.safetensors", "RN50.pt"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let named = |path: &Path| find(path).unwrap().model_name();
        assert_eq!(named(&folder.join("RN50.pt")), "RN50");
        assert_eq!(named(&folder.join("model.safetensors")), "ViT-B-16.v2");
        assert_eq!(named(&folder), "ViT-B-16.v2");
        for name in ["demo", "demo-vit"] {
            assert_eq!(source(name).unwrap().model_name(), name);
        }
    }
}
