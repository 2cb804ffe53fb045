//! Weights that a backbone begins with: those of a classifier that torchvision or timm trained, out of a safetensors file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tch::Tensor;

use super::network::{NetworkConfig, ParameterError};
use super::{Network, Parameters, TrainError, file_error};
use crate::hexadecimal::hexadecimal;

/// The classifier's own layer, which no student has, and what counts batches.
const CLASSIFIER: &str = "fc.";
const BATCHES: &str = "num_batches_tracked";

/// A file of weights, known to be those of a student's backbone.
#[derive(Debug)]
pub struct BackboneWeights {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
    /// The file's SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

impl BackboneWeights {
    /// Reads a file and tries it in a student.
    ///
    /// # Errors
    /// When the file cannot be read, a tensor of the backbone is missing or has another shape, or there are others than it has.
    pub fn read(path: &Path, config: &NetworkConfig) -> Result<Self, TrainError> {
        let bytes = std::fs::read(path).map_err(file_error(path))?;
        let tensors = Tensor::read_safetensors(path).map_err(|error| TrainError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let is_backbone = |name: &str| !name.starts_with(CLASSIFIER) && !name.ends_with(BATCHES);
        let weights = Self {
            path: path.to_owned(),
            tensors: tensors.into_iter().filter(|(name, _)| is_backbone(name)).collect(),
            sha256: hexadecimal(&Sha256::digest(bytes)),
        };
        weights.begin(0, config)?;
        Ok(weights)
    }

    /// A student that begins with them; the rest begins at random.
    pub(super) fn begin(&self, seed: u64, config: &NetworkConfig) -> Result<(Network, Parameters), TrainError> {
        let foreign = |source: ParameterError| TrainError::Backbone {
            path: self.path.clone(),
            source,
        };
        let tensors = self.tensors.iter();
        let tensors = tensors.map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let mut parameters = Parameters::from_backbone(seed, tensors.collect(), tch::Device::Cpu);
        let network = Network::new(&mut parameters, config).map_err(foreign)?;
        parameters.finish().map_err(foreign)?;
        Ok((network, parameters))
    }
}
