//! The pass over the image. The scores and options become a plan, and the rows of the plan are shared out among
//! threads.
//!
//! Scores at the image's size never exist as a whole: 171 classes at 2048 x 1536 would take 2.1 GB. For each row of the
//! image, the rows of the grids are blended into one of `[queries, cells of a row]`. Each tile of the row picks the
//! queries that matter in it ([`candidates`]). Then one block of pixels at a time goes through interpolation,
//! probabilities and argmax ([`worker`]).

mod candidates;
mod worker;

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use self::worker::Worker;
use super::instructions::Instructions;
use super::interpolation::Interpolation;
use super::statistics::Statistics;
use super::{LabelMap, LabelMapOptions, ProbabilityMap};
use crate::scores::{QueryOwner, ScoreKind, ScoreMap, UNLABELLED};

/// Most rows that one task takes at a time.
const BAND_ROWS: usize = 8;

/// Products of queries and pixels that one thread labels at a time: at most about 20 ms of work. Then other label maps
/// that wait for the same threads get their turn, and the caller is asked whether to go on.
const SLICE_WORK: usize = 1 << 25;

/// Labels every pixel of the image.
///
/// Scores are interpolated bilinearly (corners not aligned) to the image's size, as PyTorch's `F.interpolate` does.
/// Scores of [`Windows`](crate::scores::Windows) go through the pixels of the input first. The mean over the grids
/// becomes probabilities per pixel as [`ScoreKind`] says. The probability of an owner is the largest of its queries'
/// probabilities. The pixel takes the owner with the largest probability. Among equals, the lowest class id wins, and a
/// class wins against the background. When [`LabelMapOptions::background_label`] is a class id, background queries
/// count as queries of that class.
///
/// With [`LabelMapOptions::smallest_area`] there are two passes over the image. The first counts the pixels of each
/// class without the threshold. Then the probabilities of classes with too few pixels become 0, those of all others
/// stay, and the second pass writes the labels (SCLIP's area rule).
///
/// A pixel without evidence is background with probability 0. Its weights are all 0 or below, or its scores are not
/// finite. A score that is not finite may affect up to 15 pixels beside its own.
///
/// The work runs on the threads of the rayon pool in which the function is called. The result does not depend on their
/// number, to the last bit. It does depend on the width of the processor's vectors, by rounding.
///
/// # Accuracy
///
/// A label equals that of exact arithmetic if the best two probabilities differ by enough, and if the best probability
/// and the threshold do. Enough is more than 1e-6 and the rounding of float32 scores, which is that of the
/// interpolation, about 1e-7 of the largest logit. A probability is off by at most as much. This includes the error of
/// the exponential and the queries that are left out of a softmax. All of these together could not change it by 5e-7,
/// and their own probabilities, below that, count as 0.
///
/// # Example
///
/// Two classes on a grid of 1 x 2 cells, seen at 2 x 4 pixels:
///
/// ```
/// use maskclip::label_map::{LabelMapOptions, label_map};
/// use maskclip::scores::{QueryOwner, ScoreGrid, ScoreKind, ScoreMap, UNLABELLED};
///
/// let scores = ScoreMap {
///     kind: ScoreKind::Logits,
///     queries: 2,
///     grids: vec![ScoreGrid {
///         height: 1,
///         width: 2,
///         windows: None,
///         values: vec![9.0, 1.0, 2.0, 8.0], // the first class scores 9 and 1, the second 2 and 8
///     }],
/// };
/// let options = LabelMapOptions {
///     width: 4,
///     height: 2,
///     classes: 2,
///     background_label: UNLABELLED,
///     background_threshold: 0.0,
///     smallest_area: 0.0,
///     confidence_map: false,
/// };
/// let map = label_map(&scores, &[QueryOwner::Class(0), QueryOwner::Class(1)], &options);
/// assert_eq!(map.labels, [0, 0, 1, 1, 0, 0, 1, 1]);
/// assert_eq!(map.classes[1].bounding_box, Some([2, 0, 2, 2]));
/// ```
///
/// # Panics
///
/// Panics when the arguments contradict each other, which is a defect of the caller: no classes, no queries or no grid,
/// an owner or a background label that is not a class, values that are not `[queries, height, width]`, cells that the
/// grid's windows cannot share equally, or a side of length 0.
pub fn label_map(scores: &ScoreMap, owners: &[QueryOwner], options: &LabelMapOptions) -> LabelMap {
    label_map_unless(scores, owners, options, &|| false).expect("nothing stops it")
}

/// Does the same as [`label_map`], unless `stop` returns true: then it returns `None` within about 20 ms of work per
/// thread. Between such slices of work, other label maps get their turn on the threads.
///
/// # Panics
///
/// The same as [`label_map`].
pub fn label_map_unless(
    scores: &ScoreMap,
    owners: &[QueryOwner],
    options: &LabelMapOptions,
    stop: &dyn Fn() -> bool,
) -> Option<LabelMap> {
    let labelled = label_map_with_probabilities(scores, owners, options, &[], stop);
    labelled.map(|(map, _)| map)
}

