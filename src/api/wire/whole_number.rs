//! Whole numbers, in any of the forms that JSON Schema calls an integer.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// A whole number of 32 bits. JSON has one kind of number, so `112.0` is the number `112`: a client that divides a side by two
/// sends the first.
struct WholeNumber(u32);

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl Visitor<'_> for Forms {
            type Value = WholeNumber;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a whole number from 0 to {}", u32::MAX)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<WholeNumber, E> {
                let refused = || E::invalid_value(Unexpected::Unsigned(number), &self);
                number.try_into().map(WholeNumber).map_err(|_| refused())
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<WholeNumber, E> {
                let refused = || E::invalid_value(Unexpected::Signed(number), &self);
                number.try_into().map(WholeNumber).map_err(|_| refused())
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<WholeNumber, E> {
                let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
                if is_whole {
                    Ok(WholeNumber(number as u32))
                } else {
                    Err(E::invalid_value(Unexpected::Float(number), &self))
                }
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

/// Reads a whole number of 32 bits, for `#[serde(deserialize_with)]`.
pub fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    WholeNumber::deserialize(deserializer).map(|WholeNumber(number)| number)
}

/// Reads a whole number of 32 bits or null, for `#[serde(default, deserialize_with)]`.
pub fn optional_whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = Option::<WholeNumber>::deserialize(deserializer)?;
    Ok(number.map(|WholeNumber(number)| number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Option<u32>, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        optional_whole_number(&mut deserializer).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction_of_zero() {
        for (json, number) in [
            ("112", 112),
            ("112.0", 112),
            ("1.12e2", 112),
            ("0", 0),
            ("4294967295.0", u32::MAX),
        ] {
            assert_eq!(read(json), Ok(Some(number)), "{json}");
        }
        assert_eq!(read("null"), Ok(None));
    }

    #[test]
    fn everything_else_is_refused_in_words() {
        for json in [
            "112.5",
            "-1",
            "-1.0",
            "4294967296",
            "4294967296.0",
            "1e300",
            "\"112\"",
            "[112]",
        ] {
            let error = read(json).expect_err(json);
            assert!(
                error.contains("expected a whole number from 0 to 4294967295"),
                "{json}: {error}"
            );
        }
    }
}
