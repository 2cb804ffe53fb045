//! Noise on each value, drawn independently pixel by pixel for each channel.

use super::Pixels;
use crate::support::Random;

/// Adds normal noise of this standard deviation.
pub(super) fn gaussian(pixels: &Pixels, deviation: f64, random: &mut Random) -> Pixels {
    pixels.map(|value| value + deviation * random.normal())
}

/// Simulates the counting of photons. White is `photons` photons.
pub(super) fn shot(pixels: &Pixels, photons: f64, random: &mut Random) -> Pixels {
    pixels.map(|value| f64::from(random.poisson(value * photons)) / photons)
}

/// Makes the share `part` of the values black or white, half of it each, like scikit-image's
/// `random_noise(mode="s&p")`.
pub(super) fn impulse(pixels: &Pixels, part: f64, random: &mut Random) -> Pixels {
    pixels.map(|&value| {
        if random.uniform() >= part {
            value
        } else if random.uniform() < 0.5 {
            1.0
        } else {
            0.0
        }
    })
}

/// Adds normal noise of this standard deviation times the value.
pub(super) fn speckle(pixels: &Pixels, deviation: f64, random: &mut Random) -> Pixels {
    pixels.map(|value| value + value * deviation * random.normal())
}
