//! Pixel-adaptive mask refinement (PAMR: Araslanov, Roth, "Single-stage Semantic Segmentation from Image Labels", CVPR
//! 2020, section 3.3), with the constants that the released code of MaskCLIP's successors shares.
//!
//! Scores move to neighbours of similar colour. Ten times, each pixel becomes the weighted mean of 16 other pixels,
//! without its own score. Time is linear in pixels and in queries. [`bytes()`] has the memory.

use tch::{Kind, Tensor};

use super::{DenseError, go_on};
use crate::support::{to_i64, to_usize};

/// Distances in pixels at which neighbours lie. Each distance has eight directions.
const DISTANCES: [i64; 2] = [8, 16];

/// Number of times that scores spread.
const ITERATIONS: i64 = 10;

/// Differences of colour are divided by this share of the neighbourhood's standard deviation.
const SOFTNESS: f64 = 0.1;

/// Added to the deviation, so that a neighbourhood of one colour does not divide by zero.
const SMALLEST_DEVIATION: f64 = 1e-8;

/// Queries are refined in groups whose scores at the image's size take at most this much memory.
const GROUP_BYTES: i64 = 1 << 23;

/// The eight directions as (down, right).
const DIRECTIONS: [(i64, i64); 8] = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)];

/// Returns about how many values the refinement of `queries` maps of `pixels` pixels computes.
pub(super) fn work(queries: u64, pixels: u64) -> u64 {
    let neighbours = (DIRECTIONS.len() * DISTANCES.len()) as u64;
    // For each neighbour its likeness in three channels, with the mean and the deviation, and the steps of each query.
    let of_neighbour = queries.saturating_mul(ITERATIONS as u64).saturating_add(3 * 8);
    pixels.saturating_mul(neighbours).saturating_mul(of_neighbour)
}

/// Returns the bytes that refining `queries` maps of `[height, width]` pixels takes at most, those maps included: while the
/// weights are computed, or later.
pub(super) fn bytes(queries: u64, [height, width]: [u64; 2]) -> u64 {
    let margin = DISTANCES.into_iter().max().map_or(0, to_usize) as u64;
    let padded = height
        .saturating_add(2 * margin)
        .saturating_mul(width.saturating_add(2 * margin));
    let pixels = height.saturating_mul(width);
    let neighbours = (DIRECTIONS.len() * DISTANCES.len()) as u64;
    // The likeness to each neighbour, and the image of three channels: as it is, padded, its deviation, and three steps
    // of the likeness to one neighbour.
    let weighing = pixels
        .saturating_mul(neighbours + 3 * 5 + 1)
        .saturating_add(padded.saturating_mul(3));
    // The weights, all scores, and those of a group: as they were given, before and after a step, and padded.
    let map_bytes = pixels.saturating_mul(4).max(1);
    let group = (GROUP_BYTES as u64 / map_bytes).max(1).min(queries);
    let spreading = pixels
        .saturating_mul(queries.saturating_add(neighbours + 3 * group))
        .saturating_add(padded.saturating_mul(group));
    weighing.max(spreading).saturating_mul(4)
}

/// The weight of each neighbour in the mean of each pixel of one image.
#[derive(Debug)]
pub(super) struct PixelAffinity {
    /// The weights, `[neighbours, height, width]`, which sum to 1 over the neighbours.
    weights: Tensor,
    /// The distances of the neighbours, in their order: eight neighbours for each distance.
    distances: Vec<i64>,
}

impl PixelAffinity {
    /// Computes the affinity of an image, `[channels, height, width]`. The scale of its values does not matter.
    ///
    /// # Errors
    /// [`DenseError::Stopped`] when `stop` returns true.
    ///
    /// # Panics
    /// Panics when the image has another shape, or when libtorch fails.
    pub(super) fn of(image: &Tensor, stop: &dyn Fn() -> bool) -> Result<Self, DenseError> {
        Self::at_distances(image, &DISTANCES, stop)
    }

    fn at_distances(image: &Tensor, distances: &[i64], stop: &dyn Fn() -> bool) -> Result<Self, DenseError> {
        let likeness = Self::likeness(&image.to_kind(Kind::Float), distances, stop)?;
        go_on(stop)?;
        Ok(Self {
            weights: likeness.softmax(0, Kind::Float),
            distances: distances.to_vec(),
        })
    }

