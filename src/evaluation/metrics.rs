//! Metrics from a confusion matrix, as defined by mmsegmentation's `IoUMetric` and torchmetrics' multiclass Jaccard
//! index.
//!
//! All metrics are fractions from 0 to 1. A class that occurs in neither truth nor prediction has no value and is left
//! out of means. A pixel without a predicted class counts against its true class only.

use serde::Serialize;

use super::confusion::ConfusionMatrix;

/// The metrics of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// Mean intersection over union of the classes that occur; `None` if none occurs.
    pub mean_iou: Option<f64>,
    /// Share of the counted pixels that were predicted correctly.
    pub pixel_accuracy: Option<f64>,
    /// Mean over the classes in the truth of the share of their pixels that was predicted correctly.
    pub mean_accuracy: Option<f64>,
    /// The metrics per class, in the order of their ids.
    pub classes: Vec<ClassMetrics>,
}

/// The metrics of one class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClassMetrics {
    /// Intersection over union; `None` for a class that occurs in neither truth nor prediction.
    pub iou: Option<f64>,
    /// Share of the class's pixels that was predicted correctly; `None` for a class that does not occur in the truth.
    pub accuracy: Option<f64>,
    /// Pixels that have the class in both truth and prediction.
    pub intersection_pixels: u64,
    /// Pixels that have the class in the truth.
    pub truth_pixels: u64,
    /// Pixels that have the class in the prediction.
    pub predicted_pixels: u64,
}

/// The three metrics of the zero-shot protocol.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ZeroShot {
    /// Mean IoU of the seen classes, which training may use.
    pub seen_iou: Option<f64>,
    /// Mean IoU of the unseen classes, which training must not use.
    pub unseen_iou: Option<f64>,
    /// Harmonic mean of both.
    pub harmonic_iou: Option<f64>,
}

impl Metrics {
    /// Computes the metrics of a matrix.
    pub fn of(matrix: &ConfusionMatrix) -> Self {
        let classes: Vec<_> = (0..matrix.classes())
            .map(|class| ClassMetrics::of(matrix, class))
            .collect();
        let sum = |pixels: fn(&ClassMetrics) -> u64| classes.iter().map(pixels).sum();
        Self {
            mean_iou: mean(classes.iter().map(|class| class.iou)),
            pixel_accuracy: ratio(sum(|class| class.intersection_pixels), sum(|class| class.truth_pixels)),
            mean_accuracy: mean(classes.iter().map(|class| class.accuracy)),
            classes,
        }
    }

    /// Computes the zero-shot metrics. `unseen`, `[classes]`, says which classes are unseen.
    pub fn zero_shot(&self, unseen: &[bool]) -> ZeroShot {
        let mean_where = |asked: bool| {
            let classes = self.classes.iter().zip(unseen);
            mean(
                classes
                    .filter(|(_, unseen)| **unseen == asked)
                    .map(|(class, _)| class.iou),
            )
        };
        let (seen_iou, unseen_iou) = (mean_where(false), mean_where(true));
        let harmonic = |(seen, unseen): (f64, f64)| {
            let sum = seen + unseen;
            if sum > 0.0 { 2.0 * seen * unseen / sum } else { 0.0 }
        };
        ZeroShot {
            seen_iou,
            unseen_iou,
            harmonic_iou: seen_iou.zip(unseen_iou).map(harmonic),
        }
    }
}

impl ClassMetrics {
    fn of(matrix: &ConfusionMatrix, class: usize) -> Self {
        let intersection_pixels = matrix.intersection(class);
        let (truth_pixels, predicted_pixels) = (matrix.truth_pixels(class), matrix.predicted_pixels(class));
        Self {
            iou: ratio(
                intersection_pixels,
                truth_pixels + predicted_pixels - intersection_pixels,
            ),
            accuracy: ratio(intersection_pixels, truth_pixels),
            intersection_pixels,
            truth_pixels,
            predicted_pixels,
        }
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Returns the mean of the values that exist, or `None` if none exists.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u64);
    for value in values.flatten() {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::scores::UNLABELLED;

    /// An entry of the file that tools/golden/metrics.py writes: the label maps of some images and the metrics over all
    /// of them.
    #[derive(Deserialize)]
    struct Case {
        name: String,
        classes: usize,
        /// Truth and prediction of each image; -1 means no class.
        images: Vec<(Vec<i32>, Vec<i32>)>,
        mean_iou: Exact,
        pixel_accuracy: Exact,
        mean_accuracy: Exact,
        iou: Vec<Exact>,
        jaccard: Exact,
    }

    /// A metric as text, because serde_json may round the last bit of a number differently.
    #[derive(Deserialize)]
    struct Exact(Option<String>);

    impl Exact {
        fn value(&self) -> Option<f64> {
            let text = self.0.as_deref()?;
            Some(text.parse().expect("a golden figure is a number"))
        }
    }

    fn labels(ids: &[i32]) -> Vec<u16> {
        ids.iter().map(|&id| u16::try_from(id).unwrap_or(UNLABELLED)).collect()
    }

    #[test]
    fn the_figures_are_exactly_those_of_both_definitions() {
        let text = include_str!("../../tests/golden/metrics.json");
        let cases: Vec<Case> = serde_json::from_str(text).expect("the goldens are JSON");
        assert!(cases.len() >= 5);
        for case in cases {
            let mut matrix = ConfusionMatrix::new(case.classes);
            for (truth, predicted) in &case.images {
                let image = ConfusionMatrix::of_image(case.classes, &labels(truth), &labels(predicted));
                assert!(matrix.add(&image.pairs()));
            }
            let metrics = Metrics::of(&matrix);
            let iou: Vec<_> = metrics.classes.iter().map(|class| class.iou).collect();
            let expected: Vec<_> = case.iou.iter().map(Exact::value).collect();
            assert_eq!(iou, expected, "{}", case.name);
            assert_eq!(metrics.mean_iou, case.mean_iou.value(), "{}", case.name);
            assert_eq!(metrics.mean_iou, case.jaccard.value(), "{}", case.name);
            assert_eq!(metrics.pixel_accuracy, case.pixel_accuracy.value(), "{}", case.name);
            assert_eq!(metrics.mean_accuracy, case.mean_accuracy.value(), "{}", case.name);
        }
    }

    #[test]
    fn the_harmonic_mean_needs_both_sides() {
        // Class 0 has the IoU 1/2, class 1 has 1/3, and class 2 does not occur.
        let mut matrix = ConfusionMatrix::new(3);
        assert!(matrix.add(&[(0, 0, 2).into(), (0, 1, 2).into(), (1, 1, 1).into()]));
        let metrics = Metrics::of(&matrix);
        let figures = metrics.zero_shot(&[false, true, true]);
        assert_eq!((figures.seen_iou, figures.unseen_iou), (Some(0.5), Some(1.0 / 3.0)));
        assert!((figures.harmonic_iou.expect("both are there") - 0.4).abs() < 1e-15);
        assert_eq!(metrics.zero_shot(&[false, false, true]).harmonic_iou, None);
    }
}
