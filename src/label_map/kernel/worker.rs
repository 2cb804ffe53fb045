//! One thread's share of the pass: its buffers, the arithmetic of a row's pixels, and its counts.

use std::ops::Range;

use super::super::instructions::VectorWork;
use super::super::interpolation::Block;
use super::super::lanes::{LANES, Lanes, exp_of_difference};
use super::super::statistics::Statistics;
use super::Plan;
use super::candidates::Candidates;
use crate::scores::ScoreKind;

/// The buffers of one thread and the counts that it has made so far.
pub(super) struct Worker<'a> {
    plan: &'a Plan<'a>,
    /// The grids at the height of the current image row, `[queries, cells of a row]`, with queries in the plan's order.
    row_cells: Vec<f32>,
    /// The queries that matter in the current tile.
    candidates: Candidates,
    /// For each candidate in the current block, its score and later its unnormalised probability.
    parts: Vec<Lanes>,
    /// For each query, the largest probability so far at each of the 16 pixel positions in a block.
    presence: Vec<Lanes>,
    /// The owner of each pixel in the current row.
    owners: Vec<usize>,
    /// The probability of each pixel's owner in the current row.
    probabilities: Vec<f32>,
    /// For each class whose probabilities are wanted, the places of its queries among those that can win in the current
    /// tile.
    wanted: Vec<Range<usize>>,
    /// The confidence of the current row where nobody asked for it.
    spare_confidence: Vec<u8>,
    statistics: Statistics,
}

/// No candidate wins: the pixel goes to the background.
const NONE: u32 = u32::MAX;

/// The winners of a block's pixels.
struct Winners {
    /// The winners, as positions among the candidates, or [`NONE`].
    candidates: [u32; LANES],
    /// The probability of each pixel's winner.
    probabilities: Lanes,
    /// The factor from a query's unnormalised probability to its probability in each pixel.
    inverse: Lanes,
}

impl<'a> Worker<'a> {
    pub fn new(plan: &'a Plan<'a>) -> Self {
        let (queries, width) = (plan.queries.len(), plan.options.width as usize);
        Self {
            plan,
            row_cells: vec![0.0; queries * plan.interpolation.row_cells()],
            candidates: Candidates::new(),
            parts: vec![Lanes::splat(0.0); queries],
            presence: vec![Lanes::splat(0.0); queries],
            owners: vec![plan.background; width],
            probabilities: vec![0.0; width],
            wanted: Vec::with_capacity(plan.wanted.len()),
            spare_confidence: vec![0; width],
            statistics: Statistics::new(plan.options.classes),
        }
    }

    /// Labels row `y` of the image. Writes the confidence of its pixels if it was asked for, and the probabilities of
    /// the plan's wanted classes, a row of pixels for each.
    pub fn label_row(
        &mut self,
        y: usize,
        labels: &mut [u16],
        confidence: Option<&mut [u8]>,
        probabilities: Vec<&mut [u8]>,
    ) {
        let interpolation = &self.plan.interpolation;
        let rows = self.row_cells.chunks_exact_mut(interpolation.row_cells());
        for (query, cells) in self.plan.queries.iter().zip(rows) {
            interpolation.blend_rows(query.index, y, cells);
        }
        let mut spare = std::mem::take(&mut self.spare_confidence);
        self.plan.instructions.run(LabelPixels {
            worker: self,
            confidence: confidence.unwrap_or(&mut spare),
            probabilities,
        });
        self.spare_confidence = spare;
        let mut x = 0;
        for owners in self.owners.chunk_by(|one, next| one == next) {
            let pixels = x..x + owners.len();
            labels[pixels.clone()].fill(self.plan.label(owners[0]));
            self.statistics
                .note_run(owners[0], x, y, &self.probabilities[pixels.clone()]);
            x = pixels.end;
        }
    }

    /// Returns the counts.
    pub fn finish(mut self) -> Statistics {
        for (query, presence) in self.plan.queries.iter().zip(self.presence) {
            self.statistics.note_presence(query.owner, presence.largest());
        }
        self.statistics
    }

    /// Finds the winner of each pixel of a block and notes the presence of every class.
    #[inline(always)]
    fn label_block<const FUSED: bool>(&mut self, block: &Block, tile_cells: usize) -> Winners {
        let candidates = &self.candidates;
        let counting = candidates.counting;
        let parts = &mut self.parts[..candidates.queries.len()];

        let (mut best, mut winner) = (Lanes::splat(f32::NEG_INFINITY), [NONE; LANES]);
        let mut cells = candidates.cells.chunks_exact(tile_cells);
        for (candidate, (part, cells)) in (0..).zip(parts[..counting].iter_mut().zip(&mut cells)) {
            let scores = block.blend::<FUSED>(cells);
            *part = scores;
            for (winner, (score, best)) in winner.iter_mut().zip(scores.0.iter().zip(best.0)) {
                *winner = if *score > best { candidate } else { *winner };
            }
            best = best.max(scores);
        }
        let mut largest = best;
        for (part, cells) in parts[counting..].iter_mut().zip(cells) {
            *part = block.blend::<FUSED>(cells);
            largest = largest.max(*part);
        }

        let exponential = |score, largest| exp_of_difference::<FUSED>(score - largest);
        let positive = |weight: f32, _| weight.max(0.0);
        let (best, sum) = match self.plan.kind {
            ScoreKind::Logits => (best.zip(largest, exponential), to_parts(parts, largest, exponential)),
            ScoreKind::Weights => (best.zip(largest, positive), to_parts(parts, largest, positive)),
        };
        // Written in this order, a sum that is not a number stays so, and its pixel has no winner and notes no
        // presence.
        let inverse = sum.map(|sum| {
            1.0 / if sum < f32::MIN_POSITIVE {
                f32::MIN_POSITIVE
            } else {
                sum
            }
        });
        for (&query, part) in candidates.queries.iter().zip(&parts[..counting]) {
            let presence = &mut self.presence[query];
            *presence = presence.max(part.zip(inverse, |part, inverse| part * inverse));
        }

        let mut winners = Winners {
            candidates: winner,
            probabilities: best.zip(inverse, |best, inverse| best * inverse),
            inverse,
        };
        self.leave_to_background(&mut winners, inverse);
        winners
    }

