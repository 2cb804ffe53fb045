//! Small things that no room owns: a cache that is bounded in bytes, seeded random numbers, digits of digests.

mod byte_lru;
mod hexadecimal;
mod lengths;
mod names;
mod random;
mod settings;

pub(crate) use byte_lru::ByteLru;
pub(crate) use hexadecimal::hexadecimal;
pub(crate) use lengths::{to_i64, to_usize};
pub(crate) use names::named;
pub(crate) use random::Random;
pub use settings::OutOfRange;
pub(crate) use settings::{at_least_one, in_range};
