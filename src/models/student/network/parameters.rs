//! A network's tensors by name, started from a seed or taken from stored ones.
//!
//! The tensors are kept here, not in libtorch's modules: a resumed run needs every tensor, statistics included, back
//! under its own name and bit for bit.

use std::collections::{BTreeMap, HashMap};

use tch::{Device, Kind, Tensor};

use super::BACKBONE;
use crate::support::Random;

/// Why stored tensors do not make a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterError {
    /// A tensor is missing.
    #[error("there is no tensor {name}")]
    Missing {
        /// The tensor's name.
        name: String,
    },
    /// A tensor has the wrong shape.
    #[error("the tensor {name} is {found:?}, not {expected:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// The shape it has.
        found: Vec<i64>,
        /// The shape it should have.
        expected: Vec<i64>,
    },
    /// A tensor belongs to no layer.
    #[error("the tensor {name} belongs to no layer of the network")]
    LeftOver {
        /// The tensor's name.
        name: String,
    },
}

/// The starting values of a tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Initial {
    /// Normally distributed numbers with mean 0.
    Normal {
        /// Standard deviation of the numbers.
        deviation: f64,
    },
    /// The same number everywhere.
    Constant(f64),
}

#[derive(Debug)]
enum Source {
    Seed(u64),
    /// A seed, and the backbone's tensors under their names without the prefix.
    Backbone(u64, HashMap<String, Tensor>),
    Stored(HashMap<String, Tensor>),
}

/// A network's tensors. Layers share them, so a change here changes the layers.
#[derive(Debug)]
pub struct Parameters {
    source: Source,
    device: Device,
    trained: BTreeMap<String, Tensor>,
    statistics: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// Creates tensors that start at random. Each depends only on the seed and its own name.
    pub fn from_scratch(seed: u64, device: Device) -> Self {
        Self::new(Source::Seed(seed), device)
    }

    /// Takes the tensors of a backbone, named without the backbone's prefix. All others start at random.
    pub(crate) fn from_backbone(seed: u64, tensors: HashMap<String, Tensor>, device: Device) -> Self {
        Self::new(Source::Backbone(seed, tensors), device)
    }

    /// Takes stored tensors under their names.
    pub fn stored(tensors: HashMap<String, Tensor>, device: Device) -> Self {
        Self::new(Source::Stored(tensors), device)
    }

    fn new(source: Source, device: Device) -> Self {
        Self {
            source,
            device,
            trained: BTreeMap::new(),
            statistics: BTreeMap::new(),
        }
    }

    /// Checks that the layers have taken all stored tensors. Call it after all layers are created.
    ///
    /// # Errors
    /// [`ParameterError::LeftOver`] when a stored tensor belongs to no layer.
    pub fn finish(&self) -> Result<(), ParameterError> {
        match &self.source {
            Source::Stored(left) | Source::Backbone(_, left) if !left.is_empty() => Err(ParameterError::LeftOver {
                name: left.keys().min().expect("it is not empty").clone(),
            }),
            Source::Stored(_) | Source::Backbone(..) | Source::Seed(_) => Ok(()),
        }
    }

    /// Returns the tensors that training changes, by name.
    pub fn trained(&self) -> &BTreeMap<String, Tensor> {
        &self.trained
    }

