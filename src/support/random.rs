//! Random numbers that are the same on every machine and in every version of this program.
//!
//! The project has its own generator, because crates for random numbers reserve the right to change their streams. It
//! is xoshiro256++ (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators", 2021), seeded by a digest of
//! a text.

use sha2::{Digest, Sha256};

/// A stream of random numbers.
pub(crate) struct Random([u64; 4]);

impl Random {
    /// Starts the stream that belongs to a text.
    pub fn seeded(text: &str) -> Self {
        let digest = Sha256::digest(text);
        let mut words = digest.chunks_exact(8);
        Self(std::array::from_fn(|_| {
            let word = words.next().expect("a digest has four words");
            u64::from_le_bytes(word.try_into().expect("a word has eight bytes"))
        }))
    }

    fn next(&mut self) -> u64 {
        let Self(state) = self;
        let result = state[0].wrapping_add(state[3]).rotate_left(23).wrapping_add(state[0]);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// Returns a number drawn uniformly from 0 to 1, without 1.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number from the normal distribution with mean 0 and standard deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Returns a number from the Poisson distribution (Knuth's product of uniform numbers). `mean` is at most some
    /// hundreds.
    pub fn poisson(&mut self, mean: f64) -> u32 {
        let limit = (-mean).exp();
        let mut product = self.uniform();
        let mut count = 0;
        while product > limit {
            product *= self.uniform();
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 200_000;

    /// Returns the mean and variance of many draws.
    fn moments(mut draw: impl FnMut(&mut Random) -> f64) -> (f64, f64) {
        let mut random = Random::seeded("moments");
        let draws: Vec<f64> = (0..COUNT).map(|_| draw(&mut random)).collect();
        let mean = draws.iter().sum::<f64>() / COUNT as f64;
        let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / COUNT as f64;
        (mean, variance)
    }

    /// Asserts that the mean is within five standard errors and the variance within 3 % of the expected value.
    fn assert_moments((mean, variance): (f64, f64), expected_mean: f64, expected_variance: f64) {
        let error = 5.0 * (expected_variance / COUNT as f64).sqrt();
        assert!((mean - expected_mean).abs() < error, "mean {mean}");
        assert!((variance / expected_variance - 1.0).abs() < 0.03, "variance {variance}");
    }

    #[test]
    fn the_distributions_have_their_moments() {
        assert_moments(moments(Random::uniform), 0.5, 1.0 / 12.0);
        assert_moments(moments(Random::normal), 0.0, 1.0);
        for mean in [0.4, 3.0, 60.0] {
            assert_moments(moments(|random| random.poisson(mean).into()), mean, mean);
        }
    }

    /// The expected numbers are those of the authors' xoshiro256plusplus.c from the state 1, 2, 3, 4.
    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = Random([1, 2, 3, 4]);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223]);
    }

    #[test]
    fn another_text_is_another_stream() {
        let first = |text| Random::seeded(text).next();
        assert_eq!(first("a"), first("a"));
        assert_ne!(first("a"), first("b"));
    }
}
