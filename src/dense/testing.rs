//! Small towers, images, texts and options for unit tests.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::clip::{ModelConfig, VisualTower, Weights};
use crate::dense::{
    self, Attention, FeatureOptions, KeySmoothing, PROPAGATION_CELLS, Refinement, RefinementOptions, ScoreOptions,
    Window,
};
use crate::scores::{DenseScores, QueryOwner};

/// The owners of the texts that [`text`] returns.
pub(super) const OWNERS: [QueryOwner; 3] = [QueryOwner::Class(0), QueryOwner::Class(1), QueryOwner::Background];

/// Loads one of the small towers that tools/golden/visual.py wrote.
pub(super) fn tower(name: &str) -> VisualTower {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let weights = folder.join(format!("visual_{name}.safetensors"));
    let mut weights = Weights::load(&weights, Device::Cpu, Kind::Float).unwrap();
    let config = std::fs::read_to_string(folder.join(format!("visual_{name}.json"))).unwrap();
    VisualTower::load(&mut weights, &ModelConfig::parse(&config).unwrap()).unwrap()
}

/// Returns noise without a random generator: the fractional parts of multiples of the golden ratio and of a second
/// number.
pub(super) fn noise(shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    let steps = Tensor::arange(count, (Kind::Double, Device::Cpu));
    ((&steps * 0.618_033_988_749_895).frac() * (&steps * 0.414_213_562_373_095).frac() * 4.0 - 1.0)
        .to_kind(Kind::Float)
        .view(shape)
}

/// Returns three texts of unit length.
pub(super) fn text(tower: &VisualTower) -> Tensor {
    let text = noise(&[3, tower.embedding_dimension()]);
    &text / text.norm_scalaropt_dim(2, [-1], true)
}

/// Returns a check that stops work when it is asked the `last` time, and the number of times it has been asked.
pub(super) fn stop_at(last: usize) -> (impl Fn() -> bool, Rc<Cell<usize>>) {
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    let stop = move || {
        count.set(count.get() + 1);
        count.get() >= last
    };
    (stop, asked)
}

/// The options of a test for all three steps, named in one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) attention: Attention,
    pub(super) window: Option<Window>,
    pub(super) temperature: f32,
    pub(super) prompt_denoising: Option<f32>,
    pub(super) key_smoothing: KeySmoothing,
    pub(super) refinement: Refinement,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            attention: Attention::default(),
            window: None,
            temperature: 100.0,
            prompt_denoising: None,
            key_smoothing: KeySmoothing::None,
            refinement: Refinement::None,
        }
    }
}

impl Case {
    pub(super) fn features(&self) -> FeatureOptions {
        FeatureOptions {
            attention: self.attention,
            window: self.window,
            keys: self.key_smoothing.keys(),
            ..FeatureOptions::default()
        }
    }

    pub(super) fn scoring(&self) -> ScoreOptions {
        ScoreOptions {
            temperature: self.temperature,
            prompt_denoising: self.prompt_denoising,
            key_smoothing: self.key_smoothing,
        }
    }

    pub(super) fn refinement(&self) -> RefinementOptions {
        RefinementOptions::new(self.refinement, PROPAGATION_CELLS, self.temperature)
    }

    /// Scores an image at the given sizes without refinement.
    pub(super) fn score(&self, tower: &VisualTower, sizes: &[Tensor], text: &Tensor) -> DenseScores {
        dense::score(tower, sizes, text, &OWNERS, &self.features(), &self.scoring()).unwrap()
    }
}
