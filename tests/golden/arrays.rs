//! Helpers for tests with golden tensors: the folder, arrays by name, and comparisons.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use maskclip::clip::{CheckpointFormat, ModelConfig, VisualTower, Weights};
use maskclip::scores::QueryOwner;
use tch::{Device, Kind, Tensor};

/// Largest absolute difference allowed in float32.
pub const TOLERANCE: f64 = 1e-4;

/// The owners of the texts in a visual tower's arrays.
pub const OWNERS: [QueryOwner; 7] = [
    QueryOwner::Class(0),
    QueryOwner::Class(0),
    QueryOwner::Class(1),
    QueryOwner::Class(2),
    QueryOwner::Class(3),
    QueryOwner::Class(4),
    QueryOwner::Background,
];

/// Returns the path of a file in this folder.
pub fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

/// Opens the weights of a tower, whose name has no extension, and the configuration beside them.
pub fn open_tower(name: &str) -> (Weights, ModelConfig) {
    let path = golden(&format!("{name}.safetensors"));
    let weights = Weights::load(&path, Device::Cpu, Kind::Float).expect("the golden weights are committed");
    let config = ModelConfig::find(CheckpointFormat::OpenClip, &path).expect("the configuration is committed beside");
    (weights, config)
}

/// Loads a tower, which must use every tensor of its file.
pub fn load_tower(name: &str) -> VisualTower {
    let (mut weights, config) = open_tower(name);
    let tower = VisualTower::load(&mut weights, &config).expect("the golden weights are a whole tower");
    weights.finish().expect("the tower uses every tensor");
    tower
}

/// The arrays that a reference computed.
pub struct Arrays {
    /// The name of the model or file, for messages.
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

    /// Returns the sizes of the images in pixels, as "height x width" without spaces.
    pub fn sizes(&self) -> Vec<&str> {
        let mut sizes: Vec<&str> = self
            .by_name
            .keys()
            .filter_map(|name| name.strip_suffix(".image"))
            .collect();
        sizes.sort_unstable();
        assert_eq!(
            sizes.len(),
            4,
            "there are four sizes: the training grid, another square, wide, tall"
        );
        sizes
    }
}

/// The differences of all arrays, collected so that a failure shows all of them.
#[derive(Default)]
pub struct Comparison {
    differences: Vec<(String, f64)>,
}

impl Comparison {
    pub fn add(&mut self, arrays: &Arrays, name: &str, found: &Tensor) {
        self.add_in_units(arrays, name, found, &Tensor::from(1f32));
    }

    /// Adds sums over all cells. They exceed 100 where other arrays stay near 1, so beyond 1 the difference is
    /// relative.
    pub fn add_sums(&mut self, arrays: &Arrays, name: &str, found: &Tensor) {
        self.add_in_units(arrays, name, found, &arrays.get(name).abs().clamp_min(1.0));
    }

    /// Adds a difference that is counted in units, which must broadcast to the array.
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
        let is_close = |difference: f64| difference <= TOLERANCE; // False for NaN.
        let beyond: Vec<_> = self
            .differences
            .iter()
            .filter(|(_, difference)| !is_close(*difference))
            .collect();
        assert!(beyond.is_empty(), "beyond {TOLERANCE:e}: {beyond:#?}");
    }
}
