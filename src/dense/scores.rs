//! Dense features against text embeddings: cosines, probabilities, the score grid.

use tch::{Kind, Tensor};

use super::features::unit_rows;
use super::{DenseFeatures, DenseOptions, KeySmoothing, denoising, smoothing};
use crate::label_map::{QueryOwner, ScoreGrid, ScoreKind, Windows};

/// What the texts score on one image.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseScores {
    /// Scores per query and grid cell, denoised and smoothed as asked.
    pub grid: ScoreGrid,
    /// Best raw cosine anywhere on the grid, per query, -1 to 1.
    pub similarity: Vec<f32>,
    /// Softmax over the queries of temperature times cosine with CLIP's pooled image feature, the windows' mean.
    pub image_probability: Vec<f32>,
    /// Prompt denoising would have dropped every class, so it dropped none.
    pub denoising_dropped_all: bool,
}

impl DenseFeatures {
    /// Scores the image against `text`, `[queries, embedding]`, each row of unit length, one owner per query. The options'
    /// attention and key smoothing are those the features were extracted for; windows and refinement are left to
    /// [`dense::score`](super::score) and [`dense::refine`](super::refine).
    ///
    /// # Panics
    /// When shapes do not fit, when smoothing is asked for that was not announced, or when libtorch fails.
    pub fn score(&self, text: &Tensor, owners: &[QueryOwner], options: &DenseOptions) -> DenseScores {
        score_windows(std::slice::from_ref(self), None, text, owners, options)
    }

    fn smoothing_keys(&self) -> &Tensor {
        self.keys
            .as_ref()
            .expect("features are extracted for the key smoothing they are scored with")
    }
}

/// [`DenseFeatures::score`] for the features of all windows, row by row; of the whole image without windows. Prompt denoising
/// looks at all windows together, the pooled features' cosines are averaged.
pub(super) fn score_windows(
    features: &[DenseFeatures],
    windows: Option<Windows>,
    text: &Tensor,
    owners: &[QueryOwner],
    options: &DenseOptions,
) -> DenseScores {
    assert_eq!(text.size().first(), Some(&count(owners.len())), "one owner per query");
    tch::no_grad(|| score_in_float(features, windows, &text.to_kind(Kind::Float), owners, options))
}

fn score_in_float(
    features: &[DenseFeatures],
    windows: Option<Windows>,
    text: &Tensor,
    owners: &[QueryOwner],
    options: &DenseOptions,
) -> DenseScores {
    let temperature = f64::from(options.temperature);
    let cosines: Vec<_> = features.iter().map(|window| window.cosines(text)).collect();
    let cosine = Tensor::cat(&cosines, 1); // [queries, cells] each -> [queries, windows x cells]
    let pooled: Vec<_> = features.iter().map(|window| window.pooled.shallow_clone()).collect();
    // [queries, embedding] x [embedding, windows] -> [queries, windows] -> [queries]
    let pooled = text
        .matmul(&unit_rows(&Tensor::stack(&pooled, 0)).transpose(0, 1))
        .mean_dim(1, false, Kind::Float);
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
            smoothed(features, &probabilities(&denoised.logits), smoothing::by_formula),
        ),
        KeySmoothing::Reference { threshold } => (
            ScoreKind::Weights,
            smoothed(features, &probabilities(&denoised.logits), |probabilities, keys| {
                smoothing::by_reference(probabilities, keys, threshold)
            }),
        ),
        KeySmoothing::Likeness => (
            ScoreKind::Logits,
            smoothed(features, &denoised.logits, smoothing::by_likeness),
        ),
    };
    let (rows, columns) = windows.as_ref().map_or((1, 1), |windows| {
        (count(windows.rows.starts.len()), count(windows.columns.starts.len()))
    });
    let (height, width) = (features[0].height, features[0].width);
    // [queries, windows x cells] -> [queries, window rows, window columns, height, width], then side by side
    let values = values.view([-1, rows, columns, height, width]).permute([0, 1, 3, 2, 4]);
    DenseScores {
        grid: ScoreGrid {
            kind,
            queries: owners.len(),
            height: length(rows * height),
            width: length(columns * width),
            windows,
            values: floats(&values),
        },
        similarity: floats(&cosine.amax([1], false)),
        image_probability: floats(&probabilities(&(pooled * temperature))),
        denoising_dropped_all: denoised.dropped_all,
    }
}

/// Scores smoothed within each window: `[queries, windows x cells]` to the same shape.
fn smoothed(features: &[DenseFeatures], scores: &Tensor, smooth: impl Fn(&Tensor, &Tensor) -> Tensor) -> Tensor {
    let windows = scores.chunk(count(features.len()), 1);
    let smoothed = windows.iter().zip(features);
    let smoothed = smoothed.map(|(scores, window)| smooth(scores, window.smoothing_keys()));
    Tensor::cat(&smoothed.collect::<Vec<_>>(), 1)
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
