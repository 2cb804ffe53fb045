//! Counts per class of one label map, gathered by several threads and merged.

use super::ClassStatistics;

/// The number 1.0 in the fixed-point sums of confidence.
///
/// Sums of integers do not depend on their order, so the mean is the same for every distribution of rows over threads.
/// 30 bits are finer than a float32 probability near 1 and leave room for 2^34 pixels.
const ONE: f64 = (1 << 30) as f64;

/// The counts of every class.
pub(super) struct Statistics {
    classes: Vec<Tally>,
}

/// The counts of one class.
#[derive(Clone, Copy)]
struct Tally {
    pixels: u64,
    left: u32,
    top: u32,
    right: u32,
    bottom: u32,
    /// The sum of the probabilities over the class's pixels, in units of 1 / [`ONE`].
    confidence_sum: u64,
    max_confidence: f32,
    presence: f32,
}

impl Tally {
    const EMPTY: Self = Self {
        pixels: 0,
        left: u32::MAX,
        top: u32::MAX,
        right: 0,
        bottom: 0,
        confidence_sum: 0,
        max_confidence: 0.0,
        presence: 0.0,
    };

    fn merge(self, other: Self) -> Self {
        Self {
            pixels: self.pixels + other.pixels,
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
            confidence_sum: self.confidence_sum + other.confidence_sum,
            max_confidence: self.max_confidence.max(other.max_confidence),
            presence: self.presence.max(other.presence),
        }
    }

    fn finish(self) -> ClassStatistics {
        let present = self.pixels > 0;
        ClassStatistics {
            pixels: self.pixels,
            bounding_box: present.then(|| {
                [
                    self.left,
                    self.top,
                    self.right - self.left + 1,
                    self.bottom - self.top + 1,
                ]
            }),
            mean_confidence: present.then(|| (self.confidence_sum as f64 / ONE / self.pixels as f64) as f32),
            max_confidence: present.then_some(self.max_confidence),
            presence: self.presence,
        }
    }
}

impl Statistics {
    /// Creates empty counts for classes 0 to `classes - 1`.
    pub fn new(classes: usize) -> Self {
        Self {
            classes: vec![Tally::EMPTY; classes],
        }
    }

    /// Counts a run of pixels for their owner, in row `y` from `x` on. Owners past the last class are not counted.
    pub fn note_run(&mut self, owner: usize, x: usize, y: usize, probabilities: &[f32]) {
        if let Some(tally) = self.classes.get_mut(owner) {
            // The product is exact, because the factor is a power of two. The conversion cuts it off at the unit of the
            // sum.
            let in_units = |&probability: &f32| u64::from((probability * ONE as f32) as u32);
            *tally = tally.merge(Tally {
                pixels: probabilities.len() as u64,
                left: x as u32,
                top: y as u32,
                right: (x + probabilities.len() - 1) as u32,
                bottom: y as u32,
                confidence_sum: probabilities.iter().map(in_units).sum(),
                max_confidence: probabilities.iter().copied().fold(0.0, f32::max),
                presence: 0.0,
            });
        }
    }

    /// Notes that the owner has at least this probability somewhere.
    pub fn note_presence(&mut self, owner: usize, probability: f32) {
        if let Some(tally) = self.classes.get_mut(owner) {
            tally.presence = tally.presence.max(probability);
        }
    }

    /// Adds the counts of `other`. The order does not matter.
    pub fn merge(mut self, other: Self) -> Self {
        for (tally, other) in self.classes.iter_mut().zip(other.classes) {
            *tally = tally.merge(other);
        }
        self
    }

    /// Returns the results in the order of class ids.
    pub fn finish(self) -> Vec<ClassStatistics> {
        self.classes.into_iter().map(Tally::finish).collect()
    }
}
