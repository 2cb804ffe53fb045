//! Sixteen pixels at a time: the numbers in loops over pixels.
//!
//! The code is plain arrays and plain loops, which the compiler turns into vectors as wide as [`super::instructions`]
//! allows. All functions are inlined wherever they are called, because a function of its own would have the width of
//! every processor.

/// Number of pixels processed at a time: the number of floats in the widest vector.
pub(super) const LANES: usize = 16;

/// A number for each of [`LANES`] neighbouring pixels, aligned as the widest loads and stores need it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(64))]
pub(super) struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// Returns the same number for every pixel.
    #[inline(always)]
    pub const fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    /// Applies `f` to the number of every pixel.
    #[inline(always)]
    pub fn map(self, f: impl Fn(f32) -> f32) -> Self {
        self.zip(self, |value, _| f(value))
    }

    /// Applies `f` to the two numbers of every pixel.
    #[inline(always)]
    pub fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        // The loop is deliberate: functions that build arrays may not be inlined.
        let mut result = self;
        for lane in 0..LANES {
            result.0[lane] = f(self.0[lane], other.0[lane]);
        }
        result
    }

    /// Returns the larger of the two numbers of every pixel, or that of `self` where the other is not a number.
    #[inline(always)]
    pub fn max(self, other: Self) -> Self {
        self.zip(other, |own, other| if other > own { other } else { own })
    }

    /// Returns the largest number of all pixels.
    pub fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// Computes `a * b + c`, in one step where the processor can (`FUSED`). Elsewhere, `mul_add` would call a function.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// The power at which [`exp_of_difference`] stops falling: 2 to this power is the smallest float of full precision.
const SMALLEST_POWER: f32 = -126.0;

/// Adding this to a float of moderate size and subtracting it again leaves the nearest integer. Before the subtraction,
/// the integer stands in the lowest bits.
const ROUNDING: f32 = 1.5 * (1 << 23) as f32;

/// Computes `exp(difference)` of a number that is at most 0 or not a number.
///
/// The relative error is below 3e-7 plus 1e-7 times the difference, so the absolute error is at most 4e-7. Differences
/// below -87.3 give 1.2e-38 instead of less.
#[inline(always)]
pub(super) fn exp_of_difference<const FUSED: bool>(difference: f32) -> f32 {
    let power = difference * std::f32::consts::LOG2_E;
    // In this order, a number that is not a number stays so.
    let power = if power < SMALLEST_POWER { SMALLEST_POWER } else { power };
    let shifted = power + ROUNDING;
    let rest = power - (shifted - ROUNDING);
    // 2^rest for -1/2 to 1/2 by the polynomial of degree 5 through (0, 1) with the least maximal relative error,
    // 9.2e-8.
    #[allow(clippy::approx_constant)] // The coefficient is near ln 2 but not ln 2.
    let coefficients = [
        0.001_326_472_8,
        0.009_671_513,
        0.055_507_336,
        0.240_222_42,
        0.693_147,
        1.0,
    ];
    let two_to_rest = coefficients
        .into_iter()
        .fold(0.0, |sum, coefficient| multiply_add::<FUSED>(sum, rest, coefficient));
    // The integer is added to the exponent of the float.
    f32::from_bits(two_to_rest.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_error_is_as_stated<const FUSED: bool>() {
        for step in 0..2_000_000 {
            let difference = -(step as f32) * (87.3 / 2_000_000.0);
            let exact = f64::from(difference).exp();
            let error = (f64::from(exp_of_difference::<FUSED>(difference)) - exact).abs();
            let stated = exact * (3e-7 + 1e-7 * f64::from(-difference));
            assert!(error <= stated && error < 4e-7, "exp({difference}) is off by {error}");
        }
    }

    #[test]
    fn the_exponential_is_as_exact_as_stated() {
        assert_error_is_as_stated::<true>();
        assert_error_is_as_stated::<false>();
    }

    #[test]
    fn the_exponential_of_nothing_is_one_and_of_the_far_below_almost_nothing() {
        assert_eq!(exp_of_difference::<false>(0.0), 1.0);
        assert_eq!(exp_of_difference::<false>(-0.0), 1.0);
        for difference in [-87.4, -10_000.0, f32::NEG_INFINITY] {
            assert_eq!(exp_of_difference::<false>(difference), f32::MIN_POSITIVE);
        }
        assert!(exp_of_difference::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn what_is_not_a_number_is_never_larger() {
        let some = Lanes::splat(1.0);
        assert_eq!(some.max(Lanes::splat(f32::NAN)), some);
        assert_eq!(some.max(Lanes::splat(2.0)).largest(), 2.0);
    }
}