    /// Finds the queries of the wanted classes in the current tile.
    fn find_wanted(&mut self) {
        let Self {
            plan,
            candidates,
            wanted,
            ..
        } = self;
        let counting = &candidates.queries[..candidates.counting];
        let owner = |query: &usize| plan.queries[*query].owner;
        wanted.clear();
        wanted.extend(plan.wanted.iter().map(|&class| {
            let class = usize::from(class);
            counting.partition_point(|query| owner(query) < class)
                ..counting.partition_point(|query| owner(query) <= class)
        }));
    }

    /// Writes the probabilities of the wanted classes in the current block, in 255ths, from pixel `x` of their rows on.
    #[inline(always)]
    fn write_wanted(&self, inverse: Lanes, x: usize, pixels: usize, rows: &mut [&mut [u8]]) {
        for (queries, row) in self.wanted.iter().zip(rows) {
            let mut largest = Lanes::splat(0.0);
            for part in &self.parts[queries.clone()] {
                largest = largest.max(part.zip(inverse, |part, inverse| part * inverse));
            }
            for (byte, probability) in row[x..x + pixels].iter_mut().zip(largest.0) {
                *byte = in_255ths(probability);
            }
        }
    }

    /// Gives pixels without evidence and pixels below the threshold to the background.
    #[inline(always)]
    fn leave_to_background(&self, winners: &mut Winners, inverse: Lanes) {
        let threshold = self.plan.threshold;
        let mut background = Lanes::splat(0.0);
        if threshold > 0.0 {
            for part in &self.parts[self.candidates.background.clone()] {
                background = background.max(part.zip(inverse, |part, inverse| part * inverse));
            }
        }
        for lane in 0..LANES {
            let probability = winners.probabilities.0[lane];
            if !(probability > 0.0 && probability >= threshold) {
                winners.candidates[lane] = NONE;
                winners.probabilities.0[lane] = background.0[lane];
            }
        }
    }
}

/// Turns scores into unnormalised probabilities and returns their sum.
#[inline(always)]
fn to_parts(scores: &mut [Lanes], largest: Lanes, part: impl Fn(f32, f32) -> f32) -> Lanes {
    let mut sum = Lanes::splat(0.0);
    for score in scores {
        *score = score.zip(largest, &part);
        sum = sum.zip(*score, |sum, part| sum + part);
    }
    sum
}

/// Returns a probability in 255ths, rounded.
#[inline(always)]
fn in_255ths(probability: f32) -> u8 {
    (probability * 255.0 + 0.5) as u8
}

/// The work of labelling the pixels of a row whose cells the worker holds. It writes owners, probabilities, and
/// confidence and the probabilities of wanted classes in 255ths.
struct LabelPixels<'w, 'a> {
    worker: &'w mut Worker<'a>,
    confidence: &'w mut [u8],
    probabilities: Vec<&'w mut [u8]>,
}

impl VectorWork for LabelPixels<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Self {
            worker,
            confidence,
            mut probabilities,
        } = self;
        let plan = worker.plan;
        let mut confidence = confidence.chunks_mut(LANES);
        let mut x = 0;
        for tile in plan.interpolation.tiles() {
            worker.candidates.choose(plan, tile, &worker.row_cells);
            worker.find_wanted();
            for (block, confidence) in tile.blocks.iter().zip(&mut confidence) {
                let winners = worker.label_block::<FUSED>(block, tile.cells.len());
                let pixels = confidence.len();
                for (byte, probability) in confidence.iter_mut().zip(winners.probabilities.0) {
                    *byte = in_255ths(probability);
                }
                worker.write_wanted(winners.inverse, x, pixels, &mut probabilities);
                worker.probabilities[x..x + pixels].copy_from_slice(&winners.probabilities.0[..pixels]);
                for (owner, &winner) in worker.owners[x..x + pixels].iter_mut().zip(&winners.candidates) {
                    let query = worker.candidates.queries.get(winner as usize);
                    *owner = query.map_or(plan.background, |&query| plan.queries[query].owner);
                }
                x += pixels;
            }
        }
    }
}
