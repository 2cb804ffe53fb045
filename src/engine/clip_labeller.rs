//! The [`Labeller`] that CLIP is: towers on one device, dense scores on request.
//!
//! Owns finding a model by its name or path, choosing device and precision, and the step from plain
//! data to tensors. It is the only place of the engine that knows libtorch.
#![allow(clippy::disallowed_types)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Cuda, Device, Kind, Tensor};

use super::labeller::{DenseFeatureGrid, Labeller, LabellerError, ModelInfo, Precision};
use super::worker::LabellerFactory;
use crate::clip::zoo::{EmbeddedModel, PublishedModel};
use crate::clip::{self, CheckpointError, Clip, Tokens, Weights, checkpoint};
use crate::config::{DeviceChoice, ModelConfig, PrecisionChoice};
use crate::dense::{self, Attention, DenseFeatures, DenseOptions, DenseScores, KeySmoothing};
use crate::image::{ModelInput, Normalisation, NormalisedImage};
use crate::vocabulary::{Classifier, TemplateSet, TextEmbedding};

/// Short side of the input in pixels for models that come without a recommendation.
const SHORT_SIDE: u32 = 448;

/// A model that has been found, to be loaded by each worker.
#[derive(Debug, Clone)]
pub struct ClipModel {
    source: Source,
    device: Device,
    precision: Precision,
    /// libtorch's threads.
    threads: usize,
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
        "model.name is {0:?}: no file, no folder, and no model known by name (demo, demo-vit, or one that `maskclip fetch --list` lists)"
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
    #[error("model.name: {0}")]
    NoWeights(#[from] CheckpointError),
    /// A CUDA device was asked for that is not there.
    #[error(
        "model.device is cuda:{index}, but libtorch sees {count} CUDA devices here: use --device cpu, or a build with \
         LIBTORCH_FLAVOUR=cuda on a machine with a GPU"
    )]
    NoCuda {
        /// The device's index.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The precision does not exist on the device.
    #[error("model.precision is float16, which is for CUDA: on a CPU use float32 or bfloat16")]
    Float16OnCpu,
}

impl ClipModel {
    /// Finds the model, the device and the precision that the settings ask for, without loading anything.
    ///
    /// # Errors
    /// When the model or the device is not there, or the device cannot compute in the precision.
    pub fn find(config: &ModelConfig) -> Result<Self, ModelError> {
        let device = find_device(config.device, usize::try_from(Cuda::device_count()).unwrap_or(0))?;
        Ok(Self {
            source: Source::find(config)?,
            device,
            precision: find_precision(config.precision, device)?,
            threads: match config.threads {
                // Knows of the cgroup's quota.
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            },
        })
    }

    /// Loads the model anew on every call.
    pub fn into_factory(self) -> LabellerFactory {
        Arc::new(move || Ok(Box::new(self.load()?)))
    }

    fn load(&self) -> Result<ClipLabeller, LabellerError> {
        tch::set_num_threads(i32::try_from(self.threads).unwrap_or(i32::MAX));
        let kind = kind_of(self.precision);
        let failed = |reason: &dyn std::fmt::Display| LabellerError::Load(format!("{}: {reason}", self.source));
        // The weights first: a file that holds none is not asked for the configuration beside it.
        let (weights, config) = match &self.source {
            Source::Embedded(model) => (
                Weights::from_bytes(model.weights, self.device, kind).map_err(|error| failed(&error))?,
                clip::ModelConfig::parse(model.config).map_err(|error| failed(&error))?,
            ),
            Source::Path(path) => {
                let weights = Weights::load(path, self.device, kind).map_err(|error| failed(&error))?;
                let config = clip::ModelConfig::find(weights.origin(), path).map_err(|error| failed(&error))?;
                (weights, config)
            }
        };
        let clip = Clip::load(weights, &config).map_err(|error| failed(&error))?;
        let info = ModelInfo {
            name: self.source.model_name(),
            architecture: clip.visual.architecture(),
            weights_sha256: clip.weights_sha256.clone(),
            precision: self.precision,
            device: match self.device {
                Device::Cuda(index) => format!("cuda:{index}"),
                _ => "cpu".to_owned(),
            },
            embedding_dimension: clip.text.embedding_dimension(),
            patch_pixels: u32::try_from(clip.visual.patch_pixels()).expect("a patch is some pixels wide"),
            short_side: match &self.source {
                Source::Embedded(model) => model.short_side,
                Source::Path(_) => SHORT_SIDE,
            },
            normalisation: Normalisation {
                mean: config.mean.unwrap_or(Normalisation::CLIP.mean),
                std: config.std.unwrap_or(Normalisation::CLIP.std),
            },
            attentions: dense::attentions(&clip.visual).to_vec(),
            training_words: match &self.source {
                Source::Embedded(model) => Some(model.training_words.lines().map(str::to_owned).collect()),
                Source::Path(_) => None,
            },
        };
        Ok(ClipLabeller { clip, info })
    }
}

