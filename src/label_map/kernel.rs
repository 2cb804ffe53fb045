//! The one pass over the image: interpolation, softmax, argmax and statistics, row by row.
//!
//! Scores at image size never exist as a whole: 171 classes at 2048 x 1536 would be 2.1 GB. Each
//! image row takes its grids' rows, blends them into one of `[queries, cells of a row]`, and then a
//! tile of [`TILE_PIXELS`] pixels at a time goes through interpolation, probabilities and argmax
//! with the queries outermost, so that every inner loop runs along contiguous pixels.

use rayon::prelude::*;

use super::interpolation::Interpolation;
use super::statistics::Statistics;
use super::{LabelMap, LabelMapOptions, QueryOwner, ScoreKind, ScoreMap, UNLABELLED};

/// Rows that one task takes at a time.
const BAND_ROWS: usize = 8;

/// Pixels whose scores are held at a time: `[queries, TILE_PIXELS]` floats fit a core's cache for
/// some hundred queries.
const TILE_PIXELS: usize = 128;

/// Labels every pixel of the image.
///
/// Scores are interpolated bilinearly (corners not aligned) to the image's size as PyTorch's
/// `F.interpolate` does it, those of [`Windows`](super::Windows) by way of the input's pixels; the mean over the grids becomes
/// probabilities per pixel as [`ScoreKind`] says. The
/// probability of an owner is the largest of its queries'; the pixel takes the owner of the largest,
/// the lowest class id among equals, a class before the background. When
/// [`LabelMapOptions::background_label`] is a class id, background queries count as that class's.
///
/// With [`LabelMapOptions::smallest_area`] the image is gone over twice: first every class's pixels are counted, whatever the
/// threshold; then the probabilities of those with too few become 0, the others' stay, and the labels are written (SCLIP's area
/// rule).
///
/// A pixel without evidence, where all weights are 0 or below or the scores are not finite, is
/// background with probability 0.
///
/// Runs on the threads of the rayon pool it is called in. The result, to the last bit, does not
/// depend on how many there are.
///
/// # Example
///
/// Two classes on a grid of 1 x 2 cells, seen at 2 x 4 pixels:
///
/// ```
/// use maskclip::label_map::{LabelMapOptions, QueryOwner, ScoreGrid, ScoreKind, ScoreMap, UNLABELLED, label_map};
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
/// When the arguments contradict each other, which is the caller's bug: no classes, no queries or no grid, an
/// owner or a background label that is no class, values that are not `[queries, height, width]`, cells that are not those of the
/// grid's windows, a side of length 0.
pub fn label_map(scores: &ScoreMap, owners: &[QueryOwner], options: &LabelMapOptions) -> LabelMap {
    check(scores, owners, options);
    let mut plan = Plan::new(scores, owners, options);
    if options.smallest_area > 0.0 {
        let pixels = label(&Plan {
            threshold: 0.0,
            ..plan.clone()
        })
        .classes;
        plan.drop_small_classes(&pixels.iter().map(|class| class.pixels).collect::<Vec<_>>());
    }
    label(&plan)
}

/// One pass over the image.
fn label(plan: &Plan<'_>) -> LabelMap {
    let options = plan.options;
    let (width, height) = (options.width as usize, options.height as usize);
    let mut labels = vec![UNLABELLED; width * height];
    let mut confidence = vec![0; width * height];
    let statistics = labels
        .par_chunks_mut(width * BAND_ROWS)
        .zip(confidence.par_chunks_mut(width * BAND_ROWS))
        .enumerate()
        .fold(
            || Worker::new(plan),
            |mut worker, (band, (labels, confidence))| {
                let rows = labels.chunks_exact_mut(width).zip(confidence.chunks_exact_mut(width));
                for (row, (labels, confidence)) in rows.enumerate() {
                    worker.label_row(band * BAND_ROWS + row, labels, confidence);
                }
                worker
            },
        )
        .map(|worker| worker.statistics)
        .reduce(|| Statistics::new(options.classes), Statistics::merge);

    LabelMap {
        width: options.width,
        height: options.height,
        labels,
        confidence: options.confidence_map.then_some(confidence),
        classes: statistics.finish(),
    }
}

