//! Small helpers that belong to no room: a cache with a limit in bytes, seeded random numbers, digests as text,
//! conversions of lengths, and checks of settings.

mod byte_lru;
mod hexadecimal;
mod lengths;
mod random;
mod settings;

pub(crate) use byte_lru::ByteLru;
pub(crate) use hexadecimal::hexadecimal;
pub(crate) use lengths::{to_i64, to_usize};
pub(crate) use random::Random;
pub use settings::OutOfRange;
pub(crate) use settings::{at_least_one, in_range};
