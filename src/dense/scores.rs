//! Dense features against text embeddings: cosines, probabilities, the score grid.

use tch::{Kind, Tensor};

use super::features::unit_rows;
use super::{DenseFeatures, DenseOptions, KeySmoothing, denoising, smoothing};
use crate::label_map::{QueryOwner, ScoreGrid, ScoreKind};

/// What the texts score on one image.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseScores {
    /// Scores per query and grid cell, denoised and smoothed as asked.
    pub grid: ScoreGrid,
    /// Best raw cosine anywhere on the grid, per query, -1 to 1.
    pub similarity: Vec<f32>,
    /// Softmax over the queries of temperature times cosine with CLIP's pooled image feature.
    pub image_probability: Vec<f32>,
    /// Prompt denoising would have dropped every class, so it dropped none.
    pub denoising_dropped_all: bool,
}

impl DenseFeatures {
    /// Scores the image against `text`, `[queries, embedding]`, each row of unit length, one owner per query. The options'
    /// attention and key smoothing are those the features were extracted for.
    ///
    /// # Panics
    /// When shapes do not fit, when smoothing is asked for that was not announced, or when libtorch fails.
    pub fn score(&self, text: &Tensor, owners: &[QueryOwner], options: &DenseOptions) -> DenseScores {
        assert_eq!(text.size().first(), Some(&count(owners.len())), "one owner per query");
        tch::no_grad(|| self.score_in_float(&text.to_kind(Kind::Float), owners, options))
    }

    fn score_in_float(&self, text: &Tensor, owners: &[QueryOwner], options: &DenseOptions) -> DenseScores {
        let temperature = f64::from(options.temperature);
        let cosine = self.cosines(text);
        let pooled = text.matmul(&unit_rows(&self.pooled)); // [queries, embedding] x [embedding] -> [queries]
        let logits = &cosine * temperature;

        let denoised = match options.prompt_denoising {
            Some(threshold) => denoising::drop_absent_classes(&logits, owners, threshold, temperature),
            None => denoising::Denoised {
                logits,
                dropped_all: false,
            },
        };
        let (kind, values) = match options.key_smoothing {
            KeySmoothing::None => (ScoreKind::Logits, denoised.logits),
            KeySmoothing::Formula => (
                ScoreKind::Weights,
                smoothing::by_formula(&probabilities(&denoised.logits), self.smoothing_keys()),
            ),
            KeySmoothing::Reference { threshold } => {
                let probabilities = probabilities(&denoised.logits);
                (
                    ScoreKind::Weights,
                    smoothing::by_reference(&probabilities, self.smoothing_keys(), threshold),
                )
            }
        };
        DenseScores {
            grid: ScoreGrid {
                kind,
                queries: owners.len(),
                height: length(self.height),
                width: length(self.width),
                values: floats(&values),
            },
            similarity: floats(&cosine.amax([1], false)),
            image_probability: floats(&probabilities(&(pooled * temperature))),
            denoising_dropped_all: denoised.dropped_all,
        }
    }

    fn smoothing_keys(&self) -> &Tensor {
        self.keys
            .as_ref()
            .expect("features are extracted for the key smoothing they are scored with")
    }
}

/// Softmax over the queries, the first dimension.
pub(super) fn probabilities(logits: &Tensor) -> Tensor {
    logits.softmax(0, Kind::Float)
}

/// All values, row-major.
pub(super) fn floats(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.contiguous().view(-1);
    Vec::try_from(&flat).expect("a 32-bit tensor of one dimension is a vector of floats")
}

fn count(length: usize) -> i64 {
    i64::try_from(length).expect("a length in memory fits 63 bits")
}

pub(super) fn length(count: i64) -> usize {
    usize::try_from(count).expect("a tensor's dimension is not negative")
}
