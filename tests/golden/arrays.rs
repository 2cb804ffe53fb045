//! What goldens of tensors share: where they lie, arrays by name, and how they are compared.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use maskclip::clip::{CheckpointFormat, ModelConfig, VisualTower, Weights};
use maskclip::scores::QueryOwner;
use tch::{Device, Kind, Tensor};

/// Largest absolute difference allowed, in 32 bits.
pub const TOLERANCE: f64 = 1e-4;

/// What the texts of a tower's arrays stand for.
pub const OWNERS: [QueryOwner; 7] = [
    QueryOwner::Class(0),
    QueryOwner::Class(0),
    QueryOwner::Class(1),
    QueryOwner::Class(2),
    QueryOwner::Class(3),
    QueryOwner::Class(4),
    QueryOwner::Background,
];

/// A file of this folder.
pub fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

/// The weights of a tower, without their ending, and the configuration beside them.
pub fn open_tower(name: &str) -> (Weights, ModelConfig) {
    let path = golden(&format!("{name}.safetensors"));
    let weights = Weights::load(&path, Device::Cpu, Kind::Float).expect("the golden weights are committed");
    let config = ModelConfig::find(CheckpointFormat::OpenClip, &path).expect("the configuration is committed beside");
    (weights, config)
}

/// The tower, which has to use every tensor of its file.
pub fn load_tower(name: &str) -> VisualTower {
    let (mut weights, config) = open_tower(name);
    let tower = VisualTower::load(&mut weights, &config).expect("the golden weights are a whole tower");
    weights.finish().expect("the tower uses every tensor");
    tower
}

/// What a reference computed.
pub struct Arrays {
    /// Whose they are, for messages.
    owner: String,
    by_name: HashMap<String, Tensor>,
}

impl Arrays {
    pub fn read(owner: &str, file: &str) -> Self {
        let arrays = Tensor::read_safetensors(golden(file)).expect("the golden arrays are committed");
        Self {
            owner: owner.to_owned(),
            by_name: arrays.into_iter().collect(),
        }
    }

    pub fn get(&self, name: &str) -> &Tensor {
        let found = self.by_name.get(name);
        found.unwrap_or_else(|| panic!("the arrays of {} have no {name}", self.owner))
    }

    /// The image sizes, "height x width" in pixels.
    pub fn sizes(&self) -> Vec<&str> {
        let mut sizes: Vec<&str> = self
            .by_name
            .keys()
            .filter_map(|name| name.strip_suffix(".image"))
            .collect();
        sizes.sort_unstable();
        assert_eq!(sizes.len(), 4, "the training grid, another square one, wide, tall");
        sizes
    }
}

/// Differences array by array, so that a failure shows all of them.
#[derive(Default)]
pub struct Comparison {
    differences: Vec<(String, f64)>,
}

impl Comparison {
    pub fn add(&mut self, arrays: &Arrays, name: &str, found: &Tensor) {
        self.add_in_units(arrays, name, found, &Tensor::from(1f32));
    }

    /// For sums over all cells, which pass 100 where other arrays stay near 1: beyond 1 the difference is relative.
    pub fn add_sums(&mut self, arrays: &Arrays, name: &str, found: &Tensor) {
        self.add_in_units(arrays, name, found, &arrays.get(name).abs().clamp_min(1.0));
    }

    /// The difference counts in units that broadcast to the array.
    pub fn add_in_units(&mut self, arrays: &Arrays, name: &str, found: &Tensor, unit: &Tensor) {
        let expected = arrays.get(name);
        assert_eq!(found.size(), expected.size(), "{} {name}", arrays.owner);
        let difference = ((found - expected) / unit).abs().max().double_value(&[]);
        self.differences.push((format!("{} {name}", arrays.owner), difference));
    }

    pub fn conclude(mut self) {
        self.differences.sort_by(|left, right| right.1.total_cmp(&left.1));
        println!("{} comparisons, the largest differences:", self.differences.len());
        for (name, difference) in self.differences.iter().take(10) {
            println!("{difference:9.2e}  {name}");
        }
        let is_close = |difference: f64| difference <= TOLERANCE; // Not so for a NaN.
        let beyond: Vec<_> = self
            .differences
            .iter()
            .filter(|(_, difference)| !is_close(*difference))
            .collect();
        assert!(beyond.is_empty(), "beyond {TOLERANCE:e}: {beyond:#?}");
    }
}