impl Source {
    fn find(config: &ModelConfig) -> Result<Self, ModelError> {
        let name = &config.name;
        if let Some(model) = EmbeddedModel::named(name) {
            return Ok(Self::Embedded(model));
        }
        if let Some(model) = PublishedModel::named(name) {
            let folder = config.folder();
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

fn find_device(choice: DeviceChoice, cuda_devices: usize) -> Result<Device, ModelError> {
    match choice {
        DeviceChoice::Auto if cuda_devices > 0 => Ok(Device::Cuda(0)),
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) if index < cuda_devices => Ok(Device::Cuda(index)),
        DeviceChoice::Cuda(index) => Err(ModelError::NoCuda {
            index,
            count: cuda_devices,
        }),
    }
}

fn find_precision(choice: PrecisionChoice, device: Device) -> Result<Precision, ModelError> {
    match (choice, device) {
        (PrecisionChoice::Auto, Device::Cuda(_)) => Ok(Precision::Float16),
        (PrecisionChoice::Auto, _) => Ok(Precision::Float32),
        (PrecisionChoice::Fixed(Precision::Float16), Device::Cpu) => Err(ModelError::Float16OnCpu),
        (PrecisionChoice::Fixed(precision), _) => Ok(precision),
    }
}

fn kind_of(precision: Precision) -> Kind {
    match precision {
        Precision::Float32 => Kind::Float,
        Precision::Bfloat16 => Kind::BFloat16,
        Precision::Float16 => Kind::Half,
    }
}

/// CLIP on a worker thread.
struct ClipLabeller {
    clip: Clip,
    info: ModelInfo,
}

impl Labeller for ClipLabeller {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn embed_texts(&mut self, texts: &[String], templates: TemplateSet) -> Result<Vec<TextEmbedding>, LabellerError> {
        let prompts: Vec<_> = texts
            .iter()
            .flat_map(|text| templates.prompts(text))
            .map(|prompt| self.clip.tokenizer.encode(&prompt))
            .collect();
        let ensemble = templates.templates().len();
        // [texts, embedding]
        let vectors = self.clip.text.encode_ensembles(&prompts, ensemble);
        let vectors = Vec::<Vec<f32>>::try_from(vectors.to_device(Device::Cpu))
            .map_err(|error| LabellerError::Model(error.to_string()))?;
        let embeddings = vectors.into_iter().zip(prompts.chunks(ensemble));
        let embedding = |(vector, prompts): (Vec<f32>, &[Tokens])| TextEmbedding {
            vector: vector.into(),
            truncated: prompts.iter().any(|prompt| prompt.truncated),
        };
        Ok(embeddings.map(embedding).collect())
    }

    fn score(
        &mut self,
        input: &ModelInput,
        classifier: &Classifier,
        options: &DenseOptions,
    ) -> Result<DenseScores, LabellerError> {
        let (device, kind) = self.clip.input();
        // [3, height, width] each, and [queries, embedding]
        let pixels = |image: &NormalisedImage| {
            let pixels = Tensor::from_slice(&image.values).view([3, size(image.height), size(image.width)]);
            pixels.to_device(device)
        };
        let pixels: Vec<_> = input.sizes.iter().map(pixels).collect();
        let text =
            Tensor::from_slice(&classifier.embeddings).view([size(classifier.queries), size(classifier.dimension)]);
        let text = text.to_device(device);
        let sizes: Vec<_> = pixels.iter().map(|image| image.to_kind(kind)).collect();
        let mut scores = dense::score(&self.clip.visual, &sizes, &text, &classifier.owners, options)
            .map_err(|error| LabellerError::Model(error.to_string()))?;
        let largest = pixels.iter().max_by_key(|image| image.numel());
        let largest = largest.expect("an image has at least one size");
        let (height, width) = (input.image_height, input.image_width);
        scores.map = dense::refine(scores.map, largest, &text, height, width, options);
        Ok(scores)
    }

    fn features(&mut self, input: &ModelInput, attention: Attention) -> Result<DenseFeatureGrid, LabellerError> {
        let (device, kind) = self.clip.input();
        let image = &input.sizes[0];
        let pixels = Tensor::from_slice(&image.values).view([3, size(image.height), size(image.width)]);
        let pixels = pixels.to_device(device).to_kind(kind);
        let features = DenseFeatures::extract(&self.clip.visual, &pixels, attention, KeySmoothing::None)
            .map_err(|error| LabellerError::Model(error.to_string()))?;
        let cells = features.unit_cells().to_device(Device::Cpu).contiguous().flatten(0, -1);
        Ok(DenseFeatureGrid {
            rows: usize::try_from(features.height).expect("a grid has rows"),
            columns: usize::try_from(features.width).expect("a grid has columns"),
            dimension: self.info.embedding_dimension,
            values: Vec::try_from(cells).map_err(|error: tch::TchError| LabellerError::Model(error.to_string()))?,
        })
    }
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
        let settings = crate::config::Config::for_testing().model;
        Source::find(&ModelConfig {
            name: name.to_owned(),
            ..settings
        })
    }

    #[test]
    fn auto_takes_cuda_where_there_is_one() {
        assert_eq!(find_device(DeviceChoice::Auto, 0).unwrap(), Device::Cpu);
        assert_eq!(find_device(DeviceChoice::Auto, 2).unwrap(), Device::Cuda(0));
        assert_eq!(find_device(DeviceChoice::Cpu, 2).unwrap(), Device::Cpu);
        assert_eq!(find_device(DeviceChoice::Cuda(1), 2).unwrap(), Device::Cuda(1));
    }

    #[test]
    fn a_cuda_device_that_is_not_there_is_refused_with_what_is() {
        let error = find_device(DeviceChoice::Cuda(2), 2).unwrap_err().to_string();
        assert!(
            error.contains("cuda:2") && error.contains("sees 2 CUDA devices"),
            "{error}"
        );
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

    #[test]
    fn float16_is_for_cuda() {
        let float16 = PrecisionChoice::Fixed(Precision::Float16);
        assert!(matches!(
            find_precision(float16, Device::Cpu),
            Err(ModelError::Float16OnCpu)
        ));
        assert_eq!(find_precision(float16, Device::Cuda(0)).unwrap(), Precision::Float16);
        assert_eq!(
            find_precision(PrecisionChoice::Auto, Device::Cuda(0)).unwrap(),
            Precision::Float16
        );
        assert_eq!(
            find_precision(PrecisionChoice::Auto, Device::Cpu).unwrap(),
            Precision::Float32
        );
    }
}