    /// Returns how like each pixel is to each of its neighbours, `[neighbours, height, width]`: 0 for the same colour,
    /// and less for others.
    fn likeness(image: &Tensor, distances: &[i64], stop: &dyn Fn() -> bool) -> Result<Tensor, DenseError> {
        let neighbours = Neighbours::of(image, distances);
        // The deviation is taken over whole patterns, in which the centre occurs once for each distance.
        let patterns = || {
            neighbours
                .views()
                .chain(distances.iter().map(|_| image.shallow_clone()))
        };
        let count = patterns().count() as f64;
        let mean = sum(patterns(), stop)? / count;
        let variance = sum(patterns().map(|value| (value - &mean).square()), stop)? / (count - 1.0);
        let unit = variance.sqrt() * SOFTNESS + SMALLEST_DEVIATION; // [channels, height, width]
        drop((mean, variance));
        let (_, height, width) = image.size3().expect("an image is [channels, height, width]");
        let count = to_i64(DIRECTIONS.len() * distances.len());
        // Filled in place, since a stack of maps would take their memory twice.
        let likeness = Tensor::empty([count, height, width], (Kind::Float, image.device()));
        for (index, neighbour) in (0..).zip(neighbours.views()) {
            go_on(stop)?;
            let of_neighbour = -((neighbour - image).abs() / &unit).mean_dim(0, false, Kind::Float);
            likeness.get(index).copy_(&of_neighbour);
        }
        Ok(likeness)
    }

    /// Returns how many queries are refined at a time: as many as [`GROUP_BYTES`] allows, and at least one.
    pub(super) fn together(&self) -> i64 {
        let (_, height, width) = self.weights.size3().expect("weights have three dimensions");
        (GROUP_BYTES / (4 * height * width)).max(1)
    }

    /// Refines scores, `[queries, height, width]` at the image's size. Returns the same shape in float32. The released
    /// codes refine cosines, before scale and softmax. The refined scores of a query stay in the range of its scores.
    ///
    /// # Errors
    /// [`DenseError::Stopped`] when `stop` returns true.
    ///
    /// # Panics
    /// Panics when the size is not that of the image, or when libtorch fails.
    pub(super) fn refine(&self, scores: &Tensor, stop: &dyn Fn() -> bool) -> Result<Tensor, DenseError> {
        let (_, height, width) = scores.size3().expect("scores are [queries, height, width]");
        let (_, image_height, image_width) = self.weights.size3().expect("weights have three dimensions");
        assert_eq!(
            (height, width),
            (image_height, image_width),
            "scores have the size of the image"
        );
        let refined = scores.split(self.together(), 0);
        let refined = refined.iter().map(|group| {
            let group = group.to_kind(Kind::Float);
            (0..ITERATIONS).try_fold(group, |scores, _| self.spread(&scores, stop))
        });
        let refined: Vec<_> = refined.collect::<Result<_, _>>()?;
        Ok(Tensor::cat(&refined, 0))
    }

    /// Does one step, `s_x <- sum_y w_xy s_y`, on `[queries, height, width]` and keeps the shape.
    fn spread(&self, scores: &Tensor, stop: &dyn Fn() -> bool) -> Result<Tensor, DenseError> {
        let neighbours = Neighbours::of(scores, &self.distances);
        let mut spread = scores.zeros_like();
        for (index, neighbour) in (0..).zip(neighbours.views()) {
            go_on(stop)?;
            let _ = spread.addcmul_(&self.weights.get(index), &neighbour); // [height, width] * [queries, height, width]
        }
        Ok(spread)
    }
}

/// The neighbours of a map in every direction, with coordinates clamped to the border.
struct Neighbours<'distances> {
    /// The maps with the values of the border repeated outwards, `[maps, height + 2 margin, width + 2 margin]`.
    padded: Tensor,
    margin: i64,
    height: i64,
    width: i64,
    distances: &'distances [i64],
}

impl<'distances> Neighbours<'distances> {
    /// Pads maps `[maps, height, width]`.
    fn of(maps: &Tensor, distances: &'distances [i64]) -> Self {
        let (_, height, width) = maps.size3().expect("maps have three dimensions");
        let margin = distances.iter().copied().max().expect("there is a distance");
        Self {
            padded: maps.replication_pad2d([margin, margin, margin, margin]),
            margin,
            height,
            width,
            distances,
        }
    }

    /// Returns the map of each neighbour, `[maps, height, width]`, distance by distance.
    fn views(&self) -> impl Iterator<Item = Tensor> {
        self.distances.iter().flat_map(move |distance| {
            DIRECTIONS.iter().map(move |(down, right)| {
                self.padded
                    .narrow(1, self.margin + down * distance, self.height)
                    .narrow(2, self.margin + right * distance, self.width)
            })
        })
    }
}

