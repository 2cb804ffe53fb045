//! Scores of dense features against text embeddings: cosines, probabilities, and the score map.

use std::borrow::Borrow;

use tch::{Kind, Tensor};

use super::tensors::{floats, probabilities};
use super::{DenseError, DenseFeatures, KeySmoothing, ScoreOptions, SmoothingKeys, denoising, go_on, smoothing};
use crate::scores::{DenseScores, QueryOwner, ScoreGrid, ScoreKind, ScoreMap, Windows};
use crate::support::{to_i64, to_usize};

impl DenseFeatures {
    /// Scores the image against `text`, `[queries, embedding]`, with one owner per query. Each row has unit length,
    /// except for texts that a student learned.
    ///
    /// # Errors
    /// Fails with [`DenseError::KeysNotKept`] when the key smoothing needs keys that were not kept.
    ///
    /// # Panics
    /// Panics when shapes do not fit each other, or when libtorch fails.
    pub fn score(
        &self,
        text: &Tensor,
        owners: &[QueryOwner],
        options: &ScoreOptions,
    ) -> Result<DenseScores, DenseError> {
        let view = View {
            features: vec![self],
            windows: None,
        };
        score_views(&[view], text, owners, options, &|| false)
    }

    fn cell_count(&self) -> i64 {
        self.height * self.width
    }

    /// Returns the keys of the kind `wanted`, or an error if others or none were kept.
    fn smoothing_keys(&self, wanted: SmoothingKeys) -> Result<&Tensor, DenseError> {
        match &self.keys {
            Some((kept, keys)) if *kept == wanted => Ok(keys),
            _ => Err(DenseError::KeysNotKept),
        }
    }
}

/// An image at one size, as a whole or through windows.
#[derive(Debug)]
pub(super) struct View<F> {
    /// The features of all windows, row by row, or those of the whole if there are no windows.
    pub(super) features: Vec<F>,
    pub(super) windows: Option<Windows>,
}

/// Scores an image at several sizes, each as a whole or through windows, as [`DenseFeatures::score`] does for one.
/// Prompt denoising considers all of them together. The logits of the pooled features are averaged. All features must
/// come from one network. Ends with [`DenseError::Stopped`] when `stop` returns true, which is asked for each window.
pub(super) fn score_views<F: Borrow<DenseFeatures>>(
    views: &[View<F>],
    text: &Tensor,
    owners: &[QueryOwner],
    options: &ScoreOptions,
    stop: &dyn Fn() -> bool,
) -> Result<DenseScores, DenseError> {
    assert_eq!(
        text.size().first(),
        Some(&to_i64(owners.len())),
        "there is one owner per query"
    );
    tch::no_grad(|| score_in_float(views, &text.to_kind(Kind::Float), owners, options, stop))
}

fn score_in_float<F: Borrow<DenseFeatures>>(
    views: &[View<F>],
    text: &Tensor,
    owners: &[QueryOwner],
    options: &ScoreOptions,
    stop: &dyn Fn() -> bool,
) -> Result<DenseScores, DenseError> {
    let temperature = f64::from(options.temperature);
    let features = views.iter().flat_map(|view| view.features.iter().map(Borrow::borrow));
    let features: Vec<&DenseFeatures> = features.collect();
    let cosines = features.iter().map(|features| features.cosines(text, stop));
    let cosines: Vec<_> = cosines.collect::<Result<_, _>>()?;
    let compared: Vec<_> = features
        .iter()
        .zip(&cosines)
        .map(|(features, cosines)| features.compare(text, cosines))
        .collect();
    let logits = Tensor::cat(&compared, 1) * temperature; // [queries, cells] each -> [queries, cells of all]
    let denoised = match options.prompt_denoising {
        Some(threshold) => {
            let dropped = denoising::dropped_logit(features[0].comparison, &logits, temperature);
            denoising::drop_absent_classes(&logits, owners, threshold, dropped)
        }
        None => denoising::Denoised {
            logits,
            dropped_all: false,
        },
    };
    let (kind, values) = smooth(&features, denoised.logits, options.key_smoothing, stop)?;
    let cells: Vec<_> = views.iter().map(View::cells).collect();
    let grids = values.split_with_sizes(&cells, 1);
    let grids = views.iter().zip(grids).map(|(view, values)| view.grid(&values));

    let pooled: Vec<_> = views.iter().map(|view| view.pooled(text)).collect();
    let pooled = Tensor::stack(&pooled, 0).mean_dim(0, false, Kind::Float); // [sizes, queries] -> [queries]
    Ok(DenseScores {
        map: ScoreMap {
            kind,
            queries: owners.len(),
            grids: grids.collect(),
        },
        similarity: floats(&Tensor::cat(&cosines, 1).amax([1], false)),
        image_probability: floats(&probabilities(&(pooled * temperature))),
        denoising_dropped_all: denoised.dropped_all,
    })
}