    /// Returns all tensors by name: those that training changes and the running statistics of batch normalisation.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.trained.iter().chain(&self.statistics)
    }

    /// Takes a tensor that training changes.
    ///
    /// # Errors
    /// [`ParameterError`] when it is missing or has another shape.
    pub(crate) fn trainable(
        &mut self,
        name: String,
        shape: &[i64],
        initial: Initial,
    ) -> Result<Tensor, ParameterError> {
        let tensor = self.take(&name, shape, initial)?.set_requires_grad(true);
        self.trained.insert(name, tensor.shallow_clone());
        Ok(tensor)
    }

    /// Takes a tensor of running statistics, which forward passes in training change.
    ///
    /// # Errors
    /// [`ParameterError`] when it is missing or has another shape.
    pub(super) fn statistic(
        &mut self,
        name: String,
        shape: &[i64],
        initial: Initial,
    ) -> Result<Tensor, ParameterError> {
        let tensor = self.take(&name, shape, initial)?;
        self.statistics.insert(name, tensor.shallow_clone());
        Ok(tensor)
    }

    fn take(&mut self, name: &str, shape: &[i64], initial: Initial) -> Result<Tensor, ParameterError> {
        let tensor = match &mut self.source {
            Source::Seed(seed) => begin(shape, initial, &format!("{seed} {name}")),
            Source::Stored(tensors) => remove(tensors, name)?,
            Source::Backbone(seed, tensors) => {
                match name.strip_prefix(BACKBONE).and_then(|name| name.strip_prefix('.')) {
                    Some(name) => remove(tensors, name)?,
                    None => begin(shape, initial, &format!("{seed} {name}")),
                }
            }
        };
        if tensor.size() != shape {
            return Err(ParameterError::Shape {
                name: name.to_owned(),
                found: tensor.size(),
                expected: shape.to_vec(),
            });
        }
        // A copy, because gradients need a leaf tensor and layers must not share storage.
        Ok(tensor.to_device(self.device).to_kind(Kind::Float).copy().detach())
    }
}

fn remove(tensors: &mut HashMap<String, Tensor>, name: &str) -> Result<Tensor, ParameterError> {
    let missing = || ParameterError::Missing { name: name.to_owned() };
    tensors.remove(name).ok_or_else(missing)
}

fn begin(shape: &[i64], initial: Initial, seed: &str) -> Tensor {
    match initial {
        Initial::Constant(value) => Tensor::full(shape, value, (Kind::Float, Device::Cpu)),
        Initial::Normal { deviation } => {
            let mut random = Random::seeded(seed);
            let count: i64 = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|_| (random.normal() * deviation) as f32).collect();
            Tensor::from_slice(&values).view(shape)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NORMAL: Initial = Initial::Normal { deviation: 0.1 };

    fn named(names: &[&str]) -> HashMap<String, Tensor> {
        let tensor = |name: &&str| ((*name).to_owned(), Tensor::zeros([2], (Kind::Float, Device::Cpu)));
        names.iter().map(tensor).collect()
    }

    #[test]
    fn what_begins_at_random_depends_on_the_seed_and_the_name_alone() {
        let draw = |seed, names: &[&str]| {
            let mut parameters = Parameters::from_scratch(seed, Device::Cpu);
            let drawn = names
                .iter()
                .map(|name| parameters.trainable((*name).to_owned(), &[50, 40], NORMAL).unwrap());
            drawn.last().unwrap()
        };
        let alone = draw(1, &["b"]);
        assert_eq!(alone, draw(1, &["a", "b"]));
        assert_ne!(alone, draw(1, &["a"]));
        assert_ne!(alone, draw(2, &["b"]));
        let deviation = alone.std(true).double_value(&[]);
        assert!((deviation - 0.1).abs() < 0.01, "{deviation}");
    }

    #[test]
    fn stored_tensors_have_to_be_the_network_s_and_no_others() {
        let mut parameters = Parameters::stored(named(&["a", "b"]), Device::Cpu);
        let _ = parameters.trainable("a".to_owned(), &[2], NORMAL).unwrap();
        assert_eq!(
            parameters
                .statistic("b".to_owned(), &[3], NORMAL)
                .unwrap_err()
                .to_string(),
            "the tensor b is [2], not [3]"
        );
        let missing = parameters.trainable("c".to_owned(), &[2], NORMAL);
        assert_eq!(missing.unwrap_err().to_string(), "there is no tensor c");

        let mut parameters = Parameters::stored(named(&["a", "b"]), Device::Cpu);
        let _ = parameters.trainable("a".to_owned(), &[2], NORMAL).unwrap();
        assert_eq!(
            parameters.finish().unwrap_err().to_string(),
            "the tensor b belongs to no layer of the network"
        );
    }
}
