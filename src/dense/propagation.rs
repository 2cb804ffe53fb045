//! PEARL's propagation: scores flow between neighbouring cells of similar colour and meaning, and mostly into uncertain
//! cells.
//!
//! Pei et al., CVPR 2026, arXiv 2603.21528, as released: only the diagonal of the texts' likeness is used, and the
//! system is solved once for the whole image. It acts on the scores of any attention, averaged over about 80 x 80 cells
//! or over as many as [`RefinementOptions::PearlPropagation`](super::RefinementOptions::PearlPropagation) says.

use tch::{Kind, Tensor};

use super::{DenseError, go_on};
use crate::support::{to_i64, to_usize};

/// Number of conjugate gradient steps; there is no earlier stop.
const STEPS: usize = 25;

/// Values per cell and query that a step computes, about: the Laplacian, and the sums and products of the step.
const STEP_VALUES: u64 = 20;

/// Factor on a difference of grey relative to the mean difference.
const EDGE_SHARPNESS: f64 = 5.0;

/// Weights of the normalised channels in the grey value, in RGB order.
const GREY: [f32; 3] = [0.299, 0.587, 0.114];

/// Least probability of a cell's best class when the cell's hold on its own scores is computed.
const LEAST_CERTAINTY: f64 = 0.05;

/// Temperature of the likeness of texts to each other.
const TEXT_TEMPERATURE: f64 = 0.5;

/// Weight that is added to a text's likeness to itself.
const SELF_LIKENESS: f64 = 10.0;

/// Returns how many pixels are averaged into a cell along a side of `pixels` pixels, so that about `cells` cells
/// result. The ratio is rounded, halves to even, and at least 1. Pixels left over at the end are dropped.
pub(super) fn pixels_per_cell(pixels: i64, cells: u32) -> i64 {
    let ratio = pixels as f64 / f64::from(cells);
    (ratio.round_ties_even() as i64).max(1)
}

/// Returns the most cells of an image whose sides have about `cells`. A side below one and a half times `cells` has one
/// pixel per cell, and from there on two.
pub(super) fn most_cells(cells: u32) -> u64 {
    let side = (3 * u64::from(cells)).div_ceil(2) - 1;
    side * side
}

/// Returns about how many values the propagation of one query over so many cells computes.
pub(super) fn work(cells: u64) -> u64 {
    cells.saturating_mul(STEPS as u64 * STEP_VALUES)
}

/// Solves `(diag rho + L_a) X = rho Z` by conjugate gradients from `X = Z` in float32. `Z` are the cosines,
/// `[queries, rows, columns]`. The conductances `a` come from the colours of the normalised image,
/// `[3, rows, columns]`, and from the texts, `[queries, embedding]` of unit length.
///
/// # Errors
/// [`DenseError::Stopped`] when `stop` returns true.
pub(super) fn propagate(
    cosines: &Tensor,
    image: &Tensor,
    text: &Tensor,
    stop: &dyn Fn() -> bool,
) -> Result<Tensor, DenseError> {
    let [cosines, image, text] = [cosines, image, text].map(|part| part.to_kind(Kind::Float));
    let probabilities = cosines.softmax(0, Kind::Float); // without a temperature, as released
    let likeness = self_likeness(&text).view([-1, 1, 1]);
    let grey = (&image * Tensor::from_slice(&GREY).view([3, 1, 1]).to_device(image.device())).sum_dim_intlist(
        [0i64].as_slice(),
        false,
        Kind::Float,
    );
    let system = System {
        certainty: certainty(&probabilities, &likeness),
        // [rows, columns - 1] and [rows - 1, columns]
        conductance: AXES.map(|axis| conductance(&grey, &probabilities, &likeness, axis)),
    };
    system.solve(&cosines, stop)
}

/// The dimension of the rows and that of the columns, counted from the end.
const AXES: [i64; 2] = [-2, -1];

