//! The choice of the queries that matter in a tile. All other queries can neither win a pixel of the tile nor change a
//! probability there.
//!
//! Interpolated scores are means of the scores of the tile's cells, with weights from 0 to 1. An inequality between two
//! queries that holds in each of these cells therefore holds in every pixel of the tile, before any pixel is
//! interpolated.

use std::ops::Range;

use super::super::interpolation::Tile;
use super::{Plan, Query};
use crate::scores::ScoreKind;

/// Upper bound on the change of a pixel's softmax caused by the omitted queries. All of them together contribute less
/// than this share of the best query's part.
const LEFT_OUT: f32 = 5e-7;

/// The queries that matter in one tile.
pub(super) struct Candidates {
    /// The queries, as ascending positions in the plan's queries.
    pub queries: Vec<usize>,
    /// The number of these queries that can win a pixel. They come first.
    pub counting: usize,
    /// The places of the background's queries among those that can win.
    pub background: Range<usize>,
    /// The scores of these queries, `[candidates, cells of the tile]`.
    pub cells: Vec<f32>,
    /// The scores of all queries, `[queries, cells of the tile]`.
    all_cells: Vec<f32>,
}

impl Candidates {
    /// Creates an empty choice.
    pub fn new() -> Self {
        Self {
            queries: Vec::new(),
            counting: 0,
            background: 0..0,
            cells: Vec::new(),
            all_cells: Vec::new(),
        }
    }

    /// Chooses the queries for a tile from the scores of the row, `[queries, cells of a row]`.
    pub fn choose(&mut self, plan: &Plan<'_>, tile: &Tile, row_cells: &[f32]) {
        let width = tile.cells.len();
        self.all_cells.clear();
        for cells in row_cells.chunks_exact(plan.interpolation.row_cells()) {
            self.all_cells.extend(tile.cells.iter().map(|&cell| cells[cell]));
        }
        self.queries.clear();
        self.cells.clear();
        match plan.kind {
            ScoreKind::Logits => {
                // The reference is a query that can win everywhere in the tile. A difference of logits is a ratio of
                // parts of the softmax.
                let reference = best_on_average(&plan.queries, &self.all_cells, width);
                let limit = (LEFT_OUT / plan.queries.len() as f32).ln();
                let reference = self.all_cells[reference * width..][..width].to_vec();
                self.keep(width, |cells| {
                    let mut differences = cells.iter().zip(&reference).map(|(score, reference)| score - reference);
                    // A score that is not a number stays, so that its effect shows.
                    differences.any(|difference| difference > limit || difference.is_nan())
                });
            }
            // Negative weights count as 0, so a query that is above 0 in no cell has no part at all.
            ScoreKind::Weights => self.keep(width, |cells| cells.iter().any(|&weight| weight > 0.0)),
        }
        let counts = |&query: &usize| plan.queries[query].counts;
        self.counting = self.queries.partition_point(counts);
        let owner = |&query: &usize| plan.queries[query].owner;
        let counting = &self.queries[..self.counting];
        self.background = counting.partition_point(|query| owner(query) < plan.background)
            ..counting.partition_point(|query| owner(query) <= plan.background);
    }

    /// Keeps the queries whose cells in the tile matter.
    fn keep(&mut self, width: usize, matters: impl Fn(&[f32]) -> bool) {
        for (query, cells) in self.all_cells.chunks_exact(width).enumerate() {
            if matters(cells) {
                self.queries.push(query);
                self.cells.extend_from_slice(cells);
            }
        }
    }
}

/// Returns the position of the query with the highest mean score in a tile, among those that can win.
fn best_on_average(queries: &[Query], cells: &[f32], width: usize) -> usize {
    let sums = cells.chunks_exact(width).map(|cells| cells.iter().sum::<f32>());
    let (mut best, mut highest) = (0, f32::NEG_INFINITY);
    for (position, (_, sum)) in queries
        .iter()
        .zip(sums)
        .take_while(|(query, _)| query.counts)
        .enumerate()
    {
        if sum > highest {
            (best, highest) = (position, sum);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::Instructions;
    use super::super::tests::{each_its_own, options, scores};
    use super::*;

    /// Returns the queries chosen for one row of cells, given for each query. The first `counting` queries can win.
    fn chosen(kind: ScoreKind, cells: &[&[f32]], counting: usize) -> Vec<usize> {
        let (queries, width) = (cells.len(), cells[0].len());
        let scores = scores(kind, queries, 1, width, cells.concat());
        let options = options(8, 1, queries);
        let mut plan = Plan::new(Instructions::widest(), &scores, &each_its_own(queries as u16), &options);
        for query in &mut plan.queries[counting..] {
            query.counts = false;
        }
        let mut candidates = Candidates::new();
        candidates.choose(&plan, &plan.interpolation.tiles()[0], &cells.concat());
        assert_eq!(candidates.cells.len(), candidates.queries.len() * width);
        assert_eq!(
            candidates.counting,
            candidates.queries.partition_point(|&query| query < counting)
        );
        candidates.queries
    }

    #[test]
    fn a_query_is_left_out_where_it_is_far_below_one_and_the_same_that_can_win() {
        // The limit is 5e-7 divided by three queries: differences below -15.6 are left out.
        let near: &[f32] = &[10.0, 20.0];
        assert_eq!(
            chosen(ScoreKind::Logits, &[near, &[-5.5, 4.5], &[-6.0, 4.0]], 3),
            [0, 1]
        );
        // Each query is far below the other in one cell, and near or above it in the other.
        assert_eq!(chosen(ScoreKind::Logits, &[near, &[30.0, -20.0]], 2), [0, 1]);
        // The comparison is with a query that can win, even where others are far above it.
        assert_eq!(
            chosen(ScoreKind::Logits, &[near, &[-50.0, 0.0], &[90.0, 90.0]], 2),
            [0, 2]
        );
        assert_eq!(chosen(ScoreKind::Logits, &[near, &[f32::NAN, 0.0]], 2), [0, 1]);
    }

    #[test]
    fn a_weight_of_0_or_below_in_all_cells_has_no_part() {
        assert_eq!(
            chosen(ScoreKind::Weights, &[&[0.0, -1.0], &[-2.0, 1e-9], &[0.5, 0.5]], 3),
            [1, 2]
        );
    }
}