fn sum(mut tensors: impl Iterator<Item = Tensor>, stop: &dyn Fn() -> bool) -> Result<Tensor, DenseError> {
    let first = tensors.next().expect("a pattern is never empty");
    tensors.try_fold(first, |sum, tensor| {
        go_on(stop)?;
        Ok(sum + tensor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::tensors::floats;
    use tch::Device;

    fn noise(shape: &[i64]) -> Tensor {
        let count: i64 = shape.iter().product();
        // Without a random generator: the fractional parts of multiples of the golden ratio.
        (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.618_033_988_749_895)
            .frac()
            .to_kind(Kind::Float)
            .view(shape)
    }

    fn largest_difference(one: &Tensor, other: &Tensor) -> f64 {
        (one - other).abs().max().double_value(&[])
    }

    fn affinity_of(image: &Tensor) -> PixelAffinity {
        PixelAffinity::of(image, &|| false).expect("nothing stops it")
    }

    fn refine(affinity: &PixelAffinity, scores: &Tensor) -> Tensor {
        affinity.refine(scores, &|| false).expect("nothing stops it")
    }

    #[test]
    fn in_an_image_of_one_colour_all_neighbours_count_alike() {
        let affinity = affinity_of(&Tensor::full([3, 5, 40], 0.7, (Kind::Float, Device::Cpu)));
        assert_eq!(affinity.weights.size(), [16, 5, 40]);
        assert!(largest_difference(&affinity.weights, &Tensor::from(1f32 / 16.0)) < 1e-7);
    }

    /// The pattern 0 to 8 on 3 x 3 pixels has the deviation sqrt(60 / 8) = 2.738613 at its centre.
    #[test]
    fn the_weights_of_a_ramp_are_the_papers() {
        let image = Tensor::arange(9, (Kind::Float, Device::Cpu)).view([1, 3, 3]);
        let affinity = PixelAffinity::at_distances(&image, &[1], &|| false).expect("nothing stops it");
        let centre = floats(&affinity.weights.select(1, 1).select(1, 1));
        let expected = [
            0.000_009, 0.000_328, 0.012_640, 0.487_024, 0.487_024, 0.012_640, 0.000_328, 0.000_009,
        ];
        for (found, expected) in centre.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    #[test]
    fn constant_scores_stay_and_others_keep_within_their_range() {
        let affinity = affinity_of(&noise(&[3, 24, 31]));
        let constant = Tensor::full([1, 24, 31], -0.3, (Kind::Float, Device::Cpu));
        assert!(largest_difference(&refine(&affinity, &constant), &constant) < 1e-6);

        let scores = noise(&[2, 24, 31]);
        let refined = refine(&affinity, &scores);
        assert!(refined.min().double_value(&[]) >= scores.min().double_value(&[]));
        assert!(refined.max().double_value(&[]) <= scores.max().double_value(&[]));
        assert!(largest_difference(&refined, &scores) > 0.1);
    }

    #[test]
    fn the_scale_of_the_image_changes_nothing() {
        let image = noise(&[3, 24, 31]);
        let [once, thrice] = [1.0, 3.0].map(|scale| affinity_of(&(&image * scale)).weights);
        assert!(largest_difference(&once, &thrice) < 1e-5);
    }

    #[test]
    fn scores_stop_at_an_edge_of_the_image() {
        // The left half is dark and the right half is bright. The edge of the scores lies four columns to the left.
        let columns = Tensor::arange(64, (Kind::Float, Device::Cpu)).expand([1, 40, 64], false);
        let image = columns.ge(32.0).to_kind(Kind::Float);
        let scores = columns.ge(28.0).to_kind(Kind::Float);
        let refined = refine(&affinity_of(&image), &scores);
        let means = |from: i64, width: i64| refined.narrow(2, from, width).mean(Kind::Float).double_value(&[]);
        assert!(means(28, 4) < 0.4, "{} left of the edge", means(28, 4));
        assert!(means(32, 32) > 0.99, "{} right of it", means(32, 32));
    }

    /// Pixels beyond the reach of all steps together do not affect a pixel's result.
    #[test]
    fn scores_move_as_far_as_the_steps_reach_and_no_further() {
        const REACH: i64 = ITERATIONS * DISTANCES[1];
        let (image, scores) = (noise(&[3, 400, 12]), noise(&[1, 400, 12]));
        let whole = refine(&affinity_of(&image), &scores);
        let with_reach = 20 + REACH;
        let band = refine(
            &affinity_of(&image.narrow(1, 0, with_reach)),
            &scores.narrow(1, 0, with_reach),
        );
        assert!(largest_difference(&band.narrow(1, 0, 20), &whole.narrow(1, 0, 20)) < 1e-6);
        assert!(largest_difference(&band.narrow(1, 160, 20), &whole.narrow(1, 160, 20)) > 1e-6);
    }

    #[test]
    fn queries_are_refined_each_on_its_own() {
        let affinity = affinity_of(&noise(&[3, 24, 31]));
        let scores = noise(&[3, 24, 31]);
        let alone = refine(&affinity, &scores.narrow(0, 1, 1));
        assert_eq!(floats(&alone), floats(&refine(&affinity, &scores).narrow(0, 1, 1)));
    }
}
