//! Decides whether waiting images share a pass through the model, from the times of past passes.
//!
//! A batch speeds up a device that a single small image leaves partly idle. Where one image keeps the device busy, a
//! batch gains nothing, or loses because it no longer fits the caches. Model, device and size decide which case holds.
//! So the worker times passes of both kinds and then takes the faster kind. This file owns these times and the choice.
//! The worker collects the jobs that wait already; no job ever waits for another to arrive.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;

use crate::dense::{BATCH_PIXELS, FeatureOptions};
use crate::image::ModelInput;

/// Number of shapes whose times are kept.
const SHAPES: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");

/// Number of the latest passes of each kind whose times are kept. The fastest of them counts, because other load on the
/// machine only adds to a time.
const KEPT_PASSES: usize = 8;

/// Passes of each kind that are timed before the first choice. The first pass of a shape is slower than all others.
const FEWEST_PASSES: usize = 3;

/// Every n-th choice tries the slower kind again: the balance may have shifted.
const RETRY: u64 = 32;

/// What decides how long a pass takes. All images of a pass have it in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PassShape {
    /// Height and width of the input in pixels, at each scale.
    sizes: Vec<(usize, usize)>,
    options: FeatureOptions,
}

impl PassShape {
    pub(super) fn of(input: &ModelInput, options: &FeatureOptions) -> Self {
        Self {
            sizes: input.sizes.iter().map(|image| (image.height, image.width)).collect(),
            options: *options,
        }
    }

    /// Returns the number of images that make a full batch, at least one.
    fn full(&self) -> usize {
        let pixels: usize = self.sizes.iter().map(|(height, width)| height * width).sum();
        (BATCH_PIXELS / pixels.max(1)).max(1)
    }
}

/// The times of one worker's past passes.
#[derive(Debug)]
pub(super) struct Batching {
    /// `engine.max_batch`.
    max_images: usize,
    past: LruCache<PassShape, Past>,
}

#[derive(Debug, Default)]
struct Past {
    alone: Passes,
    together: Passes,
    /// How often a choice was made between the two kinds.
    choices: u64,
}

/// Seconds per image of the latest passes, oldest first.
#[derive(Debug, Default)]
struct Passes(VecDeque<f64>);

impl Batching {
    /// Starts without times. A pass never has more than `max_images` images, which is at least 1.
    pub(super) fn new(max_images: usize) -> Self {
        Self {
            max_images,
            past: LruCache::new(SHAPES),
        }
    }

    /// Returns how many of the `waiting` images of a shape share the next pass, at least one. `waiting` is at least 1.
    pub(super) fn images(&mut self, shape: &PassShape, waiting: usize) -> usize {
        let most = waiting.min(self.max_images).min(shape.full());
        if most < 2 {
            return 1;
        }
        let past = self.past.get_or_insert_mut(shape.clone(), Past::default);
        let together = match (past.alone.fastest(), past.together.fastest()) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(alone), Some(together)) => {
                past.choices += 1;
                (together < alone) != past.choices.is_multiple_of(RETRY)
            }
        };
        if together { most } else { 1 }
    }

    /// Records how long a pass of `images` images took.
    pub(super) fn record(&mut self, shape: PassShape, images: usize, elapsed: Duration) {
        if self.max_images < 2 {
            return;
        }
        let past = self.past.get_or_insert_mut(shape, Past::default);
        let passes = if images == 1 {
            &mut past.alone
        } else {
            &mut past.together
        };
        passes.0.push_back(elapsed.as_secs_f64() / images as f64);
        if passes.0.len() > KEPT_PASSES {
            passes.0.pop_front();
        }
    }
}

impl Passes {
    /// Returns the fastest time in seconds per image, or `None` while fewer than [`FEWEST_PASSES`] were timed.
    fn fastest(&self) -> Option<f64> {
        let enough = self.0.len() >= FEWEST_PASSES;
        enough.then(|| self.0.iter().copied().fold(f64::INFINITY, f64::min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::Attention;
    use crate::image::NormalisedImage;

    fn shape(side: usize) -> PassShape {
        let image = NormalisedImage {
            height: side,
            width: side,
            values: Vec::new(),
        };
        let input = ModelInput {
            image_height: side,
            image_width: side,
            sizes: vec![image],
        };
        PassShape::of(&input, &FeatureOptions::default())
    }

    /// Simulates a worker that always finds `waiting` images of one shape, on a device that takes `alone` milliseconds
    /// for a single image and `together` milliseconds per image of a batch. Returns the number of images of each of
    /// `count` passes.
    fn passes(batching: &mut Batching, waiting: usize, [alone, together]: [u64; 2], count: usize) -> Vec<usize> {
        let shape = shape(256);
        let pass = |_| {
            let images = batching.images(&shape, waiting);
            let each = if images == 1 { alone } else { together };
            batching.record(shape.clone(), images, Duration::from_millis(each * images as u64));
            images
        };
        (0..count).map(pass).collect()
    }

    #[test]
    fn both_ways_are_tried_and_the_faster_one_stays() {
        let faster_together = passes(&mut Batching::new(4), 10, [10, 5], 30);
        assert_eq!(faster_together[..6], [1, 1, 1, 4, 4, 4]);
        assert!(faster_together[6..].iter().all(|&images| images == 4));
        let faster_alone = passes(&mut Batching::new(4), 10, [10, 11], 30);
        assert_eq!(faster_alone[..6], [1, 1, 1, 4, 4, 4]);
        assert!(faster_alone[6..].iter().all(|&images| images == 1));
    }

    #[test]
    fn the_slower_way_is_tried_again_and_may_have_become_the_faster_one() {
        let mut batching = Batching::new(4);
        passes(&mut batching, 10, [10, 11], 30);
        let later = passes(&mut batching, 10, [10, 5], 40);
        assert_eq!(later.iter().position(|&images| images == 4), Some(7));
        assert!(later[8..].iter().filter(|&&images| images == 4).count() > 30);
    }

    #[test]
    fn a_single_slow_pass_decides_nothing() {
        let mut batching = Batching::new(4);
        passes(&mut batching, 10, [10, 5], 30);
        batching.record(shape(256), 4, Duration::from_secs(1));
        assert_eq!(batching.images(&shape(256), 10), 4);
    }

    #[test]
    fn a_lone_image_and_one_that_fills_a_batch_pass_alone() {
        let mut batching = Batching::new(4);
        passes(&mut batching, 10, [10, 5], 30);
        assert_eq!(batching.images(&shape(256), 1), 1);
        assert_eq!(batching.images(&shape(256), 3), 3);
        assert!(
            passes(&mut Batching::new(1), 10, [10, 5], 30)
                .iter()
                .all(|&images| images == 1)
        );
        for _ in 0..10 {
            batching.record(shape(1024), 1, Duration::from_millis(10));
        }
        assert_eq!(batching.images(&shape(1024), 10), 1);
    }

    #[test]
    fn what_the_model_computes_is_part_of_the_shape() {
        let image = |attention| {
            let options = FeatureOptions {
                attention,
                ..FeatureOptions::default()
            };
            let input = ModelInput {
                image_height: 1,
                image_width: 1,
                sizes: Vec::new(),
            };
            PassShape::of(&input, &options)
        };
        assert_eq!(image(Attention::Clip), image(Attention::Clip));
        assert_ne!(image(Attention::Clip), image(Attention::Maskclip));
    }
}
