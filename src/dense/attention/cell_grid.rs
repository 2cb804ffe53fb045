//! The places of the cells of an image.

use tch::{Device, Kind, Tensor};

/// The cells of an image, numbered row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CellGrid {
    pub(super) rows: i64,
    pub(super) columns: i64,
}

impl CellGrid {
    /// Returns the grid of an image `[..., height, width]` with cells of `patch` pixels.
    pub(super) fn of(image: &Tensor, patch: i64) -> Self {
        let [.., height, width] = image.size()[..] else {
            panic!("an image has a height and a width");
        };
        Self {
            rows: height / patch,
            columns: width / patch,
        }
    }

    /// Returns the number of cells.
    pub(super) fn cells(self) -> i64 {
        self.rows * self.columns
    }

    /// Returns for every two cells the product of two numbers: `of_steps` of the rows between them and `of_steps` of
    /// the columns between them, `[cells, cells]`. `of_steps` maps numbers of steps, `[n, n]`, none negative, to the
    /// same shape.
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