/// Stops at arguments that contradict each other.
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

/// What all rows share.
#[derive(Clone)]
struct Plan<'a> {
    kind: ScoreKind,
    options: &'a LabelMapOptions,
    /// Queries by owner, lowest class first, the background last: the first maximum wins ties.
    queries: Vec<Query>,
    /// The owner of background pixels: a class id, or one past the last class.
    background: usize,
    /// A pixel whose best class probability is below this becomes background.
    threshold: f32,
    /// From the grids' cells to the image's pixels.
    interpolation: Interpolation<'a>,
}

/// A query and whose it is.
#[derive(Clone, Copy)]
struct Query {
    /// Index into the score map.
    index: usize,
    /// Class id, or one past the last class for the background.
    owner: usize,
    /// Whether it can win a pixel; otherwise it takes part in the softmax alone.
    counts: bool,
}

impl<'a> Plan<'a> {
    fn new(scores: &'a ScoreMap, owners: &[QueryOwner], options: &'a LabelMapOptions) -> Self {
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
            kind: scores.kind,
            options,
            queries,
            background,
            threshold: options.background_threshold,
            interpolation: Interpolation::new(scores, options.height as usize, options.width as usize),
        }
    }

    /// Takes the queries of small classes out, by the pixels that every class has. The background is none of them.
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
    }

    /// The pixel value of an owner.
    fn label(&self, owner: usize) -> u16 {
        if owner == self.options.classes {
            UNLABELLED
        } else {
            owner as u16
        }
    }
}

/// One thread's buffers and what it has counted so far.
struct Worker<'a> {
    plan: &'a Plan<'a>,
    /// `[queries, cells of a row]`, the grids at the height of the current image row, queries in the plan's order.
    cells: Vec<f32>,
    /// `[queries, TILE_PIXELS]`, scores and then unnormalised probabilities.
    tile: Vec<f32>,
    statistics: Statistics,
}

/// What a tile's pixels have come to.
struct Winners {
    owner: [usize; TILE_PIXELS],
    probability: [f32; TILE_PIXELS],
    background_probability: [f32; TILE_PIXELS],
}

impl<'a> Worker<'a> {
    fn new(plan: &'a Plan<'a>) -> Self {
        Self {
            plan,
            cells: vec![0.0; plan.queries.len() * plan.interpolation.row_cells()],
            tile: vec![0.0; plan.queries.len() * TILE_PIXELS],
            statistics: Statistics::new(plan.options.classes),
        }
    }

    /// Labels row `y` of the image.
    fn label_row(&mut self, y: usize, labels: &mut [u16], confidence: &mut [u8]) {
        self.blend_rows(y);
        let tiles = labels.chunks_mut(TILE_PIXELS).zip(confidence.chunks_mut(TILE_PIXELS));
        for (tile, (labels, confidence)) in tiles.enumerate() {
            let x = tile * TILE_PIXELS;
            let sums = match self.plan.kind {
                ScoreKind::Logits => self.exponentials(x, labels.len()),
                ScoreKind::Weights => self.clamped_weights(x, labels.len()),
            };
            let winners = self.winners(&sums, labels.len());
            self.write(&winners, x, y, labels, confidence);
        }
    }

    /// Fills `cells` with the blend of the grids' rows at row `y` of the image.
    fn blend_rows(&mut self, y: usize) {
        let interpolation = &self.plan.interpolation;
        let rows = self.cells.chunks_exact_mut(interpolation.row_cells());
        for (query, cells) in self.plan.queries.iter().zip(rows) {
            interpolation.blend_rows(query.index, y, cells);
        }
    }

