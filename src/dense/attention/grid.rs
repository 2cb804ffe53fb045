//! Where the cells of an image lie.

use tch::{Device, Kind, Tensor};

/// The cells of an image, numbered row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) rows: i64,
    pub(super) columns: i64,
}

impl Grid {
    /// Of an image `[..., height, width]` in cells of `patch` pixels.
    pub(super) fn of(image: &Tensor, patch: i64) -> Self {
        let [.., height, width] = image.size()[..] else {
            panic!("an image has a height and a width");
        };
        Self {
            rows: height / patch,
            columns: width / patch,
        }
    }

    /// How many.
    pub(super) fn cells(self) -> i64 {
        self.rows * self.columns
    }

    /// Rows and columns between every two cells, `[cells, cells]` each, not negative.
    pub(super) fn steps(self, device: Device) -> [Tensor; 2] {
        let cell = Tensor::arange(self.cells(), (Kind::Int64, device));
        let row = cell.divide_scalar_mode(self.columns, "floor");
        let column = cell.remainder(self.columns);
        [row, column].map(|along| (along.unsqueeze(1) - along.unsqueeze(0)).abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_along_rows_and_columns() {
        let grid = Grid { rows: 2, columns: 3 };
        let [down, right] = grid.steps(Device::Cpu).map(|steps| {
            let from_last = steps.get(5);
            Vec::<i64>::try_from(&from_last).expect("one dimension of 64-bit integers")
        });
        assert_eq!(down, [1, 1, 1, 0, 0, 0]);
        assert_eq!(right, [2, 1, 0, 2, 1, 0]);
    }
}
