//! Values of enumerations by their names.

use std::str::FromStr;

use strum::VariantNames;

/// The value of an enumeration that has this name.
///
/// # Errors
/// When no value has the name. The text lists the names that there are.
pub(crate) fn named<T: FromStr + VariantNames>(name: &str) -> Result<T, String> {
    name.parse()
        .map_err(|_| format!("there is no {name}: {}", T::VARIANTS.join(", ")))
}
