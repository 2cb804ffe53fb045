//! The likeness of cells according to a first labelling. Cells of one label are similar, and less so the farther apart
//! they are if another label lies between them.

use tch::{Kind, Tensor};

use crate::dense::attention::cell_grid::CellGrid;
use crate::support::to_usize;

/// Standard deviation of the smoothing along the numbers of the cells.
const SIGMA: f64 = 5.0;

/// Number of cells on either side that the smoothing reaches.
const REACH: i64 = 15;

/// The choice of cells between two cells of one label that are tested for another label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dense::attention) enum PathTest {
    /// The cells that the released code tests. Its steps are too short, so it tests only the first part of the way.
    Released,
    /// All cells on the straight way between the two cells.
    WholePath,
}

/// Computes the likeness `S^` from the label of each cell: `[cells, cells]`, 0 to 1, on the CPU.
pub(super) fn likeness(labels: &[i64], grid: CellGrid, path_test: PathTest) -> Tensor {
    let belonging = Tensor::from_slice(&belonging(labels, grid, path_test)).view([grid.cells(), -1]);
    smoothed(&belonging)
}

/// Computes `M_ij`, row by row: 1 for cells of one label, less where another label lies between them, 0 for cells of
/// two labels.
fn belonging(labels: &[i64], grid: CellGrid, path_test: PathTest) -> Vec<f32> {
    let farthest = (grid.rows - 1).max(grid.columns - 1);
    let places: Vec<_> = (0..grid.cells())
        .map(|cell| (cell / grid.columns, cell % grid.columns))
        .collect();
    let label_at = |(row, column): (i64, i64)| {
        let cell = row * grid.columns + column;
        labels[to_usize(cell)]
    };
    let belongs = |from: (i64, i64), to: (i64, i64)| {
        if label_at(from) != label_at(to) {
            return 0.0;
        }
        let distance = (to.0 - from.0).abs().max((to.1 - from.1).abs());
        let steps = match path_test {
            PathTest::Released => farthest,
            PathTest::WholePath => distance,
        };
        let is_interrupted = (1..=distance).any(|step| {
            let along = |start: i64, end: i64| divided(start * steps + step * (end - start), steps);
            label_at((along(from.0, to.0), along(from.1, to.1))) != label_at(from)
        });
        if is_interrupted {
            (-(distance as f32) / farthest as f32).exp()
        } else {
            1.0
        }
    };
    places
        .iter()
        .flat_map(|&from| places.iter().map(move |&to| (from, to)))
        .map(|(from, to)| belongs(from, to))
        .collect()
}

/// Divides two numbers that are not negative and rounds the quotient. Halves go to the even number, as in the release's
/// library.
fn divided(numerator: i64, denominator: i64) -> i64 {
    let (floor, rest) = (numerator / denominator, numerator % denominator);
    match (2 * rest).cmp(&denominator) {
        std::cmp::Ordering::Less => floor,
        std::cmp::Ordering::Equal => floor + floor % 2,
        std::cmp::Ordering::Greater => floor + 1,
    }
}

/// Smooths each row along the numbers of the cells, with zeros outside, and divides it by its sum. Then divides all
/// values by the largest.
fn smoothed(belonging: &Tensor) -> Tensor {
    let offset = Tensor::arange_start(-REACH, REACH + 1, (Kind::Float, belonging.device()));
    let taps = (offset.square() / (-2.0 * SIGMA * SIGMA)).exp();
    let taps = &taps / taps.sum(Kind::Float);
    let rows = belonging
        .unsqueeze(1) // [cells, cells] -> [rows, 1, cells]
        .conv1d::<&Tensor>(&taps.view([1, 1, -1]), None, 1, REACH, 1, 1)
        .squeeze_dim(1);
    let rows = &rows / rows.sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    &rows / rows.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::tensors::floats;

    #[test]
    fn one_label_is_alike_everywhere_but_at_the_ends_of_the_rows() {
        let grid = CellGrid { rows: 14, columns: 14 };
        let likeness = likeness(&[3; 196], grid, PathTest::Released);
        for row in [0, 77, 195] {
            let row = floats(&likeness.get(row));
            assert!((row[0] - 0.539_970).abs() < 1e-6 && (row[195] - 0.539_970).abs() < 1e-6);
            assert!(row[15..181].iter().all(|value| (value - 1.0).abs() < 1e-6));
        }
    }

    #[test]
    fn another_label_in_between_sets_cells_apart() {
        let grid = CellGrid { rows: 1, columns: 5 };
        let apart = |distance: f32| (-distance / 4.0f32).exp();
        let whole = belonging(&[0, 1, 0, 0, 0], grid, PathTest::WholePath);
        assert_eq!(whole[..5], [1.0, 0.0, apart(2.0), apart(3.0), apart(4.0)]);
        assert_eq!(whole[10..15], [apart(2.0), 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(whole[5..10], [0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn the_released_test_looks_at_the_first_part_of_the_way() {
        let grid = CellGrid { rows: 1, columns: 9 };
        // From 0 to 4, the steps are eighths of the way: 0.5, 1, 1.5 and 2 cells are rounded to 0, 1, 2 and 2.
        let labels = [0, 0, 0, 1, 0, 0, 0, 0, 0];
        let released = belonging(&labels, grid, PathTest::Released);
        let whole = belonging(&labels, grid, PathTest::WholePath);
        assert_eq!(released[4], 1.0);
        assert_eq!(whole[4], (-0.5f32).exp());
        // On the way back, 3.5 is rounded to 4, but then comes cell 3 with the other label.
        assert_eq!(released[4 * 9], (-0.5f32).exp());
    }

    #[test]
    fn halves_are_rounded_to_even() {
        let rounded = [1, 3, 5, 7].map(|half| divided(half, 2));
        assert_eq!(rounded, [0, 2, 2, 4]);
        assert_eq!([divided(2, 3), divided(4, 3)], [1, 1]);
    }

    #[test]
    fn a_single_cell_is_alike_to_itself() {
        let likeness = likeness(&[0], CellGrid { rows: 1, columns: 1 }, PathTest::Released);
        assert_eq!(floats(&likeness), [1.0]);
    }
}