/// Does the same as [`label_map_unless`], and returns the probabilities of these classes in every pixel as well, in the
/// order of `classes`: a byte for each class and pixel.
///
/// A class has its probability whichever class wins a pixel, and whatever the threshold says. A class that
/// [`LabelMapOptions::smallest_area`] drops has the probability 0 everywhere.
///
/// # Panics
///
/// The same as [`label_map`], and when one of the classes does not exist.
pub fn label_map_with_probabilities(
    scores: &ScoreMap,
    owners: &[QueryOwner],
    options: &LabelMapOptions,
    classes: &[u16],
    stop: &dyn Fn() -> bool,
) -> Option<(LabelMap, Vec<ProbabilityMap>)> {
    check(scores, owners, options);
    assert!(
        classes.iter().all(|&id| usize::from(id) < options.classes),
        "a class whose probabilities are wanted does not exist"
    );
    let mut plan = Plan::new(Instructions::widest(), scores, owners, options);
    plan.wanted = classes;
    plan.carry_out(stop)
}

/// Does one pass over the image, unless `stop` returns true before one of its slices.
fn label(plan: &Plan<'_>, stop: &dyn Fn() -> bool) -> Option<(LabelMap, Vec<ProbabilityMap>)> {
    let options = plan.options;
    let (width, height) = (options.width as usize, options.height as usize);
    let mut labels = vec![UNLABELLED; width * height];
    let mut confidence = options.confidence_map.then(|| vec![0; width * height]);
    let empty = |&class_id| ProbabilityMap {
        class_id,
        values: vec![0; width * height],
    };
    let mut probabilities: Vec<_> = plan.wanted.iter().map(empty).collect();
    let slicing = Slicing::of(plan);
    // A worker goes from slice to slice, so that its buffers are filled once.
    let idle = Mutex::new(Vec::new());
    let take_worker = || idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let pixels = Pixels {
        labels: &mut labels,
        confidence: confidence.as_deref_mut(),
        probabilities: &mut probabilities,
    };
    let mut bands = pixels.bands(width, slicing.band_rows);
    for slice in bands.chunks_mut(slicing.bands) {
        if stop() {
            return None;
        }
        slice
            .par_iter_mut()
            .fold(
                || take_worker().unwrap_or_else(|| Worker::new(plan)),
                |mut worker, band| {
                    band.label(&mut worker, width);
                    worker
                },
            )
            .for_each(|worker| idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker));
    }
    let workers = idle.into_inner().unwrap_or_else(PoisonError::into_inner);
    let statistics = workers.into_iter().map(Worker::finish);
    let statistics = statistics.fold(Statistics::new(options.classes), Statistics::merge);
    let map = LabelMap {
        width: options.width,
        height: options.height,
        labels,
        confidence,
        classes: statistics.finish(),
    };
    Some((map, probabilities))
}

/// What a pass writes for each pixel, `[height, width]` each.
struct Pixels<'a> {
    labels: &'a mut [u16],
    confidence: Option<&'a mut [u8]>,
    probabilities: &'a mut [ProbabilityMap],
}

/// Some rows of the image, which one task labels.
struct Band<'a> {
    /// The first row.
    top: usize,
    labels: &'a mut [u16],
    /// The confidence of the same pixels; `None` if it was not asked for.
    confidence: Option<&'a mut [u8]>,
    /// The probabilities of the same pixels for each class for which they are wanted.
    probabilities: Vec<&'a mut [u8]>,
}

impl Band<'_> {
    fn label(&mut self, worker: &mut Worker<'_>, width: usize) {
        let mut confidence = self.confidence.as_deref_mut().map(|rows| rows.chunks_exact_mut(width));
        let probabilities = self.probabilities.iter_mut();
        let mut probabilities: Vec<_> = probabilities.map(|rows| rows.chunks_exact_mut(width)).collect();
        for (row, labels) in (self.top..).zip(self.labels.chunks_exact_mut(width)) {
            let probabilities = probabilities.iter_mut().filter_map(Iterator::next).collect();
            worker.label_row(row, labels, confidence.as_mut().and_then(Iterator::next), probabilities);
        }
    }
}

impl<'a> Pixels<'a> {
    /// Divides an image into bands of `rows` rows.
    fn bands(self, width: usize, rows: usize) -> Vec<Band<'a>> {
        let mut confidence = self.confidence.map(|confidence| confidence.chunks_mut(width * rows));
        let probabilities = self.probabilities.iter_mut();
        let mut probabilities: Vec<_> = probabilities.map(|map| map.values.chunks_mut(width * rows)).collect();
        let labels = self.labels.chunks_mut(width * rows).enumerate();
        let band = |(index, labels)| Band {
            top: index * rows,
            labels,
            confidence: confidence.as_mut().and_then(Iterator::next),
            probabilities: probabilities.iter_mut().filter_map(Iterator::next).collect(),
        };
        labels.map(band).collect()
    }
}

