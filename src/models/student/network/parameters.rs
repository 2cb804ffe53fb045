//! A network's tensors by name: begun from a seed, or taken from what was stored.
//!
//! Owned rather than left to libtorch's modules, because a run that is resumed needs every tensor, statistics included, back
//! under its own name and with its own bits.

use std::collections::{BTreeMap, HashMap};

use tch::{Device, Kind, Tensor};

use super::BACKBONE;
use crate::support::Random;

/// Why stored tensors are no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterError {
    /// A tensor is not there.
    #[error("there is no tensor {name}")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape.
    #[error("the tensor {name} is {found:?}, not {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// The shape it has.
        found: Vec<i64>,
        /// The shape it should have.
        expected: Vec<i64>,
    },
    /// A tensor belongs to no layer.
    #[error("the tensor {name} belongs to no layer of the network")]
    LeftOver {
        /// Its name.
        name: String,
    },
}

/// What a tensor is begun with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Initial {
    /// Normal numbers around 0.
    Normal {
        /// Their standard deviation.
        deviation: f64,
    },
    /// One number everywhere.
    Constant(f64),
}

#[derive(Debug)]
enum Source {
    Seed(u64),
    /// A seed, and the backbone's tensors without its prefix.
    Backbone(u64, HashMap<String, Tensor>),
    Stored(HashMap<String, Tensor>),
}

/// A network's tensors. Layers share them: what is changed here is changed there.
#[derive(Debug)]
pub struct Parameters {
    source: Source,
    device: Device,
    trained: BTreeMap<String, Tensor>,
    statistics: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// Tensors that begin at random. Each depends on the seed and its own name alone.
    pub fn from_scratch(seed: u64, device: Device) -> Self {
        Self::new(Source::Seed(seed), device)
    }

    /// Tensors of a backbone, under their names within it; others begin at random.
    pub(crate) fn from_backbone(seed: u64, tensors: HashMap<String, Tensor>, device: Device) -> Self {
        Self::new(Source::Backbone(seed, tensors), device)
    }

    /// Tensors that were stored, under their names.
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

    /// Once all layers have theirs: nothing may be left.
    ///
    /// # Errors
    /// When a stored tensor was not asked for.
    pub fn finish(&self) -> Result<(), ParameterError> {
        match &self.source {
            Source::Stored(left) | Source::Backbone(_, left) if !left.is_empty() => Err(ParameterError::LeftOver {
                name: left.keys().min().expect("it is not empty").clone(),
            }),
            Source::Stored(_) | Source::Backbone(..) | Source::Seed(_) => Ok(()),
        }
    }

    /// What training changes, by name.
    pub fn trained(&self) -> &BTreeMap<String, Tensor> {
        &self.trained
    }

    /// All tensors by name: what is trained, and the running statistics of batch normalisation.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.trained.iter().chain(&self.statistics)
    }

    /// A tensor that is trained.
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

    /// A tensor that a forward pass in training changes.
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
        // A copy: gradients need a leaf of their own, and two layers never share storage by accident.
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
