//! Where the cells of an image lie.

use tch::{Device, Kind, Tensor};

/// The cells of an image, numbered row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CellGrid {
    pub(super) rows: i64,
    pub(super) columns: i64,
}

impl CellGrid {
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

    /// The number of cells.
    pub(super) fn cells(self) -> i64 {
        self.rows * self.columns
    }

    /// For every two cells the product of what `of_steps` makes of the rows and of the columns between them: from numbers that
    /// are not negative, `[n, n]`, to the same shape; `[cells, cells]`.
    pub(super) fn product(self, device: Device, of_steps: impl Fn(&Tensor) -> Tensor) -> Tensor {
        let [rows, columns] = [self.rows, self.columns].map(|length| {
            let place = Tensor::arange(length, (Kind::Float, device));
            of_steps(&(place.unsqueeze(1) - place.unsqueeze(0)).abs())
        });
        rows.kron(&columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::tensors::floats;

    #[test]
    fn steps_are_counted_along_rows_and_columns() {
        let grid = CellGrid { rows: 2, columns: 3 };
        let from_last = floats(&grid.product(Device::Cpu, |steps| steps + 1.0).get(5));
        assert_eq!(from_last, [6.0, 4.0, 2.0, 3.0, 2.0, 1.0]);
    }
}