/// How a pass is divided into work for threads.
struct Slicing {
    /// Rows of a band.
    band_rows: usize,
    /// Bands of a slice.
    bands: usize,
}

impl Slicing {
    fn of(plan: &Plan<'_>) -> Self {
        let threads = rayon::current_num_threads();
        let row_work = (plan.queries.len() * plan.options.width as usize).max(1);
        let rows = (plan.slice_work.saturating_mul(threads) / row_work).max(1);
        // Enough bands that threads end a slice at about the same time.
        let band_rows = (rows / (4 * threads)).clamp(1, BAND_ROWS);
        Self {
            band_rows,
            bands: rows.div_ceil(band_rows),
        }
    }
}

/// Panics when arguments contradict each other.
fn check(scores: &ScoreMap, owners: &[QueryOwner], options: &LabelMapOptions) {
    let class_exists = |id: u16| usize::from(id) < options.classes;
    assert!(
        (1..=usize::from(UNLABELLED)).contains(&options.classes),
        "1 to 65535 classes, got {}",
        options.classes
    );
    assert_eq!(owners.len(), scores.queries, "every query has one owner");
    assert!(
        owners.iter().all(|owner| matches!(owner, QueryOwner::Background)
            || matches!(owner, QueryOwner::Class(id) if class_exists(*id))),
        "an owner is none of the classes"
    );
    assert!(
        options.background_label == UNLABELLED || class_exists(options.background_label),
        "the background label is none of the classes"
    );
}

/// The data that all rows share.
#[derive(Clone)]
struct Plan<'a> {
    instructions: Instructions,
    kind: ScoreKind,
    options: &'a LabelMapOptions,
    /// The queries. Those that can win come first, ordered by owner: lowest class first, background last. The first
    /// maximum wins ties.
    queries: Vec<Query>,
    /// The owner of background pixels: a class id, or the number of classes.
    background: usize,
    /// A pixel whose best class probability is below this becomes background.
    threshold: f32,
    /// The classes whose probabilities are wanted.
    wanted: &'a [u16],
    /// Products of queries and pixels that one thread labels at a time.
    slice_work: usize,
    /// The interpolation from the grids' cells to the image's pixels.
    interpolation: Interpolation<'a>,
}

/// A query and its owner.
#[derive(Clone, Copy)]
struct Query {
    /// The index of the query in the score map.
    index: usize,
    /// A class id, or the number of classes for the background.
    owner: usize,
    /// Whether the query can win a pixel. Otherwise it only takes part in the softmax.
    counts: bool,
}

impl<'a> Plan<'a> {
    fn new(
        instructions: Instructions,
        scores: &'a ScoreMap,
        owners: &[QueryOwner],
        options: &'a LabelMapOptions,
    ) -> Self {
        let background = match options.background_label {
            UNLABELLED => options.classes,
            class => usize::from(class),
        };
        let mut queries: Vec<Query> = owners
            .iter()
            .enumerate()
            .map(|(index, owner)| Query {
                index,
                owner: match owner {
                    QueryOwner::Class(id) => usize::from(*id),
                    QueryOwner::Background => background,
                },
                counts: true,
            })
            .collect();
        queries.sort_by_key(|query| query.owner);
        Self {
            instructions,
            kind: scores.kind,
            options,
            queries,
            background,
            threshold: options.background_threshold,
            wanted: &[],
            slice_work: SLICE_WORK,
            interpolation: Interpolation::new(scores, options.height as usize, options.width as usize),
        }
    }

    /// Labels the image, unless `stop` returns true.
    fn carry_out(mut self, stop: &dyn Fn() -> bool) -> Option<(LabelMap, Vec<ProbabilityMap>)> {
        if self.options.smallest_area > 0.0 {
            let without_threshold = Self {
                threshold: 0.0,
                wanted: &[],
                ..self.clone()
            };
            let classes = label(&without_threshold, stop)?.0.classes;
            self.drop_small_classes(&classes.iter().map(|class| class.pixels).collect::<Vec<_>>());
        }
        label(&self, stop)
    }

    /// Keeps queries of small classes from winning. `pixels` is the number of pixels of each class. The background is
    /// never small.
    fn drop_small_classes(&mut self, pixels: &[u64]) {
        let is_class = |owner: usize| owner != self.background;
        let foreground: u64 = (0..pixels.len())
            .filter(|&owner| is_class(owner))
            .map(|owner| pixels[owner])
            .sum();
        let smallest = self.options.smallest_area * foreground as f64;
        for query in &mut self.queries {
            query.counts = query.owner == self.background || pixels[query.owner] as f64 > smallest;
        }
        self.queries.sort_by_key(|query| !query.counts);
    }

    /// Returns the pixel value of an owner.
    fn label(&self, owner: usize) -> u16 {
        if owner == self.options.classes {
            UNLABELLED
        } else {
            owner as u16
        }
    }
}

#[cfg(test)]
mod tests;