/// Returns the diagonal `G_qq` of `G = softmax(t t^T / 0.5) + 10 I`, whose rows are divided by their sums: `[queries]`.
fn self_likeness(text: &Tensor) -> Tensor {
    let likeness = (text.matmul(&text.transpose(0, 1)) / TEXT_TEMPERATURE).softmax(1, Kind::Float);
    (likeness.diagonal(0, 0, 1) + SELF_LIKENESS) / (1.0 + SELF_LIKENESS)
}

/// Computes `rho = max(max_q p, 0.05)^2 (1 + sum_q G_qq p_q^2)`, `[rows, columns]`. The sum is at most 1.
fn certainty(probabilities: &Tensor, likeness: &Tensor) -> Tensor {
    let best = probabilities.amax([0], false).clamp_min(LEAST_CERTAINTY);
    best.square() * (agreement(probabilities, probabilities, likeness) + 1.0)
}

/// Computes `sum_q G_qq p_q p'_q`, limited to 0 to 1.
fn agreement(one: &Tensor, other: &Tensor, likeness: &Tensor) -> Tensor {
    (one * other * likeness)
        .sum_dim_intlist([0i64].as_slice(), false, Kind::Float)
        .clamp(0.0, 1.0)
}

/// Computes `a = min(1, b (1 + sum_q G_qq p_iq p_jq))` with `b = exp(-5 |grey_i - grey_j| / mean)` between neighbours
/// along an axis. The mean is taken over all neighbours along that axis.
fn conductance(grey: &Tensor, probabilities: &Tensor, likeness: &Tensor, axis: i64) -> Tensor {
    let [grey, next_grey] = neighbours(grey, axis);
    let difference = (next_grey - grey).abs();
    // An image of one grey has no edges, and an image of a single row has no vertical neighbours.
    let mean = difference.mean(Kind::Float).nan_to_num(0.0, None, None);
    let by_colour = (difference * -EDGE_SHARPNESS / mean.clamp_min(f64::from(f32::MIN_POSITIVE))).exp();
    let [here, there] = neighbours(probabilities, axis);
    (by_colour * (agreement(&here, &there, likeness) + 1.0)).clamp_max(1.0)
}

/// Returns all cells except the last, and all cells except the first, along an axis.
fn neighbours(cells: &Tensor, axis: i64) -> [Tensor; 2] {
    let last = cells.size()[to_usize(to_i64(cells.dim()) + axis)] - 1;
    [cells.narrow(axis, 0, last), cells.narrow(axis, 1, last)]
}

/// A grid of cells, each drawn to its own scores and to those of its neighbours.
struct System {
    /// The certainty `rho`, `[rows, columns]`.
    certainty: Tensor,
    /// The conductance `a` to the next cell, along the rows' axis and the columns' axis.
    conductance: [Tensor; 2],
}

impl System {
    /// Solves the system for `[queries, rows, columns]`, starting from the scores. All queries share one step length.
    fn solve(&self, scores: &Tensor, stop: &dyn Fn() -> bool) -> Result<Tensor, DenseError> {
        let inner = |one: &Tensor, other: &Tensor| (one * other).sum(Kind::Float);
        // Constant scores solve the system before the first step, and the divisor is then zero.
        let ratio = |over: &Tensor, under: &Tensor| over / under.clamp_min(f64::from(f32::MIN_POSITIVE));
        let mut solution = scores.copy(); // changed in place, like the residual
        let mut residual = -self.laplacian(scores);
        let mut direction = residual.copy();
        let mut length = inner(&residual, &residual);
        for _ in 0..STEPS {
            go_on(stop)?;
            let image = &direction * &self.certainty + self.laplacian(&direction);
            let step = ratio(&length, &inner(&direction, &image));
            solution += &direction * &step;
            residual -= image * step;
            let next_length = inner(&residual, &residual);
            direction = &residual + direction * ratio(&next_length, &length);
            length = next_length;
        }
        Ok(solution)
    }

