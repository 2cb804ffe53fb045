//! Look-up of enumeration values by their names.

use std::str::FromStr;

use strum::VariantNames;

use super::excerpt;

/// Returns the value of an enumeration that has the given name.
///
/// # Errors
/// Fails when no value has the name. The message lists the valid names.
pub(crate) fn named<T: FromStr + VariantNames>(name: &str) -> Result<T, String> {
    name.parse()
        .map_err(|_| format!("there is no {}: {}", excerpt(name), T::VARIANTS.join(", ")))
}
