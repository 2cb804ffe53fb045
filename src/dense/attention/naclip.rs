//! NACLIP: tokens attend to tokens with similar keys and prefer nearby ones.
//!
//! Hajimiri, Ben Ayed, Dolz, "Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation",
//! WACV 2025, arXiv 2404.08181. The block's residual and MLP are left out.

use tch::{Device, Tensor};

use super::cell_grid::CellGrid;
use super::last_block::{Heads, attend, cells_of};

/// Standard deviation of the neighbourhood, in cells.
const SIGMA: f64 = 5.0;

/// Computes `A = sm(k k^T / sqrt d + omega)` and mixes the values: `[batch, heads, cells, head_width]`.
pub(super) fn mix(Heads { key, value, .. }: &Heads, grid: CellGrid) -> Tensor {
    attend(&cells_of(key), key, value, Some(&neighbourhood(grid, key.device())))
}

/// Computes `omega_ij = exp(-(rows^2 + columns^2) / (2 sigma^2))` between cells i and j, `[cells, 1 + cells]`. Its peak
/// is 1, it is cut off nowhere, and it is 0 towards the class token.
pub(super) fn neighbourhood(grid: CellGrid, device: Device) -> Tensor {
    gaussian(grid, SIGMA, device)
}

fn gaussian(grid: CellGrid, sigma: f64, device: Device) -> Tensor {
    let omega = grid.product(device, |steps| (steps.square() / (-2.0 * sigma * sigma)).exp());
    omega.constant_pad_nd([1, 0]) // [cells, cells] -> [cells, 1 + cells]
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::dense::attention::testing::{assert_close, heads, row_sums};

    const CPU: Device = Device::Cpu;

    /// Returns the attention of the first cell for equal keys, with any sigma.
    fn first_row(rows: i64, columns: i64, sigma: f64) -> Tensor {
        gaussian(CellGrid { rows, columns }, sigma, CPU)
            .get(0)
            .softmax(0, Kind::Float)
    }

    #[test]
    fn equal_keys_leave_the_neighbourhood() {
        let expected = Tensor::from_slice(&[0.156_660f32, 0.425_845, 0.417_496]);
        assert_close(&first_row(1, 2, SIGMA), &expected);
        let expected = Tensor::from_slice(&[0.085_748f32, 0.233_089, 0.228_519, 0.228_519, 0.224_126]);
        assert_close(&first_row(2, 2, SIGMA), &expected);
    }

    #[test]
    fn a_wide_neighbourhood_prefers_cells_to_the_class_token_and_a_narrow_one_prefers_itself() {
        let e = std::f32::consts::E;
        let wide = first_row(2, 3, 1e6);
        assert_close(&wide.get(0), &Tensor::from(1.0 / (1.0 + 6.0 * e)));
        assert_close(&wide.get(4), &Tensor::from(e / (1.0 + 6.0 * e)));
        let narrow = first_row(2, 3, 1e-3);
        assert_close(&narrow.get(1), &Tensor::from(e / (e + 6.0)));
    }

    #[test]
    fn rows_sum_to_one() {
        let grid = CellGrid { rows: 2, columns: 3 };
        assert_close(&row_sums(|heads| mix(heads, grid)), &Tensor::from(1f32));
    }

    #[test]
    fn queries_have_no_part_in_it() {
        let grid = CellGrid { rows: 2, columns: 3 };
        let mut heads = heads(6);
        let before = mix(&heads, grid);
        heads.query = heads.query.zeros_like();
        assert_close(&mix(&heads, grid), &before);
    }
}