    /// Computes `sum_j a_ij (x_i - x_j)` over the four neighbours; keeps the shape `[queries, rows, columns]`.
    fn laplacian(&self, values: &Tensor) -> Tensor {
        let [down, right] = [0, 1].map(|index| {
            let [here, there] = neighbours(values, AXES[index]);
            (there - here) * &self.conductance[index]
        });
        // The cell behind an edge gains what flows over the edge, and the cell before it loses the same.
        let down = down.constant_pad_nd([0, 0, 1, 0]) - down.constant_pad_nd([0, 0, 0, 1]);
        let right = right.constant_pad_nd([1, 0]) - right.constant_pad_nd([0, 1]);
        down + right
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn noise(shape: &[i64], seed: f64) -> Tensor {
        let count: i64 = shape.iter().product();
        let angle = (Tensor::arange(count, (Kind::Double, Device::Cpu)) + 1.0) * seed;
        angle.sin().to_kind(Kind::Float).view(shape)
    }

    fn propagated(scores: &Tensor, image: &Tensor, text: &Tensor) -> Tensor {
        propagate(scores, image, text, &|| false).expect("nothing stops it")
    }

    fn largest_difference(one: &Tensor, other: &Tensor) -> f64 {
        (one - other).abs().max().double_value(&[])
    }

    #[test]
    fn an_image_is_averaged_to_about_as_many_cells_as_asked_for() {
        let cells = |pixels: i64, about: u32| pixels / pixels_per_cell(pixels, about);
        assert_eq!([500, 375, 30].map(|pixels| cells(pixels, 80)), [83, 75, 30]);
        assert_eq!([2048, 1024].map(|pixels| cells(pixels, 224)), [227, 204]);
        assert_eq!(pixels_per_cell(200, 80), 2); // 2.5, to even
        for about in [1, 7, 80, 224] {
            let most = (1..5000).map(|pixels| cells(pixels, about)).max().expect("some sizes");
            assert_eq!(most_cells(about), (most * most) as u64, "{about}");
        }
    }

    #[test]
    fn constant_scores_stay() {
        let scores = Tensor::from_slice(&[0.2f32, -0.1, 0.3])
            .view([3, 1, 1])
            .expand([3, 9, 7], false);
        let propagated = propagated(&scores, &noise(&[3, 9, 7], 12.9), &noise(&[3, 8], 7.3));
        assert!(largest_difference(&propagated, &scores) < 1e-6);
    }

    #[test]
    fn twenty_five_steps_solve_a_small_system() {
        let scores = noise(&[1, 4, 4], 12.9);
        let system = System {
            certainty: noise(&[4, 4], 3.1).abs() + 0.5,
            conductance: [noise(&[3, 4], 5.3).abs(), noise(&[4, 3], 1.7).abs()],
        };
        let solution = system.solve(&scores, &|| false).expect("nothing stops it");
        let found = &solution * &system.certainty + system.laplacian(&solution);
        assert!(largest_difference(&found, &(scores * &system.certainty)) < 1e-5);
    }

    #[test]
    fn scores_flow_within_a_colour_and_not_over_its_edge() {
        // Both halves are uniform except for a little noise. One cell of the left half is certain of the first query.
        let columns = Tensor::arange(16, (Kind::Float, Device::Cpu)).expand([3, 8, 16], false);
        let image = columns.ge(8.0).to_kind(Kind::Float) * 4.0 + noise(&[3, 8, 16], 12.9) * 0.01;
        let scores = Tensor::zeros([2, 8, 16], (Kind::Float, Device::Cpu));
        let _ = scores.get(0).get(4).narrow(0, 6, 1).fill_(1.0);
        let propagated = propagated(&scores, &image, &noise(&[2, 8], 7.3)).get(0).get(4);
        let [inside, outside] = [4, 9].map(|column| propagated.double_value(&[column]));
        assert!(inside > 0.05 && outside < 0.001, "{inside} inside, {outside} outside");
    }

    #[test]
    fn a_row_of_cells_and_a_grey_image_are_no_trouble() {
        let scores = noise(&[2, 1, 5], 12.9);
        let propagated = propagated(
            &scores,
            &Tensor::zeros([3, 1, 5], (Kind::Float, Device::Cpu)),
            &noise(&[2, 4], 7.3),
        );
        assert!(bool::try_from(propagated.isfinite().all()).expect("one truth"));
    }
}
