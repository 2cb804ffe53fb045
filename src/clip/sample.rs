//! A sample of a visual tower's work. It measures which element type is faster on the present machine.
//!
//! Owns the choice of the sample: parts of the model itself, in the shapes in which they run. Leaves the decision to
//! the caller.

use std::time::{Duration, Instant};

use tch::{Kind, Tensor};

use super::resnet::{Bottleneck, EXPANSION};
use super::transformer::ResidualAttentionBlock;
use super::vit;
use super::{CheckpointError, ModelConfig, Weights};

/// Side in pixels of the image that determines the shapes of the sample.
const IMAGE_PIXELS: i64 = 256;

/// Number of runs of each sample. The fastest counts, because other work on the machine can only slow a run down.
const RUNS: usize = 5;

/// Parts of a tower, each with an input.
enum Sample {
    /// The first block of a ViT with an input `[1, tokens, width]`.
    Block(Box<ResidualAttentionBlock>, Tensor),
    /// The first bottleneck of each layer of a ResNet, each with an input `[1, channels, height, width]`.
    Bottlenecks(Vec<(Bottleneck, Tensor)>),
}

/// Returns the seconds that a sample of the visual tower takes in each of the element types `kinds`, on the device of
/// `weights`. The kinds take turns, and the fastest of several runs counts. `weights` stays as it is.
///
/// # Errors
/// Fails when a tensor is missing or does not fit the others.
pub fn sample_seconds<const N: usize>(
    weights: &Weights,
    config: &ModelConfig,
    kinds: [Kind; N],
) -> Result<[f64; N], CheckpointError> {
    tch::no_grad(|| {
        let samples = kinds
            .iter()
            .map(|kind| Sample::load(&mut weights.again(*kind), config))
            .collect::<Result<Vec<_>, _>>()?;
        let mut best = [Duration::MAX; N];
        // The first run of each sample prepares what later runs reuse, so it does not count.
        for run in 0..=RUNS {
            for (best, sample) in best.iter_mut().zip(&samples) {
                let start = Instant::now();
                sample.run();
                if run > 0 {
                    *best = start.elapsed().min(*best);
                }
            }
        }
        Ok(best.map(|best| best.as_secs_f64()))
    })
}

impl Sample {
    fn load(weights: &mut Weights, config: &ModelConfig) -> Result<Self, CheckpointError> {
        let filled = |weights: &Weights, shape: &[i64]| Tensor::full(shape, 0.5, (weights.kind(), weights.device()));
        let stem = weights.size("visual.conv3.weight", 0);
        if weights.shape("visual.layer1.0.conv1.weight").is_some() {
            let mut layers = Vec::new();
            let (mut channels, mut side) = (stem, IMAGE_PIXELS / 4);
            for layer in 1..=4 {
                let inner = stem << (layer - 1);
                let stride = if layer == 1 { 1 } else { 2 };
                let block = Bottleneck::load(weights, &format!("visual.layer{layer}.0"), channels, inner, stride)?;
                layers.push((block, filled(weights, &[1, channels, side, side])));
                channels = inner * EXPANSION;
                side /= stride;
            }
            return Ok(Self::Bottlenecks(layers));
        }
        let width = weights.size("visual.conv1.weight", 0);
        let cells = IMAGE_PIXELS / weights.size("visual.conv1.weight", 2);
        let tokens = filled(weights, &[1, 1 + cells * cells, width]);
        let heads = vit::heads(width, config.visual_head_width)?;
        let block = ResidualAttentionBlock::load(weights, &vit::block_name(0), width, heads, config.activation)?;
        Ok(Self::Block(Box::new(block), tokens))
    }

    fn run(&self) {
        match self {
            Self::Block(block, tokens) => drop(block.forward(tokens)),
            Self::Bottlenecks(layers) => layers.iter().for_each(|(block, map)| drop(block.forward(map))),
        }
    }
}
