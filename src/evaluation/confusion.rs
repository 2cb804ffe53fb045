//! Counts of pixels by true and predicted class: per image as pairs, per run as a matrix.

use serde::{Deserialize, Serialize};

use crate::scores::UNLABELLED;

/// The number of an image's pixels with one true class and one predicted class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(u16, u16, u64)", into = "(u16, u16, u64)")]
pub struct PairCount {
    /// The pixels' class in the truth.
    pub truth: u16,
    /// The pixels' class in the label map, or [`UNLABELLED`].
    pub predicted: u16,
    /// The number of pixels.
    pub pixels: u64,
}

impl From<(u16, u16, u64)> for PairCount {
    fn from((truth, predicted, pixels): (u16, u16, u64)) -> Self {
        Self {
            truth,
            predicted,
            pixels,
        }
    }
}

impl From<PairCount> for (u16, u16, u64) {
    fn from(count: PairCount) -> Self {
        (count.truth, count.predicted, count.pixels)
    }
}

/// Numbers of pixels by true class and predicted class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    classes: usize,
    /// `[classes, classes + 1]`, row-major: one row per true class, and a last column for pixels without a predicted
    /// class.
    counts: Vec<u64>,
}

impl ConfusionMatrix {
    /// Creates a matrix of zeros.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * (classes + 1)],
        }
    }

    /// Counts one image. `truth` and `predicted` are class ids or [`UNLABELLED`], one per pixel. Pixels that are
    /// unlabelled in the truth do not count.
    ///
    /// # Panics
    /// When the two differ in length, or an id is not a class. Both are checked when they are read.
    pub fn of_image(classes: usize, truth: &[u16], predicted: &[u16]) -> Self {
        assert_eq!(truth.len(), predicted.len(), "truth and prediction have one size");
        let mut matrix = Self::new(classes);
        for (&truth, &predicted) in truth.iter().zip(predicted).filter(|(truth, _)| **truth != UNLABELLED) {
            *matrix.at(truth, predicted) += 1;
        }
        matrix
    }

    /// Returns the number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Returns the pairs with at least one pixel, ordered by true class, then by predicted class.
    pub fn pairs(&self) -> Vec<PairCount> {
        let columns = self.classes + 1;
        let occurring = self.counts.iter().enumerate().filter(|(_, pixels)| **pixels > 0);
        occurring
            .map(|(place, &pixels)| PairCount {
                truth: id(place / columns),
                predicted: if place % columns == self.classes {
                    UNLABELLED
                } else {
                    id(place % columns)
                },
                pixels,
            })
            .collect()
    }

    /// Adds the pairs of an image. Returns false and adds nothing if a pair names a class that does not exist.
    #[must_use]
    pub fn add(&mut self, pairs: &[PairCount]) -> bool {
        let exists = |class: u16| usize::from(class) < self.classes;
        let valid = |pair: &PairCount| exists(pair.truth) && (exists(pair.predicted) || pair.predicted == UNLABELLED);
        if !pairs.iter().all(valid) {
            return false;
        }
        for pair in pairs {
            *self.at(pair.truth, pair.predicted) += pair.pixels;
        }
        true
    }

    /// Returns the number of the class's pixels that were predicted as this class.
    pub fn intersection(&self, class: usize) -> u64 {
        self.counts[class * (self.classes + 1) + class]
    }

    /// Returns the number of the class's pixels in the truth.
    pub fn truth_pixels(&self, class: usize) -> u64 {
        self.counts[class * (self.classes + 1)..][..=self.classes].iter().sum()
    }

    /// Returns the number of pixels that were predicted as the class, without those that are unlabelled in the truth.
    pub fn predicted_pixels(&self, class: usize) -> u64 {
        self.counts.iter().skip(class).step_by(self.classes + 1).sum()
    }

    fn at(&mut self, truth: u16, predicted: u16) -> &mut u64 {
        let column = if predicted == UNLABELLED {
            self.classes
        } else {
            usize::from(predicted)
        };
        assert!(
            usize::from(truth) < self.classes && column <= self.classes,
            "ids are classes"
        );
        &mut self.counts[usize::from(truth) * (self.classes + 1) + column]
    }
}

fn id(class: usize) -> u16 {
    u16::try_from(class).expect("a list has at most 65535 classes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: u16 = UNLABELLED;

    #[test]
    fn what_the_truth_leaves_open_is_not_counted_and_no_class_is_counted_against() {
        let matrix = ConfusionMatrix::of_image(3, &[0, 0, 1, N, 2, 2], &[0, 1, 1, 1, N, 2]);
        let sums = |of: fn(&ConfusionMatrix, usize) -> u64| [0, 1, 2].map(|class| of(&matrix, class));
        assert_eq!(sums(ConfusionMatrix::intersection), [1, 1, 1]);
        assert_eq!(sums(ConfusionMatrix::truth_pixels), [2, 1, 2]);
        assert_eq!(sums(ConfusionMatrix::predicted_pixels), [1, 2, 1]);
    }

    #[test]
    fn pairs_say_all_that_the_matrix_says() {
        let image = ConfusionMatrix::of_image(3, &[0, 0, 1, N, 2, 2], &[0, 1, 1, 1, N, 2]);
        let pairs = image.pairs();
        let expected = [(0, 0, 1), (0, 1, 1), (1, 1, 1), (2, 2, 1), (2, N, 1)];
        assert_eq!(pairs, expected.map(PairCount::from));
        let mut sum = ConfusionMatrix::new(3);
        assert!(sum.add(&pairs));
        assert_eq!(sum, image);
    }

    #[test]
    fn pairs_of_other_classes_are_refused_whole() {
        let mut matrix = ConfusionMatrix::new(2);
        for foreign in [(2, 0, 1), (0, 2, 1), (N, 0, 1)] {
            assert!(!matrix.add(&[(0, 0, 1).into(), foreign.into()]), "{foreign:?}");
        }
        assert_eq!(matrix, ConfusionMatrix::new(2));
    }
}
