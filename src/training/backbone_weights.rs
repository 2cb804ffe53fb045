//! The weights that a backbone starts with: those of a classifier trained by torchvision or timm, from a safetensors
//! file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tch::Tensor;

use super::{TrainError, file_error};
use crate::models::student::{Network, NetworkConfig, ParameterError, Parameters};
use crate::support::read_regular_file;

/// Parts of tensor names that a student does not have: the classifier's own layer, and the counters of batches.
const CLASSIFIER: &str = "fc.";
const BATCHES: &str = "num_batches_tracked";

/// The weights of a file that fit a student's backbone.
#[derive(Debug)]
pub struct BackboneWeights {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
}

impl BackboneWeights {
    /// Reads a file and checks that its weights fit a student.
    ///
    /// # Errors
    /// [`TrainError`] when the file cannot be read, a tensor of the backbone is missing or has another shape, or the
    /// file has other tensors.
    pub fn read(path: &Path, config: &NetworkConfig) -> Result<Self, TrainError> {
        let bytes = read_regular_file(path).map_err(file_error(path))?;
        let tensors = Tensor::read_safetensors(path).map_err(|error| TrainError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let is_backbone = |name: &str| !name.starts_with(CLASSIFIER) && !name.ends_with(BATCHES);
        let weights = Self {
            path: path.to_owned(),
            tensors: tensors.into_iter().filter(|(name, _)| is_backbone(name)).collect(),
            sha256: hex::encode(Sha256::digest(bytes)),
        };
        weights.begin(0, config)?;
        Ok(weights)
    }

    /// Creates a student whose backbone starts with these weights. The rest starts at random.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::models::student::{Backbone, Head, Stem};

    const CONFIG: NetworkConfig = NetworkConfig {
        backbone: Backbone::Resnet18,
        stem: Stem::Plain,
        width: 2,
        head: Head::DeeplabV2,
        head_channels: 6,
        embedding: 3,
    };

    type Entries = Vec<(String, Tensor)>;

    /// Writes the file of a classifier: another student's backbone, with the extra tensors that torchvision stores.
    fn file(folder: &Path, change: impl Fn(&mut Entries)) -> PathBuf {
        let mut parameters = Parameters::from_scratch(7, Device::Cpu);
        Network::new(&mut parameters, &CONFIG).unwrap();
        let backbone = parameters.all().filter_map(|(name, tensor)| {
            let name = name.strip_prefix("backbone.")?;
            Some((name.to_owned(), tensor.detach()))
        });
        let zeros = |name: &str| (name.to_owned(), Tensor::zeros([5], (Kind::Float, Device::Cpu)));
        let beside = ["fc.weight", "fc.bias", "bn1.num_batches_tracked"].map(zeros);
        let mut tensors: Vec<_> = backbone.chain(beside).collect();
        change(&mut tensors);
        let path = folder.join("weights.safetensors");
        Tensor::write_safetensors(&tensors, &path).unwrap();
        path
    }

    #[test]
    fn the_backbone_begins_with_them_and_the_head_at_random() {
        let folder = tempfile::tempdir().unwrap();
        let weights = BackboneWeights::read(&file(folder.path(), |_| ()), &CONFIG).unwrap();
        let (_, begun) = weights.begin(9, &CONFIG).unwrap();
        let with_seed = |seed| {
            let mut parameters = Parameters::from_scratch(seed, Device::Cpu);
            Network::new(&mut parameters, &CONFIG).unwrap();
            parameters
        };
        let (theirs, own) = (with_seed(7), with_seed(9));
        for (name, tensor) in begun.all() {
            let source = if name.starts_with("backbone.") { &theirs } else { &own };
            let (_, expected) = source.all().find(|(found, _)| *found == name).unwrap();
            assert_eq!(tensor, expected, "{name}");
        }
        assert_eq!(weights.sha256.len(), 64);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |change: &dyn Fn(&mut Entries), expected: &str| {
            let error = BackboneWeights::read(&file(folder.path(), change), &CONFIG);
            let error = error.unwrap_err().to_string();
            assert!(error.contains(expected), "{expected} in {error}");
        };
        refused(
            &|tensors| tensors.retain(|(name, _)| name != "layer2.0.conv1.weight"),
            "there is no tensor layer2.0.conv1.weight",
        );
        let foreign = || {
            (
                "layer5.0.weight".to_owned(),
                Tensor::zeros([1], (Kind::Float, Device::Cpu)),
            )
        };
        refused(
            &|tensors| tensors.push(foreign()),
            "the tensor layer5.0.weight belongs to no layer",
        );
        let other = |tensors: &mut Entries| {
            let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == "bn1.weight").unwrap();
            *tensor = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        };
        refused(&other, "the tensor backbone.bn1.weight is [3], not [2]");
    }
}