    /// Fills the tile with `exp(score - largest score of the pixel)`; returns the sums over queries.
    fn exponentials(&mut self, x: usize, pixels: usize) -> [f32; TILE_PIXELS] {
        let mut largest = [f32::NEG_INFINITY; TILE_PIXELS];
        self.interpolate(
            x,
            pixels,
            |largest, score| {
                *largest = largest.max(score);
                score
            },
            &mut largest,
        );
        let mut sums = [0.0; TILE_PIXELS];
        for row in self.tile.chunks_exact_mut(TILE_PIXELS) {
            for ((value, largest), sum) in row[..pixels].iter_mut().zip(&largest).zip(&mut sums) {
                *value = (*value - largest).exp();
                *sum += *value;
            }
        }
        sums
    }

    /// Fills the tile with weights, negative ones as 0; returns the sums over queries.
    fn clamped_weights(&mut self, x: usize, pixels: usize) -> [f32; TILE_PIXELS] {
        let mut sums = [0.0; TILE_PIXELS];
        self.interpolate(
            x,
            pixels,
            |sum, weight| {
                let weight = weight.max(0.0);
                *sum += weight;
                weight
            },
            &mut sums,
        );
        sums
    }

    /// Fills the tile with `store(accumulator of the pixel, interpolated score)`.
    fn interpolate(
        &mut self,
        x: usize,
        pixels: usize,
        store: impl Fn(&mut f32, f32) -> f32,
        accumulators: &mut [f32; TILE_PIXELS],
    ) {
        let interpolation = &self.plan.interpolation;
        let rows = self.cells.chunks_exact(interpolation.row_cells());
        for (cells, row) in rows.zip(self.tile.chunks_exact_mut(TILE_PIXELS)) {
            interpolation.blend_columns(x, cells, &mut row[..pixels], accumulators, &store);
        }
    }

    /// Divides the tile by the sums and finds each pixel's owner; notes every class's presence.
    fn winners(&mut self, sums: &[f32; TILE_PIXELS], pixels: usize) -> Winners {
        let background = self.plan.background;
        let mut winners = Winners {
            owner: [background; TILE_PIXELS],
            probability: [0.0; TILE_PIXELS],
            background_probability: [0.0; TILE_PIXELS],
        };
        let tile_rows = self.plan.queries.iter().zip(self.tile.chunks_exact(TILE_PIXELS));
        for (query, row) in tile_rows.filter(|(query, _)| query.counts) {
            let mut presence = 0_f32;
            for (pixel, (value, sum)) in row.iter().zip(sums).take(pixels).enumerate() {
                // 0 / 0 is not a number: it exceeds nothing, so the pixel stays background.
                let probability = value / sum;
                presence = presence.max(probability);
                let wins = probability > winners.probability[pixel];
                winners.owner[pixel] = if wins { query.owner } else { winners.owner[pixel] };
                winners.probability[pixel] = if wins { probability } else { winners.probability[pixel] };
            }
            self.statistics.note_presence(query.owner, presence);
            if query.owner == background {
                for (most, (value, sum)) in winners
                    .background_probability
                    .iter_mut()
                    .zip(row.iter().zip(sums))
                    .take(pixels)
                {
                    *most = most.max(value / sum);
                }
            }
        }
        winners
    }

    /// Applies the threshold, writes labels and confidence, counts.
    fn write(&mut self, winners: &Winners, x: usize, y: usize, labels: &mut [u16], confidence: &mut [u8]) {
        for (pixel, (label, confidence)) in labels.iter_mut().zip(confidence).enumerate() {
            let (owner, probability) = if winners.probability[pixel] < self.plan.threshold {
                (self.plan.background, winners.background_probability[pixel])
            } else {
                (winners.owner[pixel], winners.probability[pixel])
            };
            *label = self.plan.label(owner);
            *confidence = (probability * 255.0).round() as u8;
            self.statistics
                .note_pixel(owner, (x + pixel) as u32, y as u32, probability);
        }
    }
}

#[cfg(test)]
mod tests;