/// Applies key smoothing to logits, `[queries, cells of all]`. Returns the smoothed values in the same shape and their
/// kind.
fn smooth(
    features: &[&DenseFeatures],
    logits: Tensor,
    key_smoothing: KeySmoothing,
    stop: &dyn Fn() -> bool,
) -> Result<(ScoreKind, Tensor), DenseError> {
    let Some(keys) = key_smoothing.keys() else {
        return Ok((ScoreKind::Logits, logits));
    };
    let (kind, scores) = match key_smoothing {
        KeySmoothing::Formula | KeySmoothing::Reference { .. } => (ScoreKind::Weights, probabilities(&logits)),
        KeySmoothing::None | KeySmoothing::Likeness => (ScoreKind::Logits, logits),
    };
    let cells: Vec<_> = features.iter().map(|features| features.cell_count()).collect();
    let windows = scores.split_with_sizes(&cells, 1);
    let smoothed = windows.iter().zip(features).map(|(scores, window)| {
        go_on(stop)?;
        let keys = window.smoothing_keys(keys)?;
        Ok(match key_smoothing {
            KeySmoothing::None => scores.shallow_clone(),
            KeySmoothing::Formula => smoothing::by_formula(scores, keys),
            KeySmoothing::Reference { threshold } => smoothing::by_reference(scores, keys, threshold),
            KeySmoothing::Likeness => smoothing::by_likeness(scores, keys, stop)?,
        })
    });
    let smoothed: Vec<_> = smoothed.collect::<Result<_, DenseError>>()?;
    Ok((kind, Tensor::cat(&smoothed, 1)))
}

impl<F: Borrow<DenseFeatures>> View<F> {
    /// Compares the texts with the pooled features and returns the mean over the windows, `[queries]`.
    fn pooled(&self, text: &Tensor) -> Tensor {
        let windows: Vec<_> = self
            .features
            .iter()
            .map(|window| window.borrow().compare_pooled(text))
            .collect();
        Tensor::stack(&windows, 0).mean_dim(0, false, Kind::Float) // [windows, queries] -> [queries]
    }

    /// Returns the number of cells of all windows.
    fn cells(&self) -> i64 {
        self.features.iter().map(|window| window.borrow().cell_count()).sum()
    }

    /// Arranges the scores of the windows, `[queries, windows x cells]`, side by side in one grid.
    pub(super) fn grid(&self, values: &Tensor) -> ScoreGrid {
        let (rows, columns) = self.windows.as_ref().map_or((1, 1), |windows| {
            (to_i64(windows.rows.starts.len()), to_i64(windows.columns.starts.len()))
        });
        let window = self.features[0].borrow();
        let (height, width) = (window.height, window.width);
        // [queries, windows x cells] -> [queries, window rows, window columns, height, width], then side by side
        let values = values
            .reshape([-1, rows, columns, height, width])
            .permute([0, 1, 3, 2, 4]);
        ScoreGrid {
            height: to_usize(rows * height),
            width: to_usize(columns * width),
            windows: self.windows.clone(),
            values: floats(&values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use QueryOwner::Class;

    #[test]
    fn features_whose_length_counts_score_their_products_and_are_similar_by_their_cosines() {
        // Two cells, [cells, embedding]; the second text has the length 2.
        let features = || DenseFeatures::of_grid(1, 2, Tensor::from_slice2(&[[3f32, 4.], [0., 10.]]));
        let text = Tensor::from_slice2(&[[1f32, 0.], [0., 2.]]);
        let options = ScoreOptions {
            temperature: 0.5,
            ..ScoreOptions::default()
        };
        let scores = features()
            .score(&text, &[Class(0), Class(1)], &options)
            .expect("no keys are needed");
        assert_eq!(scores.map.kind, ScoreKind::Logits);
        assert_eq!(scores.map.grids[0].values, [1.5, 0., 4., 10.]);
        assert_eq!(scores.similarity, [0.6, 1.]);
        // The mean feature is (1.5, 7), and its products with the texts are 1.5 and 14.
        let first = 1.0 / (1.0 + (0.5_f32 * 12.5).exp());
        assert!((scores.image_probability[0] - first).abs() < 1e-6, "{scores:?}");

        // The probability of the first text is at most 1 / (1 + e^2.5) in any cell.
        let denoised = ScoreOptions {
            prompt_denoising: Some(0.5),
            ..options
        };
        let scores = features()
            .score(&text, &[Class(0), Class(1)], &denoised)
            .expect("no keys are needed");
        assert_eq!(scores.map.grids[0].values, [-100., -100., 4., 10.]);
    }
}
