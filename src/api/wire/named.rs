//! Enumerations from their names.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::Deserializer;
use serde::de::{Error, Visitor};
use strum::VariantNames;

/// Reads an enumeration from the name of a variant. The code that serde derives takes an object, too, and has serde_json
/// take a number for broken JSON.
pub(super) fn named<'de, D: Deserializer<'de>, T: FromStr + VariantNames>(deserializer: D) -> Result<T, D::Error> {
    struct Names<T>(PhantomData<T>);

    impl<T: FromStr + VariantNames> Visitor<'_> for Names<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "one of {}", T::VARIANTS.join(", "))
        }

        fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
            name.parse().map_err(|_| E::unknown_variant(name, T::VARIANTS))
        }
    }

    deserializer.deserialize_str(Names(PhantomData))
}
